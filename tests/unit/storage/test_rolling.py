"""When the active segment is full."""

import pytest

from ottla_broker.storage.policy.rolling import SEGMENT_BATCHES_MAX, SegmentFill, should_roll


@pytest.mark.parametrize(
    ("fill", "size_bytes", "timestamp", "expected"),
    [
        (SegmentFill(), 10_000, 10_000, False),
        (SegmentFill(600, 1, 0), 400, 0, False),
        (SegmentFill(600, 1, 0), 401, 0, True),
        (SegmentFill(1, 1, 50), 1, 549, False),
        (SegmentFill(1, 1, 50), 1, 550, True),
        (SegmentFill(1, 1, 50), 1, 0, False),
        (SegmentFill(1, 1, -1), 1, 1_000, False),
        (SegmentFill(1, SEGMENT_BATCHES_MAX - 1, 0), 1, 0, False),
        (SegmentFill(1, SEGMENT_BATCHES_MAX, 0), 1, 0, True),
    ],
)
def test_a_segment_rolls_at_its_limits_and_never_empty(fill, size_bytes, timestamp, expected):
    rolls = should_roll(fill, size_bytes, timestamp, segment_bytes=1_000, segment_ms=500)
    assert rolls is expected


def test_the_fill_keeps_the_first_and_the_newest_timestamp():
    fill = SegmentFill().with_batch(10, 7).with_batch(20, 3)
    assert fill == SegmentFill(bytes_used=30, batches=2, first_timestamp=7, newest_timestamp=7)
    assert fill.with_batch(1, 9).newest_timestamp == 9
