"""The transaction topic's records, and the control records of all others."""

import msgspec
import pytest

from ottla_cluster.state_machine.keyed_records import decode_pairs
from ottla_cluster.transactions.records import (
    CorruptTransactionRecordError,
    EndedBy,
    EndedTransaction,
    ProducerIdentity,
    TransactionalIdChanged,
    TransactionalIdRemoved,
    TransactionPartition,
    TransactionState,
    decode_record,
    encode_record,
    encode_records,
)
from ottla_protocol.control_records import EndMarker, encode_end_marker, read_end_marker
from ottla_protocol.errors import CorruptMessageError
from ottla_protocol.record_batch import read_header, validate_batch
from ottla_protocol.record_codec import RecordData, decode_batch, encode_batch

CHANGED = TransactionalIdChanged(
    transactional_id="t",
    granted=ProducerIdentity(4, 3),
    timeout_ms=60_000,
    state=TransactionState.PREPARE_COMMIT,
    partitions=(TransactionPartition("orders", "id", 0), TransactionPartition("orders", "id", 2)),
    started_timestamp_ms=1,
    updated_timestamp_ms=2,
    ended=EndedTransaction(ProducerIdentity(4, 2), is_committed=True, by=EndedBy.PRODUCER),
)
FOR_EVER = bytes.fromhex(
    "99a174920403cdea60ad50726570617265436f6d6d69749293a66f7264657273a269640093a66f7264657273a2"
    "696402010293920402c3a870726f647563657290"
)
BEFORE_TAKEOVERS = b"\x98" + FOR_EVER[1:-1]
"""As it was written before take-overs were remembered (decision 53)."""


def test_the_encoding_is_for_ever():
    key, value = encode_record(CHANGED)
    assert key == bytes.fromhex("92a174a174")
    assert value == FOR_EVER
    assert decode_record(key, FOR_EVER) == CHANGED
    assert decode_record(key, BEFORE_TAKEOVERS) == CHANGED


def test_take_overs_are_written():
    changed = msgspec.structs.replace(CHANGED, takeovers=(b"2" * 16, b"", b"1" * 16))
    key, value = encode_record(changed)
    assert value == FOR_EVER[:-1] + b"\x93\xc4\x10" + b"2" * 16 + b"\xc4\0\xc4\x10" + b"1" * 16
    assert decode_record(key, value) == changed


def test_a_decision_is_one_payload():
    records = (CHANGED, TransactionalIdRemoved("u"))
    pairs = decode_pairs(encode_records(records))
    assert tuple(decode_record(*pair) for pair in pairs) == records
    assert pairs[1][1] is None


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (None, FOR_EVER),
        (b"\xc1", FOR_EVER),
        (bytes.fromhex("92a174a174"), b"\x91\xa1t"),
        (bytes.fromhex("92a178a174"), None),
        (bytes.fromhex("92a174a175"), FOR_EVER),
        (
            bytes.fromhex("92a174a174"),
            msgspec.msgpack.encode([*msgspec.msgpack.decode(FOR_EVER), 1]),
        ),
    ],
)
def test_what_is_not_known_is_refused(key, value):
    with pytest.raises(CorruptTransactionRecordError):
        decode_record(key, value)


@pytest.mark.parametrize("is_commit", [True, False])
def test_a_marker_is_a_control_batch(is_commit):
    marker = EndMarker(is_commit, coordinator_epoch=9)
    batch = encode_end_marker(marker, producer_id=4, producer_epoch=3, timestamp_ms=77)
    header = validate_batch(batch, on_append=False)
    assert header == read_header(batch)
    assert header.is_control
    assert header.is_transactional
    assert (header.producer_id, header.producer_epoch, header.base_sequence) == (4, 3, -1)
    assert (header.record_count, header.max_timestamp) == (1, 77)
    (record,) = decode_batch(batch, max_inflated_bytes=1 << 10)
    # Kafka's: version 0 and type, version 0 and coordinator epoch.
    assert record.key == bytes([0, 0, 0, 1 if is_commit else 0])
    assert record.value == bytes([0, 0, 0, 0, 0, 9])
    assert read_end_marker(record) == marker


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        (b"\0\0\0\2", b"", None),  # Another type: a leader change, in Kafka.
        (None, b"\0\0\0\0\0\1", CorruptMessageError),
        (b"\0\0", b"\0\0\0\0\0\1", CorruptMessageError),
        (b"\0\0\0\1", None, CorruptMessageError),
        (b"\0\0\0\1", b"\0\0", CorruptMessageError),
        (b"\0\1\0\1\7", b"\0\1\0\0\0\1\7", EndMarker(True, 1)),  # A later version adds at the end.
    ],
)
def test_control_records_of_other_kinds(key, value, expected):
    batch = encode_batch([RecordData(0, key, value)], is_control=True)
    (record,) = decode_batch(batch, max_inflated_bytes=1 << 10)
    if isinstance(expected, type):
        with pytest.raises(expected):
            read_end_marker(record)
    else:
        assert read_end_marker(record) == expected
