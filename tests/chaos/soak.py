"""Everything for a long time, on two cores: `OTTLA_SOAK_SECONDS=3600 python -m tests.chaos.soak`.

One side runs the whole matrix of faults again and again, on three and on five brokers, each round
on a new cluster and with a seed of its own. The other side gives the other tests of `tests/chaos`
their share of the time, and then simulates from ever new seeds, at a lower priority: that must not
starve brokers whose time counts. The first that fails ends both; the end is the sum of all rounds.

An hour has to be all of it: every fault on three and on five brokers, and every other test. Less
says what it did not come to.
"""

import asyncio
import itertools
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

from tests.chaos.nemeses import NEMESES

ROOT = Path(__file__).parents[2]
SECONDS = float(os.environ.get("OTTLA_SOAK_SECONDS", "3600"))
CLUSTERS = ((3, 3), (5, 3), (3, 3), (5, 5))
"""(brokers, replication factor) of one round after the other."""
LONGEST_FAULTS_S = (8.0, 20.0, 60.0)
ROUND_S_MIN = 30.0
"""No round begins whose faults would have less time."""
ROUND_S_MAX = 330.0
"""No fault of a round begins later: both sizes have their turns in an hour, several times."""
WHOLE_S = 3600.0
"""So long a soak has to have done everything."""
ROUND_EDGES_S = 60.0
"""What a round takes before its first fault and after its last one: starts, and final reads."""
SHARE_OF_A_TEST = 1 / 30
"""How much of the time each of the other tests is told to take; some take twice as much."""
SIMULATION_SEEDS = 5_000
GROUP_SEEDS = 60
TRANSACTION_SEEDS = 3_000
STOP_TIMEOUT_S = 60.0
LOWER_PRIORITY = ("nice", "-n", "10")


class SoakError(Exception):
    """Something failed; it has told what."""


async def run(*arguments, prefix=(), **environment):
    """Run a module of Python to its end.

    Raises:
        SoakError: it exited with anything but 0.
    """
    command = (*prefix, sys.executable, "-m", *arguments)
    process = await asyncio.create_subprocess_exec(
        *command, cwd=ROOT, env={**os.environ, **environment}
    )
    try:
        exit_code = await process.wait()
    except asyncio.CancelledError:
        # Unlike SIGTERM this has pytest, too, take down what it has mounted and started.
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGINT)
        with suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), STOP_TIMEOUT_S)
        raise
    if exit_code != 0:
        raise SoakError(f"{' '.join(arguments)} ended with {exit_code}")


async def break_clusters(ends_s, numbers, report):
    """Round after round of the whole matrix.

    Raises:
        SoakError: a round failed, or there was no time for one.
    """
    for number in itertools.count():
        left_s = ends_s - time.monotonic() - ROUND_EDGES_S
        longest_s = LONGEST_FAULTS_S[number % len(LONGEST_FAULTS_S)]
        longest_s = min(longest_s, left_s - ROUND_S_MIN)
        if longest_s < LONGEST_FAULTS_S[0]:
            if number == 0:
                raise SoakError(f"{SECONDS:.0f} s are too few for one round of faults")
            return
        brokers, replication_factor = CLUSTERS[number % len(CLUSTERS)]
        options = {
            "brokers": brokers,
            "replication-factor": replication_factor,
            "seed": numbers.getrandbits(32),
            "seconds": 0,
            "at-most-s": min(left_s - longest_s, ROUND_S_MAX),
            "longest-s": longest_s,
            "report": report,
        }
        told = [f"--{name}={value}" for name, value in options.items()]
        await run("tests.chaos.chaos_run", *told)


async def test_and_simulate(ends_s, numbers):
    """The other chaos tests, then simulations until the time is up.

    Each ends with its first failure: what the end of the time cuts off tells of none before it.

    Returns:
        Whether all the other tests had their turn.
    """
    each_s = SECONDS * SHARE_OF_A_TEST
    part = "the other chaos tests"
    try:
        async with asyncio.timeout(ends_s - time.monotonic()):
            await run("pytest", "-x", "-q", "-s", "tests/chaos", OTTLA_SOAK_SECONDS=f"{each_s:.0f}")
            part = "simulations"
            while True:
                await run(
                    *("pytest", "-x", "-q", "--timeout", "3600", "tests/simulation"),
                    prefix=LOWER_PRIORITY,
                    OTTLA_SIMULATION_SEEDS=str(SIMULATION_SEEDS),
                    OTTLA_GROUP_SEEDS=str(GROUP_SEEDS),
                    OTTLA_TRANSACTION_SEEDS=str(TRANSACTION_SEEDS),
                    OTTLA_SIMULATION_FIRST_SEED=str(numbers.randrange(1 << 30)),
                )
    except TimeoutError:
        print(f"the time is up amid {part}", flush=True)
        return part == "simulations"


def told_sums(report):
    """The sum of all rounds, in lines for people."""
    rounds = [json.loads(line) for line in report.read_text().splitlines()]
    faults, counts = Counter(), Counter()
    for each in rounds:
        faults.update(each["faults"])
        counts.update(each["counts"])
    clean = sum(each["is_clean"] for each in rounds)
    yield f"{len(rounds)} rounds, {clean} of them clean"
    yield f"faults {faults.total()}: " + ", ".join(
        f"{name} {n}" for name, n in faults.most_common()
    )
    yield ", ".join(f"{name} {count:,}" for name, count in counts.items())


def untried(report):
    """The faults that were seen in no round of one size, in words for people."""
    rounds = [json.loads(line) for line in report.read_text().splitlines()]
    for size in sorted({brokers for brokers, _ in CLUSTERS}):
        seen = Counter()
        for each in rounds:
            if each["brokers"] == size:
                seen.update(each["faults"])
        lacking = [name for name in NEMESES if not seen[name]]
        if lacking:
            yield f"on {size} brokers never: {', '.join(lacking)}"


async def main():
    seed = random.SystemRandom().getrandbits(32)
    numbers = random.Random(seed)
    ends_s = time.monotonic() + SECONDS
    report = Path(tempfile.mkdtemp(prefix="ottla-soak-")) / "rounds.jsonl"
    report.touch()
    print(f"soak of {SECONDS:.0f} s, seed {seed}, rounds in {report}", flush=True)
    sides = [
        asyncio.ensure_future(break_clusters(ends_s, numbers, report)),
        asyncio.ensure_future(test_and_simulate(ends_s, random.Random(seed + 1))),
    ]
    whole = asyncio.gather(*sides)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, whole.cancel)
    undone = []
    try:
        _, is_tested = await whole
        undone = [*untried(report), *([] if is_tested else ["not all of the other chaos tests"])]
    except SoakError as error:
        print(f"FAILED: {error}")
        return 1
    except asyncio.CancelledError:
        print("told to end")
        return 128 + signal.SIGTERM
    finally:
        for side in sides:
            side.cancel()
        await asyncio.gather(*sides, return_exceptions=True)
        print("\n".join(told_sums(report)))
    for line in undone:
        print(line)
    if undone and SECONDS >= WHOLE_S:
        print(f"FAILED: {SECONDS:.0f} s should be enough for all of it")
        return 1
    shutil.rmtree(report.parent)
    print("clean, as far as it went" if undone else "clean")
    return 0


if __name__ == "__main__":
    # A shell that starts this in the background has it ignored, for processes of it as well.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(asyncio.run(main()))
