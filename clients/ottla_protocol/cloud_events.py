"""CloudEvents as records: version 1.0.2, and its protocol bindings for HTTP and Kafka.

An event comes in one of two forms, and is stored in the same form as the Kafka binding stores it,
so that any consumer that knows that binding reads it:

    structured  the event is one JSON object; it is the record's value, and the record's header
                `content-type` is `application/cloudevents+json; charset=UTF-8`
    binary      the attributes are HTTP headers `ce-id`, `ce-source`, ...; they become record
                headers `ce_id`, `ce_source`, ..., the Content-Type becomes `content-type`, and the
                body is the value

The extension attribute `partitionkey` is the record's key (Kafka binding, section 3.1), stored as
UTF-8. JSON values keep their text, as in `json_records`.
"""

import re
from collections.abc import Iterable
from datetime import datetime
from typing import Any, NoReturn
from urllib.parse import unquote_to_bytes

import msgspec
from msgspec import Raw

from ottla_protocol.errors import InvalidRequestError, MalformedBodyError, MessageTooLargeError
from ottla_protocol.json_records import MAX_RECORDS_PER_REQUEST, ParsedRecord

STRUCTURED = "application/cloudevents+json"
BATCH = "application/cloudevents-batch+json"
HTTP_PREFIX = "ce-"
RECORD_PREFIX = "ce_"
SPECVERSION_HEADER = "ce-specversion"
"""The header that makes a request an event in binary form, whatever its Content-Type."""

SPECVERSION = "1.0"
MAX_ATTRIBUTES = 100
MAX_ATTRIBUTE_BYTES = 8 << 10

CONTENT_TYPE = "content-type"
_STRUCTURED_HEADERS = ((CONTENT_TYPE, f"{STRUCTURED}; charset=UTF-8".encode()),)
_REQUIRED = ("id", "source", "specversion", "type")
_OPTIONAL_TEXT = ("datacontenttype", "dataschema", "subject", "time", "partitionkey")
_DATA = ("data", "data_base64")
_NAME = re.compile(r"[a-z0-9]+")
_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(?:\.\d+)?(?:[Zz]|[+-]\d\d:\d\d)")
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)

_decoder = msgspec.json.Decoder(dict[str, Raw])
_batch_decoder = msgspec.json.Decoder(list[Raw])
_base64_decoder = msgspec.json.Decoder(bytes)


def parse_event(body: bytes) -> ParsedRecord:
    """Read one event in structured form.

    Raises:
        MalformedBodyError: it is not JSON.
        InvalidRequestError: it is no CloudEvent; `detail` names the attribute and the rule.
    """
    _check_utf8(body)
    return _structured(body, None)


def parse_batch(body: bytes) -> list[ParsedRecord]:
    """Read a JSON array of events.

    Raises:
        MalformedBodyError: it is not JSON.
        InvalidRequestError: it is no array, or is empty, or one of them is no CloudEvent; member
            `index` says which.
        MessageTooLargeError: there are more than MAX_RECORDS_PER_REQUEST.
    """
    _check_utf8(body)
    try:
        events = _batch_decoder.decode(body)
    except msgspec.ValidationError as error:
        raise InvalidRequestError("a batch of CloudEvents is a JSON array") from error
    except (msgspec.DecodeError, RecursionError) as error:
        raise MalformedBodyError(f"the body is not JSON: {error}") from error
    if not events:
        raise InvalidRequestError("at least one event is needed")
    if len(events) > MAX_RECORDS_PER_REQUEST:
        raise MessageTooLargeError(
            f"{len(events)} events, at most {MAX_RECORDS_PER_REQUEST} are taken at once",
            max_records=MAX_RECORDS_PER_REQUEST,
        )
    return [_structured(bytes(event), index) for index, event in enumerate(events)]


def binary_event(headers: Iterable[tuple[str, str]], body: bytes) -> ParsedRecord:
    """Read one event in binary form.

    Args:
        headers: the request's; bytes that are no UTF-8 as lone surrogates (PEP 383).
        body: the event's data.

    Raises:
        InvalidRequestError: it is no CloudEvent; `detail` names the header and the rule.
    """
    attributes: dict[str, str] = {}
    content_type: str | None = None
    for name, value in headers:
        lowered = name.lower()
        if lowered == CONTENT_TYPE:
            content_type = value
        if not lowered.startswith(HTTP_PREFIX):
            continue
        attribute = lowered.removeprefix(HTTP_PREFIX)
        if attribute in attributes:
            _refuse(None, attribute, f"the header {lowered} is there twice")
        attributes[attribute] = _header_text(attribute, value)
    if "datacontenttype" in attributes:
        _refuse(None, "datacontenttype", "the Content-Type says it in binary form")
    _check_count(None, len(attributes))
    for attribute, text in attributes.items():
        _check_name(None, attribute)
        _check_text(None, attribute, text)
    _check_required(None, attributes)
    key = attributes.get("partitionkey")
    record_headers = [
        (RECORD_PREFIX + attribute, text.encode()) for attribute, text in attributes.items()
    ]
    if content_type is not None:
        described = content_type.encode("utf-8", "surrogateescape")
        record_headers.insert(0, (CONTENT_TYPE, described))
    # Not None without data: a tombstone would say that the key's events are to be forgotten.
    return ParsedRecord(None if key is None else key.encode(), body, tuple(record_headers))


