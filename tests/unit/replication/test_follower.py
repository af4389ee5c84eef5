"""Reconciliation by epoch: where two logs part, and what the follower cuts."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ottla_cluster.replication.follower import (
    NOTHING,
    FetchPosition,
    FollowerOutput,
    PartitionFollower,
    check_divergence,
    truncation_offset,
)
from ottla_cluster.replication.leader_epochs import (
    NO_EPOCH,
    UNKNOWN_EPOCH_END,
    EpochEnd,
    LeaderEpochs,
)


def epochs_of(log, start=0):
    """The epochs of a log that is given as the list of its records' epochs from offset 0."""
    epochs = LeaderEpochs.empty()
    for offset in range(start, len(log)):
        epochs = epochs.assign(log[offset][0], offset)
    return epochs


def follow(log, *, high_watermark=0, leader_epoch=9):
    return PartitionFollower(
        leader_id=1,
        leader_epoch=leader_epoch,
        epochs=epochs_of(log),
        log_end_offset=len(log),
        high_watermark=high_watermark,
    )


LEADER = LeaderEpochs.of([(1, 0), (3, 10), (5, 20)])


@pytest.mark.parametrize(
    ("last_fetched_epoch", "fetch_offset", "expected"),
    [
        (NO_EPOCH, 0, None),  # an empty log differs from nothing
        (NO_EPOCH, 31, UNKNOWN_EPOCH_END),  # an empty log that begins past the leader's end
        (5, 30, None),
        (5, 31, EpochEnd(5, 30)),  # past the leader's end
        (3, 20, None),
        (3, 21, EpochEnd(3, 20)),  # more of epoch 3 than the leader has
        (4, 15, EpochEnd(3, 20)),  # an epoch that the leader misses
        (0, 5, UNKNOWN_EPOCH_END),  # older than all the leader has
        (7, 25, EpochEnd(5, 30)),
    ],
)
def test_check_divergence(last_fetched_epoch, fetch_offset, expected):
    assert check_divergence(LEADER, 30, last_fetched_epoch, fetch_offset) == expected


@pytest.mark.parametrize(
    ("own", "log_end", "diverging", "expected"),
    [
        ([(1, 0), (3, 10)], 25, EpochEnd(3, 20), 20),  # both have epoch 3: the smaller end
        ([(1, 0), (3, 10), (4, 15)], 25, EpochEnd(3, 20), 15),
        ([(1, 0), (2, 8), (4, 12)], 25, EpochEnd(3, 20), 12),  # 3 is unknown here: ask about 2
        ([(4, 5)], 25, EpochEnd(3, 20), 5),  # retention took what came before epoch 4
        ([(4, 0)], 25, UNKNOWN_EPOCH_END, 0),
        ([], 25, EpochEnd(3, 20), 0),
    ],
)
def test_truncation_offset(own, log_end, diverging, expected):
    assert truncation_offset(LeaderEpochs.of(own), log_end, diverging) == expected


def test_a_fetch_position_names_the_epoch_of_the_last_record():
    follower = follow([(2, "a"), (2, "b"), (4, "c")])
    assert follower.fetch_position == FetchPosition(3, 4, 9)


def test_an_epoch_without_records_is_not_the_last_fetched_one():
    follower = PartitionFollower(
        leader_id=1,
        leader_epoch=9,
        epochs=LeaderEpochs.of([(2, 0), (4, 3)]),
        log_end_offset=3,
        high_watermark=0,
    )
    assert follower.fetch_position == FetchPosition(3, 2, 9)


def answer(follower, *, diverging=None, log_start=0, high_watermark=0):
    return follower.fetch_answered(
        follower.fetch_position,
        diverging=diverging,
        leader_log_start_offset=log_start,
        leader_high_watermark=high_watermark,
    )


def test_a_diverging_answer_cuts_and_tells_nothing_of_the_high_watermark():
    follower = follow([(1, "a"), (1, "b"), (2, "c")])
    assert answer(follower, diverging=EpochEnd(1, 1), high_watermark=3) == FollowerOutput(
        truncate_to=1
    )
    assert follower.log_changed(1, epochs_of([(1, "a")])) == NOTHING


def test_a_fetch_below_the_leaders_start_restarts_the_log_there():
    assert answer(follow([(1, "a")]), log_start=7) == FollowerOutput(restart_at=7)


