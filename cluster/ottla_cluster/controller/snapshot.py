"""A metadata image as bytes: what a Raft snapshot carries in place of the log's prefix."""

import msgspec

from ottla_cluster.controller.image import MetadataImage
from ottla_cluster.controller.records import CorruptMetadataError

SNAPSHOT_FORMAT = 1
"""Rises when a reader of the former format would misread the new one."""


class _Snapshot(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: int
    image: MetadataImage


_DECODER = msgspec.msgpack.Decoder(_Snapshot)


def encode_image(image: MetadataImage) -> bytes:
    """The image as MessagePack."""
    return msgspec.msgpack.encode(_Snapshot(SNAPSHOT_FORMAT, image))


def decode_image(snapshot: bytes) -> MetadataImage:
    """The image that `encode_image` wrote.

    Raises:
        CorruptMetadataError: it does not parse, or is of another format.
    """
    try:
        decoded = _DECODER.decode(snapshot)
    except (msgspec.DecodeError, AssertionError) as error:
        raise CorruptMetadataError(f"A metadata snapshot does not parse: {error}") from error
    if decoded.format != SNAPSHOT_FORMAT:
        raise CorruptMetadataError(
            f"A metadata snapshot has the format {decoded.format}, not {SNAPSHOT_FORMAT}."
        )
    return decoded.image
