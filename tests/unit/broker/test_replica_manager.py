"""Roles that change while a log is cut at damage, which may take long."""

import asyncio
from dataclasses import replace

import pytest
import structlog

from ottla_broker.drivers.metadata import MetadataCache
from ottla_broker.drivers.peer_messages import FetchResult, ReplicatedBatch
from ottla_broker.drivers.replica_fetcher import ReplicaFetcher
from ottla_broker.drivers.replica_healer import ReplicaHealer
from ottla_broker.drivers.replica_logs import ReplicaLogs
from ottla_broker.drivers.replica_manager import ROLE_STEP, ReplicaManager
from ottla_broker.storage.end_witness import EndWitness
from ottla_broker.storage.handles import HandlePool
from ottla_broker.storage.log_cleanup import LogCleanup
from ottla_broker.storage.log_config import LogConfig
from ottla_broker.storage.log_directory import LogDirectory
from ottla_broker.storage.partition_log import PartitionLog
from ottla_broker.storage.stored_batch import damaged
from ottla_broker.storage.tail_cache import TailCache
from ottla_cluster.controller.commands import ReportUnfitReplicasResponse, UnfitReplicaResult
from ottla_cluster.controller.image import MetadataImage, Partition, Topic
from ottla_cluster.controller.image_sharing import sharing_with
from ottla_cluster.replication.fitness import ReplicaFitness
from ottla_protocol.record_codec import RecordData, encode_batch
from tests.unit.awaiting import until
from tests.unit.broker.disks import DiskOf

LOCAL, OTHER, THIRD = 1, 2, 3
ORDERS, EVENTS = "a" * 32, "b" * 32
KEY = (ORDERS, 0)


def image(
    version,
    *,
    leader=OTHER,
    leader_epoch=0,
    topics=(ORDERS,),
    everybody=(LOCAL, OTHER, THIRD),
    isr=None,
):
    found = {}
    for topic_id in topics:
        name = f"topic-{topic_id[0]}"
        partition = Partition(
            topic_id, name, 0, everybody, isr or everybody, leader, leader_epoch, version
        )
        found[topic_id] = Topic(topic_id, name, {}, (partition,))
    return MetadataImage(version=version, topics=found)


class Peers:
    """Leaders that never answer."""

    async def post(self, *_, **__):
        await asyncio.Event().wait()


class Manager:
    """A replica manager on real logs, whose cut takes as long as the test wants."""

    def __init__(self, directory):
        self.metadata = MetadataCache(MetadataImage())
        self.witness_path = directory.path / "witness"
        self.witness = EndWitness(self.witness_path)
        self.peers = Peers()
        self.leader_urls = {}
        self.disk = DiskOf(free_bytes=1 << 40)
        self.replicas = ReplicaManager(
            node_id=LOCAL,
            metadata=self.metadata,
            logs=ReplicaLogs(
                directory=directory,
                handles=HandlePool(4),
                tail_cache=TailCache(0),
                defaults=LogConfig(),
                witness=self.witness,
                on_failure=lambda error: pytest.fail(str(error)),
            ),
            disk=self.disk,
            replica_lag_time_max_ms=10_000,
            lease_valid=lambda: True,
            propose=lambda *_: None,
            broker_epoch=lambda: 1,
            make_fetcher=self.make_fetcher,
            on_failure=lambda error: pytest.fail(str(error)),
            witness=self.witness,
        )
        self.disk_goes_on = asyncio.Event()
        self.is_cutting = asyncio.Event()

    def make_fetcher(self, leader_id):
        return ReplicaFetcher(
            node_id=LOCAL,
            leader_id=leader_id,
            peers=self.peers,
            leader_url=lambda: self.leader_urls.get(leader_id),
            broker_epoch=lambda: 1,
            disk=self.disk,
            on_refused=lambda _: None,
            on_failure=lambda error: pytest.fail(str(error)),
        )

    @property
    def hosted(self):
        return self.replicas.partitions[KEY]

    def written_end(self):
        witness = EndWitness(self.witness_path)
        try:
            return witness.ends[KEY].end_offset
        finally:
            witness.close()

    async def apply(self, published):
        self.metadata.publish(published)
        async with asyncio.timeout(10):
            await self.replicas.wait_applied(published.version)

    async def begin(self, leader=OTHER):
        self.replicas.start()
        self.replicas.activate()
        await self.apply(image(1, leader=leader))
        cut = self.hosted.log.cut_at_damage

        async def slow_cut():
            self.is_cutting.set()
            await self.disk_goes_on.wait()
            await cut()

        self.hosted.log.cut_at_damage = slow_cut
        error = damaged(self.hosted.log._files.active.path, 0, "test")
        self.hosted.log.damage.found(error, "read")

    async def begin_cut(self):
        await self.begin()
        cutting = asyncio.create_task(self.replicas.cut_at_damage(KEY))
        await self.is_cutting.wait()
        return cutting


