"""Records as JSON: what plain HTTP clients and the CLI write and read.

    {"key": "text", "value": <any JSON>, "headers": {"name": "text"}, "timestamp": 1700000000000}

A key or value is bytes; JSON knows none. So each has a field for every form that the bytes can be
told in, at most one of which is there:

    key         text, stored as its UTF-8     value        any JSON, stored as compact JSON text
    key_b64     base64                        value_text   text, stored as its UTF-8
                                              value_b64    base64
                                              value: null  a tombstone

Headers are `{name: form}`, or `[[name, form], ...]` where names repeat; a form is text,
`{"b64": base64}` or null.

JSON values pass through as text: never parsed into numbers and printed again, so `1.10`, `1e400`
and 30-digit integers survive. Only the whitespace between tokens is dropped. Reading gives the same
fields back, and parsing what was rendered gives the same record, save that JSON text which some
binary producer stored with whitespace comes back compact.
"""

import re
from collections.abc import Sequence
from typing import Annotated, Any, Generic, Literal, NoReturn, TypeAlias, TypeVar

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from ottla_protocol.broken_rules import BODY, broken_rule
from ottla_protocol.errors import InvalidRequestError, MalformedBodyError, MessageTooLargeError
from ottla_protocol.record_codec import Record
from ottla_protocol.routes import HEADER_TRANSACTION, OCTET_STREAM

MAX_RECORDS_PER_REQUEST = 100_000
MAX_HEADERS_PER_RECORD = 1_000
MAX_TIMESTAMP = 2**63 - 1
MAX_PARTITION = 2**31 - 1

RecordFormat: TypeAlias = Literal["auto", "json", "text", "base64"]
"""How keys and values are rendered.

    auto    value is JSON if it parses, else text if it is UTF-8, else base64
    json    as auto, but a value that is not JSON is an error
    text    text if it is UTF-8, else base64
    base64  key and value in base64, always
"""

Headers: TypeAlias = tuple[tuple[str, bytes | None], ...]


class ParsedRecord(msgspec.Struct, frozen=True, gc=False):
    """One record of a request.

    Attributes:
        key: the key's bytes, or None.
        value: the value's bytes; None is a tombstone.
        headers: in the order sent.
        timestamp: ms since the epoch if the client gave it.
        partition: the partition if the client chose it.
    """

    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    timestamp: int | None = None
    partition: int | None = None


# --- parsing --------------------------------------------------------------------------------


