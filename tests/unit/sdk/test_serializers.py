"""Serializers: bytes as Kafka's, and mismatches that name the type and the topic."""

import dataclasses
import json
import struct
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ottla._errors import ConfigError, SerializationError
from ottla._serializers import resolve_serializer, serialize_bytes


@dataclasses.dataclass
class Flight:
    origin: str


class KafkaStyle:
    def serialize(self, topic, value):
        return f"{topic}:{value}".encode()


class NoSerializer:
    pass


def serialize(spec, value, topic="flights"):
    return resolve_serializer(spec, "value_serializer")(topic, value)


def refusal(spec, value):
    with pytest.raises(SerializationError) as caught:
        serialize(spec, value)
    return caught.value


@pytest.mark.parametrize(
    ("spec", "value", "expected"),
    [
        (None, b"a", b"a"),
        ("bytes", bytearray(b"a"), b"a"),
        ("bytes", memoryview(b"a"), b"a"),
        ("string", "größe", "größe".encode()),
        ("int", -2, b"\xff" * 7 + b"\xfe"),
        ("float", 0.1, struct.pack(">d", 0.1)),
        ("float", 2, struct.pack(">d", 2.0)),
        ("json", {"a": [1, "größe", None]}, '{"a":[1,"größe",null]}'.encode()),
        ("json", Flight("EWR"), b'{"origin":"EWR"}'),
        ("json", "text", b'"text"'),
        (str.encode, "a", b"a"),
        (lambda value: bytearray(value), b"a", b"a"),
        (lambda value: None, "deleted", None),
        (KafkaStyle(), 5, b"flights:5"),
        ("StringSerializer", "a", b"a"),
        ("org.apache.kafka.common.serialization.IntegerSerializer", 1, b"\0\0\0\1"),
        ("ShortSerializer", 1, b"\0\1"),
        ("LongSerializer", 1, b"\0" * 7 + b"\1"),
        ("FloatSerializer", 0.5, struct.pack(">f", 0.5)),
        ("DoubleSerializer", 0.5, struct.pack(">d", 0.5)),
        ("ByteArraySerializer", b"a", b"a"),
        ("UUIDSerializer", UUID(int=1), b"00000000-0000-0000-0000-000000000001"),
    ],
)
def test_serializes(spec, value, expected):
    serialized = serialize(spec, value)
    assert serialized == expected
    assert serialized is None or type(serialized) is bytes


@pytest.mark.parametrize(
    "spec", [None, "bytes", "string", "int", "float", "json", str.encode, KafkaStyle()]
)
def test_none_is_a_tombstone_and_never_serialized(spec):
    assert serialize(spec, None) is None


@pytest.mark.parametrize(
    ("spec", "value"),
    [
        (None, "text"),
        ("bytes", 5),
        ("string", b"bytes"),
        ("string", 5),
        ("string", "\ud800"),
        ("int", "5"),
        ("int", 5.0),
        ("int", True),
        ("int", 2**63),
        ("IntegerSerializer", 2**31),
        ("float", "5"),
        ("float", True),
        ("float", 10**400),
        ("FloatSerializer", 1e300),
        ("json", b"bytes"),
        ("json", object()),
        ("json", {1j: 2}),
        ("UUIDSerializer", "text"),
        (str.encode, 5),
        (KafkaStyle.serialize.__get__(KafkaStyle()), 5),  # A bound method of two arguments.
    ],
)
def test_a_mismatch_names_the_type_and_the_topic(spec, value):
    error = refusal(spec, value)
    assert "'flights'" in error.detail
    assert type(value).__name__ in error.detail or str(value) in error.detail
    assert error.retriable is False


def test_a_callable_must_return_bytes():
    assert "returned str for topic 'flights'" in refusal(lambda value: "text", 5).detail


def test_the_default_says_what_to_do():
    error = refusal(None, {"origin": "EWR"})
    assert "not dict" in error.detail
    assert "value_serializer='json'" in error.hint
    assert f"hint: {error.hint}" in error.__notes__


def test_the_cause_of_a_failed_callable_is_kept():
    cause = KeyError("origin")

    def fails(value):
        raise cause

    error = refusal(fails, {})
    assert error.__cause__ is cause
    assert "KeyError" in error.detail


def test_a_callable_may_raise_a_serialization_error_itself():
    own = SerializationError("no schema")

    def fails(value):
        raise own

    assert refusal(fails, {}) is own


def test_a_buffer_may_be_reused_after_the_call():
    buffer = bytearray(b"first")
    serialized = serialize_bytes("flights", buffer)
    buffer[:] = b"later"
    assert serialized == b"first"


@pytest.mark.parametrize("spec", ["text", 5, NoSerializer(), KafkaStyle, dict])
def test_what_is_no_serializer_is_refused_when_the_producer_is_made(spec):
    with pytest.raises(ConfigError, match="key_serializer") as caught:
        resolve_serializer(spec, "key_serializer")
    assert caught.value.option == "key_serializer"


@given(
    st.recursive(
        st.none() | st.booleans() | st.text() | st.integers(-(2**63), 2**63 - 1),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_json_is_what_the_standard_library_reads(value):
    serialized = serialize("json", value)
    assert (value is None) is (serialized is None)
    if serialized is not None:
        assert json.loads(serialized) == value


@given(st.integers(-(2**63), 2**63 - 1))
def test_int_is_a_big_endian_long(value):
    assert int.from_bytes(serialize("int", value), "big", signed=True) == value
