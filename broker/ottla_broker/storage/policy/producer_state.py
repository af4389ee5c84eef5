"""What this partition knows of idempotent producers: enough to tell a retry from a new batch.

A producer numbers its records per partition (KIP-98). The log keeps, per producer id, its epoch
and its last five batches, because a producer has at most five requests in flight: a batch that
equals one of them is a retry and gets its first offsets again; one that continues the sequence is
new; anything else is refused. The state is a function of the log: it is rebuilt from a segment's
snapshot and the rows after it, and is the same at leader and follower, save for what has expired.

A producer that has sent nothing for `producer.id.expiration.ms` is forgotten. Age is counted by
this broker's own steady clock, from when it appended, fetched or recovered the producer's last
batch: record timestamps come from clients, and one from next year would make the log forget every
producer whose retry is still on its way. So a follower forgets after its leader does, or not at all
if it restarts; only a leader judges batches, and one that remembers longer refuses nothing that
the former would have taken, for a producer goes on with its sequence. Where the former leader did
forget, and took a batch that does not follow, the log itself tells so: what came before that batch
no longer counts.

Rules, as in Kafka:
- an older producer epoch than the last one is fenced;
- a newer epoch begins at sequence 0;
- while a transaction is open, every batch of its producer is part of it;
- a batch of a transaction may have no sequence: then nothing tells whether it is a retry;
- a producer id without state may begin at any sequence: its state may have been evicted or
  deleted by retention, and refusing it would stop a healthy producer for ever;
- in a transaction it begins at 0: each has an epoch of its own, and nobody is forgotten while one
  is open, so a later sequence has overtaken the first, or the log has lost that;
- after 2**31 - 1 comes sequence 0.
"""

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from ottla_protocol.errors import (
    ConcurrentTransactionsError,
    DuplicateSequenceNumberError,
    InvalidProducerEpochError,
    InvalidTransactionStateError,
    Outcome,
    OutOfOrderSequenceNumberError,
)
from ottla_protocol.record_batch import MAX_SEQUENCE, NO_SEQUENCE, BatchHeader, add_sequence

PRODUCER_BATCHES_MAX = 5
"""Batches remembered per producer: Kafka's bound on requests in flight."""

PRODUCER_ID_EXPIRATION_MS = 24 * 60 * 60 * 1000
"""How long a silent producer is remembered."""

PRODUCERS_MAX = 10_000
"""Most producer ids that one partition remembers; the one silent for longest is forgotten."""


class ProducerBatch(NamedTuple):
    """One appended batch of a producer."""

    base_sequence: int
    last_sequence: int
    base_offset: int
    last_offset: int
    timestamp: int


class Producer(NamedTuple):
    """One producer id's state; immutable, so that a snapshot is a shallow copy.

    `batches` are the newest of this epoch, oldest first, at most PRODUCER_BATCHES_MAX.
    `transaction_start` is the first offset of its open transaction, None outside of one.
    """

    epoch: int
    batches: tuple[ProducerBatch, ...]
    transaction_start: int | None
    last_timestamp: int


class _Remembered(NamedTuple):
    """A producer's state, and the steady clock when its last batch was taken in."""

    producer: Producer
    seen_ms: int


class ProducerAppend(NamedTuple):
    """What the state needs of a batch with a producer id, from its header or from its row."""

    producer_id: int
    producer_epoch: int
    base_sequence: int
    base_offset: int
    last_offset: int
    timestamp: int
    is_transactional: bool
    is_control: bool


@dataclass(frozen=True, slots=True)
class Accept:
    """The batch is new and may be appended."""


@dataclass(frozen=True, slots=True)
class Duplicate:
    """The batch is a retry of one that is in the log at these offsets."""

    base_offset: int
    last_offset: int
    timestamp: int


_ACCEPT = Accept()


