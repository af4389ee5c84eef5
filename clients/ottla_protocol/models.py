"""Requests and responses of the HTTP API, as msgspec structs.

Requests refuse unknown fields; responses may gain fields, so readers ignore what they do not know.
Offsets and timestamps are integers (milliseconds since the epoch); node ids are positive.
The binary calls (`POST /v1/produce`, `POST /v1/fetch`) carry the same structs as MessagePack, with
record batches as `bin`.
"""

from typing import Any, Literal

import msgspec

ACKS_ALL = -1
"""Wire value of `acks=all`: wait until the high watermark passes the last offset."""

DEFAULT_PRODUCE_TIMEOUT_MS = 30_000
MAX_PRODUCE_TIMEOUT_MS = 120_000
MAX_WAIT_MS = 60_000
"""The longest long-poll that a read may ask for."""


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of what clients send."""


class Response(msgspec.Struct, frozen=True):
    """Base of what brokers answer."""


# --- cluster and metadata -------------------------------------------------------------------


class BrokerDescription(Response, frozen=True):
    """One registered broker.

    `state` is active, fenced, or draining: about to stop. `drain` is draining or drained for one
    whose replicas move to others, or have; None for one that may have replicas.
    """

    id: int
    url: str
    rack: str
    state: str
    broker_epoch: int
    drain: str | None = None


class ClusterDescription(Response, frozen=True):
    """The cluster as this broker knows it: `controller` is None while none is elected."""

    cluster_id: str
    controller: int | None
    controller_term: int
    metadata_version: int
    feature_level: int
    brokers: list[BrokerDescription]
    topics: int
    partitions: int


class BrokerList(Response, frozen=True):
    """All registered brokers, by id."""

    brokers: list[BrokerDescription]


class PartitionDescription(Response, frozen=True):
    """One partition's placement and leadership; `leader` is None while it has none.

    `adding_replicas` are those of the replicas that a reassignment adds: until it ends, the others
    alone are missing when they are not in the ISR, and count for `min.insync.replicas`.
    """

    partition: int
    leader: int | None
    leader_epoch: int
    replicas: list[int]
    isr: list[int]
    adding_replicas: list[int] = []


class TopicDescription(Response, frozen=True):
    """One topic; `warnings` is only filled by its creation.

    `restore_id` names the backup that it is being restored from: nobody else reads or writes it
    until that is finished. None of any other topic.
    """

    name: str
    topic_id: str
    partitions: list[PartitionDescription]
    configs: dict[str, Any]
    warnings: list[str] = []
    restore_id: str | None = None


class TopicList(Response, frozen=True):
    """Every topic, by name."""

    topics: list[TopicDescription]


class CreateTopicRequest(Request, frozen=True):
    """`POST /v1/topics`. What is left out takes the broker's default."""

    name: str
    partitions: int | None = None
    replication_factor: int | None = None
    configs: dict[str, str | int | float | bool] = {}
    validate_only: bool = False


class AlterTopicConfigsRequest(Request, frozen=True):
    """`PATCH /v1/topics/{topic}/configs`. None resets a config to its default."""

    configs: dict[str, str | int | float | bool | None]


class TopicConfigValue(Response, frozen=True):
    """One config in force. `source` is `topic` where the topic itself stores a value.

    `min.insync.replicas` is stored in every topic when it is created or reset, from the cluster's
    default at that time.
    """

    value: str | int | float | bool
    source: Literal["topic", "default"]


class TopicConfigs(Response, frozen=True):
    """`GET /v1/topics/{topic}/configs`: every config by name."""

    topic: str
    configs: dict[str, TopicConfigValue]


class AddPartitionsRequest(Request, frozen=True):
    """`PATCH /v1/topics/{topic}`: how many partitions there are to be in all."""

    partitions: int


class MetadataResponse(Response, frozen=True):
    """What an SDK needs to go direct: `urls` maps a node id to the broker's advertised URL."""

    cluster_id: str
    controller: int | None
    metadata_version: int
    brokers: list[BrokerDescription]
    topics: list[TopicDescription]


# --- elections and reassignments --------------------------------------------------------------


class PartitionName(Request, frozen=True):
    """One partition."""

    topic: str
    partition: int


class ElectionRequest(Request, frozen=True):
    """`POST /v1/elections`.

    No `partitions`: for `preferred` all that their first replica does not lead, for `unclean` all
    without a leader whose topics set `unclean.leader.election.enable`.
    """

    type: Literal["preferred", "unclean"]
    partitions: list[PartitionName] | None = None


class ElectedPartition(Response, frozen=True):
    """What became of one election; `leader` is the one from now on.

    `elected` is false, without an error, where the preferred replica, or for an unclean election
    any, led already when the request came. `error` is a problem document or None.
    """

    topic: str
    partition: int
    leader: int | None
    elected: bool
    error: dict[str, Any] | None = None


