"""When a reassignment may end: once those whom it takes out of the ISR know who leads.

A planned change of leader leaves the former one in the ISR, so that nothing is acknowledged without
it before it has heard: it may serve as the leader until then, for its lease holds. The end of a
reassignment takes brokers out of the ISR. So it waits until each of them has told, with a
heartbeat, that its replicas reflect metadata with the present leadership, or until no lease can be
left: one that was confirmed before that leadership ends within a session, and later heartbeats
confirm none before their sender knows.

Mostly a leader that is to go hands over with the change that put the last target replica into the
ISR. Where that replica had no room then, or another one has taken the leadership since, nothing
changes in the partition when it could: so that step, too, is looked for here.

What is seen here is the active controller's own and begins anew with each one: its successor waits
once more.
"""

from typing import NamedTuple

from ottla_cluster.controller.commands import FinishReassignments, HandedOverPartition, Heartbeat
from ottla_cluster.controller.image import BrokerState, MetadataImage, Partition
from ottla_cluster.controller.limits import MAX_REASSIGNMENTS
from ottla_cluster.controller.reassignment_handlers import (
    heir_of,
    is_handed_over,
    is_to_hand_over,
)


class _Leadership(NamedTuple):
    """A partition's leadership, as of which committed metadata it is known, and since when."""

    leader_epoch: int
    version: int
    since_ms: int


class ReassignmentSchedule:
    """Watches the partitions that are being reassigned, and what brokers say that they know.

    Args:
        session_timeout_ms: how long a lease may last.
    """

    def __init__(self, session_timeout_ms: int) -> None:
        self._session_timeout_ms = session_timeout_ms
        # Of each broker its epoch and the metadata version that its replicas reflect.
        self._applied: dict[int, tuple[int, int]] = {}
        # Of each partition that is being reassigned; no others.
        self._leaderships: dict[tuple[str, int], _Leadership] = {}
        self._moving: tuple[Partition, ...] = ()
        self._topics: object = None

    def heard(self, heartbeat: Heartbeat) -> None:
        """A broker told what it knows; it is registered under that epoch."""
        self._applied[heartbeat.node_id] = heartbeat.broker_epoch, heartbeat.applied_version

    def due(self, image: MetadataImage, now_ms: int) -> FinishReassignments | None:
        """The reassignments with a step whose time has come; again at each call until it is taken.

        Args:
            image: what is committed.
            now_ms: the present time.
        """
        if image.topics is not self._topics:
            self._topics = image.topics
            self._moving = tuple(p for _, p in image.all_partitions() if p.is_reassigning)
        leaderships: dict[tuple[str, int], _Leadership] = {}
        finished: list[HandedOverPartition] = []
        for partition in self._moving:
            key = partition.topic_id, partition.partition
            known = self._leaderships.get(key)
            if known is None or known.leader_epoch != partition.leader_epoch:
                known = _Leadership(partition.leader_epoch, image.version, now_ms)
            leaderships[key] = known
            if is_to_hand_over(partition):
                is_due = heir_of(image, partition) is not None
            else:
                is_due = is_handed_over(partition) and self._is_known(
                    image, partition, known, now_ms
                )
            if is_due:
                finished.append(HandedOverPartition(*key, partition.partition_epoch))
        self._leaderships = leaderships
        return FinishReassignments(tuple(finished[:MAX_REASSIGNMENTS])) if finished else None

    def _is_known(
        self, image: MetadataImage, partition: Partition, known: _Leadership, now_ms: int
    ) -> bool:
        """Whether no broker that leaves the ISR takes a former leadership for the present one."""
        if now_ms - known.since_ms >= self._session_timeout_ms:
            return True
        leaving = (image.brokers[n] for n in partition.isr if n not in partition.target_replicas)
        return all(
            broker.state is BrokerState.FENCED
            or self._applied.get(broker.node_id, (0, 0)) >= (broker.broker_epoch, known.version)
            for broker in leaving
        )
