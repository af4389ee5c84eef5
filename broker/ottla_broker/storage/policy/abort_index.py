"""Which transactions were aborted: what a reader of committed records leaves out.

Each is kept in the segment that has its marker (table `aborted_transactions`). The records may be
in earlier segments, and there may be very many of them, so a look-up must neither go through all
that came later nor hold a Python object for each.
"""

from array import array
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from ottla_broker.storage.policy.open_transactions import AbortedTransaction


class IndexedAbort(NamedTuple):
    """A row of `aborted_transactions`, in the order of its columns.

    `last_offset` is that of the marker. `last_stable_offset` is where the oldest transaction begins
    that is still open behind the marker, or follows the marker: whatever ends later begins there or
    above. Unlike the log's own, it asks for no high watermark, so it is the same on every replica.
    """

    last_offset: int
    producer_id: int
    first_offset: int
    last_stable_offset: int


class AbortIndex:
    """Aborted transactions in the order of their markers; 32 bytes for each."""

    def __init__(self) -> None:
        self._columns = tuple(array("q") for _ in IndexedAbort._fields)

    def __len__(self) -> int:
        return len(self._columns[0])

    def __iter__(self) -> Iterator[IndexedAbort]:
        return map(IndexedAbort, *self._columns)

    def append(self, row: IndexedAbort) -> None:
        """The next one; its marker is behind all others."""
        for column, value in zip(self._columns, row, strict=True):
            column.append(value)

    def forget_below(self, offset: int) -> None:
        """Drop those whose marker is below `offset`."""
        count = bisect_left(self._columns[0], offset)
        if count:
            for column in self._columns:
                del column[:count]

    def touching(self, from_offset: int, end_offset: int) -> Iterator[AbortedTransaction]:
        """Those that a reader of that half-open range of offsets may meet records of."""
        last, producer_ids, first, stable = self._columns
        for position in range(bisect_left(last, from_offset), len(last)):
            if first[position] < end_offset:
                yield AbortedTransaction(producer_ids[position], first[position], last[position])
            if stable[position] >= end_offset:
                return


class AbortedRecords:
    """Tells the records of aborted transactions from all others.

    Args:
        aborted: in the order of their markers.
    """

    def __init__(self, aborted: Iterable[AbortedTransaction]) -> None:
        # A producer has one transaction at a time: its ranges do not overlap.
        self._by_producer: defaultdict[int, list[AbortedTransaction]] = defaultdict(list)
        for each in aborted:
            self._by_producer[each.producer_id].append(each)

    def hides(self, producer_id: int, base_offset: int) -> bool:
        """Whether a transactional batch is of an aborted transaction."""
        ranges = self._by_producer.get(producer_id)
        if ranges is None:
            return False
        position = bisect_left(ranges, base_offset, key=lambda each: each.last_offset)
        return position < len(ranges) and ranges[position].first_offset <= base_offset
