"""A log's end is given up while something else of the log is on its way."""

import asyncio

import pytest

from ottla_broker.storage import group_commit
from ottla_broker.storage.disk_full import DiskFullError
from ottla_broker.storage.stored_batch import DamagedSegmentError
from tests.unit.awaiting import until
from tests.unit.storage.log_harness import UNLIMITED, append, append_durably, read_all
from tests.unit.storage.test_damage import BATCHES, filled, read_upto_damage, spoil


async def _started(awaitable):
    """A task that has come as far as it can."""
    task = asyncio.create_task(awaitable)
    for _ in range(5):
        await asyncio.sleep(0)
    return task


@pytest.mark.parametrize("damaged_behind", [None, 20])
async def test_a_cut_leaves_alone_what_retention_takes_away_before_it(harness, damaged_behind):
    log = await filled(harness)
    path = spoil(harness, 1)
    await read_upto_damage(log)
    assert log.damage.first == path
    if damaged_behind is not None:
        spoil(harness, damaged_behind)
        with pytest.raises(DamagedSegmentError):
            await log.read(damaged_behind, max_bytes=1, limit=UNLIMITED)
    log.cleanup.advance_log_start(10)
    async with log._files.lock.shared():
        expired = await _started(log.cleanup.remove_expired())
        cut = await _started(log.cut_at_damage())
        assert not expired.done()
        assert not cut.done()
    assert (await expired).count > 0
    await cut
    assert harness.failures == []
    assert log.damage.first is None
    assert not path.exists()
    end = BATCHES if damaged_behind is None else damaged_behind
    assert log.log_end_offset == log.next_offset == end
    kept = [batch.base_offset for batch in await read_all(log)]
    assert kept == list(range(10, end))
    await append_durably(log)


async def test_giving_up_waits_for_a_commit_that_finds_room_after_all(harness, monkeypatch):
    monkeypatch.setattr(group_commit, "RETRY_FULL_DISK_MS", 5)
    log = await harness.open(group_commit_max_bytes=1_000)
    await append_durably(log, 2)
    commit = log._files.commit
    has_room = False
    second_may_run = asyncio.Event()
    commits = 0

    async def commit_slowly(group):
        nonlocal commits
        if not has_room:
            raise DiskFullError("no room")
        commits += 1
        if commits == 2:
            await second_may_run.wait()
        await commit(group)

    monkeypatch.setattr(log._files, "commit", commit_slowly)
    for _ in range(3):
        append(log, value_bytes=900)
    await until(lambda: log.held is not None)
    # Retention removes files, which makes room.
    async with log._files.taking_away:
        giving_up = await _started(log.abandon_held())
        has_room = True
        await until(lambda: log.held is None and commits == 2)
    await _started(asyncio.sleep(0))
    assert not giving_up.done()
    second_may_run.set()
    await giving_up
    assert log.failure is None
    assert log.next_offset == log.log_end_offset == 5
    assert [batch.base_offset for batch in await read_all(log)] == [0, 2, 3, 4]
    await append_durably(log)
