"""The high watermark and the in-sync replicas of one partition, as its leader decides them.

The rule that everything here serves: whoever can be elected holds every committed record. The
controller elects from the ISR, so the high watermark may pass an offset only when every replica
that is in the ISR, or that may be in it without our knowing, holds that offset durably.

- Only fetches of this leader epoch count, and only those whose last fetched epoch matched: before
  its first one a follower's log is unknown, and no offset of an older epoch says anything.
- While a proposal is in flight, committed and proposed ISR count together: the maximal ISR
  (KIP-497). One that was never answered may have been applied, or may still arrive. Only a newer
  partition epoch settles it, because the controller compares and sets that one. Until then its
  members stay in the maximal ISR, and when the leader would change nothing else, it proposes the
  committed ISR itself, to move the partition epoch.
- Shrinking is always safe: fewer replicas must hold what all of them held. Expanding needs a log
  end at the high watermark or past it (what is committed under this leader) and at this epoch's
  start or past it (what was committed under earlier ones: a new leader's high watermark lags).
- A broker epoch ties offsets to one incarnation of a process. A fetch of another incarnation
  proves nothing about the log that the present one found on its disk (KIP-903).
- Below `min_insync_replicas` the high watermark stands still (KIP-966): a record that is on too
  few disks is neither acknowledged nor shown to readers.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from ottla_protocol.errors import NotLeaderOrFollowerError, StaleBrokerEpochError

PROPOSAL_RETRY_BACKOFF_MS = 100
"""How long a leader waits after a failed proposal before it makes the next one."""

FOLLOWED_MS = 1_000
"""How long ago the last fetch of a replica may be that follows: twice as long as a leader parks a
fetch that finds nothing."""

UNKNOWN_LOG_END_OFFSET = -1
"""The log end offset of a follower that has not fetched under this leader epoch."""

UNKNOWN_BROKER_EPOCH = -1
"""The broker epoch of a follower that has not fetched under this leader epoch."""


class IsrMember(NamedTuple):
    """A replica and the incarnation of its broker that is meant."""

    replica_id: int
    broker_epoch: int


class IsrProposal(msgspec.Struct, frozen=True):
    """A compare-and-set of the ISR at the controller.

    The controller accepts it only from the leader of `leader_epoch`, while the partition is at
    `partition_epoch`, and only if every member is unfenced with the broker epoch named here.
    Accepting raises the partition epoch, also when the ISR stays as it is: that is how a leader
    settles an earlier proposal that nobody answered.
    """

    isr: tuple[IsrMember, ...]
    leader_epoch: int
    partition_epoch: int


@dataclass(frozen=True, slots=True)
class LeaderOutput:
    """What follows from one input; a field that is None asks for nothing."""

    high_watermark: int | None = None
    """The high watermark moved here: answer waiting producers, wake readers."""
    proposal: IsrProposal | None = None
    """Send this to the controller, and report the outcome, or a timeout, with `proposal_*`."""


NOTHING = LeaderOutput()


class MissingReplica(NamedTuple):
    """An assigned replica outside the ISR, as its leader sees it."""

    replica_id: int
    missing_offsets: int | None
    """How far its log ends below the leader's; None before its first fetch of this epoch."""
    silent_ms: int | None
    """How long ago it fetched last; None where it has not under this epoch."""
    lags_ms: int
    """For how long it has not had all that the leader had, as far as this epoch goes back."""


class FollowerLag(NamedTuple):
    """How far one follower of one partition is behind its leader."""

    replica_id: int
    missing_offsets: int | None
    """How far its log ends below the leader's; None before its first fetch of this epoch."""
    lags_ms: int
    """For how long it has not had all that the leader had, as far as this epoch goes back."""

    @property
    def is_behind(self) -> bool:
        """Whether it lacks anything, as far as the leader knows."""
        return self.missing_offsets != 0


@dataclass(slots=True)
class _FollowerProgress:
    """What the leader knows of one follower, from its fetches of this leader epoch alone."""

    last_caught_up_ms: int
    """When the follower last had everything that the leader had at that time."""
    broker_epoch: int = UNKNOWN_BROKER_EPOCH
    log_end_offset: int = UNKNOWN_LOG_END_OFFSET
    """All below is durable there: the offset of the last fetch by `broker_epoch`."""
    last_fetch_ms: int = 0
    leader_log_end_at_last_fetch: int = 0


