"""The coordinator while this broker leads one partition of the transaction topic.

It joins the speculative runtime, which decides commands, with what only the active coordinator
knows: for how long transactions have been open, and which markers are written. One is made at the
start of each leadership, from the image of the whole partition, and thrown away at its end.

The driver's part is that of `ottla_cluster.groups.active_coordinator`, and to write the markers of
`markers_to_write` to the leaders of their partitions, again and again until each has said, of a
committed append, that it has its own; to tell so by `marker_written`; and to submit what is `due`.
"""

from collections import deque
from collections.abc import Iterable, Sequence

from ottla_cluster.state_machine.result import Result
from ottla_cluster.state_machine.runtime import Completed, SpeculativeRuntime, Submitted
from ottla_cluster.transactions.commands import (
    AbortTransaction,
    Command,
    CompleteTransaction,
    ExpireTransactionalIds,
    Response,
)
from ottla_cluster.transactions.config import TransactionConfig
from ottla_cluster.transactions.context import TransactionContext
from ottla_cluster.transactions.handlers import handle
from ottla_cluster.transactions.image import TransactionsImage, replay
from ottla_cluster.transactions.known_ids import DECIDED, has_expired
from ottla_cluster.transactions.limits import MAX_WAITING_REQUESTS
from ottla_cluster.transactions.marker_work import MarkersToWrite, MarkerWork
from ottla_cluster.transactions.open_times import OpenTimes
from ottla_cluster.transactions.records import (
    EndedBy,
    ProducerIdentity,
    TransactionPartition,
    TransactionRecord,
    TransactionState,
    encode_records,
)
from ottla_protocol.errors import NotCoordinatorError, OttlaError


class TransactionMachine:
    """The transactions' state machine as the runtime wants it."""

    def __init__(self, context: TransactionContext) -> None:
        self.context = context
        """Of the next decision."""

    def handle(
        self,
        state: TransactionsImage,
        command: Command,
        now_ms: int,  # noqa: ARG002  the runtime's
    ) -> Result[TransactionRecord, Response]:
        """See `handlers.handle`."""
        return handle(state, command, self.context)

    def replay(
        self, state: TransactionsImage, records: Sequence[TransactionRecord], version: int
    ) -> TransactionsImage:
        """See `image.replay`."""
        return replay(state, records, version)

    def encode(self, records: Sequence[TransactionRecord]) -> bytes:
        """See `records.encode_records`."""
        return encode_records(records)


