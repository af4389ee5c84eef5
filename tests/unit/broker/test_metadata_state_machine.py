"""The image as the Raft driver's state machine: what one broker saves another one restores."""

import asyncio

import pytest

from ottla_broker.drivers.metadata import MetadataCache
from ottla_broker.drivers.metadata_state_machine import MetadataStateMachine
from ottla_cluster.controller.features import LATEST_FEATURE_LEVEL, FeatureLevelTooHighError
from ottla_cluster.controller.image import MetadataImage
from ottla_cluster.controller.records import (
    ClusterFormed,
    CorruptMetadataError,
    FeatureLevelChanged,
    encode_records,
)
from ottla_cluster.raft.messages import Entry, Snapshot
from tests.unit.controller.metadata_under_test import MetadataUnderTest


class LoggedMetadata(MetadataUnderTest):
    """Keeps the log that its commands write."""

    def __init__(self):
        self.log = []
        super().__init__()

    def apply(self, command):
        response = super().apply(command)
        self.log.append(Entry(self.image.version, 1, encode_records(self.last_records)))
        return response


def machine_at(entries):
    cache = MetadataCache(MetadataImage())
    machine = MetadataStateMachine(cache)
    machine.apply(entries)
    return machine, cache


def test_a_broker_that_was_behind_jumps_and_goes_on():
    metadata = LoggedMetadata()
    metadata.create("unchanged", partitions=2)
    lagging, cache = machine_at(metadata.log)
    before = cache.image
    metadata.create("missed")
    metadata.fence(2)
    leader, _ = machine_at(metadata.log)
    index = metadata.image.version
    lagging.restore(Snapshot(index, 1, leader.snapshot()))
    assert cache.image == metadata.image
    assert cache.image.topic("missed")
    unchanged = [
        (state, before.partition("unchanged", state.partition))
        for state in cache.image.topic("unchanged").partitions
        if state == before.partition("unchanged", state.partition)
    ]
    assert all(now is former for now, former in unchanged)
    metadata.create("later", replication_factor=2)
    lagging.apply(metadata.log[index:])
    assert cache.image == metadata.image
    assert lagging.snapshot() == machine_at(metadata.log)[0].snapshot()


def test_a_topic_that_nothing_happened_to_is_the_same_object():
    """The replica manager takes up roles anew where it is another one."""
    metadata = LoggedMetadata()
    topic = metadata.create("unchanged", partitions=2)
    lagging, cache = machine_at(metadata.log)
    before = cache.image
    metadata.create("missed")
    leader, _ = machine_at(metadata.log)
    lagging.restore(Snapshot(metadata.image.version, 1, leader.snapshot()))
    assert cache.image.topics[topic.topic_id] is before.topics[topic.topic_id]
    assert cache.image.brokers is before.brokers


async def test_whoever_waits_for_news_hears_of_a_jump():
    metadata = LoggedMetadata()
    lagging, cache = machine_at(metadata.log)
    replaced = cache.replacement_of(2, metadata.epoch(2))
    waiting = asyncio.ensure_future(cache.wait_for_change(timeout_ms=10_000))
    await asyncio.sleep(0)
    metadata.fence(2)
    leader, _ = machine_at(metadata.log)
    lagging.restore(Snapshot(metadata.image.version, 1, leader.snapshot()))
    assert await waiting
    assert replaced.done()


def test_a_snapshot_that_is_not_of_its_index_is_refused():
    metadata = LoggedMetadata()
    machine, cache = machine_at(metadata.log)
    before = cache.image
    with pytest.raises(CorruptMetadataError, match="version"):
        machine.restore(Snapshot(before.version + 1, 1, machine.snapshot()))
    assert cache.image is before


def test_a_level_that_this_version_does_not_know_ends_it_before_what_follows():
    machine, cache = machine_at([Entry(1, 1, encode_records([ClusterFormed("c", 1)]))])
    level = encode_records([FeatureLevelChanged(LATEST_FEATURE_LEVEL + 1)])
    with pytest.raises(FeatureLevelTooHighError):
        machine.apply([Entry(2, 1, level), Entry(3, 1, b"what nobody here can read")])
    assert cache.image.version == 1
