"""Quorum arithmetic: who has won, and how far a majority has got.

The same order statistic answers three questions of a leader: which index is on a majority (commit),
which read round has a majority answered (reads), and since when has it heard from a majority
(check-quorum). Any two majorities share a voter; all of Raft's safety rests on that.
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum


class VoteResult(StrEnum):
    """Where an election stands."""

    PENDING = "pending"
    WON = "won"
    LOST = "lost"


def quorum_size(voter_count: int) -> int:
    """The smallest number of voters that is a majority."""
    assert voter_count > 0, "a quorum needs voters"
    return voter_count // 2 + 1


def vote_result(voters: Sequence[int], votes: Mapping[int, bool]) -> VoteResult:
    """The result of `votes` (voter to granted); who is missing has not answered."""
    needed = quorum_size(len(voters))
    granted = sum(votes.get(voter) is True for voter in voters)
    refused = sum(votes.get(voter) is False for voter in voters)
    if granted >= needed:
        return VoteResult.WON
    if refused > len(voters) - needed:
        return VoteResult.LOST
    return VoteResult.PENDING


def reached_by_quorum(values: Sequence[int]) -> int:
    """The highest value that a majority has reached; `values` holds one per voter."""
    return sorted(values)[len(values) - quorum_size(len(values))]
