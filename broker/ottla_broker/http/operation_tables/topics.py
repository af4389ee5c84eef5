"""Topics: `/v1/topics` and `/v1/metadata`."""

from typing import Any

from ottla_broker.http import metadata_tree, topics, trims
from ottla_broker.http.operation_tables.parameters import PARTITION, TOPIC, TOPIC_NAME_SCHEMA
from ottla_broker.http.operation_tables.topic_configs import configs_schema
from ottla_broker.http.operations import (
    THROUGH_THE_CONTROLLER,
    Content,
    Operation,
    Parameter,
    Problems,
    Reply,
    choice,
    integer,
    ok,
)
from ottla_cluster.controller.limits import MAX_BROKERS, MAX_PARTITIONS_PER_TOPIC
from ottla_cluster.controller.topic_configs import OPERATORS_CONFIGS
from ottla_cluster.controller.topic_names import INTERNAL_TOPICS
from ottla_protocol import routes
from ottla_protocol.errors import (
    ControllerNotAvailableError,
    GroupIdNotFoundError,
    InvalidConfigError,
    InvalidGroupIdError,
    InvalidPartitionsError,
    InvalidReplicationFactorError,
    InvalidTopicError,
    LeaderNotAvailableError,
    OffsetNotAvailableError,
    OffsetOutOfRangeError,
    PolicyViolationError,
    RequestTimedOutError,
    StorageError,
    TopicAlreadyExistsError,
    TopicBeingRestoredError,
    UnknownMetadataPathError,
    UnknownTopicIdError,
    UnknownTopicOrPartitionError,
    UnsupportedFeatureLevelError,
)
from ottla_protocol.models import (
    AddPartitionsRequest,
    AlterTopicConfigsRequest,
    CreateTopicRequest,
    MetadataResponse,
    TopicConfigs,
    TopicDescription,
    TopicList,
)
from ottla_protocol.models_tree import DEFAULT_TREE_LIMIT, MAX_TREE_LIMIT, TreeNodeDescription
from ottla_protocol.models_trims import TrimmedPartition, TrimPartitionRequest

LOOK_UP: Problems = (UnknownTopicOrPartitionError, ControllerNotAvailableError)
CHANGE: Problems = (UnknownTopicOrPartitionError, InvalidTopicError, *THROUGH_THE_CONTROLLER)

_NOT_NAMED: dict[str, dict[str, Any]] = {
    "before_offset": {"type": "null"},
    "before_timestamp": {"type": "null"},
    "before_end": {"enum": [False]},
}


def _named_alone(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"required": [name], "properties": {**_NOT_NAMED, name: schema}}


TRIM_TARGETS = [
    _named_alone("before_offset", {"type": "integer"}),
    _named_alone("before_timestamp", {"type": "integer"}),
    _named_alone("before_end", {"enum": [True]}),
]

PARTITIONS_SCHEMA = {"minimum": 1, "maximum": MAX_PARTITIONS_PER_TOPIC}

TREE_PARAMETERS = (
    Parameter(
        "recursive",
        "query",
        "Whether to list the paths of all that is below.",
        choice("false", "true", default="false"),
    ),
    Parameter(
        "limit",
        "query",
        "The most children or paths.",
        integer(1, MAX_TREE_LIMIT, DEFAULT_TREE_LIMIT),
    ),
    Parameter(
        "cursor",
        "query",
        "The `next_cursor` of the answer before.",
        {"type": "string"},
    ),
)

TREE_PROBLEMS: Problems = (
    UnknownMetadataPathError,
    GroupIdNotFoundError,
    InvalidGroupIdError,
    *THROUGH_THE_CONTROLLER,
)

