"""Records without a timestamp get that of the broker that took them, or else the leader's."""

from types import SimpleNamespace

import pytest

from ottla_broker.drivers.purgatory import Purgatory
from ottla_broker.services import record_gathering, record_produce
from ottla_broker.services.produce_options import ProduceOptions
from ottla_broker.services.record_gathering import RecordGathering
from ottla_broker.services.record_produce import RecordProduceService
from ottla_broker.storage.append_rules import check_timestamp
from ottla_broker.storage.log_config import LogConfig
from ottla_protocol.errors import InvalidTimestampError, OttlaError, error_from_problem
from ottla_protocol.json_records import parse_records
from ottla_protocol.models import ACKS_ALL, AppendedBatch
from ottla_protocol.record_batch import read_header

LEADER_MS = 1_700_000_000_000
HERE_MS = LEADER_MS + 30 * 24 * 3_600_000
"""This broker's clock is wrong."""


class Leader:
    """Holds what it is sent to its own clock, over the wire."""

    def __init__(self, *, tells_its_time=True):
        self.attempts = []
        self._tells_its_time = tells_its_time

    async def deliver(self, batches, _options):
        self.attempts.append([batch.partition for batch in batches])
        return [self._append(batch) for batch in batches]

    def _append(self, batch):
        header = read_header(batch.batch)
        try:
            check_timestamp(header, config=LogConfig(), now_ms=LEADER_MS)
        except OttlaError as error:
            document = error.problem()
            if not self._tells_its_time:
                del document["broker_time"]
            return error_from_problem(document)
        return AppendedBatch("t", batch.partition, 0, header.record_count, header.max_timestamp)


async def produce(leader, body):
    async def find(_name):
        return SimpleNamespace(
            name="t",
            topic_id="a" * 32,
            configs={},
            partitions=[SimpleNamespace(leader=2)] * 2,
            former_partition_counts=(),
        )

    gathering = RecordGathering(
        node_id=1,
        produce=leader,
        forwarder=SimpleNamespace(gather_ms_towards=lambda *_: 0),
        purgatory=Purgatory(limit=1),
    )
    service = RecordProduceService(
        topics=SimpleNamespace(find=find), produce=leader, idempotency=None, gathering=gathering
    )
    return await service.produce("t", parse_records(body), ProduceOptions.checked(ACKS_ALL, 1000))


@pytest.fixture(autouse=True)
def wrong_clock(monkeypatch):
    for module in (record_gathering, record_produce):
        monkeypatch.setattr(module, "wall_clock_ms", lambda: HERE_MS)


async def test_a_stamp_of_a_wrong_clock_gives_way_to_the_leader_s_time():
    leader = Leader()
    response = await produce(
        leader,
        b'{"records":[{"value":1,"partition":0},{"value":2,"partition":1,"timestamp":5}]}',
    )
    assert [each.timestamp for each in response.results] == [LEADER_MS, 5]
    assert leader.attempts == [[0, 1], [0]]


async def test_so_it_does_for_a_small_request():
    """Which waits for company first, and has none."""
    leader = Leader()
    response = await produce(leader, b'{"records":[{"value":1,"partition":0}]}')
    assert [each.timestamp for each in response.results] == [LEADER_MS]


@pytest.mark.parametrize("timestamp", [HERE_MS - 1, HERE_MS + 1])
async def test_a_client_s_own_timestamp_is_refused_all_the_same(timestamp):
    leader = Leader()
    body = b'{"records":[{"value":1,"partition":0},{"value":2,"partition":0,"timestamp":%d}]}'
    with pytest.raises(InvalidTimestampError) as refused:
        await produce(leader, body % timestamp)
    assert refused.value.members["timestamp"] == timestamp
    assert not refused.value.retriable


async def test_a_leader_of_an_earlier_version_does_not_tell_its_time():
    leader = Leader(tells_its_time=False)
    with pytest.raises(InvalidTimestampError):
        await produce(leader, b'{"records":[{"value":1,"partition":0}]}')
    # With company, and alone.
    assert leader.attempts == [[0], [0]]
