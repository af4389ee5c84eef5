"""Compression with a hard bound on what comes out.

32 KB of zstd can inflate to 3 GB, and a producer's bytes are nobody's promise. So nothing here
inflates into a growing buffer: output goes into a buffer of at most `max_output_bytes`, and a
stream that needs more ends with MessageTooLargeError while memory stays near the bound.

Where a format tells its content's size (zstd, lz4 and gzip may, snappy does) that is taken as the
first buffer's size, but never trusted further than a modest ratio; otherwise the buffer grows
fourfold from try to try, which repeats at most a third of the work.

Inflating and deflating take milliseconds for a megabyte: callers do it off the event loop.

Formats are those of Kafka's batches: gzip (RFC 1952), snappy in xerial's framing or raw, lz4 frames
of independent blocks (KIP-57), zstd (RFC 8878). Levels are chosen for a log: fast before small.
"""

from collections.abc import Callable
from typing import Any

import cramjam

from ottla_protocol.errors import (
    CorruptMessageError,
    MalformedBodyError,
    MessageTooLargeError,
    UnsupportedMediaTypeError,
)
from ottla_protocol.record_batch import Buffer, Compression

GZIP_LEVEL = 1
LZ4_LEVEL = 0
ZSTD_LEVEL = 1

CONTENT_ENCODINGS = ("gzip", "zstd")
"""Content-Encoding values that request and response bodies may have."""

CONTENT_RATIO_MAX = 100
"""How many times its size a body may inflate to. JSON of real records comes to 5 to 30."""

CONTENT_RATIO_FREE_BYTES = 1 << 20
"""Up to this much a body may inflate whatever its size: short texts that repeat compress best."""

# xerial's snappy-java: magic, then version and the oldest compatible version as int32.
_XERIAL_MAGIC = b"\x82SNAPPY\x00"
_XERIAL_HEADER = _XERIAL_MAGIC + (1).to_bytes(4, "big") + (1).to_bytes(4, "big")
_XERIAL_BLOCK_BYTES = 32 * 1024

# How far a size that the data tells of itself is believed for the first buffer.
_TRUSTED_RATIO = 64
_FIRST_OUTPUT_BYTES = 64 * 1024
_GROWTH = 4

# What cramjam says when the output buffer is full; a test pins it.
_OUTPUT_FULL = "failed to write whole buffer"


def deflate(codec: Compression, data: Buffer) -> bytes:
    """Compress a batch's records as Kafka's clients expect them."""
    if codec is Compression.NONE:
        return bytes(data)
    if codec is Compression.GZIP:
        return bytes(cramjam.gzip.compress(data, level=GZIP_LEVEL))
    if codec is Compression.SNAPPY:
        return _deflate_xerial(data)
    if codec is Compression.LZ4:
        # Kafka's reader takes no linked blocks (KIP-57). Only this class lets us say so, and only
        # it wants bytes.
        compressor = cramjam.lz4.Compressor(
            level=LZ4_LEVEL, content_checksum=False, block_linked=False
        )
        compressor.compress(bytes(data))
        return bytes(compressor.finish())
    return bytes(cramjam.zstd.compress(data, level=ZSTD_LEVEL))


def inflate(codec: Compression, data: Buffer, max_output_bytes: int) -> bytes:
    """Decompress a batch's records.

    Raises:
        CorruptMessageError: the data is not what the codec writes, or is cut short.
        MessageTooLargeError: it would inflate to more than `max_output_bytes`.
    """
    if codec is Compression.NONE:
        if len(data) > max_output_bytes:
            raise _too_large(max_output_bytes)
        return bytes(data)
    try:
        if codec is Compression.SNAPPY:
            return _inflate_snappy(data, max_output_bytes)
        decompress_into, content_bytes = _FORMATS[codec]
        return _inflate_bounded(decompress_into, data, content_bytes(data), max_output_bytes)
    except cramjam.DecompressionError as error:
        raise CorruptMessageError(f"{codec.name.lower()} data does not inflate: {error}") from error


def inflate_content(encoding: str, body: Buffer, max_output_bytes: int) -> bytes:
    """Decompress an HTTP body.

    Args:
        encoding: the Content-Encoding, one of CONTENT_ENCODINGS.
        body: the body as received.
        max_output_bytes: what the body may inflate to.

    Raises:
        MalformedBodyError: the body is not in that encoding.
        MessageTooLargeError: it would inflate to more than `max_output_bytes`, or to more than
            CONTENT_RATIO_MAX times its size.
        UnsupportedMediaTypeError: another encoding.
    """
    if encoding not in CONTENT_ENCODINGS:
        raise UnsupportedMediaTypeError(
            f"Content-Encoding {encoding!r} is not supported, {' and '.join(CONTENT_ENCODINGS)} are"
        )
    codec = Compression.GZIP if encoding == "gzip" else Compression.ZSTD
    by_ratio_bytes = content_bytes_allowed(len(body))
    try:
        return inflate(codec, body, min(max_output_bytes, by_ratio_bytes))
    except MessageTooLargeError as error:
        if by_ratio_bytes < max_output_bytes:
            raise over_ratio() from error
        raise
    except CorruptMessageError as error:
        raise MalformedBodyError(f"body is not {encoding}: {error.__cause__}") from error