class ActiveTransactionCoordinator:
    """One leadership of one partition of the transaction topic.

    Args:
        image: the image of the whole partition, up to the start of this leadership: committed.
        config: the coordinator's settings.
        now_ms: the start of leadership on the monotonic clock that all later calls use.
        timestamp_ms: the same on the wall clock.
    """

    def __init__(
        self,
        image: TransactionsImage,
        config: TransactionConfig,
        now_ms: int,
        timestamp_ms: int,
    ) -> None:
        self._config = config
        self._open_times = OpenTimes(image, now_ms, timestamp_ms)
        self._markers = MarkerWork()
        for name, transaction in image.transactions.items():
            self._markers.follow(name, transaction)
        # Transactional ids about which something is decided that is not committed yet, in the order
        # of the decisions: a set's order would differ from one process to another.
        self._undecided: dict[str, None] = {}
        self._producer_ids: deque[int] = deque()
        self._next_expiry_ms = now_ms + config.expiry_interval_ms
        # Since when transactional ids have looked as if nobody used them.
        self._unused_since_ms: dict[str, int] = {}
        self._machine = TransactionMachine(TransactionContext(config, timestamp_ms, None))
        self._runtime: SpeculativeRuntime[
            TransactionsImage, Command, TransactionRecord, Response
        ] = SpeculativeRuntime(
            self._machine,
            image,
            image.version,
            lost_leadership_error=NotCoordinatorError,
            max_waiting=MAX_WAITING_REQUESTS,
        )

    @property
    def committed_image(self) -> TransactionsImage:
        """What is certain."""
        return self._runtime.committed_state

    @property
    def speculative_image(self) -> TransactionsImage:
        """What the next command is decided on."""
        return self._runtime.speculative_state

    def submit(self, command: Command, now_ms: int, timestamp_ms: int) -> Submitted[Response]:
        """Decides a command; see `SpeculativeRuntime.submit`.

        Args:
            command: what is asked.
            now_ms: the monotonic clock.
            timestamp_ms: the wall clock.

        Raises:
            OttlaError: the refusals of the runtime and of the command's handler.
        """
        fresh = self._producer_ids[0] if self._producer_ids else None
        self._machine.context = TransactionContext(self._config, timestamp_ms, fresh)
        submitted = self._runtime.submit(command, now_ms)
        name = getattr(command, "transactional_id", None)
        if submitted.payload is not None and name is not None:
            transaction = self.speculative_image.transactions.get(name)
            if transaction is not None and transaction.granted.producer_id == fresh:
                self._producer_ids.popleft()
            self._undecided[name] = None
            self._follow(now_ms)
        return submitted

    @property
    def producer_ids_left(self) -> int:
        """How many fresh producer ids it has; without any, new transactional ids are refused."""
        return len(self._producer_ids)

    def add_producer_ids(self, producer_ids: Iterable[int]) -> None:
        """Fresh ones, from a block of this broker's."""
        self._producer_ids.extend(producer_ids)

    def due(self, now_ms: int, timestamp_ms: int) -> tuple[Command, ...]:
        """The coordinator's own commands at this time, for the driver to submit.

        What is still true at a later call is due again, so a refused command needs no care; what is
        decided and not committed yet is not.

        Args:
            now_ms: the monotonic clock.
            timestamp_ms: the wall clock.
        """
        decided = self.speculative_image.transactions
        commands: list[Command] = [
            CompleteTransaction(each.transactional_id, each.marker)
            for each in self._markers.to_write()
            if not each.partitions and decided[each.transactional_id].state in DECIDED
        ]
        commands += [
            AbortTransaction(name, identity, EndedBy.TIMEOUT)
            for name, identity in self._open_times.overdue(now_ms)
            if decided[name].state is TransactionState.ONGOING and decided[name].granted == identity
        ]
        if now_ms >= self._next_expiry_ms:
            self._next_expiry_ms = now_ms + self._config.expiry_interval_ms
            expired = self._expired(now_ms, timestamp_ms)
            if expired:
                commands.append(ExpireTransactionalIds(expired))
        return tuple(commands)

    def markers_to_write(self) -> tuple[MarkersToWrite, ...]:
        """Durable decisions whose markers some partitions lack."""
        return tuple(each for each in self._markers.to_write() if each.partitions)

    def take_new_markers(self) -> tuple[MarkersToWrite, ...]:
        """Those of them that have become durable since the last call; all of them at the first."""
        return self._markers.take_news()

    def marker_written(
        self, transactional_id: str, marker: ProducerIdentity, partition: TransactionPartition
    ) -> bool:
        """The partition has the marker, committed, or is deleted with its topic.

        Returns:
            Whether it was the last one: then `CompleteTransaction` is due at once.
        """
        return self._markers.written(transactional_id, marker, partition)

    def appended(self, request_id: int, log_end_offset: int) -> None:
        """The request's batch is in the log, which ends at that offset; see the runtime."""
        self._runtime.appended(request_id, log_end_offset)

    def append_failed(
        self, request_id: int, error: OttlaError, now_ms: int
    ) -> tuple[Completed[Response], ...]:
        """See `SpeculativeRuntime.append_failed`."""
        completed = self._runtime.append_failed(request_id, error)
        self._follow(now_ms)
        return completed

    def committed(self, high_watermark: int, now_ms: int) -> tuple[Completed[Response], ...]:
        """Everything below the high watermark is certain; see `SpeculativeRuntime.committed`."""
        completed = self._runtime.committed(high_watermark)
        self._follow(now_ms)
        return completed

    def lost_leadership(self) -> tuple[Completed[Response], ...]:
        """See `SpeculativeRuntime.lost_leadership`."""
        return self._runtime.lost_leadership()

    def _expired(self, now_ms: int, timestamp_ms: int) -> tuple[str, ...]:
        """The ids that nobody has used for long, and that have looked so for a while."""
        context = TransactionContext(self._config, timestamp_ms, None)
        former = self._unused_since_ms
        self._unused_since_ms = {
            name: former.get(name, now_ms)
            for name, each in self.speculative_image.transactions.items()
            if has_expired(each, context)
        }
        delay_ms = min(self._config.expiry_delay_ms, self._config.transactional_id_expiration_ms)
        return tuple(
            name
            for name, since_ms in self._unused_since_ms.items()
            if now_ms - since_ms >= delay_ms
        )

    def _follow(self, now_ms: int) -> None:
        """Have deadlines and markers follow what is decided by now, and what of it is durable."""
        committed = self.committed_image.transactions
        speculative = self.speculative_image.transactions
        for name in list(self._undecided):
            durable, decided = committed.get(name), speculative.get(name)
            self._open_times.follow(name, durable, decided, now_ms)
            self._markers.follow(name, durable)
            if durable is decided:
                del self._undecided[name]
