"""One record batch of a producer, from its first record to its outcome. Pure.

A record's bytes go straight into its partition's open batch. A batch is closed when it is full or
when it is taken to be sent, and from then on nobody but the sender touches it. What becomes of a
record is told by its batch: a future is a batch and an index, so that a record costs no lock, no
event and no dictionary of its own.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from ottla_protocol.errors import OttlaError, Outcome
from ottla_protocol.record_batch import (
    NO_PRODUCER_EPOCH,
    NO_PRODUCER_ID,
    NO_SEQUENCE,
    Compression,
    set_producer,
)
from ottla_protocol.record_codec import BatchBuilder

if TYPE_CHECKING:
    from ottla._accumulator import PartitionQueue

NO_OFFSET: Final = -1

Headers = list[tuple[str, bytes | None]]
"""A record's headers as the codec takes them."""

Callback = Callable[[Any, int, int], None]
"""Called with (batch, index, the record's own timestamp) once the batch is settled."""


class Batch:
    """One record batch from its first record to its outcome.

    Attributes:
        queue: its partition's queue.
        append: the builder's; see `record_codec.BatchBuilder`.
        count: records so far.
        max_timestamp: the largest timestamp of its records, ms.
        opened_ms, deadline_ms: when the first record came, and when delivery has failed.
        reserved_bytes: what it holds of the buffer.
        size_bytes: its size uncompressed, once it is closed.
        order: rises from batch to batch of one queue.
        base_sequence, producer_id, producer_epoch: its number, while it has one.
        attempts: requests that carried it and were answered or failed.
        maybe_applied: an attempt ended without telling whether the batch was appended.
        uncertain_leaders: the brokers to which such attempts went.
        last_error: why the last attempt failed.
        is_done: settled; then either `error` is set, or `base_offset` and `timestamp` are.
        callbacks: what to call then, with index and timestamp of the record.
        wakers: called without arguments then, before the callbacks.
    """

    __slots__ = (
        "_builder",
        "_encoded",
        "_encoded_number",
        "append",
        "attempts",
        "base_offset",
        "base_sequence",
        "callbacks",
        "count",
        "deadline_ms",
        "error",
        "is_done",
        "last_error",
        "max_timestamp",
        "maybe_applied",
        "opened_ms",
        "order",
        "producer_epoch",
        "producer_id",
        "queue",
        "reserved_bytes",
        "size_bytes",
        "timestamp",
        "uncertain_leaders",
        "wakers",
    )

    def __init__(
        self,
        queue: "PartitionQueue",
        *,
        limit_bytes: int,
        reserved_bytes: int,
        opened_ms: int,
        deadline_ms: int,
        order: int,
        is_transactional: bool = False,
    ) -> None:
        self.queue = queue
        builder = BatchBuilder(limit_bytes, is_transactional=is_transactional)
        self._builder: BatchBuilder | None = builder
        self._encoded: bytearray | None = None
        self._encoded_number: tuple[int, int, int] | None = None
        self.append = builder.append
        self.count = 0
        self.max_timestamp = 0
        self.opened_ms = opened_ms
        self.deadline_ms = deadline_ms
        self.reserved_bytes = reserved_bytes
        self.size_bytes = 0
        self.order = order
        self.base_sequence = NO_SEQUENCE
        self.producer_id = NO_PRODUCER_ID
        self.producer_epoch = NO_PRODUCER_EPOCH
        self.attempts = 0
        self.maybe_applied = False
        self.uncertain_leaders: frozenset[int] = frozenset()
        self.last_error: OttlaError | None = None
        self.is_done = False
        self.base_offset = NO_OFFSET
        self.timestamp = NO_OFFSET
        self.error: Exception | None = None
        self.callbacks: list[tuple[int, int, Callback]] = []
        self.wakers: list[Callable[[], object]] = []

    @property
    def is_numbered(self) -> bool:
        """Whether it has a sequence already, so that it may have been sent."""
        return self.base_sequence != NO_SEQUENCE

    @property
    def current_size_bytes(self) -> int:
        """Its size so far, uncompressed."""
        return self.size_bytes or (self._builder.size_bytes if self._builder is not None else 0)

    @property
    def outcome(self) -> Outcome:
        """What is certain about a batch that was not acknowledged."""
        return Outcome.UNKNOWN if self.maybe_applied else Outcome.NOT_APPLIED

    def number(self, producer_id: int, producer_epoch: int, base_sequence: int) -> None:
        """Give the batch its sequence; the bytes follow when they are next asked for."""
        self.producer_id = producer_id
        self.producer_epoch = producer_epoch
        self.base_sequence = base_sequence

    def forget_number(self) -> None:
        """Take the sequence back, which only a batch that was certainly not appended may lose."""
        self.number(NO_PRODUCER_ID, NO_PRODUCER_EPOCH, NO_SEQUENCE)

    def close(self) -> None:
        """Take no more records."""
        assert self._builder is not None, "closed twice"
        self.size_bytes = self._builder.size_bytes

    def encode(self, compression: Compression) -> bytearray:
        """The batch's bytes under its present number; built once, then only numbered again.

        Takes time (compression): call it without the lock.
        """
        number = (self.producer_id, self.producer_epoch, self.base_sequence)
        if self._builder is not None:
            self._encoded = self._builder.build(
                compression=compression,
                producer_id=self.producer_id,
                producer_epoch=self.producer_epoch,
                base_sequence=self.base_sequence,
            )
            self._builder = None
            del self.append  # It holds the builder, and with it the bytes.
        assert self._encoded is not None, "settled"
        if self._encoded_number not in (None, number):
            set_producer(
                self._encoded,
                producer_id=self.producer_id,
                producer_epoch=self.producer_epoch,
                base_sequence=self.base_sequence,
            )
        self._encoded_number = number
        return self._encoded

    def complete(self, base_offset: int, timestamp: int) -> None:
        """Acknowledged: the first record is at `base_offset`, NO_OFFSET if that is not known.

        Args:
            base_offset: the first record's offset.
            timestamp: the leader's, if it is not the largest of the batch's own.
        """
        self.base_offset = base_offset
        self.timestamp = NO_OFFSET if timestamp == self.max_timestamp else timestamp
        self._settle()

    def fail(self, error: Exception) -> None:
        """Given up for this reason."""
        self.error = error
        self._settle()

    def _settle(self) -> None:
        assert not self.is_done, "settled twice"
        self.is_done = True
        self._encoded = None
        if self._builder is not None:
            self._builder = None
            del self.append

    def announce(self) -> list[BaseException]:
        """Wake whoever waits and call what was asked for; without the lock, once, when done.

        Returns:
            What the callbacks raised.
        """
        wakers, self.wakers = self.wakers, []
        for wake in wakers:
            wake()
        callbacks, self.callbacks = self.callbacks, []
        raised: list[BaseException] = []
        for index, timestamp, callback in callbacks:
            try:
                callback(self, index, timestamp)
            except BaseException as error:  # noqa: BLE001 - told to the driver
                # A user's code: not even its sys.exit() may keep others from their results.
                raised.append(error)
        return raised
