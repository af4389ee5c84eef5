"""Records that are told their own fates."""

import asyncio

from ottla_broker.services.produce_options import ProduceOptions
from ottla_broker.services.record_appends import AppendedRecord, RecordAppendService
from ottla_cluster.controller.image import Topic
from ottla_protocol.errors import Outcome, RecordWithoutKeyError
from ottla_protocol.json_records import ParsedRecord
from ottla_protocol.models import ACKS_ALL, ProduceResponse, ProduceResult, RecordPosition

OPTIONS = ProduceOptions.checked(ACKS_ALL, 1_000)
COMPACTED = Topic("id", "t", {"cleanup.policy": "compact"}, partitions=(None,))


class Topics:
    async def find(self, _name):
        return COMPACTED


class Produce:
    """A leader that takes everything."""

    def __init__(self):
        self.calls = []

    async def produce(self, topic, records, _options):
        self.calls.append(records)
        result = ProduceResult(0, 0, len(records), 9, duplicate=False)
        positions = [RecordPosition(0, offset) for offset in range(len(records))]
        return ProduceResponse(topic, [result], positions)


def test_records_without_a_key_cost_a_compacted_topics_leader_nothing():
    produce = Produce()
    service = RecordAppendService(topics=Topics(), produce=produce)
    keyless, keyed = ParsedRecord(None, b"1"), ParsedRecord(b"k", b"2")
    records = [keyless] * 1_000 + [keyed] + [keyless] * 1_000
    fates = asyncio.run(service.append("t", records, OPTIONS))
    assert produce.calls == [[keyed]]
    assert fates[1_000] == AppendedRecord(0, 0, 9)
    refused = fates[:1_000] + fates[1_001:]
    assert {type(fate) for fate in refused} == {RecordWithoutKeyError}
    assert {fate.outcome for fate in refused} == {Outcome.NOT_APPLIED}
