"""The bounded pool of open files."""

import asyncio
import gc
import os
import weakref
from functools import partial

import pytest

from ottla_broker.storage import sqlite
from ottla_broker.storage.handles import HandlePool
from ottla_cluster.replication.leader_epochs import EpochStart
from ottla_protocol.errors import StorageError
from tests.unit.storage.log_harness import append_durably, read_all


class FakeConnection:
    def __init__(self, segment):
        self.segment = segment

    async def close(self):
        await self.segment.may_close.wait()
        self.segment.open_connections -= 1


class FakeSegment:
    """Counts its connections: there must never be two."""

    def __init__(self, path):
        self.path = path
        self.opens = 0
        self.open_connections = 0
        self.failure = None
        self.may_open = asyncio.Event()
        self.may_open.set()
        self.may_close = asyncio.Event()
        self.may_close.set()

    async def open(self):
        await self.may_open.wait()
        if self.failure is not None:
            raise self.failure
        self.opens += 1
        self.open_connections += 1
        assert self.open_connections == 1
        return FakeConnection(self)


@pytest.fixture
def segments(tmp_path):
    return [FakeSegment(tmp_path / str(number)) for number in range(4)]


async def settle():
    for _ in range(20):
        await asyncio.sleep(0)


async def test_users_share_one_connection(segments):
    pool = HandlePool(2)
    async with pool.use(segments[0]) as first, pool.use(segments[0]) as second:
        assert first is second
    assert segments[0].opens == 1


async def test_the_file_used_longest_ago_makes_room(segments):
    pool = HandlePool(2)
    for index in (0, 1, 0, 2):
        async with pool.use(segments[index]):
            pass
    assert [segment.open_connections for segment in segments] == [1, 0, 1, 0]
    assert len(pool) == 2


async def test_a_file_in_use_is_never_closed_and_others_wait(segments):
    pool = HandlePool(1)
    waited = asyncio.Event()

    async def other():
        async with pool.use(segments[1]):
            waited.set()

    async with pool.use(segments[0]):
        task = asyncio.create_task(other())
        await settle()
        assert not waited.is_set()
        assert segments[0].open_connections == 1
    await task
    assert segments[0].open_connections == 0


async def test_a_file_is_opened_again_only_after_it_was_closed(segments):
    pool = HandlePool(1)
    async with pool.use(segments[0]):
        pass
    segments[0].may_close.clear()
    closing = asyncio.create_task(pool.close(segments[0].path))
    await settle()

    async def again():
        async with pool.use(segments[0]):
            pass

    task = asyncio.create_task(again())
    await settle()
    assert segments[0].opens == 1
    segments[0].may_close.set()
    await task
    await closing
    assert segments[0].opens == 2


async def test_closing_waits_for_users_and_holds_off_new_ones(segments):
    pool = HandlePool(2)
    async with pool.use(segments[0]):
        closing = asyncio.create_task(pool.close(segments[0].path))
        await settle()
        assert not closing.done()
        assert segments[0].open_connections == 1
    await closing
    assert len(pool) == 0


async def test_a_cancelled_user_leaves_the_file_usable(segments):
    pool = HandlePool(1)
    segments[0].may_open.clear()

    async def user():
        async with pool.use(segments[0]):
            pass

    task = asyncio.create_task(user())
    await settle()
    task.cancel()
    await settle()
    assert task.cancelled()
    segments[0].may_open.set()
    async with pool.use(segments[0]):
        assert segments[0].opens == 1
    async with pool.use(segments[1]):
        assert segments[0].open_connections == 0


async def test_a_cancelled_wait_for_room_passes_the_room_on(segments):
    pool = HandlePool(1)
    results = []

    async def user(index):
        async with pool.use(segments[index]):
            results.append(index)

    async with pool.use(segments[0]):
        waiting = [asyncio.create_task(user(index)) for index in (1, 2)]
        await settle()
        waiting[0].cancel()
        await settle()
    await waiting[1]
    assert results == [2]
    assert segments[1].opens == 0


async def test_places_go_to_those_who_waited_longest(segments):
    pool = HandlePool(1)
    served = []

    async def user(index):
        async with pool.use(segments[index]):
            served.append(index)

    async with pool.use(segments[0]):
        waiting = [asyncio.create_task(user(index)) for index in (2, 1, 3)]
        await settle()
    await asyncio.gather(*waiting)
    assert served == [2, 1, 3]


async def test_as_many_files_are_closed_at_a_time_as_are_waited_for(segments):
    pool = HandlePool(3)
    for index in (0, 1, 2):
        async with pool.use(segments[index]):
            pass
        segments[index].may_close.clear()
    others = [FakeSegment(segments[0].path.with_name(f"other-{number}")) for number in range(2)]

    async def user(segment):
        async with pool.use(segment):
            pass

    waiting = [asyncio.create_task(user(other)) for other in others]
    await settle()
    # A file that nobody waits for stays open.
    closing = [pool._handles[segment.path].closing is not None for segment in segments[:3]]
    assert closing == [True, True, False]
    for segment in segments:
        segment.may_close.set()
    await asyncio.gather(*waiting)
    assert len(pool) == 3


