"""A log takes other limits and another durability while it is written."""

import asyncio

import pytest

from ottla_broker.storage.log_config import LogConfig
from ottla_protocol.errors import MessageTooLargeError
from tests.unit.storage.log_harness import append, append_durably, make_batch, read_all

SYNCHRONOUS = {"os": 1, "fsync": 2}
"""SQLite's numbers for NORMAL and FULL."""


async def synchronous(harness, log):
    """What the active file's connection syncs at a commit."""
    async with harness.handles.use(log._files.active) as connection:
        return await connection.run(
            "ask", lambda raw: raw.execute("PRAGMA synchronous").fetchall()[0][0]
        )


@pytest.mark.parametrize(("before", "after"), [("os", "fsync"), ("fsync", "os")])
async def test_another_durability_reopens_the_active_file(harness, before, after):
    log = await harness.open(durability=before)
    await append_durably(log)
    assert await synchronous(harness, log) == SYNCHRONOUS[before]
    log.reconfigure(LogConfig(durability=after))
    await append_durably(log)
    assert await synchronous(harness, log) == SYNCHRONOUS[after]
    assert [batch.base_offset for batch in await read_all(log)] == [0, 1]


@pytest.mark.parametrize(("before", "after"), [("os", "fsync"), ("fsync", "os")])
async def test_the_durability_that_is_told_is_the_one_that_commits_have_kept_to(
    harness, monkeypatch, before, after
):
    log = await harness.open(durability=before)
    await append_durably(log)
    told = []
    close = harness.handles.close

    async def close_the_file(path):
        told.append(log.durability)
        await close(path)
        told.append(log.durability)

    monkeypatch.setattr(harness.handles, "close", close_the_file)
    append(log)
    log.reconfigure(LogConfig(durability=after))
    assert (log.config.durability, log.durability) == (after, before)
    await log._commits.drain()
    # Never fsync before what was committed under os is synced, which the close does.
    assert told == ["os", "os"]
    assert log.durability == after


async def test_what_was_queued_before_is_written_before_the_change(harness):
    log = await harness.open(durability="os")
    for _ in range(3):
        append(log)
    log.reconfigure(LogConfig(durability="fsync"))
    info = append(log)
    await log.wait_durable(info.next_offset)
    assert await synchronous(harness, log) == SYNCHRONOUS["fsync"]
    assert len(await read_all(log)) == 4
    assert harness.failures == []


async def test_new_segments_have_the_new_durability(harness):
    size = len(make_batch())
    log = await harness.open(durability="os", segment_bytes=2 * size)
    log.reconfigure(LogConfig(durability="fsync", segment_bytes=2 * size))
    for _ in range(5):
        await append_durably(log)
    assert len(log._files) > 2
    assert await synchronous(harness, log) == SYNCHRONOUS["fsync"]


async def test_a_truncation_into_a_sealed_segment_keeps_the_new_durability(harness):
    size = len(make_batch())
    log = await harness.open(durability="os", segment_bytes=2 * size)
    for _ in range(5):
        await append_durably(log)
    log.reconfigure(LogConfig(durability="fsync", segment_bytes=2 * size))
    await log.truncate_to(1)
    await append_durably(log, leader_epoch=1)
    assert await synchronous(harness, log) == SYNCHRONOUS["fsync"]


async def test_a_change_during_a_truncation_comes_after_it(harness):
    log = await harness.open(durability="os")
    for _ in range(3):
        append(log)
    truncation = asyncio.create_task(log.truncate_to(1))
    await asyncio.sleep(0)
    assert log._truncator.is_truncating
    log.reconfigure(LogConfig(durability="fsync"))
    await truncation
    await append_durably(log, leader_epoch=1)
    assert await synchronous(harness, log) == SYNCHRONOUS["fsync"]
    assert [batch.base_offset for batch in await read_all(log)] == [0, 1]


async def test_a_reader_is_not_disturbed(harness):
    log = await harness.open(durability="os")
    for _ in range(20):
        await append_durably(log)
    reads = [asyncio.create_task(read_all(log, max_bytes=1)) for _ in range(3)]
    await asyncio.sleep(0)
    log.reconfigure(LogConfig(durability="fsync"))
    await append_durably(log)
    for batches in await asyncio.gather(*reads):
        assert [batch.base_offset for batch in batches][:20] == list(range(20))


async def test_the_segment_size_counts_from_the_next_append(harness):
    size = len(make_batch())
    log = await harness.open()
    for _ in range(4):
        await append_durably(log)
    assert len(log._files) == 1
    log.reconfigure(LogConfig(segment_bytes=2 * size))
    for _ in range(4):
        await append_durably(log)
    assert len(log._files) == 3
    log = await harness.reopen(log)
    assert len(await read_all(log)) == 8


async def test_the_largest_batch_counts_from_the_next_append(harness):
    log = await harness.open()
    await append_durably(log, value_bytes=4_000)
    log.reconfigure(LogConfig(max_batch_bytes=1_024))
    with pytest.raises(MessageTooLargeError, match="1024"):
        append(log, value_bytes=4_000)
    await append_durably(log)


async def test_the_same_config_changes_nothing(harness):
    log = await harness.open()
    await append_durably(log)
    queued = log._commits._queued
    log.reconfigure(LogConfig())
    assert log._commits._queued == queued
