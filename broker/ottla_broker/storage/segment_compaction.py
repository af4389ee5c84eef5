"""One compaction of a log's sealed segments: reading them, and writing what is left of them.

Memory is the table of keys (`KeyOffsets`), and one batch. Where the table is full the compaction
covers only what came before, and another one goes on from there. Everything that is read is
verified as for any reader: from a damaged segment nothing is copied.

Everything here blocks and runs on a thread, on connections of its own: sealed files are opened
immutable, so any number of connections may read them. What this writes becomes part of the log only
when the log puts it in place (`segment_replacement`).
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from ottla_broker.storage import segment as segments
from ottla_broker.storage import sqlite
from ottla_broker.storage.batch_rewriting import with_records, without_records
from ottla_broker.storage.compaction_pace import CompactionPace
from ottla_broker.storage.log_transactions import open_transactions
from ottla_broker.storage.policy.abort_index import AbortedRecords
from ottla_broker.storage.policy.compaction import (
    CompactionPlan,
    CompactionProgress,
    Kept,
    SegmentContent,
    kept_records,
)
from ottla_broker.storage.policy.key_offsets import KeyOffsets
from ottla_broker.storage.policy.open_transactions import AbortedTransaction
from ottla_broker.storage.segment import SegmentIdentity
from ottla_broker.storage.segment_aborts import read_aborts, sum_up_aborted
from ottla_broker.storage.segment_meta import BATCH_COUNT, HAS_GAPS, get_meta, set_meta
from ottla_broker.storage.segment_replacement import compacting_path
from ottla_broker.storage.segment_snapshot import read_epochs, read_snapshot
from ottla_broker.storage.segment_transactions import index_aborted, read_index
from ottla_broker.storage.stored_batch import (
    COLUMNS,
    Row,
    StoredBatch,
    damaged,
    row_of,
    verified_batch,
)
from ottla_protocol.errors import CorruptMessageError, MessageTooLargeError
from ottla_protocol.record_batch import BatchHeader, read_header
from ottla_protocol.record_codec import Record, decode_validated_batch

MAX_INFLATED_BYTES = 64 << 20
"""What the records of one batch may take uncompressed; a batch that takes more stays as it is."""

SYNC_BYTES = 8 << 20
"""How much is written before it is synced: one sync of a whole segment at the end would hold up the
commits of all logs on the disk."""

_ALL = ", ".join(COLUMNS)
_SIZE = COLUMNS.index("size")


class CompactionSource(NamedTuple):
    """A sealed segment; `end_offset` is where the next one begins."""

    path: Path
    base_offset: int
    end_offset: int


@dataclass(frozen=True, slots=True)
class CompactedFile:
    """A whole, synced file that may take the place of the segments it was made of."""

    path: Path
    size_bytes: int


@dataclass(slots=True)
class CompactionCounts:
    """What a compaction found and left out."""

    batches_read: int = 0
    bytes_read: int = 0
    bytes_kept: int = 0
    superseded: int = 0
    tombstones_removed: int = 0
    without_key: int = 0
    undecodable_batches: int = 0
    aborted: int = 0
    markers_removed: int = 0


@dataclass(slots=True)
class _Output:
    """What has been written of one file. `expected` is where the next batch begins without gap."""

    expected: int
    has_gaps: bool = False
    has_changed: bool = False
    batches: int = 0
    unsynced_bytes: int = 0


class _UnchangedError(Exception):
    """Nothing is left out of a segment, so it stays as it is."""


class LogCompaction:
    """One compaction.

    Args:
        identity: whose segments they are.
        sources: all segments below the plan's end, oldest first.
        plan: what to compact.
        remembered: base offsets of batches that stay, without records if need be.
        producers: the epoch of each producer whose newest marker stays.
        aborted_behind: aborted transactions that have records below the plan's end, and their
            marker behind it.
        map_bytes: what the table of keys may take.
        delete_retention_ms: how long a tombstone stays once it is met.
        now_ms: the wall clock.
        pace: how fast to go.
        salt: see KeyOffsets.
    """

    def __init__(
        self,
        identity: SegmentIdentity,
        sources: Sequence[CompactionSource],
        plan: CompactionPlan,
        *,
        remembered: Collection[int],
        producers: Mapping[int, int],
        aborted_behind: Sequence[AbortedTransaction],
        map_bytes: int,
        delete_retention_ms: int,
        now_ms: int,
        pace: CompactionPace,
        salt: bytes,
    ) -> None:
        self.counts = CompactionCounts()
        self._identity = identity
        self._sources = sources
        self._plan = plan
        self._remembered = remembered
        self._producers = producers
        self._aborted_behind = aborted_behind
        self._horizon_ms = now_ms + delete_retention_ms
        self._now_ms = now_ms
        self._pace = pace
        self._newest = KeyOffsets(map_bytes, plan.end_offset - plan.first_dirty_offset, salt)
        self._mapped_end = plan.first_dirty_offset
        self._last_horizon_ms = -1
        # Whether batches that cannot be judged lie below: see `policy.compaction`.
        self._met_opaque = False
        # Producers of whose transaction a batch was met, and its marker was not.
        self._unended: set[int] = set()
        # Of the segment that was asked about last.
        self._aborted: tuple[CompactionSource, AbortedRecords] | None = None

    @property
    def progress(self) -> CompactionProgress:
        """How far the log is compacted once everything is in place."""
        return CompactionProgress(
            self._mapped_end, self._last_horizon_ms, self._sources[0].base_offset
        )

    def begin(self) -> list[tuple[CompactionSource, SegmentContent]]:
        """Look for the newest offset of each key; returns the segments that are to be rewritten.

        Raises:
            DamagedSegmentError: naming file and offset.
            CompactionStoppedError: see CompactionPace.
        """
        self._mapped_end = self._map_keys()
        return [
            (source, self._content(source))
            for source in self._sources
            if source.base_offset < self._mapped_end
        ]

    def _map_keys(self) -> int:
        """Fill the table; returns where it was full, or the plan's end."""
        start = self._plan.first_dirty_offset
        put = self._newest.put
        for source in self._sources:
            if source.end_offset <= start:
                continue
            for row in self._rows(source, start):
                batch, header = self._read(source, row)
                if header.is_control or self._is_aborted(source, header):
                    continue
                for record in self._records(batch, header) or ():
                    if record.offset < start or record.key is None:
                        continue
                    if not put(record.key, record.offset):
                        return record.offset
        return self._plan.end_offset

    def _content(self, source: CompactionSource) -> SegmentContent:
        with closing(sqlite.connect_sealed(source.path)) as connection:
            ((batches, size_bytes),) = connection.execute(
                "SELECT count(*), coalesce(sum(size), 0) FROM batches"
            ).fetchall()
        return SegmentContent(batches, size_bytes)

    def rewrite(self, sources: Sequence[CompactionSource]) -> CompactedFile | None:
        """Write what is left of neighbours into one file; None when a segment stays as it is.

        Must be called for all segments that `begin` returned, oldest first.

        Raises:
            DamagedSegmentError: naming file and offset.
            CompactionStoppedError: see CompactionPace.
        """
        first, last = sources[0], sources[-1]
        path = compacting_path(first.path)
        output = _Output(first.base_offset)

        def finish(connection: Any) -> None:
            if len(sources) == 1 and not output.has_changed:
                raise _UnchangedError
            if output.has_gaps or output.expected != last.end_offset:
                set_meta(connection, HAS_GAPS, 1)
            set_meta(connection, BATCH_COUNT, output.batches)
            segments.build_time_index(connection)
            index_aborted(connection, snapshot)
            sum_up_aborted(connection)

        try:
            with closing(sqlite.connect_sealed(last.path)) as connection:
                epochs = read_epochs(connection).entries
            with closing(sqlite.connect_sealed(first.path)) as connection:
                snapshot = read_snapshot(connection, first.path)
            self._unended = set(dict(open_transactions(snapshot.producers)))
            segments.fill_file(
                path,
                self._identity,
                replace(snapshot, leader_epochs=epochs),
                self._kept_rows(sources, path, output),
                finish,
            )
            path.chmod(sqlite.SEALED_FILE_MODE)
            return CompactedFile(path, path.stat().st_size)
        except _UnchangedError:
            return None
        except BaseException:
            path.unlink(missing_ok=True)
            raise

    def _kept_rows(
        self, sources: Sequence[CompactionSource], path: Path, output: _Output
    ) -> Iterator[Row]:
        for source, row, is_last in self._rows_of_all(sources):
            kept = self._kept_row(source, row, is_last=is_last)
            if kept is not row:
                output.has_changed = True
            if kept is None:
                continue
            base_offset, last_offset, size_bytes = kept[0], kept[1], kept[_SIZE]
            output.has_gaps = output.has_gaps or base_offset != output.expected
            output.expected = last_offset + 1
            output.batches += 1
            yield kept
            self.counts.bytes_kept += size_bytes
            self._pace.spend(size_bytes)
            output.unsynced_bytes += size_bytes
            if output.unsynced_bytes >= SYNC_BYTES:
                sqlite.fsync_file(path)
                output.unsynced_bytes = 0

    def _rows_of_all(
        self, sources: Sequence[CompactionSource]
    ) -> Iterator[tuple[CompactionSource, Row, bool]]:
        """Every row, and whether it is the last one."""
        held: tuple[CompactionSource, Row] | None = None
        for source in sources:
            for row in self._rows(source, source.base_offset):
                if held is not None:
                    yield *held, False
                held = source, row
        if held is not None:
            yield *held, True

    def _kept_row(self, source: CompactionSource, row: Row, *, is_last: bool) -> Row | None:
        """The row as it stays: itself, with fewer records, with none, or not at all."""
        batch, header = self._read(source, row)
        if header.is_control:
            return self._kept_control_row(row, batch, header, is_last=is_last)
        if header.is_transactional:
            self._unended.add(header.producer_id)
            if self._is_aborted(source, header):
                self.counts.aborted += header.record_count
                return self._emptied_row(row, batch, header, is_last=is_last)
        records = self._records(batch, header)
        if records is None:
            self._met_opaque = True
            return row
        horizon_ms = header.delete_horizon_ms
        kept = kept_records(
            records,
            self._newest.get,
            mapped_end=self._mapped_end,
            drop_tombstones=horizon_ms is not None
            and horizon_ms <= self._now_ms
            and not self._met_opaque,
        )
        self.counts.superseded += kept.superseded
        self.counts.tombstones_removed += kept.tombstones_removed
        self.counts.without_key += kept.without_key
        if not kept.positions:
            return self._emptied_row(row, batch, header, is_last=is_last)
        if kept.tombstones and horizon_ms is None and batch.last_offset < self._mapped_end:
            # Nothing older of these keys is left: from here on their time runs.
            horizon_ms = self._horizon_ms
        if kept.tombstones and horizon_ms is not None and not self._met_opaque:
            self._last_horizon_ms = max(self._last_horizon_ms, horizon_ms)
        if len(kept.positions) == len(records) and horizon_ms == header.delete_horizon_ms:
            return row
        return _row(batch, _rewritten(batch, header, records, kept, horizon_ms))

    def _emptied_row(
        self, row: Row, batch: StoredBatch, header: BatchHeader, *, is_last: bool
    ) -> Row | None:
        """What stays of a batch that has lost all of its records."""
        if not is_last and batch.base_offset not in self._remembered:
            return None
        return row if header.record_count == 0 else _row(batch, without_records(header))

    def _kept_control_row(
        self, row: Row, batch: StoredBatch, header: BatchHeader, *, is_last: bool
    ) -> Row | None:
        """A marker as it is, with the time from which on it may go, or nothing of it."""
        if header.producer_id in self._unended:
            self._unended.remove(header.producer_id)
            return row
        horizon_ms = header.delete_horizon_ms
        stays = (
            is_last
            or batch.base_offset in self._remembered
            or self._producers.get(header.producer_id) == header.producer_epoch
            or batch.last_offset >= self._mapped_end
        )
        if stays:
            return row
        if horizon_ms is not None and horizon_ms <= self._now_ms:
            self.counts.markers_removed += 1
            return None
        self._last_horizon_ms = max(self._last_horizon_ms, horizon_ms or self._horizon_ms)
        if horizon_ms is not None:
            return row
        dated = with_records(
            batch.data,
            header,
            range(header.record_count),
            max_timestamp=header.max_timestamp,
            delete_horizon_ms=self._horizon_ms,
            max_inflated_bytes=MAX_INFLATED_BYTES,
        )
        return _row(batch, dated)

    def _is_aborted(self, source: CompactionSource, header: BatchHeader) -> bool:
        if not header.is_transactional:
            return False
        if self._aborted is None or self._aborted[0] is not source:
            self._aborted = source, AbortedRecords(self._aborted_of(source))
        return self._aborted[1].hides(header.producer_id, header.base_offset)

    def _aborted_of(self, source: CompactionSource) -> list[AbortedTransaction]:
        """Those that have records in a segment, in the order of their markers."""
        found: list[AbortedTransaction] = []
        start, end = source.base_offset, source.end_offset
        for each in self._sources[self._sources.index(source) :]:
            with closing(sqlite.connect_sealed(each.path)) as connection:
                known = read_aborts(connection)
                if each is not source and not known.reaches_back_below(end):
                    return found
                if known.aborted_count:
                    found.extend(read_index(connection, each.path).touching(start, end))
        found.extend(each for each in self._aborted_behind if each.touches(start, end))
        return found

    def _records(self, batch: StoredBatch, header: BatchHeader) -> Sequence[Record] | None:
        """The batch's records; None where it is not to be touched."""
        try:
            return decode_validated_batch(batch.data, header, max_inflated_bytes=MAX_INFLATED_BYTES)
        except (CorruptMessageError, MessageTooLargeError):
            # Its CRC is right: this is what its producer sent, and no reader can read it either.
            self.counts.undecodable_batches += 1
            return None

    def _read(self, source: CompactionSource, row: Row) -> tuple[StoredBatch, BatchHeader]:
        batch, header = verified_batch(source.path, row)
        self.counts.batches_read += 1
        self.counts.bytes_read += header.size_bytes
        self._pace.spend(header.size_bytes)
        return batch, header

    def _rows(self, source: CompactionSource, offset: int) -> Iterator[Row]:
        """The segment's rows from the one that holds `offset` on, none of them missing."""
        path = source.path
        try:
            with closing(sqlite.connect_sealed(path)) as connection:
                found = segments.read_identity(connection, path)
                if found != self._identity:
                    raise damaged(path, offset, f"belongs to {found}")
                yield from _following_rows(connection, source, offset)
        except (sqlite.DriverError, UnicodeDecodeError) as error:
            raise sqlite.storage_error(path, "compaction", error) from error


