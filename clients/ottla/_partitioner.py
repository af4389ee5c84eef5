"""Which partition a record goes to, where the caller names none.

By default: murmur2 of the key, exactly as Kafka's Java client, so that all clients agree; without a
key one partition is stuck to until its batch is sent, so that records fill batches instead of
spreading thinly. A partitioner of your own is a callable, or an object or class with a method
`partition`, of Kafka's signature:

    def partition(topic, key, key_bytes, value, value_bytes, cluster) -> int

It may raise InvalidRecordError to refuse a record. Objects may also have Kafka's
`configure(options)` and `close()`.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from itertools import count
from random import Random
from typing import Any, Final, NamedTuple, Protocol, TypeAlias, cast

from ottla._errors import ConfigError, InvalidRecordError
from ottla_protocol.models import TopicDescription
from ottla_protocol.partitioning import partition_for_key

MAX_CACHED_KEYS: Final = 16_384
MAX_CACHED_KEY_BYTES: Final = 128
"""Longer keys are hashed every time, so that the cache stays below some 5 MB."""

_cached_partition_for_key = lru_cache(MAX_CACHED_KEYS)(partition_for_key)


def keyed_partition(key: bytes, partitions: int) -> int:
    """As `partition_for_key`, with the hash of short keys remembered: murmur2 is slow in Python."""
    if len(key) <= MAX_CACHED_KEY_BYTES:
        return _cached_partition_for_key(key, partitions)
    return partition_for_key(key, partitions)


class PartitionInfo(NamedTuple):
    """One partition as a partitioner sees it; `leader` is None while it has none."""

    topic: str
    partition: int
    leader: int | None
    replicas: tuple[int, ...]
    in_sync_replicas: tuple[int, ...]


class ClusterView:
    """The topics that the producer knows at this moment; what partitioners are given.

    Immutable. Partitions are in the order of their numbers, without gaps.

    Args:
        topics: topics as brokers describe them.
    """

    __slots__ = ("_available", "_partitions")

    def __init__(self, topics: Iterable[TopicDescription]) -> None:
        self._partitions: dict[str, tuple[PartitionInfo, ...]] = {
            topic.name: tuple(
                PartitionInfo(
                    topic.name, each.partition, each.leader, tuple(each.replicas), tuple(each.isr)
                )
                for each in sorted(topic.partitions, key=lambda each: each.partition)
            )
            for topic in topics
        }
        self._available = {
            name: tuple(each for each in partitions if each.leader is not None)
            for name, partitions in self._partitions.items()
        }

    def topics(self) -> frozenset[str]:
        """The names of the topics known."""
        return frozenset(self._partitions)

    def partitions_for_topic(self, topic: str) -> tuple[PartitionInfo, ...]:
        """All partitions; empty if the topic is unknown."""
        return self._partitions.get(topic, ())

    def available_partitions_for_topic(self, topic: str) -> tuple[PartitionInfo, ...]:
        """The partitions that have a leader; empty if the topic is unknown."""
        return self._available.get(topic, ())

    def partition_count_for_topic(self, topic: str) -> int | None:
        """How many partitions the topic has; None if it is unknown."""
        partitions = self._partitions.get(topic)
        return None if partitions is None else len(partitions)

    # The names of Kafka's Cluster, for partitioners that are carried over.
    partitionsForTopic = partitions_for_topic  # noqa: N815
    availablePartitionsForTopic = available_partitions_for_topic  # noqa: N815
    partitionCountForTopic = partition_count_for_topic  # noqa: N815


class Partitioner(Protocol):
    """What a producer asks for the partition of a record."""

    def partition(
        self,
        topic: str,
        key: Any,
        key_bytes: bytes | None,
        value: Any,
        value_bytes: bytes | None,
        cluster: ClusterView,
        /,
    ) -> int:
        """The partition, in range of the topic's partitions."""
        ...


PartitionFunction: TypeAlias = Callable[
    [str, Any, "bytes | None", Any, "bytes | None", ClusterView], int
]
PartitionerOption: TypeAlias = str | PartitionFunction | Partitioner | type | None
"""What the option `partitioner` takes."""