class _Base64(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    b64: bytes


_HeaderValue: TypeAlias = str | _Base64 | None


class _JsonRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A record as clients send it.

    Its key is text (`key`) or base64 (`key_b64`), and may be left out. It has one value: any JSON
    (`value`; null is a tombstone), text that is stored as it is (`value_text`), or base64
    (`value_b64`).
    """

    key: str | None = None
    key_b64: bytes | None = None
    value: Raw | UnsetType = UNSET
    value_text: str | UnsetType = UNSET
    value_b64: bytes | UnsetType = UNSET
    headers: dict[str, _HeaderValue] | list[tuple[str, _HeaderValue]] | None = None
    timestamp: Annotated[int, Meta(ge=0, le=MAX_TIMESTAMP)] | None = None
    partition: Annotated[int, Meta(ge=0, le=MAX_PARTITION)] | None = None


class _JsonTopicRecord(_JsonRecord, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """As JsonRecord, with the name of its topic."""

    topic: str


_JsonRecordT = TypeVar("_JsonRecordT", bound=_JsonRecord)


class _JsonRecords(msgspec.Struct, Generic[_JsonRecordT], frozen=True, forbid_unknown_fields=True):
    records: list[_JsonRecordT]


_record_decoder = msgspec.json.Decoder(_JsonRecord)
_records_decoder = msgspec.json.Decoder(_JsonRecords[_JsonRecord])
_topic_record_decoder = msgspec.json.Decoder(_JsonTopicRecord)
_topic_records_decoder = msgspec.json.Decoder(_JsonRecords[_JsonTopicRecord])

_DOCUMENT = 'records are sent as {"records": [{"key": ..., "value": ...}]}'
_TOPIC_DOCUMENT = 'records are sent as {"records": [{"topic": ..., "key": ..., "value": ...}]}'
_VALUE = f", and one value as it is as {OCTET_STREAM}"
_WHITESPACE = b" \t\r\n"
_BRACE = ord("{")
_BYTE_POSITION = re.compile(r"\(byte (\d+)\)")
_RECORD_PATH = re.compile(r"\$\.records\[(?P<index>\d+)\]\.?(?P<field>.*)", re.DOTALL)


def parse_records(body: bytes) -> list[ParsedRecord]:
    """Read `{"records": [...]}`.

    Raises:
        MalformedBodyError: it is not JSON; members `position` (bytes), `line` and `column`.
        InvalidRequestError: a field breaks a rule; members `index` (of the record) and `path`
            where they apply.
        MessageTooLargeError: there are more than MAX_RECORDS_PER_REQUEST records.
    """
    records = _decoded(body, _records_decoder, _DOCUMENT, _VALUE)
    return [_parsed(record, index) for index, record in enumerate(records)]


def parse_topic_records(body: bytes) -> list[tuple[str, ParsedRecord]]:
    """As `parse_records`, where each record names its topic in a field `topic`."""
    records = _decoded(body, _topic_records_decoder, _TOPIC_DOCUMENT)
    return [(record.topic, _parsed(record, index)) for index, record in enumerate(records)]


def _decoded(
    body: bytes,
    decoder: msgspec.json.Decoder[_JsonRecords[_JsonRecordT]],
    document: str,
    value: str = "",
) -> Sequence[_JsonRecordT]:
    # What is no object may be meant as a value.
    hint = f"; {document}{value}" if _is_no_object(body) else ""
    _check_utf8(body, hint)
    try:
        records = decoder.decode(body).records
    except msgspec.ValidationError as error:
        _refuse_document(error, hint or f"; {document}")
    except msgspec.DecodeError as error:
        raise _malformed(error, body, hint) from error
    except RecursionError as error:
        raise InvalidRequestError("body is nested too deeply") from error
    if not records:
        raise InvalidRequestError("records: at least one record is needed", path="$.records")
    if len(records) > MAX_RECORDS_PER_REQUEST:
        raise MessageTooLargeError(
            f"records: {len(records)} records, at most {MAX_RECORDS_PER_REQUEST} are taken at once",
            max_records=MAX_RECORDS_PER_REQUEST,
        )
    return records


def parse_record_line(line: bytes, index: int) -> ParsedRecord:
    """Read one line of NDJSON: one record, with the same fields as in `parse_records`.

    Args:
        line: the line, with or without its end.
        index: number of the record in its request, from 0, for errors.

    Raises:
        MalformedBodyError: as in `parse_records`, with `index`; the position is in the line.
        InvalidRequestError: as in `parse_records`.
    """
    return _parsed(_decoded_line(line, index, _record_decoder), index)


def parse_topic_record_line(line: bytes, index: int) -> tuple[str, ParsedRecord]:
    """As `parse_record_line`, where the record names its topic in a field `topic`."""
    record = _decoded_line(line, index, _topic_record_decoder)
    return record.topic, _parsed(record, index)


def _decoded_line(
    line: bytes, index: int, decoder: msgspec.json.Decoder[_JsonRecordT]
) -> _JsonRecordT:
    _check_utf8(line, index=index)
    try:
        return decoder.decode(line)
    except msgspec.ValidationError as error:
        rule, path = _rule_and_path(error)
        _refuse(index, path.removeprefix("$").removeprefix("."), rule)
    except msgspec.DecodeError as error:
        raise _malformed(error, line, index=index) from error
    except RecursionError as error:
        raise InvalidRequestError(f"record {index} is nested too deeply", index=index) from error


def _parsed(record: _JsonRecord, index: int) -> ParsedRecord:
    key = record.key_b64
    if record.key is not None:
        if key is not None:
            _refuse(index, "", "key and key_b64 exclude each other")
        key = record.key.encode()
    return ParsedRecord(
        key,
        _value_bytes(record, index),
        _headers(record.headers, index) if record.headers else (),
        record.timestamp,
        record.partition,
    )


def _value_bytes(record: _JsonRecord, index: int) -> bytes | None:
    """The value from whichever of its three fields is there."""
    value, text, base64 = record.value, record.value_text, record.value_b64
    if value is not UNSET:
        if text is not UNSET or base64 is not UNSET:
            other = "value_text" if text is not UNSET else "value_b64"
            _refuse(index, "", f"value and {other} exclude each other")
        raw = bytes(value)
        if raw == b"null":
            return None
        return msgspec.json.format(raw, indent=-1) if _has_whitespace(raw) else raw
    if text is not UNSET:
        if base64 is not UNSET:
            _refuse(index, "", "value_text and value_b64 exclude each other")
        return text.encode()
    if base64 is UNSET:
        _refuse(index, "", "one of value, value_text and value_b64 is needed; null is a tombstone")
    return base64


def _headers(
    headers: dict[str, _HeaderValue] | list[tuple[str, _HeaderValue]], index: int
) -> Headers:
    if len(headers) > MAX_HEADERS_PER_RECORD:
        _refuse(index, "headers", f"{len(headers)} headers, at most {MAX_HEADERS_PER_RECORD}")
    pairs = headers.items() if isinstance(headers, dict) else headers
    return tuple([(name, _header_bytes(value)) for name, value in pairs])


def _header_bytes(value: _HeaderValue) -> bytes | None:
    if isinstance(value, str):
        return value.encode()
    return None if value is None else value.b64


def _has_whitespace(text: bytes) -> bool:
    """Whether there is any whitespace, within strings or between tokens."""
    return 0x20 in text or 0x0A in text or 0x0D in text or 0x09 in text


def _is_no_object(body: bytes) -> bool:
    """Whether something is there, and it does not begin as an object does."""
    for byte in body:
        if byte not in _WHITESPACE:
            return byte != _BRACE
    return False


def _check_utf8(body: bytes, hint: str = "", **members: Any) -> None:
    """Refuse bytes that are not UTF-8; values that pass through undecoded are not checked later."""
    if body.isascii():
        return
    try:
        body.decode()
    except UnicodeDecodeError as error:
        raise _malformed_at(error.start, f"invalid UTF-8{hint}", body, **members) from error


def _malformed(
    error: msgspec.DecodeError, body: bytes, hint: str = "", **members: Any
) -> MalformedBodyError:
    """The error with the position that msgspec's message tells; at the end where it tells none."""
    found = _BYTE_POSITION.search(str(error))
    if found is None:
        rule = "the JSON ends too early" if body else "there is no body, and no record"
        return _malformed_at(len(body), rule + hint, body, **members)
    rule = str(error)[: found.start()].strip().removeprefix("JSON is malformed: ")
    # Only here msgspec tells the position behind the character that it stumbled over.
    is_behind = rule == "trailing characters"
    return _malformed_at(int(found[1]) - is_behind, rule + hint, body, **members)


def _malformed_at(position: int, rule: str, body: bytes, **members: Any) -> MalformedBodyError:
    line = body.count(b"\n", 0, position) + 1
    column = position - (body.rfind(b"\n", 0, position) + 1) + 1
    where = f"record {members['index']}, " if "index" in members else ""
    return MalformedBodyError(
        f"{where}byte {position} (line {line}, column {column}): {rule}",
        position=position,
        line=line,
        column=column,
        **members,
    )


def _rule_and_path(error: msgspec.ValidationError) -> tuple[str, str]:
    """The rule and the JSON path that msgspec's message tells; `$` where it tells none."""
    broken = broken_rule(error)
    rule = broken.rule
    if "transaction" in broken.field.lower():
        # No field is called like that, so it is one that there is not.
        rule += f"; records name their transaction by the header {HEADER_TRANSACTION}"
    return rule, "$" if broken.field == BODY else f"$.{broken.field}"


def _refuse_document(error: msgspec.ValidationError, hint: str) -> NoReturn:
    rule, path = _rule_and_path(error)
    found = _RECORD_PATH.fullmatch(path)
    if found is not None:
        _refuse(int(found["index"]), found["field"], rule)
    field = path.removeprefix("$").removeprefix(".") or "body"
    if "." not in field and HEADER_TRANSACTION not in rule:
        rule += hint
    raise InvalidRequestError(f"{field}: {rule}", path=path)


def _refuse(index: int, field: str, rule: str) -> NoReturn:
    where = f"record {index}, {field}" if field else f"record {index}"
    path = f"$.records[{index}]" + (f".{field}" if field else "")
    raise InvalidRequestError(f"{where}: {rule}", index=index, path=path)


# --- rendering ------------------------------------------------------------------------------


class RenderedRecord(msgspec.Struct, frozen=True):
    """One record of a response; unset fields are left out of the JSON."""

    offset: int
    timestamp: int
    topic: str | UnsetType = UNSET
    partition: int | UnsetType = UNSET
    key: str | UnsetType | None = UNSET
    key_b64: bytes | UnsetType = UNSET
    value: Raw | UnsetType | None = UNSET
    value_text: str | UnsetType = UNSET
    value_b64: bytes | UnsetType = UNSET
    headers: dict[str, str] | list[tuple[str, str | dict[str, bytes] | None]] = {}


_encoder = msgspec.json.Encoder()
_json_decoder = msgspec.json.Decoder(Raw)


def render_record(
    record: Record, fmt: RecordFormat, *, topic: str | None = None, partition: int | None = None
) -> RenderedRecord:
    """Render one record; see RecordFormat.

    Args:
        record: what to render.
        fmt: how to tell key and value.
        topic: given as a field where records of several topics stand together.
        partition: given as a field where records of several partitions stand together.

    Raises:
        InvalidRequestError: `fmt` is `json` and the value is not JSON; member `offset`.
    """
    key_name, key = _render_key(record.key, fmt)
    value_name, value = _render_value(record, fmt)
    fields: dict[str, Any] = {key_name: key, value_name: value}
    if topic is not None:
        fields["topic"] = topic
    if partition is not None:
        fields["partition"] = partition
    if record.headers:
        fields["headers"] = _render_headers(record.headers)
    return RenderedRecord(record.offset, record.timestamp, **fields)


def render_records(
    records: Sequence[Record],
    fmt: RecordFormat,
    *,
    topic: str | None = None,
    partition: int | None = None,
) -> bytes:
    """Render records as one JSON array, brackets included; `msgspec.Raw` embeds it in a response.

    Arguments and errors are those of `render_record`.
    """
    return b"[%b]" % b",".join(render_texts(records, fmt, topic=topic, partition=partition))


def render_lines(
    records: Sequence[Record],
    fmt: RecordFormat,
    *,
    topic: str | None = None,
    partition: int | None = None,
) -> bytes:
    """Render records as NDJSON, each line ended; otherwise as `render_records`."""
    return b"".join(
        [text + b"\n" for text in render_texts(records, fmt, topic=topic, partition=partition)]
    )


def render_texts(
    records: Sequence[Record],
    fmt: RecordFormat,
    *,
    topic: str | None = None,
    partition: int | None = None,
) -> list[bytes]:
    """Render each record as the JSON text of its `render_record`, in a third of the time.

    Arguments and errors are those of `render_record`.
    """
    names = b""
    if topic is not None:
        names += b'"topic":%b,' % _encoder.encode(topic)
    if partition is not None:
        names += b'"partition":%d,' % partition
    encode = _encoder.encode
    texts = []
    for record in records:
        key_name, key = _render_key(record.key, fmt)
        value_name, value = _render_value(record, fmt)
        texts.append(
            b'{"offset":%d,"timestamp":%d,%b%b:%b,%b:%b,"headers":%b}'
            % (
                record.offset,
                record.timestamp,
                names,
                _MEMBERS[key_name],
                encode(key),
                _MEMBERS[value_name],
                bytes(value) if type(value) is Raw else encode(value),
                encode(_render_headers(record.headers)) if record.headers else b"{}",
            )
        )
    return texts


_MEMBERS = {
    name: b'"%b"' % name.encode() for name in ("key", "key_b64", "value", "value_text", "value_b64")
}


def _render_key(key: bytes | None, fmt: RecordFormat) -> tuple[str, str | bytes | None]:
    if key is None:
        return "key", None
    text = None if fmt == "base64" else _text(key)
    return ("key_b64", key) if text is None else ("key", text)


def _render_value(record: Record, fmt: RecordFormat) -> tuple[str, Raw | str | bytes | None]:
    value = record.value
    if value is None:
        return "value", None
    if fmt in ("auto", "json"):
        compact = _compact_json(value)
        # The JSON text null would read as a tombstone.
        if compact is not None and compact != b"null":
            return "value", Raw(compact)
        if compact is None and fmt == "json":
            raise InvalidRequestError(
                f"the value at offset {record.offset} is not JSON; "
                "read it with format auto, text or base64",
                offset=record.offset,
            )
    text = None if fmt == "base64" else _text(value)
    return ("value_b64", value) if text is None else ("value_text", text)


def _compact_json(value: bytes) -> bytes | None:
    """The value as compact JSON text, None if it is not JSON.

    Compact also means without line ends, which would break NDJSON and event streams. JSON that is
    nested too deeply to be checked counts as none.
    """
    if not value.isascii() and _text(value) is None:
        return None
    try:
        if _has_whitespace(value):
            return msgspec.json.format(value, indent=-1)
        # Nothing to drop: to look whether it is JSON costs a third of writing it anew.
        return bytes(_json_decoder.decode(value))
    except (msgspec.DecodeError, RecursionError):
        return None


def _text(value: bytes) -> str | None:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return None


def _render_headers(
    headers: Headers,
) -> dict[str, str] | list[tuple[str, str | dict[str, bytes] | None]]:
    """An object where names are unique and all values text, else a list of pairs."""
    texts = {name: _text(value) for name, value in headers if value is not None}
    plain = {name: text for name, text in texts.items() if text is not None}
    if len(plain) == len(headers):
        return plain
    pairs: list[tuple[str, str | dict[str, bytes] | None]] = []
    for name, value in headers:
        text = None if value is None else _text(value)
        pairs.append((name, {"b64": value} if text is None and value is not None else text))
    return pairs
