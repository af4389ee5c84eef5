"""Keys and values to bytes.

A serializer is named, a callable `(value) -> bytes`, or an object with Kafka's
`serialize(topic, value)`:

    "bytes"    bytes, bytearray, memoryview (the default)
    "string"   str as UTF-8
    "int"      int as 8 bytes, signed, big-endian: Kafka's LongSerializer
    "float"    float or int as 8 bytes, IEEE 754, big-endian: Kafka's DoubleSerializer
    "json"     anything that JSON has, dataclasses and datetimes too, as compact UTF-8

The class names of Kafka's Java serializers are taken too, with their own widths (IntegerSerializer
is 4 bytes). None is never serialized: it is a record without a key, or a tombstone.
"""

from collections.abc import Callable
from functools import partial
from struct import Struct
from struct import error as StructError  # noqa: N812  the module calls it plain `error`
from typing import Any, Final, Protocol, TypeAlias
from uuid import UUID

import msgspec

from ottla._errors import ConfigError, SerializationError


class TopicSerializer(Protocol):
    """An object with the method of Kafka's Serializer."""

    def serialize(self, topic: str, value: Any, /) -> bytes | None:
        """The bytes of `value`, for a record of `topic`."""
        ...


SerializerOption: TypeAlias = str | Callable[[Any], bytes | None] | TopicSerializer | None
"""What the options `key_serializer` and `value_serializer` take."""

Serializer: TypeAlias = Callable[[str, Any], bytes | None]
"""What they become: (topic, value) to bytes. Raises SerializationError and nothing else."""

_encode_json = msgspec.json.Encoder().encode
_INTEGERS: Final = {2: Struct(">h"), 4: Struct(">i"), 8: Struct(">q")}
_FLOATS: Final = {4: Struct(">f"), 8: Struct(">d")}


def serialize_bytes(topic: str, value: Any) -> bytes | None:
    """Bytes as they are; a bytearray or memoryview is copied, because the record is sent later."""
    if type(value) is bytes or value is None:
        return value
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    hint = "choose a serializer, for example value_serializer='json' or key_serializer='string'"
    raise _mismatch("bytes", topic, value, "bytes, bytearray or memoryview", hint)


def serialize_string(topic: str, value: Any) -> bytes | None:
    """Text as UTF-8."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise _mismatch("string", topic, value, "str")
    try:
        return value.encode()
    except UnicodeEncodeError as error:
        raise _failure("string", topic, value, error) from error


def serialize_json(topic: str, value: Any) -> bytes | None:
    """Compact JSON as UTF-8. Bytes are refused: JSON has none, and base64 would be a guess."""
    if value is None:
        return None
    if isinstance(value, (bytes, bytearray, memoryview)):
        raise _mismatch("json", topic, value, "a value that JSON has")
    try:
        return _encode_json(value)
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError) as error:
        raise _failure("json", topic, value, error) from error


def _serialize_integer(width: int, topic: str, value: Any) -> bytes | None:
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool):
        raise _mismatch("int", topic, value, "int")
    try:
        return _INTEGERS[width].pack(value)
    except StructError as error:
        detail = f"{value} for topic {topic!r} does not fit the {width} bytes of its serializer"
        raise SerializationError(detail) from error


def _serialize_float(width: int, topic: str, value: Any) -> bytes | None:
    if value is None:
        return None
    if not isinstance(value, (float, int)) or isinstance(value, bool):
        raise _mismatch("float", topic, value, "float")
    try:
        return _FLOATS[width].pack(value)
    except (OverflowError, StructError) as error:
        detail = f"{value} for topic {topic!r} does not fit the {width} bytes of its serializer"
        raise SerializationError(detail) from error


def _serialize_uuid(topic: str, value: Any) -> bytes | None:
    if value is None:
        return None
    if not isinstance(value, UUID):
        raise _mismatch("UUIDSerializer", topic, value, "uuid.UUID")
    return str(value).encode()


SERIALIZERS: Final[dict[str, Serializer]] = {
    "bytes": serialize_bytes,
    "string": serialize_string,
    "int": partial(_serialize_integer, 8),
    "float": partial(_serialize_float, 8),
    "json": serialize_json,
}
"""The serializers by the names that options take."""

_KAFKA_PACKAGE: Final = "org.apache.kafka.common.serialization."
_KAFKA_CLASSES: Final[dict[str, Serializer]] = {
    "ByteArraySerializer": serialize_bytes,
    "BytesSerializer": serialize_bytes,
    "StringSerializer": serialize_string,
    "ShortSerializer": partial(_serialize_integer, 2),
    "IntegerSerializer": partial(_serialize_integer, 4),
    "LongSerializer": partial(_serialize_integer, 8),
    "FloatSerializer": partial(_serialize_float, 4),
    "DoubleSerializer": partial(_serialize_float, 8),
    "UUIDSerializer": _serialize_uuid,
}


def resolve_serializer(spec: SerializerOption, option: str) -> Serializer:
    """The serializer that an option names; `serialize_bytes` itself for None and "bytes".

    Args:
        spec: the option's value.
        option: its name, for the error.

    Raises:
        ConfigError: it is neither a known name, nor callable, nor has a `serialize` method.
    """
    if spec is None:
        return serialize_bytes
    if isinstance(spec, str):
        found = SERIALIZERS.get(spec) or _KAFKA_CLASSES.get(spec.removeprefix(_KAFKA_PACKAGE))
        if found is None:
            names = ", ".join(SERIALIZERS)
            raise ConfigError(
                f"{option} must be one of {names}, a callable (value) -> bytes, or an object with "
                f"serialize(topic, value), not {spec!r}",
                option=option,
            )
        return found
    serialize = getattr(spec, "serialize", None)
    if callable(serialize) and not isinstance(spec, type):
        return partial(_call, serialize, True)  # noqa: FBT003  the flag is positional in a partial
    if callable(spec) and not isinstance(spec, type):
        return partial(_call, spec, False)  # noqa: FBT003  as above
    raise ConfigError(
        f"{option} must be a name, a callable or have serialize(topic, value), "
        f"not {type(spec).__qualname__}",
        option=option,
        hint="pass an instance, not the class" if isinstance(spec, type) else None,
    )


def _call(function: Callable[..., Any], takes_topic: bool, topic: str, value: Any) -> bytes | None:  # noqa: FBT001
    """A user's serializer, whose exceptions and results are checked."""
    if value is None:
        return None
    try:
        result = function(topic, value) if takes_topic else function(value)
    except SerializationError:
        raise
    except Exception as error:
        raise _failure(_name(function), topic, value, error) from error
    if result is None or type(result) is bytes:
        return result
    if isinstance(result, (bytes, bytearray, memoryview)):
        return bytes(result)
    raise SerializationError(
        f"serializer {_name(function)} returned {type(result).__qualname__} for topic {topic!r}, "
        "it must return bytes or None"
    )


def _name(function: Callable[..., Any]) -> str:
    return getattr(function, "__qualname__", type(function).__qualname__)


def _mismatch(
    serializer: str, topic: str, value: Any, wanted: str, hint: str | None = None
) -> SerializationError:
    return SerializationError(
        f"serializer {serializer!r} takes {wanted}, not {type(value).__qualname__} "
        f"(topic {topic!r})",
        hint=hint,
    )


def _failure(serializer: str, topic: str, value: Any, error: Exception) -> SerializationError:
    return SerializationError(
        f"serializer {serializer!r} failed on a {type(value).__qualname__} "
        f"for topic {topic!r}: {type(error).__name__}: {error}"
    )
