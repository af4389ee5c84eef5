"""Where tools read records from: a cluster (`cluster_records`) or files (`stored_records`)."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from ottla import ConsumerRecord
from ottla_ops.records.selection import Selection


@dataclass(frozen=True, slots=True)
class TopicRead:
    """A topic that is about to be read from its beginning to its end as it is now.

    Attributes:
        partitions: the numbers of those that are read, ascending.
        offsets: how many offsets will be gone through: the number of records, save where compaction
            left gaps and where timestamps leave records out.
        records: the selected records in runs, each of one partition and in the order of offsets;
            keys and values are bytes or None. To be gone through once.
    """

    partitions: tuple[int, ...]
    offsets: int
    records: Iterator[list[ConsumerRecord]]


class RecordSource(Protocol):
    """Topics that can be read."""

    def has_topic(self, topic: str) -> bool:
        """Whether there is a topic of that name."""

    def read(self, topic: str, selection: Selection) -> TopicRead:
        """Decide what to read and where that ends; what is written later is left out."""


def selected(records: list[ConsumerRecord], selection: Selection) -> list[ConsumerRecord]:
    """Those of one partition's records whose offset and timestamp are wanted."""
    if not selection.offset.is_open:
        records = [record for record in records if record.offset in selection.offset]
    if not selection.timestamp.is_open:
        records = [record for record in records if record.timestamp in selection.timestamp]
    return records
