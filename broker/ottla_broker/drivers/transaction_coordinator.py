"""The transaction coordinator that lives in one partition of `__transaction_state`.

How it loads, decides and ends is `coordinator_runtime`'s. Its own are the decisions whose markers
have to be written: the marker writer is told of each as soon as it is committed, and the moment the
last marker is in, the transaction is complete and the next one may begin. Who asks for the next one
before that waits here, a few milliseconds mostly.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

import structlog

from ottla_broker.drivers.clock import monotonic_ms, wall_clock_ms, within
from ottla_broker.drivers.coordinator_runtime import CoordinatorRuntime, records_of
from ottla_broker.drivers.critical_task import CriticalTask
from ottla_broker.drivers.partition import Partition
from ottla_broker.storage.stored_batch import StoredBatch
from ottla_broker.telemetry import METRICS
from ottla_cluster.state_machine.runtime import Completed, Submitted
from ottla_cluster.transactions.active_coordinator import ActiveTransactionCoordinator
from ottla_cluster.transactions.commands import (
    Command,
    CompleteTransaction,
    InitialiseProducer,
    InitialiseProducerResponse,
    Response,
)
from ottla_cluster.transactions.config import TransactionConfig
from ottla_cluster.transactions.image import TransactionsImage, replay
from ottla_cluster.transactions.known_ids import DECIDED
from ottla_cluster.transactions.marker_planner import CoordinatorEpoch
from ottla_cluster.transactions.marker_work import MarkersToWrite
from ottla_cluster.transactions.records import (
    ProducerIdentity,
    TransactionalIdChanged,
    TransactionPartition,
    TransactionRecord,
    TransactionState,
    decode_record,
)
from ottla_cluster.transactions.revocation import as_revoked
from ottla_protocol.errors import (
    ConcurrentTransactionsError,
    CoordinatorNotAvailableError,
    OttlaError,
    Outcome,
)

TICK_DECISIONS_MS = 20
"""How long one tick may decide by itself; the rest is still due at the next one."""

COMPLETIONS_MS = 50
"""How long it may take to decide that transactions are complete whose last markers are in; the next
tick does the rest."""

PRODUCER_IDS_KEPT = 5
"""Fresh producer ids that a coordinator has at hand; it gets as many anew once half are used."""

MAX_WAITING_FOR_MARKERS = 5_000
"""Commands that wait at one coordinator for markers of a transaction before; more are refused."""

log = structlog.get_logger()


class WrittenMarker(NamedTuple):
    """A marker that a partition has, committed; or the partition is deleted."""

    transactional_id: str
    marker: ProducerIdentity
    partition: TransactionPartition


class MarkerSink(Protocol):
    """Who writes the markers."""

    def decided(self, coordinator: CoordinatorEpoch, decisions: Iterable[MarkersToWrite]) -> None:
        """Decisions are durable: their markers are to be written."""
        ...

    def resigned(self, coordinator: CoordinatorEpoch) -> None:
        """Its markers are the next coordinator's business."""
        ...


class ClockedCoordinator:
    """The pure coordinator as the runtime wants it, with the clock."""

    def __init__(self, machine: ActiveTransactionCoordinator) -> None:
        self.machine = machine

    def appended(self, request_id: int, log_end_offset: int) -> None:
        """See `ActiveTransactionCoordinator.appended`."""
        self.machine.appended(request_id, log_end_offset)

    def append_failed(self, request_id: int, error: OttlaError) -> tuple[Completed[Response], ...]:
        """See `ActiveTransactionCoordinator.append_failed`."""
        return self.machine.append_failed(request_id, error, monotonic_ms())

    def committed(self, high_watermark: int) -> tuple[Completed[Response], ...]:
        """See `ActiveTransactionCoordinator.committed`."""
        return self.machine.committed(high_watermark, monotonic_ms())

    def lost_leadership(self) -> tuple[Completed[Response], ...]:
        """See `ActiveTransactionCoordinator.lost_leadership`."""
        return self.machine.lost_leadership()


