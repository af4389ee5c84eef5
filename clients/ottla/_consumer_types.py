"""Partitions and offsets as applications name them."""

from collections.abc import Iterable
from typing import NamedTuple

from ottla_protocol.errors import InvalidRequestError
from ottla_protocol.topic_names import validate_topic_name


class TopicPartition(NamedTuple):
    """One partition of a topic."""

    topic: str
    partition: int


class OffsetAndMetadata(NamedTuple):
    """A committed offset.

    Attributes:
        offset: the next offset to read.
        metadata: text of the application's own, kept beside the offset.
        leader_epoch: the epoch under which the record before the offset was written, if known.
    """

    offset: int
    metadata: str = ""
    leader_epoch: int | None = None


class ConsumerGroupMetadata(NamedTuple):
    """Whose offsets a transaction commits; see `Producer.send_offsets_to_transaction`.

    Attributes:
        group_id: the group.
        member_id, generation: the member that read the records, so that one that the group has
            given up commits nothing (KIP-447); None for a consumer that is no member.
    """

    group_id: str
    member_id: str | None = None
    generation: int | None = None


class OffsetAndTimestamp(NamedTuple):
    """What a look-up by time finds.

    Attributes:
        offset: of the first record that is not older than the time that was asked for.
        timestamp: that record's, in milliseconds since the epoch.
        leader_epoch: the epoch under which the record was written, if known.
    """

    offset: int
    timestamp: int
    leader_epoch: int | None = None


def partition_of(given: object) -> TopicPartition:
    """A partition as callers name it.

    Raises:
        InvalidRequestError: it is none.
    """
    if isinstance(given, tuple) and len(given) == 2:
        topic, partition = given
        if isinstance(topic, str) and type(partition) is int and partition >= 0:
            validate_topic_name(topic)
            return TopicPartition(topic, partition)
    raise InvalidRequestError(
        f"a partition is TopicPartition(topic, number), the number at least 0, not {given!r}"
    )


def partitions_of(given: object) -> list[TopicPartition]:
    """Several partitions as callers name them.

    Raises:
        InvalidRequestError: they are not several, or one is none.
    """
    if isinstance(given, (str, bytes, TopicPartition)) or not isinstance(given, Iterable):
        raise InvalidRequestError(
            f"partitions must be several, each as TopicPartition(topic, number), not {given!r}",
            field="partitions",
        )
    return [partition_of(each) for each in given]
