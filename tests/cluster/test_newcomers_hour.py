"""The page of a newcomer's hour, run on a cluster of its own, since it kills a broker.

Three things stand in for what a newcomer has: the environment that runs the tests for the
installation, `start_cluster` for `make start`, and a thread for the supervisor that starts a killed
broker again.
"""

import signal
import threading

import pytest

from tests.cluster.page_blocks import blocks_of
from tests.cluster.page_run import TIMEOUT_S, run
from tests.cluster.test_pages import OF_ITS_OWN

pytestmark = pytest.mark.cluster

KILLED = 2
PID = f"$(pgrep -f '^python -m ottla_broker --node-id {KILLED}')"
SETTINGS = {"OTTLA_OFFSETS_PARTITIONS": "1"}
"""Sixteen take a busy machine long, for nothing that this page shows."""


class Supervisor(threading.Thread):
    """Waits for the broker's end and starts it again, once."""

    def __init__(self, broker):
        super().__init__(name="supervisor")
        self.broker = broker
        self.exit_code = None

    def run(self):
        # Longer than the page may take: it ends with the broker, whoever ends that.
        self.exit_code = self.broker.wait_exit(2 * TIMEOUT_S)
        self.broker.start()


@pytest.mark.timeout(TIMEOUT_S + 60)
def test_a_newcomers_hour(start_cluster, tmp_path):
    client = start_cluster(settings=SETTINGS)
    broker = client.cluster.broker(KILLED)
    blocks = [block for block in blocks_of(OF_ITS_OWN.read_text()) if block.is_run]
    # Other brokers of this machine would answer to that pattern too.
    [kill] = [block for block in blocks if PID in block.text]
    kill.text = kill.text.replace(PID, str(broker.pid))
    former_pid = broker.pid
    directory = tmp_path / "page"
    directory.mkdir()
    supervisor = Supervisor(broker)
    supervisor.start()
    try:
        run(blocks, client, directory)
    finally:
        if broker.pid == former_pid:
            # The page has failed before it came to that; what waits for the broker must end.
            broker.kill()
        supervisor.join()
    assert supervisor.exit_code == -signal.SIGKILL
    assert broker.pid != former_pid
