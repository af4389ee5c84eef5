"""The log against plain lists, through thousands of random programs.

Appends, rolls, truncations, retention, look-ups by time, restarts and crashes, between steps and at
any operation on a file or SQL statement amid one. What fails is told with its seed and the shortest
program that still fails. Longer ones, and more of them, are run by tests/chaos.
"""

import pytest

from tests.unit.storage.log_programs import program_of, run_programs

PROGRAMS = 1_200
GROUPS = 4


@pytest.mark.parametrize("group", range(GROUPS))
def test_random_programs(group):
    programs, crashes = run_programs(range(group, PROGRAMS, GROUPS))
    assert programs == PROGRAMS // GROUPS
    assert crashes > programs // 8


def test_a_seed_is_the_same_program_every_time():
    assert program_of(7, 8) == program_of(7, 8)
    assert program_of(7, 8) != program_of(8, 8)
