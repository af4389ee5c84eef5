"""One replica that this broker hosts: its log, its role, and who waits for it.

The rules are elsewhere: `ottla_cluster.replication` decides about high watermark and ISR, the
partition log about offsets and durability. This module joins them: every input goes to the pure
machine, and what the machine puts out is done here: waiters wake, proposals leave.

A replica has one of three roles. A *leader* appends and serves reads. A *follower* is filled by the
fetcher of its leader's broker. A replica with no role waits for a leader to be elected. Here are
the changes of role, and how a leader replicates. What a replica may act as now is told by
`partition_role`; a leader's appends are in `partition_appends`, and who waits for them in
`partition_acks`; what a follower takes is in `partition_following`, and where the log of either
begins in `partition_log_start`.
"""

import asyncio
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Protocol

from ottla_broker.drivers.clock import monotonic_ms
from ottla_broker.drivers.disk_space import DiskRoom
from ottla_broker.drivers.partition_acks import PartitionAcks
from ottla_broker.drivers.partition_appends import PartitionAppends
from ottla_broker.drivers.partition_following import PartitionFollowing
from ottla_broker.drivers.partition_log_start import Truncating
from ottla_broker.drivers.purgatory import OffsetWaiters, Watchers
from ottla_broker.drivers.replica_activity import ReplicaActivity
from ottla_broker.storage.disk_full import DiskFullError
from ottla_broker.storage.log_compactor import CompactionLimits, CompactionResult
from ottla_broker.storage.partition_log import PartitionLog
from ottla_broker.telemetry import METRICS
from ottla_cluster.controller.image import Partition as PartitionState
from ottla_cluster.replication.fitness import ReplicaFitness
from ottla_cluster.replication.follower import PartitionFollower
from ottla_cluster.replication.leader import (
    FollowerLag,
    IsrProposal,
    LeaderOutput,
    PartitionLeader,
)
from ottla_protocol.errors import OffsetNotAvailableError

GATHER_COMMITS_MS = 5
"""How long a leader's commit waits for company, under load."""

HANDOVER_ACK_TIMEOUT_MS = 1_500
"""How long a former leader waits for the next one to commit what it has appended."""


class FollowerContact(Protocol):
    """A follower's fetch session, as far as one partition in it is concerned."""

    broker_epoch: int
    last_fetch_ms: int


