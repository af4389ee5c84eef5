"""A broker at one of its limits: it says so of what it refused, and of nothing else."""

import socket
from contextlib import ExitStack
from urllib.parse import urlsplit

import pytest

from ottla_protocol import routes
from tests.cluster.awaiting import eventually

pytestmark = pytest.mark.cluster

PLACES = 16
POLL_MS = 30_000
PARTITIONS = 6
ROUNDS = 200


def test_a_full_purgatory_refuses_its_own_part_of_a_write_and_tells_of_the_rest(start_cluster):
    client = start_cluster(broker_settings={1: {"OTTLA_MAX_PARKED_REQUESTS": str(PLACES)}})
    client.create_topic("t", partitions=PARTITIONS, replication_factor=3)
    client.wait_led("t", partitions=PARTITIONS)
    leaders = [client.leader("t", partition) for partition in range(PARTITIONS)]
    here, polled = (partition for partition in range(PARTITIONS) if leaders[partition] == 1)
    there = next(partition for partition, leader in enumerate(leaders) if leader != 1)
    written = {here: [], there: []}
    with ExitStack() as polls:

        def park():
            polls.enter_context(parked_poll(client, 1, polled))

        for _ in range(PLACES):
            park()
        client.wait_parked(1, PLACES - len(client.others(1)))
        mixed = write_until_refused_in_part(client, here, there, written, park)
        assert mixed[here]["error"]["outcome"] == "not_applied"
        assert mixed[here]["error"]["retriable"]
        assert mixed[there].get("error") is None
    # The broker has to notice that the polls are gone before it has places again.
    eventually(lambda: refused_or_stored(client, here), 20)
    assert list(client.values("t", here).values()) == [*written[here], "end"]
    assert list(client.values("t", there).values()) == written[there]


def refused_or_stored(client, partition):
    """Write the last record; what is refused for want of a place is not stored."""
    answer = client.produce("t", [{"value": "end"}], partition=partition)
    assert answer.status == 200 or answer.document["outcome"] == "not_applied", answer.body
    return answer.status == 200


def parked_poll(client, node_id, partition):
    """A connection on which a client waits for records; closing it ends the poll."""
    url = urlsplit(client.url(node_id))
    path = routes.PARTITION_RECORDS.format(topic="t", partition=partition)
    query = f"offset=latest&max_wait_ms={POLL_MS}"
    connection = socket.create_connection((url.hostname, url.port))
    connection.sendall(f"GET {path}?{query} HTTP/1.1\r\nHost: {url.netloc}\r\n\r\n".encode())
    return connection


def write_until_refused_in_part(client, here, there, written, park):
    """Write to both partitions until one call is refused its part on broker 1; adds to `written`.

    Followers' fetches took places from polls, and leave them for a moment when they come back. A
    write that finds such a place is applied whole; then one more poll is to `park` in it, and
    another write is tried.

    Returns:
        The results of the refused call, by partition.
    """
    for number in map("r{}".format, range(ROUNDS)):
        records = [{"partition": here, "value": number}, {"partition": there, "value": number}]
        answer = client.produce("t", records, via=1, timeout_ms=10_000)
        assert answer.status in (200, 207), answer.body
        results = {result["partition"]: result for result in answer.document["results"]}
        written[there].append(number)
        if answer.status == 207:
            return results
        written[here].append(number)
        park()
    raise AssertionError("the purgatory never was full")
