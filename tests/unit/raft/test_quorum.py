"""Quorum arithmetic, against its definition."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ottla_cluster.raft.quorum import VoteResult, quorum_size, reached_by_quorum, vote_result

VOTERS = st.integers(1, 7).map(lambda count: tuple(range(1, count + 1)))


@pytest.mark.parametrize(("voters", "size"), [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3), (7, 4)])
def test_quorum_size(voters, size):
    assert quorum_size(voters) == size


@given(st.integers(1, 100))
def test_two_quorums_share_a_voter_and_half_is_none(count):
    assert 2 * quorum_size(count) > count
    assert 2 * (quorum_size(count) - 1) <= count


@given(st.lists(st.integers(0, 20), min_size=1, max_size=9))
def test_reached_by_quorum_is_the_highest_value_on_a_majority(values):
    def on_majority(value):
        return sum(other >= value for other in values) >= quorum_size(len(values))

    reached = reached_by_quorum(values)
    assert on_majority(reached)
    assert not any(on_majority(value) for value in values if value > reached)


@given(VOTERS, st.dictionaries(st.integers(1, 7), st.booleans()))
def test_vote_result_is_what_the_missing_answers_can_still_make_of_it(voters, votes):
    needed = quorum_size(len(voters))
    granted = sum(votes.get(voter, False) for voter in voters)
    missing = sum(voter not in votes for voter in voters)
    expected = VoteResult.PENDING
    if granted >= needed:
        expected = VoteResult.WON
    elif granted + missing < needed:
        expected = VoteResult.LOST
    assert vote_result(voters, votes) is expected
