"""Bodies of the consumer calls: from JSON to settings and offsets, and from records to JSON."""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar
from urllib.parse import quote

import msgspec

from ottla_broker.http.rest_v2.errors import (
    ConsumerConfigConstraintError,
    ConsumerConfigError,
    PayloadError,
    RecordFormatError,
)
from ottla_broker.http.rest_v2.media_types import BINARY, FORMATS, SCHEMA_FORMATS
from ottla_broker.services.polled_records import PolledPartition
from ottla_cluster.groups.instance_commands import InstanceSettings
from ottla_cluster.groups.messages import OffsetToCommit
from ottla_protocol.broken_rules import broken_rule, malformation
from ottla_protocol.errors import MalformedBodyError
from ottla_protocol.models import MAX_WAIT_MS
from ottla_protocol.models_rest_v2 import (
    ConsumedRecord,
    CreateConsumer,
    TopicPartitionOffset,
)
from ottla_protocol.record_codec import Record

DocumentT = TypeVar("DocumentT", bound=msgspec.Struct)

DEFAULT_RESET = "latest"
RESETS = ("earliest", "latest", "none")
MAX_MIN_BYTES = 10_000_000
UNSET_MIN_BYTES = -1
"""What stands for a setting that was not made."""

_TRUTHS: Mapping[str, bool] = {"true": True, "false": False}


def parse_document(body: bytes, model: type[DocumentT]) -> DocumentT:
    """A body as its model.

    Raises:
        MalformedBodyError: it is no JSON.
        PayloadError: a field is missing, unknown or of the wrong type.
    """
    try:
        return msgspec.json.decode(body, type=model)
    except msgspec.ValidationError as error:
        raise PayloadError(f"Payload error. {broken_rule(error, model)}.") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise MalformedBodyError(malformation(body, error)) from error
    except RecursionError as error:
        raise PayloadError("Payload error. The body is nested too deeply.") from error


def instance_settings(wanted: CreateConsumer, idle_timeout_ms: int) -> InstanceSettings:
    """The settings of a new instance; numbers and truths may come as text.

    Raises:
        ConsumerConfigError: a value is none that there is.
        ConsumerConfigConstraintError: `fetch.min.bytes` is out of bounds.
    """
    record_format = (wanted.format or BINARY).lower()
    if record_format in SCHEMA_FORMATS:
        raise ConsumerConfigError(
            f"The format {record_format} needs a schema registry, and this cluster has none; "
            f"format must be one of {', '.join(FORMATS)}."
        )
    if record_format not in FORMATS:
        raise ConsumerConfigError(
            f"Invalid format type: {record_format}; format must be one of {', '.join(FORMATS)}."
        )
    reset = (wanted.auto_offset_reset or DEFAULT_RESET).lower()
    if reset not in RESETS:
        raise ConsumerConfigError(
            f"auto.offset.reset must be one of {', '.join(RESETS)}, not {reset!r}."
        )
    min_bytes = _number("fetch.min.bytes", wanted.fetch_min_bytes)
    if min_bytes is None:
        min_bytes = UNSET_MIN_BYTES
    if not UNSET_MIN_BYTES <= min_bytes <= MAX_MIN_BYTES:
        raise ConsumerConfigConstraintError(
            f"fetch.min.bytes must be -1 to {MAX_MIN_BYTES}, not {min_bytes}."
        )
    timeout_ms = _number("consumer.request.timeout.ms", wanted.request_timeout_ms)
    if timeout_ms is not None and not 0 <= timeout_ms <= MAX_WAIT_MS:
        raise ConsumerConfigError(
            f"consumer.request.timeout.ms must be 0 to {MAX_WAIT_MS}, not {timeout_ms}."
        )
    return InstanceSettings(
        record_format=record_format,
        auto_offset_reset=reset,
        auto_commit=_truth("auto.commit.enable", wanted.auto_commit),
        fetch_min_bytes=min_bytes,
        request_timeout_ms=timeout_ms,
        idle_timeout_ms=idle_timeout_ms,
    )


