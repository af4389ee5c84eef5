"""What reads of records answer; the brokers render these texts by hand, for speed."""

from ottla_protocol.json_records import RenderedRecord
from ottla_protocol.models import Response


class PartitionRecords(Response, frozen=True):
    """`GET …/records` of one partition: `next_offset` is where the next read begins."""

    topic: str
    partition: int
    records: list[RenderedRecord]
    next_offset: int
    high_watermark: int
    log_start_offset: int


class TopicRecords(Response, frozen=True):
    """`GET …/records` of a topic: `cursor` is where the next read begins, at any broker.

    `unavailable` names the partitions that could not be read; the cursor has not moved there.
    """

    topic: str
    records: list[RenderedRecord]
    cursor: str
    unavailable: list[int]
