"""The records of the transaction topic: the only facts from which a coordinator's image is made.

There is one kind: all there is to say about one transactional id, under the id as its key; see
`ottla_cluster.state_machine.keyed_records`, where the rules of the format are.
"""

from collections.abc import Sequence
from enum import StrEnum

import msgspec

from ottla_cluster.state_machine.keyed_records import KeyAndValue, RecordPart, encode_pairs
from ottla_protocol.errors import InternalError


class CorruptTransactionRecordError(InternalError):
    """A record of the transaction topic does not parse: damaged, or of a newer version."""

    title = "Corrupt transaction record"


class TransactionState(StrEnum):
    """Where a transactional id is on its way; the names are Kafka's.

        EMPTY ──▶ ONGOING ──▶ PREPARE_COMMIT ──▶ COMPLETE_COMMIT ──▶ ONGOING ...
                     └──────▶ PREPARE_ABORT ───▶ COMPLETE_ABORT ───▶ ONGOING ...

    Once PREPARE_COMMIT or PREPARE_ABORT is durable the decision stands; what follows only carries
    it to the partitions.
    """

    EMPTY = "Empty"
    ONGOING = "Ongoing"
    PREPARE_COMMIT = "PrepareCommit"
    PREPARE_ABORT = "PrepareAbort"
    COMPLETE_COMMIT = "CompleteCommit"
    COMPLETE_ABORT = "CompleteAbort"


class EndedBy(StrEnum):
    """Who decided the end of a transaction."""

    PRODUCER = "producer"
    TIMEOUT = "timeout"
    """Nobody did in time."""
    OPERATOR = "operator"
    SUCCESSOR = "successor"
    """Another producer took the transactional id over."""


class ProducerIdentity(RecordPart, frozen=True):
    """What a producer calls itself by: its id and the epoch in which it holds it."""

    producer_id: int
    producer_epoch: int


class TransactionPartition(RecordPart, frozen=True, order=True):
    """A partition that is in a transaction."""

    topic: str
    topic_id: str
    partition: int


class EndedTransaction(RecordPart, frozen=True):
    """The last transaction that was decided."""

    identity: ProducerIdentity
    """The one that its records were written by. Its markers carry an epoch higher by one."""
    is_committed: bool
    by: EndedBy


class TransactionalIdChanged(RecordPart, frozen=True):
    """All there is to say about a transactional id."""

    transactional_id: str
    granted: ProducerIdentity
    """The only identity that may add to a transaction or decide one; new with each decision."""
    timeout_ms: int
    """How long a transaction may be open."""
    state: TransactionState
    partitions: tuple[TransactionPartition, ...]
    """In rising order: those of the open transaction, or those that still may lack a marker. Empty
    unless the state is ONGOING or one of the two PREPAREs."""
    started_timestamp_ms: int | None
    """Wall clock; of the open transaction, or of the one whose markers are written."""
    updated_timestamp_ms: int
    """Wall clock; of this record."""
    ended: EndedTransaction | None
    """None where no decision was made since the id was taken over last, or ever."""
    takeovers: tuple[bytes, ...] = ()
    """By which attempts the id was taken over, the last one first; empty bytes for one that nobody
    can tell from others. MAX_REMEMBERED_TAKEOVERS at most."""


class TransactionalIdRemoved(RecordPart, frozen=True):
    """Nobody has used the id for long."""

    transactional_id: str


TransactionRecord = TransactionalIdChanged | TransactionalIdRemoved
"""Any record of the transaction topic."""


class _TransactionalIdKey(RecordPart, frozen=True, tag="t"):
    transactional_id: str


_ENCODER = msgspec.msgpack.Encoder()
_KEY_DECODER = msgspec.msgpack.Decoder(_TransactionalIdKey)
_VALUE_DECODER = msgspec.msgpack.Decoder(TransactionalIdChanged)


def encode_record(record: TransactionRecord) -> KeyAndValue:
    """The record's key, and its value or None for a tombstone."""
    key = _ENCODER.encode(_TransactionalIdKey(record.transactional_id))
    return key, None if isinstance(record, TransactionalIdRemoved) else _ENCODER.encode(record)


def decode_record(key: bytes | None, value: bytes | None) -> TransactionRecord:
    """The record with this key and value; see `encode_record`.

    Raises:
        CorruptTransactionRecordError: one of them does not parse, or has an unknown tag or field,
            or they do not belong together.
    """
    if key is None:
        raise CorruptTransactionRecordError("A record of the transaction topic has no key.")
    try:
        transactional_id = _KEY_DECODER.decode(key).transactional_id
        if value is None:
            return TransactionalIdRemoved(transactional_id)
        record = _VALUE_DECODER.decode(value)
    except msgspec.DecodeError as error:
        raise CorruptTransactionRecordError(
            f"A record of the transaction topic does not parse: {error}"
        ) from error
    if record.transactional_id != transactional_id:
        raise CorruptTransactionRecordError(
            f"A record of the transaction topic has the key {transactional_id!r} and tells of "
            f"{record.transactional_id!r}."
        )
    return record


def encode_records(records: Sequence[TransactionRecord]) -> bytes:
    """All records of one decision as a payload, for `decode_pairs`."""
    return encode_pairs([encode_record(record) for record in records])
