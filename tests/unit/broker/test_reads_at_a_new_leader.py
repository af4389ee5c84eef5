"""A new leader has all that was acknowledged; until it knows so, no reader is told otherwise."""

import asyncio
from types import SimpleNamespace

import pytest

from ottla_broker.drivers.purgatory import Purgatory, Watchers
from ottla_broker.http.forwarding import refused_by
from ottla_broker.services import reading
from ottla_broker.services.consumer_reads import LeaderRead, LocalRead
from ottla_broker.services.reading import poll
from ottla_broker.services.record_read import AtTimestamp, ReadOptions, RecordReadService, needs_end
from ottla_broker.storage.stored_batch import StoredBatch
from ottla_cluster.replication.leader import PartitionLeader
from ottla_protocol.errors import (
    LeaderNotAvailableError,
    NotLeaderOrFollowerError,
    OffsetNotAvailableError,
    OverloadedError,
)

LONG_MS = 600_000
SOON_S = 10.0
HIGH_WATERMARK, EPOCH_START = 5, 8


class Log:
    """Offsets without records; one batch of 100 bytes for each."""

    log_start_offset = 0
    next_offset = 10

    def read_tail(self, offset, *, max_bytes, limit):
        return [StoredBatch(offset, offset, 0, bytes(100), None)]


class Led:
    """A partition at a leader that was elected with records up to EPOCH_START."""

    name = "orders-0"
    key = ("t" * 32, 0)

    def __init__(self):
        self.log = Log()
        self.state = SimpleNamespace(leader_epoch=3, partition=0, topic="orders")
        self.watermark_watchers = Watchers()
        self.leader = PartitionLeader(
            local_id=1,
            leader_epoch=3,
            partition_epoch=9,
            replicas=(1, 2),
            isr=(1, 2),
            epoch_start_offset=EPOCH_START,
            log_end_offset=10,
            high_watermark=HIGH_WATERMARK,
            min_insync_replicas=1,
            replica_lag_time_max_ms=1_000,
            now_ms=0,
        )

    @property
    def high_watermark(self):
        return self.leader.high_watermark

    def leading(self):
        if self.leader is None:
            raise NotLeaderOrFollowerError("another broker leads")
        return self.leader

    def latest_offset(self):
        if not self.leading().latest_offset_available:
            raise OffsetNotAvailableError("not known yet")
        return self.high_watermark

    def follower_has(self, offset):
        self.leader.follower_fetched(2, 12, offset, 0)
        self.watermark_watchers.wake()

    def resign(self):
        self.leader = None
        self.watermark_watchers.wake()


async def polled(*reads, max_wait_ms=0, min_bytes=1, purgatory=None):
    async with asyncio.timeout(SOON_S):
        await poll(
            reads,
            min_bytes=min_bytes,
            max_bytes=10_000,
            max_wait_ms=max_wait_ms,
            purgatory=purgatory or Purgatory(10),
        )


async def turns():
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(reading, "WATERMARK_WAIT_MS", 1)


@pytest.mark.parametrize(
    ("offset", "is_refused"),
    [
        (HIGH_WATERMARK - 1, False),
        (HIGH_WATERMARK, True),
        (EPOCH_START - 1, True),
        # Nobody has acknowledged anything there but this leader, and it has not.
        (EPOCH_START, False),
        (10, False),
    ],
)
@pytest.mark.parametrize("max_wait_ms", [0, 1])
async def test_what_may_have_been_acknowledged_is_not_denied(
    impatient, offset, is_refused, max_wait_ms
):
    read = LeaderRead(Led(), offset, 1_000)
    await polled(read, max_wait_ms=max_wait_ms)
    assert isinstance(read.error, OffsetNotAvailableError) == is_refused
    assert bool(read.batches) == (offset < HIGH_WATERMARK)
    if is_refused:
        assert (read.error.status, read.error.retriable) == (503, True)


@pytest.mark.parametrize("max_wait_ms", [0, LONG_MS])
async def test_a_read_waits_until_it_is_known(max_wait_ms, monkeypatch):
    monkeypatch.setattr(reading, "WATERMARK_WAIT_MS", LONG_MS)
    led = Led()
    read = LeaderRead(led, 6, 1_000)
    reader = asyncio.create_task(polled(read, max_wait_ms=max_wait_ms))
    await turns()
    led.follower_has(6)
    await turns()
    assert not reader.done()
    led.follower_has(7)
    await reader
    assert read.error is None
    assert [batch.base_offset for batch in read.batches] == [6]


