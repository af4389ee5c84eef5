"""The group coordinator that lives in one partition of `__consumer_offsets`.

How it loads, decides and ends is `coordinator_runtime`'s. Its own are the heartbeats, which may
wait here for news of their members, and what is due by itself: members that fall silent, topics
that change.
"""

from collections.abc import Callable, Collection, Sequence

from ottla_broker.drivers.clock import monotonic_ms, wall_clock_ms
from ottla_broker.drivers.coordinator_runtime import (
    FIRST_LOAD_RETRY_MS,
    CoordinatorRuntime,
    records_of,
)
from ottla_broker.drivers.parked_heartbeats import ParkedHeartbeats, Turns
from ottla_broker.drivers.partition import Partition
from ottla_broker.storage.stored_batch import StoredBatch
from ottla_broker.telemetry import METRICS
from ottla_cluster.groups.active_coordinator import ActiveCoordinator
from ottla_cluster.groups.census import GroupCounts
from ottla_cluster.groups.cluster_view import ClusterView
from ottla_cluster.groups.commands import (
    Command,
    CommitOffsets,
    ExpireMembers,
    Heartbeat,
    HeartbeatResponse,
    Join,
    Response,
)
from ottla_cluster.groups.image import Group, GroupsImage, replay
from ottla_cluster.groups.instance_commands import PollInstance
from ottla_cluster.groups.records import decode_record
from ottla_cluster.groups.transaction_commands import CommitTransactionOffsets
from ottla_cluster.state_machine.runtime import Submitted
from ottla_cluster.transactions.records import ProducerIdentity
from ottla_protocol.errors import OttlaError

TICK_DECISIONS_MS = 20
"""How long one tick may decide by itself; the rest is still due at the next one."""


