"""The controller, which leads partitions too, stands still for longer than every session."""

import threading
import time

import pytest

from tests.cluster.awaiting import eventually
from tests.cluster.paused_broker import Wakeup, check_woken
from tests.cluster.writers import Writers

pytestmark = pytest.mark.cluster

SETTINGS = {"OTTLA_SESSION_TIMEOUT_MS": "1000", "OTTLA_REPLICA_LAG_TIME_MAX_MS": "3000"}
PAUSE_S = 5.0
"""Longer than every session, and than what it may miss its followers for."""

ELECTION_LIMIT_S = 8.0
"""A broker asks a controller that stands still for longer, if nobody tells it not to."""


def create_meanwhile(client, via):
    """Create a topic, unless an attempt whose outcome nobody knew has done so."""
    url = f"{client.url(via)}/v1/topics"
    answer = client.http.post(url, {"name": "meanwhile", "partitions": 1, "replication_factor": 2})
    if answer.code == "TOPIC_ALREADY_EXISTS":
        answer = client.http.get(f"{url}/meanwhile")
    return answer.document if answer.status in {200, 201} else False


def test_a_woken_controller_decides_nothing_that_its_successor_did_not(start_cluster):
    client = start_cluster(settings=SETTINGS)
    controller = client.controller()
    topic = client.create_topic_led_by(controller)
    others = client.others(controller)
    paused = client.cluster.broker(controller)

    with Writers(client, topic, threads=2, via=others) as writers:
        writers.wait_for_more()
        wakeup = Wakeup(client, controller, topic)
        paused.pause()
        started_s = time.monotonic()
        # Whoever asked the stopped controller hears within an election that it must ask again.
        made = eventually(lambda: create_meanwhile(client, others[0]), ELECTION_LIMIT_S)
        writers.wait_for_more(10)
        while time.monotonic() - started_s < PAUSE_S:
            writers.wait_for_more(1)
        assert client.controller() != controller
        assert client.leader(topic, via=others[0]) != controller
    before = client.offset(topic, via=others[0]).expect(200).document["offset"]

    # Commands that wait at the stopped controller are the first thing that it sees.
    answers = {}

    def create(name):
        answers[name] = client.http.post(
            f"{paused.url}/v1/topics",
            {"name": name, "partitions": 1, "replication_factor": 2},
        )

    commands = [threading.Thread(target=create, args=(f"pending-{n}",)) for n in range(3)]
    for command in commands:
        command.start()
    woken = wakeup.run(paused.resume, for_s=3)
    for command in commands:
        command.join(30)

    client.wait_isr(topic, 3)
    check_woken(client, topic, woken, acknowledged_before=before)
    writers.check(client.wait_replicas_equal(topic))
    for name, answer in answers.items():
        assert answer.status == 201 or answer.document["outcome"] in {"not_applied", "unknown"}
        for node in client.node_ids:
            status = client.http.get(f"{client.url(node)}/v1/topics/{name}").status
            if answer.status == 201:
                assert status == 200
            elif answer.document["outcome"] == "not_applied":
                assert status == 404

    def same_everywhere():
        described = [
            client.http.get(f"{client.url(node)}/v1/topics").expect(200).document
            for node in client.node_ids
        ]
        return described[0] == described[1] == described[2]

    eventually(same_everywhere)
    assert client.describe("meanwhile")["topic_id"] == made["topic_id"]
    assert client.controller()
