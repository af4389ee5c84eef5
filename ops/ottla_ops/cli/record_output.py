"""How consumed records are printed: one line each, in one of three formats.

- `value`: the value's bytes as they were stored, so that what `ottla produce` read comes out again;
- `key-value`: the key's bytes, a separator, the value's bytes;
- `json`: one object with topic, partition, offset, timestamp, key, value and headers.
"""

import base64
from collections.abc import Iterator

import msgspec

from ottla_ops.cli.consuming import PartitionRead


class StoredRecord(msgspec.Struct, frozen=True):
    """Key and value of one record as the broker renders them, whichever way it chose."""

    key: str | None = None
    key_b64: str | None = None
    value: msgspec.Raw = msgspec.Raw(b"null")
    value_text: str | None = None
    value_b64: str | None = None

    def key_bytes(self) -> bytes:
        """The stored key, empty where there is none."""
        if self.key_b64 is not None:
            return base64.b64decode(self.key_b64)
        return (self.key or "").encode()

    def value_bytes(self) -> bytes:
        """The stored value, empty for a tombstone."""
        if self.value_b64 is not None:
            return base64.b64decode(self.value_b64)
        if self.value_text is not None:
            return self.value_text.encode()
        raw = bytes(self.value)
        return b"" if raw == b"null" else raw


def json_lines(topic: str, read: PartitionRead) -> Iterator[bytes]:
    """Each record as a JSON object, its own members as the broker sent them."""
    start = b'{"topic":%s,"partition":%d,' % (msgspec.json.encode(topic), read.partition)
    for record in read.records:
        yield start + bytes(record)[1:]


def value_lines(read: PartitionRead) -> Iterator[bytes]:
    """Each record's value."""
    for record in read.records:
        yield _decoded(record).value_bytes()


def key_value_lines(read: PartitionRead, separator: bytes) -> Iterator[bytes]:
    """Each record's key and value."""
    for record in read.records:
        stored = _decoded(record)
        yield stored.key_bytes() + separator + stored.value_bytes()


def _decoded(record: msgspec.Raw) -> StoredRecord:
    return msgspec.json.decode(record, type=StoredRecord)