class DefaultPartitioner:
    """murmur2 of the key; without one, the partition that the topic sticks to at this moment.

    Args:
        random: chooses the partitions to stick to.
    """

    def __init__(self, random: Random) -> None:
        self._random = random
        self._sticky: dict[str, int] = {}

    def partition(
        self,
        topic: str,
        key: Any,  # noqa: ARG002  Kafka's signature
        key_bytes: bytes | None,
        value: Any,  # noqa: ARG002  as above
        value_bytes: bytes | None,  # noqa: ARG002  as above
        cluster: ClusterView,
        /,
    ) -> int:
        """The key's partition, or the one to stick to.

        Raises:
            InvalidRecordError: the topic has no partition that is known.
        """
        if key_bytes is None:
            return self.sticky_partition(topic, cluster)
        partitions = len(cluster.partitions_for_topic(topic))
        if partitions == 0:
            raise _no_partitions(topic)
        return keyed_partition(key_bytes, partitions)

    def sticky_partition(self, topic: str, cluster: ClusterView) -> int:
        """Where the topic's records without a key go now."""
        sticky = self._sticky.get(topic)
        if sticky is None or sticky >= len(cluster.partitions_for_topic(topic)):
            sticky = self._sticky[topic] = self._choose(topic, cluster, None)
        return sticky

    def on_new_batch(self, topic: str, cluster: ClusterView, previous: int) -> int:
        """A batch of `previous` is full or gone: stick to another partition from here on.

        Does nothing if the topic has moved on already. Returns the partition to stick to.
        """
        if self._sticky.get(topic, previous) == previous:
            self._sticky[topic] = self._choose(topic, cluster, previous)
        return self._sticky[topic]

    def _choose(self, topic: str, cluster: ClusterView, previous: int | None) -> int:
        """A partition with a leader if there is one, another than `previous` if possible."""
        known = cluster.available_partitions_for_topic(topic) or cluster.partitions_for_topic(topic)
        if not known:
            raise _no_partitions(topic)
        others = [each.partition for each in known if each.partition != previous]
        return self._random.choice(others) if others else known[0].partition


class RoundRobinPartitioner:
    """Every record to the next partition that has a leader, whatever its key."""

    def __init__(self) -> None:
        self._turns: dict[str, count[int]] = {}

    def partition(
        self,
        topic: str,
        key: Any,  # noqa: ARG002  Kafka's signature
        key_bytes: bytes | None,  # noqa: ARG002  as above
        value: Any,  # noqa: ARG002  as above
        value_bytes: bytes | None,  # noqa: ARG002  as above
        cluster: ClusterView,
        /,
    ) -> int:
        """The next partition in turn.

        Raises:
            InvalidRecordError: the topic has no partition that is known.
        """
        known = cluster.available_partitions_for_topic(topic) or cluster.partitions_for_topic(topic)
        if not known:
            raise _no_partitions(topic)
        turn = next(self._turns.setdefault(topic, count()))
        return known[turn % len(known)].partition


class CustomPartitioner:
    """A user's partitioner, whose answers are checked.

    What it raises passes through unchanged.
    """

    def __init__(
        self, function: PartitionFunction, close: Callable[[], object] | None = None
    ) -> None:
        self._function = function
        self._close = close

    def partition(
        self,
        topic: str,
        key: Any,
        key_bytes: bytes | None,
        value: Any,
        value_bytes: bytes | None,
        cluster: ClusterView,
        /,
    ) -> int:
        """The partition that the user's code chose.

        Raises:
            InvalidRecordError: it is none of the topic's.
        """
        chosen = self._function(topic, key, key_bytes, value, value_bytes, cluster)
        partitions = len(cluster.partitions_for_topic(topic))
        if type(chosen) is not int or not 0 <= chosen < partitions:
            raise InvalidRecordError(
                f"the partitioner chose {chosen!r} for topic {topic!r}, "
                f"which has partitions 0 to {partitions - 1}"
            )
        return chosen

    def close(self) -> None:
        """Tell it that the producer is closed, if it wants to know."""
        if self._close is not None:
            self._close()


def resolve_partitioner(
    spec: PartitionerOption, *, random: Random, options: Mapping[str, Any] | None = None
) -> DefaultPartitioner | RoundRobinPartitioner | CustomPartitioner:
    """The partitioner that the option names.

    Args:
        spec: None or "default"; "round_robin"; a callable; a class, which is made without
            arguments; or an object with a method `partition`.
        random: for the default one's sticky partitions.
        options: what `configure` is called with, where the object has one.

    Raises:
        ConfigError: it is none of these.
    """
    if isinstance(spec, str):
        spec = spec.removeprefix("org.apache.kafka.clients.producer.")
    if spec is None or spec in ("default", "DefaultPartitioner"):
        return DefaultPartitioner(random)
    if spec in ("round_robin", "RoundRobinPartitioner"):
        return RoundRobinPartitioner()
    wanted = "'default', 'round_robin', a callable, or an object or class with a method partition"
    if isinstance(spec, str):
        raise ConfigError(
            f"partitioner must be {wanted}, not {spec!r}",
            option="partitioner",
        )
    if isinstance(spec, type):
        spec = spec()
    if isinstance(spec, DefaultPartitioner | RoundRobinPartitioner):
        return spec
    configure = getattr(spec, "configure", None)
    if callable(configure):
        configure(dict(options or {}))
    close = getattr(spec, "close", None)
    method = getattr(spec, "partition", spec)
    if not callable(method):
        raise ConfigError(
            f"partitioner must be {wanted}, not {type(spec).__qualname__}", option="partitioner"
        )
    function = cast("PartitionFunction", method)
    return CustomPartitioner(function, close if callable(close) else None)


def _no_partitions(topic: str) -> InvalidRecordError:
    return InvalidRecordError(f"topic {topic!r} has no partition that is known")
