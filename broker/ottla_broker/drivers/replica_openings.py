"""Logs that are being opened, none of which holds the others up.

Opening a log goes to the disk several times: a slow one takes a second for a new log, recovery
reads what was written last, and a log that must be written to on a full disk waits for room. A
broker's lease rests on its replicas reflecting the metadata, so whoever waited for all of that, for
the sake of one topic that was just made, would lose the lease for all the others. A replica without
a log has no role, which reflects any metadata.

At the start of a broker all logs are waited for, save those that wait for room: it should come back
with what it had. Later a log has OPENING_PATIENCE_MS; mostly that is plenty, and then a new topic
is there when its making is answered.

Nor is one waited for that nobody wants any more: it goes once it is open, and only a topic of the
same name, whose logs come in its place, waits for that.
"""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from ottla_broker.drivers.critical_task import CriticalTask, stop_all
from ottla_protocol.errors import OttlaError

OPENING_PATIENCE_MS = 100

OPENINGS_AT_ONCE = 2
"""How many logs a broker that has started opens at a time. A new one costs the disk five syncs and
the interpreter's lock much of their time: with more at once the Raft store and the event loop wait
for them until voters elect and leases end, and thousands of new logs are hardly there sooner."""

ReplicaKey = tuple[str, int]
"""Topic id and partition."""

Place = tuple[str, int]
"""Topic name and partition: where a log is, also that of an earlier topic of this name."""


@dataclass(slots=True)
class _Opening:
    place: Place
    task: CriticalTask | None = None
    waits_for_room: bool = False
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class ReplicaOpenings:
    """The logs that are being opened now.

    Args:
        on_late: told, once, that a log was opened that nobody waits for any more.
        on_failure: a log cannot be opened; the process must stop.
    """

    def __init__(
        self,
        *,
        on_late: Callable[[ReplicaKey], Coroutine[Any, Any, None]],
        on_failure: Callable[[OttlaError], None],
    ) -> None:
        self._on_late = on_late
        self._on_failure = on_failure
        self._openings: dict[ReplicaKey, _Opening] = {}
        # The same by place, in the order in which they were begun: asked for each new log.
        self._in_place: dict[Place, list[ReplicaKey]] = {}
        # Those of them that whoever began them waits for; the others are late.
        self._awaited: set[ReplicaKey] = set()
        # Late ones that are being told of; bounded by the replicas of this broker.
        self._telling: dict[ReplicaKey, CriticalTask] = {}
        self._changed = asyncio.Event()

    def __contains__(self, key: ReplicaKey) -> bool:
        return key in self._openings

    def __len__(self) -> int:
        return len(self._openings)

    def at(self, place: Place) -> list[ReplicaKey]:
        """The replicas whose logs are being opened in a place."""
        return list(self._in_place.get(place, ()))

    def begin(self, key: ReplicaKey, place: Place, opening: Coroutine[Any, Any, None]) -> None:
        """Open a log; what begins here is waited for until the next `settled` returns."""
        assert key not in self._openings, key
        self._openings[key] = entry = _Opening(place)
        self._in_place.setdefault(place, []).append(key)
        self._awaited.add(key)
        entry.task = CriticalTask(
            self._open(key, opening), name=f"open-{key[0]}-{key[1]}", on_failure=self._on_failure
        )

    def waits_for_room(self, key: ReplicaKey) -> None:
        """The log cannot be opened before the disk has room: nobody waits for that."""
        entry = self._openings.get(key)
        if entry is not None:
            entry.waits_for_room = True
            self._changed.set()

    async def settled(self, *, timeout_ms: int | None) -> None:
        """Wait until what was begun is open or waits for room; then it is late.

        Args:
            timeout_ms: how long at most; None for as long as it takes.
        """
        try:
            async with asyncio.timeout(None if timeout_ms is None else timeout_ms / 1000):
                while any(not self._openings[key].waits_for_room for key in self._awaited):
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            pass
        finally:
            self._awaited.clear()

    async def ended(self, key: ReplicaKey) -> None:
        """Wait until nobody opens that log (any more)."""
        entry = self._openings.get(key)
        if entry is not None:
            await entry.ended.wait()

    async def stop(self) -> None:
        """Open nothing more; what is being opened is given up."""
        tasks = [entry.task for entry in self._openings.values() if entry.task is not None]
        await stop_all((*tasks, *self._telling.values()))

    async def _open(self, key: ReplicaKey, opening: Coroutine[Any, Any, None]) -> None:
        await opening
        entry = self._openings.pop(key)
        in_place = self._in_place[entry.place]
        in_place.remove(key)
        if not in_place:
            del self._in_place[entry.place]
        entry.ended.set()
        self._changed.set()
        if key in self._awaited:
            self._awaited.discard(key)
        else:
            self._telling[key] = CriticalTask(
                self._tell(key), name=f"opened-{key[0]}-{key[1]}", on_failure=self._on_failure
            )

    async def _tell(self, key: ReplicaKey) -> None:
        try:
            await self._on_late(key)
        finally:
            del self._telling[key]
