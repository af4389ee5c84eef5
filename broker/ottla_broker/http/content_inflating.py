"""Undoes a Content-Encoding part by part, for bodies that never end.

Nothing here holds more than a part and, for zstd, the window that its frame asks for, which is
bounded (RFC 9659) and told, so that it can be counted. Output comes in pieces of OUTPUT_BYTES
whatever goes in, and all of it together is bounded by its ratio to the input.
"""

import sys
import zlib
from collections.abc import Iterator
from typing import Protocol

from ottla_protocol.compression import CONTENT_ENCODINGS, content_bytes_allowed, over_ratio
from ottla_protocol.errors import MalformedBodyError, UnsupportedMediaTypeError

if sys.version_info >= (3, 14):
    from compression.zstd import DecompressionParameter, ZstdDecompressor, ZstdError
else:
    from backports.zstd import DecompressionParameter, ZstdDecompressor, ZstdError

OUTPUT_BYTES = 64 << 10
ZSTD_WINDOW_LOG_MAX = 23
"""Windows of zstd have at most 8 MiB over HTTP (RFC 9659): all that its tool makes without --long
and --ultra."""

_GZIP_WINDOW = 16 + zlib.MAX_WBITS
_ZSTD_HEADER_BYTES_MAX = 18


class ContentInflater(Protocol):
    """One body's."""

    @property
    def kept_bytes(self) -> int:
        """What it keeps of what it has put out, where that is much."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """What these bytes add, in pieces; to be taken to the end before more is fed.

        Pieces may be empty: whoever takes them can let others have a turn meanwhile.

        Raises:
            MalformedBodyError: they are not in the encoding.
            MessageTooLargeError: all inflates to too much for its size.
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
    kept_bytes = 0

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

    kept_bytes = 0

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
    """Frames follow one another, some of them to be skipped (RFC 8878 section 3.1)."""

    def __init__(self) -> None:
        self._ratio = _Ratio()
        self._begin_frame()

    def _begin_frame(self) -> None:
        self._frame = ZstdDecompressor(
            options={DecompressionParameter.window_log_max: ZSTD_WINDOW_LOG_MAX}
        )
        self._header = b""
        self._frame_bytes = 0

    @property
    def kept_bytes(self) -> int:
        """As ContentInflater has it: memory of a window is touched as far as output has come."""
        return min(_window_bytes(self._header), self._frame_bytes)

    def feed(self, data: bytes) -> Iterator[bytes]:
        self._ratio.received_bytes += len(data)
        while data or not self._frame.needs_input:
            if len(self._header) < _ZSTD_HEADER_BYTES_MAX:
                self._header += data[: _ZSTD_HEADER_BYTES_MAX - len(self._header)]
            try:
                piece = self._frame.decompress(data, OUTPUT_BYTES)
            except ZstdError as error:
                raise MalformedBodyError(f"the body is not zstd: {error}") from error
            self._ratio.count(len(piece))
            self._frame_bytes += len(piece)
            yield piece
            data = b""
            if self._frame.eof:
                data = self._frame.unused_data
                self._begin_frame()

    def finish(self) -> None:
        if self._header or not self._ratio.received_bytes:
            raise MalformedBodyError("the body is not zstd: it is cut short")


def _window_bytes(header: bytes) -> int:
    """The window that a frame asks for (RFC 8878 section 3.1.1.1.2); at most what we allow."""
    most = 1 << ZSTD_WINDOW_LOG_MAX
    if len(header) < _ZSTD_HEADER_BYTES_MAX or header[4] & 0x20:
        # A short frame, or one whose window is its content.
        return most
    exponent, mantissa = header[5] >> 3, header[5] & 7
    base = 1 << (10 + exponent)
    return min(most, base + base // 8 * mantissa)