@pytest.fixture
async def manager(tmp_path):
    with LogDirectory(tmp_path / "data") as directory:
        manager = Manager(directory)
        yield manager
        manager.disk_goes_on.set()
        await manager.replicas.stop()


async def test_the_metadata_is_applied_while_a_log_is_cut(manager):
    cutting = await manager.begin_cut()
    assert manager.witness.ends[KEY].is_short
    # Another topic is hosted and followed, and this one's leader changes.
    await manager.apply(image(2, leader=THIRD, leader_epoch=1, topics=(ORDERS, EVENTS)))
    assert manager.replicas.partitions[EVENTS, 0].follower is not None
    assert manager.hosted.follower is None
    assert manager.hosted.state.leader == THIRD
    assert not cutting.done()
    manager.disk_goes_on.set()
    await cutting
    assert manager.hosted.follower.leader_id == THIRD
    assert manager.replicas._fetchers.is_following(manager.hosted)


async def test_a_replica_that_is_elected_while_its_log_is_cut_stands_aside(manager):
    cutting = await manager.begin_cut()
    await manager.apply(image(2, leader=LOCAL, leader_epoch=1))
    assert manager.hosted.fitness.must_report(manager.hosted.state.isr, LOCAL)
    manager.disk_goes_on.set()
    await cutting
    assert manager.hosted.leader is None
    assert manager.hosted.follower is None


async def test_a_topic_that_is_deleted_meanwhile_goes_when_its_log_is_cut(manager):
    cutting = await manager.begin_cut()
    directory = manager.hosted.log.directory
    manager.metadata.publish(replace(image(2), topics={}))
    await until(manager.replicas._changing_roles.locked)
    assert directory.exists()
    manager.disk_goes_on.set()
    await cutting
    await manager.replicas.wait_applied(2)
    assert KEY not in manager.replicas.partitions
    await until(lambda: not directory.exists())


async def test_the_metadata_does_not_wait_for_logs_that_go_and_a_namesake_does(
    manager, monkeypatch
):
    manager.replicas.start()
    manager.replicas.activate()
    await manager.apply(image(1, topics=(ORDERS, EVENTS)))
    removed, disk_goes_on = [], asyncio.Event()
    delete = manager.replicas._logs.delete

    async def slow_delete(log):
        await disk_goes_on.wait()
        await delete(log)
        removed.append(log.identity.topic_id)

    monkeypatch.setattr(manager.replicas._logs, "delete", slow_delete)
    directory = manager.hosted.log.directory
    await manager.apply(replace(image(2), topics={}))
    assert (manager.replicas.partitions, removed) == ({}, [])
    # Deleted and made again: the new log is in the same place, and so has to wait.
    again = ORDERS[:1] + "c" * 31
    await manager.apply(image(3, topics=(again,)))
    assert directory.exists()
    assert manager.replicas.partitions == {}
    disk_goes_on.set()
    await until(lambda: (again, 0) in manager.replicas.partitions)
    assert ORDERS in removed
    await until(lambda: sorted(removed) == [ORDERS, EVENTS])
    assert directory.exists()


