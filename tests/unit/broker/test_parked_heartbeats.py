"""Which heartbeat of a member waits, and how many that were woken are decided at a time."""

import asyncio

import pytest

from ottla_broker.drivers import parked_heartbeats
from ottla_broker.drivers.clock import monotonic_ms
from ottla_broker.drivers.parked_heartbeats import ParkedHeartbeats, Turns


async def waiting(parked, member_id, timeout_ms=10_000):
    """Whether the heartbeat was superseded, when it has waited."""
    with parked.latest("g", member_id) as heartbeat:
        await heartbeat.wait(timeout_ms)
        return heartbeat.is_superseded


async def test_a_later_heartbeat_of_the_member_ends_the_wait_of_the_former():
    parked = ParkedHeartbeats()
    former, other = (asyncio.ensure_future(waiting(parked, name)) for name in ("a", "b"))
    await asyncio.sleep(0)
    later = asyncio.ensure_future(waiting(parked, "a"))
    assert await former
    assert not other.done()
    parked.wake_all()
    assert [await later, await other] == [False, False]
    assert parked.waiting("g", ("a", "b")) == []


async def test_one_that_is_superseded_before_it_waits_does_not_wait():
    parked = ParkedHeartbeats()
    with parked.latest("g", "a") as former, parked.latest("g", "a") as later:
        await asyncio.wait_for(former.wait(10_000), 1.0)
        assert former.is_superseded
        assert parked.waiting("g", ("a", "b")) == [("a", later)]


async def test_a_wait_ends_by_itself():
    start_ms = monotonic_ms()
    assert not await waiting(ParkedHeartbeats(), "a", timeout_ms=20)
    assert monotonic_ms() - start_ms >= 20


@pytest.mark.parametrize("turn_ms", [0, 10_000])
async def test_those_who_are_woken_together_share_the_event_loop(monkeypatch, turn_ms):
    monkeypatch.setattr(parked_heartbeats, "TURN_MS", turn_ms)
    turns, decided = Turns(), []

    async def decide(number):
        await turns.take()
        decided.append(number)

    tasks = [asyncio.ensure_future(decide(number)) for number in range(10)]
    counts = []
    while not all(task.done() for task in tasks):
        before = len(decided)
        await asyncio.sleep(0)
        counts.append(len(decided) - before)
    assert sorted(decided) == list(range(10))
    assert max(counts) == (10 if turn_ms else 1)
