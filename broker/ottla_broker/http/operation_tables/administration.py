"""What operators do to brokers, replicas and leaderships."""

from ottla_broker.http import brokers, reassignments, segments, topics
from ottla_broker.http.operation_tables.parameters import BROKER, MAX_NODE_ID, PARTITION, TOPIC
from ottla_broker.http.operations import (
    THROUGH_THE_CONTROLLER,
    Content,
    Operation,
    Parameter,
    Reply,
    integer,
    ok,
)
from ottla_broker.http.query import MAX_OFFSET
from ottla_cluster.controller.limits import (
    MAX_REASSIGNMENTS,
    MAX_REPLICATION_THROTTLE_BYTES_PER_SECOND,
    MIN_REPLICATION_THROTTLE_BYTES_PER_SECOND,
)
from ottla_protocol import routes
from ottla_protocol.errors import (
    ConflictError,
    EligibleLeadersNotAvailableError,
    InvalidReplicaAssignmentError,
    InvalidReplicationFactorError,
    LeaderNotAvailableError,
    NoReassignmentInProgressError,
    NotFoundError,
    PolicyViolationError,
    PreferredLeaderNotAvailableError,
    StorageError,
    UnknownTopicIdError,
    UnknownTopicOrPartitionError,
    UnsupportedFeatureLevelError,
)
from ottla_protocol.models import (
    BrokerList,
    ElectionRequest,
    ElectionResponse,
    ReassignmentList,
    ReassignmentRequest,
    ReassignmentResponse,
)
from ottla_protocol.models_brokers import DrainProgress
from ottla_protocol.models_segments import (
    DEFAULT_LISTED_SEGMENTS,
    MAX_LISTED_SEGMENTS,
    MAX_VERIFIED_BYTES,
    SegmentList,
    SegmentVerificationPart,
    VerifySegmentsRequest,
)

DRAIN = (
    *THROUGH_THE_CONTROLLER,
    NotFoundError,
    ConflictError,
    InvalidReplicationFactorError,
    InvalidReplicaAssignmentError,
    UnsupportedFeatureLevelError,
)

SEGMENTS = (
    *THROUGH_THE_CONTROLLER,
    UnknownTopicOrPartitionError,
    UnknownTopicIdError,
    LeaderNotAvailableError,
    StorageError,
)

NO_STORE = {"Cache-Control": "`no-store`."}

