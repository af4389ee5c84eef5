"""Reads that look at many records and tell few: in steps, with a bound on what one request costs.

What a step reads is decoded and filtered on a worker thread, and a request holds one for a step at
a time, so that it neither holds up the event loop nor the large requests of others. A request that
reaches a bound before it has found what was asked for answers with what it has: its next offset is
behind all that it looked at, so whoever asks again from there comes to the end.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from ottla_broker.drivers.clock import monotonic_ms
from ottla_broker.drivers.purgatory import Purgatory
from ottla_broker.services.batch_decoding import decode_records
from ottla_broker.services.consumer_reads import ConsumerRead
from ottla_broker.services.heavy_work import on_worker
from ottla_broker.services.reading import poll
from ottla_broker.services.record_filter import RecordFilter
from ottla_protocol.record_codec import Record

MAX_EXAMINED_RECORDS: Final = 200_000
"""Records that one request looks at: some half a second of a processor with a `where`."""

MAX_EXAMINED_BYTES: Final = 64 << 20
"""Keys and values that one request looks at, or stored bytes where these are more."""

MAX_LATE_MS: Final = 2_000
"""How long past the wait that was asked for a request goes on to look, on a busy machine."""

STEP_BYTES: Final = 1 << 20
"""Stored bytes of a step; one batch is always read."""

RECORDS_FILTERED_INLINE: Final = 200
"""More records than this are filtered on a thread."""

OpenRead = Callable[[int, int], ConsumerRead]
"""(offset, bytes at most) to a read of the partition, not polled yet."""


@dataclass(slots=True)
class FilteredRecords:
    """What was found so far.

    Attributes:
        records: what the filter lets through, in order.
        next_offset: behind all that was looked at.
        limit: the offset that the last step could not go past.
        size_bytes: of the keys and values in `records`.
    """

    next_offset: int
    limit: int
    records: list[Record] = field(default_factory=list)
    size_bytes: int = 0
    examined_records: int = 0
    examined_bytes: int = 0


async def read_filtered(
    open_read: OpenRead,
    record_filter: RecordFilter,
    offset: int,
    *,
    max_bytes: int,
    max_records: int,
    min_bytes: int,
    max_wait_ms: int,
    purgatory: Purgatory,
) -> FilteredRecords:
    """Look for records until enough are found, a bound is reached, or the end and the time are.

    Args:
        open_read: how to read.
        record_filter: what to look for.
        offset: where to begin.
        max_bytes: keys and values to find; the one that passes it is still told.
        max_records: records to find.
        min_bytes: at the end of the log, whether to wait for more.
        max_wait_ms: how long to wait there in all.
        purgatory: where to park meanwhile.

    Raises:
        OttlaError: nothing can be read at `offset`. What fails further on ends the read before it.
    """
    deadline_ms = monotonic_ms() + max_wait_ms
    found = FilteredRecords(next_offset=offset, limit=offset)
    while True:
        read = open_read(found.next_offset, STEP_BYTES)
        wait_ms = deadline_ms - monotonic_ms() if found.size_bytes < min_bytes else 0
        await poll(
            [read],
            min_bytes=1,
            max_bytes=STEP_BYTES,
            max_wait_ms=max(0, round(wait_ms)),
            purgatory=purgatory,
        )
        if read.error is not None:
            if found.next_offset == offset:
                raise read.error
            return found
        found.limit = read.last_limit
        if not read.batches and not read.has_more:
            found.next_offset = read.next_offset or found.next_offset
            return found
        is_enough = await _examine(found, read, record_filter, max_bytes, max_records)
        is_late = monotonic_ms() >= deadline_ms + MAX_LATE_MS
        if is_enough or is_late or purgatory.is_released:
            return found


async def _examine(
    found: FilteredRecords,
    read: ConsumerRead,
    record_filter: RecordFilter,
    max_bytes: int,
    max_records: int,
) -> bool:
    """Add what one step read; whether no further step is to be made."""
    batches = [batch.data for batch in read.batches]
    decoded = await decode_records(
        batches,
        found.next_offset,
        max_records=MAX_EXAMINED_RECORDS - found.examined_records,
        end_offset=read.next_offset,
    )
    records = decoded.records
    if len(records) > RECORDS_FILTERED_INLINE:
        selected, size_bytes = await on_worker(_select, record_filter, records)
    else:
        selected, size_bytes = _select(record_filter, records)
    found.examined_records += len(records)
    found.examined_bytes += max(size_bytes, sum(map(len, batches)))
    for record in selected:
        found.records.append(record)
        found.size_bytes += _size_bytes(record)
        if len(found.records) == max_records or found.size_bytes >= max_bytes:
            found.next_offset = record.offset + 1
            return True
    found.next_offset = decoded.next_offset
    return (
        found.examined_records >= MAX_EXAMINED_RECORDS or found.examined_bytes >= MAX_EXAMINED_BYTES
    )


def _select(record_filter: RecordFilter, records: Sequence[Record]) -> tuple[list[Record], int]:
    """What the filter lets through, and the size of all that it looked at."""
    return record_filter.select(records), sum(map(_size_bytes, records))


def _size_bytes(record: Record) -> int:
    return len(record.value or b"") + len(record.key or b"")
