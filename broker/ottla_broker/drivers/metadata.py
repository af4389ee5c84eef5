"""The metadata image of this broker: published by the Raft driver, read by everything else."""

import asyncio

from ottla_broker.drivers.clock import monotonic_ms
from ottla_cluster.controller.image import BrokerState, MetadataImage


class MetadataCache:
    """The newest applied image, and those who wait for a newer one."""

    def __init__(self, image: MetadataImage) -> None:
        self.image = image
        self._changed = asyncio.Event()
        # By broker and broker epoch; bounded by the registered brokers, since done ones go.
        self._replacements: dict[tuple[int, int], asyncio.Future[None]] = {}

    def publish(self, image: MetadataImage) -> None:
        """Replace the image; its version never falls."""
        assert image.version >= self.image.version, "the metadata log only grows"
        self.image = image
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
        for incarnation in [key for key in self._replacements if self._is_replaced(*key)]:
            self._replacements.pop(incarnation).set_result(None)

    def replacement_of(self, node_id: int, broker_epoch: int) -> "asyncio.Future[None]":
        """Done once that incarnation of the broker is fenced or no longer the registered one.

        One future for all who ask: do not cancel it.
        """
        replacement = self._replacements.get((node_id, broker_epoch))
        if replacement is None:
            replacement = asyncio.get_running_loop().create_future()
            if self._is_replaced(node_id, broker_epoch):
                replacement.set_result(None)
            else:
                self._replacements[node_id, broker_epoch] = replacement
        return replacement

    def _is_replaced(self, node_id: int, broker_epoch: int) -> bool:
        broker = self.image.brokers.get(node_id)
        return (
            broker is None
            or broker.broker_epoch != broker_epoch
            or broker.state is BrokerState.FENCED
        )

    async def reached(self, version: int, *, timeout_ms: int) -> bool:
        """Wait until an image of this version or a newer one is applied, at most `timeout_ms`."""
        deadline_ms = monotonic_ms() + timeout_ms
        while self.image.version < version:
            if not await self.wait_for_change(timeout_ms=deadline_ms - monotonic_ms()):
                return self.image.version >= version
        return True

    async def wait_for_change(self, *, timeout_ms: int) -> bool:
        """Wait until an image newer than the present one is applied, at most `timeout_ms`."""
        changed = self._changed
        try:
            async with asyncio.timeout(max(0, timeout_ms) / 1000):
                await changed.wait()
        except TimeoutError:
            return False
        return True
