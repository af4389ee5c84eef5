"""Forwarded writes that wait for a stopped follower take nothing from what would fence it."""

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from ottla_broker.descriptor_budget import DESCRIPTORS_MIN, divide_descriptors
from tests.cluster.http_client import HttpClient

pytestmark = pytest.mark.cluster

SETTINGS = {"OTTLA_SESSION_TIMEOUT_MS": "4000"}
"""Longer than all writes take to be sent, also where the machine stands still meanwhile."""

COMMAND = (
    sys.executable,
    "-c",
    "import resource, runpy;"
    f"resource.setrlimit(resource.RLIMIT_NOFILE, ({DESCRIPTORS_MIN}, {DESCRIPTORS_MIN}));"
    "runpy.run_module('ottla_broker', run_name='__main__', alter_sys=True)",
)
WRITES = 16
"""More than any broker may have connections to one peer, fewer than it serves to clients."""

WRITE_INTERVAL_S = 0.1
"""Longer than forwards gather, so that each has a connection of its own; and so long that a broker
that stands still for a second has not gathered all but a few of them by then."""


def write(client, via, topic, number):
    with closing(HttpClient()) as http:
        return http.post(
            f"{client.url(via)}/v1/topics/{topic}/partitions/0/records",
            {"records": [{"value": number}]},
            acks="all",
            timeout_ms=10_000,
        )


def test_a_stopped_follower_is_fenced_while_forwarded_writes_wait_for_it(start_cluster):
    client = start_cluster(settings=SETTINGS, command=COMMAND, launch=None)
    controller = client.controller()
    leader, follower = client.others(controller)
    topic = client.create_topic_led_by(leader)
    client.wait_isr(topic, 3)
    client.append(topic, "before", via=controller)
    assert divide_descriptors(DESCRIPTORS_MIN, peers=2).connections > WRITES

    client.cluster.broker(follower).pause()
    with ThreadPoolExecutor(WRITES) as threads:
        writes = []
        for number in range(WRITES):
            writes.append(threads.submit(write, client, controller, topic, number))
            time.sleep(WRITE_INTERVAL_S)
        client.wait_isr(topic, 2, timeout_s=8)
        answers = [each.result() for each in writes]

    statuses = [answer.status for answer in answers]
    assert set(statuses) == {200, 503}
    for answer in answers:
        if answer.status == 503:
            # It waited for a place, not for replication.
            assert answer.code == "THROTTLING_QUOTA_EXCEEDED"
            assert answer.document["outcome"] == "not_applied"
            assert answer.headers["Retry-After"] == "1"
