"""The replicas on this broker, for whoever looks for one of them."""

from collections.abc import Callable, Iterator

from ottla_broker.drivers.disk_space import DiskRoom
from ottla_broker.drivers.metadata import MetadataCache
from ottla_broker.drivers.partition import Partition
from ottla_broker.drivers.replica_activity import ReplicaActivity
from ottla_cluster.controller.image import MetadataImage
from ottla_cluster.controller.image import Partition as PartitionState
from ottla_protocol.errors import (
    LeaderNotAvailableError,
    NotLeaderOrFollowerError,
    RestoreConflictError,
    TopicBeingRestoredError,
    UnknownTopicIdError,
)


def require_not_restored(image: MetadataImage, state: PartitionState) -> None:
    """Refuse a client's request of a topic that is not whole yet.

    Raises:
        TopicBeingRestoredError: it is being restored.
    """
    topic = image.topics.get(state.topic_id)
    if topic is not None and topic.restore_id is not None:
        raise TopicBeingRestoredError(f"the topic {topic.name} is being restored from a backup")


class HostedReplicas:
    """What is hosted, by name and by id, and whether it may be acted on as a leader.

    Args:
        disk: the room for what is appended.
        lease_valid: whether this broker may act as a leader now.
    """

    def __init__(
        self,
        *,
        node_id: int,
        metadata: MetadataCache,
        disk: DiskRoom,
        lease_valid: Callable[[], bool],
    ) -> None:
        self.partitions: dict[tuple[str, int], Partition] = {}
        self.activity = ReplicaActivity()
        self._node_id = node_id
        self._metadata = metadata
        self._disk = disk
        self._lease_valid = lease_valid

    def hosted(self, topic: str, partition: int) -> Partition:
        """The replica on this broker, whatever its role.

        Raises:
            UnknownTopicOrPartitionError: the metadata has no such partition.
            NotLeaderOrFollowerError: this broker is no replica of it.
            LeaderNotAvailableError: it is one, but has not opened the log yet.
            TopicBeingRestoredError: the topic is not for clients yet.
        """
        image = self._metadata.image
        state = image.partition(topic, partition)
        require_not_restored(image, state)
        return self._hosted(state)

    def hosted_for_restore(self, topic: str, partition: int, restore_id: str) -> Partition:
        """The replica on this broker of a topic that is being restored from that backup.

        Raises:
            RestoreConflictError: it is not.
            OttlaError: as `hosted`.
        """
        image = self._metadata.image
        state = image.partition(topic, partition)
        if image.topics[state.topic_id].restore_id != restore_id:
            raise RestoreConflictError(f"the topic {topic} is not being restored from that backup")
        return self._hosted(state)

    def _hosted(self, state: PartitionState) -> Partition:
        topic, partition = state.topic, state.partition
        hosted = self.partitions.get((state.topic_id, partition))
        if hosted is None and self._node_id in state.replicas:
            raise LeaderNotAvailableError(f"the replica of {topic}-{partition} is not open yet")
        if hosted is None:
            raise NotLeaderOrFollowerError(
                f"broker {self._node_id} has no replica of {topic}-{partition}",
                leader=state.leader,
                leader_epoch=state.leader_epoch,
                replicas=list(state.replicas),
            )
        return hosted

    def by_topic_id(self, topic_id: str, partition: int) -> Partition:
        """The replica by topic id.

        Raises:
            UnknownTopicIdError: not (or not yet, or no longer) hosted here.
        """
        hosted = self.partitions.get((topic_id, partition))
        if hosted is None:
            raise UnknownTopicIdError(f"no replica of topic id {topic_id}, partition {partition}")
        return hosted

    def require_lease(self) -> None:
        """That this broker may act as a leader now.

        Raises:
            LeaderNotAvailableError: it has not confirmed within its session that it still leads.
        """
        if not self._lease_valid():
            raise LeaderNotAvailableError(
                f"broker {self._node_id} has not confirmed that it still leads anything"
            )

    @property
    def disk_is_full(self) -> bool:
        """Whether this broker takes no appends for want of room."""
        return self._disk.is_full

    @property
    def pending_bytes(self) -> int:
        """Batch bytes that are queued for the disk, over all logs."""
        total_bytes = 0
        for key in tuple(self.activity.appended):
            hosted = self.partitions.get(key)
            found_bytes = 0 if hosted is None else hosted.log.pending_bytes
            if found_bytes == 0:
                self.activity.appended.discard(key)
            total_bytes += found_bytes
        return total_bytes

    def leaders(self) -> Iterator[Partition]:
        """Every partition that this broker leads."""
        return (hosted for hosted in self.partitions.values() if hosted.leader is not None)
