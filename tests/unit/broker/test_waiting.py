"""Waits that end early: by news that make them pointless, or by their deadline."""

import asyncio

import pytest

from ottla_broker.drivers.clock import within
from ottla_broker.drivers.racing import Unless

FAR_MS = 60_000


class ReplacedError(Exception):
    pass


def future():
    return asyncio.get_running_loop().create_future()


async def test_news_end_a_call():
    news, never = future(), future()
    asyncio.get_running_loop().call_soon(news.set_result, None)
    with pytest.raises(ReplacedError), Unless(news, ReplacedError()):
        await never
    assert never.cancelled()
    assert asyncio.current_task().cancelling() == 0


async def test_news_that_are_there_already_keep_a_call_from_beginning():
    news = future()
    news.set_result(None)
    with pytest.raises(ReplacedError), Unless(news, ReplacedError()):
        pytest.fail("it began")


async def test_a_call_that_ends_in_time_leaves_nothing_with_the_news():
    news = future()
    with Unless(news, ReplacedError()):
        await asyncio.sleep(0)
    news.set_result(None)
    await asyncio.sleep(0)
    assert asyncio.current_task().cancelling() == 0


async def test_the_calls_own_error_comes_through():
    with pytest.raises(KeyError), Unless(future(), ReplacedError()):
        raise KeyError


async def test_news_that_come_with_the_answer_do_not_reach_what_the_task_does_next():
    """Both are there in one turn of the event loop, the answer first."""
    news, answer = future(), future()

    async def call():
        with Unless(news, ReplacedError()):
            result = await answer
        for _ in range(5):
            await asyncio.sleep(0)
        return result

    task = asyncio.create_task(call())
    await asyncio.sleep(0)
    answer.set_result(7)
    news.set_result(None)
    assert await task == 7
    assert task.cancelling() == 0


async def test_somebody_elses_cancellation_is_not_swallowed():
    news, never = future(), future()

    async def call():
        with Unless(news, ReplacedError()):
            await never

    task = asyncio.create_task(call())
    await asyncio.sleep(0)
    news.set_result(None)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_of_two_that_are_nested_the_one_that_happens_is_told():
    inner, outer = future(), future()
    asyncio.get_running_loop().call_soon(outer.set_result, None)
    with pytest.raises(ReplacedError), Unless(outer, ReplacedError()), Unless(inner, KeyError()):
        await future()


async def test_a_deadline_within_a_call_is_told_as_itself():
    with pytest.raises(TimeoutError), Unless(future(), ReplacedError()):
        async with asyncio.timeout(0):
            await future()


async def test_within_gives_the_result_or_the_failure():
    done, failed = future(), future()
    done.set_result(7)
    failed.set_exception(KeyError())
    assert await within(FAR_MS, done) == 7
    with pytest.raises(KeyError):
        await within(FAR_MS, failed)


async def test_within_ends_at_the_deadline():
    with pytest.raises(TimeoutError):
        await within(0, future())
    with pytest.raises(TimeoutError):
        await within(-5, future())
