"""Bounded reads of all partitions of a topic: from a cursor to a cursor, at any broker."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ottla_broker.drivers.clock import monotonic_ms
from ottla_broker.drivers.purgatory import Purgatory
from ottla_broker.services.filtered_read import MAX_EXAMINED_BYTES, MAX_EXAMINED_RECORDS
from ottla_broker.services.heavy_work import on_worker
from ottla_broker.services.leader_reads import LeaderReads, Results, TopicPartition
from ottla_broker.services.polled_records import PolledPartition, take_records
from ottla_broker.services.record_feed import is_lasting
from ottla_broker.services.record_filter import RecordFilter
from ottla_broker.services.topic_positions import Start, TopicPositions
from ottla_broker.services.truncated_reads import refuse_truncated, with_news
from ottla_protocol.cursors import Cursor
from ottla_protocol.errors import OttlaError
from ottla_protocol.models import Isolation

READ_WAIT_MS = 5_000
"""How long one read of a waiting request stays at the leaders, before it is asked who leads now."""

RECORDS_EXAMINED = 10_000
"""How many records a filter looks at before the request's time is looked at again."""

RETRY_INTERVAL_MS = 100
"""How long a waiting request leaves a partition alone that could not be read."""


@dataclass(frozen=True, slots=True)
class TopicReadOptions:
    """Bounds of one read."""

    start: Start
    max_bytes: int
    max_records: int
    max_wait_ms: int
    isolation: Isolation = "read_uncommitted"
    filter: RecordFilter | None = None


@dataclass(frozen=True, slots=True)
class TopicRecords:
    """What a read found, and the cursor behind it.

    `unavailable` names partitions that could not be read at this moment; the cursor has not moved
    there.
    """

    partitions: Sequence[PolledPartition]
    cursor: Cursor
    unavailable: Sequence[int]


class TopicReadService:
    """Serves `GET /v1/topics/{topic}/records`."""

    def __init__(
        self, *, positions: TopicPositions, reads: LeaderReads, purgatory: Purgatory
    ) -> None:
        self._positions = positions
        self._reads = reads
        self._purgatory = purgatory

    async def read(self, topic: str, options: TopicReadOptions) -> TopicRecords:
        """Read a fair share of each partition; wait for records where there are none.

        Raises:
            OffsetOutOfRangeError: records at the cursor are gone; with partition and bounds.
            LogTruncatedError: some before it are; with the cursor to go on from.
            UnavailableError: no partition can be read now.
            OttlaError: as `TopicPositions.begin`.
        """
        deadline_ms = monotonic_ms() + options.max_wait_ms
        beginning = await self._positions.begin(
            topic, None, options.start, isolation=options.isolation
        )
        scope, epochs = beginning.scope, beginning.epochs
        where = {(scope.topic, number): at for number, at in enumerate(beginning.positions)}
        wait_ms = 0
        work = _Work()
        while True:
            results = await self._reads.read(
                where,
                max_wait_ms=wait_ms,
                max_bytes=options.max_bytes,
                topic_ids={scope.topic: scope.topic_id},
                epochs=dict(zip(where, epochs, strict=True)),
                isolation=options.isolation,
            )
            refuse_truncated(results, scope, tuple(where.values()), epochs)
            failed = _failed(results)
            for (_, partition), result in results.items():
                epochs = with_news(epochs, partition, result)
            found, examined = await _take(results, where, options)
            work.add(examined)
            has_moved = any(where[each.key] != each.next_offset for each in found)
            where.update({each.key: each.next_offset for each in found})
            records = [each for each in found if each.records]
            remaining_ms = deadline_ms - monotonic_ms()
            if records or remaining_ms <= 0 or work.is_done or self._purgatory.is_released:
                break
            wait_ms = 0 if has_moved else min(READ_WAIT_MS, remaining_ms)
            if failed:
                await asyncio.sleep(min(RETRY_INTERVAL_MS, remaining_ms) / 1000)
        if len(failed) == len(where):
            raise next(iter(failed.values()))
        cursor = Cursor(scope.topic_id, 0, tuple(where.values()), epochs)
        return TopicRecords(records, cursor, sorted(failed))


class _Work:
    """What a filter has looked at; bounded, for a request may wait for a minute."""

    def __init__(self) -> None:
        self._records = 0
        self._bytes = 0

    def add(self, examined: Sequence[PolledPartition]) -> None:
        """Count what one round has looked at."""
        for each in examined:
            self._records += len(each.records)
            self._bytes += sum(
                len(record.value or b"") + len(record.key or b"") for record in each.records
            )

    @property
    def is_done(self) -> bool:
        """Whether the request has done its share."""
        return self._records >= MAX_EXAMINED_RECORDS or self._bytes >= MAX_EXAMINED_BYTES


async def _take(
    results: Results, where: Mapping[TopicPartition, int], options: TopicReadOptions
) -> tuple[list[PolledPartition], list[PolledPartition]]:
    """A fair share of each partition, and what was looked at for it; a filter lets less through."""
    wanted = options.filter
    if wanted is None:
        found = await take_records(results, where, max_records=options.max_records)
        return found, found
    examined = await take_records(results, where, max_records=RECORDS_EXAMINED)
    found = []
    left = options.max_records
    for index, each in enumerate(examined):
        share = -(-left // (len(examined) - index))
        if not share:
            break
        selected = await on_worker(wanted.select, each.records)
        next_offset = each.next_offset
        if len(selected) > share:
            next_offset = selected[share].offset
        found.append(PolledPartition(each.key, selected[:share], next_offset))
        left -= len(found[-1].records)
    return found, examined


def _failed(results: Results) -> dict[int, OttlaError]:
    """The partitions that could not be read now.

    Raises:
        OttlaError: one cannot be read later either.
    """
    failed: dict[int, OttlaError] = {}
    for (_, partition), result in results.items():
        if not isinstance(result, OttlaError):
            continue
        if is_lasting(result):
            result.members.setdefault("partition", partition)
            raise result
        failed[partition] = result
    return failed
