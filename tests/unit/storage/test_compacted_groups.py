"""A coordinator that reads a compacted log has the groups that it had."""

import asyncio
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ottla_broker.drivers.coordinator_driver import _replay_batches
from ottla_broker.storage.policy.compaction import CompactionConfig
from ottla_broker.storage.policy.key_offsets import KeyOffsets
from ottla_cluster.groups.commands import DeleteGroup
from ottla_cluster.groups.image import GroupsImage
from ottla_cluster.groups.records import encode_record
from ottla_protocol.errors import OttlaError
from ottla_protocol.record_batch import read_header
from ottla_protocol.record_codec import RecordData, encode_batch
from tests.unit.groups.groups_under_test import GroupsUnderTest
from tests.unit.storage.compaction_harness import compact
from tests.unit.storage.log_harness import LogHarness, read_all

CONFIG = {
    "compaction": CompactionConfig(min_dirty_ratio=0.0, delete_retention_ms=0),
    "segment_bytes": 1_500,
}

members = st.sampled_from(["a", "b", "c"])
steps = st.one_of(
    st.tuples(st.just("join"), members),
    st.tuples(st.just("beat"), members),
    st.tuples(st.just("leave"), members),
    st.tuples(st.just("commit"), st.integers(0, 2), st.integers(0, 9), members | st.none()),
    st.tuples(st.just("commit"), st.integers(0, 2), st.integers(0, 9)),
    st.just(("delete",)),
    st.tuples(st.just("compact"), st.integers(0, 3)),
)


async def run(program, root):
    harness = LogHarness(root)
    log = await harness.open(**CONFIG)
    groups = GroupsUnderTest()
    now_ms = 0
    try:
        for name, *arguments in program:
            now_ms += 1
            if name == "compact":
                end = max(0, log.log_end_offset - arguments[0])
                await compact(log, high_watermark=end, now_ms=now_ms)
                continue
            before = len(groups.all_records)
            command = groups.apply if name == "delete" else getattr(groups, name)
            try:
                command(*([DeleteGroup("g")] if name == "delete" else arguments))
            except (OttlaError, KeyError):
                continue  # Refused, or the test's own harness knows no such member or group.
            records = groups.all_records[before:]
            if records:
                await append(log, records)
        for _ in range(3):
            if log._appender.state.fill.batches:
                log._appender.roll()
                await log._commits.drain()
            now_ms += 1
            await compact(log, now_ms=now_ms)
        image = GroupsImage()
        for batch in await read_all(log):
            image = _replay_batches(image, [batch])
        assert image.groups == groups.image.groups
        assert len(await read_all(log)) <= len(groups.all_records) + 1
    finally:
        await harness.close()


async def append(log, records):
    batch = bytearray(encode_batch([RecordData(1, *encode_record(record)) for record in records]))
    info = log.append_as_leader(
        batch, read_header(batch), leader_epoch=0, now_ms=0, idempotency=None
    )
    await log.wait_durable(info.next_offset)


@settings(max_examples=25, suppress_health_check=list(HealthCheck))
@given(st.lists(steps, max_size=40))
def test_replay_of_what_is_left_gives_the_same_groups(program):
    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(run(program, Path(directory)))


def test_a_compaction_that_drops_a_newest_record_would_be_seen(monkeypatch):
    get = KeyOffsets.get
    monkeypatch.setattr(
        KeyOffsets, "get", lambda table, key: get(table, key) + (get(table, key) >= 0)
    )
    program = [("join", "a"), *(("commit", 0, at, "a") for at in range(9)), ("leave", "a")]
    with tempfile.TemporaryDirectory() as directory, pytest.raises(AssertionError):
        asyncio.run(run(program, Path(directory)))
