"""The log whose beginning is in a snapshot, against one that holds everything."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ottla_cluster.raft import (
    Compaction,
    Entry,
    RaftInvariantError,
    RaftStateCorruptError,
    Snapshot,
)
from ottla_cluster.raft.log import RaftLog

TERMS = st.lists(st.integers(1, 4), min_size=1, max_size=10).map(sorted)


def entries_of(terms, first_index=1):
    return [Entry(index, term, b"x" * term) for index, term in enumerate(terms, first_index)]


def whole(terms, applied=0):
    log = RaftLog(entries_of(terms), commit_index=applied)
    log.take_committed()
    return log


def compacted(terms, index, *, retained=0, applied=None):
    log = whole(terms, index if applied is None else applied)
    assert log.compact(index, b"state", retained_entries=retained, retained_bytes=1 << 20)
    return log


@st.composite
def cut_logs(draw):
    """(terms, index of the snapshot, entries that it covers and that stay)."""
    terms = draw(TERMS)
    return terms, draw(st.integers(1, len(terms))), draw(st.integers(0, 4))


@given(cut_logs(), st.integers(0, 12), st.integers(0, 5))
def test_from_the_cut_on_it_answers_as_the_whole_log_does(cut, index, term):
    terms, snapshot_index, retained = cut
    log, full = compacted(terms, snapshot_index, retained=retained), whole(terms)
    assert log.compacted_index == max(0, snapshot_index - retained)
    assert (log.last_index, log.last_term) == (full.last_index, full.last_term)
    for known in range(log.compacted_index, len(terms) + 1):
        assert log.term_at(known) == full.term_at(known)
    if index >= log.compacted_index:
        assert log.matches(index, term) == full.matches(index, term)
    else:
        assert log.matches(index, term), "what is compacted away is committed"
    found = full.last_at_or_below(index, term)
    assert log.last_at_or_below(index, term) == (
        found if found[0] >= log.compacted_index else (0, 0)
    )
    if log.first_index <= index:
        limits = {"max_entries": 3, "max_bytes": 6}
        assert log.slice_from(index, **limits) == full.slice_from(index, **limits)
        assert log.size_bytes(index, len(terms)) == full.size_bytes(index, len(terms))


@given(cut_logs(), TERMS, st.integers(0, 10))
def test_a_delayed_append_that_begins_below_the_cut_changes_what_it_would_change(
    cut, others, prev_index
):
    """§5.3, with entries that the log no longer holds: they are committed, so they agree."""
    terms, snapshot_index, retained = cut
    others = sorted(terms[:snapshot_index] + [max(terms[snapshot_index - 1], t) for t in others])
    prev_index = min(prev_index, snapshot_index)
    log, full = compacted(terms, snapshot_index, retained=retained), whole(terms)
    for either in (log, full):
        either.merge(entries_of(others[prev_index:], prev_index + 1))
    assert log.last_index == full.last_index
    assert [log.term_at(i) for i in range(snapshot_index, log.last_index + 1)] == [
        full.term_at(i) for i in range(snapshot_index, full.last_index + 1)
    ]


def test_an_entry_that_contradicts_the_snapshots_last_one_breaks_an_invariant():
    log = compacted([1, 1, 2], 2)
    with pytest.raises(RaftInvariantError, match="committed"):
        log.merge([Entry(2, 2, b"")])


@given(cut_logs(), TERMS)
def test_what_is_handed_out_rebuilds_the_log_after_a_restart(cut, later):
    terms, snapshot_index, retained = cut
    disk = {entry.index: entry for entry in entries_of(terms)}
    log = compacted(terms, snapshot_index, retained=retained)
    log.merge(entries_of([max(terms) + term for term in later], snapshot_index + 1))
    compaction = log.take_compaction()
    truncate_from, entries = log.take_changes()
    disk = {index: entry for index, entry in disk.items() if index > compaction.compacted_index}
    disk = {index: e for index, e in disk.items() if truncate_from is None or index < truncate_from}
    disk |= {entry.index: entry for entry in entries}
    again = RaftLog(list(disk.values()), compaction=compaction, commit_index=snapshot_index)
    assert (again.first_index, again.last_index) == (log.first_index, log.last_index)
    assert [again.term_at(i) for i in range(again.compacted_index, again.last_index + 1)] == [
        log.term_at(i) for i in range(log.compacted_index, log.last_index + 1)
    ]
    assert again.take_snapshot() == compaction.snapshot == log.snapshot
    assert again.take_committed() == ()
    assert (log.take_compaction(), log.take_snapshot()) == (None, None)


def test_the_newest_covered_entries_stay_within_both_limits():
    log = whole([1, 1, 1, 2, 2], 5)
    log.compact(5, b"state", retained_entries=4, retained_bytes=4)
    assert log.compacted_index == 3
    log = whole([1, 1, 1, 2, 2], 5)
    log.compact(5, b"state", retained_entries=1, retained_bytes=100)
    assert log.compacted_index == 4
    log = whole([1, 1], 2)
    log.compact(2, b"state", retained_entries=9, retained_bytes=100)
    assert log.compacted_index == 0


def test_an_older_snapshot_of_its_own_changes_nothing():
    log = compacted([1, 1, 2], 3)
    log.take_compaction()
    assert not log.compact(2, b"late", retained_entries=0, retained_bytes=0)
    assert log.take_compaction() is None
    assert log.snapshot == Snapshot(3, 2, b"state")


def test_more_than_was_applied_is_never_compacted():
    log = whole([1, 1, 1], 1)
    log.commit_to(2)
    with pytest.raises(AssertionError, match="applied"):
        log.compact(2, b"state", retained_entries=0, retained_bytes=0)


@given(TERMS, st.integers(1, 12), st.integers(1, 6), st.integers(0, 10))
def test_an_installed_snapshot_takes_the_whole_logs_place(terms, index, term, commit_index):
    commit_index = min(commit_index, len(terms))
    log = RaftLog(entries_of(terms), commit_index=commit_index)
    log.take_committed()
    assume(index > commit_index and not log.matches(index, term))
    assume(index >= len(terms) or term > terms[index - 1])
    snapshot = Snapshot(index, term, b"the leader's state")
    log.install(snapshot)
    assert (log.first_index, log.last_index, log.last_term) == (index + 1, index, term)
    assert (log.commit_index, log.term_at(index)) == (index, term)
    assert log.take_compaction() == Compaction(snapshot, index, term)
    # What is on disk behind it goes too.
    expected = (index + 1, ()) if len(terms) > index else (None, ())
    assert log.take_changes() == expected
    assert log.take_snapshot() == snapshot
    assert (log.take_snapshot(), log.take_committed()) == (None, ())
    log.append([Entry(index + 1, term, b"next")])
    assert log.take_changes() == (None, (Entry(index + 1, term, b"next"),))


SNAPSHOT = Snapshot(3, 2, b"state")


@pytest.mark.parametrize(
    ("compaction", "entries", "commit_index"),
    [
        (Compaction(SNAPSHOT, 3, 2), [Entry(5, 2, b"")], 3),
        (Compaction(SNAPSHOT, 3, 2), [Entry(3, 2, b"")], 3),
        (Compaction(SNAPSHOT, 3, 2), [Entry(4, 1, b"")], 3),
        (Compaction(SNAPSHOT, 3, 2), [], 2),
        (Compaction(SNAPSHOT, 3, 2), [], 4),
        (Compaction(SNAPSHOT, 4, 2), [], 4),
        (Compaction(SNAPSHOT, 3, 1), [], 3),
        (Compaction(SNAPSHOT, 3, 0), [], 3),
        (Compaction(SNAPSHOT, 2, 1), [Entry(3, 1, b"")], 3),
        (Compaction(SNAPSHOT, 2, 1), [], 2),
        (None, [Entry(4, 2, b"")], 4),
    ],
    ids=[
        "an entry is missing behind the cut",
        "an entry from before the cut",
        "the term falls behind the cut",
        "the snapshot is not committed",
        "committed entries are missing",
        "cut above the snapshot",
        "two terms at the snapshot's index",
        "the term at the cut is forgotten",
        "an entry contradicts the snapshot",
        "the snapshot's last entry is missing",
        "the snapshot is missing",
    ],
)
def test_a_recovered_state_that_contradicts_itself_is_refused(compaction, entries, commit_index):
    with pytest.raises(RaftStateCorruptError):
        RaftLog(entries, compaction=compaction, commit_index=commit_index)
