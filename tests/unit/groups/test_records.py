"""The records of the offsets topic keep their format and stand each for its key."""

import msgspec
import pytest

from ottla_cluster.groups.records import (
    CorruptGroupRecordError,
    CurrentAssigned,
    CurrentRemoved,
    Delivery,
    GroupChanged,
    GroupRemoved,
    HeldPartition,
    InstanceChanged,
    InstancePosition,
    InstanceProgressed,
    InstanceRemoved,
    MemberChanged,
    MemberRemoved,
    OffsetCommitted,
    OffsetRemoved,
    PendingOffset,
    PendingOffsetsChanged,
    PendingOffsetsRemoved,
    ProducerEnded,
    ProducerForgotten,
    ProgressRemoved,
    SubscribedTopic,
    TargetAssigned,
    TargetRemoved,
    TargetTopic,
    decode_record,
    encode_record,
    encode_records,
)
from ottla_cluster.state_machine.keyed_records import decode_pairs

OFFSET = OffsetCommitted("g", "orders", "id-1", 2, 17, 3, "so far", 1_000, 9)
HELD = HeldPartition("orders", "id-1", 0, 4)
ALL = [
    OFFSET,
    OffsetRemoved("g", "id-1", 2),
    GroupChanged("g", 5, "sticky", (SubscribedTopic("orders", "id-1", 3),), 9, None),
    GroupRemoved("g"),
    MemberChanged("g", "m", "i", "c", ("orders",), None, 10_000, 60_000, ("former",)),
    MemberRemoved("g", "m"),
    TargetAssigned("g", "m", (TargetTopic("orders", (0, 1)),)),
    TargetRemoved("g", "m"),
    CurrentAssigned("g", "m", 4, (HELD,), (HeldPartition("orders", "id-1", 1, 2),)),
    CurrentRemoved("g", "m"),
    InstanceChanged(
        "g", "m", "c", "json", "latest", True, -1, 500, 300_000, ("orders",), None, None
    ),
    InstanceRemoved("g", "m"),
    InstanceProgressed(
        "g",
        "m",
        (InstancePosition("orders", "id-1", 0, 4, 17),),
        Delivery("d", 2, 5, (InstancePosition("orders", "id-1", 0, 4, 19),)),
    ),
    ProgressRemoved("g", "m"),
    PendingOffsetsChanged("g", 7, 3, (PendingOffset("orders", "id-1", 2, 17, 3, "so far", 9),)),
    PendingOffsetsRemoved("g", 7),
    ProducerEnded(7, 4),
    ProducerForgotten(7),
]


@pytest.mark.parametrize("record", ALL, ids=lambda record: type(record).__name__)
def test_a_record_survives_its_encoding(record):
    key, value = encode_record(record)
    assert decode_record(key, value) == record
    assert (value is None) == type(record).__name__.endswith(("Removed", "Forgotten"))


def test_a_tombstone_has_the_key_of_what_it_removes():
    keys = [encode_record(record)[0] for record in ALL]
    assert keys[0::2] == keys[1::2]
    assert len(set(keys)) == 9


def test_the_format_is_for_ever():
    key, value = encode_record(OFFSET)
    assert msgspec.msgpack.decode(key) == ["o", "g", "id-1", 2]
    assert msgspec.msgpack.decode(value) == ["g", "orders", "id-1", 2, 17, 3, "so far", 1_000, 9]
    assert [msgspec.msgpack.decode(encode_record(record)[0]) for record in ALL[2::2]] == [
        ["g", "g"],
        ["m", "g", "m"],
        ["t", "g", "m"],
        ["c", "g", "m"],
        ["i", "g", "m"],
        ["p", "g", "m"],
        ["x", "g", 7],
        ["e", 7],
    ]
    assert [msgspec.msgpack.decode(encode_record(record)[1]) for record in ALL[14::2]] == [
        ["g", 7, 3, [["orders", "id-1", 2, 17, 3, "so far", 9, 0]]],
        [7, 4],
    ]


def test_what_was_pending_before_it_was_known_since_when_is_read():
    pending = ALL[14]
    key, value = encode_record(pending)
    *start, ((*offset, _),) = msgspec.msgpack.decode(value)
    assert decode_record(key, msgspec.msgpack.encode([*start, [offset]])) == pending


def test_a_decision_is_one_payload():
    assert [decode_record(*pair) for pair in decode_pairs(encode_records(ALL))] == ALL


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (None, b""),
        (b"", None),
        (b"\xc1", None),
        (msgspec.msgpack.encode(["z", "g"]), None),
        (msgspec.msgpack.encode(["g", "g", "more"]), None),
        (encode_record(OFFSET)[0], b"nonsense"),
        (encode_record(OFFSET)[0], encode_record(OFFSET)[1] + b"\x00"),
        (encode_record(OffsetRemoved("g", "id-1", 3))[0], encode_record(OFFSET)[1]),
    ],
)
def test_a_damaged_record_is_refused(key, value):
    with pytest.raises(CorruptGroupRecordError):
        decode_record(key, value)


def test_a_field_of_a_newer_version_is_refused():
    key, value = encode_record(OFFSET)
    newer = msgspec.msgpack.encode([*msgspec.msgpack.decode(value), "new"])
    with pytest.raises(CorruptGroupRecordError, match="parse"):
        decode_record(key, newer)
