"""Reads of one consumer instance: where they begin, how long they wait, and how much they take."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any

from ottla_broker.drivers.clock import monotonic_ms
from ottla_broker.drivers.peer_messages import PartitionName
from ottla_broker.drivers.purgatory import Purgatory
from ottla_broker.services.coordinator_calls import CoordinatorCalls
from ottla_broker.services.group_poll import (
    READ_WAIT_MS,
    RETRY_INTERVAL_MS,
    out_of_range_in,
    raise_lasting,
)
from ottla_broker.services.leader_reads import (
    LeaderReads,
    Results,
    TopicPartition,
    cancel_all,
)
from ottla_broker.services.partition_bounds import PartitionBoundsService
from ottla_broker.services.poll_membership import by_topic
from ottla_broker.services.polled_records import PolledPartition, take_records
from ottla_cluster.groups.commands import Heartbeat, HeartbeatResponse
from ottla_cluster.groups.instance_commands import DescribeInstance, InstanceResponse
from ottla_protocol.errors import (
    FencedMemberEpochError,
    OffsetOutOfRangeError,
    OttlaError,
    UnknownMemberIdError,
)
from ottla_protocol.models_groups import MAX_HEARTBEAT_WAIT_MS
from ottla_protocol.record_codec import Record

MAX_RECORDS = 10_000
"""Records of one answer."""

LEAST_READ_BYTES = 64 << 10
"""What is asked of each leader at least."""

FIRST_ASSIGNMENT_WAIT_MS = 5_000
"""How long a request waits at least for the instance's first partitions, while others that had them
give them up: an empty answer would say that there is nothing to read."""

Seek = Callable[[str, str, Mapping[TopicPartition, int]], Awaitable[None]]


class ConsumerReads:
    """Reads at the leaders of what an instance is assigned."""

    def __init__(
        self,
        *,
        calls: CoordinatorCalls,
        bounds: PartitionBoundsService,
        reads: LeaderReads,
        purgatory: Purgatory,
    ) -> None:
        self._calls = calls
        self._bounds = bounds
        self._reads = reads
        self._purgatory = purgatory

    async def gather(
        self,
        group: str,
        state: InstanceResponse,
        seek: Seek,
        *,
        max_bytes: int,
        deadline_ms: int,
    ) -> list[PolledPartition] | None:
        """Records behind the instance's positions; None if the instance has to be looked at anew.

        Returns as soon as there are `fetch.min.bytes`, with all that is there.

        Args:
            group: the instance's group.
            state: the instance.
            seek: moves positions of the instance, where they are pinned or were out of range.
            max_bytes: of keys and values; one record always fits.
            deadline_ms: until when to wait, on the monotonic clock.

        Raises:
            OffsetOutOfRangeError: there is no offset to go on from, and `auto.offset.reset` is
                `none`.
            OttlaError: what waiting does not help against.
        """
        if not state.partitions and not state.is_settled:
            deadline_ms = max(deadline_ms, monotonic_ms() + FIRST_ASSIGNMENT_WAIT_MS)
        where = {
            (each.topic, each.partition): each.offset
            for each in state.partitions
            if each.offset is not None
        }
        topic_ids = {each.topic: each.topic_id for each in state.partitions}
        batch = _Taken(max_bytes)
        wanted_bytes = max(1, min(state.settings.fetch_min_bytes, max_bytes))
        wait_ms = 0
        watching: asyncio.Task[bool] | None = None
        try:
            while True:
                if await self._place(group, state, seek, where):
                    return None
                looking = asyncio.create_task(
                    self._look(where, topic_ids, wait_ms, batch.room_bytes)
                )
                results = await _unless_changed(looking, watching)
                if results is None:
                    return None
                if watching is not None and watching.done():
                    watching = None
                refused = out_of_range_in(results)
                if refused and not batch.partitions:
                    await self._reset(group, state, seek, refused)
                    return None
                await batch.take(results, where)
                if not batch.partitions:
                    raise_lasting(results, refused)
                remaining_ms = deadline_ms - monotonic_ms()
                is_enough = batch.size_bytes >= wanted_bytes or batch.is_full
                if is_enough or remaining_ms <= 0 or self._purgatory.is_released:
                    return batch.taken()
                if watching is None:
                    watching = asyncio.create_task(self._watch(group, state, remaining_ms))
                wait_ms = max(1, min(READ_WAIT_MS, remaining_ms))
                if len(where) < len(state.partitions) or _has_failed(results):
                    await self._purgatory.pause(min(RETRY_INTERVAL_MS, remaining_ms))
                    wait_ms = 0
        finally:
            if watching is not None:
                await cancel_all({watching})

    async def _look(
        self,
        where: Mapping[TopicPartition, int],
        topic_ids: Mapping[str, str],
        wait_ms: int,
        room_bytes: int,
    ) -> Results:
        if where:
            return await self._reads.read(
                where,
                max_wait_ms=wait_ms,
                topic_ids=topic_ids,
                max_bytes=max(LEAST_READ_BYTES, room_bytes),
            )
        if wait_ms:
            with self._purgatory.parked_request():
                await self._purgatory.pause(wait_ms)
        return {}

    async def _watch(self, group: str, state: InstanceResponse, wait_ms: int) -> bool:
        """Be the instance's sign of life for so long; whether it reads something else now."""
        end_ms = monotonic_ms() + wait_ms
        owned = by_topic((each.topic, each.partition) for each in state.partitions)
        third_ms = max(1, state.settings.idle_timeout_ms // 3)
        while (remaining_ms := end_ms - monotonic_ms()) > 0:
            sent_ms = monotonic_ms()
            park_ms = min(remaining_ms, third_ms, MAX_HEARTBEAT_WAIT_MS)
            if state.is_assigned:
                await asyncio.sleep(park_ms / 1000)
                command = DescribeInstance(group, state.instance_id)
                await self._calls.decide(group, command, repeatable=True)
                continue
            heartbeat = Heartbeat(
                group, state.instance_id, state.generation, owned=owned, max_wait_ms=park_ms
            )
            try:
                response, _ = await self._calls.decide(group, heartbeat, repeatable=True)
            except (UnknownMemberIdError, FencedMemberEpochError):
                return True
            assert isinstance(response, HeartbeatResponse)
            if response.assignment is not None:
                return True
            if monotonic_ms() - sent_ms < park_ms:
                # There is no room to wait, or another request of the instance waits now.
                pause_ms = min(response.heartbeat_interval_ms, remaining_ms)
                await asyncio.sleep(pause_ms / 1000)
        return False

    # --- positions --------------------------------------------------------------------------

    async def _place(
        self,
        group: str,
        state: InstanceResponse,
        seek: Seek,
        where: dict[TopicPartition, int],
    ) -> bool:
        """Find where to read what has no offset yet; whether that had to be written down.

        Such a partition begins where `auto.offset.reset` says. `latest` is written down, or the
        next request would pass over what comes in between. One whose leader does not tell its
        bounds now stays out.
        """
        new = [
            key
            for each in state.partitions
            for key in ((each.topic, each.partition),)
            if key not in where
        ]
        found = await self._starts(state, new) if new else {}
        if found and state.settings.auto_offset_reset == "latest":
            await seek(group, state.instance_id, found)
            return True
        where.update(found)
        return False

    async def _reset(
        self,
        group: str,
        state: InstanceResponse,
        seek: Seek,
        refused: Iterable[TopicPartition],
    ) -> None:
        """Replace positions that their leaders refused."""
        found = await self._starts(state, refused)
        if found:
            await seek(group, state.instance_id, found)

    async def _starts(
        self, state: InstanceResponse, partitions: Iterable[TopicPartition]
    ) -> dict[TopicPartition, int]:
        """Where `auto.offset.reset` has an instance begin; without those whose leader is away."""
        reset = state.settings.auto_offset_reset
        topic_ids = {each.topic: each.topic_id for each in state.partitions}
        names = {
            (topic, partition): PartitionName(topic_ids[topic], partition)
            for topic, partition in partitions
        }
        if reset == "none" and names:
            topic, partition = next(iter(names))
            raise OffsetOutOfRangeError(
                f"{topic}-{partition}: there is no committed offset to go on from, or it is gone, "
                "and auto.offset.reset is none"
            )
        bounds = await self._bounds.look_up(names.values())
        return {
            key: known.log_start_offset if reset == "earliest" else known.high_watermark
            for key, name in names.items()
            for known in (bounds.get(name),)
            if known is not None
        }


async def _unless_changed(
    looking: "asyncio.Task[Results]", watching: "asyncio.Task[bool] | None"
) -> Results | None:
    """What can be read; None as soon as the instance is to read something else."""
    try:
        racing: set[asyncio.Task[Any]] = {looking}
        if watching is not None:
            racing.add(watching)
        await asyncio.wait(racing, return_when=asyncio.FIRST_COMPLETED)
        if watching is not None and watching.done() and watching.result():
            return None
        return await looking
    finally:
        await cancel_all({looking})


def _has_failed(results: Results) -> bool:
    return any(isinstance(result, OttlaError) for result in results.values())


class _Taken:
    """The records of one answer while they are gathered."""

    def __init__(self, max_bytes: int) -> None:
        self.partitions: dict[TopicPartition, list[Record]] = {}
        self.size_bytes = 0
        self.is_full = False
        self._max_bytes = max_bytes
        self._next: dict[TopicPartition, int] = {}
        self._count = 0

    @property
    def room_bytes(self) -> int:
        """How much more fits."""
        return max(0, self._max_bytes - self.size_bytes)

    async def take(self, results: Results, where: dict[TopicPartition, int]) -> None:
        """Take what was read as far as there is room, and move `where` behind it."""
        found = await take_records(results, where, max_records=MAX_RECORDS - self._count)
        for each in found:
            records, size_bytes = fitting(
                each.records, self.room_bytes, may_be_none=self._count > 0
            )
            self.is_full |= len(records) < len(each.records)
            where[each.key] = records[-1].offset + 1 if records else where[each.key]
            if len(records) == len(each.records):
                where[each.key] = each.next_offset
            if records:
                self.partitions.setdefault(each.key, []).extend(records)
                self._next[each.key] = where[each.key]
            self.size_bytes += size_bytes
            self._count += len(records)
        self.is_full |= self._count >= MAX_RECORDS or self.size_bytes >= self._max_bytes

    def taken(self) -> list[PolledPartition]:
        """All of it, by topic and partition."""
        return [
            PolledPartition(key, records, self._next[key])
            for key, records in sorted(self.partitions.items())
        ]


def fitting(
    records: Sequence[Record], room_bytes: int, *, may_be_none: bool
) -> tuple[Sequence[Record], int]:
    """The first records whose keys and values fit, and their size.

    Args:
        records: in the order of their offsets.
        room_bytes: how much there is room for.
        may_be_none: if not, the first record fits whatever its size.
    """
    size_bytes = 0
    for index, record in enumerate(records):
        record_bytes = len(record.key or b"") + len(record.value or b"")
        if size_bytes + record_bytes > room_bytes and (index > 0 or may_be_none):
            return records[:index], size_bytes
        size_bytes += record_bytes
    return records, size_bytes