class ElectionResponse(Response, frozen=True):
    """Every partition that was named; else those that there was something to do for."""

    results: list[ElectedPartition]


class PartitionReassignment(Request, frozen=True):
    """The replicas that a partition is to have, preferred leader first; None calls it off."""

    topic: str
    partition: int
    replicas: list[int] | None


class ReassignmentRequest(Request, frozen=True):
    """`POST /v1/reassignments`; each is decided on its own.

    With `throttle_bytes_per_second` every broker sends at most so much to replicas that are being
    added, over all reassignments, from now on; null takes the throttle away; left out, it stays as
    it is. It may be all that is asked for; where none of the reassignments is taken, it
    stays as it is.
    """

    reassignments: list[PartitionReassignment] = []
    throttle_bytes_per_second: int | msgspec.UnsetType | None = msgspec.UNSET


class ReassignedPartition(Response, frozen=True):
    """What became of one reassignment: begun, replaced or called off unless there is an `error`."""

    topic: str
    partition: int
    error: dict[str, Any] | None = None


class ReassignmentResponse(Response, frozen=True):
    """Results in the order of the request."""

    results: list[ReassignedPartition]


class ReplicaCopyProgress(Response, frozen=True):
    """How far a replica that is being added has come, as the partition's leader sees it.

    `copied_bytes` is what this leader has sent, the bytes that remain are estimated from the
    offsets that do. `remaining_seconds` is at the rate of the last ten seconds, if nothing more
    were appended; null while nothing is copied.
    """

    replica: int
    copied_bytes: int
    copied_offsets: int
    remaining_bytes: int
    remaining_offsets: int
    bytes_per_second: int
    remaining_seconds: int | None


class OngoingReassignment(Response, frozen=True):
    """A partition on its way to `target_replicas`: it is there when all of them are in `isr`.

    `progress` has an entry for each added replica that fetches and is not in sync yet; none while
    the partition has no leader, or the leader does not answer.
    """

    topic: str
    partition: int
    replicas: list[int]
    target_replicas: list[int]
    adding_replicas: list[int]
    removing_replicas: list[int]
    isr: list[int]
    progress: list[ReplicaCopyProgress] = []


class ReassignmentList(Response, frozen=True):
    """`GET /v1/reassignments`: those under way, by topic and partition, and the throttle."""

    reassignments: list[OngoingReassignment]
    throttle_bytes_per_second: int | None = None


# --- produce --------------------------------------------------------------------------------


class ProduceResult(Response, frozen=True):
    """What became of one partition's records; `error` is a problem document or None.

    Where `error` is set, `base_offset` and `timestamp` are -1.
    """

    partition: int
    base_offset: int
    count: int
    timestamp: int
    duplicate: bool = False
    error: dict[str, Any] | None = None


class RecordFailure(Response, frozen=True):
    """Why a record was not appended, or may not have been: `outcome` says which.

    `index` is the record's number in the request, from 0. The whole problem document stands in
    `results`, once for all records that failed with it.
    """

    index: int
    code: str
    detail: str
    retriable: bool
    outcome: str | None = None


class RecordPosition(Response, frozen=True, omit_defaults=True):
    """Where one record of the request went; `offset` is -1 where its partition failed."""

    partition: int
    offset: int
    error: RecordFailure | None = None


class ProduceResponse(Response, frozen=True):
    """`records` is in the order of the request, `results` by partition."""

    topic: str
    results: list[ProduceResult]
    records: list[RecordPosition]


class TopicProduceResult(Response, frozen=True):
    """As ProduceResult; `partition` is -1 where the topic was not found, or refused the records."""

    topic: str
    partition: int
    base_offset: int
    count: int
    timestamp: int
    duplicate: bool = False
    error: dict[str, Any] | None = None


class TopicRecordPosition(Response, frozen=True, omit_defaults=True):
    """As RecordPosition; `partition` is -1 where the topic was not found."""

    topic: str
    partition: int
    offset: int
    error: RecordFailure | None = None


class ManyTopicsProduceResponse(Response, frozen=True):
    """`POST /v1/records`: `results` by topic in the order of the request, then by partition."""

    results: list[TopicProduceResult]
    records: list[TopicRecordPosition]


class BatchToAppend(Request, frozen=True, omit_defaults=True):
    """One record batch of a binary produce.

    `idempotency` (32 bytes: digest of principal, topic and key, then of the body) is only taken
    from brokers that forward a JSON produce, and so is `partition_count`: where it is given, the
    batch is appended only while its topic has so many partitions. An older broker takes no such
    field, so it is left out where there is none.
    """

    topic: str
    partition: int
    batch: memoryview
    topic_id: str | None = None
    idempotency: bytes | None = None
    partition_count: int | None = None


