"""The coordinators of one internal topic on this broker: one for each partition that it leads.

They are made to follow the roles that the replicas have: a new leader epoch gets a new coordinator,
which loads, and a former one ends by itself, woken by the change of role.
"""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

from ottla_broker.drivers.coordinator_runtime import CoordinatorRuntime
from ottla_broker.drivers.metadata import MetadataCache
from ottla_broker.drivers.partition import Partition
from ottla_broker.drivers.replica_manager import ReplicaManager
from ottla_cluster.controller.image import MetadataImage

CoordinatorT = TypeVar("CoordinatorT", bound=CoordinatorRuntime[Any, Any, Any, Any])

COORDINATOR_STATES = ("active", "loading", "failed")
"""See `CoordinatorRuntime.state`."""


class LedCoordinators(Generic[CoordinatorT]):
    """The coordinators of one topic that live here.

    Args:
        topic: its name.
        metadata: topics and their partitions.
        replicas: the hosted partitions, with their roles.
        coordinate: makes the coordinator of a partition, in the leader epoch that it is in.
    """

    def __init__(
        self,
        *,
        topic: str,
        metadata: MetadataCache,
        replicas: ReplicaManager,
        coordinate: Callable[[Partition, int], CoordinatorT],
    ) -> None:
        self._topic = topic
        self._metadata = metadata
        self._replicas = replicas
        self._coordinate = coordinate
        self._coordinators: dict[int, CoordinatorT] = {}
        # What is led here, as of an image and a version of the roles.
        self._led_as_of: tuple[MetadataImage | None, int] = (None, -1)
        self._led_here: dict[int, Partition] = {}

    def __iter__(self) -> Iterator[CoordinatorT]:
        return iter(tuple(self._coordinators.values()))

    def find(self, partition: int) -> CoordinatorT | None:
        """The coordinator on a partition; None where this broker does not lead it."""
        coordinator = self._coordinators.get(partition)
        if coordinator is None or coordinator.is_over:
            self.follow_roles()
            coordinator = self._coordinators.get(partition)
        return coordinator

    def states(self) -> dict[str, int]:
        """How many there are in each state."""
        states = dict.fromkeys(COORDINATOR_STATES, 0)
        for coordinator in self._coordinators.values():
            states[coordinator.state] += 1
        return states

    async def stop(self) -> None:
        """End every coordinator; whoever waits for an answer learns that its outcome is unknown."""
        await asyncio.gather(*(each.stop() for each in self._coordinators.values()))
        self._coordinators.clear()

    def follow_roles(self) -> None:
        """One coordinator for each partition of the topic that is led here, in its epoch."""
        led = self._led()
        for number, coordinator in list(self._coordinators.items()):
            if coordinator.is_over or led.get(number) is not coordinator.partition:
                # It ends by itself, woken by the change of role.
                del self._coordinators[number]
        for number, hosted in led.items():
            if number not in self._coordinators:
                assert hosted.leader is not None
                self._coordinators[number] = self._coordinate(hosted, hosted.leader.leader_epoch)

    def _led(self) -> dict[int, Partition]:
        image, roles_version = self._metadata.image, self._replicas.activity.roles_version
        as_of_image, as_of_version = self._led_as_of
        if image is not as_of_image or roles_version != as_of_version:
            self._led_as_of = image, roles_version
            self._led_here = self._find_led(image)
        return self._led_here

    def _find_led(self, image: MetadataImage) -> dict[int, Partition]:
        topic_id = image.topic_ids.get(self._topic)
        if topic_id is None:
            return {}
        led = {}
        for number in range(len(image.topics[topic_id].partitions)):
            hosted = self._replicas.partitions.get((topic_id, number))
            if hosted is not None and hosted.leader is not None:
                led[number] = hosted
        return led
