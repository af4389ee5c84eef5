"""Requests and responses of the REST Proxy API v2, as kafka-rest and its kin shape them.

A broker serves these paths at its root, so that clients of REST proxies need only another address.
Names with dots and an error body of two members are that API's, not ours; so are responses that
name every field, null where there is nothing to tell.
"""

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from ottla_protocol.models import Request, Response

MAX_NUMBER = 2**31 - 1
"""The largest partition number."""

MAX_OFFSET = 2**63 - 2
"""The largest offset of a record: the next one must still be an offset."""

Number = Annotated[int, Meta(ge=0, le=MAX_NUMBER)]
RecordOffset = Annotated[int, Meta(ge=0, le=MAX_OFFSET)]


class ErrorBody(Response, frozen=True):
    """Any error: the HTTP status is the first three digits of the code, save for 40001 (422)."""

    error_code: int
    message: str


# --- topics ---------------------------------------------------------------------------------


class Replica(Response, frozen=True):
    """One replica of a partition."""

    broker: int
    leader: bool
    in_sync: bool


class Partition(Response, frozen=True):
    """One partition; `leader` is -1 while it has none."""

    partition: int
    leader: int
    replicas: list[Replica]


class Topic(Response, frozen=True):
    """`GET /topics/{topic}`; every config as text."""

    name: str
    configs: dict[str, str]
    partitions: list[Partition]


class PartitionOffsets(Response, frozen=True):
    """`GET /topics/{topic}/partitions/{partition}/offsets`: the first offset and the next one."""

    beginning_offset: int
    end_offset: int


class Brokers(Response, frozen=True):
    """`GET /brokers`: node ids."""

    brokers: list[int]


# --- produce --------------------------------------------------------------------------------


class BinaryRecord(Request, frozen=True):
    """A record with key and value in base64."""

    key: bytes | None = None
    value: bytes | None = None
    partition: Number | None = None


class JsonRecord(Request, frozen=True):
    """A record with key and value as any JSON, stored as compact JSON text; null stores none."""

    key: Raw | UnsetType = UNSET
    value: Raw | UnsetType = UNSET
    partition: Number | None = None


class _Schemas(Request, frozen=True):
    """What the schema formats need; the others take the fields and have no use for them."""

    key_schema: str | None = None
    key_schema_id: int | None = None
    value_schema: str | None = None
    value_schema_id: int | None = None


class BinaryRecords(_Schemas, frozen=True, kw_only=True):
    """`POST /topics/{topic}` and `…/partitions/{partition}`, embedded format `binary`."""

    records: list[BinaryRecord]


class JsonRecords(_Schemas, frozen=True, kw_only=True):
    """The same, embedded formats `json` and those that need schemas."""

    records: list[JsonRecord]


class ProducedRecord(Response, frozen=True):
    """What became of one record: `error_code` 50003 may go away, 50002 will not."""

    partition: int | None = None
    offset: int | None = None
    error_code: int | None = None
    error: str | None = None


class Produced(Response, frozen=True):
    """One entry for each record, in the order of the request."""

    offsets: list[ProducedRecord]
    key_schema_id: int | None = None
    value_schema_id: int | None = None


# --- consumers ------------------------------------------------------------------------------


class CreateConsumer(Request, frozen=True):
    """`POST /consumers/{group}`: every value may be text, as proxies take it."""

    name: str | None = None
    format: str | None = None
    auto_offset_reset: str | None = msgspec.field(default=None, name="auto.offset.reset")
    auto_commit: bool | str | None = msgspec.field(default=None, name="auto.commit.enable")
    fetch_min_bytes: int | str | None = msgspec.field(default=None, name="fetch.min.bytes")
    request_timeout_ms: int | str | None = msgspec.field(
        default=None, name="consumer.request.timeout.ms"
    )


class ConsumerCreated(Response, frozen=True):
    """Where the instance is reached, by way of any broker; `base_uri` is that of the one asked."""

    instance_id: str
    base_uri: str


class Subscription(Request, frozen=True):
    """`POST …/subscription`: one of the two."""

    topics: list[str] | None = None
    topic_pattern: str | None = None


class SubscribedTopics(Response, frozen=True):
    """`GET …/subscription`."""

    topics: list[str]


class TopicPartition(Request, frozen=True):
    """One partition."""

    topic: str
    partition: Number


class AssignedPartition(Response, frozen=True):
    """One partition that an instance reads."""

    topic: str
    partition: int


class AssignedPartitions(Response, frozen=True):
    """`GET …/assignments`."""

    partitions: list[AssignedPartition]


class Partitions(Request, frozen=True):
    """`POST …/assignments`, `…/positions/beginning` and `end`, and what `GET …/offsets` asks."""

    partitions: list[TopicPartition]


class TopicPartitionOffset(Request, frozen=True):
    """An offset in one partition."""

    topic: str
    partition: Number
    offset: RecordOffset
    metadata: str | None = None


class TopicPartitionTimestamp(Request, frozen=True):
    """A time in one partition, in ms since the epoch."""

    topic: str
    partition: Number
    timestamp: Annotated[int, Meta(ge=0, le=2**63 - 1)]


class Positions(Request, frozen=True):
    """`POST …/positions`: the next offsets to read."""

    offsets: list[TopicPartitionOffset] = msgspec.field(default_factory=list)
    timestamps: list[TopicPartitionTimestamp] = msgspec.field(default_factory=list)


class OffsetsToCommit(Request, frozen=True):
    """`POST …/offsets`: the offsets that were read last; none of it means all that was read."""

    offsets: list[TopicPartitionOffset] | None = None


class ConsumedRecord(Response, frozen=True):
    """One record of `GET …/records`: key and value in base64 or as JSON, by the format."""

    topic: str
    key: Any
    value: Any
    partition: int
    offset: int
    timestamp: int


class CommittedOffset(Response, frozen=True):
    """What is stored: one more than what was given to commit."""

    topic: str
    partition: int
    offset: int
    metadata: str


class CommittedOffsets(Response, frozen=True):
    """`GET …/offsets`, without partitions that have none."""

    offsets: list[CommittedOffset]
