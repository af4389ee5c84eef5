"""How consumed records are printed: one line each, in one of three formats, or by a template.

- `value`: the value's bytes as they were stored, so that what `ottla produce` read comes out again;
- `key-value`: the key's bytes, a separator, the value's bytes;
- `json`: one object with topic, partition, offset, timestamp, key, value and headers;
- a template: see `record_template`.
"""

import base64
from collections.abc import Iterator

import msgspec

from ottla_ops.cli.consuming import PartitionRead


class _Base64(msgspec.Struct, frozen=True):
    b64: bytes


class StoredRecord(msgspec.Struct, frozen=True):
    """One record as the broker renders it, whichever way it chose for key and value."""

    offset: int
    timestamp: int
    key: str | None = None
    key_b64: str | None = None
    value: msgspec.Raw = msgspec.Raw(b"null")
    value_text: str | None = None
    value_b64: str | None = None
    headers: dict[str, str | _Base64 | None] | list[tuple[str, str | _Base64 | None]] = {}

    def stored_key(self) -> bytes | None:
        """The key; None where there is none."""
        if self.key_b64 is not None:
            return base64.b64decode(self.key_b64)
        return None if self.key is None else self.key.encode()

    def stored_value(self) -> bytes | None:
        """The value; None for a tombstone."""
        if self.value_b64 is not None:
            return base64.b64decode(self.value_b64)
        if self.value_text is not None:
            return self.value_text.encode()
        raw = bytes(self.value)
        return None if raw == b"null" else raw

    def header_pairs(self) -> Iterator[tuple[str, bytes | None]]:
        """Names and values in their order."""
        pairs = self.headers.items() if isinstance(self.headers, dict) else self.headers
        for name, value in pairs:
            if isinstance(value, _Base64):
                yield name, value.b64
            else:
                yield name, None if value is None else value.encode()


def json_lines(topic: str, read: PartitionRead) -> Iterator[bytes]:
    """Each record as a JSON object, its own members as the broker sent them."""
    start = b'{"topic":%s,"partition":%d,' % (msgspec.json.encode(topic), read.partition)
    for record in read.records:
        yield start + bytes(record)[1:]


def value_lines(read: PartitionRead) -> Iterator[bytes]:
    """Each record's value."""
    for record in read.records:
        yield decoded(record).stored_value() or b""


def key_value_lines(read: PartitionRead, separator: bytes) -> Iterator[bytes]:
    """Each record's key and value."""
    for record in read.records:
        stored = decoded(record)
        yield (stored.stored_key() or b"") + separator + (stored.stored_value() or b"")


def decoded(record: msgspec.Raw) -> StoredRecord:
    """The record with its bytes."""
    return msgspec.json.decode(record, type=StoredRecord)
