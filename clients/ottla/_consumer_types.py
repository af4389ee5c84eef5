"""Partitions and offsets as applications name them."""

from typing import NamedTuple


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
