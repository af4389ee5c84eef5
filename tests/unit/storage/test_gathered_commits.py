"""When a commit waits for company, and for whom it never does."""

import asyncio

import pytest

from ottla_broker.storage.group_commit import GATHER_BYTES, GroupCommit, QueuedBatch
from ottla_broker.storage.stored_batch import StoredBatch

LONG_MS = 60_000


class Disk:
    """A group commit onto a disk that keeps the transactions it was given."""

    def __init__(self):
        self.groups = []
        self.next_offset = 0
        self.commits = GroupCommit(
            0,
            write=self.write,
            on_durable=lambda end: None,
            on_failure=lambda error: pytest.fail(str(error)),
            on_held=lambda error: pytest.fail(str(error)),
            group_bytes_max=1 << 30,
        )

    async def write(self, group):
        self.groups.append(len(group.rows))
        await asyncio.sleep(0)

    def append(self, *, size_bytes=100):
        batch = StoredBatch(self.next_offset, self.next_offset, 0, bytes(size_bytes))
        self.next_offset += 1
        self.commits.enqueue(QueuedBatch(batch, (), follows_gap=False))

    async def settle(self):
        """Let everything happen that needs no timer."""
        for _ in range(20):
            await asyncio.sleep(0)


@pytest.fixture
async def disk():
    made = Disk()
    yield made
    made.commits.gather(0)
    await made.commits.close()


@pytest.fixture
async def busy(disk):
    """A disk whose last commit had company, asked to gather for longer than any test takes."""
    disk.append()
    disk.append()
    await disk.commits.wait_durable(2)
    assert disk.groups == [2]
    disk.commits.gather(LONG_MS)
    return disk


async def test_a_commit_waits_while_commits_have_company(busy):
    busy.append()
    await busy.settle()
    assert busy.groups == [2]


async def test_it_ends_with_all_that_has_gathered(busy):
    busy.commits.gather(1)
    busy.append()
    busy.append()
    await busy.commits.wait_durable(3)
    assert busy.groups == [2, 2]


async def test_a_client_that_is_alone_never_waits(disk):
    disk.commits.gather(LONG_MS)
    for expected in range(1, 4):
        disk.append()
        await disk.settle()
        assert disk.groups == [1] * expected


async def test_whoever_waits_for_this_disk_alone_does_not_wait_for_others(busy):
    busy.append()
    await busy.settle()
    waiting = asyncio.create_task(busy.commits.wait_durable(3))
    await busy.settle()
    assert waiting.done()


async def test_a_drain_does_not_wait(busy):
    busy.append()
    await busy.settle()
    draining = asyncio.create_task(busy.commits.drain())
    await busy.settle()
    assert draining.done()


async def test_much_is_company_enough(busy):
    busy.append(size_bytes=GATHER_BYTES)
    await busy.settle()
    assert busy.groups == [2, 1]


async def test_company_that_is_large_ends_the_wait(busy):
    busy.append()
    await busy.settle()
    busy.append(size_bytes=GATHER_BYTES)
    await busy.settle()
    assert busy.groups == [2, 2]


async def test_closing_does_not_wait(busy):
    busy.append()
    await busy.settle()
    await asyncio.wait_for(busy.commits.close(), 5)
    assert busy.groups == [2, 1]
