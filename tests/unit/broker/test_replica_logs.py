"""High watermarks of replicas that come and go."""

import asyncio
import errno
from dataclasses import replace

import pytest

from ottla_broker.drivers import replica_logs
from ottla_broker.drivers.replica_logs import ReplicaLogs
from ottla_broker.services.topics import describe
from ottla_broker.storage import segment
from ottla_broker.storage.disk_full import DiskFullError
from ottla_broker.storage.end_witness import EndWitness, WitnessedEnd
from ottla_broker.storage.handles import HandlePool
from ottla_broker.storage.log_config import LogConfig
from ottla_broker.storage.log_directory import LogDirectory
from ottla_broker.storage.partition_log import PartitionLog
from ottla_broker.storage.policy.compaction import CompactionConfig
from ottla_broker.storage.policy.retention import NEVER
from ottla_broker.storage.tail_cache import TailCache
from ottla_cluster.controller.image import Partition, Topic

TOPIC_ID = "a" * 32
KEY = (TOPIC_ID, 0)
DEFAULTS = LogConfig()
STATE = Partition(TOPIC_ID, "orders", 0, (1,), (1,), 1, 0, 0)


def topic(**configs):
    return Topic(TOPIC_ID, "orders", {k.replace("_", "."): v for k, v in configs.items()}, (STATE,))


@pytest.fixture
def make_logs(tmp_path):
    with LogDirectory(tmp_path / "data") as directory:

        def make(defaults=DEFAULTS, boot_id=None):
            return ReplicaLogs(
                directory=directory,
                handles=HandlePool(4),
                tail_cache=TailCache(0),
                defaults=defaults,
                witness=EndWitness(directory.path / "witness", boot_id=boot_id),
                on_failure=lambda error: pytest.fail(str(error)),
            )

        yield make


async def test_a_log_that_waits_for_room_keeps_no_other_from_being_opened(make_logs, monkeypatch):
    logs = make_logs()
    await logs.prepare([KEY, (TOPIC_ID, 1)])
    open_log = PartitionLog.open
    waits = asyncio.Event()

    async def without_room(directory, **options):
        if options["partition"] == 0:
            raise DiskFullError("no room")
        return await open_log(directory, **options)

    monkeypatch.setattr(PartitionLog, "open", without_room)
    options = {"on_durable": lambda _: None, "at_once": asyncio.Semaphore(1)}
    first = asyncio.create_task(logs.open(topic(), STATE, on_held=lambda _: waits.set(), **options))
    await waits.wait()
    second = replace(STATE, partition=1)
    async with asyncio.timeout(10):
        opened = await logs.open(topic(), second, on_held=lambda _: None, **options)
    await opened.close()
    assert not first.done()
    first.cancel()


async def test_a_replica_that_returns_does_not_find_its_former_high_watermark(make_logs):
    """Also when it was removed just while high watermarks were written down."""
    logs = make_logs()
    await logs.prepare([KEY])
    opened = await logs.open(topic(), STATE, on_durable=lambda _: None, on_held=lambda _: None)
    await opened.close()
    writing = asyncio.create_task(logs.write_high_watermarks({KEY: 5}))
    await asyncio.sleep(0)
    await logs.delete(opened)
    await writing
    assert logs.high_watermark(KEY) == 0
    await logs.write_high_watermarks({})
    again = make_logs()
    await again.prepare([KEY])
    assert again.high_watermark(KEY) == 0


@pytest.mark.parametrize(
    ("durability", "is_same_boot", "is_loss"),
    [("os", True, True), ("os", False, False), ("fsync", True, True), ("fsync", False, False)],
)
async def test_a_log_must_reach_what_was_witnessed_since_the_system_was_started(
    make_logs, durability, is_same_boot, is_loss
):
    """Also one that syncs only since a while ago."""
    logs = make_logs(boot_id=b"a" * 16)
    await logs.prepare([KEY])
    opened = await logs.open(
        topic(durability=durability), STATE, on_durable=lambda _: None, on_held=lambda _: None
    )
    logs._witness.record(KEY, WitnessedEnd(0, 7, boot_id=(b"a" if is_same_boot else b"b") * 16))
    loss = logs.tail_loss(opened)
    assert (loss is not None) == is_loss
    if loss is not None:
        assert loss.expected_end_offset == 7
    await opened.close()


