"""The heartbeats that wait at a coordinator until it has news for their members.

A member has one of them at most: its next heartbeat ends the wait of the one before, for whoever
sent it is not interested in the former any more, or sent both and knows which is the later.
"""

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from ottla_broker.drivers.clock import monotonic_ms, within

TURN_MS = 10
"""How long heartbeats that were woken may be decided in one turn of the event loop."""


class ParkedHeartbeat:
    """One heartbeat, from its arrival to its answer."""

    def __init__(self) -> None:
        self.is_superseded = False
        """Whether a later heartbeat of the member has come: this one must not wait."""
        # Set while it waits.
        self._waking: asyncio.Future[None] | None = None

    async def wait(self, timeout_ms: int) -> None:
        """Wait until there may be news, it is superseded, or `timeout_ms` have passed."""
        if self.is_superseded:
            return
        self._waking = asyncio.get_running_loop().create_future()
        try:
            await within(timeout_ms, self._waking)
        except TimeoutError:
            return
        finally:
            self._waking = None

    def wake(self) -> None:
        """There may be news."""
        if self._waking is not None and not self._waking.done():
            self._waking.set_result(None)

    def supersede(self) -> None:
        """The member has sent a later one."""
        self.is_superseded = True
        self.wake()


class Turns:
    """Spreads the decisions on heartbeats that were woken together over turns of the event loop.

    A rebalance may wake a thousand members, and each decision copies a part of their group. Others
    are served in between.
    """

    def __init__(self) -> None:
        self._end_ms: int | None = None

    async def take(self) -> None:
        """Return when this turn of the event loop has time left for a decision."""
        while not self._has_time():  # noqa: ASYNC110  it waits for nothing but the next turn
            await asyncio.sleep(0)

    def _has_time(self) -> bool:
        if self._end_ms is None:
            # The first of a turn always has it.
            self._end_ms = monotonic_ms() + TURN_MS
            asyncio.get_running_loop().call_soon(self._over)
            return True
        return monotonic_ms() < self._end_ms

    def _over(self) -> None:
        self._end_ms = None


class ParkedHeartbeats:
    """The latest unanswered heartbeat of each member, by group and member."""

    def __init__(self) -> None:
        self._latest: dict[str, dict[str, ParkedHeartbeat]] = {}

    @contextmanager
    def latest(self, group: str, member_id: str) -> Iterator[ParkedHeartbeat]:
        """A heartbeat that has just arrived; it is forgotten at the end of the context."""
        members = self._latest.setdefault(group, {})
        former = members.get(member_id)
        if former is not None:
            former.supersede()
        heartbeat = members[member_id] = ParkedHeartbeat()
        try:
            yield heartbeat
        finally:
            if members.get(member_id) is heartbeat:
                del members[member_id]
                if not members and self._latest.get(group) is members:
                    del self._latest[group]

    def waiting(self, group: str, members: Iterable[str]) -> list[tuple[str, ParkedHeartbeat]]:
        """Those of these members that have a heartbeat here, with it."""
        found = self._latest.get(group)
        if not found:
            return []
        return [(name, found[name]) for name in members if name in found]

    def wake_all(self) -> None:
        """Have all of them look again."""
        for members in self._latest.values():
            for heartbeat in members.values():
                heartbeat.wake()
