"""A log that is slow to open holds up nothing else of its broker."""

import asyncio

import pytest

from ottla_broker.drivers.replica_openings import OPENINGS_AT_ONCE
from ottla_broker.storage.disk_full import DiskFullError
from ottla_broker.storage.log_directory import LogDirectory
from ottla_broker.storage.partition_log import PartitionLog
from tests.unit.awaiting import until
from tests.unit.broker.test_replica_manager import (
    EVENTS,
    LOCAL,
    ORDERS,
    OTHER,
    THIRD,
    Manager,
    image,
)


class SlowManager(Manager):
    """A replica manager whose logs of one topic open when the test says so."""

    def __init__(self, directory, slow):
        super().__init__(directory)
        self.may_open = asyncio.Event()
        self.began = asyncio.Event()
        self.has_room = True
        logs = self.replicas._logs
        open_log = logs.open

        async def open_slowly(topic, state, **options):
            if topic.topic_id == slow:
                self.began.set()
                await logs.when_there_is_room(topic.name, options["on_held"], self._find_room)
                await self.may_open.wait()
            return await open_log(topic, state, **options)

        logs.open = open_slowly

    async def _find_room(self):
        if not self.has_room:
            raise DiskFullError("no room")

    def begin_at_once(self):
        self.replicas.start()
        self.replicas.activate()

    @property
    def has_settled(self):
        openings = self.replicas._openings
        return not openings._openings and not openings._telling

    def is_hosted(self, topic_id):
        return (topic_id, 0) in self.replicas.partitions


@pytest.fixture
async def manager(tmp_path, monkeypatch):
    monkeypatch.setattr("ottla_broker.drivers.replica_logs.RETRY_WITHOUT_ROOM_MS", 10)
    with LogDirectory(tmp_path / "data") as directory:
        manager = SlowManager(directory, EVENTS)
        yield manager
        manager.may_open.set()
        await manager.replicas.stop()


async def test_the_metadata_goes_on_while_a_new_log_is_slow_to_open(manager):
    manager.begin_at_once()
    await manager.apply(image(1))
    await manager.apply(image(2, topics=(ORDERS, EVENTS)))
    assert not manager.is_hosted(EVENTS)
    await manager.apply(image(3, leader=THIRD, leader_epoch=1, topics=(ORDERS, EVENTS)))
    assert manager.hosted.follower.leader_id == THIRD
    manager.may_open.set()
    await until(lambda: manager.is_hosted(EVENTS))
    late = manager.replicas.partitions[EVENTS, 0]
    await until(lambda: late.follower is not None)
    assert late.follower.leader_id == THIRD
    assert manager.replicas._fetchers.is_following(late)


async def test_a_late_log_may_lead_by_then(manager):
    manager.begin_at_once()
    await manager.apply(image(1))
    await manager.apply(image(2, topics=(ORDERS, EVENTS)))
    await manager.apply(image(3, leader=LOCAL, leader_epoch=1, topics=(ORDERS, EVENTS)))
    manager.may_open.set()
    await until(lambda: manager.is_hosted(EVENTS))
    await until(lambda: manager.replicas.partitions[EVENTS, 0].leader is not None)


async def test_a_start_waits_for_every_log(manager):
    manager.begin_at_once()
    manager.metadata.publish(image(1, topics=(ORDERS, EVENTS)))
    await manager.began.wait()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await manager.replicas.wait_applied(1)
    manager.may_open.set()
    await manager.apply(image(1, topics=(ORDERS, EVENTS)))
    assert manager.is_hosted(EVENTS)


async def test_a_start_does_not_wait_for_a_log_that_waits_for_room(manager):
    manager.has_room = False
    manager.may_open.set()
    manager.begin_at_once()
    await manager.apply(image(1, topics=(ORDERS, EVENTS)))
    assert manager.hosted.follower is not None
    assert not manager.is_hosted(EVENTS)
    manager.has_room = True
    await until(lambda: manager.is_hosted(EVENTS))
    await until(lambda: manager.replicas.partitions[EVENTS, 0].follower is not None)


