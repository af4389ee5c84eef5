"""Hands out producer ids from blocks that the controller gives to this broker.

The next block is fetched while the present one still has ids, so that a client rarely waits for the
controller, and a short absence of the controller goes unnoticed.
"""

import asyncio
from collections.abc import Callable

from ottla_broker.services.controller_commands import ControllerCommands
from ottla_cluster.controller.commands import AllocateProducerIds, AllocateProducerIdsResponse
from ottla_protocol.errors import StaleBrokerEpochError, UnavailableError

PREFETCH_BELOW = 200
"""The next block is fetched once fewer ids than these are left."""


class ProducerIds:
    """This broker's producer ids.

    Args:
        node_id: this broker.
        commands: the way to the controller.
        broker_epoch: of this incarnation; negative while it is not registered yet.
    """

    def __init__(
        self, *, node_id: int, commands: ControllerCommands, broker_epoch: Callable[[], int]
    ) -> None:
        self._node_id = node_id
        self._commands = commands
        self._broker_epoch = broker_epoch
        self._current = range(0)
        self._next = range(0)
        self._fetching: asyncio.Task[None] | None = None

    async def next_id(self) -> int:
        """An id that nobody in this cluster was ever given.

        Raises:
            UnavailableError: this broker is not registered yet, or no controller gave a block in
                time.
            OttlaError: the controller's refusal.
        """
        while True:
            if not self._current:
                self._current, self._next = self._next, range(0)
            if not self._next and len(self._current) < PREFETCH_BELOW:
                fetching = self._fetch()
                if not self._current:
                    await asyncio.shield(fetching)
                    continue
            producer_id, self._current = self._current[0], self._current[1:]
            return producer_id

    async def stop(self) -> None:
        """End a fetch that is on its way; its block is lost."""
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.gather(self._fetching, return_exceptions=True)

    def _fetch(self) -> asyncio.Task[None]:
        """The one fetch on its way, for all who wait."""
        if self._fetching is None:
            self._fetching = asyncio.create_task(self._allocate(), name="producer-ids")
            self._fetching.add_done_callback(self._fetched)
        return self._fetching

    def _fetched(self, fetching: "asyncio.Task[None]") -> None:
        self._fetching = None
        if not fetching.cancelled():
            # Retrieved, for the case that nobody waits: whoever finds no id left asks again.
            fetching.exception()

    async def _allocate(self) -> None:
        broker_epoch = self._broker_epoch()
        if broker_epoch < 0:
            raise UnavailableError("this broker has not registered with the controller yet")
        # A block whose answer was lost is lost: another one is as good.
        try:
            response = await self._commands.decide(
                AllocateProducerIds(self._node_id, broker_epoch), repeatable=True
            )
        except StaleBrokerEpochError as error:
            # This process is about to stop; another broker can help.
            raise UnavailableError("another process has taken this broker's place") from error
        assert isinstance(response, AllocateProducerIdsResponse)
        first = response.first_producer_id
        self._next = range(first, first + response.count)
