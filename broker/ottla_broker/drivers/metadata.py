"""The metadata image of this broker: published by the Raft driver, read by everything else."""

import asyncio

from ottla_cluster.controller.image import BrokerState, MetadataImage


class MetadataCache:
    """The newest applied image, and those who wait for a newer one."""

    def __init__(self, image: MetadataImage) -> None:
        self.image = image
        self._changed = asyncio.Event()

    def publish(self, image: MetadataImage) -> None:
        """Replace the image; its version never falls."""
        assert image.version >= self.image.version, "the metadata log only grows"
        self.image = image
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def wait_until_replaced(self, node_id: int, broker_epoch: int) -> None:
        """Wait until that incarnation of the broker is fenced or no longer the registered one."""
        while True:
            broker = self.image.brokers.get(node_id)
            if (
                broker is None
                or broker.broker_epoch != broker_epoch
                or broker.state is BrokerState.FENCED
            ):
                return
            await self.wait_for_change(timeout_ms=60_000)

    async def wait_for_change(self, *, timeout_ms: int) -> bool:
        """Wait until an image newer than the present one is applied, at most `timeout_ms`."""
        changed = self._changed
        try:
            async with asyncio.timeout(max(0, timeout_ms) / 1000):
                await changed.wait()
        except TimeoutError:
            return False
        return True
