"""What a keyed produce is told of all its attempts together: a later one says nothing of the first.

The leaders here are the world's: they answer attempt after attempt as a test has it.
"""

from types import SimpleNamespace

import pytest

from ottla_broker.services import produce_options, record_produce
from ottla_broker.services.produce import ProduceService
from ottla_broker.services.produce_options import ProduceOptions
from ottla_broker.services.record_produce import RecordProduceService
from ottla_broker.services.stream_produce import StoredLine, StreamLine, StreamProduceService
from ottla_broker.storage.policy.idempotency_window import LAST_LINE
from ottla_protocol.errors import (
    DuplicateSequenceNumberError,
    InvalidTimestampError,
    LeaderNotAvailableError,
    MessageTooLargeError,
    NotEnoughReplicasError,
    OttlaError,
    Outcome,
    RequestTimedOutError,
)
from ottla_protocol.json_records import ParsedRecord
from ottla_protocol.models import ACKS_ALL, AppendedBatch, BatchToAppend
from ottla_protocol.record_batch import read_header

TIMEOUT_MS = 1_000
KEY = bytes(32)
HERE_MS = 1_700_000_000_000
LEADER_MS = HERE_MS - 1_000


def lost():
    return RequestTimedOutError("no answer", outcome=Outcome.UNKNOWN)


def refused(error_class=LeaderNotAvailableError, **members):
    return error_class("not now", outcome=Outcome.NOT_APPLIED, **members)


def stored(batch):
    header = read_header(batch.batch)
    return AppendedBatch(batch.topic, batch.partition, 7, header.record_count, header.max_timestamp)


class Clock:
    """Goes on only while somebody waits."""

    def __init__(self):
        self.now_ms = 0

    def __call__(self):
        return self.now_ms

    async def wait_for_change(self, *, timeout_ms):
        self.now_ms += timeout_ms


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(produce_options, "monotonic_ms", clock)
    return clock


class Leaders:
    """Answer each attempt of a partition with the next of its script, and then with the last."""

    def __init__(self, **scripts):
        self.scripts = {int(name.removeprefix("of_")): list(each) for name, each in scripts.items()}
        self.attempts = []

    async def forward(self, leader, batches, options):
        self.attempts.append([batch.partition for batch in batches])
        return [self._answer(batch) for batch in batches]

    def _answer(self, batch):
        script = self.scripts[batch.partition]
        answer = script.pop(0) if len(script) > 1 else script[0]
        if answer is stored:
            return stored(batch)
        return answer if isinstance(answer, AppendedBatch) else answer()


def produce_service(leaders):
    metadata = SimpleNamespace(
        image=SimpleNamespace(
            topics={"id": object()},
            partition_by_id=lambda *_: SimpleNamespace(leader=2),
        ),
        wait_for_change=produce_options.monotonic_ms.wait_for_change,
    )
    return ProduceService(
        node_id=1,
        metadata=metadata,
        replicas=None,
        forwarder=leaders,
        purgatory=None,
        coordinator=None,
    )


async def deliver(leaders, *, idempotency=KEY):
    batches = [
        BatchToAppend("t", partition, memoryview(b"x"), topic_id="id", idempotency=idempotency)
        for partition in leaders.scripts
    ]
    options = ProduceOptions(ACKS_ALL, TIMEOUT_MS)
    return await produce_service(leaders).deliver(batches, options)


@pytest.mark.parametrize(
    "last",
    [refused, lambda: refused(MessageTooLargeError), lambda: refused(NotEnoughReplicasError)],
)
async def test_a_later_refusal_does_not_say_that_nothing_was_applied(last):
    leaders = Leaders(of_0=[refused, lost, refused, last])
    [result] = await deliver(leaders)
    assert isinstance(result, type(last()))
    assert result.outcome is Outcome.UNKNOWN
    assert len(leaders.attempts) > 3


