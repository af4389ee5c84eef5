"""Long random programs on a log, with crashes amid their steps, for OTTLA_SOAK_SECONDS.

A short run has the same programs each time; one that is told how long it may take has new ones, and
OTTLA_SIMULATION_FIRST_SEED says with which they begin. A failure names its seed. The short programs
are in tests/unit/storage, test_log_model.py and test_transaction_programs.py.
"""

import itertools
import os
import random
import time

import pytest

from tests.unit.storage.log_programs import run_programs
from tests.unit.storage.transaction_programs import run_transaction_programs

TOLD_SECONDS = os.environ.get("OTTLA_SOAK_SECONDS")
SECONDS = float(TOLD_SECONDS or "3")
AT_ONCE = 20
STEPS_MAX = 60


def first_seed():
    """Where the programs begin."""
    told = os.environ.get("OTTLA_SIMULATION_FIRST_SEED")
    if told is not None:
        return int(told)
    # The lower ones are those of tests/unit.
    return random.randrange(1_000_000, 1 << 40) if TOLD_SECONDS else 1_000_000


@pytest.mark.timeout(60 + 3 * SECONDS)
@pytest.mark.parametrize("run", [run_programs, run_transaction_programs])
def test_long_programs(run):
    deadline_s = time.monotonic() + SECONDS
    programs = crashes = 0
    first = first_seed()
    for start in itertools.count(first, AT_ONCE):
        ran = run(range(start, start + AT_ONCE), steps_max=STEPS_MAX)
        programs, crashes = programs + ran[0], crashes + ran[1]
        if time.monotonic() > deadline_s:
            break
    assert crashes > 0
    print(f"{programs:,} programs of up to {STEPS_MAX} steps from seed {first} on,", end=" ")
    print(f"{crashes:,} crashes amid one")
