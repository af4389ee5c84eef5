"""What the `ack` of a poll carries: who got which records of which group.

It is opaque to clients, base64url of MessagePack. It grants nothing that its content does not: the
coordinator checks member, generation and partitions as it does for any commit.
"""

import base64
import binascii
from collections.abc import Mapping

import msgspec

from ottla_broker.services.leader_reads import TopicPartition
from ottla_cluster.groups.limits import MAX_OFFSETS_PER_COMMIT
from ottla_protocol.errors import InvalidRequestError
from ottla_protocol.models_groups import Count, Offset

VERSION = 1

MAX_ACK_PARTITIONS = MAX_OFFSETS_PER_COMMIT
"""Partitions of one ack: they are committed all or none."""


class PollAck(msgspec.Struct, frozen=True):
    """An answer's records, as done: `offsets` are the next ones to read."""

    group: str
    member_id: str
    generation: int
    offsets: Mapping[TopicPartition, int]


class _Encoded(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    version: int
    group: str
    member_id: str
    generation: Offset
    topics: dict[str, dict[Count, Offset]]


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Encoded)


def encode_ack(ack: PollAck) -> str:
    """The ack as clients get it."""
    topics: dict[str, dict[int, int]] = {}
    for (topic, partition), offset in ack.offsets.items():
        topics.setdefault(topic, {})[partition] = offset
    encoded = _Encoded(VERSION, ack.group, ack.member_id, ack.generation, topics)
    return base64.urlsafe_b64encode(_encoder.encode(encoded)).decode().rstrip("=")


def decode_ack(text: str, *, group: str, member_id: str | None) -> PollAck:
    """What a client sends back.

    Args:
        text: as `encode_ack` made it.
        group: the group that is polled.
        member_id: the member that polls, if it says so.

    Raises:
        InvalidRequestError: it is none, or another group's or member's; `field` is `ack`.
    """
    try:
        padded = text.encode("ascii") + b"=" * (-len(text) % 4)
        encoded = _decoder.decode(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (UnicodeError, binascii.Error, msgspec.MsgspecError) as error:
        raise InvalidRequestError("ack is not the ack of a poll", field="ack") from error
    count = sum(len(partitions) for partitions in encoded.topics.values())
    if encoded.version != VERSION or not 1 <= count <= MAX_ACK_PARTITIONS:
        raise InvalidRequestError("ack is not the ack of a poll", field="ack")
    if encoded.group != group:
        raise InvalidRequestError(
            f"ack belongs to the group '{encoded.group}', not to '{group}'", field="ack"
        )
    if member_id is not None and encoded.member_id != member_id:
        raise InvalidRequestError(
            f"ack belongs to the member '{encoded.member_id}', not to '{member_id}'", field="ack"
        )
    offsets = {
        (topic, partition): offset
        for topic, partitions in encoded.topics.items()
        for partition, offset in partitions.items()
    }
    return PollAck(group, encoded.member_id, encoded.generation, offsets)
