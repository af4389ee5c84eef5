"""Leader epochs: what a log knows of its past leaders."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ottla_cluster.replication.leader_epochs import (
    NO_EPOCH,
    UNKNOWN_EPOCH_END,
    EpochEnd,
    EpochStart,
    LeaderEpochs,
)
from ottla_protocol.errors import CorruptMessageError, StorageError

EPOCHS = LeaderEpochs.of([(2, 0), (5, 10), (6, 12)])


def test_an_empty_log_has_no_epoch():
    epochs = LeaderEpochs.empty()
    assert epochs.latest_epoch == NO_EPOCH
    assert epochs.end_offset_for(3, 0) == UNKNOWN_EPOCH_END == EpochEnd(-1, -1)
    assert epochs.epoch_at(0) == NO_EPOCH
    assert epochs.truncate_to(0) == epochs.truncate_before(7) == epochs


@pytest.mark.parametrize(
    ("requested", "expected"),
    [
        (1, UNKNOWN_EPOCH_END),  # older than anything here
        (2, EpochEnd(2, 10)),  # ends where the next epoch starts
        (4, EpochEnd(2, 10)),  # KIP-279: the largest epoch that is at most the requested one
        (5, EpochEnd(5, 12)),
        (6, EpochEnd(6, 20)),  # the latest ends at the log end
        (9, EpochEnd(6, 20)),
    ],
)
def test_end_offset_names_the_largest_epoch_at_most_the_requested_one(requested, expected):
    assert EPOCHS.end_offset_for(requested, 20) == expected


@pytest.mark.parametrize(("offset", "epoch"), [(0, 2), (9, 2), (10, 5), (11, 5), (12, 6), (100, 6)])
def test_epoch_at(offset, epoch):
    assert EPOCHS.epoch_at(offset) == epoch


def test_assigning_the_latest_epoch_again_changes_nothing():
    assert EPOCHS.assign(6, 15) is EPOCHS


def test_assigning_an_older_epoch_is_refused():
    with pytest.raises(CorruptMessageError):
        EPOCHS.assign(5, 15)


def test_an_epoch_without_records_gives_way_to_the_next_at_its_offset():
    assert EPOCHS.assign(8, 12).entries[1:] == (EpochStart(5, 10), EpochStart(8, 12))


def test_an_epoch_without_records_gives_way_to_older_records_too():
    """It led and appended nothing; now it follows a leader whose next records are older."""
    assert LeaderEpochs.of([(3, 0)]).assign(1, 0) == LeaderEpochs.of([(1, 0)])
    assert EPOCHS.assign(5, 12) == LeaderEpochs.of([(2, 0), (5, 10)])


def test_truncating_the_end_keeps_the_epochs_that_still_hold_a_record():
    assert EPOCHS.truncate_to(12) == LeaderEpochs.of([(2, 0), (5, 10)])
    assert EPOCHS.truncate_to(11) == LeaderEpochs.of([(2, 0), (5, 10)])
    assert EPOCHS.truncate_to(10) == LeaderEpochs.of([(2, 0)])
    assert EPOCHS.truncate_to(13) is EPOCHS


def test_truncating_the_start_moves_the_covering_epoch():
    assert EPOCHS.truncate_before(11) == LeaderEpochs.of([(5, 11), (6, 12)])
    assert EPOCHS.truncate_before(12) == LeaderEpochs.of([(6, 12)])
    assert EPOCHS.truncate_before(20) == LeaderEpochs.of([(6, 20)])
    assert EPOCHS.truncate_before(0) is EPOCHS


def test_disordered_entries_are_refused():
    with pytest.raises(StorageError):
        LeaderEpochs.of([(3, 0), (3, 5)])
    with pytest.raises(StorageError):
        LeaderEpochs.of([(3, 5), (4, 5)])


# A log as the list of its records' epochs: the model that the epochs must agree with.
LOGS = st.lists(st.integers(0, 6), max_size=25).map(sorted)


def epochs_of(log, start=0):
    epochs = LeaderEpochs.empty()
    for offset in range(start, len(log)):
        epochs = epochs.assign(log[offset], offset)
    return epochs


@settings(max_examples=150)
@given(LOGS, st.integers(0, 8))
def test_end_offset_agrees_with_the_records(log, requested):
    at_most = [offset for offset, epoch in enumerate(log) if epoch <= requested]
    expected = EpochEnd(log[at_most[-1]], at_most[-1] + 1) if at_most else UNKNOWN_EPOCH_END
    assert epochs_of(log).end_offset_for(requested, len(log)) == expected


@settings(max_examples=150)
@given(LOGS, st.integers(0, 25))
def test_truncations_agree_with_the_records(log, cut):
    cut = min(cut, len(log))
    epochs = epochs_of(log)
    assert epochs.truncate_to(cut) == epochs_of(log[:cut])
    if cut < len(log):
        assert epochs.truncate_before(cut) == epochs_of(log, start=cut)
    assert [epochs.epoch_at(offset) for offset in range(len(log))] == log
