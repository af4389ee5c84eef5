"""Real broker processes for the tests in this directory.

`shared` is one cluster for every test that harms nobody; a test that kills, pauses or reconfigures
brokers starts its own with `start_cluster`. Brokers are forked from a process that has imported
them (`launch`); most of tests/chaos and one test of test_single_broker start theirs by the command,
as users do.
"""

from itertools import count

import pytest

from ottla_ops.local_cluster import LocalCluster
from tests.cluster.cluster_client import ClusterClient
from tests.cluster.http_client import HttpClient


@pytest.fixture(scope="session")
def http():
    client = HttpClient()
    yield client
    client.close()


@pytest.fixture(scope="session")
def shared(tmp_path_factory, http, launch):
    """Three brokers that no test stops, pauses or fills."""
    # Tests give records timestamps of 1970, and a session may last longer than retention waits.
    # What logs must not hold, they must not hold at any level.
    settings = {"OTTLA_RETENTION_CHECK_INTERVAL_MS": "86400000", "OTTLA_LOG_LEVEL": "debug"}
    directory = tmp_path_factory.mktemp("shared")
    with LocalCluster(directory, settings=settings, launch=launch) as cluster:
        yield ClusterClient(cluster, http)


_topic_numbers = count(1)


@pytest.fixture
def topic(shared):
    """The name of a fresh topic of the shared cluster, with one partition on three brokers."""
    name = f"topic-{next(_topic_numbers)}"
    shared.create_topic(name, partitions=1, replication_factor=3)
    shared.wait_led(name)
    return name


@pytest.fixture
def start_cluster(tmp_path, http, launch):
    """Starts a cluster of this test's own, ready for use; stopped after the test."""
    started = []

    def start(**arguments):
        directory = tmp_path / f"cluster-{len(started)}"
        cluster = LocalCluster(directory, **{"launch": launch} | arguments)
        started.append(cluster)
        cluster.start()
        cluster.wait_ready()
        return ClusterClient(cluster, http)

    yield start
    for cluster in started:
        cluster.stop()