def _following_rows(connection: Any, source: CompactionSource, offset: int) -> Iterator[Row]:
    path = source.path
    has_gaps = bool(get_meta(connection, HAS_GAPS))
    wanted = get_meta(connection, BATCH_COUNT)
    ((first,),) = connection.execute(
        "SELECT coalesce(max(base_offset), 0) FROM batches WHERE base_offset <= ?", (offset,)
    ).fetchall()
    expected = max(first, source.base_offset)
    count = 0
    for row in connection.execute(
        f"SELECT {_ALL} FROM batches WHERE base_offset >= ? "  # noqa: S608  constant names
        "ORDER BY base_offset",
        (first,),
    ):
        if row[0] < expected or (row[0] > expected and not has_gaps):
            raise damaged(path, expected, f"the next batch begins at {row[0]}")
        if not isinstance(row[1], int):
            raise damaged(path, row[0], "its last offset is none")
        expected = row[1] + 1
        count += 1
        yield row
    if expected > source.end_offset or (expected < source.end_offset and not has_gaps):
        raise damaged(path, expected, f"the segment ends at {source.end_offset}")
    if wanted is not None and offset <= source.base_offset and count != wanted:
        raise damaged(path, expected, f"{wanted - count} of {wanted} batches are missing")


def _rewritten(
    batch: StoredBatch,
    header: BatchHeader,
    records: Sequence[Record],
    kept: Kept,
    horizon_ms: int | None,
) -> bytearray:
    newest = (
        header.max_timestamp
        if header.is_log_append_time
        else max(records[position].timestamp for position in kept.positions)
    )
    return with_records(
        batch.data,
        header,
        kept.positions,
        max_timestamp=newest,
        delete_horizon_ms=horizon_ms,
        max_inflated_bytes=MAX_INFLATED_BYTES,
    )


def _row(batch: StoredBatch, data: bytearray) -> Row:
    """The row of a rewritten batch: offsets, epoch and idempotency are those that it had."""
    return row_of(read_header(data), batch._replace(data=data))
