"""The fetchers of this broker: one for each leader that it follows in any partition."""

import asyncio
from collections.abc import Callable

from ottla_broker.drivers.partition import Partition
from ottla_broker.drivers.replica_fetcher import ReplicaFetcher

MakeFetcher = Callable[[int], ReplicaFetcher]
"""Makes the fetcher, not started yet, of what the broker with this id leads."""


class LeaderFetchers:
    """Moves replicas between the fetchers, and has as many of them as there are leaders.

    Args:
        make_fetcher: called for each leader of which something is followed.
    """

    def __init__(self, make_fetcher: MakeFetcher) -> None:
        self._make_fetcher = make_fetcher
        self._fetchers: dict[int, ReplicaFetcher] = {}

    def is_following(self, hosted: Partition) -> bool:
        """Whether the replica is fetched, from whichever leader."""
        return any(fetcher.follows(hosted.key) for fetcher in self._fetchers.values())

    def follow(self, hosted: Partition, leader_id: int, *, is_urgent: bool) -> None:
        """Fetch the replica from that leader; nobody fetches it now."""
        fetcher = self._fetchers.get(leader_id)
        if fetcher is None:
            fetcher = self._fetchers[leader_id] = self._make_fetcher(leader_id)
            fetcher.start()
        fetcher.add(hosted, is_urgent=is_urgent)

    async def stop_following(self, hosted: Partition) -> None:
        """Fetch the replica no more; what was on its way is taken or dropped when this returns."""
        for fetcher in self._fetchers.values():
            if fetcher.follows(hosted.key):
                await fetcher.remove(hosted.key)

    async def stop_idle(self) -> None:
        """End the fetchers that follow nothing any more."""
        for leader_id in [key for key, fetcher in self._fetchers.items() if fetcher.is_idle]:
            await self._fetchers.pop(leader_id).stop()

    async def stop(self) -> None:
        """End them all."""
        await asyncio.gather(*(fetcher.stop() for fetcher in self._fetchers.values()))
