"""The bounded pool of open files."""

import asyncio

import pytest

from ottla_broker.storage.handles import HandlePool
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
