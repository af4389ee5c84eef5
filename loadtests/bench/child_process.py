"""Rows that are measured in a process of their own: run it, and take what it prints."""

import asyncio
import subprocess
from collections.abc import Sequence

from loadtests.bench.environment import BenchError

CHILD_TIMEOUT_S = 120.0


async def output_of(command: Sequence[str]) -> str:
    """What the command prints.

    Raises:
        BenchError: it failed.
        subprocess.TimeoutExpired: it took longer than CHILD_TIMEOUT_S, and was killed.
    """

    def run() -> str:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=CHILD_TIMEOUT_S, check=False
        )
        if done.returncode != 0:
            raise BenchError(f"{' '.join(command)}: {done.stderr[-2_000:]}")
        return done.stdout

    return await asyncio.to_thread(run)
