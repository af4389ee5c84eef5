"""What holds for every simulation."""

import gc

import pytest

OBJECTS_BEFORE_A_SEARCH = 50_000
"""A simulated cluster is some thousand objects that refer to one another and live as long as its
run. Python's usual search for garbage, after every 700 new ones, finds nothing among them and takes
a tenth of the time."""


@pytest.fixture(autouse=True)
def rare_garbage_collection():
    former = gc.get_threshold()
    gc.set_threshold(OBJECTS_BEFORE_A_SEARCH, *former[1:])
    yield
    gc.set_threshold(*former)
