"""Runs requests back to back in several lanes, for a bounded time and number."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from loadtests.bench.rows import Latencies

Lane = Callable[[], Awaitable[None]]
"""Sends one request and waits for its answer; raises when it was refused."""

STALL_TIMEOUT_S = 30.0
"""How much longer than its time a loop may take, before it is broken off."""


@dataclass(frozen=True, slots=True)
class LoopResult:
    """What a closed loop did: answered requests, from the first sent to the last answered."""

    requests: int
    seconds: float
    latencies: Latencies


async def run_lanes(lanes: Sequence[Lane], *, seconds_max: float, requests_max: int) -> LoopResult:
    """Keep every lane busy until the time or the requests are used up.

    Raises:
        TimeoutError: answers did not come within STALL_TIMEOUT_S after the end.
        ExceptionGroup: a lane failed.
    """
    clock = time.perf_counter
    latencies: list[float] = []
    left = requests_max
    begun = clock()
    end = begun + seconds_max

    async def run(lane: Lane) -> None:
        nonlocal left
        while left > 0 and (started := clock()) < end:
            left -= 1
            await lane()
            latencies.append(clock() - started)

    async with asyncio.timeout(seconds_max + STALL_TIMEOUT_S), asyncio.TaskGroup() as group:
        for lane in lanes:
            group.create_task(run(lane))
    return LoopResult(len(latencies), clock() - begun, Latencies(latencies))
