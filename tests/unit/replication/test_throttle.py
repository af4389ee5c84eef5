"""The rate at which a leader copies to replicas that are being added (KIP-73)."""

from hypothesis import given
from hypothesis import strategies as st

from ottla_cluster.controller.image import Partition
from ottla_cluster.replication.throttle import (
    BURST_MS,
    PIECE_BYTES,
    PIECE_MS,
    ReplicationThrottle,
    is_throttled,
)

MEBIBYTE = 1 << 20


def test_only_what_a_reassignment_adds_is_throttled_and_only_until_it_is_in_sync():
    partition = Partition(
        "id", "t", 0, replicas=(1, 2, 3, 4), isr=(1, 3), leader=1, leader_epoch=1,
        partition_epoch=1, adding_replicas=(3, 4), target_replicas=(1, 3, 4),
    )  # fmt: skip
    assert [is_throttled(partition, replica) for replica in (1, 2, 3, 4)] == [
        False, False, False, True,
    ]  # fmt: skip


def test_without_a_rate_there_is_no_limit():
    throttle = ReplicationThrottle()
    throttle.sent(10 * MEBIBYTE, 0)
    assert throttle.allowance_bytes(1) is None


def test_a_batch_larger_than_the_rate_passes_and_is_paid_for():
    throttle = ReplicationThrottle()
    throttle.set_rate(1024, 0)
    assert throttle.allowance_bytes(500) > 0
    throttle.sent(10 * 1024, 500)
    assert throttle.allowance_bytes(9_500) == 0
    assert throttle.allowance_bytes(10_500) > 0


def test_what_was_not_sent_after_all_is_given_back():
    throttle = ReplicationThrottle()
    throttle.set_rate(MEBIBYTE, 0)
    before = throttle.allowance_bytes(1_000)
    throttle.sent(before, 1_000)
    assert throttle.allowance_bytes(1_000) == 0
    throttle.sent(-before, 1_000)
    assert throttle.allowance_bytes(1_000) == before


def test_another_rate_counts_at_once_and_keeps_a_debt():
    throttle = ReplicationThrottle()
    throttle.set_rate(1_000, 0)
    throttle.sent(10_000, 0)
    throttle.set_rate(10_000, 0)
    assert throttle.allowance_bytes(999) == 0
    assert throttle.allowance_bytes(1_200) > 0
    throttle.set_rate(None, 1_200)
    assert throttle.allowance_bytes(1_200) is None


@given(
    st.integers(1_024, 200 * MEBIBYTE),
    st.lists(st.tuples(st.integers(0, 3_000), st.integers(1, 4 * MEBIBYTE)), max_size=60),
    st.integers(1, 2 * MEBIBYTE),
)
def test_no_span_has_more_than_its_rate_a_burst_and_one_batch(rate, polls, batch_bytes):
    """Whatever the polls: each takes what it is allowed, but at least one batch if anything."""
    throttle = ReplicationThrottle()
    throttle.set_rate(rate, 0)
    now_ms, sent = 0, []
    for passed_ms, max_bytes in polls:
        now_ms += passed_ms
        allowance = throttle.allowance_bytes(now_ms)
        if allowance > 0:
            size = max(batch_bytes, min(allowance, max_bytes))
            throttle.sent(size, now_ms)
            sent.append((now_ms, size))
    for first, (from_ms, _) in enumerate(sent):
        total = 0
        for until_ms, size in sent[first:]:
            total += size
            bound = rate * (until_ms - from_ms + BURST_MS) / 1000 + batch_bytes
            assert total <= bound, (rate, sent)


@given(st.integers(1_024, 200 * MEBIBYTE), st.integers(1, 500), st.integers(1, MEBIBYTE))
def test_the_rate_is_reached_by_whoever_polls_at_least_every_half_second(
    rate, interval_ms, batch_bytes
):
    throttle = ReplicationThrottle()
    throttle.set_rate(rate, 0)
    duration_ms = 60_000
    total = 0
    for now_ms in range(0, duration_ms, interval_ms):
        allowance = throttle.allowance_bytes(now_ms)
        if allowance > 0:
            size = -(-allowance // batch_bytes) * batch_bytes
            throttle.sent(size, now_ms)
            total += size
    piece = max(PIECE_BYTES, rate * PIECE_MS // 1000)
    assert total >= rate * (duration_ms - interval_ms) // 1000 - piece
