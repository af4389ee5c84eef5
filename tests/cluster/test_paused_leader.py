"""A leader stands still for longer than its session, and wakes in the belief that it leads."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.cluster.paused_broker import Wakeup, check_woken
from tests.cluster.writers import Writers

pytestmark = pytest.mark.cluster

SETTINGS = {"OTTLA_SESSION_TIMEOUT_MS": "1000", "OTTLA_REPLICA_LAG_TIME_MAX_MS": "3000"}
PAUSE_S = 5.0
"""Longer than its session, and than what it may miss its followers for."""

FAILOVER_LIMIT_S = 8.0
"""A session, an election, and a busy machine."""


def test_a_woken_leader_serves_nothing_until_it_has_asked(start_cluster):
    client = start_cluster(settings=SETTINGS)
    client.create_topic("t", partitions=3)
    client.wait_led("t", partitions=3)
    leader = client.others(client.controller())[0]
    topic = client.create_topic_led_by(leader)
    others = client.others(leader)
    paused = client.cluster.broker(leader)

    with (
        Writers(client, "t", partitions=3) as writers,
        Writers(client, topic, via=others, threads=2) as one,
        ThreadPoolExecutor(2) as threads,
    ):
        writers.wait_for_more()
        one.wait_for_more(10)
        wakeup = Wakeup(client, leader, topic)
        paused.pause()
        started_s = time.monotonic()
        asked = [
            threads.submit(timed, client.produce, topic, [{"value": "patient"}], via=others[0]),
            threads.submit(timed, client.read, topic, via=others[1], offset=0, max_wait_ms=60_000),
        ]
        one.wait_for_more(10, FAILOVER_LIMIT_S)
        writers.wait_for_more(10, FAILOVER_LIMIT_S)
        while time.monotonic() - started_s < PAUSE_S:
            one.wait_for_more(1)
        assert client.leader(topic, via=others[0]) != leader
        # Whoever asked the stopped leader through another broker does not wait until it wakes.
        for answered in asked:
            took_s, answer = answered.result()
            assert took_s < FAILOVER_LIMIT_S
            assert answer.status == 200 or answer.document["retriable"] is True
    before = client.offset(topic, via=others[0]).expect(200).document["offset"]
    assert before >= one.count

    woken = wakeup.run(paused.resume, for_s=3)
    client.wait_isr("t", 3)
    client.wait_isr(topic, 3)
    check_woken(client, topic, woken, acknowledged_before=before)
    writers.check(client.wait_replicas_equal("t", partitions=3))
    one.check(client.wait_replicas_equal(topic))
    assert client.partition(topic)["leader_epoch"] >= 1


def timed(call, *arguments, **options):
    """How many seconds the call took, and its answer."""
    started_s = time.monotonic()
    answer = call(*arguments, **options)
    return time.monotonic() - started_s, answer
