"""Requests and responses of the REST Proxy API, version 3, as Confluent publishes it.

Each resource says what it is (`kind`), where it is (`metadata.self`), and where what belongs to it
is (`{"related": url}`). Field names are that API's, not Ottla's.
"""

from typing import Annotated, Generic, Literal, TypeVar

import msgspec
from msgspec import Meta

from ottla_protocol.models import Request, Response

ResourceT = TypeVar("ResourceT")

MAX_BATCH_ENTRIES = 10
"""Records in one `records:batch`."""

MAX_ENTRY_ID_CHARACTERS = 80
"""Of the id that an entry of a batch has, to be known by in the answer."""

Count = Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)]
"""A number of partitions or replicas; the controller says which ones it takes."""


# --- errors ---------------------------------------------------------------------------------


class RestError(Response, frozen=True):
    """Every error: the HTTP status, or a code of five digits, and a sentence."""

    error_code: int
    message: str


# --- what all resources have ----------------------------------------------------------------


class Related(Response, frozen=True):
    """The URL of another resource."""

    related: str


class ResourceMetadata(Response, frozen=True, rename={"self_url": "self"}):
    """Where a resource is, and its name across clusters."""

    self_url: str
    resource_name: str | None = None


class CollectionMetadata(Response, frozen=True, rename={"self_url": "self"}):
    """Where a list is; `next` is None, for every list is told whole."""

    self_url: str
    next: str | None = None


class ResourceList(Response, Generic[ResourceT], frozen=True):
    """A list of resources; `kind` is theirs with `List` behind it."""

    kind: str
    metadata: CollectionMetadata
    data: list[ResourceT]


# --- cluster --------------------------------------------------------------------------------


class KafkaCluster(Response, frozen=True):
    """The one cluster that there is; `controller` is None while none is elected."""

    metadata: ResourceMetadata
    cluster_id: str
    controller: Related | None
    acls: Related
    brokers: Related
    broker_configs: Related
    consumer_groups: Related
    topics: Related
    partition_reassignments: Related
    kind: Literal["KafkaCluster"] = "KafkaCluster"


class KafkaBroker(Response, frozen=True):
    """One registered broker, with the host and port of its advertised URL."""

    metadata: ResourceMetadata
    cluster_id: str
    broker_id: int
    host: str | None
    port: int | None
    rack: str | None
    configs: Related
    partition_replicas: Related
    kind: Literal["KafkaBroker"] = "KafkaBroker"


# --- topics ---------------------------------------------------------------------------------


class KafkaTopic(Response, frozen=True):
    """One topic."""

    metadata: ResourceMetadata
    cluster_id: str
    topic_name: str
    is_internal: bool
    replication_factor: int
    partitions_count: int
    partitions: Related
    configs: Related
    partition_reassignments: Related
    kind: Literal["KafkaTopic"] = "KafkaTopic"


class ConfigToCreate(Request, frozen=True):
    """A config of a topic that is to be created; None is the default."""

    name: str
    value: str | None = None


class CreateKafkaTopic(Request, frozen=True):
    """`POST …/topics`. What is left out takes the broker's default."""

    topic_name: str
    partitions_count: Count | None = None
    replication_factor: Count | None = None
    configs: tuple[ConfigToCreate, ...] = ()
    validate_only: bool = False


class UpdatePartitionsCount(Request, frozen=True):
    """`PATCH …/topics/{topic}`: how many partitions there are to be in all."""

    partitions_count: Count


class ConfigSynonym(Response, frozen=True):
    """Where a config's value comes from."""

    name: str
    value: str | None
    source: str


class KafkaTopicConfig(Response, frozen=True):
    """One config of a topic, in force."""

    metadata: ResourceMetadata
    cluster_id: str
    topic_name: str
    name: str
    value: str | None
    is_default: bool
    is_read_only: bool
    is_sensitive: bool
    source: Literal["DYNAMIC_TOPIC_CONFIG", "DEFAULT_CONFIG"]
    synonyms: list[ConfigSynonym]
    kind: Literal["KafkaTopicConfig"] = "KafkaTopicConfig"


class KafkaBrokerConfig(Response, frozen=True):
    """A config of one broker that can be changed while it runs; Ottla's brokers have none."""

    metadata: ResourceMetadata
    cluster_id: str
    broker_id: int
    name: str
    value: str | None
    is_default: bool
    is_read_only: bool
    is_sensitive: bool
    source: str
    synonyms: list[ConfigSynonym]
    kind: Literal["KafkaBrokerConfig"] = "KafkaBrokerConfig"


class KafkaClusterConfig(Response, frozen=True):
    """A config of all brokers that can be changed while they run; Ottla's have none."""

    metadata: ResourceMetadata
    cluster_id: str
    config_type: Literal["BROKER"]
    name: str
    value: str | None
    is_default: bool
    is_read_only: bool
    is_sensitive: bool
    source: str
    synonyms: list[ConfigSynonym]
    kind: Literal["KafkaClusterConfig"] = "KafkaClusterConfig"


class KafkaAcl(Response, frozen=True):
    """A rule of who may do what; Ottla has none."""

    metadata: ResourceMetadata
    cluster_id: str
    resource_type: str
    resource_name: str
    pattern_type: str
    principal: str
    host: str
    operation: str
    permission: str
    kind: Literal["KafkaAcl"] = "KafkaAcl"


class UpdateConfig(Request, frozen=True):
    """`PUT …/configs/{name}`; None is the default."""

    value: str | None = None


