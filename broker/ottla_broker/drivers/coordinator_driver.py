"""One coordinator: the state machine that lives in one partition of an internal topic.

Whoever leads the partition runs it, for one leader epoch. It begins by replaying the partition's
whole log, once the high watermark has reached the end that the epoch found: only then does the
state hold everything that former coordinators answered for. From there each command is decided on
the speculative state, its records are appended as one batch with acks=all, and its answer leaves
when the high watermark has passed what the decision saw. A new leader epoch ends it: what was
appended and not committed has an unknown outcome, and the speculation is gone.
"""

import asyncio
from collections.abc import Callable, Collection, Sequence

import structlog

from ottla_broker.drivers.clock import monotonic_ms, wall_clock_ms, within
from ottla_broker.drivers.critical_task import CriticalTask
from ottla_broker.drivers.parked_heartbeats import ParkedHeartbeats, Turns
from ottla_broker.drivers.partition import Partition
from ottla_broker.storage.stored_batch import StoredBatch
from ottla_broker.telemetry import METRICS
from ottla_cluster.controller.runtime import Completed, Submitted
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
from ottla_cluster.groups.records import decode_pairs, decode_record
from ottla_protocol.errors import (
    CoordinatorLoadInProgressError,
    CoordinatorNotAvailableError,
    LeaderNotAvailableError,
    NotCoordinatorError,
    OttlaError,
    Outcome,
    RequestTimedOutError,
    RoutingError,
)
from ottla_protocol.record_batch import validate_batch
from ottla_protocol.record_codec import RecordData, decode_batch, encode_batch

LOAD_BYTES = 4 << 20
"""How much of the log is read and replayed at a time."""

TICK_DECISIONS_MS = 20
"""How long one tick may decide by itself; the rest is still due at the next one."""

FIRST_LOAD_RETRY_MS = 500
LAST_LOAD_RETRY_MS = 30_000
"""How long until a load that failed is tried again; twice as long each time."""

FIRST_RETRY_MS = 200
LAST_RETRY_MS = 5_000
"""How long a coordinator waits with its own decisions after the log refused one; twice as long each
time."""

MAX_INFLATED_BYTES = 64 << 20
"""What one batch of decisions may take; the coordinator writes none that is larger."""

log = structlog.get_logger()