async def test_only_what_was_lost_is_unknown():
    told = refused()
    # One error for both batches, as of a request that fails as a whole.
    leaders = Leaders(of_0=[lost, lambda: told], of_1=[refused, lambda: told])
    [first, second] = await deliver(leaders)
    assert (first.outcome, second.outcome) == (Outcome.UNKNOWN, Outcome.NOT_APPLIED)


async def test_what_was_lost_and_is_acknowledged_after_all_is_acknowledged():
    here = AppendedBatch("t", 0, 7, 1, 0, duplicate=True)
    [result] = await deliver(Leaders(of_0=[lost, refused, here]))
    assert result is here


async def test_without_a_key_nothing_is_sent_again_that_may_be_there():
    leaders = Leaders(of_0=[refused, lost, refused])
    [result] = await deliver(leaders, idempotency=None)
    assert (result.outcome, len(leaders.attempts)) == (Outcome.UNKNOWN, 2)


# --- where records are encoded anew ---------------------------------------------------------------

TOPIC = SimpleNamespace(
    name="t",
    topic_id="id",
    configs={},
    partitions=[SimpleNamespace(leader=2)],
    former_partition_counts=(),
)


def early():
    """A stamp of this broker that the leader, whose clock is behind, does not take."""
    return refused(InvalidTimestampError, timestamp=HERE_MS, broker_time=LEADER_MS)


async def produce_without_timestamps(leaders, monkeypatch):
    monkeypatch.setattr(record_produce, "wall_clock_ms", lambda: HERE_MS)
    service = RecordProduceService(topics=None, produce=produce_service(leaders), idempotency=None)
    records = [ParsedRecord(b"key", b"value", (), None, None)]
    options = ProduceOptions(ACKS_ALL, produce_options.monotonic_ms() + TIMEOUT_MS)
    [result] = await service.deliver_split(TOPIC, records, {0: [0]}, {0: KEY}, options)
    return result


async def test_a_keyed_batch_that_may_be_there_gets_the_leaders_time_all_the_same(monkeypatch):
    leaders = Leaders(of_0=[lost, early, stored])
    result = await produce_without_timestamps(leaders, monkeypatch)
    assert isinstance(result, AppendedBatch)
    assert result.timestamp == LEADER_MS


async def test_with_the_leaders_time_it_may_still_be_there(monkeypatch):
    leaders = Leaders(of_0=[lost, early, refused])
    result = await produce_without_timestamps(leaders, monkeypatch)
    assert (type(result), result.outcome) == (LeaderNotAvailableError, Outcome.UNKNOWN)


async def append_lines(leaders):
    async def find(_name):
        return TOPIC

    topics = SimpleNamespace(find=find)
    service = StreamProduceService(
        metadata=SimpleNamespace(image=SimpleNamespace(feature_level=100)),
        topics=topics,
        record_produce=RecordProduceService(
            topics=topics, produce=produce_service(leaders), idempotency=None
        ),
        idempotency=SimpleNamespace(counted=lambda _: None),
    )
    options = ProduceOptions(ACKS_ALL, produce_options.monotonic_ms() + TIMEOUT_MS)
    stream = await service.begin(options, topic="t", partition=0, key="key")
    lines = [
        StreamLine(number, "t", ParsedRecord(None, b"%d" % number, (), HERE_MS, None))
        for number in range(4)
    ]
    return await service.append(stream, lines, options)


def partly_there():
    return refused(DuplicateSequenceNumberError, **{LAST_LINE: 1})


async def test_lines_that_may_be_there_may_be_there_when_they_are_sent_in_parts():
    results = await append_lines(Leaders(of_0=[lost, partly_there, stored, refused]))
    assert [type(each) for each in results[:2]] == [StoredLine] * 2
    assert [each.outcome for each in results[2:]] == [Outcome.UNKNOWN] * 2


async def test_lines_of_which_nothing_was_lost_are_not_there():
    results = await append_lines(Leaders(of_0=[refused, partly_there, stored, refused]))
    assert [type(each) for each in results[:2]] == [StoredLine] * 2
    assert all(isinstance(each, OttlaError) for each in results[2:])
    assert [each.outcome for each in results[2:]] == [Outcome.NOT_APPLIED] * 2