class ConfigToAlter(Request, frozen=True):
    """One change of `configs:alter`; to SET a config to None is to DELETE it."""

    name: str
    value: str | None = None
    operation: Literal["SET", "DELETE"] | None = None


class AlterConfigs(Request, frozen=True):
    """`POST …/configs:alter`: all are changed, or none."""

    data: list[ConfigToAlter]


class KafkaPartition(Response, frozen=True):
    """One partition; `leader` is None while it has none."""

    metadata: ResourceMetadata
    cluster_id: str
    topic_name: str
    partition_id: int
    leader: Related | None
    replicas: Related
    reassignment: Related
    kind: Literal["KafkaPartition"] = "KafkaPartition"


class KafkaReplica(Response, frozen=True):
    """One replica of a partition."""

    metadata: ResourceMetadata
    cluster_id: str
    topic_name: str
    partition_id: int
    broker_id: int
    is_leader: bool
    is_in_sync: bool
    broker: Related
    kind: Literal["KafkaReplica"] = "KafkaReplica"


class KafkaPartitionWithOffsets(Response, frozen=True):
    """Where a partition begins, and where it ends; only what `offset_type` asks for."""

    metadata: ResourceMetadata
    cluster_id: str
    topic_name: str
    partition_id: int
    earliest_offset: int | msgspec.UnsetType = msgspec.UNSET
    latest_offset: int | msgspec.UnsetType = msgspec.UNSET
    kind: Literal["KafkaPartitionWithOffsets"] = "KafkaPartitionWithOffsets"


class KafkaReassignment(Response, frozen=True):
    """A partition on its way to other replicas."""

    metadata: ResourceMetadata
    cluster_id: str
    topic_name: str
    partition_id: int
    adding_replicas: list[int]
    removing_replicas: list[int]
    replicas: Related
    kind: Literal["KafkaReassignment"] = "KafkaReassignment"


# --- consumer groups ------------------------------------------------------------------------

GroupState = Literal["EMPTY", "STABLE", "PREPARING_REBALANCE", "UNKNOWN"]


class KafkaConsumerGroup(Response, frozen=True):
    """One consumer group; `is_simple` says that it only ever committed, without members."""

    metadata: ResourceMetadata
    cluster_id: str
    consumer_group_id: str
    is_simple: bool
    partition_assignor: str
    state: GroupState
    coordinator: Related | None
    consumers: Related
    lag_summary: Related
    kind: Literal["KafkaConsumerGroup"] = "KafkaConsumerGroup"


class KafkaConsumer(Response, frozen=True):
    """One member. Ottla's members have no client id, so `client_id` is empty."""

    metadata: ResourceMetadata
    cluster_id: str
    consumer_group_id: str
    consumer_id: str
    instance_id: str | None
    client_id: str
    assignments: Related
    kind: Literal["KafkaConsumer"] = "KafkaConsumer"


class KafkaConsumerAssignment(Response, frozen=True):
    """One partition that a member may read."""

    metadata: ResourceMetadata
    cluster_id: str
    consumer_group_id: str
    consumer_id: str
    topic_name: str
    partition_id: int
    partition: Related
    lag: Related
    kind: Literal["KafkaConsumerAssignment"] = "KafkaConsumerAssignment"


class KafkaConsumerLag(Response, frozen=True):
    """How far a group is on a partition; `consumer_id` is empty where no member reads it."""

    metadata: ResourceMetadata
    cluster_id: str
    consumer_group_id: str
    topic_name: str
    partition_id: int
    current_offset: int
    log_end_offset: int
    lag: int
    consumer_id: str
    instance_id: str | None
    client_id: str
    kind: Literal["KafkaConsumerLag"] = "KafkaConsumerLag"


class KafkaConsumerGroupLagSummary(Response, frozen=True):
    """A group's largest lag and the sum of all."""

    metadata: ResourceMetadata
    cluster_id: str
    consumer_group_id: str
    max_lag_consumer_id: str
    max_lag_instance_id: str | None
    max_lag_client_id: str
    max_lag_topic_name: str
    max_lag_partition_id: int
    max_lag: int
    total_lag: int
    max_lag_consumer: Related
    max_lag_partition: Related
    kind: Literal["KafkaConsumerGroupLagSummary"] = "KafkaConsumerGroupLagSummary"


# --- records --------------------------------------------------------------------------------


class ProducedData(Response, frozen=True):
    """The type of a key or value, as sent, and the bytes that it has become."""

    type: str
    size: int


class ProducedRecord(Response, frozen=True, omit_defaults=True):
    """What became of one record of a stream; `timestamp` is RFC 3339."""

    error_code: int
    cluster_id: str
    topic_name: str
    partition_id: int
    offset: int
    timestamp: str | None = None
    key: ProducedData | None = None
    value: ProducedData | None = None


class ProducedEntry(Response, frozen=True, omit_defaults=True):
    """One entry of a batch that was appended."""

    id: str
    cluster_id: str
    topic_name: str
    partition_id: int
    offset: int
    timestamp: str | None = None
    key: ProducedData | None = None
    value: ProducedData | None = None


class RefusedEntry(Response, frozen=True):
    """One entry of a batch that was not."""

    id: str
    error_code: int
    message: str


class ProducedBatch(Response, frozen=True):
    """`POST …/records:batch`: every entry of the request is in one of the two."""

    successes: list[ProducedEntry]
    failures: list[RefusedEntry]
