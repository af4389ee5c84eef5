"""`/internal/`: what brokers of one cluster say to one another.

Every call must name the same cluster, and carry the cluster secret where one is set; but for
introductions, by which two nodes make sure of each other before either tells it.
"""

import msgspec

from ottla_broker.drivers.peer_messages import (
    CommitVersion,
    CoordinatorCall,
    IdempotencyLookup,
    IntroductionRequest,
    OpenTransactionLookup,
    PartitionName,
    QuorumCall,
    ReplicaFetchRequest,
    SegmentListCall,
    SegmentVerificationCall,
    TimestampLookup,
    TrimCall,
    UnreachableBroker,
    WriteMarkers,
    encode_fetch_answer,
)
from ottla_broker.http.admission import admit_member, admit_namesake
from ottla_broker.http.binary import decode, produce_answer
from ottla_broker.http.context import BrokerContext
from ottla_broker.http.post import (
    NO_CONTENT,
    Answer,
    Post,
    PostHandler,
    PostRoute,
    msgpack_answer,
)
from ottla_broker.services.coordinator_calls import CoordinatorCalls
from ottla_broker.services.forwarder import MAX_BYTES_PER_FORWARD
from ottla_broker.services.produce_options import ProduceOptions
from ottla_broker.services.transaction_calls import TransactionCalls
from ottla_broker.settings import Settings
from ottla_cluster.controller.commands import decode_command
from ottla_cluster.raft.messages import ObserveRequest, decode_messages
from ottla_protocol import routes
from ottla_protocol.errors import (
    OttlaError,
    Outcome,
)
from ottla_protocol.models import BinaryProduceRequest

MAX_RAFT_BODY_BYTES = 64 << 20
MAX_COMMAND_BYTES = 4 << 20
MAX_FETCH_REQUEST_BYTES = 16 << 20
MAX_INTRODUCTION_BYTES = 4 << 10

_produce_decoder = msgspec.msgpack.Decoder(BinaryProduceRequest)
_fetch_decoder = msgspec.msgpack.Decoder(ReplicaFetchRequest)
_unreachable_decoder = msgspec.msgpack.Decoder(UnreachableBroker)
_lookup_decoder = msgspec.msgpack.Decoder(IdempotencyLookup)
_coordinator_call_decoder = msgspec.msgpack.Decoder(CoordinatorCall)
_markers_decoder = msgspec.msgpack.Decoder(WriteMarkers)
_timestamps_decoder = msgspec.msgpack.Decoder(TimestampLookup)
_open_transactions_decoder = msgspec.msgpack.Decoder(OpenTransactionLookup)
_trim_decoder = msgspec.msgpack.Decoder(TrimCall)
_segments_decoder = msgspec.msgpack.Decoder(SegmentListCall)
_verification_decoder = msgspec.msgpack.Decoder(SegmentVerificationCall)
_quorum_decoder = msgspec.msgpack.Decoder(QuorumCall)
_introduction_decoder = msgspec.msgpack.Decoder(IntroductionRequest)
_partitions_decoder = msgspec.msgpack.Decoder(list[PartitionName])


async def raft(context: BrokerContext, post: Post) -> Answer:
    """Messages from another node; one that observes and looks for the leader is told of it."""
    messages = decode_messages(bytes(post.body))
    context.raft.receive(messages)
    leader = context.raft.known_leader
    if leader is not None and any(isinstance(message, ObserveRequest) for message in messages):
        return msgpack_answer(leader)
    return NO_CONTENT


async def controller(context: BrokerContext, post: Post) -> Answer:
    """A command for the active controller."""
    return msgpack_answer(await context.controller.execute(decode_command(bytes(post.body))))


async def commit_version(context: BrokerContext, _: Post) -> Answer:
    """What the active controller knows to be committed."""
    return msgpack_answer(CommitVersion(await context.controller.commit_version()))