async def test_a_topic_that_goes_while_its_log_is_opened_leaves_nothing(manager):
    manager.begin_at_once()
    await manager.apply(image(1))
    await manager.apply(image(2, topics=(ORDERS, EVENTS)))
    manager.metadata.publish(image(3))
    manager.may_open.set()
    await manager.apply(image(4))
    assert manager.hosted.follower is not None
    await until(lambda: manager.has_settled)
    assert not manager.is_hosted(EVENTS)
    assert (EVENTS, 0) not in manager.witness.ends


async def test_a_topic_that_goes_while_its_log_waits_for_room_holds_up_nothing(manager):
    """Room may have to be made by what the metadata says next: that another topic goes."""
    manager.begin_at_once()
    manager.may_open.set()
    await manager.apply(image(1))
    manager.has_room = False
    await manager.apply(image(2, topics=(ORDERS, EVENTS)))
    async with asyncio.timeout(10):
        await manager.apply(image(3))
        await manager.apply(image(4, topics=()))
    assert not manager.is_hosted(ORDERS)
    manager.has_room = True
    await until(lambda: manager.has_settled)
    assert not manager.replicas.partitions


async def test_a_namesake_waits_for_the_log_in_whose_place_it_comes(manager):
    manager.begin_at_once()
    await manager.apply(image(1))
    await manager.apply(image(2, topics=(ORDERS, EVENTS)))
    namesake = EVENTS[0] + "n" * 31
    async with asyncio.timeout(10):
        await manager.apply(image(3, topics=(ORDERS, namesake)))
    assert not manager.is_hosted(namesake)
    manager.may_open.set()
    await until(lambda: manager.has_settled)
    assert manager.is_hosted(namesake)
    assert not manager.is_hosted(EVENTS)
    assert manager.replicas.partitions[namesake, 0].follower is not None


MANY = tuple(letter * 32 for letter in "bcdef0123")


class Openings:
    """What `PartitionLog.open` is called for, and how often at the same time."""

    def __init__(self, monkeypatch):
        self.topic_ids = []
        self.most = 0
        self._now = 0
        open_log = PartitionLog.open

        async def counted(directory, **options):
            self.topic_ids.append(options["topic_id"])
            self._now += 1
            self.most = max(self.most, self._now)
            try:
                return await open_log(directory, **options)
            finally:
                self._now -= 1

        monkeypatch.setattr(PartitionLog, "open", counted)


async def test_a_broker_that_has_started_opens_few_logs_at_once(manager, monkeypatch):
    """And in the metadata's order, as all brokers do: a leader waits only so long for followers."""
    manager.may_open.set()
    manager.begin_at_once()
    await manager.apply(image(1))
    openings = Openings(monkeypatch)
    await manager.apply(image(2, topics=(ORDERS, *MANY)))
    await until(lambda: all(manager.is_hosted(topic_id) for topic_id in MANY))
    assert openings.topic_ids == list(MANY)
    assert openings.most == OPENINGS_AT_ONCE


async def test_a_start_opens_logs_as_fast_as_it_can(manager, monkeypatch):
    openings = Openings(monkeypatch)
    manager.may_open.set()
    manager.begin_at_once()
    await manager.apply(image(1, topics=(ORDERS, *MANY)))
    assert openings.most > OPENINGS_AT_ONCE


@pytest.mark.parametrize("is_last", [False, True])
async def test_only_the_last_late_log_has_all_others_named_again(manager, is_last):
    """A fetch that is given up for one ends the session; thousands of new logs would each do so."""
    fetches = []
    never_answer = manager.peers.post

    async def counted(*arguments, **options):
        fetches.append(arguments)
        await never_answer(*arguments, **options)

    manager.peers.post = counted
    manager.leader_urls[OTHER] = "http://other"
    manager.begin_at_once()
    await manager.apply(image(1))
    await until(lambda: len(fetches) == 1)
    await manager.apply(image(2, topics=(ORDERS, EVENTS)))
    if not is_last:
        manager.replicas._openings.begin((MANY[1], 0), ("x", 0), asyncio.Event().wait())
    manager.may_open.set()
    await until(lambda: manager.is_hosted(EVENTS))
    late = manager.replicas.partitions[EVENTS, 0]
    await until(lambda: manager.replicas._fetchers.is_following(late))
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(fetches) == (2 if is_last else 1)
    # The next fetch names it.
    (fetcher,) = manager.replicas._fetchers._fetchers.values()
    assert (EVENTS, 0) in fetcher._session._wanted
