"""A fetcher's other partitions do not wait for one's slow commit, and nothing is told too early."""

import asyncio
import threading
from dataclasses import replace

import msgspec
import pytest

from ottla_broker.drivers import replica_fetcher
from ottla_broker.drivers.partition import Partition
from ottla_broker.drivers.peer_messages import (
    FetchResult,
    ReplicaFetchRequest,
    ReplicatedBatch,
    encode_fetch_answer,
)
from ottla_broker.drivers.replica_commits import COMMITTING_BYTES_MAX
from ottla_broker.drivers.replica_fetcher import (
    COMMITTING_FETCH_MS,
    MAX_WAIT_MS,
    ReplicaFetcher,
)
from ottla_broker.storage import segment
from ottla_broker.storage.disk_full import DiskFullError
from ottla_broker.storage.handles import HandlePool
from ottla_broker.storage.log_listeners import LogListeners
from ottla_broker.storage.partition_log import LogConfig, PartitionLog
from ottla_broker.storage.tail_cache import TailCache
from ottla_protocol.errors import StorageError
from ottla_protocol.record_batch import patch_batch
from ottla_protocol.record_codec import RecordData, encode_batch
from tests.unit.awaiting import until
from tests.unit.broker.disks import DiskOf
from tests.unit.broker.test_partition import LOCAL, OTHER, state

SESSION = 7
LARGE_BYTES = 100_000
LARGE = bytes(LARGE_BYTES)
EPOCH = 1


def batch(offset, value=b"v"):
    data = bytearray(encode_batch([RecordData(timestamp=1, key=None, value=value)]))
    patch_batch(data, base_offset=offset, leader_epoch=EPOCH)
    return ReplicatedBatch(data, None)


class Leader:
    """Answers each fetch when the test says what with; sees what is asked."""

    def __init__(self):
        self.fetches = asyncio.Queue()
        self.answers = asyncio.Queue()
        self.topic_id = state(OTHER, EPOCH).topic_id

    async def post(self, url, path, body, *, timeout_ms, purpose):
        del url, path, timeout_ms, purpose
        self.fetches.put_nowait(msgspec.msgpack.decode(body, type=ReplicaFetchRequest))
        return b"".join(encode_fetch_answer(await self.answers.get(), SESSION))

    async def asked(self):
        """The next fetch: what it waits for at most, what it names, and what it forgets."""
        async with asyncio.timeout(10):
            fetch = await self.fetches.get()
        return (
            fetch.max_wait_ms,
            {position.partition: position.offset for position in fetch.positions},
            {partition for _, partition in fetch.forgotten},
        )

    async def is_not_asked(self):
        """Nothing is asked for as long as several fetches would take."""
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await self.fetches.get()

    async def named(self):
        """What the next fetch names that names anything; those before are answered with nothing."""
        while True:
            _, positions, _ = await self.asked()
            if positions:
                return positions
            self.answer()

    def answer(self, batches=None):
        self.answers.put_nowait(
            [
                FetchResult(self.topic_id, partition, None, 0, 0, None, [given])
                for partition, given in (batches or {}).items()
            ]
        )


class Follower:
    """Partitions on real logs, followed by a fetcher."""

    def __init__(self, path):
        self.path = path
        self.leader = Leader()
        self.failures = []
        self.partitions = []
        self.handles = HandlePool(8)
        self.fetcher = ReplicaFetcher(
            node_id=LOCAL,
            leader_id=OTHER,
            peers=self.leader,
            leader_url=lambda: "http://leader",
            broker_epoch=lambda: 1,
            disk=DiskOf(free_bytes=1 << 40),
            on_refused=pytest.fail,
            on_failure=self.failures.append,
        )

    async def start(self, partitions=2):
        for number in range(partitions):
            log = await PartitionLog.open(
                self.path / f"orders-{number}",
                topic="orders",
                topic_id=self.leader.topic_id,
                partition=number,
                config=LogConfig(),
                handles=self.handles,
                tail_cache=TailCache(1 << 20),
                listeners=LogListeners(
                    on_durable=lambda end: None, on_failure=self.failures.append
                ),
            )
            hosted = Partition(
                log,
                replace(state(None, 0), partition=number),
                node_id=LOCAL,
                high_watermark=0,
                disk=DiskOf(free_bytes=1 << 40),
                replica_lag_time_max_ms=60_000,
                lease_valid=lambda: True,
                propose=pytest.fail,
            )
            await hosted.become_follower(replace(state(OTHER, EPOCH), partition=number))
            self.fetcher.add(hosted)
            self.partitions.append(hosted)
        self.fetcher.start()
        assert await self.leader.asked() == (
            MAX_WAIT_MS,
            dict.fromkeys(range(partitions), 0),
            set(),
        )

    async def stop(self):
        await self.fetcher.stop()
        for hosted in self.partitions:
            if hosted.log.failure is None:
                await hosted.close()
        await self.handles.close_all()


