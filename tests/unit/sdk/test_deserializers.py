"""Keys and values from bytes: names, Kafka's classes, callables, and what is refused."""

import struct
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ottla._deserializers import deserialize_bytes, resolve_deserializer
from ottla._errors import ConfigError
from ottla._serializers import resolve_serializer


class WithTopic:
    def deserialize(self, topic, data):
        return topic, data


@pytest.mark.parametrize(
    ("spec", "data", "value"),
    [
        ("string", "ü".encode(), "ü"),
        ("int", (-5).to_bytes(8, signed=True), -5),
        ("float", struct.pack(">d", 1.5), 1.5),
        ("json", b'{"a":[1,null]}', {"a": [1, None]}),
        ("org.apache.kafka.common.serialization.IntegerDeserializer", b"\0\0\0\7", 7),
        ("ShortDeserializer", b"\0\7", 7),
        ("FloatDeserializer", struct.pack(">f", 1.5), 1.5),
        ("UUIDDeserializer", str(UUID(int=7)).encode(), UUID(int=7)),
        (len, b"abc", 3),
        (WithTopic(), b"v", ("t", b"v")),
    ],
)
def test_a_value_is_what_its_bytes_say_and_none_stays_none(spec, data, value):
    deserialize = resolve_deserializer(spec, "value_deserializer")
    assert deserialize("t", data) == value
    assert deserialize("t", None) is None


@pytest.mark.parametrize("spec", [None, "bytes", "ByteArrayDeserializer"])
def test_bytes_stay_bytes_for_nothing(spec):
    assert resolve_deserializer(spec, "key_deserializer") is deserialize_bytes


@pytest.mark.parametrize("spec", ["jsn", 5, WithTopic, int])
def test_what_is_none_is_refused_by_its_option(spec):
    with pytest.raises(ConfigError, match="key_deserializer") as caught:
        resolve_deserializer(spec, "key_deserializer")
    assert caught.value.option == "key_deserializer"


@given(st.sampled_from(["string", "int", "float", "json"]), st.data())
def test_it_is_the_serializer_s_inverse(spec, data):
    kinds = {
        "string": st.text(),
        "int": st.integers(-(2**63), 2**63 - 1),
        "float": st.floats(allow_nan=False),
        "json": st.dictionaries(st.text(), st.integers(-(2**60), 2**60) | st.none()),
    }
    value = data.draw(kinds[spec])
    written = resolve_serializer(spec, "value_serializer")("t", value)
    assert resolve_deserializer(spec, "value_deserializer")("t", written) == value
