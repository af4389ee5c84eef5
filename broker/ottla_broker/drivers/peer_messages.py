"""What brokers say to one another under `/internal/`, as MessagePack.

The frequent structs are arrays on the wire: field order is the format, so new fields go last and
get a default. Forwarded batches travel as `bin`; fetched ones follow the message that describes
them. Both are read as views of the body, never copied.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec

from ottla_cluster.replication.fetch_session import NO_SESSION, NO_SESSION_EPOCH
from ottla_protocol.models import Isolation
from ottla_protocol.record_batch import Buffer

_LENGTH_BYTES = 4


class QuorumCall(msgspec.Struct, frozen=True):
    """What the quorum's leader is to do before it describes the quorum; nothing if all are None."""

    add: tuple[int, str] | None = None
    """Node id and URL of a node that is to vote."""
    remove: int | None = None
    force: bool = False
    """Whether to remove that voter although the others could not commit anything without it."""
    transfer: bool = False
    transfer_to: int | None = None


class IntroductionRequest(msgspec.Struct, frozen=True):
    """Who are you? To a URL that somebody has named, before it is told the cluster's secret."""

    url: str
    """At which it is asked: it answers for no other."""
    nonce: bytes
    proof: bytes | None
    """That the sender knows the cluster's secret; None where there is none."""


class Introduction(msgspec.Struct, frozen=True):
    """Which node answers at a URL, whether it may vote, and that it knows the secret."""

    node_id: int
    is_controller: bool
    proof: bytes | None


class PartitionFetch(msgspec.Struct, frozen=True, array_like=True):
    """One partition in a follower's fetch.

    `offset` acknowledges that everything below it is durable at the follower, provided that
    `last_fetched_epoch` (-1 for an empty log) shows both logs to agree below it.
    """

    topic_id: str
    partition: int
    leader_epoch: int
    offset: int
    last_fetched_epoch: int
    max_bytes: int


class ReplicaFetchRequest(msgspec.Struct, frozen=True, array_like=True):
    """A follower's long-poll to one leader broker, for all partitions that it follows there.

    In a session `positions` are those that changed, and `forgotten` (topic id, partition) those
    that are followed there no more (`ottla_cluster.replication.fetch_session`).
    """

    replica_id: int
    broker_epoch: int
    max_wait_ms: int
    min_bytes: int
    max_bytes: int
    positions: list[PartitionFetch]
    session_id: int = NO_SESSION
    session_epoch: int = NO_SESSION_EPOCH
    forgotten: list[tuple[str, int]] = []


class ReplicatedBatch(NamedTuple):
    """A record batch as the leader stored it, with its idempotency column."""

    data: Buffer
    idempotency: bytes | None


class _BatchDescription(msgspec.Struct, frozen=True, array_like=True):
    size_bytes: int
    idempotency: bytes | None


class _ResultDescription(msgspec.Struct, frozen=True, array_like=True):
    topic_id: str
    partition: int
    error_code: str | None
    high_watermark: int
    log_start_offset: int
    diverging: tuple[int, int] | None
    batches: list[_BatchDescription]


class _SessionDescription(msgspec.Struct, frozen=True):
    """What is answered to those who ask for a session; a map, where others get an array."""

    session_id: int
    results: list[_ResultDescription]


@dataclass(frozen=True, slots=True)
class FetchResult:
    """One partition's answer; partitions with nothing to tell are left out.

    `diverging` (epoch, end offset; KIP-595) tells the follower to truncate; then there are no
    batches.
    """

    topic_id: str
    partition: int
    error_code: str | None
    high_watermark: int
    log_start_offset: int
    diverging: tuple[int, int] | None
    batches: Sequence[ReplicatedBatch]

    def leaves_session(self, offset: int) -> bool:
        """Whether a partition that was fetched from `offset` is to be named again in its session.

        The follower has something to change first: its leader, its log, or where it begins.
        """
        return (
            self.error_code is not None
            or self.diverging is not None
            or offset < self.log_start_offset
        )


class CommitVersion(msgspec.Struct, frozen=True, array_like=True):
    """The metadata version that the active controller knows to be committed."""

    version: int


class KnownLeader(msgspec.Struct, frozen=True, array_like=True):
    """Who leads the metadata quorum and where it is reached, as the process that answers knows."""

    node_id: int
    url: str


