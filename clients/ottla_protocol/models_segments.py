"""Requests and responses about the segments of a replica: what an operator looks into."""

from typing import Literal

from ottla_protocol.models import Request, Response

DEFAULT_LISTED_SEGMENTS = 100
MAX_LISTED_SEGMENTS = 1_000

DEFAULT_VERIFIED_BYTES = 64 << 20
MAX_VERIFIED_BYTES = 1 << 30

SegmentState = Literal["active", "sealed", "unreadable", "put-aside"]


class SegmentDescription(Response, frozen=True):
    """One file of a replica.

    `file` is relative to the broker's data directory. A file that is `put-aside` was replaced by
    its good batches; neither it nor an `unreadable` one was counted. `end_offset` is where the next
    segment begins, in an active one what is not durable yet; `size_bytes` includes what SQLite
    keeps beside the file. Timestamps, in ms, are the lowest and highest of its batches' latest.
    `aborted_transactions` counts those that were aborted by markers in it.
    """

    file: str
    state: SegmentState
    base_offset: int
    end_offset: int | None
    size_bytes: int
    batches: int
    records: int
    first_timestamp: int | None
    last_timestamp: int | None
    leader_epoch: int | None
    aborted_transactions: int = 0


class SegmentList(Response, frozen=True):
    """`GET …/segments`: one replica's, oldest first.

    `next_offset` is the `from` of the request for the rest, None where there is none.
    """

    topic: str
    partition: int
    replica: int
    role: Literal["leader", "follower", "none"]
    log_start_offset: int
    log_end_offset: int
    high_watermark: int
    segments: list[SegmentDescription]
    next_offset: int | None = None


class VerifySegmentsRequest(Request, frozen=True):
    """`POST …/segments/verify`: verify one replica, a bounded part of it at a time.

    `replica` is the leader's where it is None. `offset` is the `next_offset` of the answer before,
    or where to begin; the log's start where it is None. About `max_bytes` are read, less where
    that takes too long.
    """

    replica: int | None = None
    offset: int | None = None
    max_bytes: int = DEFAULT_VERIFIED_BYTES


class SegmentFinding(Response, frozen=True):
    """Something that is not as it was written; `offset` is None where none can be named."""

    file: str
    offset: int | None
    reason: str


class VerifiedSegment(Response, frozen=True):
    """What this call read of one segment: batches from `from_offset` up to `end_offset`.

    `batches` and `records` leave the damaged ones out. Where `is_complete` is False, the rest of
    the segment cannot be read, or too much of it is damaged.
    """

    file: str
    sealed: bool
    base_offset: int
    from_offset: int
    end_offset: int
    batches: int
    records: int
    findings: list[SegmentFinding]
    is_complete: bool


class SegmentVerificationPart(Response, frozen=True):
    """The answer: `next_offset` is None when the replica was verified to its end."""

    topic: str
    partition: int
    replica: int
    segments: list[VerifiedSegment]
    verified_bytes: int
    next_offset: int | None
