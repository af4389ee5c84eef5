"""Cursors: where a reader of several partitions is, as one opaque word that any broker resumes.

A cursor names its topic by id, so that it never goes on in another topic that was given the name of
a deleted one, and carries the next offset to read of a run of partitions:

    version           1 byte, 1 or 2
    topic id          16 bytes
    first partition   varint; the run begins here
    partitions        varint
    positions         for each partition, in their order: its next offset, a varint; in version 2
                      then a varint, 0 or one more than the leader epoch that belongs to it

as a `sealed_text`, so that it fits a query and a header field. The varints are those of Protocol
Buffers, unsigned. A cursor grants nothing that its reader could not ask for by offset.

The leader epoch is that of the leader who was last asked what there is from the next offset on. A
later leader whose log ended before that offset when it was elected (an unclean election) sees by it
that the reader has read what is not in the log any more (KIP-320).

A topic's cursor begins at partition 0 and has all of its partitions; when it is resumed, those that
the topic has got since begin at their earliest record. That of one partition is a run of one.
"""

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ottla_protocol.errors import InvalidRequestError
from ottla_protocol.record_batch import NO_LEADER_EPOCH
from ottla_protocol.sealed_text import CHECKSUM_BYTES, seal, unseal

VERSION = 1
VERSION_WITH_EPOCHS = 2

MAX_CURSOR_PARTITIONS = 600
"""Partitions of one cursor: with so many it always fits a header field of 8 KiB."""

MAX_CURSOR_CHARACTERS = 7_300
"""What a cursor of MAX_CURSOR_PARTITIONS takes, however large the offsets.

Leader epochs are left out of a cursor that would be longer with them: 600 of them fit as long as
offset and epoch take nine bytes together, such as 2**49 and 2**14.
"""

MAX_OFFSET = 2**63 - 1
MAX_LEADER_EPOCH = 2**31 - 1

_TOPIC_ID_BYTES = 16
_VARINT_BYTES_MAX = 9
_BODY_BYTES_MAX = MAX_CURSOR_CHARACTERS * 3 // 4 - CHECKSUM_BYTES


@dataclass(frozen=True, slots=True)
class Cursor:
    """The next offsets to read of the partitions from `first_partition` on, of one topic."""

    topic_id: str
    """32 hexadecimal digits."""
    first_partition: int
    offsets: tuple[int, ...]
    epochs: tuple[int, ...] = ()
    """The leader epoch of each position, NO_LEADER_EPOCH where it is not known; empty for all."""

    def offset_of(self, partition: int) -> int | None:
        """The next offset of that partition; None where the cursor does not have it."""
        index = partition - self.first_partition
        return self.offsets[index] if 0 <= index < len(self.offsets) else None

    def epoch_of(self, partition: int) -> int:
        """The leader epoch of that partition's position; NO_LEADER_EPOCH where it is not known."""
        index = partition - self.first_partition
        return self.epochs[index] if 0 <= index < len(self.epochs) else NO_LEADER_EPOCH


class CursorEncoder:
    """Encodes cursors of one topic that differ in their positions alone.

    Args:
        topic_id: 32 hexadecimal digits.
        first_partition: where their run of partitions begins.
    """

    def __init__(self, topic_id: str, first_partition: int) -> None:
        topic_bytes = bytes.fromhex(topic_id)
        assert len(topic_bytes) == _TOPIC_ID_BYTES, topic_id
        self._head = topic_bytes + _varint(first_partition)

    def encode(self, offsets: Sequence[int], epochs: Sequence[int] = ()) -> bytes:
        """The cursor in ASCII.

        Args:
            offsets: the next offset of each partition, at most MAX_CURSOR_PARTITIONS.
            epochs: as `Cursor.epochs`.
        """
        return self.encode_each(offsets, 0, offsets[:1], epochs)[0]

    def encode_each(
        self,
        offsets: Sequence[int],
        index: int,
        next_offsets: Iterable[int],
        epochs: Sequence[int] = (),
    ) -> list[bytes]:
        """A cursor for each of `next_offsets`, which stands at `index` in place of what is there.

        That is what a run of records of one partition moves; the rest is encoded once.
        """
        assert 0 < len(offsets) <= MAX_CURSOR_PARTITIONS, len(offsets)
        assert len(epochs) in (0, len(offsets)), len(epochs)
        encoded = [*map(_varint, offsets)]
        encoded_epochs = _encode_epochs(epochs)
        size_bytes = 1 + len(self._head) + _VARINT_BYTES_MAX
        size_bytes += sum(map(len, encoded)) + sum(map(len, encoded_epochs))
        # The partition that moves may have the largest offset yet.
        size_bytes += _VARINT_BYTES_MAX - len(encoded[index])
        if encoded_epochs and size_bytes <= _BODY_BYTES_MAX:
            version, epoch = VERSION_WITH_EPOCHS, encoded_epochs[index]
            encoded = [*map(bytes.__add__, encoded, encoded_epochs)]
        else:
            version, epoch = VERSION, b""
        head = _ONE_BYTE[version] + self._head
        before = b"".join((head, _varint(len(offsets)), *encoded[:index]))
        behind = epoch + b"".join(encoded[index + 1 :])
        checksum_before = zlib.crc32(before)
        cursors = []
        for offset in next_offsets:
            moving = _varint(offset) + behind
            cursors.append(seal(before + moving, zlib.crc32(moving, checksum_before)))
        return cursors


def encode_cursor(cursor: Cursor) -> str:
    """The cursor as clients get it."""
    encoder = CursorEncoder(cursor.topic_id, cursor.first_partition)
    return encoder.encode(cursor.offsets, cursor.epochs).decode("ascii")


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
    body = unseal(text, max_characters=MAX_CURSOR_CHARACTERS)
    head_bytes = 1 + _TOPIC_ID_BYTES
    if len(body) <= head_bytes or body[0] not in {VERSION, VERSION_WITH_EPOCHS}:
        raise ValueError("version")
    topic_id = body[1:head_bytes].hex()
    has_epochs = body[0] == VERSION_WITH_EPOCHS
    first_partition, count, *positions = _varints(body[head_bytes:])
    if count * (1 + has_epochs) != len(positions) or not 0 < count <= MAX_CURSOR_PARTITIONS:
        raise ValueError("partitions")
    if not has_epochs:
        return Cursor(topic_id, first_partition, tuple(positions))
    epochs = tuple(number - 1 for number in positions[1::2])
    if max(epochs) > MAX_LEADER_EPOCH:
        raise ValueError("epoch")
    return Cursor(topic_id, first_partition, tuple(positions[::2]), epochs)


def _encode_epochs(epochs: Sequence[int]) -> list[bytes]:
    """As they stand behind the offsets; none where there is nothing to tell."""
    if all(epoch == NO_LEADER_EPOCH for epoch in epochs):
        return []
    return [_varint(epoch + 1) for epoch in epochs]


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
