"""A wall clock that jumps makes no retry under an Idempotency-Key a new request, and no log old."""

import sys
import time
from functools import partial
from pathlib import Path

import pytest

from ottla_ops.local_cluster import CommandProcess, LocalCluster
from tests.chaos import shifted_clock
from tests.cluster.awaiting import eventually
from tests.cluster.cluster_client import ClusterClient
from tests.cluster.http_client import HttpClient

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[2]
TOPIC = "orders"
MONTH_S = 30 * 24 * 60 * 60
STAMPED_BY_THE_BROKER = {"message.timestamp.type": "LogAppendTime"}
KEPT_FOR_AN_HOUR = {"retention.ms": "3600000"}
LOOKED_AT_OFTEN = {"OTTLA_RETENTION_CHECK_INTERVAL_MS": "100"}


def launch(clock, environment, log_path):
    command = (sys.executable, "-m", "tests.chaos.shifted_clock", str(clock))
    paths = [str(ROOT), environment.get("PYTHONPATH", "")]
    told = {"PYTHONPATH": ":".join(filter(None, paths)), **shifted_clock.environment(clock)}
    return CommandProcess.launch(command, {**environment, **told}, log_path)


@pytest.fixture
def clock(tmp_path):
    path = tmp_path / "clock"
    shifted_clock.set_clock(path, 0)
    return path


@pytest.fixture
def client(tmp_path, clock):
    """One broker, whose wall clock is wrong by what the file says."""
    http = HttpClient()
    with LocalCluster(tmp_path, brokers=1, launch=partial(launch, clock)) as cluster:
        client = ClusterClient(cluster, http)
        client.create_topic(TOPIC, partitions=1, configs=STAMPED_BY_THE_BROKER)
        client.wait_led(TOPIC, partitions=1)
        yield client
    http.close()


def send(client, key):
    """What the broker says of a request under this key."""
    answer = client.produce(TOPIC, [{"value": key}], partition=0, headers={"Idempotency-Key": key})
    return answer.expect(200).document


def check_ahead(client):
    """The broker's clock has jumped: it stamps a record in another month."""
    assert client.produce(TOPIC, [{"value": "stamp"}], partition=0).status == 200
    stamped_ms = client.read(TOPIC).expect(200).document["records"][-1]["timestamp"]
    assert stamped_ms > (time.time() + MONTH_S / 2) * 1000


def test_a_retry_is_known_after_a_jump_and_after_a_restart_in_it(client, clock):
    first = send(client, "late")["records"]
    shifted_clock.set_clock(clock, MONTH_S)
    eventually(lambda: check_ahead(client), 20)
    # The next request made the partition look at the age of those before it.
    send(client, "next")
    assert send(client, "late")["records"] == first
    broker = client.cluster.broker(1)
    broker.terminate()
    shifted_clock.set_clock(clock, 2 * MONTH_S)
    broker.start()
    broker.wait_ready()
    client.wait_led(TOPIC, partitions=1)
    send(client, "last")
    assert send(client, "late")["records"] == first
    assert list(client.values(TOPIC).values()).count("late") == 1


@pytest.mark.parametrize("end", ["terminate", "kill"])
def test_a_clock_that_is_set_ahead_while_the_broker_is_down_makes_nothing_old(tmp_path, clock, end):
    http = HttpClient()
    with LocalCluster(
        tmp_path, brokers=1, launch=partial(launch, clock), settings=LOOKED_AT_OFTEN
    ) as cluster:
        client = ClusterClient(cluster, http)
        client.create_topic(
            TOPIC, partitions=1, configs={**KEPT_FOR_AN_HOUR, **STAMPED_BY_THE_BROKER}
        )
        client.wait_led(TOPIC, partitions=1)
        client.produce(TOPIC, [{"value": "kept"}], partition=0).expect(200)
        broker = cluster.broker(1)
        pid = broker.pid
        getattr(broker, end)()
        shifted_clock.remove_shared_memory(pid)
        shifted_clock.set_clock(clock, MONTH_S)
        broker.start()
        broker.wait_ready()
        client.wait_led(TOPIC, partitions=1)
        stamped = client.produce(TOPIC, [{"value": "stamp"}], partition=0).expect(200).document
        assert stamped["results"][0]["timestamp"] > (time.time() + MONTH_S / 2) * 1000
        eventually(lambda: check_looked(broker), 20)
        assert "kept" in client.values(TOPIC).values()
    http.close()


def check_looked(broker):
    """Retention has looked, and not believed what it saw."""
    assert "wall_clock_jumped_ahead" in broker.log_path.read_text()
