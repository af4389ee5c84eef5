"""Restores: `…/restore`, for tools that fill topics from a backup."""

from ottla_broker.http import restores
from ottla_broker.http.operation_tables.parameters import PARTITION, TOPIC_NAME_SCHEMA
from ottla_broker.http.operation_tables.topic_configs import configs_schema
from ottla_broker.http.operations import (
    THROUGH_THE_CONTROLLER,
    Content,
    Operation,
    Parameter,
    Problems,
    Reply,
    ok,
)
from ottla_cluster.controller.limits import MAX_BROKERS, MAX_PARTITIONS_PER_TOPIC
from ottla_protocol import routes
from ottla_protocol.errors import (
    CorruptMessageError,
    FencedLeaderEpochError,
    InsufficientStorageError,
    InvalidConfigError,
    InvalidPartitionsError,
    InvalidReplicationFactorError,
    InvalidTopicError,
    LeaderNotAvailableError,
    NotEnoughReplicasAfterAppendError,
    NotEnoughReplicasError,
    NotLeaderOrFollowerError,
    RestoreConflictError,
    StorageError,
    TopicAlreadyExistsError,
    UnknownTopicOrPartitionError,
    UnsupportedFeatureLevelError,
)
from ottla_protocol.models import TopicDescription
from ottla_protocol.models_restores import (
    BeginRestoreRequest,
    FinishedRestore,
    FinishRestoreRequest,
    RestoredPosition,
    RestoreRecordsRequest,
)

TOPIC = Parameter("topic", "path", "The topic's name.", TOPIC_NAME_SCHEMA, "flights-restored")

DECIDED: Problems = (
    InvalidTopicError,
    UnsupportedFeatureLevelError,
    RestoreConflictError,
    *THROUGH_THE_CONTROLLER,
)

OPERATIONS = (
    Operation(
        "POST",
        routes.TOPIC_RESTORE,
        "beginRestore",
        "topics",
        "Begin to restore a topic",
        (
            Reply(
                201,
                "The topic is there, for this restore alone.",
                (Content(TopicDescription),),
            ),
        ),
        restores.begin_restore,
        description=(
            "Creates a topic that is filled from a backup, by `ottla restore` and tools like it. "
            "Nobody else reads or writes it until the restore is finished. Begun again with the "
            "same values, nothing changes."
        ),
        parameters=(TOPIC,),
        request=(
            Content(
                BeginRestoreRequest,
                also={
                    "properties": {
                        "first_offsets": {"minItems": 1, "maxItems": MAX_PARTITIONS_PER_TOPIC},
                        "replication_factor": {"minimum": 1, "maximum": MAX_BROKERS},
                        "configs": configs_schema(may_reset=False),
                    }
                },
                example={"restore_id": "monday", "first_offsets": [0, 1000]},
            ),
        ),
        problems=(
            InvalidPartitionsError,
            InvalidReplicationFactorError,
            InvalidConfigError,
            TopicAlreadyExistsError,
            *DECIDED,
        ),
    ),
    Operation(
        "POST",
        routes.PARTITION_RESTORE,
        "restoreRecords",
        "topics",
        "Restore record batches",
        (Reply(200, "They are committed.", (Content(RestoredPosition, routes.MSGPACK),)),),
        restores.restore_records,
        description=(
            "MessagePack, with record batches as `bin`, at the offsets that they have; what is "
            "there already is left out. Only the partition's leader takes it; another broker "
            "answers 421 with the leader's URL. Producer ids are taken out of the batches."
        ),
        parameters=(TOPIC, PARTITION),
        request=(Content(RestoreRecordsRequest, routes.MSGPACK),),
        problems=(
            UnknownTopicOrPartitionError,
            RestoreConflictError,
            CorruptMessageError,
            NotLeaderOrFollowerError,
            LeaderNotAvailableError,
            NotEnoughReplicasError,
            NotEnoughReplicasAfterAppendError,
            FencedLeaderEpochError,
            InsufficientStorageError,
            StorageError,
            *THROUGH_THE_CONTROLLER,
        ),
        broker_only=True,
    ),
    Operation(
        "POST",
        routes.TOPIC_RESTORE_FINISH,
        "finishRestore",
        "topics",
        "Finish the restore of a topic",
        ok(FinishedRestore, "The topic is one like any other."),
        restores.finish_restore,
        description="For who knows that all of it is there: nothing is compared here.",
        parameters=(TOPIC,),
        request=(Content(FinishRestoreRequest, example={"restore_id": "monday"}),),
        problems=(UnknownTopicOrPartitionError, *DECIDED),
    ),
)