async def test_a_read_is_told_that_the_leader_is_another_one_now(monkeypatch):
    monkeypatch.setattr(reading, "WATERMARK_WAIT_MS", LONG_MS)
    led = Led()
    read = LeaderRead(led, 6, 1_000)
    reader = asyncio.create_task(polled(read))
    await turns()
    led.resign()
    await reader
    assert isinstance(read.error, NotLeaderOrFollowerError)


@pytest.mark.parametrize("max_wait_ms", [0, LONG_MS])
async def test_the_records_of_others_wait_for_nobody(max_wait_ms):
    unknown, known = LeaderRead(Led(), 6, 1_000), LeaderRead(Led(), 2, 1_000)
    await polled(unknown, known, max_wait_ms=max_wait_ms)
    assert isinstance(unknown.error, OffsetNotAvailableError)
    assert known.error is None
    assert len(known.batches) == 1


async def test_a_poll_that_has_no_room_to_wait_says_so_and_one_that_is_released_goes():
    read = LeaderRead(Led(), 6, 1_000)
    with pytest.raises(OverloadedError):
        await polled(read, purgatory=Purgatory(0))
    stopping = Purgatory(10)
    stopping.release()
    await polled(read, purgatory=stopping, max_wait_ms=LONG_MS)
    assert isinstance(read.error, OffsetNotAvailableError)


async def test_one_brokers_own_copy_tells_what_it_knows():
    """Whoever asks for `local` asks for a copy that may lag."""
    led = Led()
    led.fitness = SimpleNamespace(lost_tail=False)
    read = LocalRead(led, 6, 1_000)
    await polled(read)
    assert read.error is None
    assert not read.batches


def service(led, purgatory=None):
    replicas = SimpleNamespace(hosted=lambda topic, partition: led)
    return RecordReadService(replicas, purgatory or Purgatory(10))


def options(position):
    return ReadOptions(position, max_bytes=1_000, max_records=10, min_bytes=1, max_wait_ms=0)


async def test_latest_waits_until_it_is_known(monkeypatch):
    monkeypatch.setattr(reading, "WATERMARK_WAIT_MS", LONG_MS)
    led = Led()
    asking = asyncio.create_task(service(led).offset_at("orders", 0, "latest"))
    await turns()
    led.follower_has(7)
    await turns()
    assert not asking.done()
    led.follower_has(9)
    async with asyncio.timeout(SOON_S):
        assert (await asking).offset == 9


@pytest.mark.parametrize("position", ["latest", -2, AtTimestamp(1)])
async def test_latest_that_is_not_known_in_time_is_refused(impatient, position):
    reads = service(Led())
    with pytest.raises(OffsetNotAvailableError):
        await reads.read("orders", 0, options(position), local=False)
    if position != -2:
        with pytest.raises(OffsetNotAvailableError):
            await reads.offset_at("orders", 0, position)


async def test_latest_of_a_leader_that_resigns_is_asked_elsewhere(monkeypatch):
    monkeypatch.setattr(reading, "WATERMARK_WAIT_MS", LONG_MS)
    led = Led()
    asking = asyncio.create_task(service(led).offset_at("orders", 0, "latest"))
    await turns()
    led.resign()
    async with asyncio.timeout(SOON_S):
        with pytest.raises(NotLeaderOrFollowerError):
            await asking


def test_only_positions_that_are_told_by_the_end_wait_for_it():
    assert all(map(needs_end, ("latest", -1, AtTimestamp(0))))
    assert not any(map(needs_end, ("earliest", 0, 7)))


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b'{"code":"OFFSET_NOT_AVAILABLE","detail":"not yet"}', OffsetNotAvailableError),
        (b'{"code":"NOT_LEADER_OR_FOLLOWER"}', LeaderNotAvailableError),
        (b'{"code":"BROKER_NOT_AVAILABLE"}', LeaderNotAvailableError),
        (b"[]", LeaderNotAvailableError),
        (b"", LeaderNotAvailableError),
        (b"<html>", LeaderNotAvailableError),
    ],
)
def test_a_forwarded_read_is_told_what_the_leader_does_not_know(body, error):
    assert type(refused_by(2, body)) is error
