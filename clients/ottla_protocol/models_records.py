"""What reads of records answer; the brokers render these texts by hand, for speed."""

from msgspec import UNSET, Raw, UnsetType

from ottla_protocol.json_records import RenderedRecord
from ottla_protocol.models import Response


class SelectedRecord(Response, frozen=True):
    """As RenderedRecord, with what `fields` asked for alone."""

    offset: int | UnsetType = UNSET
    timestamp: int | UnsetType = UNSET
    key: str | UnsetType | None = UNSET
    key_b64: bytes | UnsetType = UNSET
    value: Raw | UnsetType | None = UNSET
    value_text: str | UnsetType = UNSET
    value_b64: bytes | UnsetType = UNSET
    headers: dict[str, str] | list[tuple[str, str | dict[str, bytes] | None]] | UnsetType = UNSET


class PartitionRecords(Response, frozen=True):
    """`GET …/records` of one partition: `next_offset` is where the next read begins.

    `last_stable_offset` is there with `isolation=read_committed`: nobody may read so from there on
    yet.
    """

    topic: str
    partition: int
    records: list[SelectedRecord]
    next_offset: int
    high_watermark: int
    log_start_offset: int
    last_stable_offset: int | UnsetType = UNSET


class TopicRecords(Response, frozen=True):
    """`GET …/records` of a topic: `cursor` is where the next read begins, at any broker.

    `unavailable` names the partitions that could not be read; the cursor has not moved there.
    """

    topic: str
    records: list[RenderedRecord]
    cursor: str
    unavailable: list[int]