async def test_a_topic_s_configs_and_the_broker_s_defaults_make_a_log_s_limits(make_logs):
    logs = make_logs(LogConfig(producer_id_expiration_ms=7, idempotency_entries_max=8))
    config = logs.config_of(topic(segment_bytes=4_096, durability="os", max_message_bytes=2_048))
    assert (config.segment_bytes, config.durability, config.max_batch_bytes) == (4_096, "os", 2_048)
    assert (config.producer_id_expiration_ms, config.idempotency_entries_max) == (7, 8)
    assert logs.config_of(topic()).durability == "fsync"


async def test_the_brokers_own_topics_are_not_deleted_whatever_their_configs_say(make_logs):
    logs = make_logs()
    orders = topic(retention_ms=5, retention_bytes=6, segment_ms=7)
    config = logs.config_of(orders)
    assert (config.retention_ms, config.retention_bytes, config.segment_ms) == (5, 6, 7)
    own = logs.config_of(replace(orders, name="__consumer_offsets"))
    assert (own.retention_ms, own.retention_bytes) == (NEVER, NEVER)


async def test_the_timestamps_of_a_topic_are_its_log_s(make_logs):
    stamped = topic(message_timestamp_type="LogAppendTime", message_timestamp_after_max_ms=9)
    config = make_logs().config_of(stamped)
    assert (config.timestamp_type, config.timestamp_after_max_ms) == ("LogAppendTime", 9)
    assert make_logs().config_of(topic()).timestamp_type == "CreateTime"


def internal(**configs):
    state = replace(STATE, topic="__consumer_offsets")
    named = {name.replace("_", "."): value for name, value in configs.items()}
    return Topic(TOPIC_ID, "__consumer_offsets", named, (state,))


def test_what_is_compacted_alone_is_not_deleted_by_age_or_size(make_logs):
    logs = make_logs()
    bounds = {"retention_ms": 5, "retention_bytes": 7}
    deleted = logs.config_of(topic(**bounds))
    assert (deleted.retention_ms, deleted.retention_bytes, deleted.compaction) == (5, 7, None)
    compacted = logs.config_of(topic(cleanup_policy="compact", **bounds))
    assert (compacted.retention_ms, compacted.retention_bytes) == (NEVER, NEVER)
    both = logs.config_of(topic(cleanup_policy="compact,delete", **bounds))
    assert (both.retention_ms, both.retention_bytes) == (5, 7)
    assert compacted.compaction == both.compaction == CompactionConfig()


def test_a_compacted_topics_configs_reach_its_logs(make_logs):
    config = make_logs().config_of(
        topic(
            cleanup_policy="compact",
            min_cleanable_dirty_ratio=0.25,
            min_compaction_lag_ms=1,
            max_compaction_lag_ms=2,
            delete_retention_ms=3,
        )
    )
    assert config.compaction == CompactionConfig(0.25, 1, 2, 3)


def test_an_internal_topic_is_compacted_also_one_from_before_there_was_compaction(make_logs):
    config = make_logs().config_of(internal(retention_ms=-1, retention_bytes=-1))
    assert config.compaction == CompactionConfig()
    assert (config.retention_ms, config.retention_bytes) == (NEVER, NEVER)
    assert config.segment_bytes == 32 << 20


def test_what_is_shown_of_an_internal_topic_is_what_brokers_go_by():
    shown = describe(internal(retention_ms=5, cleanup_policy="delete")).configs
    assert shown["cleanup.policy"] == "compact"
    assert (shown["segment.bytes"], shown["retention.ms"]) == (32 << 20, 5)
    assert describe(topic(cleanup_policy="delete")).configs["cleanup.policy"] == "delete"


async def test_a_log_that_the_disk_has_no_room_to_open_is_waited_for(make_logs, monkeypatch):
    monkeypatch.setattr(replica_logs, "RETRY_WITHOUT_ROOM_MS", 1)
    logs = make_logs()
    await logs.prepare([KEY])
    told = []
    create = segment.write_file

    def no_room(*arguments, **keywords):
        if len(told) < 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return create(*arguments, **keywords)

    monkeypatch.setattr(segment, "write_file", no_room)
    async with asyncio.timeout(10):
        opened = await logs.open(topic(), STATE, on_durable=lambda _: None, on_held=told.append)
    assert len(told) == 2
    assert opened.log_end_offset == 0
    await opened.close()
