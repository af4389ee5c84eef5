"""Which part of a log is compacted, in which groups, and the table of keys."""

from hypothesis import given, settings
from hypothesis import strategies as st

from ottla_broker.storage.policy.compaction import (
    CompactableSegment,
    CompactionConfig,
    CompactionPlan,
    CompactionProgress,
    SegmentContent,
    group_segments,
    plan_compaction,
)
from ottla_broker.storage.policy.key_offsets import KEY_BYTES, KeyOffsets
from ottla_broker.storage.policy.rolling import SEGMENT_BATCHES_MAX

SEGMENTS = [CompactableSegment(at, at + 10, 100, 1_000 + at, 1_009 + at) for at in range(0, 50, 10)]


def plan(*, cleaned_to=0, cleaned_from=0, horizon=-1, high_watermark=99, now_ms=0, **config):
    return plan_compaction(
        SEGMENTS,
        CompactionProgress(cleaned_to, horizon, cleaned_from),
        CompactionConfig(**config),
        last_stable_offset=high_watermark,
        now_ms=now_ms,
    )


def test_the_dirty_part_ends_below_the_high_watermark():
    assert plan() == CompactionPlan(0, 50)
    assert plan(high_watermark=49) == CompactionPlan(0, 40)
    assert plan(high_watermark=9) is None


def test_what_is_clean_counts_against_what_is_dirty():
    assert plan(cleaned_to=20) == CompactionPlan(20, 50)
    assert plan(cleaned_to=30) is None
    assert plan(cleaned_to=30, min_dirty_ratio=0.4) == CompactionPlan(30, 50)
    assert plan(cleaned_to=50, min_dirty_ratio=0.0) is None


def test_a_segment_that_is_clean_in_part_counts_as_dirty():
    assert plan(cleaned_to=29) == CompactionPlan(29, 50)


def test_a_log_that_begins_further_down_than_then_is_compacted_as_a_whole():
    assert plan(cleaned_to=30, cleaned_from=10) == CompactionPlan(0, 50)
    assert plan(cleaned_to=50, cleaned_from=10) == CompactionPlan(0, 50)


def test_young_segments_and_those_behind_them_wait():
    assert plan(min_lag_ms=10, now_ms=1_038) == CompactionPlan(0, 20)
    assert plan(min_lag_ms=10, now_ms=1_000) is None


def test_an_old_record_does_not_wait_for_the_ratio():
    assert plan(cleaned_to=40, max_lag_ms=100, now_ms=1_140) is None
    assert plan(cleaned_to=40, max_lag_ms=100, now_ms=1_141) == CompactionPlan(40, 50)


def test_a_clean_log_is_compacted_once_more_for_its_tombstones():
    assert plan(cleaned_to=50, horizon=70, now_ms=69) is None
    assert plan(cleaned_to=50, horizon=70, now_ms=70) == CompactionPlan(50, 50)
    assert plan(cleaned_to=50, horizon=70, now_ms=70, high_watermark=49) is None


@given(st.lists(st.builds(SegmentContent, st.integers(0, 1 << 19), st.integers(0, 300))))
def test_groups_are_neighbours_within_the_bounds_and_leave_none_out(contents):
    groups = list(group_segments(contents, segment_bytes=500))
    assert [at for start, end in groups for at in range(start, end)] == list(range(len(contents)))
    for start, end in groups:
        if end - start > 1:
            assert sum(each.size_bytes for each in contents[start:end]) <= 500
            assert sum(each.batches for each in contents[start:end]) <= SEGMENT_BATCHES_MAX


@settings(max_examples=50)
@given(st.lists(st.binary(max_size=3), max_size=200), st.integers(0, 4_000))
def test_the_table_is_a_dictionary_until_it_is_full(keys, map_bytes):
    table = KeyOffsets(map_bytes, len(keys), b"salt")
    model = {}
    for offset, key in enumerate(keys):
        if table.put(key, offset):
            model[key] = offset
        else:
            assert len(model) == table.capacity
            assert key not in model
    assert len(table) == len(model)
    for key in {*keys, b"never"}:
        assert table.get(key) == model.get(key, -1)


def test_a_million_keys_take_32_bytes_each_and_few_keys_little():
    assert KeyOffsets(32 << 20, 1 << 30, b"s").capacity * KEY_BYTES >= (32 << 20) * 0.999
    assert KeyOffsets(32 << 20, 10, b"s").capacity < 100
    assert KeyOffsets(32 << 20, 1_000, b"s").capacity >= 1_000
