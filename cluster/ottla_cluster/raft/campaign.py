"""The answers to one round of votes, real or pre-vote: who granted, who refused, who is gone."""

from typing import TYPE_CHECKING

from ottla_cluster.raft.quorum import VoteResult, vote_result

if TYPE_CHECKING:
    from collections.abc import Sequence


class Campaign:
    """One round of votes, from the candidate's own onwards.

    Args:
        voters: every voter of the quorum.
    """

    __slots__ = ("_unreachable", "_voters", "_votes")

    def __init__(self, voters: "Sequence[int]") -> None:
        self._voters = voters
        # The first answer of each voter counts; an answer that is repeated changes nothing.
        self._votes: dict[int, bool] = {}
        # Voters whose connection was refused. They count as refusing: a process that is gone has
        # no answer under way, and one that comes back is asked again in the next round.
        self._unreachable: list[int] = []

    def record(self, voter: int, *, granted: bool) -> None:
        """Take a voter's answer."""
        self._votes.setdefault(voter, granted)

    def record_unreachable(self, voter: int) -> None:
        """Take that a voter's process is gone."""
        if voter not in self._votes:
            self._votes[voter] = False
            self._unreachable.append(voter)

    @property
    def result(self) -> VoteResult:
        """Where the round stands."""
        return vote_result(self._voters, self._votes)

    @property
    def is_worth_hurrying(self) -> bool:
        """Whether a lost round should be repeated soon instead of after an election timeout.

        So it is when a voter is gone and another one, alive, refused: the two have split the vote
        after their leader crashed, or the other has not noticed the crash yet. With nobody left
        who answers, hurrying helps nobody.
        """
        refusing = sum(not granted for granted in self._votes.values())
        return 0 < len(self._unreachable) < refusing
