"""A disk that fails under a running broker: it stops with one clear line, and nothing is lost.

strace makes system calls of the running process fail, from one moment on.
"""

import itertools
import json
import os
from contextlib import suppress

import pytest
import urllib3

from ottla_broker.app import EXIT_STORAGE
from ottla_ops.local_cluster import BROKER_COMMAND, LocalBroker, LocalCluster
from tests.chaos.faulty_disks import MEBIBYTE, failing_calls, injecting, needs
from tests.cluster.awaiting import eventually
from tests.cluster.cluster_client import ClusterClient
from tests.cluster.http_client import HttpClient
from tests.cluster.writers import Writers

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(300 + 6 * float(os.environ.get("OTTLA_SOAK_SECONDS", "0"))),
    needs("strace"),
]

SECONDS = float(os.environ.get("OTTLA_SOAK_SECONDS", "0"))
SECONDS_PER_FAULT = 10
TOPIC = "orders"
PARTITIONS = 3
SEGMENT_BYTES = MEBIBYTE
LARGE_CHARACTERS = 300_000
ENOUGH_RECORDS = 2 * PARTITIONS * SEGMENT_BYTES // LARGE_CHARACTERS
RAFT_STORE_SYNC = 5
"""Which sync of a first start is the Raft store's: those of the data directory come before."""

FAULTS = (
    # Commits, the Raft log, checkpoints of high watermarks, folders: all end in one of these.
    ("fsync,fdatasync", "EIO"),
    ("pwrite64", "EIO"),
    # What is mapped, or in memory, is not read so; the log of a segment that is sealed is.
    ("pread64", "EIO"),
    # A full disk that shows only when it is too late to roll back is a failure like any other.
    ("fsync,fdatasync", "ENOSPC"),
)

IO_ERROR = ("disk I/O error", os.strerror(5))
SAID = {
    "fsync,fdatasync": IO_ERROR,
    "pwrite64": IO_ERROR,
    # SQLite takes some of what it cannot read for damage.
    "pread64": (*IO_ERROR, "database disk image is malformed"),
}


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    http = HttpClient()
    with LocalCluster(tmp_path_factory.mktemp("failing")) as cluster:
        made = ClusterClient(cluster, http)
        made.create_topic(
            TOPIC,
            partitions=PARTITIONS,
            replication_factor=3,
            configs={"segment.bytes": SEGMENT_BYTES},
        )
        made.wait_isr(TOPIC, 3)
        yield made
    http.close()


def test_a_broker_whose_disk_fails_stops_and_says_why_and_nothing_is_lost(client):
    faults = len(FAULTS) + int(SECONDS / SECONDS_PER_FAULT)
    with Writers(client, TOPIC, partitions=PARTITIONS) as writers:
        for number in range(faults):
            calls, error = FAULTS[number % len(FAULTS)]
            broker = client.cluster.broker(1 + number % 3)
            eventually(lambda broker=broker: leads(client, broker.node_id), 30)
            writers.wait_for_more(20, timeout_s=30)
            with failing_calls(broker.pid, calls, error):
                if calls == "pread64":
                    fill_segments(client, broker)
                assert broker.wait_exit(20) == EXIT_STORAGE, broker.log_tail()
            told = json.loads(broker.log_tail().strip().splitlines()[-1])
            assert told["event"] == "fail_stop"
            assert told["code"] == "KAFKA_STORAGE_ERROR"
            assert any(words in told["detail"] for words in SAID[calls]), told
            writers.wait_for_more(20, timeout_s=30)
            # Whoever takes writes knows of the next leaders; the others hear of them.
            eventually(lambda broker=broker: broker.node_id not in leaders(client))
            broker.start()
            broker.wait_ready()
            client.wait_isr(TOPIC, 3, timeout_s=30)
    copies = client.wait_replicas_equal(TOPIC, partitions=PARTITIONS, timeout_s=60)
    writers.check(copies)
    print(
        f"\nfailing disks, {faults} faults: acknowledged {writers.count}, found "
        f"{sum(map(len, copies.values()))}, lost 0, duplicated 0, refused {len(writers.refused)}, "
        f"unknown {len(writers.unknown)}"
    )


@pytest.mark.parametrize("first", range(1, 9) if SECONDS else [RAFT_STORE_SYNC])
def test_a_broker_whose_disk_fails_at_its_start_ends_too_and_does_not_hang(tmp_path, first):
    """Left to the interpreter, the end would wait for the threads of open files."""
    broker = LocalCluster(tmp_path, brokers=1).broker(1)
    failing = LocalBroker(
        1,
        listen=broker.listen,
        data_dir=broker.data_dir,
        log_path=broker.log_path,
        settings=broker.settings,
        command=injecting("fsync,fdatasync", "EIO", f"{first}+", "--seccomp-bpf", *BROKER_COMMAND),
    )
    try:
        failing.start()
        assert failing.wait_exit(40) == EXIT_STORAGE, failing.log_tail()
    finally:
        failing.kill()
    last_line = failing.log_tail().strip().splitlines()[-1]
    assert "ottla broker: " in last_line or json.loads(last_line)["event"] == "fail_stop"


def fill_segments(client, broker):
    """Write until that broker has sealed a segment, or rather ended over it."""
    others = client.others(broker.node_id)
    for number in itertools.count():
        if not broker.is_running or number == ENOUGH_RECORDS:
            return
        with suppress(urllib3.exceptions.HTTPError):
            client.produce(
                TOPIC,
                [{"value": f"large-{broker.pid}-{number}-{'x' * LARGE_CHARACTERS}"}],
                partition=number % PARTITIONS,
                via=others[0],
                timeout_s=5,
            )


def leaders(client):
    return {
        state["leader"]
        for state in client.describe(TOPIC, via=client.live_node_ids[-1])["partitions"]
    }


def leads(client, node_id):
    """Give preferred leaders their partitions back; whether that broker leads one then."""
    client.http.post(client.any_url() + "/v1/elections", {})
    return node_id in leaders(client)
