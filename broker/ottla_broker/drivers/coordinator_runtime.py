"""One coordinator: a state machine that lives in one partition of an internal topic.

Whoever leads the partition runs it, for one leader epoch. It begins by replaying the partition's
whole log, once the high watermark has reached the end that the epoch found: only then does the
state hold everything that former coordinators answered for. From there each command is decided on
the speculative state, its records are appended as one batch with acks=all, and its answer leaves
when the high watermark has passed what the decision saw. A new leader epoch ends it: what was
appended and not committed has an unknown outcome, and the speculation is gone.

What is decided is a machine's business: groups and transactions have one each.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, Protocol, TypeVar

import structlog

from ottla_broker.drivers.clock import monotonic_ms, wall_clock_ms, within
from ottla_broker.drivers.critical_task import CriticalTask
from ottla_broker.drivers.partition import Partition
from ottla_broker.drivers.pending_answers import PendingAnswers
from ottla_broker.storage.stored_batch import StoredBatch
from ottla_cluster.state_machine.keyed_records import decode_pairs
from ottla_cluster.state_machine.runtime import Completed, Submitted
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
from ottla_protocol.record_codec import Record, RecordData, decode_batch, encode_batch

LOAD_BYTES = 4 << 20
"""How much of the log is read and replayed at a time."""

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

ResponseT = TypeVar("ResponseT")
CommandT = TypeVar("CommandT")
ImageT = TypeVar("ImageT")


class ActiveMachine(Protocol[ResponseT]):
    """What the runtime asks of a machine that is loaded; see `SpeculativeRuntime`."""

    def appended(self, request_id: int, log_end_offset: int) -> None:
        """The request's batch is in the log, which ends at that offset."""

    def append_failed(self, request_id: int, error: OttlaError) -> tuple[Completed[ResponseT], ...]:
        """The log has not taken it."""

    def committed(self, high_watermark: int) -> tuple[Completed[ResponseT], ...]:
        """Everything below is certain."""

    def lost_leadership(self) -> tuple[Completed[ResponseT], ...]:
        """The epoch is over."""


MachineT = TypeVar("MachineT", bound=ActiveMachine[Any])