class UnreachableBroker(msgspec.Struct, frozen=True, array_like=True):
    """A peer's connection was refused: the controller checks for itself and then fences it."""

    node_id: int
    broker_epoch: int


class SupportedFeatureLevels(msgspec.Struct, frozen=True, array_like=True):
    """The feature levels that a process supports, and whether it may vote.

    A version that tells no more than the levels had controllers only.
    """

    oldest: int
    latest: int
    node_id: int | None = None
    is_controller: bool = True


class ReplicaCopyReport(msgspec.Struct, frozen=True, array_like=True):
    """How far one replica that is being added has come; as `CopyProgress`."""

    topic_id: str
    partition: int
    replica_id: int
    copied_bytes: int
    copied_offsets: int
    remaining_bytes: int
    remaining_offsets: int
    bytes_per_second: int
    remaining_seconds: int | None


class ReplicaCopyReports(msgspec.Struct, frozen=True, array_like=True):
    """All copies from one leader broker."""

    copies: list[ReplicaCopyReport]


class IdempotencyLookup(msgspec.Struct, frozen=True, array_like=True):
    """Asks the leader of some partitions whether it knows an Idempotency-Key.

    With `metadata_version` the answer is one for good: it waits until the leader's metadata is at
    least as new, and is refused while it is not certain that what is found stays. So what is not
    found by then is appended later only by whoever knows how many partitions there were.
    """

    topic_id: str
    partitions: list[int]
    idempotency: bytes
    metadata_version: int | None = None


class IdempotencyHit(msgspec.Struct, frozen=True, array_like=True):
    """A partition that holds records of that key and body."""

    partition: int
    base_offset: int
    last_offset: int
    timestamp: int


class PartitionName(msgspec.Struct, frozen=True, array_like=True):
    """A partition by its topic's id."""

    topic_id: str
    partition: int


class OpenTransactionLookup(msgspec.Struct, frozen=True, array_like=True):
    """Asks a leader which transactions are open in its logs.

    `last_timestamp_max` leaves out those whose producers have written since, in ms since the epoch.
    """

    partitions: list[PartitionName]
    last_timestamp_max: int


class OpenInLog(msgspec.Struct, frozen=True, array_like=True):
    """A transaction that has records in a log and no marker."""

    producer_id: int
    producer_epoch: int
    first_offset: int
    last_timestamp: int


class OpenTransactionsOfLog(msgspec.Struct, frozen=True, array_like=True):
    """What is open in one partition that is led here, the oldest first."""

    topic_id: str
    partition: int
    last_stable_offset: int
    high_watermark: int
    transactions: list[OpenInLog]


class PartitionBounds(msgspec.Struct, frozen=True, array_like=True):
    """Where a partition that is led here begins and ends for consumers."""

    topic_id: str
    partition: int
    log_start_offset: int
    high_watermark: int
    last_stable_offset: int | None = None
    """None from a broker that knows of no transactions."""

    def latest(self, isolation: Isolation) -> int:
        """Where it ends for such readers."""
        if isolation == "read_uncommitted" or self.last_stable_offset is None:
            return self.high_watermark
        return self.last_stable_offset


class ReplicaLogEnd(msgspec.Struct, frozen=True, array_like=True):
    """Where the log of a replica ends, whatever its role."""

    topic_id: str
    partition: int
    last_epoch: int
    log_end_offset: int


class LogEnds(msgspec.Struct, frozen=True, array_like=True):
    """What a broker has of the partitions that it was asked for; others are left out."""

    broker_epoch: int
    log_ends: list[ReplicaLogEnd]


class TimestampLookup(msgspec.Struct, frozen=True, array_like=True):
    """Asks where records of a time, in ms since the epoch, begin in partitions led here."""

    partitions: list[PartitionName]
    timestamp: int
    isolation: Isolation = "read_uncommitted"


class TimestampOffset(msgspec.Struct, frozen=True, array_like=True):
    """The first record of that time or later; where such readers end if there is none."""

    topic_id: str
    partition: int
    offset: int


class SegmentListCall(msgspec.Struct, frozen=True, array_like=True):
    """Asks for the segments of a replica, at most `limit`, from the one with `from_offset` on."""

    topic_id: str
    partition: int
    from_offset: int
    limit: int


class SegmentVerificationCall(msgspec.Struct, frozen=True, array_like=True):
    """Asks a broker to verify about `max_bytes` of its replica from `offset` on."""

    topic_id: str
    partition: int
    offset: int
    max_bytes: int