class PartitionLeader:
    """One partition at its leader, for one leader epoch.

    Every input returns the LeaderOutput that follows from it. A new leader epoch is a new
    PartitionLeader; a leader whose lease has run out is given neither ticks nor fetches until it
    holds it again, so that a paused process does not take its own silence for its followers'.
    """

    def __init__(
        self,
        *,
        local_id: int,
        leader_epoch: int,
        partition_epoch: int,
        replicas: Sequence[int],
        isr: Sequence[int],
        epoch_start_offset: int,
        log_end_offset: int,
        high_watermark: int,
        min_insync_replicas: int,
        replica_lag_time_max_ms: int,
        now_ms: int,
    ) -> None:
        """Begin to lead.

        Args:
            local_id: this broker, a member of `isr`.
            leader_epoch: the leadership that the metadata gives this broker.
            partition_epoch: the version of the partition's metadata that this is.
            replicas: assigned replicas, in order of preference.
            isr: the committed in-sync replicas.
            epoch_start_offset: the durable log end when this leader epoch began.
            log_end_offset: the durable log end now.
            high_watermark: the one that this replica knew before, as a follower or from its disk.
            min_insync_replicas: the effective one: at most the number of replicas.
            replica_lag_time_max_ms: how long a follower may lag before it leaves the ISR.
            now_ms: the current time. ISR members get the full lag time from here.
        """
        assert 0 <= high_watermark <= log_end_offset, (high_watermark, log_end_offset)
        assert epoch_start_offset <= log_end_offset, (epoch_start_offset, log_end_offset)
        assert replica_lag_time_max_ms > 0, replica_lag_time_max_ms
        self._local_id = local_id
        self._began_ms = now_ms
        self._leader_epoch = leader_epoch
        self._epoch_start_offset = epoch_start_offset
        self._replica_lag_time_max_ms = replica_lag_time_max_ms
        self._min_insync_replicas = min_insync_replicas
        # Durable here; never falls under one leader epoch, because only followers truncate.
        self._log_end_offset = log_end_offset
        # Never falls; at most the log end of every member of the maximal ISR whenever it rises.
        self._high_watermark = high_watermark
        self._replicas: tuple[int, ...] = ()
        self._isr: tuple[int, ...] = ()
        self._partition_epoch = partition_epoch
        self._followers: dict[int, _FollowerProgress] = {}
        # Unfenced brokers and their broker epochs, as last told.
        self._eligible: Mapping[int, int] = {}
        self._draining: Collection[int] = ()
        self._in_flight: IsrProposal | None = None
        # Replicas outside the committed ISR that an unanswered proposal with the current partition
        # epoch named: they may be members already, or become so when it arrives.
        self._unsettled_members: frozenset[int] = frozenset()
        # The committed ISR, the unsettled members, and the members of what is in flight.
        self._maximal_isr: frozenset[int] = frozenset()
        self._propose_not_before_ms = now_ms
        self._adopt(isr, replicas, now_ms)

    # --- what it knows --------------------------------------------------------------------------

    @property
    def leader_epoch(self) -> int:
        """The leadership that this machine is for."""
        return self._leader_epoch

    @property
    def partition_epoch(self) -> int:
        """The version of the partition's metadata that `isr` and `replicas` are of."""
        return self._partition_epoch

    @property
    def replicas(self) -> tuple[int, ...]:
        """Assigned replicas, in order of preference."""
        return self._replicas

    @property
    def isr(self) -> tuple[int, ...]:
        """The committed in-sync replicas, this broker among them."""
        return self._isr

    @property
    def high_watermark(self) -> int:
        """First offset that is not committed yet."""
        return self._high_watermark

    @property
    def log_end_offset(self) -> int:
        """End of the durable local log."""
        return self._log_end_offset

    @property
    def is_under_min_isr(self) -> bool:
        """Whether an append with acks=all must be refused, and the high watermark stands still."""
        return len(self._isr) < self._min_insync_replicas

    @property
    def latest_offset_available(self) -> bool:
        """Whether the high watermark covers all that earlier leaders acknowledged.

        Until it has reached this epoch's start, `latest` is not known.
        """
        return self._high_watermark >= self._epoch_start_offset

    def may_be_acknowledged(self, offset: int) -> bool:
        """Whether an earlier leader may have acknowledged a record there that is not shown yet.

        Such an offset lies at the high watermark or past it, and below this epoch's start: this
        leader has the record, but does not know yet whether it is committed.
        """
        return self._high_watermark <= offset < self._epoch_start_offset

    @property
    def is_at_rest(self) -> bool:
        """Whether nothing follows from time alone: no tick is needed before the next other input.

        Every replica is in the ISR and has all that is durable here, so none can fall behind or
        join. A proposal that is in flight, or was never answered, can then only have been one to
        shrink the ISR, which waits for its answer and not for time.
        """
        return len(self._isr) == len(self._replicas) and all(
            follower.log_end_offset >= self._log_end_offset for follower in self._followers.values()
        )

    def acks_satisfied(self, last_offset: int) -> bool:
        """Whether a batch that ends with `last_offset` may be acknowledged with acks=all."""
        return self._high_watermark > last_offset

    def follower_log_end_offset(self, replica_id: int) -> int:
        """The follower's log end; UNKNOWN_LOG_END_OFFSET before its first fetch of this epoch."""
        return self._followers[replica_id].log_end_offset

    def has_fetched(self, replica_id: int) -> bool:
        """Whether the replica has fetched in this epoch, since it was assigned."""
        follower = self._followers.get(replica_id)
        return follower is not None and follower.log_end_offset != UNKNOWN_LOG_END_OFFSET

    def is_followed_by(self, replica_id: int, now_ms: int) -> bool:
        """Whether the replica follows this leadership, as far as can be known from its fetches.

        It has fetched lately, and not only when it began to. A former leader whose log is damaged
        does that, too, before it cuts its log, for which it ceases to fetch.
        """
        follower = self._followers.get(replica_id)
        return (
            follower is not None
            and follower.last_fetch_ms >= self._began_ms + FOLLOWED_MS
            and follower.last_fetch_ms >= now_ms - FOLLOWED_MS
        )

    def missing_replicas(self, now_ms: int) -> tuple[MissingReplica, ...]:
        """The assigned replicas outside the ISR, in order of preference."""
        return tuple(
            self._missing(replica_id, self._followers[replica_id], now_ms)
            for replica_id in self._replicas
            if replica_id not in self._isr
        )

    def _missing(self, replica_id: int, follower: _FollowerProgress, now_ms: int) -> MissingReplica:
        lags_ms = max(0, now_ms - max(follower.last_caught_up_ms, self._began_ms))
        if follower.log_end_offset == UNKNOWN_LOG_END_OFFSET:
            return MissingReplica(replica_id, None, None, lags_ms)
        missing = max(0, self._log_end_offset - follower.log_end_offset)
        return MissingReplica(replica_id, missing, max(0, now_ms - follower.last_fetch_ms), lags_ms)

    def follower_lags(self, now_ms: int) -> Iterator[FollowerLag]:
        """How far every follower is behind, be it in the ISR or not."""
        for replica_id, follower in self._followers.items():
            if follower.log_end_offset >= self._log_end_offset:
                # Sessions tell of a follower that has everything only when it matters.
                yield FollowerLag(replica_id, 0, 0)
            else:
                missing = self._missing(replica_id, follower, now_ms)
                yield FollowerLag(replica_id, missing.missing_offsets, missing.lags_ms)

    # --- inputs ---------------------------------------------------------------------------------

    def local_log_end_moved(self, log_end_offset: int, now_ms: int) -> LeaderOutput:
        """Appends up to `log_end_offset` are durable on this broker."""
        assert log_end_offset >= self._log_end_offset, (log_end_offset, self._log_end_offset)
        self._log_end_offset = log_end_offset
        return self._output(now_ms, may_propose=False)

    def follower_fetched(
        self, replica_id: int, broker_epoch: int, fetch_offset: int, now_ms: int
    ) -> LeaderOutput:
        """A follower asks for records from `fetch_offset`: all below is durable there.

        Only for fetches that carry this leader epoch and whose last fetched epoch matched
        (`check_divergence` gave None). For every such fetch, also one that finds nothing new:
        being caught up is what keeps a follower in the ISR. For what a session's fetch does not
        name, see `session_fetched`.

        Raises:
            NotLeaderOrFollowerError: the replica is not assigned, as far as this leader knows.
            StaleBrokerEpochError: a newer incarnation of that broker has fetched before.
        """
        follower = self._followers.get(replica_id)
        if follower is None:
            raise NotLeaderOrFollowerError(f"broker {replica_id} holds no replica to fetch for")
        if broker_epoch < follower.broker_epoch:
            raise StaleBrokerEpochError(
                f"broker {replica_id} fetched with broker epoch {broker_epoch},"
                f" older than {follower.broker_epoch}"
            )
        self._fetched(follower, broker_epoch, fetch_offset, now_ms)
        return self._output(now_ms, may_propose=replica_id not in self._isr)

    def session_fetched(self, replica_id: int, broker_epoch: int, fetched_ms: int) -> None:
        """A follower's session was used at `fetched_ms` without a word about this partition.

        It is as if it had fetched from where it fetched before. Of several such times the latest is
        enough, as long as it is told before the log end here moves. What may follow from it alone,
        a replica that joins, is left to the next tick.
        """
        follower = self._followers.get(replica_id)
        if (
            follower is not None
            and follower.broker_epoch == broker_epoch
            and follower.last_fetch_ms < fetched_ms
        ):
            self._fetched(follower, broker_epoch, follower.log_end_offset, fetched_ms)

    def _fetched(
        self, follower: _FollowerProgress, broker_epoch: int, fetch_offset: int, now_ms: int
    ) -> None:
        if fetch_offset >= self._log_end_offset:
            follower.last_caught_up_ms = max(follower.last_caught_up_ms, now_ms)
        elif (
            broker_epoch == follower.broker_epoch
            and fetch_offset >= follower.leader_log_end_at_last_fetch
        ):
            # It has all that was here when it fetched before: it was caught up then.
            follower.last_caught_up_ms = max(follower.last_caught_up_ms, follower.last_fetch_ms)
        # The last fetch counts, not the highest: an incarnation whose log was found damaged
        # begins again further down.
        follower.log_end_offset = fetch_offset
        follower.broker_epoch = broker_epoch
        follower.last_fetch_ms = now_ms
        follower.leader_log_end_at_last_fetch = self._log_end_offset

    def tick(
        self, now_ms: int, eligible: Mapping[int, int], draining: Collection[int] = ()
    ) -> LeaderOutput:
        """Time passed; look for followers to propose in or out of the ISR.

        Args:
            now_ms: the current time.
            eligible: unfenced brokers and their current broker epochs, from the metadata image.
            draining: those of them that are about to stop: they may stay in the ISR, not join.
        """
        self.brokers_changed(eligible, draining)
        return self._output(now_ms, may_propose=True)

    def brokers_changed(self, eligible: Mapping[int, int], draining: Collection[int]) -> None:
        """The metadata shows these brokers; arguments as in `tick`.

        For a leader that is at rest and is given no ticks, before the metadata gives it something
        to decide.
        """
        self._eligible = eligible
        self._draining = draining

    def partition_changed(
        self, isr: Sequence[int], partition_epoch: int, replicas: Sequence[int], now_ms: int
    ) -> LeaderOutput:
        """The metadata shows this partition with the same leader epoch.

        A partition epoch that is not newer is old news: the answer to a proposal may overtake the
        metadata that it made.
        """
        if partition_epoch <= self._partition_epoch:
            return NOTHING
        self._partition_epoch = partition_epoch
        self._adopt(isr, replicas, now_ms)
        return self._output(now_ms, may_propose=True)

    def min_insync_replicas_changed(self, min_insync_replicas: int, now_ms: int) -> LeaderOutput:
        """The effective `min.insync.replicas` is another now."""
        self._min_insync_replicas = min_insync_replicas
        return self._output(now_ms, may_propose=False)

    def proposal_accepted(
        self, proposal: IsrProposal, partition_epoch: int, now_ms: int
    ) -> LeaderOutput:
        """The controller took `proposal`, and the partition's epoch is `partition_epoch` now."""
        if partition_epoch == proposal.partition_epoch:
            # It was the committed ISR already, and the controller let the partition epoch be.
            return self.proposal_failed(proposal, now_ms, refused=True)
        isr = tuple(member.replica_id for member in proposal.isr)
        return self.partition_changed(isr, partition_epoch, self._replicas, now_ms)

    def proposal_failed(self, proposal: IsrProposal, now_ms: int, *, refused: bool) -> LeaderOutput:
        """`proposal` was refused, or its outcome is unknown.

        Args:
            proposal: what failed; anything but the one in flight is settled already.
            now_ms: the current time; the next proposal waits PROPOSAL_RETRY_BACKOFF_MS.
            refused: the active controller itself decided against it (a ConflictError), and the
                transport never delivers one attempt twice. False for a time-out, a broken
                connection, a controller that lost its leadership: it may yet be applied, so its
                members stay in the maximal ISR until the partition epoch moves.
        """
        if proposal != self._in_flight:
            return NOTHING
        if not refused:
            members = frozenset(member.replica_id for member in proposal.isr)
            self._unsettled_members |= members.difference(self._isr)
        self._in_flight = None
        self._maximal_isr = self._unsettled_members.union(self._isr)
        self._propose_not_before_ms = now_ms + PROPOSAL_RETRY_BACKOFF_MS
        return self._output(now_ms, may_propose=False)

    # --- rules ----------------------------------------------------------------------------------

    def _adopt(self, isr: Sequence[int], replicas: Sequence[int], now_ms: int) -> None:
        """Make a newer partition epoch's state the committed one."""
        assert self._local_id in isr, (self._local_id, isr)
        assert all(replica_id in replicas for replica_id in isr), (isr, replicas)
        long_ago_ms = now_ms - self._replica_lag_time_max_ms - 1
        followers: dict[int, _FollowerProgress] = {}
        for replica_id in replicas:
            if replica_id == self._local_id:
                continue
            follower = self._followers.get(replica_id) or _FollowerProgress(long_ago_ms)
            if replica_id in isr and replica_id not in self._isr:
                # A new member has the full lag time to show itself.
                follower.last_caught_up_ms = max(follower.last_caught_up_ms, now_ms)
            followers[replica_id] = follower
        self._followers = followers
        self._isr = tuple(isr)
        self._replicas = tuple(replicas)
        # Every proposal so far carried an older partition epoch: it is in `isr`, or it never will.
        self._in_flight = None
        self._unsettled_members = frozenset()
        self._maximal_isr = frozenset(isr)

    def _output(self, now_ms: int, *, may_propose: bool) -> LeaderOutput:
        # In this order: who may join is measured against the high watermark as it is from here on,
        # and from its proposal on the new member binds it.
        high_watermark = self._advance_high_watermark(now_ms)
        proposal = self._propose(now_ms) if may_propose else None
        if high_watermark is None and proposal is None:
            return NOTHING
        return LeaderOutput(high_watermark, proposal)

    def _advance_high_watermark(self, now_ms: int) -> int | None:
        if len(self._isr) < self._min_insync_replicas:
            return None
        reached = self._log_end_offset
        for replica_id, follower in self._followers.items():
            if follower.log_end_offset < reached and (
                replica_id in self._maximal_isr
                or self._is_about_to_join(replica_id, follower, now_ms)
            ):
                reached = follower.log_end_offset
        if reached <= self._high_watermark:
            return None
        self._high_watermark = reached
        return reached

    def _is_about_to_join(self, replica_id: int, follower: _FollowerProgress, now_ms: int) -> bool:
        """Whether the high watermark waits for a replica outside the ISR.

        Not for safety: under steady appends a follower that keeps up, though a round trip behind,
        would otherwise never meet a high watermark that runs with the faster ones.
        """
        return self._is_eligible(replica_id, follower) and self._is_caught_up(follower, now_ms)

    def _is_eligible(self, replica_id: int, follower: _FollowerProgress) -> bool:
        """Whether the broker's unfenced incarnation is the one that fetched, and means to stay."""
        return (
            self._eligible.get(replica_id) == follower.broker_epoch
            and replica_id not in self._draining
        )

    def _is_caught_up(self, follower: _FollowerProgress, now_ms: int) -> bool:
        return (
            follower.log_end_offset >= self._log_end_offset
            or now_ms - follower.last_caught_up_ms <= self._replica_lag_time_max_ms
        )

    def _may_join(self, replica_id: int, follower: _FollowerProgress, now_ms: int) -> bool:
        """Whether a replica outside the ISR holds all that is committed, and still fetches."""
        return (
            follower.log_end_offset >= self._high_watermark
            and follower.log_end_offset >= self._epoch_start_offset
            and self._is_eligible(replica_id, follower)
            and now_ms - follower.last_fetch_ms <= self._replica_lag_time_max_ms
        )

    def _wanted_isr(self, now_ms: int) -> tuple[int, ...]:
        """The ISR that the leader would have, in the order of the assigned replicas."""
        wanted = []
        for replica_id in self._replicas:
            follower = self._followers.get(replica_id)
            if follower is None:
                wanted.append(replica_id)  # The leader itself.
            elif replica_id in self._isr:
                if self._is_caught_up(follower, now_ms):
                    wanted.append(replica_id)
            elif self._may_join(replica_id, follower, now_ms):
                wanted.append(replica_id)
        return tuple(wanted)

    def _propose(self, now_ms: int) -> IsrProposal | None:
        if self._in_flight is not None or now_ms < self._propose_not_before_ms:
            return None
        wanted = self._wanted_isr(now_ms)
        if not self._unsettled_members and frozenset(wanted) == frozenset(self._isr):
            return None
        if any(replica_id not in self._eligible for replica_id in wanted):
            # A member is fenced: the metadata that takes it out of the ISR is on its way.
            return None
        members = tuple(IsrMember(replica, self._eligible[replica]) for replica in wanted)
        self._in_flight = IsrProposal(members, self._leader_epoch, self._partition_epoch)
        self._maximal_isr = self._maximal_isr.union(wanted)
        return self._in_flight
