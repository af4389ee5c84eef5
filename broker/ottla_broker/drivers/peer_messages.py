"""What brokers say to one another under `/internal/`, as MessagePack.

The frequent structs are arrays on the wire: field order is the format, so new fields go last and
get a default. Record batches travel as `bin` and are read as views of the body, never copied.
"""

from typing import Any

import msgspec


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
    """A follower's long-poll to one leader broker, for all partitions that it follows there."""

    replica_id: int
    broker_epoch: int
    max_wait_ms: int
    min_bytes: int
    max_bytes: int
    positions: list[PartitionFetch]


class ReplicatedBatch(msgspec.Struct, frozen=True, array_like=True):
    """A record batch as the leader stored it, with its idempotency column."""

    data: memoryview
    idempotency: bytes | None


class FetchResult(msgspec.Struct, frozen=True, array_like=True):
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
    batches: list[ReplicatedBatch]


class ReplicaFetchResponse(msgspec.Struct, frozen=True, array_like=True):
    """The leader's answer, in the order of the request's positions."""

    results: list[FetchResult]


class CommitVersion(msgspec.Struct, frozen=True, array_like=True):
    """The metadata version that the active controller knows to be committed."""

    version: int


class UnreachableBroker(msgspec.Struct, frozen=True, array_like=True):
    """A peer's connection was refused: the controller checks for itself and then fences it."""

    node_id: int
    broker_epoch: int


class IdempotencyLookup(msgspec.Struct, frozen=True, array_like=True):
    """Asks the leader of some partitions whether it knows an Idempotency-Key."""

    topic_id: str
    partitions: list[int]
    idempotency: bytes


class IdempotencyHit(msgspec.Struct, frozen=True, array_like=True):
    """A partition that holds records of that key and body."""

    partition: int
    base_offset: int
    last_offset: int
    timestamp: int


def encode(message: Any) -> bytes:
    """MessagePack of any of the structs above."""
    return msgspec.msgpack.encode(message)
