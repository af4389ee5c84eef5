"""Slow disks and heavy requests cost no election and no broker its session.

Terms of the quorum and fenced brokers are counted before and after. What goes on meanwhile must go
on, too: a cluster that is quiet because it refuses everything keeps its controller.
"""

import json
import os
import time

import pytest

from ottla_ops.local_cluster import LocalCluster
from ottla_protocol import routes
from tests.chaos.faulty_disks import needs
from tests.chaos.slow_disks import slow_syncs
from tests.cluster.cluster_client import ClusterClient
from tests.cluster.http_client import HttpClient
from tests.cluster.writers import Writers

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(300 + 2 * float(os.environ.get("OTTLA_SOAK_SECONDS", "0"))),
]

SECONDS = float(os.environ.get("OTTLA_SOAK_SECONDS", "0"))
SYNC_DELAY_MS = 200
MEBIBYTE = 1 << 20
TOPIC = "orders"


@pytest.fixture
def http():
    client = HttpClient()
    yield client
    client.close()


class Counted:
    """Counts what must not happen while the block runs."""

    def __init__(self, client):
        self._client = client

    def __enter__(self):
        self._terms = self._read_terms()
        self._fencings = self._read_fencings()
        return self

    def __exit__(self, kind, *_):
        if kind is None:
            assert self._read_terms() == self._terms, "an election"
            assert self._read_fencings() == self._fencings, "a broker lost its session"

    def _read_terms(self):
        return [
            self._client.http.get(self._client.url(node) + routes.CLUSTER).document[
                "controller_term"
            ]
            for node in self._client.node_ids
        ]

    def _read_fencings(self):
        return [
            line["event"]
            for broker in self._client.cluster.brokers
            for line in map(json.loads, broker.log_path.read_text().splitlines())
            if line["event"] in {"broker_fenced", "fenced"}
        ]


@needs("strace")
def test_disks_that_take_200_ms_for_a_sync_cost_no_election(tmp_path, http):
    """And a topic that is made there takes no lease from those that are."""
    with LocalCluster(
        tmp_path, command=slow_syncs(SYNC_DELAY_MS), settings={"OTTLA_LOG_FORMAT": "json"}
    ) as cluster:
        cluster.wait_ready(90)
        client = ClusterClient(cluster, http)
        client.create_topic(TOPIC, partitions=3, replication_factor=3)
        client.wait_isr(TOPIC, 3, timeout_s=60)
        made = 0
        ends_s = time.monotonic() + SECONDS
        with Counted(client), Writers(client, TOPIC, partitions=3, threads=6) as writers:
            while made < 4 or time.monotonic() < ends_s:
                made += 1
                client.create_topic(f"topic-{made}", via=1 + made % 3, partitions=4)
                writers.wait_for_more(5, timeout_s=60)
        # A broker that loses its lease whenever a topic is made refuses most of what it is sent.
        assert len(writers.refused) <= writers.count / 4, f"{len(writers.refused)} writes refused"
        print(
            f"\nsyncs of {SYNC_DELAY_MS} ms: {made} topics made, acknowledged {writers.count}, "
            f"unknown {len(writers.unknown)}, refused {len(writers.refused)}, elections 0, fenced 0"
        )