async def quorum(context: BrokerContext, post: Post) -> Answer:
    """What an operator asks of the quorum, whose leader this is."""
    return msgpack_answer(await context.quorum.call_here(decode(_quorum_decoder, post.body)))


async def introduction(context: BrokerContext, post: Post) -> Answer:
    """Who this node is, for one that makes sure before it tells the cluster's secret."""
    request = decode(_introduction_decoder, post.body)
    return msgpack_answer(await context.introductions.answer(request))


async def unreachable_broker(context: BrokerContext, post: Post) -> Answer:
    """A peer was refused a connection to some broker."""
    report = decode(_unreachable_decoder, post.body)
    context.controller.report_unreachable(report.node_id, report.broker_epoch)
    return NO_CONTENT


async def feature_levels(context: BrokerContext, _: Post) -> Answer:
    """What this process supports."""
    return msgpack_answer(context.features.supported_here())


async def replica_copies(context: BrokerContext, _: Post) -> Answer:
    """How far the replicas are that are being added to partitions led here."""
    return msgpack_answer(context.reassignments.copies_here())


async def node_report(context: BrokerContext, _: Post) -> Answer:
    """What this node tells of itself when somebody asks for the cluster's health."""
    return msgpack_answer(context.cluster_health.report())


async def fetch(context: BrokerContext, post: Post) -> Answer:
    """A follower's fetch."""
    session_id, results = await context.replication.fetch(decode(_fetch_decoder, post.body))
    return Answer(200, routes.OCTET_STREAM, encode_fetch_answer(results, session_id))


async def produce(context: BrokerContext, post: Post) -> Answer:
    """Batches that another broker forwards; errors stand in the results."""
    try:
        wanted = decode(_produce_decoder, post.body)
        results = await context.produce.append_here(
            wanted.batches,
            ProduceOptions.checked(wanted.acks, wanted.timeout_ms, wanted.transactional_id),
        )
    except OttlaError as error:
        raise error.with_outcome(Outcome.NOT_APPLIED) from error
    return produce_answer(context, wanted, results, one_status=False)


async def idempotency(context: BrokerContext, post: Post) -> Answer:
    """Whether partitions led here hold an Idempotency-Key."""
    lookup = decode(_lookup_decoder, post.body)
    return msgpack_answer(await context.idempotency.answer(lookup))


async def groups(context: BrokerContext, post: Post) -> Answer:
    """A command for the coordinator of a consumer group."""
    return await _decided(context.coordinator_calls, post)


async def transactions(context: BrokerContext, post: Post) -> Answer:
    """A command for the coordinator of a transactional id."""
    return await _decided(context.transaction_calls, post)


async def _decided(calls: CoordinatorCalls | TransactionCalls, post: Post) -> Answer:
    try:
        response = await calls.decide_here(decode(_coordinator_call_decoder, post.body))
    except OttlaError as error:
        # What comes after the append of its records says so itself.
        raise error.with_outcome(Outcome.NOT_APPLIED) from error
    return msgpack_answer(response)


async def markers(context: BrokerContext, post: Post) -> Answer:
    """Ends of transactions, for partitions that are led here; errors stand in the results."""
    call = decode(_markers_decoder, post.body)
    return msgpack_answer(await context.transaction_markers.write_here(call))


async def offsets(context: BrokerContext, post: Post) -> Answer:
    """Where partitions that are led here begin and end."""
    partitions = decode(_partitions_decoder, post.body)
    return msgpack_answer(context.partition_bounds.look_up_here(partitions))


async def open_transactions(context: BrokerContext, post: Post) -> Answer:
    """Which transactions are open in partitions that are led here."""
    lookup = decode(_open_transactions_decoder, post.body)
    return msgpack_answer(context.open_transactions.look_up_here(lookup))


async def log_ends(context: BrokerContext, post: Post) -> Answer:
    """Where the replicas on this broker end."""
    partitions = decode(_partitions_decoder, post.body)
    return msgpack_answer(context.replication.log_ends(partitions))


