"""The log, against a plain list of terms."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ottla_cluster.raft import Entry, RaftInvariantError, RaftStateCorruptError
from ottla_cluster.raft.log import RaftLog

TERMS = st.lists(st.integers(1, 5), max_size=12).map(sorted)


def entries_of(terms, first_index=1):
    return [Entry(index, term, b"x" * term) for index, term in enumerate(terms, first_index)]


def terms_of(log):
    return [log.term_at(index) for index in range(1, log.last_index + 1)]


def test_an_empty_log_ends_before_the_first_index():
    log = RaftLog([])
    assert (log.first_index, log.last_index, log.last_term, log.term_at(0)) == (1, 0, 0, 0)
    assert log.matches(0, 0)
    assert not log.matches(1, 0)


@given(TERMS, TERMS, st.integers(0, 12))
def test_merge_makes_the_log_agree_and_never_shortens_it_without_a_conflict(
    own, others, prev_index
):
    """Raft §5.3: an existing entry that conflicts goes with all that follow; others stay."""
    prev_index = min(prev_index, len(own), len(others))
    if own[:prev_index] != others[:prev_index]:
        own = others[:prev_index]
    log = RaftLog(entries_of(own))
    log.merge(entries_of(others[prev_index:], prev_index + 1))
    if own[: len(others)] == others:
        assert terms_of(log) == own
    else:
        assert terms_of(log) == others


@given(TERMS, TERMS)
def test_persisting_the_changes_gives_the_same_log(own, others):
    log = RaftLog(entries_of(own))
    disk = entries_of(own)
    for step in (entries_of(others), entries_of([9], log.last_index + 1)):
        if step[:1] and step[0].index > log.last_index + 1:
            continue
        log.merge(step)
        truncate_from, entries = log.take_changes()
        if truncate_from is not None:
            assert truncate_from <= len(disk)
            del disk[truncate_from - 1 :]
        disk.extend(entries)
        assert [entry.term for entry in disk] == terms_of(log)
        assert [entry.index for entry in disk] == list(range(1, len(disk) + 1))
    assert log.take_changes() == (None, ())


@given(TERMS, st.integers(0, 15), st.integers(0, 6))
def test_last_at_or_below_is_the_last_that_fits(terms, index, term):
    fitting = [(i, t) for i, t in enumerate(terms, 1) if i <= index and t <= term]
    assert RaftLog(entries_of(terms)).last_at_or_below(index, term) == max(fitting, default=(0, 0))


@given(TERMS, TERMS)
def test_of_two_logs_one_is_at_least_as_up_to_date(own, others):
    """Raft §5.4.1: the later last term wins; with equal terms the longer log does."""
    log, other = RaftLog(entries_of(own)), RaftLog(entries_of(others))
    forth = log.is_up_to_date(other.last_index, other.last_term)
    back = other.is_up_to_date(log.last_index, log.last_term)
    assert forth or back
    same_end = (log.last_index, log.last_term) == (other.last_index, other.last_term)
    assert (forth and back) == same_end


def test_the_last_term_counts_before_the_length():
    log = RaftLog(entries_of([1, 2]))
    assert log.is_up_to_date(1, 3)
    assert not log.is_up_to_date(9, 1)


@given(TERMS, st.integers(1, 12), st.integers(1, 4), st.integers(0, 12))
def test_a_slice_keeps_both_limits_save_for_one_entry(terms, index, max_entries, max_bytes):
    log = RaftLog(entries_of(terms))
    found = log.slice_from(index, max_entries=max_entries, max_bytes=max_bytes)
    assert list(found) == entries_of(terms)[index - 1 : index - 1 + len(found)]
    assert len(found) <= max_entries
    assert len(found) <= 1 or sum(len(entry.payload) for entry in found) <= max_bytes
    rest = len(terms) - (index - 1)
    if len(found) < min(max_entries, max(rest, 0)):
        following = entries_of(terms)[index - 1 : index + len(found)]
        assert sum(len(entry.payload) for entry in following) > max_bytes


def test_a_committed_entry_is_never_replaced():
    log = RaftLog(entries_of([1, 1, 1]))
    log.commit_to(2)
    with pytest.raises(RaftInvariantError, match="committed"):
        log.merge(entries_of([2], 2))
    assert terms_of(log) == [1, 1, 1]
    log.merge(entries_of([2], 3))
    assert terms_of(log) == [1, 1, 2]


def test_the_commit_index_never_falls_and_entries_are_handed_out_once():
    log = RaftLog(entries_of([1, 1, 1]))
    assert log.commit_to(2)
    assert not log.commit_to(1)
    assert log.commit_index == 2
    assert [entry.index for entry in log.take_committed()] == [1, 2]
    assert log.take_committed() == ()
    assert log.applied_index == 2


def test_what_was_applied_before_a_restart_is_not_handed_out_again():
    log = RaftLog(entries_of([1, 1, 1]), commit_index=3, applied_index=2)
    assert [entry.index for entry in log.take_committed()] == [3]


@pytest.mark.parametrize(
    ("entries", "indexes"),
    [
        ([Entry(2, 1, b"")], {}),
        ([Entry(1, 1, b""), Entry(3, 1, b"")], {}),
        ([Entry(1, 2, b""), Entry(2, 1, b"")], {}),
        ([Entry(1, 1, b"")], {"commit_index": 2}),
        ([Entry(1, 1, b"")], {"commit_index": 0, "applied_index": 1}),
    ],
    ids=["no first", "gap", "term falls", "committed entries missing", "applied uncommitted"],
)
def test_a_recovered_log_that_contradicts_itself_is_refused(entries, indexes):
    with pytest.raises(RaftStateCorruptError):
        RaftLog(entries, **indexes)
