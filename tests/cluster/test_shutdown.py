"""An orderly stop of one broker of three, and of all three at once."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from ottla_protocol.models import PartitionToFetch
from tests.cluster.awaiting import eventually
from tests.cluster.http_client import fetched

pytestmark = pytest.mark.cluster

STOP_LIMIT_S = 4.0


def test_a_stopping_broker_hands_over_and_answers_its_polls(start_cluster):
    """Whoever waits at a stopping leader gets an answer, not a cut connection."""
    client = start_cluster()
    client.create_topic("t", partitions=1)
    client.append("t", "a")
    leader = client.leader("t")
    follower, other = client.others(leader)
    with ThreadPoolExecutor(3) as threads:
        at_leader = threads.submit(client.read, "t", via=leader, offset=1, max_wait_ms=30_000)
        through_follower = threads.submit(
            client.read, "t", via=follower, offset=1, max_wait_ms=30_000
        )
        fetch = threads.submit(
            client.http.binary_fetch,
            client.url(leader),
            [PartitionToFetch("t", 0, 1)],
            max_wait_ms=30_000,
        )
        client.wait_parked(leader, polls=3)
        started_s = time.monotonic()
        assert client.cluster.broker(leader).terminate() == 0
        assert time.monotonic() - started_s < STOP_LIMIT_S
        assert at_leader.result(5).expect(200).document["records"] == []
        assert fetched(fetch.result(5).expect(200))[0].batches == []
        # The follower's own client never hears of the stop: its broker goes on at the new leader.
        eventually(lambda: client.leader("t", via=other) != leader, 3)
        assert client.append("t", "b", via=other) == 1
        through = through_follower.result(5).expect(200).document
        assert [record["value"] for record in through["records"]] in ([], ["b"])
        assert through["next_offset"] == 1 + len(through["records"])


def test_a_poll_forwarded_by_a_stopping_broker_is_answered(start_cluster):
    client = start_cluster()
    client.create_topic("t", partitions=1)
    client.append("t", "a")
    leader = client.leader("t")
    follower = client.others(leader)[0]
    with ThreadPoolExecutor(1) as threads:
        poll = threads.submit(client.read, "t", via=follower, offset=1, max_wait_ms=30_000)
        client.wait_parked(leader)
        started_s = time.monotonic()
        assert client.cluster.broker(follower).terminate() == 0
        assert time.monotonic() - started_s < STOP_LIMIT_S
        answer = poll.result(5).expect(503)
    assert answer.document["retriable"] is True
    assert "Retry-After" in answer.headers


def test_all_stop_in_time_and_find_everything_again(start_cluster):
    client = start_cluster()
    client.create_topic("t", partitions=3)
    for value in range(12):
        client.append("t", value, partition=value % 3)
    assert client.cluster.stop(timeout_s=STOP_LIMIT_S) == {1: 0, 2: 0, 3: 0}
    client.cluster.start()
    client.cluster.wait_ready()
    client.wait_isr("t", 3)
    copies = client.wait_replicas_equal("t", partitions=3)
    found = {partition: [r["offset"] for r in records] for partition, records in copies.items()}
    assert found == {0: [0, 1, 2, 3], 1: [0, 1, 2, 3], 2: [0, 1, 2, 3]}
