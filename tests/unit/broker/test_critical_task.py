"""A loop that ends without having been asked to stops the broker."""

import asyncio
import errno
import os

import pytest

from ottla_broker.drivers.critical_task import CriticalTask, stop_all
from ottla_protocol.errors import StorageError


def started(work, failures):
    return CriticalTask(work, name="loop", on_failure=failures.append)


async def wait_for_ever():
    await asyncio.get_running_loop().create_future()


@pytest.mark.parametrize("begun", [False, True])
async def test_its_owner_may_end_it(begun):
    failures = []
    tasks = [started(wait_for_ever(), failures) for _ in range(3)]
    if begun:
        await asyncio.sleep(0)
    await stop_all(tasks)
    assert failures == []


async def test_an_error_is_told_as_it_is():
    failures = []

    async def fail():
        raise StorageError("the disk")

    started(fail(), failures)
    await asyncio.sleep(0)
    assert [type(failure) for failure in failures] == [StorageError]


async def test_a_defect_is_told_with_its_name():
    failures = []

    async def fail():
        raise KeyError("what")

    started(fail(), failures)
    await asyncio.sleep(0)
    assert "loop failed: KeyError" in failures[0].detail


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EMFILE])
async def test_a_disk_that_fails_a_loop_is_a_failure_of_storage(code):
    failures = []

    async def fail():
        raise OSError(code, os.strerror(code), "/data/meta.json")

    started(fail(), failures)
    await asyncio.sleep(0)
    assert [type(failure) for failure in failures] == [StorageError]
    assert "/data/meta.json" in failures[0].detail


async def test_a_stray_cancellation_is_told():
    failures = []

    async def cancelled():
        asyncio.current_task().cancel()
        await asyncio.sleep(0)

    started(cancelled(), failures)
    for _ in range(4):
        await asyncio.sleep(0)
    assert "cancelled" in failures[0].detail
