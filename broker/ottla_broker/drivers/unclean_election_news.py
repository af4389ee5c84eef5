"""The log's lines about unclean elections, and their count, which an alarm goes by.

Each is told by two: by the controller that decides it or commits what a former one decided, and by
the broker that leads so. Either may die before it has told, or before anybody has read its count.
"""

from collections.abc import Iterable, Mapping

import structlog

from ottla_broker.drivers.replica_changes import ReplicaKey
from ottla_broker.telemetry import METRICS
from ottla_cluster.controller.image import MetadataImage, Partition, Topic

MAX_LINES_AT_ONCE = 100
"""Elections of one moment that have a line each."""

log = structlog.get_logger()


def elected_since(former: MetadataImage, image: MetadataImage) -> list[Partition]:
    """The partitions whose leader was elected uncleanly between the two images, and leads still."""
    return [
        state
        for topic_id, topic in image.topics.items()
        if former.topics.get(topic_id) is not topic
        for state in topic.partitions
        if _is_new(former, state)
    ]


def led_here_since(
    node_id: int,
    former: MetadataImage | None,
    wanted: Mapping[ReplicaKey, tuple[Topic, Partition]],
) -> list[Partition]:
    """Those of a broker's new or changed replicas that lead since then by an unclean election.

    Args:
        node_id: this broker.
        former: the image before; None at the start. What is found then is of this process as well:
            its registration has ended every leadership of the one before.
        wanted: replicas of this broker that are new or changed (`ReplicaChanges.wanted`).
    """
    return [
        state for _, state in wanted.values() if state.leader == node_id and _is_new(former, state)
    ]


def tell(elected: Iterable[tuple[str, int | None]]) -> None:
    """Count the elections, and write a line for each: the partition's name, and who leads it."""
    untold = 0
    for number, (partition, leader) in enumerate(elected):
        METRICS.unclean_elections.inc()
        if number < MAX_LINES_AT_ONCE:
            log.warning(
                "unclean_leader_elected",
                partition=partition,
                leader=leader,
                detail="acknowledged records that this replica lacks are lost",
            )
        else:
            untold += 1
    if untold:
        log.warning("more_unclean_leaders_elected", partitions=untold)


def tell_partitions(elected: Iterable[Partition]) -> None:
    """The same, of partitions as they are now."""
    tell((f"{state.topic}-{state.partition}", state.leader) for state in elected)


def _is_new(former: MetadataImage | None, state: Partition) -> bool:
    if state.leader is None or state.unclean_leader_epoch != state.leader_epoch:
        return False
    topic = None if former is None else former.topics.get(state.topic_id)
    if topic is None or state.partition >= len(topic.partitions):
        return True
    return topic.partitions[state.partition].leader_epoch != state.leader_epoch
