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
        # Those of which nobody has been told yet.
        self._news: dict[str, MarkersToWrite] = {}

    def take_news(self) -> tuple[MarkersToWrite, ...]:
        """The decisions that have become durable since the last call."""
        news, self._news = tuple(self._news.values()), {}
        return news

    def to_write(self) -> tuple[MarkersToWrite, ...]:
        """Every decision that is not complete; also those of which only that is missing."""
        return tuple(self._to_write.values())

    def written(
        self, transactional_id: str, marker: ProducerIdentity, partition: TransactionPartition
    ) -> bool:
        """A leader has the marker, committed; or the partition is deleted.

        Returns:
            Whether it was the last one that the decision lacked.
        """
        known = self._to_write.get(transactional_id)
        if known is None or known.marker != marker or partition not in known.partitions:
            return False
        left = known.partitions - {partition}
        self._to_write[transactional_id] = MarkersToWrite(
            transactional_id, marker, known.is_commit, left
        )
        return not left

    def follow(self, name: str, committed: TransactionalIdChanged | None) -> None:
        """What is durable of a transactional id has changed."""
        ended = None if committed is None else committed.ended
        if committed is None or ended is None or committed.state not in DECIDED:
            self._to_write.pop(name, None)
            self._news.pop(name, None)
            return
        marker = marker_identity(ended)
        known = self._to_write.get(name)
        if known is None or known.marker != marker:
            decided = MarkersToWrite(
                name, marker, ended.is_committed, frozenset(committed.partitions)
            )
            self._to_write[name] = self._news[name] = decided
