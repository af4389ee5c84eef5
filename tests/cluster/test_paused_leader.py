"""A leader stands still for longer than its session, and wakes in the belief that it leads."""

import time

import pytest

from tests.cluster.paused_broker import Wakeup, check_woken
from tests.cluster.writers import Writers, text_of

pytestmark = pytest.mark.cluster

PAUSE_S = 15.0
FAILOVER_LIMIT_S = 10.0


def test_a_woken_leader_serves_nothing_until_it_has_asked(start_cluster):
    client = start_cluster()
    client.create_topic("t", partitions=3)
    client.wait_led("t", partitions=3)
    controller = client.controller()
    partition = next(p for p in range(3) if client.leader("t", p) != controller)
    client.create_topic("u", partitions=1)
    client.wait_led("u")
    leader = client.leader("t", partition)
    topic = "u" if client.leader("u") == leader else f"only-{leader}"
    if topic != "u":
        # A topic of one partition that the broker to be paused leads.
        for number in range(12):
            topic = f"only-{number}"
            client.create_topic(topic, partitions=1)
            if client.leader(topic) == leader:
                break
    client.wait_led(topic)
    others = client.others(leader)
    paused = client.cluster.broker(leader)

    with (
        Writers(client, "t", partitions=3) as writers,
        Writers(client, topic, via=others, threads=2) as one,
    ):
        writers.wait_for_more()
        one.wait_for_more(10)
        paused.pause()
        started_s = time.monotonic()
        one.wait_for_more(10, FAILOVER_LIMIT_S)
        writers.wait_for_more(10, FAILOVER_LIMIT_S)
        while time.monotonic() - started_s < PAUSE_S:
            one.wait_for_more(1)
        assert client.leader(topic, via=others[0]) != leader
    before = client.offset(topic, via=others[0]).expect(200).document["offset"]
    assert before >= one.count

    woken = Wakeup(client, leader, topic).run(paused.resume, for_s=3)
    client.wait_isr("t", 3)
    client.wait_isr(topic, 3)
    check_woken(client, topic, woken, acknowledged_before=before)
    writers.check(client.wait_replicas_equal("t", partitions=3))
    copies = client.wait_replicas_equal(topic)
    for (_, offset), value in one.acknowledged.items():
        assert text_of(copies[0][offset]) == value
    assert client.partition(topic)["leader_epoch"] >= 1