class SlowDisk:
    """Holds commits of large batches until it is let go."""

    def __init__(self, monkeypatch):
        self.is_free = threading.Event()
        self.error = None
        self.failed = 0
        sound = segment.insert

        def insert(connection, rows, epochs, **options):
            if any(row[-2] >= LARGE_BYTES for row in rows):
                self.is_free.wait(20)
                if self.error is not None:
                    self.failed += 1
                    raise self.error
            sound(connection, rows, epochs, **options)

        monkeypatch.setattr(segment, "insert", insert)


@pytest.fixture
async def follower(tmp_path):
    follower = Follower(tmp_path)
    yield follower
    await follower.stop()


@pytest.fixture
def disk(monkeypatch):
    disk = SlowDisk(monkeypatch)
    yield disk
    disk.is_free.set()


async def test_others_are_fetched_and_acknowledged_while_a_slow_commit_is_under_way(follower, disk):
    await follower.start()
    leader = follower.leader
    leader.answer({0: batch(0, LARGE)})
    # It is named no more, so nothing of it is acknowledged, and nothing of it comes twice.
    assert await leader.asked() == (COMMITTING_FETCH_MS, {}, {0})
    leader.answer({1: batch(0)})
    assert await leader.named() == {1: 1}
    assert follower.partitions[0].log.log_end_offset == 0
    disk.is_free.set()
    leader.answer()
    assert await leader.named() == {0: 1}
    assert follower.partitions[0].log.log_end_offset == 1
    leader.answer()
    assert await leader.asked() == (MAX_WAIT_MS, {}, set())


async def test_commits_that_end_soon_are_acknowledged_by_the_next_fetch(follower, monkeypatch):
    monkeypatch.setattr(replica_fetcher, "COMMIT_WAIT_MS", 10_000)
    await follower.start()
    follower.leader.answer({0: batch(0, LARGE), 1: batch(0)})
    assert await follower.leader.asked() == (MAX_WAIT_MS, {0: 1, 1: 1}, set())


async def test_where_nothing_else_is_followed_the_commit_is_waited_for(follower, disk):
    """A fetch that names nothing would only come back with nothing."""
    await follower.start(partitions=1)
    leader = follower.leader
    leader.answer({0: batch(0, LARGE)})
    await until(lambda: follower.partitions[0].log.next_offset == 1)
    await leader.is_not_asked()
    disk.is_free.set()
    assert await leader.asked() == (MAX_WAIT_MS, {0: 1}, set())


async def test_no_more_is_fetched_while_as_much_as_may_be_is_on_its_way(follower, disk):
    await follower.start(partitions=3)
    leader = follower.leader
    half = bytes(COMMITTING_BYTES_MAX // 2)
    leader.answer({0: batch(0, half)})
    assert await leader.asked() == (COMMITTING_FETCH_MS, {}, {0})
    leader.answer({1: batch(0, half)})
    await until(lambda: follower.partitions[1].log.next_offset == 1)
    await leader.is_not_asked()
    disk.is_free.set()
    named = {}
    while named != {0: 1, 1: 1}:
        named |= await leader.named()
        leader.answer()


async def removed_amid_its_commit(follower):
    """The removal of a partition that waits for its slow commit."""
    await follower.start()
    follower.leader.answer({0: batch(0, LARGE)})
    await follower.leader.asked()
    removing = asyncio.create_task(follower.fetcher.remove(follower.partitions[0].key))
    await asyncio.wait((removing,), timeout=0.05)
    assert not removing.done()
    return removing


async def test_who_is_followed_no_more_has_no_commit_under_way(follower, disk):
    removing = await removed_amid_its_commit(follower)
    disk.is_free.set()
    await removing
    replica = follower.partitions[0].log
    assert replica.log_end_offset == replica.next_offset == 1
    follower.leader.answer()
    assert await follower.leader.asked() == (MAX_WAIT_MS, {}, set())


async def test_giving_up_the_wait_for_a_commit_leaves_it_to_the_loop(follower, disk):
    removing = await removed_amid_its_commit(follower)
    removing.cancel()
    await asyncio.wait((removing,))
    disk.is_free.set()
    follower.leader.answer()
    assert await follower.leader.named() == {0: 1}


async def test_what_finds_no_room_is_given_up_and_asked_for_again(follower, disk, monkeypatch):
    monkeypatch.setattr(replica_fetcher, "NO_ROOM_BACKOFF_MS", 100)
    await follower.start()
    leader, hosted = follower.leader, follower.partitions[0]
    disk.error = DiskFullError("no room")
    leader.answer({0: batch(0, LARGE)})
    assert await leader.asked() == (COMMITTING_FETCH_MS, {}, {0})
    disk.is_free.set()
    await until(lambda: disk.failed > 0)
    leader.answer()
    assert await leader.named() == {0: 0}
    assert hosted.log.next_offset == 0
    assert follower.failures == []


async def test_a_log_that_fails_ends_the_fetcher(follower, disk):
    await follower.start()
    leader = follower.leader
    disk.error = StorageError("the disk is gone")
    leader.answer({0: batch(0, LARGE)})
    await leader.asked()
    disk.is_free.set()
    await until(lambda: follower.failures)
    leader.answer()
    await until(lambda: follower.fetcher._task._task.done())
    assert {type(failure) for failure in follower.failures} == {StorageError}
