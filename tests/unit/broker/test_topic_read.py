"""Reads of a whole topic end within their bounds, whatever their filter lets through."""

import pytest

from ottla_broker.drivers.purgatory import Purgatory
from ottla_broker.services import topic_read
from ottla_broker.services.record_filter import RecordFilter
from ottla_broker.services.topic_positions import Beginning, ReadScope
from ottla_broker.services.topic_read import TopicReadOptions, TopicReadService
from ottla_protocol.models import FetchedPartition
from ottla_protocol.record_batch import NO_LEADER_EPOCH, patch_batch
from ottla_protocol.record_codec import RecordData, encode_batch

TOPIC_ID = "0123456789abcdef0123456789abcdef"
A_MINUTE_MS = 60_000


class EndlessTopic:
    """One partition that has ten records of 100 bytes wherever it is read."""

    def __init__(self):
        self.reads = 0

    async def begin(self, topic, partition, start, *, isolation):
        return Beginning(ReadScope(topic, TOPIC_ID, partition), (start,), (NO_LEADER_EPOCH,))

    async def read(self, positions, *, max_wait_ms, max_bytes, topic_ids, epochs, isolation):
        assert topic_ids == {"t": TOPIC_ID}
        self.reads += 1
        [(key, offset)] = positions.items()
        batch = encode_batch([RecordData(1, None, b"%100d" % number) for number in range(10)])
        patch_batch(batch, base_offset=offset, leader_epoch=0)
        return {key: FetchedPartition("t", 0, [memoryview(batch)], offset + 10, 0)}


@pytest.mark.parametrize(("limit", "value"), [("RECORDS", 45), ("BYTES", 4_500)])
async def test_a_filter_looks_at_no_more_than_its_share(monkeypatch, limit, value):
    """However long the request may wait; the cursor is behind what was looked at."""
    monkeypatch.setattr(topic_read, f"MAX_EXAMINED_{limit}", value)
    topic = EndlessTopic()
    service = TopicReadService(positions=topic, reads=topic, purgatory=Purgatory(10))
    options = TopicReadOptions(
        start=0,
        max_bytes=1 << 20,
        max_records=10,
        max_wait_ms=A_MINUTE_MS,
        filter=RecordFilter(key=b"nobody's"),
    )
    found = await service.read("t", options)
    assert (found.partitions, found.cursor.offsets, topic.reads) == ([], (50,), 5)