class TrimCall(msgspec.Struct, frozen=True, array_like=True):
    """Asks a leader to have its partition begin further up; without an end named, at its own."""

    topic_id: str
    partition: int
    before_offset: int | None
    before_timestamp: int | None
    dry_run: bool


class CoordinatorCall(msgspec.Struct, frozen=True, array_like=True):
    """A command for the coordinator on one partition of an internal topic."""

    partition: int
    timeout_ms: int
    command: msgspec.Raw


class TransactionMarker(msgspec.Struct, frozen=True, array_like=True):
    """What ends one producer's transaction in a partition."""

    producer_id: int
    producer_epoch: int
    is_commit: bool
    coordinator_epoch: int
    """The leader epoch of the coordinator that decided."""


class PartitionMarkers(msgspec.Struct, frozen=True, array_like=True):
    """Markers for one partition, in the order of their decisions."""

    topic_id: str
    partition: int
    markers: tuple[TransactionMarker, ...]


class WriteMarkers(msgspec.Struct, frozen=True, array_like=True):
    """Asks the leader of some partitions to have markers in them, committed."""

    timeout_ms: int
    partitions: tuple[PartitionMarkers, ...]


class MarkersWritten(msgspec.Struct, frozen=True, array_like=True):
    """For each partition of the call, in its order, each marker's refusal; None: it is there."""

    error_codes: tuple[tuple[str | None, ...], ...]
    appended: tuple[tuple[bool, ...], ...] = ()
    """Likewise whether this call put the marker there, and it is committed. False where another end
    of that transaction was there before, or the same marker from an earlier call; where it is
    refused, though after a time-out it is in the log and may yet be committed; and for pending
    offsets, of which nobody tells. Empty from brokers that do not tell."""


def encode(message: Any) -> bytes:
    """MessagePack of any of the structs above."""
    return msgspec.msgpack.encode(message)


def encode_fetch_answer(
    results: Sequence[FetchResult], session_id: int | None = None
) -> tuple[Buffer, ...]:
    """A leader's answer to a fetch, in parts that are sent one after the other.

    The length of the descriptions (4 bytes, big-endian), the descriptions in MessagePack, then the
    bytes of every batch in the same order: the batches are never copied into a message.
    `session_id` is None for followers that know no sessions.
    """
    described = [
        _ResultDescription(
            result.topic_id,
            result.partition,
            result.error_code,
            result.high_watermark,
            result.log_start_offset,
            result.diverging,
            [_BatchDescription(len(data), key) for data, key in result.batches],
        )
        for result in results
    ]
    descriptions = msgspec.msgpack.encode(
        described if session_id is None else _SessionDescription(session_id, described)
    )
    batches = [batch.data for result in results for batch in result.batches]
    return (len(descriptions).to_bytes(_LENGTH_BYTES, "big") + descriptions, *batches)


def decode_fetch_answer(body: bytes | bytearray) -> tuple[int, list[FetchResult]]:
    """The answer's session id, NO_SESSION without one, and its results: views of `body`.

    Raises:
        ValueError: it is no such answer, or is cut off.
    """
    view = memoryview(body)
    start = _LENGTH_BYTES + int.from_bytes(view[:_LENGTH_BYTES], "big")
    try:
        answer = _descriptions.decode(view[_LENGTH_BYTES:start])
    except msgspec.MsgspecError as error:
        raise ValueError(f"its descriptions do not parse: {error}") from error
    session_id, descriptions = NO_SESSION, answer
    if isinstance(answer, _SessionDescription):
        session_id, descriptions = answer.session_id, answer.results
    results = []
    for described in descriptions:
        batches = []
        for batch in described.batches:
            end = start + batch.size_bytes
            if not start < end <= len(view):
                raise ValueError(f"a batch of {batch.size_bytes} bytes does not fit its body")
            batches.append(ReplicatedBatch(view[start:end], batch.idempotency))
            start = end
        results.append(
            FetchResult(
                described.topic_id,
                described.partition,
                described.error_code,
                described.high_watermark,
                described.log_start_offset,
                described.diverging,
                batches,
            )
        )
    if start != len(view):
        raise ValueError(f"{len(view) - start} bytes follow its last batch")
    return session_id, results


_descriptions = msgspec.msgpack.Decoder(list[_ResultDescription] | _SessionDescription)