async def test_those_who_wait_for_one_file_share_it(segments):
    pool = HandlePool(1)
    shared = []

    async def user():
        async with pool.use(segments[1]) as connection:
            shared.append(connection)
            await settle()

    async with pool.use(segments[0]):
        waiting = [asyncio.create_task(user()) for _ in range(3)]
        await settle()
    await asyncio.gather(*waiting)
    assert segments[1].opens == 1
    assert len(shared) == 3
    assert len(set(shared)) == 1


async def test_a_file_that_cannot_be_closed_to_make_room_is_told(segments):
    failures = []
    pool = HandlePool(1, on_failure=failures.append)
    async with pool.use(segments[0]) as connection:
        pass
    failure = StorageError("the last checkpoint failed")

    async def fail():
        raise failure

    connection.close = fail
    async with pool.use(segments[1]):
        pass
    assert failures == [failure]


async def test_a_file_that_does_not_open_is_tried_again(segments):
    pool = HandlePool(1)
    segments[0].failure = StorageError("no such file")
    with pytest.raises(StorageError):
        async with pool.use(segments[0]):
            pass
    segments[0].failure = None
    async with pool.use(segments[0]):
        pass
    assert segments[0].open_connections == 1


async def test_many_logs_work_through_few_handles(harness):
    """Idle active segments are closed and opened again without anyone noticing."""
    harness.handles = HandlePool(2)
    logs = [await harness.open(harness.root / f"orders-{number}") for number in range(5)]
    for fill in range(4):
        await asyncio.gather(*(append_durably(log, fill=fill) for log in logs))
        assert len(harness.handles) <= 2
    for log in logs:
        assert [batch.base_offset for batch in await read_all(log)] == [0, 1, 2, 3]


async def test_a_file_closed_to_make_room_needs_no_check_after_a_crash(harness):
    harness.handles = HandlePool(1)
    log = await harness.open()
    await append_durably(log, records=3)
    other = await harness.open(harness.root / "orders-9")
    await append_durably(other)
    recovered = await harness.open(harness.copy("crashed"))
    assert recovered.recovery.verified_batches == 0
    assert recovered.log_end_offset == 3


async def test_leading_idle_logs_opens_no_file(harness):
    logs = [await harness.open(harness.root / f"orders-{number}") for number in range(5)]
    for log in logs:
        log.assign_epoch(7)
    await settle()
    assert harness.handles.opened_count == 0
    await asyncio.gather(*(log.close() for log in logs))
    assert harness.handles.opened_count == 0


async def test_the_epoch_of_an_idle_log_is_written_with_its_first_batch(harness):
    log = await harness.open()
    log.assign_epoch(3)
    log.assign_epoch(7)
    await append_durably(log, leader_epoch=7)
    log = await harness.reopen(log)
    assert log.leader_epochs.entries == (EpochStart(7, 0),)
    assert log.last_batch_epoch == 7


async def test_a_log_that_was_closed_in_order_is_opened_without_a_write(harness, monkeypatch):
    log = await harness.open()
    await append_durably(log, records=2)
    await log.close()

    def refuse(*_):
        raise AssertionError("opened for writing")

    monkeypatch.setattr(sqlite, "connect_active", refuse)
    log = await harness.open()
    monkeypatch.undo()
    assert log.log_end_offset == 2
    assert [batch.base_offset for batch in await read_all(log)] == [0]


@pytest.mark.parametrize("cut_bytes", [1, sqlite.PAGE_BYTES, 5 * sqlite.PAGE_BYTES, -1])
async def test_a_sealed_file_of_another_length_is_refused_before_it_is_mapped(harness, cut_bytes):
    log = await harness.open(segment_bytes=100_000)
    for fill in range(4):
        await append_durably(log, value_bytes=60_000, fill=fill)
    await harness.handles.close_all()
    path = harness.directory / harness.files()[0]
    path.chmod(0o600)
    os.truncate(path, path.stat().st_size - cut_bytes)
    path.chmod(0o400)
    with pytest.raises(StorageError, match="its header says"):
        async with harness.handles.use(log._files._segments[0]):
            pass
    async with harness.handles.use(log._files._segments[1]):
        pass


class Result:
    """Something that can be watched."""


async def test_an_idle_connection_keeps_nothing_of_what_it_did_last(harness):
    log = await harness.open()
    given, returned = [Result()], [Result()]
    watched = [weakref.ref(given[0]), weakref.ref(returned[0])]

    def work(_, argument):
        assert argument is not None
        return returned.pop()

    async with harness.handles.use(log._files.active) as connection:
        await connection.run("test", partial(work, argument=given.pop()))
        gc.collect()
        assert [each() for each in watched] == [None, None]
