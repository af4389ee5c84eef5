"""Where partitions begin and end, and where a time is in them, whoever leads them.

A group's lag is measured by the former, and a group seeks by both.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Final, TypeVar

from ottla_broker.drivers.clock import monotonic_ms
from ottla_broker.drivers.metadata import MetadataCache
from ottla_broker.drivers.peer_client import PeerClient
from ottla_broker.drivers.peer_messages import (
    PartitionBounds,
    PartitionName,
    TimestampLookup,
    TimestampOffset,
    encode,
)
from ottla_broker.drivers.replica_manager import ReplicaManager
from ottla_broker.services.leader_questions import LeaderQuestions
from ottla_broker.services.timestamps import find_by_timestamp
from ottla_protocol import routes
from ottla_protocol.errors import (
    NotFoundError,
    OttlaError,
    RoutingError,
    UnavailableError,
)
from ottla_protocol.models import Isolation

ToldT = TypeVar("ToldT")

ASK_TIMEOUT_MS = 2_000
"""How long a leader may take to tell its bounds."""

TIMESTAMP_TIMEOUT_MS = 20_000
"""How long it may take to look for a time in its segments."""

SETTLING_WAIT_MS: Final = 1_000
"""How long whoever asks once waits for a change of leaders to be over, as reads do."""

RETRY_INTERVAL_MS: Final = 50
"""How soon those that did not tell are asked again; sooner where the metadata changes."""


class PartitionBoundsService:
    """Asks the leaders of partitions for their log starts and ends."""

    def __init__(
        self,
        *,
        node_id: int,
        metadata: MetadataCache,
        replicas: ReplicaManager,
        peers: PeerClient,
    ) -> None:
        self._node_id = node_id
        self._metadata = metadata
        self._replicas = replicas
        self._leaders = LeaderQuestions(metadata, peers)

    def look_up_here(self, partitions: Sequence[PartitionName]) -> list[PartitionBounds]:
        """The bounds of those partitions that this broker leads and knows the end of."""
        found = []
        for name in partitions:
            try:
                hosted = self._replicas.by_topic_id(name.topic_id, name.partition)
                latest = hosted.latest_offset()
            except OttlaError:
                # Not led here (any more), or the end is not known yet: no bounds are the answer.
                continue
            found.append(
                PartitionBounds(
                    name.topic_id,
                    name.partition,
                    hosted.log.log_start_offset,
                    latest,
                    hosted.last_stable_offset,
                )
            )
        return found

    async def look_up_timestamp_here(self, lookup: TimestampLookup) -> list[TimestampOffset]:
        """Where a time begins in those partitions that this broker leads and knows the end of."""
        found = []
        for name in lookup.partitions:
            try:
                hosted = self._replicas.by_topic_id(name.topic_id, name.partition)
                place = await find_by_timestamp(
                    hosted, lookup.timestamp, isolation=lookup.isolation
                )
            except (RoutingError, UnavailableError, NotFoundError):
                continue
            found.append(TimestampOffset(name.topic_id, name.partition, place.offset))
        return found

    async def look_up(
        self, partitions: Iterable[PartitionName], *, wait_ms: int = 0
    ) -> Mapping[PartitionName, PartitionBounds]:
        """The bounds of partitions anywhere; those whose leader does not tell are left out.

        Args:
            partitions: whose.
            wait_ms: how long to ask again. The leader may just have moved, or not know its end
                yet: one who will ask again anyway need not wait for it.
        """
        return await self._until_told(partitions, self._look_once, wait_ms)

    async def _look_once(
        self, partitions: Iterable[PartitionName]
    ) -> dict[PartitionName, PartitionBounds]:
        answers = await asyncio.gather(
            *(
                self._ask(leader, names)
                for leader, names in self._leaders.by_leader(partitions).items()
            )
        )
        return {
            PartitionName(bounds.topic_id, bounds.partition): bounds
            for answer in answers
            for bounds in answer
        }

    async def look_up_timestamp(
        self,
        partitions: Iterable[PartitionName],
        timestamp: int,
        *,
        isolation: Isolation = "read_uncommitted",
        wait_ms: int = 0,
    ) -> Mapping[PartitionName, int]:
        """Where a time, in ms since the epoch, begins in partitions anywhere.

        That is the first record at or after it, or the end as such readers see it; partitions whose
        leader does not tell are left out. `wait_ms` is as `look_up` has it.
        """

        async def look_once(names: Iterable[PartitionName]) -> dict[PartitionName, int]:
            answers = await asyncio.gather(
                *(
                    self._ask_timestamp(leader, TimestampLookup(led, timestamp, isolation))
                    for leader, led in self._leaders.by_leader(names).items()
                )
            )
            return {
                PartitionName(found.topic_id, found.partition): found.offset
                for answer in answers
                for found in answer
            }

        return await self._until_told(partitions, look_once, wait_ms)

    async def _until_told(
        self,
        partitions: Iterable[PartitionName],
        look_once: Callable[[Iterable[PartitionName]], Awaitable[dict[PartitionName, ToldT]]],
        wait_ms: int,
    ) -> dict[PartitionName, ToldT]:
        """What leaders tell, asking for those that are missing again for up to `wait_ms`."""
        deadline_ms = monotonic_ms() + wait_ms
        wanted = list(partitions)
        told = await look_once(wanted)
        while missing := [
            name for name in wanted if name not in told and self._leaders.exists(name)
        ]:
            remaining_ms = deadline_ms - monotonic_ms()
            if remaining_ms <= 0:
                break
            await self._metadata.wait_for_change(timeout_ms=min(RETRY_INTERVAL_MS, remaining_ms))
            told.update(await look_once(missing))
        return told

    async def _ask(self, leader: int, names: Sequence[PartitionName]) -> list[PartitionBounds]:
        if leader == self._node_id:
            return self.look_up_here(names)
        return await self._leaders.ask(
            leader, routes.INTERNAL_OFFSETS, encode(names), ASK_TIMEOUT_MS, list[PartitionBounds]
        )

    async def _ask_timestamp(self, leader: int, lookup: TimestampLookup) -> list[TimestampOffset]:
        if leader == self._node_id:
            return await self.look_up_timestamp_here(lookup)
        return await self._leaders.ask(
            leader,
            routes.INTERNAL_TIMESTAMPS,
            encode(lookup),
            TIMESTAMP_TIMEOUT_MS,
            list[TimestampOffset],
        )
