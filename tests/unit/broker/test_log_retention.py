"""The task that holds every log against its limits."""

import asyncio

import pytest

from ottla_broker.drivers.log_retention import LogRetention
from ottla_broker.drivers.replica_activity import ReplicaActivity
from ottla_broker.storage.log_config import RemovedSegments
from ottla_broker.storage.policy.trusted_clock import CLOCK_JUMP_GRACE_MS, TrustedClock
from ottla_broker.telemetry import METRICS
from ottla_protocol.errors import LeaderNotAvailableError, StorageError, UnavailableError

MONTH_MS = 30 * 24 * 3_600_000


async def until(condition):
    """Let the event loop turn until it holds; pytest's own time-out ends it."""
    while not condition():  # noqa: ASYNC110  what is waited for has no event
        await asyncio.sleep(0)


class FakeCleanup:
    def __init__(self):
        self.has_expired = True
        self.removals = 0
        self.error = None

    async def remove_expired(self):
        self.removals += 1
        if self.error is not None:
            raise self.error
        return RemovedSegments()


class FakeLog:
    def __init__(self):
        self.log_start_offset = 0
        self.cleanup = FakeCleanup()
        self.failure = None


class FakePartition:
    name = "orders-0"

    def __init__(self):
        self.log = FakeLog()
        self.asked = []
        self.error = None

    async def enforce_retention(self, now_ms):
        self.asked.append(now_ms)
        if self.error is not None:
            raise self.error
        self.log.log_start_offset += 1


class FakeReplicas:
    def __init__(self, led, followed):
        self.led = led
        self.partitions = dict(enumerate([*led, *followed]))
        self.activity = ReplicaActivity()
        self.activity.log_start_moved.update(self.partitions)

    def leaders(self):
        return iter(self.led)

    async def remove_expired(self, hosted):
        return await hosted.log.cleanup.remove_expired()


class Clocks:
    def __init__(self):
        self.wall_ms = self.steady_ms = 1_000_000


@pytest.fixture
def clocks():
    return Clocks()


def retention_of(clocks, led, followed=(), *, failures=None, interval_ms=1):
    trusted = TrustedClock(clocks.wall_ms, clocks.steady_ms)
    return LogRetention(
        replicas=FakeReplicas(led, followed),
        interval_ms=interval_ms,
        on_failure=pytest.fail if failures is None else failures.append,
        trusted_ms=lambda: trusted.read(clocks.wall_ms, clocks.steady_ms),
        steady_ms=lambda: clocks.steady_ms,
    )


async def test_the_leader_decides_and_everyone_removes(clocks):
    led, followed = FakePartition(), FakePartition()
    retention = retention_of(clocks, [led], [followed])
    await retention.enforce()
    await retention.remove_expired()
    assert (led.asked, followed.asked) == ([clocks.wall_ms], [])
    assert (led.log.cleanup.removals, followed.log.cleanup.removals) == (1, 1)


async def test_a_log_that_cannot_now_does_not_keep_the_others_waiting(clocks):
    moved, sound = FakePartition(), FakePartition()
    moved.error = LeaderNotAvailableError("moved")
    moved.log.cleanup.error = UnavailableError("closed")
    retention = retention_of(clocks, [moved, sound])
    await retention.enforce()
    await retention.remove_expired()
    assert (len(sound.asked), sound.log.cleanup.removals) == (1, 1)


async def test_a_segment_that_cannot_be_read_keeps_its_own_log_alone(clocks):
    damaged, sound = FakePartition(), FakePartition()
    damaged.error = StorageError("damaged")
    retention = retention_of(clocks, [damaged, sound])
    before = METRICS.retention_errors._value.get()
    await retention.enforce()
    assert len(sound.asked) == 1
    assert METRICS.retention_errors._value.get() == before + 1
    damaged.log.failure = damaged.error
    with pytest.raises(StorageError):
        await retention.enforce()


async def test_a_clock_that_jumps_ahead_ages_nothing_before_its_time(clocks):
    led = FakePartition()
    retention = retention_of(clocks, [led])
    before = clocks.wall_ms
    clocks.wall_ms += MONTH_MS
    await retention.enforce()
    clocks.wall_ms += CLOCK_JUMP_GRACE_MS
    clocks.steady_ms += CLOCK_JUMP_GRACE_MS
    await retention.enforce()
    assert led.asked == [before, clocks.wall_ms]


async def test_the_task_looks_again_and_again(clocks):
    led = FakePartition()
    retention = retention_of(clocks, [led])
    retention.start()

    def looked_twice():
        clocks.steady_ms += 1
        return len(led.asked) >= 2 and led.log.cleanup.removals >= 2

    await until(looked_twice)
    await retention.stop()


async def test_a_log_that_fails_stops_the_broker(clocks):
    led = FakePartition()
    led.log.cleanup.error = StorageError("cannot remove")
    failures = []
    retention = retention_of(clocks, [led], failures=failures)
    retention.start()
    await until(lambda: failures)
    assert failures == [led.log.cleanup.error]
    await retention.stop()
