"""What this broker, as a leader, sends to replicas that are being added: rate and progress.

The rules are `ottla_cluster.replication.throttle` and `.copying`; the rate is the metadata's. A
fetch of a replica that is in sync, or that merely lags, passes by without a look.
"""

from collections.abc import Callable, Iterator
from typing import Protocol

from ottla_broker.drivers.clock import monotonic_ms
from ottla_broker.drivers.metadata import MetadataCache
from ottla_broker.drivers.partition import Partition
from ottla_broker.telemetry import METRICS
from ottla_cluster.replication.copying import CopyMeter, CopyProgress
from ottla_cluster.replication.throttle import ReplicationThrottle, is_throttled

_Key = tuple[str, int, int]
"""Topic id, partition and replica."""


class Hosted(Protocol):
    """Finds the replicas of this broker."""

    partitions: dict[tuple[str, int], Partition]


class ReplicaCopy:
    """One replica's copy, as the answers to its fetches from one position are made.

    Args:
        throttle: the throttle with the rate of now: in a fetch session a replica that gets nothing
            stays at its position, under whatever rate that was named.
        meter: of this copy.
        clock_ms: a clock that never jumps.
    """

    def __init__(
        self,
        throttle: Callable[[], ReplicationThrottle],
        meter: CopyMeter,
        clock_ms: Callable[[], int],
    ) -> None:
        self._throttle = throttle
        self._meter = meter
        self._clock_ms = clock_ms
        # What the throttle was told of this answer: an answer may be looked for several times.
        self._charged_bytes = 0

    def allowance_bytes(self) -> int | None:
        """How much this answer may have, all of it; None for as much as any other."""
        self.charge(0)
        return self._throttle().allowance_bytes(self._clock_ms())

    def charge(self, size_bytes: int) -> None:
        """The answer has so much now."""
        self._throttle().sent(size_bytes - self._charged_bytes, self._clock_ms())
        self._charged_bytes = size_bytes

    def sent(self, size_bytes: int) -> None:
        """The answer leaves, with so much."""
        self.charge(size_bytes)
        # What follows is another answer, which is paid for anew, also where it holds the same.
        self._charged_bytes = 0
        self._meter.sent(size_bytes)
        METRICS.reassignment_bytes.inc(size_bytes)


class ReplicaCopies:
    """All copies to replicas that are being added to partitions led here.

    Args:
        metadata: says who is being added, and the rate.
        hosted: the replicas of this broker.
        clock_ms: a clock that never jumps.
    """

    def __init__(
        self,
        metadata: MetadataCache,
        hosted: Hosted,
        *,
        clock_ms: Callable[[], int] = monotonic_ms,
    ) -> None:
        self._metadata = metadata
        self._hosted = hosted
        self._clock_ms = clock_ms
        self._throttle = ReplicationThrottle()
        # Of copies under way only: entries go when another begins, or when somebody asks.
        self._meters: dict[_Key, CopyMeter] = {}

    def begin(self, partition: Partition, replica_id: int, offset: int) -> ReplicaCopy | None:
        """A replica fetches from `offset`; None where it is not being added, or is in sync."""
        if not is_throttled(partition.state, replica_id):
            return None
        now_ms = self._clock_ms()
        self._present_throttle()
        key = (*partition.key, replica_id)
        meter = self._meters.get(key)
        if meter is None:
            self._forget_ended()
            meter = self._meters[key] = CopyMeter(offset, now_ms)
        meter.fetched(offset, now_ms)
        return ReplicaCopy(self._present_throttle, meter, self._clock_ms)

    def _present_throttle(self) -> ReplicationThrottle:
        rate = self._metadata.image.replication_throttle_bytes_per_second
        self._throttle.set_rate(rate, self._clock_ms())
        return self._throttle

    def progress(self) -> Iterator[tuple[Partition, int, CopyProgress]]:
        """Every copy under way from here: partition, replica, and how far it is."""
        self._forget_ended()
        now_ms = self._clock_ms()
        for (topic_id, number, replica_id), meter in self._meters.items():
            partition = self._hosted.partitions[topic_id, number]
            log = partition.log
            yield (
                partition,
                replica_id,
                meter.progress(
                    log_start_offset=log.log_start_offset,
                    log_end_offset=log.next_offset,
                    log_bytes=log.size_bytes,
                    now_ms=now_ms,
                ),
            )

    def _forget_ended(self) -> None:
        for key in [key for key in self._meters if not self._is_under_way(key)]:
            del self._meters[key]

    def _is_under_way(self, key: _Key) -> bool:
        topic_id, number, replica_id = key
        partition = self._hosted.partitions.get((topic_id, number))
        return (
            partition is not None
            and partition.leader is not None
            and is_throttled(partition.state, replica_id)
        )
