"""The records of a machine that lives in a partition of an internal topic.

Each says all there is to say about its key, so the topic may be compacted by key at any time: the
newest record of a key replaces the older ones, and a tombstone (no value) removes it. A decision's
records are appended as one batch, so they apply together or not at all.

Key and value are MessagePack arrays; a key starts with a short tag. The format is for ever: a tag
or a field is never reused, a new field of a value goes to the end and has a default, and a reader
refuses a tag or a field that it does not know, since a machine that skipped it would rebuild
another state than its predecessor had.
"""

from collections.abc import Sequence

import msgspec

from ottla_protocol.errors import InternalError

KeyAndValue = tuple[bytes, bytes | None]
"""A record as it stands in the log; no value is a tombstone."""


class CorruptDecisionError(InternalError):
    """A decision's payload does not parse: the process damaged it on its way to the log."""

    title = "Corrupt decision"


class RecordPart(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The encoding that keys, values and their parts share."""


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(tuple[KeyAndValue, ...])


def encode_pairs(pairs: Sequence[KeyAndValue]) -> bytes:
    """All records of one decision as a payload."""
    return _ENCODER.encode(pairs)


def decode_pairs(payload: bytes) -> tuple[KeyAndValue, ...]:
    """The keys and values of one decision, to append as one batch: the inverse of encode_pairs.

    Raises:
        CorruptDecisionError: the payload is none.
    """
    try:
        return _DECODER.decode(payload)
    except msgspec.DecodeError as error:
        raise CorruptDecisionError(f"A decision's payload does not parse: {error}") from error
