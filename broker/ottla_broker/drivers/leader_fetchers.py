"""The fetchers of this broker: one for each leader that it follows in any partition."""

import asyncio
from collections.abc import Callable

from ottla_broker.drivers.disk_space import DiskRoom
from ottla_broker.drivers.partition import Partition
from ottla_broker.drivers.peer_client import PeerClient
from ottla_broker.drivers.replica_fetcher import ReplicaFetcher
from ottla_protocol.errors import OttlaError


class LeaderFetchers:
    """Moves replicas between the fetchers, and has as many of them as there are leaders.

    Args:
        leader_url: where a broker is; None while the metadata does not say.
        broker_epoch: this broker's present epoch.
        disk: the room for what is fetched.
        on_refused: a leader's connection was refused.
        on_failure: a fetcher failed; the process must stop.
    """

    def __init__(
        self,
        *,
        node_id: int,
        peers: PeerClient,
        leader_url: Callable[[int], str | None],
        broker_epoch: Callable[[], int],
        disk: DiskRoom,
        on_refused: Callable[[int], None],
        on_failure: Callable[[OttlaError], None],
    ) -> None:
        self._node_id = node_id
        self._peers = peers
        self._leader_url = leader_url
        self._broker_epoch = broker_epoch
        self._disk = disk
        self._on_refused = on_refused
        self._on_failure = on_failure
        self._fetchers: dict[int, ReplicaFetcher] = {}

    def is_following(self, hosted: Partition) -> bool:
        """Whether the replica is fetched, from whichever leader."""
        return any(fetcher.follows(hosted.key) for fetcher in self._fetchers.values())

    def follow(self, hosted: Partition, leader_id: int, *, is_urgent: bool) -> None:
        """Fetch the replica from that leader; nobody fetches it now."""
        fetcher = self._fetchers.get(leader_id)
        if fetcher is None:
            fetcher = self._fetchers[leader_id] = ReplicaFetcher(
                node_id=self._node_id,
                leader_id=leader_id,
                peers=self._peers,
                leader_url=lambda: self._leader_url(leader_id),
                broker_epoch=self._broker_epoch,
                disk=self._disk,
                on_refused=self._on_refused,
                on_failure=self._on_failure,
            )
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