async def timestamps(context: BrokerContext, post: Post) -> Answer:
    """Where records of some time begin in partitions that are led here."""
    lookup = decode(_timestamps_decoder, post.body)
    return msgpack_answer(await context.partition_bounds.look_up_timestamp_here(lookup))


async def segments(context: BrokerContext, post: Post) -> Answer:
    """What the segments of a replica on this broker hold."""
    call = decode(_segments_decoder, post.body)
    return msgpack_answer(await context.segments.list_here(call))


async def verify_segments(context: BrokerContext, post: Post) -> Answer:
    """Whether a part of a replica on this broker is sound."""
    call = decode(_verification_decoder, post.body)
    return msgpack_answer(await context.segments.verify_here(call))


async def trim(context: BrokerContext, post: Post) -> Answer:
    """Have a partition that is led here begin further up."""
    return msgpack_answer(await context.trims.trim_here(decode(_trim_decoder, post.body)))


def _route(path: str, handler: PostHandler, limit_bytes: int) -> PostRoute:
    return PostRoute(path, handler, lambda _: limit_bytes, admit=admit_member)


def _forwarded_body_bytes_max(settings: Settings) -> int:
    """What one forward may have: a group of writes, or one that is larger than a group may be."""
    return MAX_BYTES_PER_FORWARD + 2 * settings.max_json_body_bytes


ROUTES = (
    _route(routes.INTERNAL_RAFT, raft, MAX_RAFT_BODY_BYTES),
    _route(routes.INTERNAL_CONTROLLER, controller, MAX_COMMAND_BYTES),
    _route(routes.INTERNAL_COMMIT_VERSION, commit_version, MAX_COMMAND_BYTES),
    _route(routes.INTERNAL_QUORUM, quorum, MAX_COMMAND_BYTES),
    PostRoute(
        routes.INTERNAL_INTRODUCTION,
        introduction,
        lambda _: MAX_INTRODUCTION_BYTES,
        admit=admit_namesake,
    ),
    _route(routes.INTERNAL_UNREACHABLE, unreachable_broker, MAX_COMMAND_BYTES),
    _route(routes.INTERNAL_FEATURE_LEVELS, feature_levels, MAX_COMMAND_BYTES),
    _route(routes.INTERNAL_NODE_REPORT, node_report, MAX_COMMAND_BYTES),
    _route(routes.INTERNAL_REPLICA_COPIES, replica_copies, MAX_COMMAND_BYTES),
    _route(routes.INTERNAL_FETCH, fetch, MAX_FETCH_REQUEST_BYTES),
    PostRoute(
        routes.INTERNAL_PRODUCE,
        produce,
        _forwarded_body_bytes_max,
        is_write=True,
        admit=admit_member,
    ),
    _route(routes.INTERNAL_IDEMPOTENCY, idempotency, MAX_COMMAND_BYTES),
    _route(routes.INTERNAL_GROUPS, groups, MAX_COMMAND_BYTES),
    _route(routes.INTERNAL_TRANSACTIONS, transactions, MAX_COMMAND_BYTES),
    _route(routes.INTERNAL_MARKERS, markers, MAX_COMMAND_BYTES),
    _route(routes.INTERNAL_OFFSETS, offsets, MAX_COMMAND_BYTES),
    _route(routes.INTERNAL_OPEN_TRANSACTIONS, open_transactions, MAX_COMMAND_BYTES),
    _route(routes.INTERNAL_LOG_ENDS, log_ends, MAX_COMMAND_BYTES),
    _route(routes.INTERNAL_TIMESTAMPS, timestamps, MAX_COMMAND_BYTES),
    _route(routes.INTERNAL_SEGMENTS, segments, MAX_COMMAND_BYTES),
    _route(routes.INTERNAL_VERIFY_SEGMENTS, verify_segments, MAX_COMMAND_BYTES),
    _route(routes.INTERNAL_TRIM, trim, MAX_COMMAND_BYTES),
)
