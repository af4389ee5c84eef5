"""What the handlers of the HTTP API share: the services, and this broker's identity."""

from collections.abc import Callable
from dataclasses import dataclass

from aiohttp import web

from ottla_broker.drivers.controller_client import ControllerClient
from ottla_broker.drivers.controller_driver import ControllerDriver
from ottla_broker.drivers.metadata import MetadataCache
from ottla_broker.drivers.peer_client import PeerClient
from ottla_broker.drivers.purgatory import Purgatory
from ottla_broker.drivers.raft_driver import RaftDriver
from ottla_broker.http.inflight import InflightBytes
from ottla_broker.services.batch_fetch import BatchFetchService
from ottla_broker.services.broker_drains import BrokerDrainService
from ottla_broker.services.cluster_health import ClusterHealthService
from ottla_broker.services.coordinator_calls import CoordinatorCalls
from ottla_broker.services.features import FeatureService
from ottla_broker.services.following import FollowService
from ottla_broker.services.group_lags import GroupLags
from ottla_broker.services.group_poll import GroupPollService
from ottla_broker.services.groups import GroupService
from ottla_broker.services.hanging_transactions import HangingTransactions
from ottla_broker.services.idempotency import IdempotencyService
from ottla_broker.services.introductions import IntroductionService
from ottla_broker.services.many_topics_produce import ManyTopicsProduceService
from ottla_broker.services.metadata_tree import MetadataTreeService
from ottla_broker.services.open_transactions import OpenTransactionService
from ottla_broker.services.partition_bounds import PartitionBoundsService
from ottla_broker.services.produce import ProduceService
from ottla_broker.services.producer_ids import ProducerIds
from ottla_broker.services.quorum import QuorumService
from ottla_broker.services.reassignments import ReassignmentService
from ottla_broker.services.record_appends import RecordAppendService
from ottla_broker.services.record_produce import RecordProduceService
from ottla_broker.services.record_read import RecordReadService
from ottla_broker.services.replication import ReplicationService
from ottla_broker.services.rest_consumers import RestConsumerService
from ottla_broker.services.restores import RestoreService
from ottla_broker.services.segment_inspection import SegmentInspectionService
from ottla_broker.services.stream_produce import StreamProduceService
from ottla_broker.services.topic_read import TopicReadService
from ottla_broker.services.topics import TopicService
from ottla_broker.services.transaction_calls import TransactionCalls
from ottla_broker.services.transaction_markers import TransactionMarkerService
from ottla_broker.services.transactions import TransactionService
from ottla_broker.services.trims import TrimService
from ottla_broker.settings import Settings
from ottla_broker.site_policy import SitePolicy
from ottla_protocol.models import Readiness


@dataclass(frozen=True, slots=True)
class BrokerContext:
    """Everything that a handler may call."""

    settings: Settings
    site: SitePolicy
    metadata: MetadataCache
    peers: PeerClient
    raft: RaftDriver
    controller: ControllerDriver
    controller_client: ControllerClient
    topics: TopicService
    cluster_health: ClusterHealthService
    metadata_tree: MetadataTreeService
    produce: ProduceService
    record_produce: RecordProduceService
    many_topics_produce: ManyTopicsProduceService
    record_appends: RecordAppendService
    stream_produce: StreamProduceService
    record_read: RecordReadService
    topic_read: TopicReadService
    following: FollowService
    batch_fetch: BatchFetchService
    replication: ReplicationService
    idempotency: IdempotencyService
    producer_ids: ProducerIds
    features: FeatureService
    drains: BrokerDrainService
    quorum: QuorumService
    introductions: IntroductionService
    reassignments: ReassignmentService
    coordinator_calls: CoordinatorCalls
    transaction_calls: TransactionCalls
    transaction_markers: TransactionMarkerService
    transactions: TransactionService
    open_transactions: OpenTransactionService
    hanging_transactions: HangingTransactions
    partition_bounds: PartitionBoundsService
    groups: GroupService
    group_lags: GroupLags
    group_polls: GroupPollService
    rest_consumers: RestConsumerService
    segments: SegmentInspectionService
    restores: RestoreService
    trims: TrimService
    inflight: InflightBytes
    """Produce bodies."""
    other_bodies: InflightBytes
    """All other bodies of clients."""
    unsent: InflightBytes
    """Large answers that clients have not taken."""
    purgatory: Purgatory
    readiness: Callable[[], Readiness]
    has_started: Callable[[], bool]
    measure_gauges: Callable[[], None]
    """Brings the gauges up to date that are sampled when somebody asks for them."""


CONTEXT = web.AppKey("context", BrokerContext)


def context_of(request: web.Request) -> BrokerContext:
    """The broker that serves `request`."""
    return request.app[CONTEXT]