class ProducerStates:
    """The state of every producer of one partition.

    Args:
        producers_max: most producer ids. The one whose last batch is oldest in the log is evicted
            first, which is the same one on every replica; those with an open transaction stay.
        expiration_ms: how long a producer that sends nothing is remembered. One with an open
            transaction is not forgotten by age.

    Times are of a clock that never goes back; a caller that tells none forgets nobody by age.
    """

    def __init__(
        self,
        *,
        producers_max: int = PRODUCERS_MAX,
        expiration_ms: int = PRODUCER_ID_EXPIRATION_MS,
    ) -> None:
        assert producers_max > 0, producers_max
        assert expiration_ms > 0, expiration_ms
        self._producers_max = producers_max
        self._expiration_ms = expiration_ms
        # Invariant: in order of each producer's last batch, oldest first, and so of seen_ms.
        self._producers: OrderedDict[int, _Remembered] = OrderedDict()
        self._forgotten = 0

    @property
    def forgotten(self) -> int:
        """How many were forgotten: while it stays the same, who is unknown never was known."""
        return self._forgotten

    def __len__(self) -> int:
        return len(self._producers)

    def get(self, producer_id: int) -> Producer | None:
        """One producer's state."""
        remembered = self._producers.get(producer_id)
        return None if remembered is None else remembered.producer

    def check(self, header: BatchHeader, now_ms: int = 0) -> Accept | Duplicate:
        """Judge a batch that a producer sent, without changing anything.

        Raises:
            InvalidProducerEpochError: a newer epoch of the producer was seen.
            OutOfOrderSequenceNumberError: records before this batch are missing; the member
                `expected_sequence` is the one that would be accepted.
            DuplicateSequenceNumberError: the batch is older than the last five.
            InvalidTransactionStateError: the batch is of no transaction, and its producer has one
                open here.
            ConcurrentTransactionsError: the marker of the producer's last transaction is missing.
        """
        if not header.has_producer:
            return _ACCEPT
        remembered = self._producers.get(header.producer_id)
        if remembered is None or self._is_expired(remembered, now_ms):
            if header.is_transactional and header.base_sequence > 0:
                raise _out_of_order(header, 0)
            return _ACCEPT
        producer = remembered.producer
        if header.producer_epoch < producer.epoch:
            raise InvalidProducerEpochError(
                f"producer {header.producer_id} epoch {header.producer_epoch} is older than "
                f"epoch {producer.epoch}",
                outcome=Outcome.NOT_APPLIED,
                producer_epoch=producer.epoch,
            )
        if producer.transaction_start is not None:
            _check_open_transaction(header, producer)
        if header.base_sequence == NO_SEQUENCE:
            return _ACCEPT
        if header.producer_epoch > producer.epoch:
            if header.base_sequence != 0:
                raise _out_of_order(header, 0)
            return _ACCEPT
        return _check_sequence(header, producer)

    def is_in_transaction(self, header: BatchHeader) -> bool:
        """Whether a transactional batch goes on with a transaction that is open in this log.

        If not, the coordinator must have its partition in the transaction first (KIP-890).
        """
        producer = self.get(header.producer_id)
        return (
            producer is not None
            and producer.transaction_start is not None
            and producer.epoch == header.producer_epoch
        )

    def check_marker(self, producer_id: int, producer_epoch: int) -> bool:
        """Whether a marker is to be appended; False when it is in the log already.

        A marker carries one epoch more than the records that it ends, so one that comes late never
        ends the next transaction, whose records carry that epoch (KIP-890).

        Raises:
            InvalidProducerEpochError: the log is past that epoch.
        """
        producer = self.get(producer_id)
        if producer is None or producer_epoch > producer.epoch:
            return True
        if producer_epoch == producer.epoch and producer.transaction_start is None:
            return False
        raise InvalidProducerEpochError(
            f"a marker of producer {producer_id} epoch {producer_epoch} comes late: the log has "
            f"epoch {producer.epoch}",
            outcome=Outcome.NOT_APPLIED,
            producer_epoch=producer.epoch,
        )

    def find(self, header: BatchHeader, now_ms: int = 0) -> Duplicate | None:
        """Where a batch that a producer sent is in the log already; None if it is not, or unknown.

        Unlike `check` this judges nothing else.
        """
        remembered = self._producers.get(header.producer_id)
        if (
            remembered is None
            or self._is_expired(remembered, now_ms)
            or header.producer_epoch != remembered.producer.epoch
            or header.base_sequence == NO_SEQUENCE
        ):
            return None
        return _find(header, remembered.producer)

    def append(self, appended: ProducerAppend, now_ms: int = 0) -> None:
        """Take in a batch that is now in the log, and forget who is over count or age."""
        remembered = self._producers.pop(appended.producer_id, None)
        batches: tuple[ProducerBatch, ...] = ()
        transaction_start = None
        if remembered is not None:
            transaction_start = remembered.producer.transaction_start
            if appended.producer_epoch == remembered.producer.epoch:
                batches = remembered.producer.batches
        if appended.is_control:
            transaction_start = None
        elif appended.is_transactional and transaction_start is None:
            transaction_start = appended.base_offset
        if appended.base_sequence != NO_SEQUENCE:
            batch = ProducerBatch(
                appended.base_sequence,
                add_sequence(appended.base_sequence, appended.last_offset - appended.base_offset),
                appended.base_offset,
                appended.last_offset,
                appended.timestamp,
            )
            if batches and add_sequence(batches[-1].last_sequence, 1) != batch.base_sequence:
                batches = ()
            batches = (*batches[1 - PRODUCER_BATCHES_MAX :], batch)
        self._producers[appended.producer_id] = _Remembered(
            Producer(appended.producer_epoch, batches, transaction_start, appended.timestamp),
            now_ms,
        )
        if len(self._producers) > self._producers_max:
            self._evict()
        self._expire(now_ms)

    def entries(self) -> tuple[tuple[int, Producer], ...]:
        """Every producer, oldest first: the snapshot that a new segment begins with."""
        return tuple(
            (producer_id, remembered.producer)
            for producer_id, remembered in self._producers.items()
        )

    def load(self, entries: Iterable[tuple[int, Producer]], now_ms: int = 0) -> None:
        """Replace everything by a snapshot, oldest first; each counts as seen now."""
        self._producers = OrderedDict(
            (producer_id, _Remembered(producer, now_ms)) for producer_id, producer in entries
        )

    def _is_expired(self, remembered: _Remembered, now_ms: int) -> bool:
        return (
            now_ms - remembered.seen_ms >= self._expiration_ms
            and remembered.producer.transaction_start is None
        )

    def _evict(self) -> None:
        """Forget the oldest that is in no transaction: an open one must meet its marker."""
        for producer_id, remembered in self._producers.items():
            if remembered.producer.transaction_start is None:
                del self._producers[producer_id]
                self._forgotten += 1
                return

    def _expire(self, now_ms: int) -> None:
        """Forget the expired at the old end; behind one in a transaction they only wait."""
        while self._producers:
            oldest = next(iter(self._producers))
            if not self._is_expired(self._producers[oldest], now_ms):
                return
            del self._producers[oldest]
            self._forgotten += 1