class BinaryProduceRequest(Request, frozen=True, omit_defaults=True):
    """`POST /v1/produce`. `acks` is 0, 1 or -1 (all).

    `transactional_id` names the holder of the transaction that the transactional batches among them
    belong to. Where there are none it is left out, so that an older broker takes the request.
    """

    batches: list[BatchToAppend]
    acks: int = ACKS_ALL
    timeout_ms: int = DEFAULT_PRODUCE_TIMEOUT_MS
    transactional_id: str | None = None


class AppendedBatch(Response, frozen=True):
    """One result of a binary produce, in the order of the request."""

    topic: str
    partition: int
    base_offset: int
    count: int
    timestamp: int
    duplicate: bool = False
    error: dict[str, Any] | None = None


class BinaryProduceResponse(Response, frozen=True):
    """Results in the order of the request's batches."""

    results: list[AppendedBatch]


class AllocateProducerIdRequest(Request, frozen=True):
    """`POST /v1/producer-ids`; there is nothing to choose."""


class ProducerIdentity(Response, frozen=True):
    """A producer id that nobody else was or will be given, and the epoch to begin with."""

    producer_id: int
    producer_epoch: int


# --- fetch ----------------------------------------------------------------------------------

Isolation = Literal["read_uncommitted", "read_committed"]
"""Whether a reader also gets records of transactions that are open or were aborted.

With `read_committed` reads end at the last stable offset: the first record of the oldest
transaction that is open, or else the high watermark. What was aborted before is left out.
"""


class PartitionToFetch(Request, frozen=True, omit_defaults=True):
    """One partition of a binary fetch; `leader_epoch` fences a client with stale metadata.

    `last_fetched_epoch` is the leader epoch that was told with the last fetch up to `offset`. A
    leader whose log was shorter than that when it was elected answers LOG_TRUNCATED.
    """

    topic: str
    partition: int
    offset: int
    max_bytes: int = 1 << 20
    leader_epoch: int | None = None
    last_fetched_epoch: int | None = None


class BinaryFetchRequest(Request, frozen=True):
    """`POST /v1/fetch`: long-poll until `min_bytes` are there or `max_wait_ms` has passed.

    With `replica` `any` a broker also serves the partitions that it follows in sync, up to the high
    watermark that it knows, which lags behind the leader's. An offset that it does not have yet is
    answered with OFFSET_NOT_AVAILABLE: the leader has it, if anybody does. With `local` it serves
    its own copy, in sync or not, up to the high watermark that it knows: for looking into it.
    """

    partitions: list[PartitionToFetch]
    max_wait_ms: int = 500
    min_bytes: int = 1
    max_bytes: int = 16 << 20
    isolation: Isolation = "read_uncommitted"
    replica: Literal["leader", "any", "local"] = "leader"


class FetchedPartition(Response, frozen=True):
    """`batches` are whole record batches; the first may begin below the offset asked for.

    The request names the topic, and a deleted topic's name may be taken again: `topic_id` tells
    whose records these are. `leader_epoch` is that of the leader that answered; None where a
    follower did.

    With `read_committed` the batches are those of committed transactions, and of none; markers are
    left out, too. The next fetch goes on at `next_offset`, which may have moved although there are
    no batches; where it is None, behind the last of them. `last_stable_offset` is where such reads
    end now. Both are None with `read_uncommitted`.
    """

    topic: str
    partition: int
    batches: list[memoryview]
    high_watermark: int
    log_start_offset: int
    error: dict[str, Any] | None = None
    topic_id: str | None = None
    leader_epoch: int | None = None
    next_offset: int | None = None
    last_stable_offset: int | None = None


class BinaryFetchResponse(Response, frozen=True):
    """Results in the order of the request's partitions."""

    partitions: list[FetchedPartition]


class OffsetResponse(Response, frozen=True):
    """`GET …/offsets?at=earliest|latest|<timestamp>`: `latest` is the high watermark.

    For a timestamp (ms since the epoch) it is the first record at or after it, and `timestamp` is
    that record's; where there is none, `offset` is the high watermark and `timestamp` None. With
    `isolation=read_committed` the last stable offset takes the high watermark's place.
    """

    topic: str
    partition: int
    offset: int
    leader_epoch: int
    timestamp: int | None = None


# --- health ---------------------------------------------------------------------------------


class Readiness(Response, frozen=True):
    """`GET /readyz`: 200 with no reasons, or 503 with each reason why not.

    `warnings` tell what an operator should look at though clients may come: a full disk.
    """

    ready: bool
    reasons: list[str]
    warnings: list[str] = []


class Startup(Response, frozen=True):
    """`GET /startupz`: 200 once the process has read its own files and joined in, else 503.

    It never goes back, and never waits for other processes: whoever restarts what does not start
    must not restart a broker that waits for its quorum.
    """

    started: bool


class VersionResponse(Response, frozen=True):
    """`GET /version`."""

    version: str
    python: str
    sqlite: str
