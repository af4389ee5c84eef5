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
