"""In which order batches go that wait until the coordinator has their partition (KIP-890).

A leader asks the coordinator before it takes the first batch of a transaction. Meanwhile more of
the producer's batches may come for the same partition. They are numbered, so none may go before
one that came earlier: they stand in a line, one line for each producer in each partition, and the
coordinator is asked for the head of a line only. Those that an answer lets go leave it at once, so
that nothing gets in between; until then whatever comes stands at the end.

Who asks says by a claim who writes: the transactional id and the identity. An answer is about those
at the head of the line that make the claim; for whoever comes next with another one, an older or a
newer epoch, the coordinator is asked anew.
"""

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple

from ottla_cluster.transactions.records import ProducerIdentity, TransactionPartition


class Claim(NamedTuple):
    """Who says to be writing in a transaction of its own."""

    transactional_id: str
    identity: ProducerIdentity


class Line(NamedTuple):
    """Where a producer's batches must not overtake one another."""

    partition: TransactionPartition
    producer_id: int


@dataclass(frozen=True, slots=True, eq=False)
class WaitingBatch:
    """One batch in a line; no two are the same."""

    line: Line
    claim: Claim
    is_sequenced: bool
    """Whether it is numbered, so that it cannot go where one before it did not."""


class VerificationOrder:
    """The lines of all partitions that a broker leads."""

    def __init__(self) -> None:
        # Only lines that somebody stands in.
        self._lines: dict[Line, deque[WaitingBatch]] = {}
        self._waiting = 0

    @property
    def waiting(self) -> int:
        """How many batches stand in lines."""
        return self._waiting

    def enter(self, batch: WaitingBatch) -> None:
        """A batch comes to the end of its line."""
        self._lines.setdefault(batch.line, deque()).append(batch)
        self._waiting += 1

    def head_of(self, line: Line) -> WaitingBatch | None:
        """For whose claim the coordinator is to be asked; None if nobody stands in the line."""
        batches = self._lines.get(line)
        return None if batches is None else batches[0]

    def answered(self, line: Line, claim: Claim) -> tuple[WaitingBatch, ...]:
        """Those leave whom the coordinator's answer about a claim concerns, whatever it is.

        Returns:
            They go, or fail, in this order, before anything else is decided.
        """
        batches = self._lines.get(line, deque())
        concerned: list[WaitingBatch] = []
        while batches and batches[0].claim == claim:
            concerned.append(batches.popleft())
        self._waiting -= len(concerned)
        if not batches:
            self._lines.pop(line, None)
        return tuple(concerned)

    def leave(self, leaving: Collection[WaitingBatch]) -> tuple[WaitingBatch, ...]:
        """Nobody waits for these any more; those that have left their lines already are ignored.

        Returns:
            Those that leave with them and fail. What is numbered and stands behind one of them
            would be out of order without it, and a log that knows nothing of the producer would not
            see that.
        """
        unwanted = set(leaving)
        failed: list[WaitingBatch] = []
        for line in {batch.line for batch in leaving}:
            staying = deque[WaitingBatch]()
            missing: set[Claim] = set()
            for each in self._lines.pop(line, ()):
                if each in unwanted:
                    if each.is_sequenced:
                        missing.add(each.claim)
                elif each.is_sequenced and each.claim in missing:
                    failed.append(each)
                else:
                    staying.append(each)
                    continue
                self._waiting -= 1
            if staying:
                self._lines[line] = staying
        return tuple(failed)