def content_bytes_allowed(body_bytes: int) -> int:
    """How much a body of `body_bytes` may inflate to, by its ratio alone."""
    return max(CONTENT_RATIO_FREE_BYTES, CONTENT_RATIO_MAX * body_bytes)


def over_ratio() -> MessageTooLargeError:
    """What a body is refused with that inflates to more than `content_bytes_allowed`."""
    return MessageTooLargeError(
        f"the body inflates to more than {CONTENT_RATIO_MAX} times its size",
        max_ratio=CONTENT_RATIO_MAX,
    )


def deflate_content(encoding: str, body: Buffer) -> bytes:
    """Compress an HTTP body in one of CONTENT_ENCODINGS."""
    assert encoding in CONTENT_ENCODINGS, encoding
    return deflate(Compression.GZIP if encoding == "gzip" else Compression.ZSTD, body)


def _too_large(max_output_bytes: int) -> MessageTooLargeError:
    return MessageTooLargeError(
        f"data inflates to more than {max_output_bytes} bytes", max_bytes=max_output_bytes
    )


def _inflate_bounded(
    decompress_into: Callable[[Any, Any], int],
    data: Buffer,
    content_bytes: int | None,
    max_output_bytes: int,
) -> bytes:
    """Inflate into buffers of growing size, the last of which has exactly the bound's."""
    trusted_bytes = _TRUSTED_RATIO * len(data) + _FIRST_OUTPUT_BYTES
    guess_bytes = max(_GROWTH * len(data), _FIRST_OUTPUT_BYTES)
    wanted_bytes = content_bytes if content_bytes is not None else guess_bytes
    size = min(wanted_bytes, trusted_bytes, max_output_bytes)
    while True:
        output = bytearray(size)
        try:
            written = decompress_into(data, output)
        except cramjam.DecompressionError as error:
            if _OUTPUT_FULL not in str(error):
                raise
            if size == max_output_bytes:
                raise _too_large(max_output_bytes) from error
            size = min(max(size * _GROWTH, _FIRST_OUTPUT_BYTES), max_output_bytes)
        else:
            return bytes(output if written == size else memoryview(output)[:written])


def _zstd_content_bytes(data: Buffer) -> int | None:
    """Frame_Content_Size of the first frame, if it tells (RFC 8878 §3.1.1.1)."""
    if len(data) < 6:
        return None
    descriptor = data[4]
    is_single_segment = descriptor >> 5 & 1
    flag = descriptor >> 6
    if flag == 0 and not is_single_segment:
        return None
    start = 5 + (not is_single_segment) + (0, 1, 2, 4)[descriptor & 3]
    size = int.from_bytes(data[start : start + (1, 2, 4, 8)[flag]], "little")
    return size + 256 if flag == 1 else size


def _lz4_content_bytes(data: Buffer) -> int | None:
    """The content size of the first frame, if its descriptor has one."""
    if len(data) < 14 or not data[4] & 0x08:
        return None
    return int.from_bytes(data[6:14], "little")


def _gzip_content_bytes(data: Buffer) -> int | None:
    """ISIZE, the last member's size modulo 2**32."""
    return int.from_bytes(data[-4:], "little")


_FORMATS: dict[Compression, tuple[Callable[[Any, Any], int], Callable[[Buffer], int | None]]] = {
    Compression.GZIP: (cramjam.gzip.decompress_into, _gzip_content_bytes),
    Compression.LZ4: (cramjam.lz4.decompress_into, _lz4_content_bytes),
    Compression.ZSTD: (cramjam.zstd.decompress_into, _zstd_content_bytes),
}


def _deflate_xerial(data: Buffer) -> bytes:
    view = memoryview(data)
    parts: list[bytes] = [_XERIAL_HEADER]
    for start in range(0, len(view), _XERIAL_BLOCK_BYTES):
        block = bytes(cramjam.snappy.compress_raw(view[start : start + _XERIAL_BLOCK_BYTES]))
        parts += (len(block).to_bytes(4, "big"), block)
    return b"".join(parts)


def _inflate_snappy(data: Buffer, max_output_bytes: int) -> bytes:
    """Inflate raw snappy or xerial's framing; both tell sizes before any work is done."""
    view = memoryview(data)
    is_xerial = len(view) >= len(_XERIAL_HEADER) and view[: len(_XERIAL_MAGIC)] == _XERIAL_MAGIC
    blocks = _xerial_blocks(view) if is_xerial else [view]
    if any(len(block) == 0 for block in blocks):
        raise CorruptMessageError("snappy data does not inflate: empty block")
    sizes = [int(cramjam.snappy.decompress_raw_len(block)) for block in blocks]
    if sum(sizes) > max_output_bytes:
        raise _too_large(max_output_bytes)
    output = bytearray(sum(sizes))
    target = memoryview(output)
    position = 0
    for block, size in zip(blocks, sizes, strict=True):
        cramjam.snappy.decompress_raw_into(block, target[position : position + size])
        position += size
    return bytes(output)


def _xerial_blocks(view: memoryview) -> list[memoryview]:
    blocks = []
    position = len(_XERIAL_HEADER)
    while position < len(view):
        size = int.from_bytes(view[position : position + 4], "big")
        position += 4
        if size > len(view) - position:
            raise CorruptMessageError("snappy data does not inflate: a block is cut short")
        blocks.append(view[position : position + size])
        position += size
    return blocks
