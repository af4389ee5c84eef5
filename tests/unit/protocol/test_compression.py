"""Everything inflates to what was deflated, and nothing inflates past its bound."""

import gzip
import tracemalloc

import cramjam
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ottla_protocol import compression as co
from ottla_protocol.errors import (
    CorruptMessageError,
    MalformedBodyError,
    MessageTooLargeError,
    UnsupportedMediaTypeError,
)
from ottla_protocol.record_batch import Compression

CODECS = list(Compression)
COMPRESSING = [codec for codec in CODECS if codec is not Compression.NONE]
BUFFERS = [bytes, bytearray, memoryview]


@pytest.mark.parametrize("kind", BUFFERS)
@pytest.mark.parametrize("codec", CODECS)
@given(data=st.binary(max_size=300), repeat=st.sampled_from([1, 7, 2_000]))
def test_inflate_gives_back_what_was_deflated(codec, kind, data, repeat):
    content = data * repeat
    deflated = co.deflate(codec, kind(content))
    assert co.inflate(codec, kind(deflated), len(content)) == content


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("size", [1, 1_000, 65_536, 65_537, 300_000])
def test_the_bound_is_exact(codec, size):
    deflated = co.deflate(codec, bytes(size))
    assert len(co.inflate(codec, deflated, size)) == size
    with pytest.raises(MessageTooLargeError):
        co.inflate(codec, deflated, size - 1)


@pytest.mark.parametrize("codec", [Compression.GZIP, Compression.LZ4, Compression.ZSTD])
def test_a_truncated_stream_is_corrupt(codec):
    deflated = co.deflate(codec, bytes(range(256)) * 4)
    for length in range(len(deflated)):
        with pytest.raises(CorruptMessageError):
            co.inflate(codec, deflated[:length], 10_000)


def test_truncated_snappy_is_corrupt_save_between_blocks():
    """xerial's framing has no end mark, and the count of records catches a missing block."""
    deflated = co.deflate(Compression.SNAPPY, bytes(range(256)) * 4)
    assert co.inflate(Compression.SNAPPY, deflated[:16], 10_000) == b""
    for length in (*range(16), *range(17, len(deflated))):
        # Cut inside its magic, the header reads as raw snappy that claims a size of its own.
        with pytest.raises((CorruptMessageError, MessageTooLargeError)):
            co.inflate(Compression.SNAPPY, deflated[:length], 10_000)


@pytest.mark.parametrize("codec", COMPRESSING)
@given(data=st.binary(max_size=200))
def test_garbage_is_refused_with_a_typed_error(codec, data):
    try:
        co.inflate(codec, data, 10_000)
    except (CorruptMessageError, MessageTooLargeError):
        return