def test_after_a_restart_the_high_watermark_is_not_below_the_log_s_start():
    follower = follow([(1, "a")])
    answer(follower, log_start=7, high_watermark=9)
    assert follower.log_changed(7, LeaderEpochs.empty()) == FollowerOutput(high_watermark=7)
    assert follower.fetch_position == FetchPosition(7, NO_EPOCH, follower.leader_epoch)


@pytest.mark.parametrize(
    ("diverging", "log_start", "expected"),
    [
        (UNKNOWN_EPOCH_END, 0, FollowerOutput(truncate_to=0)),
        (UNKNOWN_EPOCH_END, 3, FollowerOutput(restart_at=3)),
        (EpochEnd(1, 1), 1, FollowerOutput(truncate_to=1)),
        (EpochEnd(1, 1), 2, FollowerOutput(restart_at=2)),
    ],
)
def test_a_log_is_not_cut_below_the_leader_s_start(diverging, log_start, expected):
    """An in-sync follower whose records the leader has all let go is never empty at 0."""
    follower = follow([(1, "a"), (2, "b"), (2, "c")], high_watermark=3)
    assert answer(follower, diverging=diverging, log_start=log_start, high_watermark=3) == expected


def test_the_high_watermark_is_bound_by_the_own_log_end_and_never_falls():
    log = [(1, "a"), (1, "b")]
    follower = follow(log, high_watermark=1)
    assert answer(follower, high_watermark=4) == FollowerOutput(high_watermark=2)
    log.append((1, "c"))
    assert follower.log_changed(3, epochs_of(log)) == FollowerOutput(high_watermark=3)
    assert answer(follower, high_watermark=1) == NOTHING
    assert follower.high_watermark == 3


def test_cutting_below_the_high_watermark_takes_it_along():
    follower = follow([(1, "a"), (1, "b")], high_watermark=2)
    assert follower.log_changed(1, epochs_of([(1, "a")])) == FollowerOutput(high_watermark=1)
    assert follower.high_watermark == 1


def test_an_answer_to_another_fetch_is_a_programmer_error():
    follower = follow([(1, "a")])
    with pytest.raises(AssertionError):
        follower.fetch_answered(
            FetchPosition(0, NO_EPOCH, 9),
            diverging=None,
            leader_log_start_offset=0,
            leader_high_watermark=0,
        )


# Histories: leadership e starts from a prefix of some replica's log and appends records of epoch e
# there, as elections (clean or not) do. Log matching holds by construction.
STEPS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 12), st.integers(0, 4)),
    min_size=1,
    max_size=12,
)


def histories(steps):
    logs = [[] for _ in range(4)]
    for epoch, (leader, follower, kept, appended) in enumerate(steps):
        logs[leader] = logs[leader] + [(epoch, len(logs[leader]) + i) for i in range(appended)]
        if follower != leader:
            logs[follower] = logs[leader][: max(kept, 0)]
    return logs


@settings(max_examples=300)
@given(STEPS, st.integers(0, 12), st.integers(0, 12))
def test_reconciliation_ends_at_the_common_prefix(steps, follower_start, leader_start):
    """Whatever the history, the follower ends with exactly what both logs share."""
    logs = histories(steps)
    leader_log, follower_log = logs[0], list(logs[1])
    common = 0
    for ours, theirs in zip(follower_log, leader_log, strict=False):
        if ours != theirs:
            break
        common += 1
    # Retention removes only what is committed, so what both have.
    leader_epochs = epochs_of(leader_log, start=min(leader_start, common))
    own_start = min(follower_start, common)
    rounds = 0
    while True:
        follower = PartitionFollower(
            leader_id=0,
            leader_epoch=99,
            epochs=epochs_of(follower_log, start=own_start),
            log_end_offset=len(follower_log),
            high_watermark=0,
        )
        position = follower.fetch_position
        diverging = check_divergence(
            leader_epochs, len(leader_log), position.last_fetched_epoch, position.offset
        )
        if diverging is None:
            break
        output = answer(follower, diverging=diverging)
        assert output.truncate_to is not None
        assert output.truncate_to < len(follower_log)
        follower_log = follower_log[: output.truncate_to]
        own_start = min(own_start, len(follower_log))
        rounds += 1
    assert rounds <= len(steps) + 1
    retained = min(leader_start, common)
    if len(follower_log) >= retained:
        assert len(follower_log) == common
    else:
        # Nothing in common above the leader's start: all goes, and the fetch restarts there.
        assert follower_log == []
