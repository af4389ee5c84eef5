"""Disks without a free byte: nothing acknowledged is lost, and all goes on when there is room.

Each broker has a small file system of its own. The filling is somebody else's, and complete: what
the reserve kept for metadata is taken too, so that SQLite itself finds no room.
"""

import os
import random
import time
from contextlib import ExitStack

import pytest

from ottla_ops.local_cluster import LocalCluster
from tests.chaos.faulty_disks import MEBIBYTE, fill_up, needs, tmpfs
from tests.cluster.awaiting import eventually
from tests.cluster.cluster_client import ClusterClient
from tests.cluster.http_client import HttpClient
from tests.cluster.writers import Writers

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(300 + 2 * float(os.environ.get("OTTLA_SOAK_SECONDS", "0"))),
    needs("mount", "umount"),
]

SECONDS = float(os.environ.get("OTTLA_SOAK_SECONDS", "0"))
DISK_BYTES = 128 * MEBIBYTE
"""Much more than the writers write in the longest run: a disk is full only of ballast."""
SETTINGS = {"OTTLA_DISK_RESERVE_BYTES": str(8 * MEBIBYTE), "OTTLA_REPLICA_LAG_TIME_MAX_MS": "3000"}
PARTITIONS = 3


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    """Three brokers, each on a disk of its own; every test leaves the disks empty again."""
    directory = tmp_path_factory.mktemp("disks")
    http = HttpClient()
    with ExitStack() as stack:
        stack.callback(http.close)
        for node_id in (1, 2, 3):
            stack.enter_context(tmpfs(directory / f"broker-{node_id}", DISK_BYTES))
        cluster = stack.enter_context(LocalCluster(directory, settings=SETTINGS))
        yield ClusterClient(cluster, http)


@pytest.fixture
def topic(client, request):
    name = request.node.name.replace("_", "-")
    client.create_topic(name, partitions=PARTITIONS, replication_factor=3)
    client.wait_isr(name, 3)
    return name


def data_dir(client, node_id):
    return client.cluster.broker(node_id).data_dir


def leaders(client, topic):
    return {state["leader"] for state in client.describe(topic)["partitions"]}


def readiness(client, node_id):
    return client.http.get(client.url(node_id) + "/readyz")


def is_full(client, node_id):
    return client.metric(node_id, "ottla_disk_full") == 1


def test_leadership_leaves_a_full_disk_and_comes_back(client, topic):
    with Writers(client, topic, partitions=PARTITIONS) as writers:
        writers.wait_for_more(50)
        for full in client.node_ids[: 3 if SECONDS else 1]:
            ballast = fill_up(data_dir(client, full))
            eventually(lambda full=full: full not in leaders(client, topic), 20)
            assert is_full(client, full)
            writers.wait_for_more(50)
            # Until it could write down who leads now, it confirms no session: it would lead on.
            ready = eventually(lambda full=full: readiness(client, full).expect(200), 20)
            assert "no room" in ready.document["warnings"][0]
            ballast.unlink()
            eventually(lambda full=full: not is_full(client, full), 20)
            client.wait_isr(topic, 3, timeout_s=20)
    check(client, topic, writers, "one disk at a time")
    assert all(broker.is_running for broker in client.cluster.brokers)


def test_where_all_disks_are_full_writes_are_refused_reads_go_on_and_writes_resume(client, topic):
    with Writers(client, topic, partitions=PARTITIONS) as writers:
        writers.wait_for_more(50)
        ballast = [fill_up(data_dir(client, node_id)) for node_id in client.node_ids]
        eventually(lambda: all(is_full(client, node_id) for node_id in client.node_ids), 20)
        for partition in range(PARTITIONS):
            eventually(lambda partition=partition: refused(client, topic, partition), 20)
            assert client.values(topic, partition)
        # Such a broker can be stopped in order, and started again.
        stopped = client.cluster.broker(3)
        assert stopped.terminate() == 0
        stopped.start()
        stopped.wait_ready()
        # Closed logs take less than open ones.
        ballast[2] = fill_up(data_dir(client, 3))
        eventually(lambda: is_full(client, 3), 20)
        for file in ballast:
            file.unlink()
        writers.wait_for_more(50, timeout_s=30)
        client.wait_isr(topic, 3, timeout_s=20)
    check(client, topic, writers, "all disks at once")
    assert all(broker.is_running for broker in client.cluster.brokers)


@pytest.mark.skipif(SECONDS == 0, reason="only where OTTLA_SOAK_SECONDS gives it time")
def test_disks_that_fill_up_and_empty_for_a_long_time(client, topic):
    seed = random.SystemRandom().getrandbits(32)
    chosen = random.Random(seed)
    ends_s = time.monotonic() + SECONDS
    filled = 0
    with Writers(client, topic, partitions=PARTITIONS) as writers:
        while time.monotonic() < ends_s:
            ballast = [
                fill_up(data_dir(client, node_id))
                for node_id in chosen.sample(client.node_ids, chosen.randint(1, 3))
            ]
            filled += len(ballast)
            time.sleep(chosen.uniform(0, 5))
            if chosen.random() < 0.3:
                client.cluster.broker(chosen.choice(client.node_ids)).restart()
            time.sleep(chosen.uniform(0, 2))
            for file in ballast:
                file.unlink()
            for broker in client.cluster.brokers:
                if not broker.is_running:
                    broker.start()
            # A disk that fills up again and again counts as full for up to a minute.
            writers.wait_for_more(20, timeout_s=120)
        try:
            client.wait_isr(topic, 3, timeout_s=120)
        except AssertionError as error:
            raise AssertionError(
                f"{error}; seed {seed}, disks: {'; '.join(told_disks(client))}"
            ) from error
    check(client, topic, writers, f"{filled} fillings, seed {seed}")


def told_disks(client):
    """For each broker whether it calls its disk full, and how much is free."""
    for node_id in client.node_ids:
        state = os.statvfs(data_dir(client, node_id))
        free_bytes = state.f_bavail * state.f_frsize
        yield f"broker {node_id} full {is_full(client, node_id)}, {free_bytes:,} bytes free"


def refused(client, topic, partition):
    """A write is told 507, and nothing of it is stored."""
    answer = client.produce(topic, [{"value": "no"}], partition=partition, timeout_ms=2000)
    assert answer.status == 507, (answer.status, answer.body)
    assert answer.code == "INSUFFICIENT_STORAGE"
    assert answer.document["retriable"] is True
    assert answer.document["outcome"] == "not_applied"
    assert int(answer.headers["Retry-After"]) > 0
    return True


def check(client, topic, writers, what):
    copies = client.wait_replicas_equal(topic, partitions=PARTITIONS, timeout_s=60)
    writers.check(copies)
    found = sum(len(records) for records in copies.values())
    print(
        f"\nfull disks, {what}: acknowledged {writers.count}, found {found}, lost 0, duplicated 0,"
        f" refused {len(writers.refused)}, unknown {len(writers.unknown)}"
    )
