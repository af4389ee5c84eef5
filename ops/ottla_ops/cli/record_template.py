r"""Templates for printing records, as `kcat -f` has them: `'%t-%p@%o %k: %s\n'`.

| | |
|---|---|
| `%t` `%p` `%o` | topic, partition, offset |
| `%T` | timestamp in milliseconds since the epoch |
| `%k` `%K` | key as it was stored, and its length in bytes, -1 where there is none |
| `%s` `%S` | value as it was stored, and its length in bytes, -1 for a tombstone |
| `%h` | headers as `name=value,name=value`; a value that is null as `NULL` |
| `%%` | a percent sign |
| `\n` `\r` `\t` `\\` `\0` `\xHH` | line feed, carriage return, tab, backslash, NUL, the byte HH |

Nothing else is printed, no line feed either.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias

from ottla_ops.cli.consuming import PartitionRead
from ottla_ops.cli.record_output import StoredRecord, decoded

NO_BYTES: Final = -1
"""The length of what is not there."""

_Part: TypeAlias = bytes | Callable[[str, int, StoredRecord], bytes]

_TOKEN: Final = re.compile(
    r"%(?P<letter>.?)|\\(?:x(?P<hex>[0-9A-Fa-f]{2})|(?P<escape>.?))", re.DOTALL
)
_ESCAPES: Final = {"n": b"\n", "r": b"\r", "t": b"\t", "\\": b"\\", "0": b"\0"}


@dataclass(frozen=True, slots=True)
class RecordTemplate:
    """A template that has been understood."""

    parts: tuple[_Part, ...]

    def pieces(self, topic: str, read: PartitionRead) -> Iterator[bytes]:
        """What is printed for each record."""
        for raw in read.records:
            record = decoded(raw)
            yield b"".join(
                part if isinstance(part, bytes) else part(topic, read.partition, record)
                for part in self.parts
            )


def parse_template(text: str) -> RecordTemplate:
    """Understand a template.

    Raises:
        ValueError: it has an escape that there is not; the text names it.
    """
    parts: list[_Part] = []
    end = 0
    for found in _TOKEN.finditer(text):
        if found.start() > end:
            parts.append(_bytes_of(text[end : found.start()]))
        parts.append(_part_of(found))
        end = found.end()
    if end < len(text):
        parts.append(_bytes_of(text[end:]))
    return RecordTemplate(tuple(parts))


def is_template(text: str) -> bool:
    """Whether a text can only be meant as one."""
    return "%" in text or "\\" in text


def _part_of(found: re.Match[str]) -> _Part:
    letter, hexadecimal = found["letter"], found["hex"]
    if hexadecimal is not None:
        return bytes.fromhex(hexadecimal)
    if letter is not None:
        part = b"%" if letter == "%" else _FIELDS.get(letter)
        known = "%t %p %o %T %k %K %s %S %h %%"
    else:
        part = _ESCAPES.get(found["escape"])
        known = r"\n \r \t \\ \0 \xHH"
    if part is None:
        raise ValueError(f"'{found[0]}' means nothing: there are {known}")
    return part


def _bytes_of(text: str) -> bytes:
    # What a shell hands over need not be UTF-8.
    return text.encode(errors="surrogateescape")


def _length(data: bytes | None) -> bytes:
    return b"%d" % (NO_BYTES if data is None else len(data))


def _headers(_topic: str, _partition: int, record: StoredRecord) -> bytes:
    return b",".join(
        name.encode() + b"=" + (b"NULL" if value is None else value)
        for name, value in record.header_pairs()
    )


_FIELDS: Final[dict[str, _Part]] = {
    "t": lambda topic, _, __: topic.encode(),
    "p": lambda _, partition, __: b"%d" % partition,
    "o": lambda _, __, record: b"%d" % record.offset,
    "T": lambda _, __, record: b"%d" % record.timestamp,
    "k": lambda _, __, record: record.stored_key() or b"",
    "K": lambda _, __, record: _length(record.stored_key()),
    "s": lambda _, __, record: record.stored_value() or b"",
    "S": lambda _, __, record: _length(record.stored_value()),
    "h": _headers,
}