async def test_a_broker_that_stops_leaves_logs_to_the_next_start(manager, monkeypatch):
    manager.replicas.start()
    manager.replicas.activate()
    await manager.apply(image(1, topics=(ORDERS, EVENTS)))
    logs = [hosted.log for hosted in manager.replicas.partitions.values()]
    is_deleting, disk_goes_on = asyncio.Event(), asyncio.Event()

    async def slow_delete(log):
        is_deleting.set()
        await disk_goes_on.wait()

    monkeypatch.setattr(manager.replicas._logs, "delete", slow_delete)
    await manager.apply(replace(image(2), topics={}))
    await is_deleting.wait()
    stopping = asyncio.create_task(manager.replicas._removals.stop())
    await asyncio.sleep(0)
    disk_goes_on.set()
    await stopping
    assert all(log._closed for log in logs)
    assert len(manager.replicas._removals) == 1


def healer_of(manager, controller):
    """What looks after the unfit replicas, and tells this controller."""
    return ReplicaHealer(
        node_id=LOCAL,
        replicas=manager.replicas,
        controller=controller,
        broker_epoch=lambda: 1,
        on_failure=lambda error: pytest.fail(str(error)),
    )


async def test_a_broker_that_stops_waits_for_the_log_that_is_being_cut(manager):
    await manager.begin()
    healer = healer_of(manager, None)
    healer.start()
    await manager.is_cutting.wait()
    stopping = asyncio.create_task(healer.stop())
    for _ in range(10):
        await asyncio.sleep(0)
    assert not stopping.done()
    manager.disk_goes_on.set()
    await stopping
    await until(lambda: manager.hosted.log.damage.first is None)


class BusyController:
    """Has another member lead, and the replica still in the ISR."""

    def __init__(self):
        self.told = []

    async def execute(self, command, *, timeout_ms):
        [reported] = command.replicas
        self.told.append(reported.lost_tail)
        result = UnfitReplicaResult(
            reported.topic_id, reported.partition, in_isr=True, partition_epoch=5
        )
        return ReportUnfitReplicasResponse((result,))


async def test_what_a_former_leader_has_cut_is_told_at_once(manager):
    """It is in the ISR until then, and nothing is acknowledged without it."""
    controller = BusyController()
    await manager.begin(leader=LOCAL)
    healer = healer_of(manager, controller)
    manager.disk_goes_on.set()
    await healer.heal()
    await healer.report()
    assert controller.told == [False]
    await manager.apply(image(9))
    await healer.heal()
    await healer.report()
    assert controller.told == [False]
    manager.hosted.fitness.leader_answered()
    await healer.report()
    assert controller.told == [False, True]
    # In vain: the same is told again after a while only.
    await healer.report()
    assert controller.told == [False, True]


async def test_who_is_made_the_leader_while_its_log_is_cut_says_at_once_that_it_cannot(manager):
    """Nobody would lead until the copy is done."""
    controller = BusyController()
    await manager.begin()
    healer = healer_of(manager, controller)
    healer.start()
    await manager.is_cutting.wait()
    assert controller.told == []
    await manager.apply(image(9, leader=LOCAL))
    await until(lambda: controller.told == [True])
    assert manager.hosted.leader is None
    manager.disk_goes_on.set()
    await healer.stop()


class SlowController:
    """Answers a report only when the metadata has the replica in the ISR again."""

    def __init__(self, manager):
        self.manager = manager

    async def execute(self, command, *, timeout_ms):
        assert timeout_ms > 0
        [reported] = command.replicas
        await self.manager.apply(image(7))
        result = UnfitReplicaResult(
            reported.topic_id, reported.partition, in_isr=False, partition_epoch=6
        )
        return ReportUnfitReplicasResponse((result,))


async def test_a_replica_whose_refill_was_heard_of_before_the_answer_is_whole(manager):
    manager.replicas.start()
    manager.replicas.activate()
    await manager.apply(image(1))
    manager.hosted.fitness = ReplicaFitness(LOCAL, lost_tail=True)
    manager.replicas.activity.unfit.add(KEY)
    aside = manager.hosted.log.directory / "00000000000000000000.sqlite.damaged"
    aside.touch()
    healer = healer_of(manager, SlowController(manager))
    await healer.report()
    assert manager.hosted.fitness.is_whole
    assert not aside.exists()