OPERATIONS = (
    Operation(
        "GET",
        routes.BROKERS,
        "listBrokers",
        "brokers",
        "Every registered broker",
        ok(BrokerList, "Brokers by id."),
        topics.brokers,
    ),
    Operation(
        "DELETE",
        routes.BROKER,
        "unregisterBroker",
        "brokers",
        "Forget a broker that is gone",
        (Reply(204, "It is no longer registered."),),
        brokers.unregister,
        description="It must not run, and no partition may have a replica on it.",
        parameters=(BROKER,),
        problems=DRAIN,
    ),
    Operation(
        "GET",
        routes.BROKER_DRAIN,
        "drainProgress",
        "brokers",
        "How far a drain is",
        ok(DrainProgress, "The progress; its state is `none` where there is no drain."),
        brokers.drain_progress,
        parameters=(BROKER,),
        problems=DRAIN,
    ),
    Operation(
        "POST",
        routes.BROKER_DRAIN,
        "drainBroker",
        "brokers",
        "Move all replicas off a broker",
        ok(DrainProgress, "It has begun.", status=202),
        brokers.drain,
        parameters=(BROKER,),
        problems=DRAIN,
    ),
    Operation(
        "DELETE",
        routes.BROKER_DRAIN,
        "cancelDrain",
        "brokers",
        "Call a drain off",
        ok(DrainProgress, "The broker may have replicas again."),
        brokers.cancel_drain,
        parameters=(BROKER,),
        problems=DRAIN,
    ),
    Operation(
        "POST",
        routes.ELECTIONS,
        "electLeaders",
        "brokers",
        "Elect leaders of partitions",
        (
            Reply(200, "None failed.", (Content(ElectionResponse),)),
            Reply(207, "Some failed: see `error`.", (Content(ElectionResponse),)),
        ),
        reassignments.elect,
        request=(Content(ElectionRequest, example={"type": "preferred"}),),
        problems=(
            *THROUGH_THE_CONTROLLER,
            UnknownTopicOrPartitionError,
            PreferredLeaderNotAvailableError,
            EligibleLeadersNotAvailableError,
            PolicyViolationError,
            UnsupportedFeatureLevelError,
        ),
    ),
    Operation(
        "GET",
        routes.REASSIGNMENTS,
        "listReassignments",
        "brokers",
        "Reassignments under way",
        ok(ReassignmentList, "Each with how far its copies are."),
        reassignments.list_reassignments,
        problems=THROUGH_THE_CONTROLLER,
    ),
    Operation(
        "POST",
        routes.REASSIGNMENTS,
        "alterReassignments",
        "brokers",
        "Move replicas, or call that off",
        (
            Reply(200, "All are decided.", (Content(ReassignmentResponse),)),
            Reply(207, "Some failed: see `error`.", (Content(ReassignmentResponse),)),
        ),
        reassignments.alter_reassignments,
        description="New replicas copy first; a partition switches to its new replicas once all "
        "of them are in sync. `replicas` is null to call that off. The brokers' own topics are "
        "moved as any others.",
        request=(
            Content(
                ReassignmentRequest,
                also={
                    "anyOf": [
                        {
                            "required": ["reassignments"],
                            "properties": {"reassignments": {"minItems": 1}},
                        },
                        {"required": ["throttle_bytes_per_second"]},
                    ],
                    "properties": {
                        "reassignments": {"maxItems": MAX_REASSIGNMENTS},
                        "throttle_bytes_per_second": {
                            "minimum": MIN_REPLICATION_THROTTLE_BYTES_PER_SECOND,
                            "maximum": MAX_REPLICATION_THROTTLE_BYTES_PER_SECOND,
                        },
                    },
                },
                example={
                    "reassignments": [{"topic": "flights", "partition": 0, "replicas": [1, 2, 3]}]
                },
            ),
        ),
        problems=(
            *THROUGH_THE_CONTROLLER,
            UnknownTopicOrPartitionError,
            InvalidReplicaAssignmentError,
            NoReassignmentInProgressError,
            UnsupportedFeatureLevelError,
        ),
    ),
    Operation(
        "GET",
        routes.PARTITION_SEGMENTS,
        "listSegments",
        "brokers",
        "What the files of a replica hold",
        ok(SegmentList, "Segments, oldest first."),
        segments.list_segments,
        parameters=(
            TOPIC,
            PARTITION,
            Parameter(
                "replica",
                "query",
                "Node id of the broker whose copy is meant; the leader's when it is left out.",
                integer(1, MAX_NODE_ID),
            ),
            Parameter("from", "query", "The offset to begin at.", integer(0, MAX_OFFSET, 0)),
            Parameter(
                "max_segments",
                "query",
                "How many segments at most.",
                integer(1, MAX_LISTED_SEGMENTS, DEFAULT_LISTED_SEGMENTS),
            ),
        ),
        problems=SEGMENTS,
        broker_only=True,
    ),
    Operation(
        "POST",
        routes.PARTITION_SEGMENTS_VERIFY,
        "verifySegments",
        "brokers",
        "Verify the files of a replica",
        ok(SegmentVerificationPart, "What was read and found; `next_offset` goes on."),
        segments.verify,
        parameters=(TOPIC, PARTITION),
        request=(
            Content(
                VerifySegmentsRequest,
                also={
                    "properties": {
                        "replica": {"minimum": 1, "maximum": MAX_NODE_ID},
                        "offset": {"minimum": 0, "maximum": MAX_OFFSET},
                        "max_bytes": {"minimum": 1, "maximum": MAX_VERIFIED_BYTES},
                    }
                },
                example={},
            ),
        ),
        is_body_required=False,
        problems=SEGMENTS,
        broker_only=True,
    ),
)