class CoordinatorDriver:
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
        self.partition = partition
        self._leader_epoch = leader_epoch
        self._activate = activate
        self._prepare = prepare
        self._active: ActiveCoordinator | None = None
        self._failure: OttlaError | None = None
        # Whether it has had to refuse members since the last tick at which it could decide.
        self._was_deaf = False
        self._changed = asyncio.Event()
        self._answers: dict[int, asyncio.Future[Response]] = {}
        self._parked = ParkedHeartbeats()
        self._turns = Turns()
        # After refusals of the log: how long to wait with what nobody asked for, and until when.
        self._retry_after_ms = FIRST_RETRY_MS
        self._refused_until_ms: int | None = None
        self._task = CriticalTask(
            self._run(), name=f"coordinator-{partition.name}", on_failure=on_failure
        )

    @property
    def is_over(self) -> bool:
        """Whether the partition has left the leader epoch that this coordinator lives in."""
        leader = self.partition.leader
        return leader is None or leader.leader_epoch != self._leader_epoch

    # --- life -------------------------------------------------------------------------------

    async def _run(self) -> None:
        """Load, then give out answers as the high watermark passes them, until the epoch ends."""
        self.partition.watermark_watchers.add(self._changed)
        try:
            await self._load_at_last()
            while not self.is_over:
                self._changed.clear()
                self._release()
                await self._changed.wait()
        finally:
            self.partition.watermark_watchers.remove(self._changed)
            self._resign()

    async def _load_at_last(self) -> None:
        """Load; what fails is tried again, for a fault may pass or be repaired meanwhile."""
        retry_after_ms = FIRST_LOAD_RETRY_MS
        while not self.is_over:
            try:
                await self._load()
            except OttlaError as error:
                self._cannot_load(error)
            else:
                return
            await self._pause(retry_after_ms)
            retry_after_ms = min(2 * retry_after_ms, LAST_LOAD_RETRY_MS)

    async def _pause(self, pause_ms: int) -> None:
        """Wait that long, or until the epoch is over."""
        end_ms = monotonic_ms() + pause_ms
        while not self.is_over and monotonic_ms() < end_ms:
            self._changed.clear()
            try:
                async with asyncio.timeout((end_ms - monotonic_ms()) / 1000):
                    await self._changed.wait()
            except TimeoutError:
                return

    async def _load(self) -> None:
        started_ms = monotonic_ms()
        partition = self.partition
        # Nobody else appends here, so the epoch's start is the end of the log until it is loaded.
        while not self.is_over and partition.high_watermark < partition.log.next_offset:
            self._changed.clear()
            await self._changed.wait()
        image = GroupsImage()
        offset, end = partition.log.log_start_offset, partition.log.next_offset
        while offset < end and not self.is_over:
            batches = await partition.log.read(offset, max_bytes=LOAD_BYTES, limit=end)
            if not batches:
                break  # Only gaps are left.
            image = await asyncio.to_thread(_replay_batches, image, batches)
            offset = batches[-1].last_offset + 1
        if self._prepare is not None:
            await asyncio.to_thread(self._prepare, image)
        if self.is_over:
            return
        self._failure = None
        self._active = self._activate(image)
        METRICS.group_load_seconds.observe((monotonic_ms() - started_ms) / 1000)
        log.info(
            "coordinator_loaded", partition=partition.name, leader_epoch=self._leader_epoch,
            offset=end, after_ms=monotonic_ms() - started_ms,
        )  # fmt: skip

    def _cannot_load(self, error: OttlaError) -> None:
        """Whoever asks is told; another replica's copy may be sound."""
        if self.is_over:
            return  # The log changed under the reading, as it may in another epoch.
        self._failure = error
        log.critical(
            "coordinator_cannot_load", partition=self.partition.name, code=error.code,
            detail=error.detail,
        )  # fmt: skip

    def _resign(self) -> None:
        active, self._active = self._active, None
        if active is not None:
            self._answer(active.lost_leadership())
            log.info(
                "coordinator_resigned", partition=self.partition.name,
                leader_epoch=self._leader_epoch,
            )  # fmt: skip
        # They are refused now, so that their members turn to the next coordinator.
        self._parked.wake_all()

    @property
    def state(self) -> str:
        """`active`, `loading`, or `failed` while its state cannot be read."""
        if self._active is not None:
            return "active"
        return "loading" if self._failure is None else "failed"

    def counts(self) -> GroupCounts | None:
        """How many groups and members there are; None before they are loaded."""
        return None if self._active is None else self._active.counts()

    def groups(self) -> Collection[Group]:
        """The groups as they are committed; none before they are loaded."""
        return () if self._active is None else self._active.committed_image.groups.values()

    async def stop(self) -> None:
        """End it; whoever waits for an answer learns that its outcome is unknown."""
        await self._task.stop()

    def _release(self) -> None:
        if self._active is not None:
            self._answer(self._active.committed(self.partition.high_watermark))

    def _answer(self, completed: Sequence[Completed[Response]]) -> None:
        for answer in completed:
            waiting = self._answers.pop(answer.request_id, None)
            if waiting is None or waiting.done():
                continue
            if isinstance(answer.outcome, OttlaError):
                waiting.set_exception(answer.outcome)
            else:
                waiting.set_result(answer.outcome)

    # --- commands ---------------------------------------------------------------------------

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
            if isinstance(command, CommitOffsets):
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
        before = active.speculative_image
        submitted = active.submit(command, monotonic_ms(), wall_clock_ms(), view)
        if submitted.response is not None:
            return submitted.response
        waiting: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        self._answers[submitted.request_id] = waiting
        # No wait between a decision and its place in the log, so none can come in between.
        if self._append(active, submitted):
            self._decided(active, command, before)
        try:
            return await within(deadline_ms - monotonic_ms(), waiting)
        except TimeoutError:
            raise RequestTimedOutError(
                f"{self.partition.name} did not commit what the coordinator decided in time",
                outcome=Outcome.UNKNOWN,
            ) from None
        finally:
            self._answers.pop(submitted.request_id, None)

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

    def _append(self, active: ActiveCoordinator, submitted: Submitted[Response]) -> bool:
        """Append a decision's records, if it has any; False when the log did not take them."""
        if submitted.payload is None:
            return True
        now_ms = wall_clock_ms()
        try:
            batch = _batch_of(submitted.payload, now_ms)
            appended = self.partition.append(
                batch,
                validate_batch(batch, on_append=True),
                acks_all=True,
                now_ms=now_ms,
                idempotency=None,
            )
        except OttlaError as error:
            refused = _not_coordinator(error).with_outcome(Outcome.NOT_APPLIED)
            self._answer(active.append_failed(submitted.request_id, refused))
            return False
        active.appended(submitted.request_id, appended.info.next_offset)
        return True

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
        if self._refused_until_ms is not None and now_ms < self._refused_until_ms:
            return
        end_ms = monotonic_ms() + TICK_DECISIONS_MS
        for command in active.due(now_ms, wall_clock_ms(), view):
            if monotonic_ms() >= end_ms:
                break
            before = active.speculative_image
            try:
                submitted = active.submit(command, now_ms, wall_clock_ms(), view)
            except OttlaError as error:
                log.info(
                    "coordinator_command_refused",
                    command=type(command).__name__,
                    code=error.code,
                )
            else:
                if not self._append(active, submitted):
                    # The next would fare no better, and each costs a rebalance.
                    self._refused_until_ms = now_ms + self._retry_after_ms
                    self._retry_after_ms = min(2 * self._retry_after_ms, LAST_RETRY_MS)
                    break
                self._refused_until_ms, self._retry_after_ms = None, FIRST_RETRY_MS
                self._decided(active, command, before)

    def restart_sessions(self, now_ms: int) -> None:
        """Give every member a full session from now: the silence was this process's own."""
        if self._active is not None:
            self._active.restart_sessions(now_ms)

    def _require_active(self) -> ActiveCoordinator:
        if self._failure is not None:
            raise CoordinatorNotAvailableError(
                f"the state of {self.partition.name} cannot be read: {self._failure.detail}",
                outcome=Outcome.NOT_APPLIED,
            )
        try:
            self.partition.leading()
        except OttlaError as error:
            raise _not_coordinator(error).with_outcome(Outcome.NOT_APPLIED) from error
        if self.is_over:
            raise NotCoordinatorError(
                f"{self.partition.name} has moved on to another leader epoch",
                outcome=Outcome.NOT_APPLIED,
            )
        if self._active is None:
            raise CoordinatorLoadInProgressError(
                f"the coordinator on {self.partition.name} is reading its state",
                outcome=Outcome.NOT_APPLIED,
            )
        return self._active


def _not_coordinator(error: OttlaError) -> OttlaError:
    """A partition's refusal in a coordinator's terms."""
    if isinstance(error, RoutingError):
        return NotCoordinatorError(error.detail, **error.members)
    if isinstance(error, LeaderNotAvailableError):
        return CoordinatorNotAvailableError(error.detail)
    return error


def _batch_of(payload: bytes, now_ms: int) -> bytearray:
    """A decision's records as one record batch, so that they apply together or not at all."""
    return encode_batch([RecordData(now_ms, key, value) for key, value in decode_pairs(payload)])


def _replay_batches(image: GroupsImage, batches: Sequence[StoredBatch]) -> GroupsImage:
    records = [
        decode_record(record.key, record.value)
        for batch in batches
        for record in decode_batch(batch.data, max_inflated_bytes=MAX_INFLATED_BYTES)
    ]
    return replay(image, records, batches[-1].last_offset + 1)