OPERATIONS = (
    Operation(
        "GET",
        routes.TOPICS,
        "listTopics",
        "topics",
        "Every topic",
        ok(TopicList, "Topics by name."),
        topics.list_topics,
    ),
    Operation(
        "POST",
        routes.TOPICS,
        "createTopic",
        "topics",
        "Create a topic",
        (
            Reply(201, "It is created.", (Content(TopicDescription),)),
            Reply(200, "With `validate_only`: it would be.", (Content(TopicDescription),)),
        ),
        topics.create_topic,
        description=(
            "What is left out takes the broker's default. A name with both `.` and `_` is warned "
            "of, and one that equals another after swapping them is refused."
        ),
        request=(
            Content(
                CreateTopicRequest,
                also={
                    "properties": {
                        "name": TOPIC_NAME_SCHEMA,
                        "partitions": PARTITIONS_SCHEMA,
                        "replication_factor": {"minimum": 1, "maximum": MAX_BROKERS},
                        "configs": configs_schema(may_reset=False),
                    }
                },
                example={"name": "flights", "partitions": 6},
            ),
        ),
        problems=(
            InvalidTopicError,
            InvalidPartitionsError,
            InvalidReplicationFactorError,
            InvalidConfigError,
            TopicAlreadyExistsError,
            *THROUGH_THE_CONTROLLER,
        ),
    ),
    Operation(
        "GET",
        routes.TOPIC,
        "describeTopic",
        "topics",
        "One topic",
        ok(TopicDescription, "The topic with its partitions, leaders and configs."),
        topics.describe_topic,
        parameters=(TOPIC,),
        problems=LOOK_UP,
    ),
    Operation(
        "PATCH",
        routes.TOPIC,
        "addPartitions",
        "topics",
        "Give a topic more partitions",
        ok(TopicDescription, "The topic as it is now."),
        topics.add_partitions,
        description="Records stay where they are, so a key may go to another partition afterwards.",
        parameters=(TOPIC,),
        request=(
            Content(
                AddPartitionsRequest,
                also={"properties": {"partitions": PARTITIONS_SCHEMA}},
                example={"partitions": 12},
            ),
        ),
        problems=(InvalidPartitionsError, InvalidReplicationFactorError, *CHANGE),
    ),
    Operation(
        "DELETE",
        routes.TOPIC,
        "deleteTopic",
        "topics",
        "Delete a topic with all its records",
        (Reply(204, "It is gone."),),
        topics.delete_topic,
        parameters=(TOPIC,),
        problems=(*CHANGE, UnknownTopicIdError),
    ),
    Operation(
        "POST",
        routes.PARTITION_TRIM,
        "trimPartition",
        "topics",
        "Have a partition begin further up",
        ok(TrimmedPartition, "Where it begins now, or would begin."),
        trims.trim_partition,
        description=(
            "What is before goes for good, at all replicas: no leader brings it back. Asked for "
            "again with an offset, it changes nothing; a time and the end move on. One of "
            "`before_offset`, `before_timestamp` (ms) and `before_end` is named; only what is "
            "committed and of transactions that are over is trimmed, and only in topics with "
            "`delete` in `cleanup.policy`."
        ),
        parameters=(TOPIC, PARTITION),
        request=(
            Content(
                TrimPartitionRequest,
                also={"oneOf": TRIM_TARGETS},
                example={"before_end": True, "dry_run": True},
            ),
        ),
        problems=(
            OffsetOutOfRangeError,
            OffsetNotAvailableError,
            LeaderNotAvailableError,
            RequestTimedOutError,
            PolicyViolationError,
            UnsupportedFeatureLevelError,
            TopicBeingRestoredError,
            StorageError,
            UnknownTopicIdError,
            *CHANGE,
        ),
        broker_only=True,
    ),
    Operation(
        "GET",
        routes.TOPIC_CONFIGS,
        "describeTopicConfigs",
        "topics",
        "Every config of a topic",
        ok(TopicConfigs, "Configs by name, with where each value comes from."),
        topics.describe_configs,
        parameters=(TOPIC,),
        problems=LOOK_UP,
    ),
    Operation(
        "PATCH",
        routes.TOPIC_CONFIGS,
        "alterTopicConfigs",
        "topics",
        "Set or reset configs of a topic",
        ok(TopicConfigs, "All configs as they are now."),
        topics.alter_configs,
        description="All are changed, or none. `null` resets a config to its default. Of the "
        f"brokers' own topics ({' and '.join(f'`{name}`' for name in INTERNAL_TOPICS)}) only "
        f"{' and '.join(f'`{name}`' for name in OPERATORS_CONFIGS)} can be changed.",
        parameters=(TOPIC,),
        request=(
            Content(
                AlterTopicConfigsRequest,
                also={"properties": {"configs": configs_schema(may_reset=True)}},
                example={"configs": {"retention.ms": 86_400_000}},
            ),
        ),
        problems=(InvalidConfigError, *CHANGE),
    ),
    Operation(
        "GET",
        routes.METADATA,
        "metadata",
        "topics",
        "What a client needs to go direct",
        ok(MetadataResponse, "Brokers with their URLs, and topics with their leaders."),
        topics.metadata,
        parameters=(
            Parameter(
                "topics",
                "query",
                f"Names of topics, with commas between them, at most {topics.MAX_METADATA_TOPICS}; "
                "all when it is left out.",
                {"type": "string"},
                "flights",
            ),
        ),
        problems=LOOK_UP,
    ),
    Operation(
        "GET",
        routes.METADATA_TREE,
        "metadataTreeRoot",
        "topics",
        "The root of the metadata tree",
        ok(TreeNodeDescription, "The node."),
        metadata_tree.look,
        description="What one looked up in ZooKeeper, live and read-only, at the same paths.",
        parameters=TREE_PARAMETERS,
        problems=TREE_PROBLEMS,
    ),
    Operation(
        "GET",
        routes.METADATA_TREE_PATH,
        "metadataTreeNode",
        "topics",
        "One node of the metadata tree",
        ok(TreeNodeDescription, "The node."),
        metadata_tree.look,
        description=(
            "The path goes on as long as it likes; a slash within a name is written `%2F`. "
            "`/v1/metadata/tree/brokers/topics/flights/partitions/0/state`"
        ),
        parameters=(
            Parameter(
                "path",
                "path",
                "Names with slashes between them.",
                {"type": "string"},
                "controller",
            ),
            *TREE_PARAMETERS,
        ),
        problems=TREE_PROBLEMS,
    ),
)