class Partition(PartitionAppends, PartitionFollowing, PartitionAcks):
    """A hosted replica.

    Args:
        log: its open log; the partition owns it from here on.
        state: the metadata that made this broker a replica.
        node_id: this broker.
        high_watermark: the last one known from before a restart; the log's start when none is.
        disk: the room for what is appended.
        replica_lag_time_max_ms: how long a follower may lag before it leaves the ISR.
        lease_valid: whether this broker may act as a leader now.
        propose: takes an ISR proposal to the controller, and answers through `proposal_answered`
            or `proposal_failed`.
        lost_tail: the log ends below where it is known to have ended.
        truncating: see `Truncating`.
        activity: told what happens here, for whoever looks now and then.
    """

    def __init__(
        self,
        log: PartitionLog,
        state: PartitionState,
        *,
        node_id: int,
        high_watermark: int,
        disk: DiskRoom,
        replica_lag_time_max_ms: int,
        lease_valid: Callable[[], bool],
        propose: Callable[["Partition", IsrProposal], None],
        lost_tail: bool = False,
        truncating: Truncating | None = None,
        activity: ReplicaActivity | None = None,
    ) -> None:
        self.log = log
        self.state = state
        self.key = state.topic_id, state.partition
        self.leader: PartitionLeader | None = None
        self.follower: PartitionFollower | None = None
        self.high_watermark = min(max(high_watermark, log.log_start_offset), log.log_end_offset)
        self.fitness = ReplicaFitness(node_id, lost_tail=lost_tail)
        self.append_watchers = Watchers()
        self.news_watchers = Watchers()
        self.watermark_watchers = Watchers()
        self._ack_waiters = OffsetWaiters()
        self._refuses_appends_until_ms = 0
        self._node_id = node_id
        self._disk = disk
        self._replica_lag_time_max_ms = replica_lag_time_max_ms
        self._lease_valid = lease_valid
        self._propose = propose
        self._truncating = truncating
        self._activity = activity or ReplicaActivity()
        # The fetch sessions that speak for followers of this leader epoch, by replica.
        self._sessions: dict[int, FollowerContact] = {}
        self._begin_at_first_offset()

    async def stand_aside(self, state: PartitionState) -> None:
        """Take no role, though the metadata says to lead: see `is_fit_to_lead`."""
        self._step_down()
        self._fail_acks(state)
        self.take_state(state)
        self._wake_all()

    # --- roles ------------------------------------------------------------------------------

    async def become_leader(
        self,
        state: PartitionState,
        *,
        min_insync_replicas: int,
        eligible: Mapping[int, int],
        draining: Collection[int],
    ) -> None:
        """Lead `state.leader_epoch`, or take over a change of the epoch that is led already.

        Args:
            state: the partition's metadata, with this broker as leader.
            min_insync_replicas: the effective one.
            eligible: unfenced brokers and their broker epochs.
            draining: those of them that are about to stop.
        """
        if self.leader is not None and self.state.leader_epoch == state.leader_epoch:
            now_ms = monotonic_ms()
            assert state.first_offset <= max(self.high_watermark, self.log.log_start_offset)
            self.take_state(state)
            self._hear_sessions(self.leader)
            # A leader that is at rest has not been told by a tick.
            self.leader.brokers_changed(eligible, draining)
            self._act(self.leader.min_insync_replicas_changed(min_insync_replicas, now_ms))
            self._act(
                self.leader.partition_changed(
                    state.isr, state.partition_epoch, state.replicas, now_ms
                )
            )
            if not all(self.leader.has_fetched(replica_id) for replica_id in self._sessions):
                # Taken away, and perhaps assigned anew: its session is to say again what it has.
                self.append_watchers.wake()
            return
        self._step_down()
        self.state = state
        # The epoch begins at a durable end; nothing is appended here while there is no role.
        await self._settle()
        await self._require_first_offset()
        self.log.assign_epoch(state.leader_epoch)
        # With followers an ack waits for their rounds, which take longer than this.
        self.log.gather_commits(GATHER_COMMITS_MS if len(state.replicas) > 1 else 0)
        now_ms = monotonic_ms()
        self.leader = PartitionLeader(
            local_id=self._node_id,
            leader_epoch=state.leader_epoch,
            partition_epoch=state.partition_epoch,
            replicas=state.replicas,
            isr=state.isr,
            epoch_start_offset=self.log.log_end_offset,
            log_end_offset=self.log.log_end_offset,
            high_watermark=self.high_watermark,
            min_insync_replicas=min_insync_replicas,
            replica_lag_time_max_ms=self._replica_lag_time_max_ms,
            now_ms=now_ms,
        )
        METRICS.begun_leaderships.inc()
        self._activity.roles_version += 1
        self._act(self.leader.tick(now_ms, eligible, draining))
        self._wake_all()

    async def become_follower(self, state: PartitionState) -> None:
        """Follow `state.leader`; without one, wait for an election.

        Who waits for an ack goes on waiting for a while: what the next leader has too is committed
        by it, at the same offset, and this broker hears of that. What is cut fails.
        """
        was_leader = self.leader is not None
        self._step_down()
        self.take_state(state)
        if was_leader and self.has_waiting_acks:
            asyncio.get_running_loop().call_later(
                HANDOVER_ACK_TIMEOUT_MS / 1000, self._end_handover, state
            )
        self._wake_all()
        # What was appended as leader and is still queued may diverge: it has to be in the log, and
        # in the fetch position, before the new leader is asked whether both agree.
        await self._settle()
        self._fail_acks(state, above=self.log.log_end_offset)
        self._follow_anew(state)
        self._wake_all()

    def take_state(self, state: PartitionState) -> None:
        """The metadata has the partition so now; the role stays."""
        self.state = state
        self._begin_at_first_offset()

    async def _settle(self) -> None:
        """Have all that is appended on disk, or give up what there was no room for.

        Nothing that is given up was durable here, so it never counted for an acks=all.
        """
        while self.log.log_end_offset < self.log.next_offset:
            try:
                await self.log.wait_durable(self.log.next_offset)
            except DiskFullError:
                # Another commit may be held by the time this has its turn.
                await self.log.abandon_held()

    def begin_handover(self, timeout_ms: int) -> None:
        """Append nothing while this broker leads, so that the followers get all that there is.

        A leader that goes on appending until it hears of the next one leaves records behind that
        nobody else has. What is refused was not applied, so it is sent again to the next leader. It
        ends with the role, or after `timeout_ms`.
        """
        self._refuses_appends_until_ms = monotonic_ms() + timeout_ms

    @property
    def is_handed_over(self) -> bool:
        """Whether all that was appended here is committed, or somebody else leads."""
        return self.leader is None or self.high_watermark >= self.log.next_offset

    def _step_down(self) -> None:
        self._activity.roles_version += 1
        self._sessions.clear()
        self.leader = None
        self.follower = None
        self._refuses_appends_until_ms = 0
        self.log.gather_commits(0)

    def _wake_all(self) -> None:
        self.append_watchers.wake()
        self.watermark_watchers.wake()

    # --- the leader's side ------------------------------------------------------------------

    def log_end_moved(self, log_end_offset: int) -> None:
        """The log's group commit: everything below `log_end_offset` is durable here."""
        if self.leader is not None:
            self._begin_at_first_offset()
            self._hear_sessions(self.leader)
            self._act(self.leader.local_log_end_moved(log_end_offset, monotonic_ms()))

    def follower_fetched(self, replica_id: int, broker_epoch: int, fetch_offset: int) -> None:
        """A follower of this epoch asked from `fetch_offset`: all below is durable there.

        Raises:
            RoutingError, UnavailableError: this broker may not act as the leader now.
            StaleBrokerEpochError: a newer incarnation of the follower has fetched before.
        """
        leader = self.leading()
        self._hear_sessions(leader)
        self._act(leader.follower_fetched(replica_id, broker_epoch, fetch_offset, monotonic_ms()))

    def session_opened(self, replica_id: int, session: FollowerContact) -> None:
        """From now on the session's fetches speak for that follower; it has just fetched itself."""
        self._sessions[replica_id] = session

    def session_closed(self, replica_id: int, session: FollowerContact) -> None:
        """The session's later fetches say nothing of this partition."""
        if self._sessions.get(replica_id) is session:
            if self.leader is not None:
                self._hear_sessions(self.leader)
            del self._sessions[replica_id]

    def follower_lags(self) -> Iterator[FollowerLag]:
        """How far each follower is behind; none of them where another broker leads."""
        if self.leader is not None:
            self._hear_sessions(self.leader)
            yield from self.leader.follower_lags(monotonic_ms())

    def is_followed_by(self, replica_id: int) -> bool:
        """Whether this broker leads and the replica follows it, not only lately."""
        if self.leader is None:
            return False
        self._hear_sessions(self.leader)
        return self.leader.is_followed_by(replica_id, monotonic_ms())

    def _hear_sessions(self, leader: PartitionLeader) -> None:
        """Let the leader know when the followers were last there, before it decides anything.

        A session's fetch costs the partitions that it does not name nothing: they ask when it
        matters.
        """
        for replica_id, session in self._sessions.items():
            leader.session_fetched(replica_id, session.broker_epoch, session.last_fetch_ms)

    def tick(self, eligible: Mapping[int, int], draining: Collection[int]) -> bool:
        """Let time pass for the ISR; arguments as in `become_leader`.

        Without a valid lease nothing is concluded: a process that was paused must not take its own
        silence for that of its followers.

        Returns:
            Whether the next tick matters too, whatever happens here until then.
        """
        if self.leader is None:
            return False
        if self._lease_valid():
            self._hear_sessions(self.leader)
            self._act(self.leader.tick(monotonic_ms(), eligible, draining))
        return not self.leader.is_at_rest

    def proposal_accepted(self, proposal: IsrProposal, partition_epoch: int) -> None:
        """The controller committed the proposed ISR."""
        if self.leader is not None and self.state.leader_epoch == proposal.leader_epoch:
            self._hear_sessions(self.leader)
            self._act(self.leader.proposal_accepted(proposal, partition_epoch, monotonic_ms()))

    def proposal_failed(self, proposal: IsrProposal, *, refused: bool) -> None:
        """The proposal certainly was not applied (`refused`), or nobody knows."""
        if self.leader is not None and self.state.leader_epoch == proposal.leader_epoch:
            self._hear_sessions(self.leader)
            self._act(self.leader.proposal_failed(proposal, monotonic_ms(), refused=refused))

    def latest_offset(self) -> int:
        """The high watermark as `latest`.

        Raises:
            OffsetNotAvailableError: a new leader's has not reached its epoch's start yet.
        """
        leader = self.leading()
        if not leader.latest_offset_available:
            raise OffsetNotAvailableError(
                f"the new leader of {self.name} does not know its high watermark yet"
            )
        return self.high_watermark

    async def enforce_retention(self, now_ms: int) -> None:
        """Move the log's start past what the topic's configs let go; `now_ms` is wall time.

        Raises:
            RoutingError, UnavailableError: this broker may not act as the leader now.
            StorageError: the log failed.
        """
        self.leading()
        before = self.log.log_start_offset
        try:
            await self.log.cleanup.enforce_retention(
                high_watermark=self.high_watermark, now_ms=now_ms
            )
        finally:
            if self.log.log_start_offset != before:
                self.news_watchers.wake()
            if self.log.cleanup.has_expired:
                self._activity.log_start_moved.add(self.key)

    async def compact(self, now_ms: int, limits: CompactionLimits) -> CompactionResult | None:
        """Compact this replica's own log if it is due, whatever its role; `now_ms` is wall time.

        Raises:
            UnavailableError: the log is closed or being truncated.
            StorageError: a segment is damaged or cannot be read or written, or the log failed.
        """
        return await self.log.cleanup.compact(
            high_watermark=self.high_watermark, now_ms=now_ms, limits=limits
        )

    def _act(self, output: LeaderOutput) -> None:
        self._activity.restless.add(self.key)
        if output.high_watermark is not None:
            assert output.high_watermark >= self.high_watermark
            self.high_watermark = output.high_watermark
            self._activity.watermarks_moved = True
            self._ack_waiters.reached(output.high_watermark)
            self.watermark_watchers.wake()
            self.news_watchers.wake()
        if output.proposal is not None:
            self._propose(self, output.proposal)

    # --- without a role ---------------------------------------------------------------------

    def begin_cut(self) -> None:
        """Count as short from now on, and without a role: the log is about to be cut.

        Before that is written down, and before the log is shorter: nobody may take an end that the
        log has now, or will have, for where it should end.
        """
        self._step_down()
        self._fail_acks(self.state)
        self._activity.unfit.add(self.key)
        self.fitness.cut()

    async def cut_at_damage(self) -> None:
        """End the log before its first damage, to fetch it again; nobody fetches for it meanwhile.

        `begin_cut` comes first.

        Raises:
            StorageError: the files failed; so has the log.
        """
        await self.log.cut_at_damage()
        self.high_watermark = min(self.high_watermark, self.log.log_end_offset)
        self._activity.watermarks_moved = True

    def withdraw(self) -> None:
        """Give up the role, and fail what waits."""
        self._step_down()
        self._fail_acks(self.state)
        self._wake_all()

    async def close(self) -> None:
        """Fail what waits, then flush and close the log."""
        self.withdraw()
        await self.log.close()
