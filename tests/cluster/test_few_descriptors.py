"""A broker with few file descriptors: many more partitions and clients than fit at a time."""

import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from ottla_broker.descriptor_budget import DESCRIPTORS_MIN, divide_descriptors
from tests.cluster.http_client import HttpClient

pytestmark = pytest.mark.cluster

BUDGET = divide_descriptors(DESCRIPTORS_MIN)
PARTITIONS = 4 * BUDGET.open_segments
PARKED_POLLS = 16
COMMAND = (
    sys.executable,
    "-c",
    "import resource, runpy;"
    f"resource.setrlimit(resource.RLIMIT_NOFILE, ({DESCRIPTORS_MIN}, {DESCRIPTORS_MIN}));"
    "runpy.run_module('ottla_broker', run_name='__main__', alter_sys=True)",
)


def connections(broker, count):
    host, port = broker.listen.split(":")
    return [socket.create_connection((host, int(port))) for _ in range(count)]


def get_anew(client, path):
    """Over a connection of its own: those that are served already go on."""
    with closing(HttpClient()) as newcomer:
        return newcomer.get(client.url(1) + path)


def append_to_all(client, value):
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda each: client.append("t", value, partition=each), range(PARTITIONS)))


def all_values(client):
    with ThreadPoolExecutor(8) as threads:
        return list(
            threads.map(lambda each: list(client.values("t", each).values()), range(PARTITIONS))
        )


def test_many_partitions_and_clients_of_a_broker_with_few_descriptors(start_cluster):
    client = start_cluster(brokers=1, command=COMMAND, launch=None)
    broker = client.cluster.broker(1)
    client.create_topic("t", partitions=PARTITIONS, replication_factor=1)
    client.wait_led("t", partitions=PARTITIONS)
    with ThreadPoolExecutor(PARKED_POLLS) as threads:
        polls = [
            threads.submit(
                client.read, "t", each, offset="latest", max_wait_ms=20_000, timeout_s=30
            )
            for each in range(PARKED_POLLS)
        ]
        client.wait_parked(1, PARKED_POLLS)
        append_to_all(client, "first")
        for poll in polls:
            [record] = poll.result().expect(200).document["records"]
            assert record["value"] == "first"

    idle = []
    while (refused := get_anew(client, "/v1/topics")).status == 200:
        idle += connections(broker, 1)
        assert len(idle) <= BUDGET.connections
    assert refused.status == 503
    assert "max_connections" in refused.document["detail"]
    assert get_anew(client, "/livez").status == 200
    idle += connections(broker, DESCRIPTORS_MIN)
    append_to_all(client, "second")
    for each in idle:
        each.close()
    broker.restart()
    broker.wait_ready()
    assert all_values(client) == [["first", "second"]] * PARTITIONS
