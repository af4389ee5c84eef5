"""Waiting costs a place, ends when it should, and leaves nothing behind."""

import asyncio

import pytest

from ottla_broker.drivers.purgatory import PRUNE_AT_LEAST, OffsetWaiters, Purgatory, Watchers
from ottla_protocol.errors import NotLeaderOrFollowerError, OverloadedError

FAR_MS = 60_000


def test_a_full_purgatory_refuses_at_once():
    purgatory = Purgatory(limit=2)
    with purgatory.parked_request(), purgatory.parked_request():
        with pytest.raises(OverloadedError, match="2 requests"), purgatory.parked_request():
            pass
        assert purgatory.parked == 2
    assert purgatory.parked == 0


async def test_a_pause_lasts_as_long_as_it_should():
    purgatory = Purgatory(limit=1)
    began_s = asyncio.get_running_loop().time()
    await purgatory.pause(20)
    assert asyncio.get_running_loop().time() - began_s > 0.01
    assert purgatory.parked == 0


async def test_the_release_ends_a_pause():
    purgatory = Purgatory(limit=1)
    pausing = asyncio.create_task(purgatory.pause(FAR_MS))
    await asyncio.sleep(0)
    assert not pausing.done()
    purgatory.release()
    async with asyncio.timeout(10):
        await pausing


async def test_an_offset_resolves_those_who_wait_for_it_or_less():
    waiters = OffsetWaiters()
    low, high = waiters.wait_for(5), waiters.wait_for(7)
    waiters.reached(4)
    assert not low.done()
    waiters.reached(5)
    assert low.done()
    assert not high.done()
    waiters.reached(100)
    assert high.done()
    assert len(waiters) == 0


async def test_a_failure_reaches_everybody_who_still_waits():
    waiters = OffsetWaiters()
    waiting = [waiters.wait_for(offset) for offset in (1, 2)]
    waiters.fail(NotLeaderOrFollowerError("moved"))
    for future in waiting:
        with pytest.raises(NotLeaderOrFollowerError):
            await future
    assert len(waiters) == 0


async def test_waits_that_gave_up_are_forgotten_while_the_offset_stands_still():
    waiters = OffsetWaiters()
    staying = waiters.wait_for(10)
    for _ in range(20 * PRUNE_AT_LEAST):
        waiters.wait_for(10).cancel()
    assert len(waiters) <= PRUNE_AT_LEAST
    waiters.reached(10)
    assert staying.done()


async def test_watchers_are_woken_until_they_leave():
    watchers = Watchers()
    staying, leaving = asyncio.Event(), asyncio.Event()
    watchers.add(staying)
    watchers.add(leaving)
    watchers.remove(leaving)
    watchers.remove(leaving)
    watchers.wake()
    assert staying.is_set()
    assert not leaving.is_set()
