"""Long random programs on a log, with crashes amid their steps, for OTTLA_SOAK_SECONDS.

The short ones are in tests/unit/storage, test_log_model.py and test_transaction_programs.py.
"""

import itertools
import os
import time

import pytest

from tests.unit.storage.log_programs import run_programs
from tests.unit.storage.transaction_programs import run_transaction_programs

SECONDS = float(os.environ.get("OTTLA_SOAK_SECONDS", "3"))
FIRST_SEED = 1_000_000
AT_ONCE = 20
STEPS_MAX = 60


@pytest.mark.timeout(60 + 3 * SECONDS)
@pytest.mark.parametrize("run", [run_programs, run_transaction_programs])
def test_long_programs(run):
    deadline_s = time.monotonic() + SECONDS
    programs = crashes = 0
    for start in itertools.count(FIRST_SEED, AT_ONCE):
        ran = run(range(start, start + AT_ONCE), steps_max=STEPS_MAX)
        programs, crashes = programs + ran[0], crashes + ran[1]
        if time.monotonic() > deadline_s:
            break
    assert crashes > 0
    print(f"{programs:,} programs of up to {STEPS_MAX} steps, {crashes:,} crashes amid one")
