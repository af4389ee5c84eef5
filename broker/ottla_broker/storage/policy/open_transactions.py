"""How far a log may be read by whoever wants committed records only.

The last stable offset is the first offset of the oldest transaction that is not over, or the high
watermark where that is lower. A transaction is over once its marker is below the high watermark: a
marker above it may yet be lost with its leader, and the next one might write the other kind. What
is below the last stable offset never changes its mind: every transaction there is known to be
committed or aborted.

Aborted transactions stay in the log. Each is told by its producer and its range: from its first
record to its marker every transactional record of that producer is part of it.
"""

from collections import OrderedDict, deque
from collections.abc import Iterable
from typing import NamedTuple


class AbortedTransaction(NamedTuple):
    """One aborted transaction in one partition."""

    producer_id: int
    first_offset: int
    last_offset: int
    """Of its marker."""

    def touches(self, from_offset: int, end_offset: int) -> bool:
        """Whether a reader of that half-open range of offsets may meet its records."""
        return self.first_offset < end_offset and self.last_offset >= from_offset


class EndedTransaction(NamedTuple):
    """A transaction with its marker, which may be above the high watermark."""

    first_offset: int
    marker_offset: int


class OpenTransactions:
    """The transactions of one log that keep the last stable offset back.

    A function of the log, as the producers' states are: whoever truncates builds it again.
    """

    def __init__(self) -> None:
        # Producer id to first offset; the oldest first, for they come in the order of the log.
        self._open: OrderedDict[int, int] = OrderedDict()
        # Over once their markers are committed. In the order of their markers.
        self._ended: deque[EndedTransaction] = deque()

    def load(
        self, open_since: Iterable[tuple[int, int]], ended: Iterable[EndedTransaction]
    ) -> None:
        """Replace everything by what `open_since` and `ended` told of a log."""
        self._open = OrderedDict(sorted(open_since, key=lambda each: each[1]))
        self._ended = deque(ended)

    def append_records(self, producer_id: int, base_offset: int) -> None:
        """A transactional batch is in the log; the first of its transaction opens it."""
        self._open.setdefault(producer_id, base_offset)

    def append_marker(
        self, producer_id: int, offset: int, *, is_commit: bool
    ) -> AbortedTransaction | None:
        """A marker is in the log.

        Returns:
            What a reader must leave out, where the marker aborts something.
        """
        first_offset = self._open.pop(producer_id, None)
        if first_offset is None:
            return None  # The partition was in the transaction, and nothing was written to it.
        self._ended.append(EndedTransaction(first_offset, offset))
        return None if is_commit else AbortedTransaction(producer_id, first_offset, offset)

    def last_stable_offset(self, high_watermark: int) -> int:
        """Everything below is committed, and of a transaction that is decided for good.

        Args:
            high_watermark: never lower than in an earlier call.
        """
        while self._ended and self._ended[0].marker_offset < high_watermark:
            self._ended.popleft()
        stable = high_watermark
        if self._open:
            stable = min(stable, next(iter(self._open.values())))
        if not self._ended:
            return stable
        # Few: those that ended within one round of replication.
        return min((stable, *(each.first_offset for each in self._ended)))

    @property
    def first_open_offset(self) -> int | None:
        """Where the oldest open transaction begins; None without one."""
        return next(iter(self._open.values()), None)

    def ended(self) -> tuple[EndedTransaction, ...]:
        """Those whose markers are not known to be committed, in the order of their markers."""
        return tuple(self._ended)

    def open_since(self) -> tuple[tuple[int, int], ...]:
        """Each open transaction's producer id and first offset, the oldest first."""
        return tuple(self._open.items())