def bomb(codec, size):
    if codec is Compression.ZSTD:
        compressor = cramjam.zstd.Compressor(level=1)
        piece = bytes(10_000_000)
        for _ in range(size // len(piece)):
            compressor.compress(piece)
        return bytes(compressor.finish())
    return co.deflate(codec, bytes(size))


@pytest.mark.parametrize(
    ("codec", "size"),
    [
        (Compression.ZSTD, 1_000_000_000),
        (Compression.GZIP, 50_000_000),
        (Compression.LZ4, 50_000_000),
        (Compression.SNAPPY, 50_000_000),
    ],
)
def test_a_bomb_stops_at_the_bound_with_memory_near_it(codec, size):
    data = bomb(codec, size)
    tracemalloc.start()
    try:
        with pytest.raises(MessageTooLargeError) as caught:
            co.inflate(codec, data, 1_000_000)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert caught.value.members == {"max_bytes": 1_000_000}
    assert peak_bytes < 3_000_000


@pytest.mark.parametrize(
    ("codec", "data"),
    [
        # zstd: single segment, 8-byte content size of 2**62.
        (Compression.ZSTD, b"\x28\xb5\x2f\xfd\xe0" + (1 << 62).to_bytes(8, "little") + b"\1\0\0"),
        (Compression.GZIP, gzip.compress(b"x")[:-4] + b"\xff\xff\xff\xff"),
    ],
    # Named, because gzip writes the time into its header and names must not differ from run to run.
    ids=["zstd", "gzip"],
)
def test_a_lying_content_size_reserves_no_memory(codec, data):
    tracemalloc.start()
    try:
        with pytest.raises(CorruptMessageError):
            co.inflate(codec, data, 1 << 30)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 1_000_000


def test_cramjam_still_reports_a_full_buffer_in_the_words_we_look_for():
    for codec in (Compression.GZIP, Compression.LZ4, Compression.ZSTD):
        decompress_into, _ = co._FORMATS[codec]
        with pytest.raises(cramjam.DecompressionError, match=co._OUTPUT_FULL):
            decompress_into(co.deflate(codec, bytes(1_000)), bytearray(10))


def test_content_sizes_are_read_from_frames():
    for size in (10, 200, 255, 256, 300, 65_791, 65_792, 1_000_000):
        assert co._zstd_content_bytes(bytes(cramjam.zstd.compress(bytes(size), level=1))) == size
        assert co._gzip_content_bytes(gzip.compress(bytes(size))) == size
    streamed = cramjam.zstd.Compressor(level=1)
    streamed.compress(bytes(1_000_000))
    assert co._zstd_content_bytes(bytes(streamed.finish())) is None
    assert co._lz4_content_bytes(co.deflate(Compression.LZ4, bytes(1_000))) is None


def test_frames_that_follow_one_another_inflate_as_one():
    for codec in (Compression.GZIP, Compression.LZ4, Compression.ZSTD):
        data = co.deflate(codec, b"a" * 100_000) + co.deflate(codec, b"b" * 200_000)
        assert co.inflate(codec, data, 300_000) == b"a" * 100_000 + b"b" * 200_000
        with pytest.raises(MessageTooLargeError):
            co.inflate(codec, data, 299_999)


def test_raw_snappy_inflates_too():
    content = b"snappy " * 1_000
    raw = bytes(cramjam.snappy.compress_raw(content))
    assert co.inflate(Compression.SNAPPY, raw, len(content)) == content
    with pytest.raises(MessageTooLargeError):
        co.inflate(Compression.SNAPPY, raw, len(content) - 1)


def test_lz4_frames_have_independent_blocks_as_kafka_demands():
    frame = co.deflate(Compression.LZ4, b"content" * 100)
    assert frame[:4] == b"\x04\x22\x4d\x18"
    assert frame[4] & 0x20


@pytest.mark.parametrize("encoding", co.CONTENT_ENCODINGS)
def test_content_encodings(encoding):
    body = b'{"records":[]}' * 1_000
    encoded = co.deflate_content(encoding, body)
    assert co.inflate_content(encoding, encoded, len(body)) == body
    with pytest.raises(MessageTooLargeError):
        co.inflate_content(encoding, encoded, len(body) - 1)
    for broken in (b"", encoded[:-1], b"{}", encoded + b"x"):
        with pytest.raises(MalformedBodyError, match=f"body is not {encoding}"):
            co.inflate_content(encoding, broken, len(body))


@pytest.mark.parametrize("encoding", co.CONTENT_ENCODINGS)
def test_a_body_that_inflates_too_far_is_refused_below_the_bound_on_its_size(encoding):
    bomb = co.deflate_content(encoding, bytes(co.CONTENT_RATIO_FREE_BYTES + 1))
    with pytest.raises(MessageTooLargeError) as refused:
        co.inflate_content(encoding, bomb, 1 << 30)
    assert refused.value.members == {"max_ratio": co.CONTENT_RATIO_MAX}


@pytest.mark.parametrize("encoding", co.CONTENT_ENCODINGS)
def test_short_texts_may_inflate_as_far_as_they_like(encoding):
    body = bytes(co.CONTENT_RATIO_FREE_BYTES)
    assert co.inflate_content(encoding, co.deflate_content(encoding, body), 1 << 30) == body


def test_gzip_of_the_standard_library_is_understood():
    assert co.inflate_content("gzip", gzip.compress(b"body"), 4) == b"body"


@pytest.mark.parametrize("encoding", ["br", "deflate", "GZIP", "", "gzip, gzip"])
def test_other_content_encodings_are_refused(encoding):
    with pytest.raises(UnsupportedMediaTypeError, match="gzip and zstd are"):
        co.inflate_content(encoding, b"", 10)
