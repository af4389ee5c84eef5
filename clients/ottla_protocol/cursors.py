"""Cursors: where a reader of several partitions is, as one opaque word that any broker resumes.

A cursor names its topic by id, so that it never goes on in another topic that was given the name of
a deleted one, and carries the next offset to read of a run of partitions:

    version           1 byte, 1
    topic id          16 bytes
    first partition   varint; the run begins here
    partitions        varint
    next offsets      as many varints, in the order of the partitions
    checksum          4 bytes, CRC-32 of all of the above, big-endian

in base64url without padding (RFC 4648 section 5), so that it fits a query and a header field. The
varints are those of Protocol Buffers, unsigned. The checksum is against cuts and typing errors: a
cursor grants nothing that its reader could not ask for by offset.

A topic's cursor begins at partition 0 and has all of its partitions; when it is resumed, those that
the topic has got since begin at their earliest record. That of one partition is a run of one.
"""

import base64
import binascii
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ottla_protocol.errors import InvalidRequestError

VERSION = 1

MAX_CURSOR_PARTITIONS = 600
"""Partitions of one cursor: with so many it always fits a header field of 8 KiB."""

MAX_CURSOR_CHARACTERS = 7_300
"""What a cursor of MAX_CURSOR_PARTITIONS takes, however large the offsets."""

MAX_OFFSET = 2**63 - 1

_TOPIC_ID_BYTES = 16
_CHECKSUM_BYTES = 4
_VARINT_BYTES_MAX = 9


@dataclass(frozen=True, slots=True)
class Cursor:
    """The next offsets to read of the partitions from `first_partition` on, of one topic."""

    topic_id: str
    """32 hexadecimal digits."""
    first_partition: int
    offsets: tuple[int, ...]

    def offset_of(self, partition: int) -> int | None:
        """The next offset of that partition; None where the cursor does not have it."""
        index = partition - self.first_partition
        return self.offsets[index] if 0 <= index < len(self.offsets) else None


class CursorEncoder:
    """Encodes cursors of one topic that differ in their offsets alone.

    Args:
        topic_id: 32 hexadecimal digits.
        first_partition: where their run of partitions begins.
    """

    def __init__(self, topic_id: str, first_partition: int) -> None:
        topic_bytes = bytes.fromhex(topic_id)
        assert len(topic_bytes) == _TOPIC_ID_BYTES, topic_id
        self._head = bytes((VERSION,)) + topic_bytes + _varint(first_partition)

    def encode(self, offsets: Sequence[int]) -> bytes:
        """The cursor in ASCII, with these next offsets; at most MAX_CURSOR_PARTITIONS."""
        return self.encode_each(offsets, 0, offsets[:1])[0]

    def encode_each(
        self, offsets: Sequence[int], index: int, next_offsets: Iterable[int]
    ) -> list[bytes]:
        """A cursor for each of `next_offsets`, which stands at `index` in place of what is there.

        That is what a run of records of one partition moves; the rest is encoded once.
        """
        assert 0 < len(offsets) <= MAX_CURSOR_PARTITIONS, len(offsets)
        encoded = [*map(_varint, offsets)]
        before = b"".join((self._head, _varint(len(offsets)), *encoded[:index]))
        behind = b"".join(encoded[index + 1 :])
        checksum_before = zlib.crc32(before)
        cursors = []
        for offset in next_offsets:
            moving = _varint(offset) + behind
            checksum = zlib.crc32(moving, checksum_before).to_bytes(_CHECKSUM_BYTES, "big")
            sealed = base64.urlsafe_b64encode(before + moving + checksum)
            cursors.append(sealed.rstrip(b"="))
        return cursors


def encode_cursor(cursor: Cursor) -> str:
    """The cursor as clients get it."""
    encoder = CursorEncoder(cursor.topic_id, cursor.first_partition)
    return encoder.encode(cursor.offsets).decode("ascii")


def decode_cursor(text: str, *, parameter: str = "cursor") -> Cursor:
    """What a client sends back.

    Args:
        text: as `encode_cursor` made it.
        parameter: where it was sent, for the error.

    Raises:
        InvalidRequestError: it is no cursor, or a damaged one.
    """
    try:
        return _decode(text)
    except (ValueError, IndexError) as error:
        raise InvalidRequestError(
            f"{parameter} is not a cursor that a broker gave out", parameter=parameter
        ) from error


def _decode(text: str) -> Cursor:
    if not 0 < len(text) <= MAX_CURSOR_CHARACTERS:
        raise ValueError("length")
    padded = text.encode("ascii") + b"=" * (-len(text) % 4)
    try:
        sealed = base64.b64decode(padded, altchars=b"-_", validate=True)
    except binascii.Error as error:
        raise ValueError("base64") from error
    body, checksum = sealed[:-_CHECKSUM_BYTES], sealed[-_CHECKSUM_BYTES:]
    if zlib.crc32(body) != int.from_bytes(checksum, "big"):
        raise ValueError("checksum")
    head_bytes = 1 + _TOPIC_ID_BYTES
    if len(body) <= head_bytes or body[0] != VERSION:
        raise ValueError("version")
    numbers = list(_varints(body[head_bytes:]))
    first_partition, count, *offsets = numbers
    if count != len(offsets) or not 0 < count <= MAX_CURSOR_PARTITIONS:
        raise ValueError("partitions")
    return Cursor(body[1:head_bytes].hex(), first_partition, tuple(offsets))


def _varint(number: int) -> bytes:
    if number < 0x80:
        return _ONE_BYTE[number]
    encoded = bytearray()
    while number >= 0x80:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def _varints(encoded: bytes) -> Iterable[int]:
    number, shift = 0, 0
    for byte in encoded:
        number |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            if number > MAX_OFFSET:
                raise ValueError("number")
            yield number
            number, shift = 0, 0
        elif shift > 7 * _VARINT_BYTES_MAX:
            raise ValueError("varint")
    if shift:
        raise ValueError("cut")


_ONE_BYTE = [bytes((number,)) for number in range(0x80)]
