"""Undoes a Content-Encoding part by part, for bodies that never end.

Nothing here holds more than a part: gzip gives its output in pieces of OUTPUT_BYTES whatever goes
in, and zstd one frame at a time, whose size is bounded compressed and inflated (our codec knows
whole frames only; their ends are told by the headers of their blocks, RFC 8878 section 3.1.1).
All output together is bounded by its ratio to the input.
"""

import zlib
from collections.abc import Iterator
from typing import Protocol

from ottla_protocol.compression import CONTENT_ENCODINGS, content_bytes_allowed, inflate, over_ratio
from ottla_protocol.errors import (
    CorruptMessageError,
    MalformedBodyError,
    MessageTooLargeError,
    UnsupportedMediaTypeError,
)
from ottla_protocol.record_batch import Compression

OUTPUT_BYTES = 64 << 10
ZSTD_FRAME_BYTES_MAX = 4 << 20
"""The longest zstd frame of a stream, as sent."""

ZSTD_CONTENT_BYTES_MAX = 8 << 20
"""What one frame may inflate to."""

_GZIP_WINDOW = 16 + zlib.MAX_WBITS
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_SKIPPABLE = range(0x184D2A50, 0x184D2A60)
_FRAME_BEGINNING_BYTES = 8
"""Magic number, and what tells the length of the header or of what is to be skipped."""

_BLOCK_HEADER_BYTES = 3
_RLE_BLOCK = 1
_RESERVED_BLOCK = 3


class ContentInflater(Protocol):
    """One body's."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """What these bytes add, in pieces; to be taken to the end before more is fed.

        Raises:
            MalformedBodyError: they are not in the encoding.
            MessageTooLargeError: all inflates to too much for its size, or a frame is too long.
        """

    def finish(self) -> None:
        """The body is over.

        Raises:
            MalformedBodyError: it is cut short.
        """


def content_inflater(encoding: str) -> ContentInflater:
    """What undoes a Content-Encoding, as it stands in the header.

    Raises:
        UnsupportedMediaTypeError: it is none of identity, gzip and zstd.
    """
    match encoding.strip().lower():
        case "identity":
            return _Identity()
        case "gzip":
            return _Gzip()
        case "zstd":
            return _Zstd()
        case other:
            raise UnsupportedMediaTypeError(
                f"Content-Encoding '{other}' is none of: {', '.join(CONTENT_ENCODINGS)}"
            )


class _Identity:
    def feed(self, data: bytes) -> Iterator[bytes]:
        yield data

    def finish(self) -> None:
        """A body without an encoding may end anywhere."""


class _Ratio:
    """Counts both sides of a body."""

    def __init__(self) -> None:
        self.received_bytes = 0
        self.inflated_bytes = 0

    def count(self, inflated_bytes: int) -> None:
        self.inflated_bytes += inflated_bytes
        if self.inflated_bytes > content_bytes_allowed(self.received_bytes):
            raise over_ratio()


class _Gzip:
    """Members follow one another (RFC 1952 section 2.2)."""

    def __init__(self) -> None:
        self._ratio = _Ratio()
        self._member = zlib.decompressobj(_GZIP_WINDOW)
        self._is_in_member = False
        self._has_member = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        self._ratio.received_bytes += len(data)
        has_more = False
        while data or has_more:
            self._is_in_member = self._has_member = True
            try:
                piece = self._member.decompress(data, OUTPUT_BYTES)
            except zlib.error as error:
                raise MalformedBodyError(f"the body is not gzip: {error}") from error
            self._ratio.count(len(piece))
            if piece:
                yield piece
            if self._member.eof:
                data = self._member.unused_data
                self._member = zlib.decompressobj(_GZIP_WINDOW)
                self._is_in_member = has_more = False
            else:
                data = self._member.unconsumed_tail
                # It may still have something to give, without more input.
                has_more = len(piece) == OUTPUT_BYTES

    def finish(self) -> None:
        if self._is_in_member or not self._has_member:
            raise MalformedBodyError("the body is not gzip: it is cut short")


class _Zstd:
    """Frames follow one another, some of them to be skipped."""

    def __init__(self) -> None:
        self._ratio = _Ratio()
        self._received = bytearray()
        self._frame = _FrameEnd()

    def feed(self, data: bytes) -> Iterator[bytes]:
        self._ratio.received_bytes += len(data)
        self._received += data
        while (size := self._frame.find(self._received)) is not None:
            frame = bytes(self._received[:size])
            del self._received[:size]
            self._frame = _FrameEnd()
            if not frame.startswith(_ZSTD_MAGIC):
                continue
            try:
                inflated = inflate(Compression.ZSTD, frame, ZSTD_CONTENT_BYTES_MAX)
            except CorruptMessageError as error:
                raise MalformedBodyError(f"the body is not zstd: {error.__cause__}") from error
            self._ratio.count(len(inflated))
            for start in range(0, len(inflated), OUTPUT_BYTES):
                yield inflated[start : start + OUTPUT_BYTES]
        if len(self._received) > ZSTD_FRAME_BYTES_MAX:
            raise MessageTooLargeError(
                f"a zstd frame of a stream may have {ZSTD_FRAME_BYTES_MAX} bytes; "
                "end one and begin the next more often",
                limit_bytes=ZSTD_FRAME_BYTES_MAX,
            )

    def finish(self) -> None:
        if self._received or not self._ratio.received_bytes:
            raise MalformedBodyError("the body is not zstd: it is cut short")


class _FrameEnd:
    """Looks for the end of one frame as it comes; no block is looked at twice."""

    def __init__(self) -> None:
        # Where the next block begins; 0 before the frame's header has come.
        self._position = 0
        self._is_behind_blocks = False
        self._checksum_bytes = 0

    def find(self, received: bytearray) -> int | None:
        """The length of the frame that this begins with; None while its end has not come.

        Raises:
            MalformedBodyError: it is no frame.
        """
        if self._position == 0 and not self._pass_header(received):
            return None
        while not self._is_behind_blocks:
            position = self._position
            if len(received) < position + _BLOCK_HEADER_BYTES:
                return None
            header = int.from_bytes(received[position : position + _BLOCK_HEADER_BYTES], "little")
            kind, size = header >> 1 & 3, header >> 3
            if kind == _RESERVED_BLOCK:
                raise MalformedBodyError("the body is not zstd: a block of no kind")
            self._position += _BLOCK_HEADER_BYTES + (1 if kind == _RLE_BLOCK else size)
            self._is_behind_blocks = bool(header & 1)
        end = self._position + self._checksum_bytes
        return end if len(received) >= end else None

    def _pass_header(self, received: bytearray) -> bool:
        if len(received) < _FRAME_BEGINNING_BYTES:
            return False
        if int.from_bytes(received[:4], "little") in _SKIPPABLE:
            self._position = _FRAME_BEGINNING_BYTES + int.from_bytes(received[4:8], "little")
            self._is_behind_blocks = True
            return True
        if received[:4] != _ZSTD_MAGIC:
            raise MalformedBodyError("the body is not zstd: a frame begins with another number")
        descriptor = received[4]
        is_single_segment = descriptor >> 5 & 1
        content_size_bytes = (is_single_segment, 2, 4, 8)[descriptor >> 6]
        dictionary_id_bytes = (0, 1, 2, 4)[descriptor & 3]
        self._position = 5 + (not is_single_segment) + dictionary_id_bytes + content_size_bytes
        self._checksum_bytes = 4 if descriptor >> 2 & 1 else 0
        return True
