"""Bodies that inflate as they come: whole whatever the pieces, bounded whatever they hold."""

import gzip
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ottla_broker.http import content_inflating as inflating
from ottla_broker.http.content_inflating import content_inflater
from ottla_protocol.compression import CONTENT_RATIO_FREE_BYTES, deflate
from ottla_protocol.errors import (
    MalformedBodyError,
    MessageTooLargeError,
    UnsupportedMediaTypeError,
)
from ottla_protocol.record_batch import Compression

ENCODE = {
    "gzip": lambda data: gzip.compress(data, mtime=0),
    "zstd": lambda data: deflate(Compression.ZSTD, data),
    "identity": lambda data: data,
}
SKIPPABLE_FRAME = b"\x50\x2a\x4d\x18\x03\x00\x00\x00abc"


def fed(inflater, pieces):
    return [part for piece in pieces for part in inflater.feed(piece)]


def cut(data, size):
    return [data[start : start + size] for start in range(0, len(data), size)]


@given(
    st.sampled_from(sorted(ENCODE)),
    st.lists(st.binary(max_size=300) | st.just(b"ab" * 90_000), min_size=1, max_size=4),
    st.sampled_from([1, 7, 64, 100_000]),
)
def test_what_comes_out_does_not_depend_on_the_pieces(encoding, parts, size):
    body = b"".join(ENCODE[encoding](part) for part in parts)
    if encoding == "zstd":
        body = SKIPPABLE_FRAME + body + SKIPPABLE_FRAME
    inflater = content_inflater(f" {encoding.upper()} ")
    assert b"".join(fed(inflater, cut(body, size))) == b"".join(parts)
    inflater.finish()


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_a_bomb_ends_at_its_ratio_and_in_small_pieces(encoding):
    inflater = content_inflater(encoding)
    bomb = ENCODE[encoding](bytes(8 << 20))
    taken = 0

    def take():
        nonlocal taken
        for piece in cut(bomb, 1_000):
            for part in inflater.feed(piece):
                assert len(part) <= inflating.OUTPUT_BYTES
                taken += len(part)

    with pytest.raises(MessageTooLargeError):
        take()
    assert taken <= CONTENT_RATIO_FREE_BYTES


def test_a_zstd_frame_may_be_of_any_length():
    """The zstd tool makes one frame of a whole file."""
    inflater = content_inflater("zstd")
    text = b"".join(b'{"value":%d}\n' % (number * 7_919) for number in range(600_000))
    digest = hashlib.sha256()
    for piece in cut(ENCODE["zstd"](text), 64 << 10):
        for part in inflater.feed(piece):
            digest.update(part)
            assert inflater.kept_bytes <= 1 << inflating.ZSTD_WINDOW_LOG_MAX
    inflater.finish()
    assert digest.digest() == hashlib.sha256(text).digest()


def test_a_zstd_window_has_a_bound():
    # A frame with a window of 16 MiB and a raw block of one byte.
    frame = b"\x28\xb5\x2f\xfd\x00" + bytes([14 << 3]) + (1 << 3 | 1).to_bytes(3, "little") + b"x"
    with pytest.raises(MalformedBodyError, match="memory"):
        fed(content_inflater("zstd"), [frame])
    small = frame[:5] + bytes([13 << 3]) + frame[6:]
    assert b"".join(fed(content_inflater("zstd"), [small])) == b"x"


def test_what_is_kept_is_the_window_as_far_as_it_is_filled():
    block = b"".join(((1 << 10) << 3).to_bytes(3, "little") + bytes(1 << 10) for _ in range(600))
    inflater = content_inflater("zstd")
    kept = []
    # A window of 512 KiB.
    for piece in cut(b"\x28\xb5\x2f\xfd\x00" + bytes([9 << 3]) + block, 10_000):
        fed(inflater, [piece])
        kept.append(inflater.kept_bytes)
    assert kept[:2] == sorted(kept[:2])
    assert 0 < kept[1] < 64 << 10
    assert kept[-1] == 512 << 10


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_what_is_cut_short_is_malformed(encoding):
    body = ENCODE[encoding](b"some lines")
    for short in (b"", body[:-1], body[:3], body + body[:5]):
        inflater = content_inflater(encoding)
        fed(inflater, [short])
        with pytest.raises(MalformedBodyError, match="cut short"):
            inflater.finish()


@given(st.sampled_from(["gzip", "zstd"]), st.binary(min_size=1, max_size=200), st.integers(1, 50))
def test_other_bytes_are_malformed(encoding, body, size):
    def take():
        inflater = content_inflater(encoding)
        fed(inflater, cut(body, size))
        inflater.finish()

    with pytest.raises((MalformedBodyError, MessageTooLargeError)):
        take()


def test_a_damaged_frame_is_malformed():
    # One segment of five bytes; its last block is compressed, and is none.
    frame = b"\x28\xb5\x2f\xfd\x20\x05" + (3 << 3 | 2 << 1 | 1).to_bytes(3, "little") + b"\xff" * 3
    with pytest.raises(MalformedBodyError):
        fed(content_inflater("zstd"), [frame])


def test_other_encodings_are_refused():
    for encoding in ("br", "gzip, gzip", ""):
        with pytest.raises(UnsupportedMediaTypeError):
            content_inflater(encoding)
