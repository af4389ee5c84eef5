"""Records as the REST Proxy API, version 3, has them.

    {"partition_id": 1, "headers": [{"name": "trace", "value": "<base64>"}],
     "key": {"type": "STRING", "data": "N14228"}, "value": {"type": "JSON", "data": {"delay": 11}},
     "timestamp": "2013-01-01T10:00:00Z"}

BINARY data is base64, STRING text that is stored as its UTF-8, JSON any JSON, stored as compact
JSON text and never parsed into numbers. Data that is null or left out is null, whatever its type.
Types that need a schema registry are refused: there is none.
"""

from datetime import UTC, datetime
from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from ottla_protocol.broken_rules import broken_rule, malformation
from ottla_protocol.errors import InvalidRequestError, MalformedBodyError, MessageTooLargeError
from ottla_protocol.json_records import (
    MAX_HEADERS_PER_RECORD,
    MAX_PARTITION,
    Headers,
    ParsedRecord,
)
from ottla_protocol.models_rest_v3 import (
    MAX_BATCH_ENTRIES,
    MAX_ENTRY_ID_CHARACTERS,
    ProducedData,
)

DATA_TYPES = ("BINARY", "JSON", "STRING")
"""What a key or value may be sent as."""


class RecordToProduce(NamedTuple):
    """A record with the types that its key and value were sent as; None where they were not."""

    record: ParsedRecord
    key_type: str | None
    value_type: str | None

    @property
    def key(self) -> ProducedData | None:
        """The key, for the answer."""
        return _produced(self.key_type, self.record.key)

    @property
    def value(self) -> ProducedData | None:
        """The value, for the answer."""
        return _produced(self.value_type, self.record.value)


class Entry(NamedTuple):
    """One entry of a batch: its record, or why it has none."""

    entry_id: str
    record: RecordToProduce | InvalidRequestError


class SentData(msgspec.Struct, frozen=True):
    """A key or value as it is sent: `type` is one of DATA_TYPES."""

    # Fields for schemas are not refused as unknown: what is wrong then is the type.
    type: str | None = None
    data: Raw | UnsetType = UNSET