class TransactionCoordinatorDriver(
    CoordinatorRuntime[TransactionsImage, ClockedCoordinator, Command, Response]
):
    """The transaction coordinator of one led partition, for one leader epoch.

    Args:
        partition: a hosted partition of `__transaction_state` that this broker leads.
        leader_epoch: the epoch that it leads it in.
        config: defaults and bounds.
        markers: writes the markers of what is decided.
        next_producer_id: gives an id that nobody has; may raise an OttlaError.
        on_failure: a defect ended the coordinator; the process must stop.
    """

    def __init__(
        self,
        partition: Partition,
        leader_epoch: int,
        *,
        config: TransactionConfig,
        markers: MarkerSink,
        next_producer_id: Callable[[], Awaitable[int]],
        on_failure: Callable[[OttlaError], None],
    ) -> None:
        super().__init__(partition, leader_epoch, on_failure)
        self.epoch = CoordinatorEpoch(partition.state.partition, leader_epoch)
        self._config = config
        self._markers = markers
        self._next_producer_id = next_producer_id
        self._on_failure = on_failure
        # Who waits for the markers of a transactional id's last transaction.
        self._completions: dict[str, set[asyncio.Future[None]]] = {}
        # When decisions became durable whose markers are not all written.
        self._decided_ms: dict[tuple[str, ProducerIdentity], int] = {}
        self._waiting_count = 0
        # How many transactions of an image are open.
        self._counted: tuple[Mapping[str, TransactionalIdChanged] | None, int] = (None, 0)
        self._supply: CriticalTask | None = None
        self._supplied = asyncio.Event()

    # --- the runtime's ----------------------------------------------------------------------

    def _new_image(self) -> TransactionsImage:
        return TransactionsImage()

    def _replay(
        self, image: TransactionsImage, batches: Sequence[StoredBatch]
    ) -> TransactionsImage:
        unclean_epoch = self.partition.state.unclean_leader_epoch
        records: list[TransactionRecord] = []
        for batch in batches:
            decoded = [decode_record(each.key, each.value) for each in records_of((batch,))]
            if unclean_epoch is not None and batch.leader_epoch < unclean_epoch:
                # What came after it may be lost.
                decoded = [as_revoked(record) for record in decoded]
            records += decoded
        return replay(image, records, batches[-1].last_offset + 1)

    def _activate(self, image: TransactionsImage) -> ClockedCoordinator:
        return ClockedCoordinator(
            ActiveTransactionCoordinator(image, self._config, monotonic_ms(), wall_clock_ms())
        )

    def _loaded(self, took_ms: int) -> None:
        METRICS.transaction_load_seconds.observe(took_ms / 1000)
        self._keep_supplied()

    def _release(self) -> None:
        super()._release()
        if self._active is not None:
            decisions = self._active.machine.take_new_markers()
            if decisions:
                now_ms = monotonic_ms()
                for each in decisions:
                    self._decided_ms[each.transactional_id, each.marker] = now_ms
                self._markers.decided(self.epoch, decisions)

    def _resigned(self) -> None:
        self._markers.resigned(self.epoch)
        self._decided_ms.clear()
        if self._supply is not None:
            self._supply.cancel()
        self._supplied.set()
        # They are refused now, so that they turn to the next coordinator.
        for transactional_id in list(self._completions):
            self._wake(transactional_id)

    def open_count(self) -> int:
        """How many transactions are open, as it is committed."""
        if self._active is None:
            return 0
        transactions = self._active.machine.committed_image.transactions
        counted, count = self._counted
        if counted is not transactions:
            count = sum(each.state is TransactionState.ONGOING for each in transactions.values())
            self._counted = transactions, count
        return count

    # --- commands ---------------------------------------------------------------------------

    async def execute(self, command: Command, *, deadline_ms: int) -> Response:
        """Decide a command; returns once what it saw, and what it changes, is committed.

        What has to wait for the markers of the last transaction does so here, as far as the
        deadline allows: `InitialiseProducer` is answered with what is granted.

        Raises:
            NotCoordinatorError: this broker does not lead the partition (any more).
            CoordinatorLoadInProgressError: the state is not replayed yet.
            CoordinatorNotAvailableError: this broker has not confirmed that it leads, or has no
                producer ids to give.
            ConcurrentTransactionsError: the markers were not written in time.
            RequestTimedOutError: the records were not committed in time; the outcome is unknown.
            OttlaError: the coordinator refuses the command, or the log refuses its records.
        """
        while True:
            active = self._require_active()
            if isinstance(command, InitialiseProducer) and not active.machine.producer_ids_left:
                await self._wait_for_producer_ids(deadline_ms)
                active = self._require_active()
            try:
                submitted, appended = self._submit(active, command)
                response = await self._carry_out(active, submitted, deadline_ms, appended)
            except ConcurrentTransactionsError:
                if not await self._completion(command, deadline_ms):
                    raise
                continue
            if isinstance(response, InitialiseProducerResponse) and response.granted is None:
                # The predecessor's transaction is being aborted: granted once that is over.
                if not await self._completion(command, deadline_ms):
                    raise ConcurrentTransactionsError(
                        "The open transaction is being aborted, and its markers are not written "
                        "yet; try again.",
                        outcome=Outcome.UNKNOWN,
                    )
                continue
            return response

    def _submit(
        self, active: ClockedCoordinator, command: Command
    ) -> tuple[Submitted[Response], Callable[[], None]]:
        before = _named(active, command)
        submitted = active.machine.submit(command, monotonic_ms(), wall_clock_ms())
        return submitted, lambda: self._decided(active, command, before)

    def _decided(
        self, active: ClockedCoordinator, command: Command, before: TransactionalIdChanged | None
    ) -> None:
        """A decision is in the log, or a question was answered."""
        after = _named(active, command)
        if after is None or after is before:
            return
        if after.state not in DECIDED:
            self._wake(after.transactional_id)
        elif before is not None and before.state is TransactionState.ONGOING:
            assert after.ended is not None
            end = "committed" if after.ended.is_committed else "aborted"
            METRICS.ended_transactions.labels(end, after.ended.by.value).inc()

    async def _completion(self, command: Command, deadline_ms: int) -> bool:
        """Wait until the last transaction of the command's id is complete, or nobody knows here.

        Returns:
            Whether that happened before the deadline; False, too, where too many wait.
        """
        name = getattr(command, "transactional_id", None)
        assert name is not None, command
        while self._active is not None:
            found = self._active.machine.speculative_image.transactions.get(name)
            if found is None or found.state not in DECIDED:
                return True
            if self._waiting_count >= MAX_WAITING_FOR_MARKERS:
                return False
            waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._completions.setdefault(name, set()).add(waiting)
            self._waiting_count += 1
            try:
                await within(deadline_ms - monotonic_ms(), waiting)
            except TimeoutError:
                return False
            finally:
                self._waiting_count -= 1
                waiters = self._completions.get(name)
                if waiters is not None:
                    waiters.discard(waiting)
                    if not waiters:
                        del self._completions[name]
        return True

    def _wake(self, transactional_id: str) -> None:
        for waiting in self._completions.pop(transactional_id, ()):
            if not waiting.done():
                waiting.set_result(None)

    # --- markers and time -------------------------------------------------------------------

    def markers_written(self, written: Iterable[WrittenMarker]) -> None:
        """Leaders have said so; what is complete by that is decided at once."""
        active = self._active
        if active is None:
            return
        complete = [
            CompleteTransaction(each.transactional_id, each.marker)
            for each in written
            if active.machine.marker_written(each.transactional_id, each.marker, each.partition)
        ]
        now_ms = monotonic_ms()
        for each in complete:
            decided_ms = self._decided_ms.pop((each.transactional_id, each.marker), None)
            if decided_ms is not None:
                METRICS.transaction_marker_seconds.observe((now_ms - decided_ms) / 1000)
        self._submit_own(lambda _: complete, now_ms, COMPLETIONS_MS)

    def tick(self, now_ms: int) -> None:
        """Submit what is due: transactions whose time is up, ids that nobody uses.

        What is refused or not committed is due again, and so is what this tick has no time left
        for.
        """
        self._submit_own(
            lambda active: active.machine.due(now_ms, wall_clock_ms()), now_ms, TICK_DECISIONS_MS
        )
        if self._active is not None:
            self._keep_supplied()

    def _submit_own(
        self,
        due: Callable[[ClockedCoordinator], Iterable[Command]],
        now_ms: int,
        limit_ms: int,
    ) -> None:
        try:
            active = self._require_active()
        except OttlaError:
            return  # Due again, here or at the next coordinator.
        self._submit_due(
            active,
            lambda: due(active),
            lambda command: self._submit(active, command),
            now_ms,
            limit_ms=limit_ms,
        )

    # --- producer ids -----------------------------------------------------------------------

    def _keep_supplied(self) -> None:
        """Have fresh producer ids fetched where few are left."""
        active = self._active
        if active is None or 2 * active.machine.producer_ids_left > PRODUCER_IDS_KEPT:
            return
        if self._supply is None:
            self._supplied.clear()
            self._supply = CriticalTask(
                self._fetch_producer_ids(active),
                name=f"producer-ids-{self.partition.name}",
                on_failure=self._on_failure,
            )

    async def _fetch_producer_ids(self, active: ClockedCoordinator) -> None:
        try:
            for _ in range(PRODUCER_IDS_KEPT):
                active.machine.add_producer_ids((await self._next_producer_id(),))
        except OttlaError as error:
            # The next tick asks again; who waits for one is told.
            log.info("no_producer_ids", partition=self.partition.name, code=error.code)
        finally:
            self._supply = None
            self._supplied.set()

    async def _wait_for_producer_ids(self, deadline_ms: int) -> None:
        self._keep_supplied()
        try:
            async with asyncio.timeout(max(0, deadline_ms - monotonic_ms()) / 1000):
                await self._supplied.wait()
        except TimeoutError:
            raise CoordinatorNotAvailableError(
                f"{self.partition.name} has no producer ids to give", outcome=Outcome.NOT_APPLIED
            ) from None


def _named(active: ClockedCoordinator, command: Command) -> TransactionalIdChanged | None:
    """What is decided of the transactional id that a command names, if it names one."""
    name: str | None = getattr(command, "transactional_id", None)
    if name is None:
        return None
    return active.machine.speculative_image.transactions.get(name)
