"""A sealed segment is cut short under a running broker: it stops, says why, and comes back."""

import os
import signal
from contextlib import suppress

import pytest
from urllib3.exceptions import HTTPError

from tests.cluster.awaiting import eventually

pytestmark = pytest.mark.cluster


def test_a_broker_whose_mapped_file_is_cut_tells_before_it_ends(start_cluster):
    client = start_cluster(brokers=1, settings={"OTTLA_TAIL_CACHE_BYTES": str(1 << 20)})
    broker = client.cluster.broker(1)
    client.create_topic(
        "t", partitions=1, replication_factor=1, configs={"segment.bytes": 1_000_000}
    )
    client.wait_led("t")
    for number in range(6):
        client.append("t", str(number) * 500_000)
    first = min(broker.data_dir.glob("t-0/*.sqlite"))
    assert client.read("t", 0, offset=0, max_records=1).status == 200
    first.chmod(0o600)
    os.truncate(first, 100_000)
    first.chmod(0o400)
    with suppress(HTTPError):
        client.read("t", 0, offset=0, max_records=1)
    assert broker.wait_exit(10) == -signal.SIGBUS
    assert "Bus error" in broker.log_tail(100_000)
    broker.start()
    broker.wait_ready()
    # What is left of the only replica is served, and what is damaged is not.
    eventually(lambda: client.read("t", 0, offset=5).status == 200)
    assert client.read("t", 0, offset=0, max_records=1).status != 200
    assert broker.is_running