def _number(name: str, value: int | str | None) -> int | None:
    if not isinstance(value, str):
        return value
    digits = value.strip().removeprefix("-")
    if not digits.isascii() or not digits.isdigit() or len(digits) > len(str(2**63)):
        raise ConsumerConfigError(f"{name} must be a whole number, not {value!r}.")
    return int(value)


def _truth(name: str, value: bool | str | None) -> bool:  # noqa: FBT001  a value, and no option
    """`value`, or the default: a consumer commits by itself unless it is told not to."""
    if value is None:
        return True
    if isinstance(value, bool):
        return value
    if value.lower() not in _TRUTHS:
        raise ConsumerConfigError(f"{name} must be true or false, not {value!r}.")
    return _TRUTHS[value.lower()]


def next_offsets(offsets: Sequence[TopicPartitionOffset]) -> list[OffsetToCommit]:
    """What to commit: the API names the offset that was read last, and the log the next one."""
    return [
        OffsetToCommit(each.topic, each.partition, each.offset + 1, metadata=each.metadata or "")
        for each in offsets
    ]


def instance_uri(base: str, group: str, instance_id: str) -> str:
    """Where an instance is reached below a base URL."""
    return f"{base}/consumers/{quote(group, safe='')}/instances/{quote(instance_id, safe='')}"


# --- records --------------------------------------------------------------------------------


def render_consumed(
    partitions: Sequence[PolledPartition], record_format: str
) -> tuple[Sequence[PolledPartition], bytes]:
    """Records as the API's JSON array, and which of them it has.

    A partition's records end before the first that cannot be told, so that whoever is told of that
    one, and seeks past it, has had all that lie before it.

    Raises:
        RecordFormatError: the format is `json`, and the value of a partition's first record is not,
            or its key neither JSON nor text.
    """
    told: list[PolledPartition] = []
    consumed: list[ConsumedRecord] = []
    for each in partitions:
        of_partition, ended = _told(each, _binary if record_format == BINARY else _json)
        consumed += of_partition
        told.append(ended)
    return told, msgspec.json.encode(consumed)


def _told(
    polled: PolledPartition, render: Callable[[str, int, Record], ConsumedRecord]
) -> tuple[list[ConsumedRecord], PolledPartition]:
    topic, partition = polled.key
    consumed: list[ConsumedRecord] = []
    for record in polled.records:
        try:
            consumed.append(render(topic, partition, record))
        except RecordFormatError:
            if not consumed:
                raise
            before = polled.records[: len(consumed)]
            return consumed, PolledPartition(polled.key, before, record.offset)
    return consumed, polled


def _binary(topic: str, partition: int, record: Record) -> ConsumedRecord:
    return ConsumedRecord(
        topic, record.key, record.value, partition, record.offset, record.timestamp
    )


def _json(topic: str, partition: int, record: Record) -> ConsumedRecord:
    where = f"{topic}-{partition} at offset {record.offset}"
    return ConsumedRecord(
        topic,
        _json_key(record.key, where),
        _json_value(record.value, f"The value of {where}"),
        partition,
        record.offset,
        record.timestamp,
    )


def _json_key(key: bytes | None, where: str) -> msgspec.Raw | str | None:
    """A key as JSON. Keys that others than REST clients wrote are text, as a rule: they stay it."""
    try:
        return _json_value(key, f"The key of {where}")
    except RecordFormatError as error:
        try:
            return (key or b"").decode()
        except UnicodeDecodeError:
            raise error from None


def _json_value(value: bytes | None, what: str) -> msgspec.Raw | None:
    if value is None:
        return None
    try:
        value.decode()
        return msgspec.Raw(msgspec.json.format(value, indent=-1))
    except (UnicodeDecodeError, msgspec.DecodeError, RecursionError) as error:
        raise RecordFormatError(
            f"{what} is not JSON; read it with an instance of the format {BINARY}, or seek past it."
        ) from error
