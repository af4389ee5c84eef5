"""What holds for every test."""

import sys

import pytest
from hypothesis import settings

# A machine that is busy with other things must not fail a test; speed is what `make bench` checks.
settings.register_profile("no-deadline", deadline=None)
settings.load_profile("no-deadline")


@pytest.fixture(scope="session")
def launch():
    """For a `LocalCluster`: brokers that start in a tenth of the time; None but on Linux."""
    if sys.platform != "linux":
        yield None
        return
    # Imported late: most tests need no brokers.
    from tests.cluster.forked_brokers import ForkServer

    with ForkServer() as server:
        yield server.launch
