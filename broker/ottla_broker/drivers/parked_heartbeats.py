"""The heartbeats that wait at a coordinator until it has news for their members.

A member has one of them at most: its next heartbeat ends the wait of the one before, for whoever
sent it is not interested in the former any more, or sent both and knows which is the later.
"""

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from ottla_broker.drivers.clock import within


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
