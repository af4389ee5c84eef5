"""Keys and values from bytes.

A deserializer is named, a callable `(bytes) -> value`, or an object with Kafka's
`deserialize(topic, data)`:

    "bytes"    bytes as they are (the default)
    "string"   UTF-8
    "int"      8 bytes, signed, big-endian: Kafka's LongDeserializer
    "float"    8 bytes, IEEE 754, big-endian: Kafka's DoubleDeserializer
    "json"     UTF-8 JSON

The class names of Kafka's Java deserializers are taken too, with their own widths. None is never
deserialized: it is a record without a key, or a tombstone.
"""

from collections.abc import Callable
from functools import partial
from struct import Struct
from typing import Any, Final, Protocol, TypeAlias
from uuid import UUID

import msgspec

from ottla._errors import ConfigError


class TopicDeserializer(Protocol):
    """An object with the method of Kafka's Deserializer."""

    def deserialize(self, topic: str, data: bytes, /) -> Any:
        """What `data`, of a record of `topic`, means."""
        ...


DeserializerOption: TypeAlias = str | Callable[[bytes], Any] | TopicDeserializer | None
"""What the options `key_deserializer` and `value_deserializer` take."""

Deserializer: TypeAlias = Callable[[str, bytes | None], Any]
"""What they become: (topic, bytes) to a value. It may raise anything."""

_INTEGERS: Final = {2: Struct(">h"), 4: Struct(">i"), 8: Struct(">q")}
_FLOATS: Final = {4: Struct(">f"), 8: Struct(">d")}
_decode_json = msgspec.json.Decoder().decode


def deserialize_bytes(_topic: str, data: bytes | None) -> bytes | None:
    """Bytes as they are."""
    return data


def _unpack(form: Struct, data: bytes) -> Any:
    return form.unpack(data)[0]


def _uuid(data: bytes) -> UUID:
    return UUID(data.decode())


def _with_data(function: Callable[[bytes], Any], _topic: str, data: bytes | None) -> Any:
    return None if data is None else function(data)


def _with_topic(function: Callable[[str, bytes], Any], topic: str, data: bytes | None) -> Any:
    return None if data is None else function(topic, data)


_NAMED: Final[dict[str, Callable[[bytes], Any]]] = {
    "string": bytes.decode,
    "int": partial(_unpack, _INTEGERS[8]),
    "float": partial(_unpack, _FLOATS[8]),
    "json": _decode_json,
}

_KAFKA_PACKAGE: Final = "org.apache.kafka.common.serialization."
_BYTES_NAMES: Final = ("bytes", "ByteArrayDeserializer", "BytesDeserializer")
_KAFKA_CLASSES: Final[dict[str, Callable[[bytes], Any]]] = {
    "StringDeserializer": bytes.decode,
    "ShortDeserializer": partial(_unpack, _INTEGERS[2]),
    "IntegerDeserializer": partial(_unpack, _INTEGERS[4]),
    "LongDeserializer": partial(_unpack, _INTEGERS[8]),
    "FloatDeserializer": partial(_unpack, _FLOATS[4]),
    "DoubleDeserializer": partial(_unpack, _FLOATS[8]),
    "UUIDDeserializer": _uuid,
}


def resolve_deserializer(spec: DeserializerOption, option: str) -> Deserializer:
    """The deserializer that an option names; `deserialize_bytes` itself for None and "bytes".

    Args:
        spec: the option's value.
        option: its name, for the error.

    Raises:
        ConfigError: it is neither a known name, nor callable, nor has a `deserialize` method.
    """
    if spec is None:
        return deserialize_bytes
    if isinstance(spec, str):
        name = spec.removeprefix(_KAFKA_PACKAGE)
        if name in _BYTES_NAMES:
            return deserialize_bytes
        found = _NAMED.get(name) or _KAFKA_CLASSES.get(name)
        if found is None:
            names = ", ".join(["bytes", *_NAMED])
            raise ConfigError(
                f"{option} must be one of {names}, a callable (bytes) -> value, or an object with "
                f"deserialize(topic, data), not {spec!r}",
                option=option,
            )
        return partial(_with_data, found)
    method = getattr(spec, "deserialize", None)
    if callable(method) and not isinstance(spec, type):
        return partial(_with_topic, method)
    if callable(spec) and not isinstance(spec, type):
        return partial(_with_data, spec)
    raise ConfigError(
        f"{option} must be a name, a callable or have deserialize(topic, data), "
        f"not {type(spec).__qualname__}",
        option=option,
        hint="pass an instance, not the class" if isinstance(spec, type) else None,
    )