class SentHeader(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A header as it is sent; the value in base64."""

    name: str
    value: bytes | None = None


class SentRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A record as it is sent; `timestamp` is RFC 3339."""

    partition_id: Annotated[int, Meta(ge=0, le=MAX_PARTITION)] | None = None
    headers: list[SentHeader] | None = None
    key: SentData | None = None
    value: SentData | None = None
    timestamp: Annotated[datetime, Meta(tz=True)] | None = None


_EntryId = Annotated[
    str, Meta(min_length=1, max_length=MAX_ENTRY_ID_CHARACTERS, pattern="^[0-9a-zA-Z_-]+$")
]


class SentEntry(SentRecord, frozen=True, kw_only=True):
    """A record of a batch, with an id of the client's own."""

    id: _EntryId


class SentBatch(msgspec.Struct, frozen=True):
    """A batch as it is sent. Parsing goes entry by entry, so that one may fail for itself."""

    entries: Annotated[list[SentEntry], Meta(min_length=1, max_length=MAX_BATCH_ENTRIES)]


class _EntryName(msgspec.Struct, frozen=True):
    id: _EntryId


class _Batch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    entries: list[Raw]


_record_decoder = msgspec.json.Decoder(SentRecord)
_entry_decoder = msgspec.json.Decoder(SentEntry)
_name_decoder = msgspec.json.Decoder(_EntryName)
_batch_decoder = msgspec.json.Decoder(_Batch)
_text_decoder = msgspec.json.Decoder(str)
_base64_decoder = msgspec.json.Decoder(bytes)


def parse_record(document: bytes) -> RecordToProduce:
    """Read one record.

    Raises:
        MalformedBodyError: it is not JSON.
        InvalidRequestError: a field breaks a rule; the detail names both.
    """
    _check_utf8(document)
    return _to_produce(_decoded(_record_decoder, document))


def parse_batch(body: bytes) -> list[Entry]:
    """Read `{"entries": [{"id": "1", ...}, ...]}`.

    Raises:
        MalformedBodyError: it is not JSON.
        InvalidRequestError: `entries` is missing or empty, or an id breaks a rule or is used twice.
        MessageTooLargeError: there are more than MAX_BATCH_ENTRIES.
    """
    _check_utf8(body)
    raws = _decoded(_batch_decoder, body).entries
    if not raws:
        raise InvalidRequestError("entries: at least one record is needed")
    if len(raws) > MAX_BATCH_ENTRIES:
        raise MessageTooLargeError(
            f"entries: {len(raws)} records, at most {MAX_BATCH_ENTRIES} are taken at once",
            max_records=MAX_BATCH_ENTRIES,
        )
    entries = [_entry(bytes(raw)) for raw in raws]
    if len({entry.entry_id for entry in entries}) < len(entries):
        raise InvalidRequestError("entries: an id is used twice")
    return entries


def rfc3339(timestamp_ms: int) -> str | None:
    """A time in ms since the epoch as text; None where no calendar goes that far."""
    try:
        moment = datetime.fromtimestamp(timestamp_ms / 1000, UTC)
    except (OverflowError, OSError, ValueError):
        return None
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{timestamp_ms % 1000:03d}Z"


def _entry(document: bytes) -> Entry:
    entry_id = _decoded(_name_decoder, document).id
    try:
        return Entry(entry_id, _to_produce(_decoded(_entry_decoder, document)))
    except InvalidRequestError as error:
        return Entry(entry_id, error)


def _decoded(decoder: "msgspec.json.Decoder[Any]", document: bytes) -> Any:
    try:
        return decoder.decode(document)
    except msgspec.ValidationError as error:
        broken = broken_rule(error, decoder.type)
        raise InvalidRequestError(str(broken), field=broken.field) from error
    except msgspec.DecodeError as error:
        raise MalformedBodyError(malformation(document, error)) from error
    except RecursionError as error:
        raise InvalidRequestError("the JSON is nested too deeply") from error


def _check_utf8(document: bytes) -> None:
    """Values that pass through undecoded are not looked at later."""
    if document.isascii():
        return
    try:
        document.decode()
    except UnicodeDecodeError as error:
        raise MalformedBodyError(
            f"byte {error.start}: invalid UTF-8", position=error.start
        ) from error


def _to_produce(record: SentRecord) -> RecordToProduce:
    return RecordToProduce(
        ParsedRecord(
            key=_bytes(record.key, "key"),
            value=_bytes(record.value, "value"),
            headers=_headers(record.headers) if record.headers else (),
            timestamp=_timestamp_ms(record.timestamp),
            partition=record.partition_id,
        ),
        None if record.key is None else record.key.type,
        None if record.value is None else record.value.type,
    )


def _bytes(sent: SentData | None, field: str) -> bytes | None:
    if sent is None:
        return None
    if sent.type not in DATA_TYPES:
        found = "is missing" if sent.type is None else f"is '{sent.type[:32]}'"
        raise InvalidRequestError(
            f"{field}.type {found}; it is one of {', '.join(DATA_TYPES)}, "
            "for there is no schema registry here",
            field=f"{field}.type",
        )
    if isinstance(sent.data, UnsetType):
        return None
    raw = bytes(sent.data)
    if raw == b"null":
        return None
    if sent.type == "JSON":
        return msgspec.json.format(raw, indent=-1)
    decoder: msgspec.json.Decoder[Any] = _text_decoder if sent.type == "STRING" else _base64_decoder
    try:
        data = decoder.decode(raw)
    except msgspec.DecodeError as error:
        kind = "text" if sent.type == "STRING" else "text in base64"
        raise InvalidRequestError(
            f"{field}.data must be {kind} where the type is {sent.type}", field=f"{field}.data"
        ) from error
    return data.encode() if isinstance(data, str) else bytes(data)


def _headers(headers: list[SentHeader]) -> Headers:
    if len(headers) > MAX_HEADERS_PER_RECORD:
        raise InvalidRequestError(
            f"headers: {len(headers)} of them, at most {MAX_HEADERS_PER_RECORD}", field="headers"
        )
    return tuple((header.name, header.value) for header in headers)


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _timestamp_ms(moment: datetime | None) -> int | None:
    if moment is None:
        return None
    since = moment - _EPOCH
    if since.days < 0:
        raise InvalidRequestError("timestamp must not be before 1970", field="timestamp")
    return (since.days * 86_400 + since.seconds) * 1000 + since.microseconds // 1000


def _produced(sent_type: str | None, stored: bytes | None) -> ProducedData | None:
    return None if sent_type is None else ProducedData(sent_type, len(stored or b""))
