"""Produce bodies of the API: from JSON to records, and from results to one entry for each."""

from typing import NoReturn, TypeVar

import msgspec

from ottla_broker.http.rest_v2.errors import (
    KAFKA_ERROR,
    KAFKA_RETRIABLE_ERROR,
    KeySchemaMissingError,
    PayloadError,
    SchemaRegistryError,
    ValueSchemaMissingError,
)
from ottla_broker.http.rest_v2.media_types import BINARY, JSON
from ottla_broker.services.record_appends import Fate
from ottla_protocol.broken_rules import broken_rule, malformation
from ottla_protocol.errors import MalformedBodyError, OttlaError
from ottla_protocol.json_records import MAX_RECORDS_PER_REQUEST, ParsedRecord
from ottla_protocol.models_rest_v2 import (
    BinaryRecords,
    JsonRecords,
    ProducedRecord,
)

RecordsT = TypeVar("RecordsT", BinaryRecords, JsonRecords)

_BAD_BASE64 = "Invalid base64 encoded string"

_binary_decoder = msgspec.json.Decoder(BinaryRecords)
_json_decoder = msgspec.json.Decoder(JsonRecords)


def parse_body(body: bytes, embedded_format: str) -> list[ParsedRecord]:
    """The records of a produce request.

    Args:
        body: the request's body.
        embedded_format: see `media_types.embedded_format`.

    Raises:
        MalformedBodyError: it is no JSON, or a key or value no base64.
        PayloadError: a field is missing, unknown or of the wrong type, or there are no records, or
            too many.
        KeySchemaMissingError, ValueSchemaMissingError, SchemaRegistryError: the format needs
            schemas; the last one says that none can be looked up here.
    """
    if embedded_format == BINARY:
        binary = _decoded(_binary_decoder, body).records
        _check_count(len(binary))
        return [ParsedRecord(each.key, each.value, partition=each.partition) for each in binary]
    _check_utf8(body)
    document = _decoded(_json_decoder, body)
    if embedded_format != JSON:
        _refuse_schemas(document, embedded_format)
    _check_count(len(document.records))
    return [
        ParsedRecord(_json_text(each.key), _json_text(each.value), partition=each.partition)
        for each in document.records
    ]


def _decoded(decoder: msgspec.json.Decoder[RecordsT], body: bytes) -> RecordsT:
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        broken = broken_rule(error, decoder.type)
        if _BAD_BASE64 in str(error):
            raise MalformedBodyError(str(broken)) from error
        raise PayloadError(f"Payload error. {broken}.") from error
    except msgspec.DecodeError as error:
        raise MalformedBodyError(malformation(body, error)) from error
    except RecursionError as error:
        raise PayloadError("Payload error. The body is nested too deeply.") from error


def _check_utf8(body: bytes) -> None:
    """Values pass through as text; nothing looks at their encoding later."""
    try:
        body.decode()
    except UnicodeDecodeError as error:
        raise MalformedBodyError(f"invalid UTF-8 at byte {error.start}") from error


def _check_count(count: int) -> None:
    if not 1 <= count <= MAX_RECORDS_PER_REQUEST:
        raise PayloadError(
            f"Payload error. records must have 1 to {MAX_RECORDS_PER_REQUEST} entries, not {count}."
        )


def _json_text(value: msgspec.Raw | msgspec.UnsetType) -> bytes | None:
    """A value as compact JSON text; its numbers stay as they were written."""
    if value is msgspec.UNSET:
        return None
    text = bytes(value)
    return None if text == b"null" else msgspec.json.format(text, indent=-1)


def _refuse_schemas(document: JsonRecords, embedded_format: str) -> NoReturn:
    """What kafka-rest checks first, and then that there is no registry."""
    has_keys = any(_json_text(each.key) is not None for each in document.records)
    if has_keys and document.key_schema is None and document.key_schema_id is None:
        raise KeySchemaMissingError(
            "Keys must include a schema or a schema id: key_schema or key_schema_id is missing."
        )
    if document.value_schema is None and document.value_schema_id is None:
        raise ValueSchemaMissingError(
            "Values must include a schema or a schema id: value_schema or value_schema_id is "
            "missing."
        )
    raise SchemaRegistryError(
        f"The format {embedded_format} needs a schema registry, and this cluster has none; "
        "use binary or json."
    )


# --- answers --------------------------------------------------------------------------------


def entry_of(fate: Fate) -> ProducedRecord:
    """What the API tells of one record: where it is, or why it is not known to be anywhere."""
    if isinstance(fate, OttlaError):
        code = KAFKA_RETRIABLE_ERROR if fate.retriable else KAFKA_ERROR
        return ProducedRecord(error_code=code, error=fate.detail)
    return ProducedRecord(fate.partition, fate.offset)
