"""Which markers are still to be written, for decisions that are durable.

A marker ends a transaction in one partition. It may only leave once its decision is committed: a
coordinator that lost it would let its successor decide the other way. Which partitions have theirs
is kept in memory alone; a new coordinator writes all of them again, and a log takes each once.
"""

from dataclasses import dataclass

from ottla_cluster.transactions.ending import marker_identity
from ottla_cluster.transactions.known_ids import DECIDED
from ottla_cluster.transactions.records import (
    ProducerIdentity,
    TransactionalIdChanged,
    TransactionPartition,
)


@dataclass(frozen=True, slots=True)
class MarkersToWrite:
    """One decision, and the partitions whose leaders have not said that they have its marker."""

    transactional_id: str
    marker: ProducerIdentity
    is_commit: bool
    partitions: frozenset[TransactionPartition]
    """Empty once all have it: then the decision is complete."""


class MarkerWork:
    """The markers of one coordinator."""

    def __init__(self) -> None:
        self._to_write: dict[str, MarkersToWrite] = {}

    def to_write(self) -> tuple[MarkersToWrite, ...]:
        """Every decision that is not complete; also those of which only that is missing."""
        return tuple(self._to_write.values())

    def written(
        self, transactional_id: str, marker: ProducerIdentity, partition: TransactionPartition
    ) -> None:
        """A leader has the marker, committed; or the partition is deleted."""
        known = self._to_write.get(transactional_id)
        if known is not None and known.marker == marker:
            self._to_write[transactional_id] = MarkersToWrite(
                transactional_id, marker, known.is_commit, known.partitions - {partition}
            )

    def follow(self, name: str, committed: TransactionalIdChanged | None) -> None:
        """What is durable of a transactional id has changed."""
        ended = None if committed is None else committed.ended
        if committed is None or ended is None or committed.state not in DECIDED:
            self._to_write.pop(name, None)
            return
        marker = marker_identity(ended)
        known = self._to_write.get(name)
        if known is None or known.marker != marker:
            self._to_write[name] = MarkersToWrite(
                name, marker, ended.is_committed, frozenset(committed.partitions)
            )
