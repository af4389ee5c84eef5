"""What there is to tell of a partition: offline, too few in sync, under-replicated, on its way.

All of it follows from the partition and its topic alone, so how many partitions are in which
condition is counted anew only for topics that changed.
"""

from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass
from typing import get_args

from ottla_cluster.controller.elections import effective_min_isr
from ottla_cluster.controller.image import MetadataImage, Partition, Topic
from ottla_protocol.models_health import Condition

CONDITIONS: tuple[Condition, ...] = get_args(Condition)
"""Every condition, the worst first."""


def conditions_of(topic: Topic, partition: Partition) -> list[Condition]:
    """The partition's conditions, the worst first; none where all is well.

    What a reassignment adds is not missing while it catches up. A partition whose complete ISR is
    no larger than the minimum is so by its configs, and is not told as `at_min_isr`.
    """
    conditions: list[Condition] = []
    in_sync, least = len(partition.isr), effective_min_isr(topic, partition)
    is_incomplete = in_sync < len(partition.former_replicas)
    if partition.leader is None:
        conditions.append("offline")
    if in_sync < least:
        conditions.append("under_min_isr")
    elif in_sync == least and is_incomplete:
        conditions.append("at_min_isr")
    if is_incomplete:
        conditions.append("under_replicated")
    if partition.is_reassigning:
        conditions.append("reassigning")
    return conditions


@dataclass(frozen=True, slots=True)
class ConditionCounts:
    """How many partitions there are, and in which condition; one may be in several."""

    partitions: int = 0
    offline: int = 0
    under_min_isr: int = 0
    at_min_isr: int = 0
    under_replicated: int = 0
    reassigning: int = 0


@dataclass(frozen=True, slots=True)
class _Looked:
    topic: Topic
    counts: ConditionCounts
    told: tuple[tuple[Partition, list[Condition]], ...]


class ConditionCensus:
    """Looks at one image after another; topics that did not change cost nothing.

    Holds what it saw last, so no more than one image's topics.
    """

    def __init__(self) -> None:
        self._looked: dict[str, _Looked] = {}

    def count(self, image: MetadataImage) -> ConditionCounts:
        """How many partitions of this image are in which condition."""
        self._look(image)
        return _sum(looked.counts for looked in self._looked.values())

    def told(self, image: MetadataImage) -> Iterator[tuple[Topic, Partition, list[Condition]]]:
        """The partitions of this image that are in any condition."""
        self._look(image)
        for looked in self._looked.values():
            for partition, conditions in looked.told:
                yield looked.topic, partition, conditions

    def _look(self, image: MetadataImage) -> None:
        looked: dict[str, _Looked] = {}
        for topic_id, topic in image.topics.items():
            before = self._looked.get(topic_id)
            if before is not None and before.topic is topic:
                looked[topic_id] = before
            else:
                looked[topic_id] = _look_at(topic)
        self._looked = looked


def _look_at(topic: Topic) -> _Looked:
    counts = dict.fromkeys(CONDITIONS, 0)
    told = []
    for partition in topic.partitions:
        conditions = conditions_of(topic, partition)
        if conditions:
            told.append((partition, conditions))
        for condition in conditions:
            counts[condition] += 1
    return _Looked(
        topic,
        ConditionCounts(len(topic.partitions), *(counts[each] for each in CONDITIONS)),
        tuple(told),
    )


def _sum(counts: Iterable[ConditionCounts]) -> ConditionCounts:
    columns = list(zip(*(astuple(each) for each in counts), strict=True))
    return ConditionCounts(*map(sum, columns))
