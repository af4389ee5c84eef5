"""How the services of one process are put together on top of its drivers.

Half of the composition root: `app` makes the drivers, which have a life, and this the services,
which have none.
"""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random, SystemRandom

from ottla_broker.drivers.controller_client import ControllerClient
from ottla_broker.drivers.controller_driver import ControllerDriver
from ottla_broker.drivers.controller_tenure import ControllerTenure
from ottla_broker.drivers.group_coordinators import GroupCoordinators
from ottla_broker.drivers.marker_appends import MarkerAppends
from ottla_broker.drivers.metadata import MetadataCache
from ottla_broker.drivers.peer_client import PeerClient
from ottla_broker.drivers.purgatory import Purgatory
from ottla_broker.drivers.raft_driver import RaftDriver
from ottla_broker.drivers.replica_copies import ReplicaCopies
from ottla_broker.drivers.replica_manager import ReplicaManager
from ottla_broker.drivers.transaction_coordinators import TransactionCoordinators
from ottla_broker.http.context import BrokerContext
from ottla_broker.http.inflight import OTHER_BODIES_BYTES_MAX, InflightBytes
from ottla_broker.services.batch_fetch import BatchFetchService
from ottla_broker.services.broker_drains import BrokerDrainService
from ottla_broker.services.cluster_health import ClusterHealthService
from ottla_broker.services.controller_commands import ControllerCommands
from ottla_broker.services.coordinator_calls import CoordinatorCalls
from ottla_broker.services.features import FeatureService
from ottla_broker.services.following import FollowService
from ottla_broker.services.forwarder import ProduceForwarder
from ottla_broker.services.group_lags import GroupLags
from ottla_broker.services.group_poll import GroupPollService
from ottla_broker.services.groups import GroupService
from ottla_broker.services.hanging_transactions import HangingTransactions
from ottla_broker.services.idempotency import IdempotencyService
from ottla_broker.services.introductions import IntroductionService
from ottla_broker.services.leader_reads import LeaderReads
from ottla_broker.services.many_topics_produce import ManyTopicsProduceService
from ottla_broker.services.metadata_tree import MetadataTreeService
from ottla_broker.services.open_transactions import OpenTransactionService, hanging_after_ms
from ottla_broker.services.partition_bounds import PartitionBoundsService
from ottla_broker.services.poll_positions import PollPositions
from ottla_broker.services.produce import ProduceService
from ottla_broker.services.producer_ids import ProducerIds
from ottla_broker.services.quorum import QuorumService
from ottla_broker.services.reassignments import ReassignmentService
from ottla_broker.services.record_appends import RecordAppendService
from ottla_broker.services.record_gathering import RecordGathering
from ottla_broker.services.record_produce import RecordProduceService
from ottla_broker.services.record_read import RecordReadService
from ottla_broker.services.replication import ReplicationService
from ottla_broker.services.rest_consumer_reads import ConsumerReads
from ottla_broker.services.rest_consumers import RestConsumerService
from ottla_broker.services.restores import RestoreService
from ottla_broker.services.segment_inspection import SegmentInspectionService
from ottla_broker.services.stream_produce import StreamProduceService
from ottla_broker.services.topic_positions import TopicPositions
from ottla_broker.services.topic_read import TopicReadService
from ottla_broker.services.topics import TopicService
from ottla_broker.services.transaction_calls import TransactionCalls
from ottla_broker.services.transaction_markers import TransactionMarkerService
from ottla_broker.services.transaction_offsets import TransactionOffsets
from ottla_broker.services.transactions import TransactionService
from ottla_broker.services.trims import TrimService
from ottla_broker.settings import Settings
from ottla_broker.telemetry import METRICS
from ottla_protocol.models import Readiness


@dataclass(frozen=True, slots=True)
class Drivers:
    """What services are made of."""

    metadata: MetadataCache
    peers: PeerClient
    raft: RaftDriver
    controller: ControllerDriver
    controller_client: ControllerClient
    commands: ControllerCommands
    replicas: ReplicaManager
    coordinators: GroupCoordinators
    transactions: TransactionCoordinators
    marker_appends: MarkerAppends
    purgatory: Purgatory
    producer_ids: ProducerIds
    tenure: ControllerTenure
    readiness: Callable[[], Readiness]
    has_started: Callable[[], bool]
    measure_gauges: Callable[[], None]
    lease_confirmed_at_ms: Callable[[], int | None]