@pytest.mark.parametrize(
    ("everybody", "isr", "start_offset", "is_whole"),
    [
        # Others have it all: it is refilled from where it began.
        ((LOCAL, OTHER, THIRD), (LOCAL, OTHER), 0, False),
        # What is left is not dropped where nobody else is known to hold it.
        ((LOCAL, OTHER, THIRD), (LOCAL,), 5, False),
        ((LOCAL,), (LOCAL,), 5, True),
    ],
)
async def test_a_log_whose_first_files_are_missing(manager, everybody, isr, start_offset, is_whole):
    manager.replicas.start()
    manager.replicas.activate()
    leader = OTHER if OTHER in isr else None
    first = image(1, leader=leader, everybody=everybody, isr=isr)
    await manager.apply(first)
    await manager.hosted.log.reset_to(5)
    manager.replicas._witness.moved(KEY)
    await manager.replicas._witness.flush()
    assert manager.witness.ends[KEY].start_offset == 5
    log = manager.hosted.log
    assert manager.replicas._logs.lost_start(log) is None
    await log.close()
    manager.witness.record(KEY, replace(manager.witness.ends[KEY], start_offset=0))
    del manager.replicas.partitions[KEY]
    topic = first.topics[ORDERS]
    await manager.replicas._open(topic, topic.partitions[0])
    assert manager.hosted.log.log_start_offset == start_offset
    assert manager.hosted.fitness.is_whole == is_whole
    assert manager.witness.ends[KEY].is_short


async def test_a_start_is_witnessed_before_files_go(manager, monkeypatch):
    manager.replicas.start()
    manager.replicas.activate()
    await manager.apply(image(1))
    log = manager.hosted.log
    seen = []

    async def remove_expired():
        witness = EndWitness(manager.witness_path)
        seen.append(witness.ends[KEY].start_offset)
        witness.close()

    monkeypatch.setattr(log.cleanup, "remove_expired", remove_expired)
    monkeypatch.setattr(LogCleanup, "has_expired", True)
    log.cleanup.advance_log_start(0)
    await manager.replicas.remove_expired(manager.hosted)
    log._files.advance_log_start(3)
    await manager.replicas.remove_expired(manager.hosted)
    assert seen == [0, 3]


async def test_an_end_that_is_about_to_go_is_not_witnessed_again(manager, monkeypatch):
    """Whatever else is written down while the log is being cut, and though it is not yet."""
    manager.replicas.start()
    manager.replicas.activate()
    await manager.apply(image(1))
    hosted = manager.hosted
    for offset in range(2):
        batch = encode_batch(
            [RecordData(timestamp=1, key=None, value=b"x")], base_offset=offset, leader_epoch=0
        )
        hosted.log.append_as_follower([ReplicatedBatch(memoryview(batch), None)])
    await hosted.log.wait_durable(2)
    hosted.follower_log_changed()
    await manager.replicas._witness.flush()
    truncate_to, witnessed = hosted.log.truncate_to, []

    async def slow_truncate(offset):
        await manager.replicas.remove_expired(hosted)
        await manager.replicas._witness.flush()
        witnessed.append(manager.written_end())
        await truncate_to(offset)

    async def remove_nothing():
        return None

    monkeypatch.setattr(hosted.log, "truncate_to", slow_truncate)
    monkeypatch.setattr(hosted.log.cleanup, "remove_expired", remove_nothing)
    monkeypatch.setattr(LogCleanup, "has_expired", True)
    diverging = FetchResult(ORDERS, 0, None, 0, 0, (0, 1), [])
    await hosted.take_fetched(hosted.follower.fetch_position, diverging)
    assert witnessed == [1]
    await manager.replicas._witness.flush()
    assert manager.written_end() == hosted.log.log_end_offset == 1


async def test_a_replica_at_rest_is_looked_at_by_nobody(manager):
    manager.replicas.start()
    manager.replicas.activate()
    await manager.apply(image(1, leader=LOCAL))
    activity = manager.replicas.activity
    hosted = manager.hosted
    # Its followers have not been heard of: time may have them leave the ISR.
    assert hosted.tick({LOCAL: 1, OTHER: 1, THIRD: 1}, ())
    assert KEY in activity.restless
    for follower in (OTHER, THIRD):
        hosted.follower_fetched(follower, 1, 0)
    assert not hosted.tick({LOCAL: 1, OTHER: 1, THIRD: 1}, ())
    await until(lambda: KEY not in activity.restless)
    healer = healer_of(manager, None)
    await healer.heal()
    assert activity.unfit == set()
    assert manager.replicas.pending_bytes == 0
    assert activity.appended == set()


