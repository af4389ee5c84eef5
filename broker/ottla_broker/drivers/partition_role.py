"""What a hosted replica may act as now (leader, in-sync follower, or neither), and may show."""

from collections.abc import Callable

from ottla_broker.drivers.disk_space import DiskRoom
from ottla_broker.drivers.purgatory import OffsetWaiters, Watchers
from ottla_broker.drivers.replica_activity import ReplicaActivity
from ottla_broker.storage.partition_log import PartitionLog
from ottla_cluster.controller.image import Partition as PartitionState
from ottla_cluster.replication.fitness import ReplicaFitness
from ottla_cluster.replication.follower import PartitionFollower
from ottla_cluster.replication.leader import PartitionLeader
from ottla_protocol.errors import LeaderNotAvailableError, NotLeaderOrFollowerError


class PartitionRole:
    """A replica and its role; `Partition` makes what is named here."""

    log: PartitionLog
    state: PartitionState
    key: tuple[str, int]
    """Topic id and partition number: unlike the name, never used twice."""
    # At most one of the two is set: the role under `state.leader_epoch`.
    leader: PartitionLeader | None
    follower: PartitionFollower | None
    # Never above the log's end, and moves back only where that is cut at damage. While another
    # broker leads it may be below the log's start: a trim is heard of before what it took.
    high_watermark: int
    fitness: ReplicaFitness
    """Whether the log holds what it has acknowledged."""
    # Woken by every append (followers fetch what is not yet durable here, as in Raft).
    append_watchers: Watchers
    # Told when the high watermark or the log's start moves here: followers learn of it with
    # their next answer, which need not leave for that alone.
    news_watchers: Watchers
    # Woken when the high watermark or the role changes: consumers' long-polls.
    watermark_watchers: Watchers
    _ack_waiters: OffsetWaiters
    _refuses_appends_until_ms: int
    _node_id: int
    _disk: DiskRoom
    _lease_valid: Callable[[], bool]
    _activity: ReplicaActivity

    @property
    def name(self) -> str:
        """For people: topic-partition."""
        return f"{self.state.topic}-{self.state.partition}"

    @property
    def is_fit_to_lead(self) -> bool:
        """Whether this log holds what it is known to have held.

        A replica that came back damaged or shortened would, as leader, make the others truncate
        what it lost. It has to be refilled as a follower first; a lone replica has nobody to be
        refilled from.
        """
        return not self.fitness.lost_tail or self.is_only_replica

    @property
    def is_only_replica(self) -> bool:
        """Whether nobody else has, or is to have, this partition."""
        return len(self.state.replicas) == 1

    @property
    def last_stable_offset(self) -> int:
        """The end of what readers of committed records may see, on leader and follower.

        It moves only when the high watermark does: `watermark_watchers` are woken then.
        """
        # A follower's log may begin above it: see `high_watermark`.
        return min(self.log.last_stable_offset(self.high_watermark), self.high_watermark)

    def _forget_committed_markers(self) -> None:
        """Before there are more: a log remembers markers until they are known to be committed."""
        self.log.last_stable_offset(self.high_watermark)

    def leading(self) -> PartitionLeader:
        """The leader machine, if this broker may act as leader now.

        Raises:
            NotLeaderOrFollowerError: another broker leads.
            LeaderNotAvailableError: nobody does, or this one has not confirmed its epoch within
                its session (a paused process must ask before it serves).
        """
        if self.leader is None:
            if self.state.leader is None or self.state.leader == self._node_id:
                raise LeaderNotAvailableError(f"{self.name} has no leader at this moment")
            raise NotLeaderOrFollowerError(
                f"broker {self._node_id} does not lead {self.name}",
                leader=self.state.leader,
                leader_epoch=self.state.leader_epoch,
            )
        if not self._lease_valid():
            raise LeaderNotAvailableError(
                f"broker {self._node_id} has not confirmed that it still leads {self.name}"
            )
        return self.leader

    def require_in_sync(self) -> None:
        """That this broker may serve consumers as a follower: all that it shows is committed.

        Raises:
            LeaderNotAvailableError: nobody leads, or this broker has not confirmed within its
                session that the metadata is as it knows it.
            NotLeaderOrFollowerError: it is not in sync.
        """
        if self.follower is None:
            raise LeaderNotAvailableError(f"{self.name} has no leader at this moment")
        if not self._lease_valid():
            raise LeaderNotAvailableError(
                f"broker {self._node_id} has not confirmed that it still follows {self.name}"
            )
        if self._node_id not in self.state.isr or self.fitness.lost_tail:
            raise NotLeaderOrFollowerError(
                f"broker {self._node_id} is not in sync with the leader of {self.name}",
                leader=self.state.leader,
                leader_epoch=self.state.leader_epoch,
            )