class CoordinatorRuntime(ABC, Generic[ImageT, MachineT, CommandT, ResponseT]):
    """The coordinator of one led partition, for one leader epoch.

    Args:
        partition: a hosted partition of the coordinators' topic that this broker leads.
        leader_epoch: the epoch that it leads it in.
        on_failure: a defect ended the coordinator; the process must stop.
        first_load_retry_ms: how long until a load that failed is tried again.
    """

    def __init__(
        self,
        partition: Partition,
        leader_epoch: int,
        on_failure: Callable[[OttlaError], None],
        *,
        first_load_retry_ms: int = FIRST_LOAD_RETRY_MS,
    ) -> None:
        self.partition = partition
        self.leader_epoch = leader_epoch
        self._active: MachineT | None = None
        self._failure: OttlaError | None = None
        self._changed = asyncio.Event()
        self._answers: PendingAnswers[ResponseT] = PendingAnswers()
        self._first_load_retry_ms = first_load_retry_ms
        # After refusals of the log: how long to wait with what nobody asked for, and until when.
        self._retry_after_ms = FIRST_RETRY_MS
        self._refused_until_ms: int | None = None
        self._task = CriticalTask(
            self._run(), name=f"coordinator-{partition.name}", on_failure=on_failure
        )

    # --- the machine ------------------------------------------------------------------------

    @abstractmethod
    def _new_image(self) -> ImageT:
        """The state of an empty log."""

    @abstractmethod
    def _replay(self, image: ImageT, batches: Sequence[StoredBatch]) -> ImageT:
        """The state after more of the log; called on another thread."""

    def _prepare(self, image: ImageT) -> None:
        """What would keep the event loop from everything else later; called on another thread."""

    @abstractmethod
    def _activate(self, image: ImageT) -> MachineT:
        """The machine that goes on from the whole log's state."""

    def _loaded(self, took_ms: int) -> None:
        """The state is there."""

    def _resigned(self) -> None:
        """The epoch is over, and everybody who waited for an answer is told."""

    # --- life -------------------------------------------------------------------------------

    @property
    def is_over(self) -> bool:
        """Whether the partition has left the leader epoch that this coordinator lives in."""
        leader = self.partition.leader
        return leader is None or leader.leader_epoch != self.leader_epoch

    @property
    def state(self) -> str:
        """`active`, `loading`, or `failed` while its state cannot be read."""
        if self._active is not None:
            return "active"
        return "loading" if self._failure is None else "failed"

    async def stop(self) -> None:
        """End it; whoever waits for an answer learns that its outcome is unknown."""
        await self._task.stop()

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
        retry_after_ms = self._first_load_retry_ms
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
        image = self._new_image()
        offset, end = partition.log.log_start_offset, partition.log.next_offset
        while offset < end and not self.is_over:
            batches = await partition.log.read(offset, max_bytes=LOAD_BYTES, limit=end)
            if not batches:
                break  # Only gaps are left.
            image = await asyncio.to_thread(self._replay, image, batches)
            offset = batches[-1].last_offset + 1
        await asyncio.to_thread(self._prepare, image)
        if self.is_over:
            return
        self._failure = None
        self._active = self._activate(image)
        took_ms = monotonic_ms() - started_ms
        self._loaded(took_ms)
        log.info(
            "coordinator_loaded", partition=partition.name, leader_epoch=self.leader_epoch,
            offset=end, after_ms=took_ms,
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
            self._answers.give(active.lost_leadership())
            log.info(
                "coordinator_resigned", partition=self.partition.name,
                leader_epoch=self.leader_epoch,
            )  # fmt: skip
        self._resigned()

    def _release(self) -> None:
        if self._active is not None:
            self._answers.give(self._active.committed(self.partition.high_watermark))

    # --- commands ---------------------------------------------------------------------------

    async def _carry_out(
        self,
        active: MachineT,
        submitted: Submitted[ResponseT],
        deadline_ms: int,
        appended: Callable[[], None],
    ) -> ResponseT:
        """The answer to a command that was just decided, once what it saw and changes is committed.

        No wait may come between the decision and this call, so that none comes between a decision
        and its place in the log.

        Args:
            active: the machine that decided.
            submitted: what it decided.
            deadline_ms: on the monotonic clock.
            appended: called once its records, if it has any, are in the log.

        Raises:
            RequestTimedOutError: the records were not committed in time; the outcome is unknown.
            OttlaError: the machine refuses the command, or the log refuses its records.
        """
        if submitted.response is not None:
            return submitted.response
        waiting = self._answers.expect(submitted.request_id)
        if self._append(active, submitted):
            appended()
        try:
            return await within(deadline_ms - monotonic_ms(), waiting)
        except TimeoutError:
            raise RequestTimedOutError(
                f"{self.partition.name} did not commit what the coordinator decided in time",
                outcome=Outcome.UNKNOWN,
            ) from None
        finally:
            self._answers.forget(submitted.request_id)

    def _append(self, active: MachineT, submitted: Submitted[ResponseT]) -> bool:
        """Append a decision's records, if it has any; False when the log did not take them."""
        if submitted.payload is None:
            return True
        now_ms = wall_clock_ms()
        try:
            batch = self._batch_of(submitted.payload, now_ms)
            appended = self.partition.append(
                batch,
                validate_batch(batch, on_append=True),
                acks_all=True,
                now_ms=now_ms,
                idempotency=None,
            )
        except OttlaError as error:
            refused = _not_coordinator(error).with_outcome(Outcome.NOT_APPLIED)
            self._answers.give(active.append_failed(submitted.request_id, refused))
            return False
        active.appended(submitted.request_id, appended.info.next_offset)
        return True

    def _batch_of(self, payload: bytes, now_ms: int) -> bytearray:
        """A decision's records as one batch, so that they apply together or not at all."""
        return encode_batch(
            [RecordData(now_ms, key, value) for key, value in decode_pairs(payload)]
        )

    def _submit_due(
        self,
        active: MachineT,
        due: Callable[[], Iterable[CommandT]],
        submit: Callable[[CommandT], tuple[Submitted[ResponseT], Callable[[], None]]],
        now_ms: int,
        *,
        limit_ms: int,
    ) -> None:
        """Submit the coordinator's own commands, for which nobody waits.

        What is refused is due again, and so is what there is no time left for. A log that refuses
        one is left alone for a while: the next would fare no better.

        Args:
            active: the machine.
            due: the commands in their order; asked only where the log may take them.
            submit: has one of them decided; returns what is to be done once it is in the log, too.
            now_ms: the monotonic clock.
            limit_ms: how long this may take.
        """
        if self._refused_until_ms is not None and now_ms < self._refused_until_ms:
            return
        end_ms = monotonic_ms() + limit_ms
        for command in due():
            if monotonic_ms() >= end_ms:
                return
            try:
                submitted, appended = submit(command)
            except OttlaError as error:
                log.info(
                    "coordinator_command_refused",
                    command=type(command).__name__,
                    code=error.code,
                )
                continue
            if not self._append(active, submitted):
                self._refused_until_ms = now_ms + self._retry_after_ms
                self._retry_after_ms = min(2 * self._retry_after_ms, LAST_RETRY_MS)
                return
            self._refused_until_ms, self._retry_after_ms = None, FIRST_RETRY_MS
            appended()

    def _require_active(self) -> MachineT:
        """The machine, if it may decide now.

        Raises:
            NotCoordinatorError: this broker does not lead the partition (any more).
            CoordinatorLoadInProgressError: the state is not replayed yet.
            CoordinatorNotAvailableError: this broker has not confirmed that it leads, or the state
                cannot be read.
        """
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


def records_of(batches: Sequence[StoredBatch]) -> Iterable[Record]:
    """The records of batches of a coordinator's log, in their order."""
    for batch in batches:
        yield from decode_batch(batch.data, max_inflated_bytes=MAX_INFLATED_BYTES)


def _not_coordinator(error: OttlaError) -> OttlaError:
    """A partition's refusal in a coordinator's terms."""
    if isinstance(error, RoutingError):
        return NotCoordinatorError(error.detail, **error.members)
    if isinstance(error, LeaderNotAvailableError):
        return CoordinatorNotAvailableError(error.detail)
    return error
