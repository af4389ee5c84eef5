"""When the active segment is full, so that the next batch begins a new one.

Segments bound three things: what retention deletes at once, what recovery reads after a crash, and
how long sealing takes. The decision is made when a batch is appended, from what the log has
assigned so far, so that leader and follower need no clock for it.
"""

from typing import NamedTuple

SEGMENT_BATCHES_MAX = 1 << 20
"""Most batches in one segment: bounds recovery and the time index even when batches are tiny."""


class SegmentFill(NamedTuple):
    """What the active segment holds, batches that are still queued included.

    Invariant: `batches == 0` exactly when `bytes_used == 0`; the timestamps mean nothing then.
    """

    bytes_used: int = 0
    batches: int = 0
    first_timestamp: int = -1
    newest_timestamp: int = -1

    def with_batch(self, size_bytes: int, timestamp: int) -> "SegmentFill":
        """The fill after one more batch; `timestamp` is the batch's largest, in ms."""
        first = timestamp if self.batches == 0 else self.first_timestamp
        newest = max(timestamp, self.newest_timestamp)
        return SegmentFill(self.bytes_used + size_bytes, self.batches + 1, first, newest)


def should_roll(
    fill: SegmentFill, size_bytes: int, timestamp: int, *, segment_bytes: int, segment_ms: int
) -> bool:
    """Whether a batch of `size_bytes` with largest timestamp `timestamp` begins a new segment.

    An empty segment takes any batch, so a batch larger than `segment_bytes` gets its own. As in
    Kafka, age is measured between record timestamps, not by the wall clock; where the segment's
    first batch has none, it has no age.
    """
    if fill.batches == 0:
        return False
    return (
        fill.bytes_used + size_bytes > segment_bytes
        or fill.batches >= SEGMENT_BATCHES_MAX
        or (fill.first_timestamp >= 0 and timestamp - fill.first_timestamp >= segment_ms)
    )
