"""Bodies that inflate as they come: whole whatever the pieces, bounded whatever they hold."""

import gzip

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


def test_a_zstd_frame_has_a_bound_inflated_and_as_sent(monkeypatch):
    with pytest.raises(MessageTooLargeError):
        fed(content_inflater("zstd"), [ENCODE["zstd"](bytes(9 << 20))])
    monkeypatch.setattr(inflating, "ZSTD_FRAME_BYTES_MAX", 1_000)
    announced = b"\x50\x2a\x4d\x18\xff\xff\xff\x7f"
    with pytest.raises(MessageTooLargeError):
        fed(content_inflater("zstd"), [announced, bytes(1_000)])


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