async def test_a_partition_that_is_moved_away_leaves_no_high_watermark_behind(manager):
    """It may come back, empty, and would be taken for one that lost its records."""
    manager.replicas.start()
    manager.replicas.activate()
    await manager.apply(image(1))
    written = []

    async def write(high_watermarks):
        written.append(set(high_watermarks))

    manager.replicas._logs.write_high_watermarks = write
    await manager.replicas._write_checkpoint()
    assert written == [{KEY}]
    await manager.replicas._write_checkpoint()
    assert written == [{KEY}]
    await manager.apply(image(2, everybody=(OTHER, THIRD)))
    await manager.replicas._write_checkpoint()
    assert written == [{KEY}, set()]


async def test_damage_that_is_found_in_an_open_log_is_noted(manager):
    manager.replicas.start()
    manager.replicas.activate()
    await manager.apply(image(1))
    activity = manager.replicas.activity
    activity.unfit.clear()
    error = damaged(manager.hosted.log._files.active.path, 0, "test")
    manager.hosted.log.damage.found(error, "read")
    assert activity.unfit == {KEY}


def wide_image(version, *, led_epoch=0, configs=None, changed=()):
    """One topic with many partitions; those changed have a leader epoch and state of their own."""
    partitions = tuple(
        Partition(
            ORDERS, "orders", number, (LOCAL, OTHER), (LOCAL, OTHER), LOCAL,
            led_epoch if number in changed else 0, version if number in changed else 0,
        )
        for number in range(3 * ROLE_STEP // 2)
    )  # fmt: skip
    return MetadataImage(
        version=version, topics={ORDERS: Topic(ORDERS, "orders", configs or {}, partitions)}
    )


async def test_a_change_of_one_partition_is_none_of_the_others(manager, monkeypatch):
    manager.replicas.start()
    manager.replicas.activate()
    first = wide_image(1)
    await manager.apply(first)
    assumed, configured = [], []
    assume_role = manager.replicas._roles.assume

    async def counted(hosted, *others):
        assumed.append(hosted.state.partition)
        await assume_role(hosted, *others)

    monkeypatch.setattr(manager.replicas._roles, "assume", counted)
    monkeypatch.setattr(PartitionLog, "reconfigure", lambda log, _: configured.append(log))
    await manager.apply(sharing_with(first, wide_image(2, led_epoch=1, changed={5})))
    assert (assumed, configured) == ([5], [])
    assert manager.replicas.partitions[ORDERS, 5].leader.leader_epoch == 1
    # Another configuration is for all of them.
    latest = manager.replicas._applied
    other = replace(latest.topics[ORDERS], configs={"min.insync.replicas": 1})
    await manager.apply(replace(latest, version=3, topics={ORDERS: other}))
    assert len(configured) == len(first.topics[ORDERS].partitions)
    assert len(assumed) == 1 + len(configured)
    assert not manager.hosted.leader.is_under_min_isr


async def test_others_have_their_turn_while_many_roles_change(manager):
    manager.replicas.start()
    manager.replicas.activate()
    first = wide_image(1)
    await manager.apply(first)
    everything = range(len(first.topics[ORDERS].partitions))
    manager.metadata.publish(wide_image(2, led_epoch=1, changed=everything))
    seen = set()
    while manager.replicas.applied_version < 2:
        epochs = [hosted.leader.leader_epoch for hosted in manager.replicas.leaders()]
        seen.add(sum(epochs))
        await asyncio.sleep(0)
    assert ROLE_STEP in seen


async def test_the_log_tells_each_change_of_a_leader_once(manager):
    with structlog.testing.capture_logs() as lines:
        manager.replicas.start()
        manager.replicas.activate()
        await manager.apply(image(1))
        await manager.apply(image(2, leader=LOCAL, leader_epoch=1))
        await manager.apply(image(3, leader=LOCAL, leader_epoch=1, isr=(LOCAL, OTHER)))
        await manager.apply(replace(manager.metadata.image, version=4))
    told = [line["event"] for line in lines if line["log_level"] != "debug"]
    assert told == ["replicas_found", "leader_changed", "isr_changed"]
