"""What holds for every test."""

import signal
import sys

import pytest
from hypothesis import settings

# A machine that is busy with other things must not fail a test; speed is what `make bench` checks.
settings.register_profile("no-deadline", deadline=None)
settings.load_profile("no-deadline")

# Whatever a shell starts in the background without job control, as CI systems do, ignores Ctrl-C,
# and so would all that tests start. With a handler here, they begin with the system's default.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


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
