"""How far a copy is, as its leader sees it."""

from hypothesis import given
from hypothesis import strategies as st

from ottla_cluster.replication.copying import RATE_WINDOW_MS, SAMPLE_INTERVAL_MS, CopyMeter


def progress(meter, now_ms, *, start=0, end=1_000, size=100_000):
    return meter.progress(log_start_offset=start, log_end_offset=end, log_bytes=size, now_ms=now_ms)


def test_what_is_copied_and_what_remains():
    meter = CopyMeter(0, 0)
    meter.sent(25_000)
    meter.fetched(250, 5_000)
    found = progress(meter, 5_000)
    assert (found.copied_bytes, found.copied_offsets) == (25_000, 250)
    assert (found.remaining_offsets, found.remaining_bytes) == (750, 75_000)
    assert (found.bytes_per_second, found.remaining_seconds) == (5_000, 15)


def test_an_idle_copy_has_no_time_and_a_finished_one_none_left():
    meter = CopyMeter(0, 0)
    assert progress(meter, 100).remaining_seconds is None
    meter.fetched(1_000, 200)
    assert progress(meter, 200).remaining_seconds == 0
    assert progress(CopyMeter(0, 0), 5, end=0, size=0).remaining_bytes == 0


def test_the_rate_is_that_of_late():
    meter = CopyMeter(0, 0)
    meter.sent(1_000_000)
    now_ms = 0
    while now_ms < 3 * RATE_WINDOW_MS:
        now_ms += SAMPLE_INTERVAL_MS
        meter.sent(500)
        meter.fetched(1, now_ms)
    assert progress(meter, now_ms).bytes_per_second == 1_000
    assert progress(meter, now_ms + RATE_WINDOW_MS + 1).bytes_per_second <= 50
    assert progress(meter, now_ms + 2 * RATE_WINDOW_MS + 2).bytes_per_second == 0


@given(
    st.lists(
        st.tuples(st.integers(0, 5_000), st.integers(0, 1_000), st.integers(0, 10_000)),
        max_size=80,
    ),
    st.integers(0, 500),
    st.integers(0, 1_000),
)
def test_it_is_never_less_than_nothing_and_keeps_few_samples(fetches, start, length):
    """Also where a log begins anew, and the replica's offset goes back or lies outside."""
    meter = CopyMeter(0, 0)
    now_ms = 0
    for passed_ms, offset, size in fetches:
        now_ms += passed_ms
        meter.fetched(offset, now_ms)
        meter.sent(size)
        found = progress(meter, now_ms, start=start, end=start + length)
        assert found.copied_offsets + found.remaining_offsets == length
        assert min(found.copied_offsets, found.remaining_offsets, found.bytes_per_second) >= 0
        assert 0 <= found.remaining_bytes <= 100_000
    assert len(meter._samples) <= RATE_WINDOW_MS // SAMPLE_INTERVAL_MS + 3
