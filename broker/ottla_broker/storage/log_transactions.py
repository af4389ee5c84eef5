"""The transactions of one log, as of its end: which are open, and which were aborted of late.

A function of the log, as all of `LogState` is: a segment begins with a snapshot of what is open,
and of what has ended by markers that were not known to be committed then; the rows tell the rest.
"""

from collections.abc import Iterable
from typing import NamedTuple

from ottla_broker.storage.policy.abort_index import AbortIndex, IndexedAbort
from ottla_broker.storage.policy.open_transactions import EndedTransaction, OpenTransactions
from ottla_broker.storage.policy.producer_state import Producer
from ottla_broker.storage.segment_snapshot import Snapshot
from ottla_protocol.control_records import EndMarker, read_end_marker
from ottla_protocol.record_batch import CONTROL_BIT, BatchHeader, Buffer
from ottla_protocol.record_codec import decode_validated_batch

MARKER_BYTES_MAX = 1 << 10
"""What the records of a control batch may take uncompressed."""


MARKER_DATA = f"CASE WHEN attributes & {CONTROL_BIT} THEN data END"
"""In a select list: the blob of a control batch, and none of the others."""


class OpenTransaction(NamedTuple):
    """A transaction without a marker in one log.

    `first_offset` is that of its first record, `last_timestamp` the largest of the producer's last
    batch, in ms.
    """

    producer_id: int
    producer_epoch: int
    first_offset: int
    last_timestamp: int


class LogTransactions:
    """Open transactions and those aborted in the newest segment.

    Args:
        snapshot: what the segment begins with.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        self.aborted = AbortIndex()
        """Of the newest segment at least; what is sealed is in its file, too."""
        self._open = OpenTransactions()
        self._open.load(open_transactions(snapshot.producers), snapshot.ended)

    def append(
        self, producer_id: int, base_offset: int, attributes: int, marker: EndMarker | None
    ) -> IndexedAbort | None:
        """A batch of a transaction is in the log; `marker` is what a control batch holds.

        Returns:
            The row to write beside a marker that aborts records.
        """
        if marker is not None:
            return self._append_marker(producer_id, base_offset, marker)
        if not attributes & CONTROL_BIT:
            self._open.append_records(producer_id, base_offset)
        return None

    def _append_marker(
        self, producer_id: int, offset: int, marker: EndMarker
    ) -> IndexedAbort | None:
        found = self._open.append_marker(producer_id, offset, is_commit=marker.is_commit)
        if found is None:
            return None
        first_open = self._open.first_open_offset
        row = IndexedAbort(
            found.last_offset,
            found.producer_id,
            found.first_offset,
            offset + 1 if first_open is None else first_open,
        )
        self.aborted.append(row)
        return row

    def last_stable_offset(self, high_watermark: int) -> int:
        """As `OpenTransactions.last_stable_offset`."""
        return self._open.last_stable_offset(high_watermark)

    def open_since(self) -> tuple[tuple[int, int], ...]:
        """As `OpenTransactions.open_since`."""
        return self._open.open_since()

    def ended(self) -> tuple[EndedTransaction, ...]:
        """As `OpenTransactions.ended`."""
        return self._open.ended()


def open_transactions(
    producers: Iterable[tuple[int, Producer]],
) -> Iterable[tuple[int, int]]:
    """Producer id and first offset of each transaction that is open in a snapshot."""
    for producer_id, producer in producers:
        if producer.transaction_start is not None:
            yield producer_id, producer.transaction_start


def marker_of(header: BatchHeader, data: Buffer) -> EndMarker | None:
    """The marker in a validated control batch; None where it has none of a kind that is known.

    Raises:
        CorruptMessageError: it does not decode.
    """
    for record in decode_validated_batch(data, header, max_inflated_bytes=MARKER_BYTES_MAX):
        return read_end_marker(record)
    return None
