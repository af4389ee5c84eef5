"""Linearizable reads without a log entry: ReadIndex (dissertation §6.4).

A read is safe at the commit index of the moment in which its round starts, once a quorum has
answered a message sent after that moment: then no newer leader had been elected before it. Rounds
are numbered; every append carries the newest number and every answer repeats it, so one answer
confirms all rounds up to it. A few rounds may be unanswered at once; beyond that, reads gather for
the next round, as writes do in a group commit.
"""

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ottla_cluster.raft.messages import AppendRequest, InstallSnapshotRequest


@dataclass(frozen=True, slots=True)
class ReadConfirmed:
    """The read `token` may be served by any state machine that has applied up to `index`."""

    token: int
    index: int


class ReadRounds:
    """The reads of one leadership, from request to confirmation.

    Args:
        max_rounds_in_flight: unanswered rounds before reads gather.
    """

    __slots__ = ("_max_rounds_in_flight", "_rounds", "_waiting", "sequence")

    def __init__(self, *, max_rounds_in_flight: int) -> None:
        self._max_rounds_in_flight = max_rounds_in_flight
        # The newest started round; 0 before the first. It never falls.
        self.sequence = 0
        # (sequence, commit index at its start, tokens), sequences ascending.
        self._rounds: deque[tuple[int, int, list[int]]] = deque()
        # Tokens whose round has not started.
        self._waiting: list[int] = []

    @property
    def has_pending(self) -> bool:
        """Whether any read is neither confirmed nor failed."""
        return bool(self._rounds or self._waiting)

    @property
    def pending_count(self) -> int:
        """Reads that are neither confirmed nor failed."""
        return len(self._waiting) + sum(len(tokens) for _, _, tokens in self._rounds)

    def add(self, token: int) -> None:
        """Take a read; it waits for the next round."""
        self._waiting.append(token)

    def start_round(self, commit_index: int) -> bool:
        """Begin a round for everything that waits.

        Args:
            commit_index: the leader's commit index now; an entry of its own term is committed.

        Returns:
            Whether a round began, so that messages must leave.
        """
        if not self._waiting or len(self._rounds) >= self._max_rounds_in_flight:
            return False
        self.sequence += 1
        self._rounds.append((self.sequence, commit_index, self._waiting))
        self._waiting = []
        return True

    def confirm(self, sequence: int) -> list[ReadConfirmed]:
        """End every round up to `sequence`, which a quorum has answered."""
        confirmed: list[ReadConfirmed] = []
        while self._rounds and self._rounds[0][0] <= sequence:
            _, index, tokens = self._rounds.popleft()
            confirmed.extend(ReadConfirmed(token, index) for token in tokens)
        return confirmed

    def fail_all(self) -> list[int]:
        """The tokens of every read that is not confirmed, in order; none remain."""
        tokens = [token for _, _, round_tokens in self._rounds for token in round_tokens]
        tokens.extend(self._waiting)
        self._rounds.clear()
        self._waiting = []
        return tokens


def answered_round(request: "AppendRequest | InstallSnapshotRequest", term: int) -> int:
    """The round for which an answer of this term counts; 0 for none.

    A request of an older term, which comes late, is of another leadership, and each numbers its
    rounds anew. Its sender may lead again by now, in the answer's term.
    """
    return request.read_sequence if request.term == term else 0
