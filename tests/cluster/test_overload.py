"""A broker at one of its limits: it says so of what it refused, and of nothing else."""

from concurrent.futures import ThreadPoolExecutor

import pytest

pytestmark = pytest.mark.cluster

PLACES = 16
POLL_MS = 4_000
PARTITIONS = 6


def test_a_full_purgatory_refuses_its_own_part_of_a_write_and_tells_of_the_rest(start_cluster):
    client = start_cluster(broker_settings={1: {"OTTLA_MAX_PARKED_REQUESTS": str(PLACES)}})
    client.create_topic("t", partitions=PARTITIONS, replication_factor=3)
    client.wait_led("t", partitions=PARTITIONS)
    leaders = [client.leader("t", partition) for partition in range(PARTITIONS)]
    here = leaders.index(1)
    there = next(partition for partition, leader in enumerate(leaders) if leader != 1)
    with ThreadPoolExecutor(PLACES) as threads:
        polls = [
            threads.submit(
                client.read, "t", here, via=1, offset="latest", max_wait_ms=POLL_MS, timeout_s=30
            )
            for _ in range(PLACES)
        ]
        client.wait_parked(1, PLACES - len(client.others(1)))
        answer = client.produce(
            "t",
            [{"partition": here, "value": "a"}, {"partition": there, "value": "b"}],
            via=1,
            timeout_ms=500,
        ).expect(207)
        results = {result["partition"]: result for result in answer.document["results"]}
        assert results[here]["error"]["outcome"] == "not_applied"
        assert results[here]["error"]["retriable"]
        assert "error" not in results[there] or results[there]["error"] is None
        for poll in polls:
            assert poll.result().status in (200, 503)
    client.append("t", "end", partition=here)
    assert list(client.values("t", here).values()) == ["end"]
    assert list(client.values("t", there).values()) == ["b"]
