"""From the bytes of a file or a pipe to the bodies of produce requests.

Lines become records, records become batches that fit into one request. A batch is closed when it
is full, and also when the input pauses: `tail -f log | ottla produce` must not wait for a thousand
lines. Values travel as they were read: JSON lines are embedded verbatim, so that numbers keep their
digits, and text that is not UTF-8 is sent as base64 and stored as the same bytes.
"""

import base64
import os
import select
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import msgspec

from ottla_ops.cli.failures import CommandError

BATCH_RECORDS_MAX: Final = 1_000
BATCH_BYTES_MAX: Final = 1_000_000
"""A topic's `max.message.bytes` is 1 MiB by default, and JSON is longer than what is stored of it.
Only a record that is longer by itself makes a longer batch, for the broker to judge."""

LINE_BYTES_MAX: Final = 6 << 20
"""Longest line: as base64 it still fits into a broker's body limit."""

READ_CHUNK_BYTES: Final = 1 << 16
LINGER_S: Final = 0.02
"""How long an incomplete batch waits for more input."""


@dataclass(frozen=True, slots=True)
class RecordFormat:
    """How a line becomes a record.

    Attributes:
        ndjson: the line is a JSON value; otherwise it is text.
        key_field: for NDJSON objects, the member whose text becomes the key.
        key_separator: for text, what separates the key from the value.
        key: the same key for every record.
        headers: names and texts of the headers that every record gets.
    """

    ndjson: bool = False
    key_field: str | None = None
    key_separator: str | None = None
    key: str | None = None
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Batch:
    """The body of one produce request.

    Attributes:
        body: `{"records": [...]}`.
        records: number of records in it.
        input_bytes: bytes of input that they came from, line ends included.
    """

    body: bytes
    records: int
    input_bytes: int


def read_batches(descriptor: int, record_format: RecordFormat) -> Iterator[Batch]:
    """Read lines from a file descriptor until its end, as batches in the order of the input.

    Raises:
        CommandError: a line is too long or is not what `record_format` says; names the line. The
            batches before it have been yielded.
    """
    records: list[bytes] = []
    batch_bytes = 0
    input_bytes = 0
    line_number = 0
    for line in read_lines(descriptor):
        record: bytes | None = None
        if line is not None:
            line_number += 1
            try:
                record = encode_record(line, record_format)
            except ValueError as error:
                if records:
                    yield _batch(records, input_bytes)
                raise CommandError(f"line {line_number}: {error}", code="INVALID_RECORD") from error
        is_full = len(records) == BATCH_RECORDS_MAX or (
            record is not None and batch_bytes + len(record) > BATCH_BYTES_MAX
        )
        if records and (line is None or is_full):
            yield _batch(records, input_bytes)
            records, batch_bytes, input_bytes = [], 0, 0
        if record is not None:
            records.append(record)
            batch_bytes += len(record)
        input_bytes += 0 if line is None else len(line) + 1
    if records:
        yield _batch(records, input_bytes)


def read_lines(descriptor: int) -> Iterator[bytes | None]:
    r"""The lines of a file descriptor without their `\n`; None wherever the input pauses.

    Raises:
        CommandError: a line is longer than `LINE_BYTES_MAX`.
    """
    rest = b""
    while True:
        if not select.select([descriptor], [], [], LINGER_S)[0]:
            yield None
            select.select([descriptor], [], [])
        chunk = os.read(descriptor, READ_CHUNK_BYTES)
        if not chunk:
            break
        *lines, rest = (rest + chunk).split(b"\n")
        yield from lines
        if len(rest) > LINE_BYTES_MAX:
            raise CommandError(
                f"a line is longer than {LINE_BYTES_MAX} bytes", code="LINE_TOO_LONG"
            )
    if rest:
        yield rest


def encode_record(line: bytes, record_format: RecordFormat) -> bytes | None:
    """One line as one member of `records`; None where an NDJSON line is blank.

    Raises:
        ValueError: the line is not what the format says; the message tells why.
    """
    if record_format.ndjson:
        if not line.strip():
            return None
        line.decode()
        key, value = _json_key_and_value(line, record_format)
        return _joined(key, b'"value":' + value, record_format)
    key_bytes: bytes | None = None
    if record_format.key_separator is not None:
        key_bytes, separator, line = line.partition(record_format.key_separator.encode())
        if not separator:
            raise ValueError(f"there is no key separator {record_format.key_separator!r}")
    elif record_format.key is not None:
        key_bytes = record_format.key.encode()
    return _joined(
        b"" if key_bytes is None else _text_or_base64("key", "key_b64", key_bytes),
        _text_or_base64("value_text", "value_b64", line),
        record_format,
    )


def _json_key_and_value(line: bytes, record_format: RecordFormat) -> tuple[bytes, bytes]:
    """The key as a JSON member, empty without one, and the value as JSON."""
    if record_format.key_field is None:
        value = bytes(msgspec.json.decode(line, type=msgspec.Raw))
        key = record_format.key
        return (b"" if key is None else _text_or_base64("key", "key_b64", key.encode())), value
    try:
        members = msgspec.json.decode(line, type=dict[str, msgspec.Raw])
    except msgspec.ValidationError:
        raise ValueError("a key field needs a JSON object") from None
    raw = bytes(members.get(record_format.key_field, b"null"))
    if raw[:1] in b"{[":
        raise ValueError(f"the key field '{record_format.key_field}' is no text or number")
    if raw == b"null":
        return b"", line.strip()
    # Numbers and booleans are keyed by their text, as sent.
    return b'"key":' + (raw if raw[:1] == b'"' else b'"' + raw + b'"'), line.strip()


def _text_or_base64(text_name: str, base64_name: str, data: bytes) -> bytes:
    """A JSON member that carries `data`, readable where it is UTF-8."""
    try:
        return f'"{text_name}":'.encode() + msgspec.json.encode(data.decode())
    except UnicodeDecodeError:
        return f'"{base64_name}":"'.encode() + base64.b64encode(data) + b'"'


def _joined(key_member: bytes, value_member: bytes, record_format: RecordFormat) -> bytes:
    headers = record_format.headers
    # As pairs, because names may repeat.
    headers_member = b'"headers":' + msgspec.json.encode(headers) if headers else b""
    return b"{" + b",".join(filter(None, (key_member, value_member, headers_member))) + b"}"


def _batch(records: list[bytes], input_bytes: int) -> Batch:
    return Batch(b'{"records":[' + b",".join(records) + b"]}", len(records), input_bytes)