class CoordinatorDriver(CoordinatorRuntime[GroupsImage, ActiveCoordinator, Command, Response]):
    """The group coordinator of one led partition, for one leader epoch.

    Args:
        partition: a hosted partition of `__consumer_offsets` that this broker leads.
        leader_epoch: the epoch that it leads it in.
        activate: makes the machine from the replayed state.
        on_failure: a defect ended the coordinator; the process must stop.
        prepare: does on another thread, with the replayed state, what would keep the event loop
            from everything else later.
    """

    def __init__(
        self,
        partition: Partition,
        leader_epoch: int,
        activate: Callable[[GroupsImage], ActiveCoordinator],
        on_failure: Callable[[OttlaError], None],
        prepare: Callable[[GroupsImage], None] | None = None,
    ) -> None:
        super().__init__(
            partition, leader_epoch, on_failure, first_load_retry_ms=FIRST_LOAD_RETRY_MS
        )
        self._activate_image = activate
        self._prepare_image = prepare
        # Whether it has had to refuse members since the last tick at which it could decide.
        self._was_deaf = False
        self._parked = ParkedHeartbeats()
        self._turns = Turns()

    # --- the runtime's ----------------------------------------------------------------------

    def _new_image(self) -> GroupsImage:
        return GroupsImage()

    def _replay(self, image: GroupsImage, batches: Sequence[StoredBatch]) -> GroupsImage:
        return _replay_batches(image, batches)

    def _prepare(self, image: GroupsImage) -> None:
        if self._prepare_image is not None:
            self._prepare_image(image)

    def _activate(self, image: GroupsImage) -> ActiveCoordinator:
        return self._activate_image(image)

    def _loaded(self, took_ms: int) -> None:
        METRICS.group_load_seconds.observe(took_ms / 1000)

    def _resigned(self) -> None:
        # They are refused now, so that their members turn to the next coordinator.
        self._parked.wake_all()

    def counts(self) -> GroupCounts | None:
        """How many groups and members there are; None before they are loaded."""
        return None if self._active is None else self._active.counts()

    def groups(self) -> Collection[Group]:
        """The groups as they are committed; none before they are loaded."""
        return () if self._active is None else self._active.committed_image.groups.values()

    def pending_transactions(self) -> frozenset[ProducerIdentity]:
        """Transactions with offsets that wait for their end, as it is committed."""
        if self._active is None:
            return frozenset()
        image = self._active.committed_image
        return frozenset(
            ProducerIdentity(
                producer_id, image.groups[group_id].pending[producer_id].producer_epoch
            )
            for producer_id, group_ids in image.pending_groups.items()
            for group_id in group_ids
        )

    # --- commands ---------------------------------------------------------------------------

    def is_in_transaction(self, command: CommitTransactionOffsets, view: ClusterView) -> bool:
        """Whether the marker of the command's transaction is sure to come here.

        Raises:
            OttlaError: as `execute`.
        """
        return self._require_active().is_in_transaction(command, wall_clock_ms(), view)

    async def execute(self, command: Command, view: ClusterView, *, deadline_ms: int) -> Response:
        """Decide a command; returns once what it saw, and what it changes, is committed.

        Raises:
            NotCoordinatorError: this broker does not lead the partition (any more).
            CoordinatorLoadInProgressError: the state is not replayed yet.
            CoordinatorNotAvailableError: this broker has not confirmed that it leads.
            RequestTimedOutError: the records were not committed in time; the outcome is unknown.
            OttlaError: the coordinator refuses the command, or the log refuses its records.
        """
        active = self._require_active()
        active.arrived(command)
        try:
            response = await self._decide(active, command, view, deadline_ms)
            if isinstance(command, CommitOffsets | CommitTransactionOffsets):
                METRICS.group_commits.inc()
            return response
        finally:
            active.answered(command, monotonic_ms())

    async def heartbeat(
        self, command: Heartbeat, current_view: Callable[[], ClusterView], *, deadline_ms: int
    ) -> Response:
        """As `execute`, but an answer without news waits for some, up to `max_wait_ms`.

        What is answered is decided when the answer leaves, not when the wait began. A later
        heartbeat of the member has it answered at once.

        Args:
            command: the heartbeat.
            current_view: the topics as this broker knows them when it is called.
            deadline_ms: the end of the wait and of all decisions, on the monotonic clock.
        """
        wait_end_ms = monotonic_ms() + command.max_wait_ms
        active = self._require_active()
        METRICS.group_heartbeats.inc()
        active.arrived(command)
        try:
            with self._parked.latest(command.group, command.member_id) as parked:
                while True:
                    response = await self._decide(active, command, current_view(), deadline_ms)
                    assert isinstance(response, HeartbeatResponse)
                    remaining_ms = wait_end_ms - monotonic_ms()
                    if response.assignment is not None or remaining_ms <= 0 or parked.is_superseded:
                        return response
                    # What came while the decision was being committed has woken nobody.
                    if not active.wants_heartbeat(command.group, command.member_id):
                        await parked.wait(remaining_ms)
                    await self._turns.take()
                    if parked.is_superseded:
                        return response
                    active = self._require_active()
        finally:
            active.answered(command, monotonic_ms())

    async def _decide(
        self, active: ActiveCoordinator, command: Command, view: ClusterView, deadline_ms: int
    ) -> Response:
        submitted, appended = self._submit(active, command, view, monotonic_ms())
        return await self._carry_out(active, submitted, deadline_ms, appended)

    def _submit(
        self, active: ActiveCoordinator, command: Command, view: ClusterView, now_ms: int
    ) -> tuple[Submitted[Response], Callable[[], None]]:
        before = active.speculative_image
        submitted = active.submit(command, now_ms, wall_clock_ms(), view)
        return submitted, lambda: self._decided(active, command, before)

    def _decided(self, active: ActiveCoordinator, command: Command, before: GroupsImage) -> None:
        """A decision is in the log: count it, and tell those whom it concerns."""
        if active.is_rebalance(command, before):
            METRICS.group_rebalances.inc()
        if isinstance(command, ExpireMembers):
            METRICS.group_expired_members.inc(len(command.members))
        self._wake_parked(active, command, before)

    def _wake_parked(
        self, active: ActiveCoordinator, command: Command, before: GroupsImage
    ) -> None:
        """Have the parked heartbeats for which a decision has news decided again."""
        group = getattr(command, "group", None)
        if group is None:
            return
        for member_id, parked in self._parked.waiting(group, active.may_have_news(command, before)):
            if active.wants_heartbeat(group, member_id):
                parked.wake()
        if isinstance(command, Join | PollInstance) and command.member_id is not None:
            # It may have been given another assignment than the one that it has confirmed.
            for _, parked in self._parked.waiting(group, (command.member_id,)):
                parked.wake()

    def tick(self, view: ClusterView, now_ms: int) -> None:
        """Submit what is due at this time: members to expire, topics that changed, old offsets.

        What is refused or not committed is due again, and so is what this tick has no time left
        for: each is a rebalance of a group, and the members of many may fall silent at once.
        """
        try:
            active = self._require_active()
        except OttlaError:
            # Who may not decide hears of no member either, so no member is silent meanwhile.
            self._was_deaf = True
            return
        if self._was_deaf:
            self._was_deaf = False
            active.restart_sessions(now_ms)
        self._submit_due(
            active,
            lambda: active.due(now_ms, wall_clock_ms(), view),
            lambda command: self._submit(active, command, view, now_ms),
            now_ms,
            limit_ms=TICK_DECISIONS_MS,
        )

    def restart_sessions(self, now_ms: int) -> None:
        """Give every member a full session from now: the silence was this process's own."""
        if self._active is not None:
            self._active.restart_sessions(now_ms)


def _replay_batches(image: GroupsImage, batches: Sequence[StoredBatch]) -> GroupsImage:
    records = [decode_record(record.key, record.value) for record in records_of(batches)]
    return replay(image, records, batches[-1].last_offset + 1)