def _structured(text: bytes, index: int | None) -> ParsedRecord:
    try:
        event = _decoder.decode(text)
    except msgspec.ValidationError as error:
        _refuse(index, "", "an event is a JSON object", error)
    except (msgspec.DecodeError, RecursionError) as error:
        raise MalformedBodyError(f"the event is not JSON: {error}") from error
    attributes: dict[str, str] = {}
    members = {name: bytes(value) for name, value in event.items()}
    _check_count(index, len(members))
    for name, value in members.items():
        if name in _DATA:
            continue
        _check_name(index, name)
        # An attribute that is null is one that is not there (JSON format, section 2.2).
        if value == b"null":
            continue
        attributes[name] = _attribute_text(index, name, value)
        _check_text(index, name, attributes[name])
    _check_required(index, attributes)
    _check_data(index, members)
    key = attributes.get("partitionkey")
    return ParsedRecord(
        None if key is None else key.encode(),
        msgspec.json.format(text, indent=-1),
        _STRUCTURED_HEADERS,
    )


def _attribute_text(index: int | None, name: str, value: bytes) -> str:
    """An attribute as text; what the JSON format allows besides is a boolean or an integer."""
    if value.startswith(b'"'):
        return str(msgspec.json.decode(value, type=str))
    if name in _REQUIRED or name in _OPTIONAL_TEXT:
        _refuse(index, name, "must be a string")
    if value not in (b"true", b"false") and not value.removeprefix(b"-").isdigit():
        _refuse(index, name, "must be a string, a boolean or a whole number")
    return value.decode()


def _check_required(index: int | None, attributes: dict[str, str]) -> None:
    for name in _REQUIRED:
        if name not in attributes:
            _refuse(index, name, "is required")
    if attributes["specversion"] != SPECVERSION:
        _refuse(index, "specversion", f"must be {SPECVERSION}")


def _check_count(index: int | None, count: int) -> None:
    if count > MAX_ATTRIBUTES:
        _refuse(index, "", f"{count} attributes, at most {MAX_ATTRIBUTES}")


def _check_name(index: int | None, name: str) -> None:
    if _NAME.fullmatch(name) is None:
        _refuse(index, name, "a name has lower-case ASCII letters and digits only")


def _check_text(index: int | None, name: str, text: str) -> None:
    if not text:
        _refuse(index, name, "must not be empty")
    if len(text) > MAX_ATTRIBUTE_BYTES:
        _refuse(index, name, f"is over {MAX_ATTRIBUTE_BYTES} characters")
    if name == "time" and not _is_time(text):
        _refuse(index, name, "must be an RFC 3339 time")


def _is_time(text: str) -> bool:
    if _TIME.fullmatch(text) is None:
        return False
    try:
        datetime.fromisoformat(text.upper())
    except ValueError:
        # A leap second is a time that datetime does not know.
        return text[17:19] == "60"
    return True


def _check_data(index: int | None, members: dict[str, bytes]) -> None:
    base64 = members.get("data_base64")
    if base64 is None or base64 == b"null":
        return
    if "data" in members:
        _refuse(index, "data", "data and data_base64 exclude each other")
    try:
        _base64_decoder.decode(base64)
    except msgspec.DecodeError as error:
        _refuse(index, "data_base64", "must be base64", error)


def _header_text(attribute: str, value: str) -> str:
    """A header's value as the HTTP binding decodes it (section 3.1.3.2)."""
    if len(value) > 1 and value[0] == value[-1] == '"':
        value = _ESCAPED.sub(r"\1", value[1:-1])
    try:
        return unquote_to_bytes(value.encode("utf-8", "surrogateescape")).decode()
    except UnicodeDecodeError as error:
        _refuse(None, attribute, "must be UTF-8", error)


def _check_utf8(body: bytes) -> None:
    try:
        body.decode()
    except UnicodeDecodeError as error:
        raise MalformedBodyError(f"byte {error.start}: invalid UTF-8") from error


def _refuse(
    index: int | None, attribute: str, rule: str, cause: Exception | None = None
) -> NoReturn:
    where = "" if index is None else f"event {index}, "
    members: dict[str, Any] = {} if index is None else {"index": index}
    detail = f"{where}{attribute}: {rule}" if attribute else f"{where}{rule}"
    raise InvalidRequestError(f"CloudEvent: {detail}", **members) from cause
