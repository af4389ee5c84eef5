"""The refusal of a partition that a topic does not have, told alike wherever it is noticed."""

from typing import Any

from ottla_protocol.errors import UnknownTopicOrPartitionError


def missing_partition(
    topic: str, partition: int, count: int, *, where: str = "", **members: Any
) -> UnknownTopicOrPartitionError:
    """The error; its member `partitions` tells it from that of a topic that is not there.

    Args:
        topic: the topic, which there is.
        partition: what it does not have.
        count: how many partitions it has, one at least.
        where: what of a request named the partition, in front of all.
        members: others of the error, and its `outcome`.
    """
    having = f"partitions 0 to {count - 1}" if count > 1 else "partition 0 only"
    return UnknownTopicOrPartitionError(
        f"{where}topic '{topic}' has {having}, not {partition}", partitions=count, **members
    )
