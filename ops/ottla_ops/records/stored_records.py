"""Records out of segment files, of a stopped broker or of a running one's own copy.

A file does not know the high watermark, so this reads to the end of the log: on a copy whose broker
stopped while it wrote, that may be records that were never acknowledged and will be truncated.

Segments and batches that cannot hold a wanted record are not read: a segment's name says where it
begins, and the columns of a batch say where it ends and how new its newest record is.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from ottla import ConsumerRecord
from ottla_broker.storage import segment as segments
from ottla_broker.storage import sqlite
from ottla_broker.storage.segment_reader import read_batches
from ottla_broker.storage.stored_batch import StoredBatch
from ottla_ops.records.record_source import TopicRead, selected
from ottla_ops.records.selection import Bounds, Selection
from ottla_ops.records.stored_transactions import CommittedView, committed_view
from ottla_ops.segments.found_segments import FoundReplica
from ottla_ops.segments.segment_snapshot import open_segment
from ottla_protocol.models import Isolation
from ottla_protocol.record_batch import read_header
from ottla_protocol.record_codec import decode_consumed_batch

READ_BYTES: Final = 4 << 20
"""Batches that are taken out of a segment at once."""

INFLATED_BYTES_MAX: Final = 256 << 20
"""What the records of one batch may take uncompressed."""

_UNLIMITED: Final = 1 << 62


class StoredRecords:
    """The topics of some replicas.

    Args:
        replicas: see `found_segments.find_replicas`.
        isolation: with `read_committed`, only records of transactions that are committed, up to the
            first that has no marker.
    """

    def __init__(
        self, replicas: Sequence[FoundReplica], isolation: Isolation = "read_uncommitted"
    ) -> None:
        self._replicas = replicas
        self._isolation = isolation

    def has_topic(self, topic: str) -> bool:
        """See `RecordSource.has_topic`."""
        return any(replica.topic == topic for replica in self._replicas)

    def read(self, topic: str, selection: Selection) -> TopicRead:
        """See `RecordSource.read`.

        Raises:
            StorageError: a file is damaged, out of reach, or written too fast to be copied.
        """
        replicas = [
            replica
            for replica in self._replicas
            if replica.topic == topic and replica.partition in selection.partition
        ]
        if selection.is_empty:
            replicas = []
        offsets = sum(_offsets(replica, selection.offset) for replica in replicas)
        records = (run for replica in replicas for run in self._read(replica, selection) if run)
        return TopicRead(tuple(replica.partition for replica in replicas), offsets, records)

    def _read(self, replica: FoundReplica, selection: Selection) -> Iterator[list[ConsumerRecord]]:
        if self._isolation == "read_uncommitted":
            return _read_replica(replica, selection, None)
        view = committed_view(replica.segments)
        below = Bounds(None, view.end_offset - 1)
        selection = replace(selection, offset=selection.offset.both(below))
        return _read_replica(replica, selection, view)


def read_stored_batches(path: Path, selection: Selection) -> Iterator[StoredBatch]:
    """The verified batches of one segment that may hold a wanted record.

    Raises:
        FileNotFoundError: the segment is gone.
        StorageError: it is damaged, out of reach, or written too fast to be copied.
    """
    try:
        with open_segment(path) as opened:
            yield from _batches(opened.connection, path, selection)
    except sqlite.DriverError as error:
        raise sqlite.storage_error(path, "read", error) from error


def _offsets(replica: FoundReplica, wanted: Bounds) -> int:
    """How many offsets of a replica are to be read."""
    if not replica.segments:
        return 0
    first = segments.required_base_offset(replica.segments[0])
    newest = replica.segments[-1]
    try:
        with open_segment(newest) as opened:
            end = segments.end_offset_of(opened.connection, segments.required_base_offset(newest))
    except FileNotFoundError:
        return 0
    except sqlite.DriverError as error:
        raise sqlite.storage_error(newest, "read", error) from error
    least = first if wanted.least is None else max(first, wanted.least)
    greatest = end - 1 if wanted.greatest is None else min(end - 1, wanted.greatest)
    return max(0, greatest - least + 1)


def _read_replica(
    replica: FoundReplica, selection: Selection, view: CommittedView | None
) -> Iterator[list[ConsumerRecord]]:
    position = 0
    for path in wanted_segments(replica.segments, selection.offset):
        try:
            for batch in read_stored_batches(path, selection):
                position = batch.last_offset + 1
                yield selected(_decoded(replica, batch, view), selection)
        except FileNotFoundError:
            # Retention took it away meanwhile, as it would have a moment before; or compaction has
            # made it a part of the segment before it.
            yield from _read_compacted(replica, path, selection, position, view)


def _read_compacted(
    replica: FoundReplica,
    gone: Path,
    selection: Selection,
    position: int,
    view: CommittedView | None,
) -> Iterator[list[ConsumerRecord]]:
    """What another segment holds by now, from `position` on, of the offsets of one that is gone."""
    base_offset = segments.required_base_offset(gone)
    bases = [segments.required_base_offset(path) for path in replica.segments]
    end_offset = next((base for base in bases if base > base_offset), None)
    own = Bounds(max(base_offset, position), None if end_offset is None else end_offset - 1)
    holders = [
        path
        for path in sorted(gone.parent.iterdir())
        if (found := segments.base_offset_of(path)) is not None and found < base_offset
    ]
    if holders:
        narrowed = replace(selection, offset=selection.offset.both(own))
        for batch in read_stored_batches(holders[-1], narrowed):
            yield selected(_decoded(replica, batch, view), narrowed)


def wanted_segments(paths: Sequence[Path], wanted: Bounds) -> Iterator[Path]:
    """Segments that may hold a wanted offset: each ends where the next one begins."""
    ends = [segments.required_base_offset(after) for _, after in pairwise(paths)]
    for path, end in zip(paths, [*ends, None], strict=True):
        if end is not None and wanted.least is not None and end <= wanted.least:
            continue
        greatest = wanted.greatest
        if greatest is not None and segments.required_base_offset(path) > greatest:
            return
        yield path


def _batches(connection: Any, path: Path, selection: Selection) -> Iterator[StoredBatch]:
    base_offset = segments.required_base_offset(path)
    end_offset = segments.end_offset_of(connection, base_offset)
    least, greatest = selection.offset.least, selection.offset.greatest
    since = selection.timestamp.least
    position = base_offset if least is None else max(base_offset, least)
    stop = end_offset if greatest is None else min(end_offset, greatest + 1)
    while position < stop:
        if since is not None:
            # Columns tell how new a batch is; older ones in front of it need not be read.
            [(found,)] = connection.execute(
                "SELECT min(base_offset) FROM batches WHERE last_offset >= ? "
                "AND base_offset >= ? AND max_timestamp >= ?",
                (position, _batch_at(connection, position), since),
            ).fetchall()
            if found is None or found >= stop:
                return
            position = max(position, found)
        batches = read_batches(
            connection,
            path,
            position,
            max_bytes=READ_BYTES,
            limit=_UNLIMITED,
            end_offset=end_offset,
        )
        for batch in batches:
            if batch.base_offset >= stop:
                return
            yield batch
        if not batches:
            return
        position = batches[-1].last_offset + 1


def _batch_at(connection: Any, offset: int) -> int:
    """The base offset of the last batch that begins at or below `offset`."""
    [(found,)] = connection.execute(
        "SELECT max(base_offset) FROM batches WHERE base_offset <= ?", (offset,)
    ).fetchall()
    return 0 if found is None else int(found)


def _decoded(
    replica: FoundReplica, batch: StoredBatch, view: CommittedView | None
) -> list[ConsumerRecord]:
    """The batch's records; none of a marker's, nor of what the view does not show."""
    header = read_header(batch.data)
    if header.is_control or not (view is None or view.shows(header)):
        return []
    return decode_consumed_batch(
        batch.data,
        header,
        ConsumerRecord,
        replica.topic,
        replica.partition,
        max_inflated_bytes=INFLATED_BYTES_MAX,
    )
