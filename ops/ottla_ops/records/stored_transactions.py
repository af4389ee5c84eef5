"""What of a replica's files a reader of committed records is shown.

A broker ends such reads at the last stable offset and leaves out what was aborted. Files tell the
same, but for the high watermark: a marker at their end may yet be truncated.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Final

from ottla_broker.storage import segment as segments
from ottla_broker.storage import sqlite
from ottla_broker.storage.policy.abort_index import AbortedRecords, AbortIndex
from ottla_broker.storage.policy.open_transactions import AbortedTransaction
from ottla_broker.storage.segment_snapshot import read_snapshot
from ottla_broker.storage.segment_transactions import (
    read_index,
    rebuilt_aborts,
    replayed_transactions,
)
from ottla_broker.storage.stored_batch import DamagedSegmentError
from ottla_ops.segments.segment_snapshot import OpenedSegment, open_segment
from ottla_protocol.errors import CorruptMessageError
from ottla_protocol.record_batch import BatchHeader

LOOKS_MAX: Final = 5
"""How often the files are looked for anew that compaction or retention takes away meanwhile."""

_NO_END: Final = 1 << 62


@dataclass(frozen=True, slots=True)
class CommittedView:
    """What is committed in a replica's files.

    Attributes:
        end_offset: the first offset of the oldest transaction without a marker, or the end of what
            there is without one: how what a broker writes from then on ends was not looked at.
        aborted: the transactions that were aborted.
    """

    end_offset: int
    aborted: AbortedRecords

    def shows(self, header: BatchHeader) -> bool:
        """Whether a batch below the end is committed."""
        return not (
            header.is_transactional and self.aborted.hides(header.producer_id, header.base_offset)
        )


def committed_view(paths: Sequence[Path]) -> CommittedView:
    """What the segments of one replica, the oldest first, tell of its transactions.

    Raises:
        FileNotFoundError: files were taken away again and again while they were read.
        StorageError: one is damaged, out of reach, or written too fast to be copied.
    """
    for _ in range(LOOKS_MAX - 1):
        try:
            return _view(paths)
        except FileNotFoundError:
            paths = _present(paths)
    return _view(paths)


def _view(paths: Sequence[Path]) -> CommittedView:
    found: list[AbortedTransaction] = []
    end_offset = 0
    for path in paths:
        try:
            with open_segment(path) as opened:
                if opened.sealed and path is not paths[-1]:
                    aborted = _sealed_index(opened)
                else:
                    aborted, end_offset = _replayed(opened)
        except sqlite.DriverError as error:
            raise sqlite.storage_error(path, "read the transactions of", error) from error
        found.extend(aborted.touching(0, _NO_END))
    return CommittedView(end_offset, AbortedRecords(found))


def _sealed_index(opened: OpenedSegment) -> AbortIndex:
    try:
        return read_index(opened.connection, opened.path)
    except DamagedSegmentError:
        rebuilt = rebuilt_aborts(opened.connection, opened.path).aborted
        assert rebuilt is not None, opened.path
        return rebuilt


def _replayed(opened: OpenedSegment) -> tuple[AbortIndex, int]:
    """What was aborted in the newest file, and where what is committed ends."""
    snapshot = read_snapshot(opened.connection, opened.path)
    try:
        transactions = replayed_transactions(opened.connection, snapshot)
    except CorruptMessageError as error:
        raise DamagedSegmentError(
            f"{opened.path}: a marker is damaged: {error}", path=opened.path
        ) from error
    [(last_offset,)] = opened.connection.execute("SELECT max(last_offset) FROM batches")
    base_offset = segments.required_base_offset(opened.path)
    end_offset = base_offset if last_offset is None else last_offset + 1
    for _, first_offset in transactions.open_since():
        end_offset = min(end_offset, first_offset)
    return transactions.aborted, end_offset


def _present(paths: Sequence[Path]) -> list[Path]:
    """The segments that are there by now, of the replica that had these."""
    present = {
        base_offset: path
        for path in chain.from_iterable(
            directory.iterdir() for directory in {path.parent for path in paths}
        )
        if (base_offset := segments.base_offset_of(path)) is not None
    }
    return [path for _, path in sorted(present.items())]
