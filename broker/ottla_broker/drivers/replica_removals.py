"""Replicas that nobody wants here any more, and whose logs go one after the other.

To close a log and to take its directory away asks the disk several times: some milliseconds each. A
broker's lease rests on its replicas reflecting the metadata, so one that waited for all logs of a
topic of thousands would have no lease for seconds, for the sake of what is gone. A replica without
a role reflects that; its log is removed behind the metadata, and only a log in the same place waits
for it. What a stop or a crash leaves is removed at the next start.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from ottla_broker.drivers.critical_task import CriticalTask
from ottla_broker.drivers.partition import Partition
from ottla_broker.drivers.replica_openings import Place
from ottla_protocol.errors import OttlaError


@dataclass(slots=True)
class _Removal:
    hosted: Partition
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class ReplicaRemovals:
    """The replicas that are to go, bounded by those that were hosted.

    Args:
        remove: closes a replica's log and removes it.
        on_failure: a log cannot be removed; the process must stop.
    """

    def __init__(
        self,
        *,
        remove: Callable[[Partition], Awaitable[None]],
        on_failure: Callable[[OttlaError], None],
    ) -> None:
        self._remove = remove
        self._on_failure = on_failure
        self._removals: OrderedDict[Place, _Removal] = OrderedDict()
        self._is_stopping = False
        self._is_idle = asyncio.Event()
        self._is_idle.set()

    def __len__(self) -> int:
        return len(self._removals)

    def begin(self, place: Place, hosted: Partition) -> None:
        """Remove a replica that has no role any more, after those that were begun before."""
        assert place not in self._removals, place
        self._removals[place] = _Removal(hosted)
        if self._is_idle.is_set():
            self._is_idle.clear()
            CriticalTask(self._work(), name="replica-removals", on_failure=self._on_failure)

    async def ended(self, place: Place) -> None:
        """Wait until that place is free; what is there goes next."""
        removal = self._removals.get(place)
        if removal is not None:
            self._removals.move_to_end(place, last=False)
            await removal.ended.wait()

    async def stop(self) -> None:
        """Remove nothing more, and close the logs that are left."""
        self._is_stopping = True
        await self._is_idle.wait()
        await asyncio.gather(*(removal.hosted.close() for removal in self._removals.values()))

    async def _work(self) -> None:
        try:
            while self._removals and not self._is_stopping:
                place, removal = next(iter(self._removals.items()))
                await self._remove(removal.hosted)
                del self._removals[place]
                removal.ended.set()
        finally:
            self._is_idle.set()
