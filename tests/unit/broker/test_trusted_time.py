"""The time that outlives the process."""

import asyncio
import threading
from functools import partial

import pytest
from structlog.testing import capture_logs

from ottla_broker.drivers import trusted_time
from ottla_broker.drivers.trusted_time import TrustedTime
from ottla_broker.storage.disk_full import DiskFullError, NoDescriptorError
from ottla_broker.storage.log_directory import CLOCK_FILE, LogDirectory
from ottla_broker.storage.policy.trusted_clock import CLOCK_JUMP_GRACE_MS, CLOCK_JUMP_MS, KnownTime
from ottla_protocol.errors import StorageError
from tests.unit.awaiting import until

MONTH_MS = 30 * 24 * 3_600_000


class Clocks:
    def __init__(self):
        self.wall_ms = self.steady_ms = 1_000_000


@pytest.fixture
def clocks():
    return Clocks()


@pytest.fixture
def directory(tmp_path):
    with LogDirectory(tmp_path) as directory:
        yield directory


@pytest.fixture
def begin(clocks, directory):
    """A process of this broker begins."""
    return partial(
        TrustedTime,
        directory=directory,
        on_failure=pytest.fail,
        wall_ms=lambda: clocks.wall_ms,
        steady_ms=lambda: clocks.steady_ms,
    )


async def test_a_clock_that_is_set_ahead_while_the_broker_is_down_waits_its_hour(clocks, begin):
    time = begin()
    time.start()
    before = time.read()
    await time.stop()
    clocks.wall_ms += MONTH_MS
    clocks.steady_ms = 7
    time = begin()
    assert time.read() == before
    clocks.wall_ms += CLOCK_JUMP_GRACE_MS
    clocks.steady_ms += CLOCK_JUMP_GRACE_MS
    assert time.read() == clocks.wall_ms


async def test_each_jump_is_told_once(clocks, begin):
    time = begin()
    with capture_logs() as logs:
        for jump_ms in (0, 2 * CLOCK_JUMP_MS, 0, MONTH_MS, 0):
            clocks.wall_ms += jump_ms
            time.read()
    assert [each["ahead_ms"] for each in logs] == [
        2 * CLOCK_JUMP_MS,
        2 * CLOCK_JUMP_MS + MONTH_MS,
    ]


async def test_without_a_process_before_the_clock_is_believed(clocks, begin, directory):
    clocks.wall_ms += MONTH_MS
    assert begin().read() == clocks.wall_ms
    (directory.path / CLOCK_FILE).write_text("{")
    assert begin().read() == clocks.wall_ms


async def test_it_is_written_down_again_and_again(clocks, begin, directory, monkeypatch):
    monkeypatch.setattr(trusted_time, "WRITE_INTERVAL_MS", 1)
    time = begin()
    time.start()
    await until(lambda: directory.read_clock() == KnownTime(1_000_000))
    clocks.wall_ms += 5
    await until(lambda: directory.read_clock() == KnownTime(1_000_005))
    await time.stop()


async def test_the_last_write_waits_for_one_that_is_under_way(
    clocks, begin, directory, monkeypatch
):
    begun, may_end = threading.Event(), threading.Event()
    under_way = []
    write = directory.write_clock

    def write_slowly(known):
        under_way.append(known)
        assert len(under_way) == 1
        begun.set()
        may_end.wait(5)
        write(known)
        under_way.clear()

    monkeypatch.setattr(directory, "write_clock", write_slowly)
    time = begin()
    time.start()
    await until(begun.is_set)
    clocks.wall_ms += 5
    stopped = asyncio.create_task(time.stop())
    for _ in range(10):
        await asyncio.sleep(0.001)
    may_end.set()
    await stopped
    assert directory.read_clock() == KnownTime(1_000_005)


async def test_a_broker_that_never_started_writes_nothing(begin, directory):
    await begin().stop()
    assert directory.read_clock() is None


async def test_a_full_disk_keeps_what_was_known_and_a_broken_one_ends_the_process(
    begin, directory, monkeypatch
):
    time = begin()
    await time.write()
    errors = [DiskFullError("full"), NoDescriptorError("none"), StorageError("broken")]

    def fail(_known):
        raise errors.pop(0)

    monkeypatch.setattr(directory, "write_clock", fail)
    await time.write()
    await time.write()
    assert directory.read_clock() == KnownTime(1_000_000)
    failures = []
    time = begin(on_failure=failures.append)
    time.start()
    while not failures:  # noqa: ASYNC110  what is waited for has no event
        await asyncio.sleep(0.001)
    assert str(failures[0].detail) == "broken"