def _check_open_transaction(header: BatchHeader, producer: Producer) -> None:
    if not header.is_transactional:
        raise InvalidTransactionStateError(
            f"producer {header.producer_id} has a transaction open here since offset "
            f"{producer.transaction_start}, and this batch is of none",
            outcome=Outcome.NOT_APPLIED,
        )
    if header.producer_epoch > producer.epoch:
        # The coordinator grants an epoch once all markers of the former are committed: this batch
        # would be ended by a marker that is not its own.
        raise ConcurrentTransactionsError(
            f"the transaction of producer {header.producer_id} epoch {producer.epoch} has not "
            f"ended here, epoch {header.producer_epoch} has to wait",
            outcome=Outcome.NOT_APPLIED,
        )


def _find(header: BatchHeader, producer: Producer) -> Duplicate | None:
    base, last = header.base_sequence, header.last_sequence
    for batch in reversed(producer.batches):
        if batch.base_sequence == base and batch.last_sequence == last:
            return Duplicate(batch.base_offset, batch.last_offset, batch.timestamp)
    return None


def _check_sequence(header: BatchHeader, producer: Producer) -> Accept | Duplicate:
    base, last = header.base_sequence, header.last_sequence
    duplicate = _find(header, producer)
    if duplicate is not None:
        return duplicate
    # A producer known only by its transaction markers has no sequence yet in this epoch.
    expected = add_sequence(producer.batches[-1].last_sequence, 1) if producer.batches else 0
    if base == expected:
        return _ACCEPT
    oldest = producer.batches[0].base_sequence if producer.batches else expected
    if _is_before(last, oldest):
        raise DuplicateSequenceNumberError(
            f"producer {header.producer_id} sequences {base} to {last} are older than its last "
            f"{len(producer.batches)} batches; {expected} is next",
            outcome=Outcome.NOT_APPLIED,
            expected_sequence=expected,
        )
    raise _out_of_order(header, expected)


def _is_before(sequence: int, other: int) -> bool:
    """Whether `sequence` precedes `other` on the circle of 2**31 sequences, by less than half."""
    return 0 < add_sequence(other, -sequence) <= MAX_SEQUENCE // 2


def _out_of_order(header: BatchHeader, expected_sequence: int) -> OutOfOrderSequenceNumberError:
    return OutOfOrderSequenceNumberError(
        f"producer {header.producer_id} epoch {header.producer_epoch} sent sequence "
        f"{header.base_sequence}, {expected_sequence} is next",
        outcome=Outcome.NOT_APPLIED,
        expected_sequence=expected_sequence,
    )
