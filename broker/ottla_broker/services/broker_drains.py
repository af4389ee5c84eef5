"""Brokers that leave the cluster: drained of their replicas, then forgotten."""

from itertools import islice

from ottla_broker.drivers.metadata import MetadataCache
from ottla_broker.services.controller_commands import ControllerCommands
from ottla_cluster.controller.commands import CancelDrain, DrainBroker, UnregisterBroker
from ottla_cluster.controller.drain_planning import replicas_on
from ottla_cluster.controller.drain_waits import waiting_moves
from ottla_cluster.controller.image import MetadataImage
from ottla_protocol.errors import NotFoundError, Outcome
from ottla_protocol.models_brokers import BlockedMove, DrainProgress

MAX_BLOCKED_SHOWN = 10
"""Partitions that one answer names as blocked."""


class BrokerDrainService:
    """Begins drains, calls them off, tells how far they are, and forgets brokers."""

    def __init__(self, *, metadata: MetadataCache, commands: ControllerCommands) -> None:
        self._metadata = metadata
        self._commands = commands

    async def begin(self, node_id: int) -> DrainProgress:
        """Drain a broker; again it only tells how far that is.

        Raises:
            NotFoundError: no broker of that id is registered.
            InvalidReplicationFactorError: too few brokers would remain.
            UnavailableError: no controller decided in time, or this broker does not hear of it.
        """
        await self._commands.decide(DrainBroker(node_id), repeatable=True)
        await self._commands.catch_up(outcome=Outcome.UNKNOWN)
        return self._progress(node_id)

    async def cancel(self, node_id: int) -> DrainProgress:
        """Call a drain off, with the moves that are under way; what has moved stays.

        Raises:
            NotFoundError: no broker of that id is registered.
            UnavailableError: no controller decided in time, or this broker does not hear of it.
        """
        await self._commands.decide(CancelDrain(node_id), repeatable=True)
        await self._commands.catch_up(outcome=Outcome.UNKNOWN)
        return self._progress(node_id)

    async def unregister(self, node_id: int) -> None:
        """Forget a broker that was drained and stopped.

        Raises:
            NotFoundError: no broker of that id is registered.
            ConflictError: it has replicas, or is not fenced.
            UnavailableError: no controller decided in time.
        """
        await self._commands.change(UnregisterBroker(node_id))

    async def progress(self, node_id: int) -> DrainProgress:
        """How far a drain is.

        Raises:
            NotFoundError: no broker of that id is registered.
            ControllerNotAvailableError: what this broker knows may be old, and nobody can be asked.
        """
        await self._commands.catch_up()
        return self._progress(node_id)

    def _progress(self, node_id: int) -> DrainProgress:
        image = self._metadata.image
        if node_id not in image.brokers:
            raise NotFoundError(f"Broker {node_id} is not registered.")
        left = replicas_on(image, node_id)
        moving = sum(
            node_id in partition.removing_replicas for _, partition in image.all_partitions()
        )
        return DrainProgress(
            broker=node_id,
            state=drain_state(image, node_id) or "none",
            partitions_left=left,
            partitions_moving=moving,
            partitions_at_start=image.drains.get(node_id),
            blocked=_blocked(image, node_id),
        )


def drain_state(image: MetadataImage, node_id: int) -> str | None:
    """`draining`, `drained`, or None for a broker that may have replicas."""
    if node_id not in image.drains:
        return None
    return "draining" if replicas_on(image, node_id) else "drained"


def _blocked(image: MetadataImage, node_id: int) -> list[BlockedMove]:
    return [
        BlockedMove(move.partition.topic, move.partition.partition, move.detail)
        for move in islice(waiting_moves(image, node_id), MAX_BLOCKED_SHOWN)
    ]