def wire_services(settings: Settings, drivers: Drivers) -> BrokerContext:
    """What the handlers of the HTTP API share."""
    topics = TopicService(
        metadata=drivers.metadata,
        controller=drivers.controller_client,
        commands=drivers.commands,
        raft=drivers.raft,
    )
    transaction_calls = TransactionCalls(
        node_id=settings.node_id,
        partitions=settings.transaction_state_partitions,
        metadata=drivers.metadata,
        controller=drivers.controller_client,
        commands=drivers.commands,
        coordinators=drivers.transactions,
        peers=drivers.peers,
    )
    forwarder = ProduceForwarder(metadata=drivers.metadata, peers=drivers.peers)
    produce = ProduceService(
        node_id=settings.node_id,
        metadata=drivers.metadata,
        replicas=drivers.replicas,
        forwarder=forwarder,
        purgatory=drivers.purgatory,
        coordinator=transaction_calls,
    )
    idempotency = IdempotencyService(
        node_id=settings.node_id,
        metadata=drivers.metadata,
        replicas=drivers.replicas,
        peers=drivers.peers,
    )
    record_produce = RecordProduceService(
        topics=topics,
        produce=produce,
        idempotency=idempotency,
        gathering=RecordGathering(
            node_id=settings.node_id,
            produce=produce,
            forwarder=forwarder,
            purgatory=drivers.purgatory,
        ),
    )
    calls = CoordinatorCalls(
        node_id=settings.node_id,
        offsets_partitions=settings.offsets_partitions,
        metadata=drivers.metadata,
        controller=drivers.controller_client,
        commands=drivers.commands,
        coordinators=drivers.coordinators,
        peers=drivers.peers,
        purgatory=drivers.purgatory,
        transaction_offsets=TransactionOffsets(
            metadata=drivers.metadata,
            coordinators=drivers.coordinators,
            transactions=transaction_calls,
        ),
    )
    transaction_markers = TransactionMarkerService(
        node_id=settings.node_id,
        metadata=drivers.metadata,
        peers=drivers.peers,
        appends=drivers.marker_appends,
    )
    bounds = PartitionBoundsService(
        node_id=settings.node_id,
        metadata=drivers.metadata,
        replicas=drivers.replicas,
        peers=drivers.peers,
    )
    groups = GroupService(metadata=drivers.metadata, topics=topics, calls=calls, bounds=bounds)
    transactions = TransactionService(
        calls=transaction_calls, groups=groups, config=settings.transaction_config
    )
    batch_fetch = BatchFetchService(drivers.replicas, drivers.purgatory)
    reads = LeaderReads(
        node_id=settings.node_id,
        metadata=drivers.metadata,
        peers=drivers.peers,
        batch_fetch=batch_fetch,
        purgatory=drivers.purgatory,
        random=Random(SystemRandom().getrandbits(64)),
    )
    topic_positions = TopicPositions(
        topics=topics,
        controller=drivers.controller_client,
        bounds=bounds,
    )
    group_polls = GroupPollService(
        calls=calls,
        reads=reads,
        positions=PollPositions(calls=calls, bounds=bounds, metadata=drivers.metadata),
        purgatory=drivers.purgatory,
    )
    secret = settings.cluster_secret
    introductions = IntroductionService(
        node_id=settings.node_id,
        is_controller=settings.is_controller,
        url=settings.url,
        cluster_id=settings.cluster_id,
        cluster_secret=None if secret is None else secret.get_secret_value(),
        peers=drivers.peers,
    )
    copies = ReplicaCopies(drivers.metadata, drivers.replicas)
    return BrokerContext(
        settings=settings,
        metadata=drivers.metadata,
        peers=drivers.peers,
        raft=drivers.raft,
        controller=drivers.controller,
        controller_client=drivers.controller_client,
        topics=topics,
        metadata_tree=MetadataTreeService(
            metadata=drivers.metadata,
            controller=drivers.controller_client,
            raft=drivers.raft,
            tenure=drivers.tenure,
            calls=calls,
        ),
        cluster_health=ClusterHealthService(
            node_id=settings.node_id,
            metadata=drivers.metadata,
            controller=drivers.controller_client,
            raft=drivers.raft,
            replicas=drivers.replicas,
            peers=drivers.peers,
            readiness=drivers.readiness,
            confirmed_at_ms=drivers.lease_confirmed_at_ms,
        ),
        produce=produce,
        record_produce=record_produce,
        many_topics_produce=ManyTopicsProduceService(record_produce),
        record_appends=RecordAppendService(topics=topics, produce=record_produce),
        stream_produce=StreamProduceService(
            metadata=drivers.metadata,
            topics=topics,
            record_produce=record_produce,
            idempotency=idempotency,
        ),
        record_read=RecordReadService(drivers.replicas, drivers.purgatory),
        topic_read=TopicReadService(
            positions=topic_positions, reads=reads, purgatory=drivers.purgatory
        ),
        following=FollowService(
            positions=topic_positions,
            reads=reads,
            metadata=drivers.metadata,
            purgatory=drivers.purgatory,
            max_followers=settings.max_followers,
            buffer_bytes=settings.follower_buffer_bytes,
            keep_alive_ms=settings.follower_keep_alive_ms,
        ),
        batch_fetch=batch_fetch,
        replication=ReplicationService(
            drivers.replicas, drivers.purgatory, copies, Random(SystemRandom().getrandbits(64))
        ),
        idempotency=idempotency,
        producer_ids=drivers.producer_ids,
        drains=BrokerDrainService(metadata=drivers.metadata, commands=drivers.commands),
        features=FeatureService(
            node_id=settings.node_id,
            is_controller=settings.is_controller,
            metadata=drivers.metadata,
            commands=drivers.commands,
            peers=drivers.peers,
            member_urls=lambda: drivers.raft.member_urls,
        ),
        quorum=QuorumService(
            node_id=settings.node_id,
            metadata=drivers.metadata,
            raft=drivers.raft,
            peers=drivers.peers,
            introductions=introductions,
        ),
        introductions=introductions,
        reassignments=ReassignmentService(
            node_id=settings.node_id,
            metadata=drivers.metadata,
            commands=drivers.commands,
            copies=copies,
            peers=drivers.peers,
        ),
        coordinator_calls=calls,
        transaction_calls=transaction_calls,
        transaction_markers=transaction_markers,
        transactions=transactions,
        open_transactions=OpenTransactionService(
            node_id=settings.node_id,
            metadata=drivers.metadata,
            topics=topics,
            replicas=drivers.replicas,
            peers=drivers.peers,
            known=transactions,
            markers=transaction_markers,
            config=settings.transaction_config,
        ),
        hanging_transactions=HangingTransactions(
            replicas=drivers.replicas,
            groups=drivers.coordinators,
            known=transactions,
            markers=transaction_markers,
            hanging_after_ms=hanging_after_ms(settings.transaction_config),
        ),
        partition_bounds=bounds,
        groups=groups,
        group_lags=GroupLags(
            coordinators=drivers.coordinators, metadata=drivers.metadata, bounds=bounds
        ),
        group_polls=group_polls,
        rest_consumers=RestConsumerService(
            node_id=settings.node_id,
            idle_timeout_ms=settings.rest_instance_timeout_ms,
            metadata=drivers.metadata,
            calls=calls,
            bounds=bounds,
            reads=ConsumerReads(
                calls=calls,
                bounds=bounds,
                reads=reads,
                purgatory=drivers.purgatory,
            ),
        ),
        segments=SegmentInspectionService(
            node_id=settings.node_id,
            metadata=drivers.metadata,
            topics=topics,
            replicas=drivers.replicas,
            peers=drivers.peers,
            purgatory=drivers.purgatory,
        ),
        restores=RestoreService(
            metadata=drivers.metadata,
            commands=drivers.commands,
            replicas=drivers.replicas,
            purgatory=drivers.purgatory,
        ),
        trims=TrimService(
            node_id=settings.node_id,
            metadata=drivers.metadata,
            topics=topics,
            replicas=drivers.replicas,
            commands=drivers.commands,
            peers=drivers.peers,
            purgatory=drivers.purgatory,
        ),
        site=settings.site_policy,
        inflight=InflightBytes(settings.max_inflight_produce_bytes),
        other_bodies=InflightBytes(
            OTHER_BODIES_BYTES_MAX, "bodies that are no produce", METRICS.inflight_other_bytes
        ),
        unsent=InflightBytes(
            settings.max_unsent_answer_bytes,
            "answers that clients do not take (max_unsent_answer_bytes)",
            METRICS.unsent_answer_bytes,
        ),
        purgatory=drivers.purgatory,
        readiness=drivers.readiness,
        has_started=drivers.has_started,
        measure_gauges=drivers.measure_gauges,
    )
