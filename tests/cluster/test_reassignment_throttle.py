"""A throttled reassignment keeps to its rate, and nobody who is in sync waits for it."""

import base64
import time
from random import Random

import pytest

from ottla_protocol import routes
from tests.cluster.awaiting import eventually

pytestmark = pytest.mark.cluster

RATE = 100_000
BATCH_BYTES = 50_000
BATCHES = 30
MEASURED_BYTES = 3 * RATE
"""Copied before the rate is judged: three seconds' worth, a second of which may come at once."""


def reassign(client, body, *, via=1):
    return client.http.post(client.url(via) + routes.REASSIGNMENTS, body).expect(200)


def reassignments(client, via):
    return client.http.get(client.url(via) + routes.REASSIGNMENTS).expect(200).document


def fill(client, topic, batches, via=1):
    """Append that many batches of noise, with acks=all."""
    noise = Random(topic)
    for _ in range(batches):
        value = base64.b64encode(noise.randbytes(BATCH_BYTES)).decode()
        client.produce(topic, [{"value_b64": value}], partition=0, via=via).expect(200)


def test_a_copy_keeps_to_the_throttle_and_those_in_sync_do_not_wait_for_it(start_cluster):
    client = start_cluster(brokers=4)
    for topic in ("moved", "written"):
        client.create_topic(topic, partitions=1)
        client.wait_led(topic)
    both = [
        {"topic": topic, "partition": 0, "replicas": [1, 2, 3]} for topic in ("moved", "written")
    ]
    reassign(client, {"reassignments": both})
    eventually(lambda: reassignments(client, 1)["reassignments"] == [], 30)

    def led_by_the_first():
        # Asked for once, and refused, it would come by itself only after up to 20 seconds.
        client.http.post(client.any_url() + routes.ELECTIONS, {"type": "preferred"})
        return {client.leader("moved"), client.leader("written")} == {1}

    eventually(led_by_the_first, 30)
    fill(client, "moved", BATCHES)

    begun_s = time.monotonic()
    target = {"topic": "moved", "partition": 0, "replicas": [1, 2, 4]}
    reassign(client, {"reassignments": [target], "throttle_bytes_per_second": RATE}, via=2)

    def copied(at_least):
        found = reassignments(client, 3)
        assert found["throttle_bytes_per_second"] == RATE
        assert len(found["reassignments"]) == 1, "the copy was not held back"
        (ongoing,) = found["reassignments"]
        assert len(ongoing["progress"]) == 1, ongoing
        (progress,) = ongoing["progress"]
        assert progress["copied_bytes"] >= at_least, progress
        return progress

    # In sync, and through the same fetches: much more than the throttle would let pass.
    written_s = time.monotonic()
    fill(client, "written", BATCHES)
    took_s = time.monotonic() - written_s
    written_rate = BATCHES * BATCH_BYTES / took_s
    progress = eventually(lambda: copied(MEASURED_BYTES), 60)
    elapsed_s = time.monotonic() - begun_s
    assert progress["copied_bytes"] <= RATE * (elapsed_s + 1) + 2 * BATCH_BYTES, elapsed_s
    assert progress["copied_bytes"] >= RATE * elapsed_s / 4, elapsed_s
    assert written_rate > 2 * RATE, f"{written_rate} bytes a second in sync"
    assert progress["replica"] == 4
    assert progress["remaining_offsets"] + progress["copied_offsets"] == BATCHES
    assert 0.5 < progress["remaining_bytes"] / (progress["remaining_offsets"] * BATCH_BYTES) < 2
    assert 0 < progress["bytes_per_second"] <= 2 * RATE
    assert progress["remaining_seconds"] > 0

    # What is under way follows another rate at once.
    reassign(client, {"throttle_bytes_per_second": None}, via=3)
    eventually(lambda: reassignments(client, 1)["reassignments"] == [], 30)
    assert client.partition("moved")["replicas"] == [1, 2, 4]
    print(
        f"\nthrottle {RATE} B/s: copied {progress['copied_bytes']} in {elapsed_s:.1f} s, told "
        f"{progress['bytes_per_second']} B/s; in sync meanwhile {written_rate:.0f} B/s"
    )
