"""A plain HTTP client repeats a request under its Idempotency-Key, and it is stored once."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import urllib3

from tests.cluster.awaiting import eventually

pytestmark = pytest.mark.cluster

RECORDS = [
    {"key": "a", "value": 1},
    {"key": "b", "value": 2},
    {"value": "no key"},
    {"value": "chosen", "partition": 3},
]


def keyed(client, topic, key, records=RECORDS, **arguments):
    return client.produce(topic, records, headers={"Idempotency-Key": key}, **arguments)


def check_repeat(client, first, again):
    """The same offsets as at first, marked as a repetition."""
    assert again.expect(200).document["records"] == first["records"]
    for before, after in zip(first["results"], again.document["results"], strict=True):
        assert after == {**before, "duplicate": True}


@pytest.fixture
def wide(shared, topic):
    """A fresh topic with four partitions."""
    shared.create_topic(f"{topic}-wide", partitions=4)
    shared.wait_led(f"{topic}-wide", partitions=4)
    return f"{topic}-wide"


def total(client, topic, partitions=4):
    return sum(len(client.values(topic, partition)) for partition in range(partitions))


def test_a_repeat_at_any_broker_returns_the_original_offsets(shared, wide):
    first = keyed(shared, wide, "order-1").expect(200).document
    assert not any(result["duplicate"] for result in first["results"])
    for via in (1, 2, 3, 1):
        check_repeat(shared, first, keyed(shared, wide, "order-1", via=via))
    assert total(shared, wide) == len(RECORDS)


def test_another_key_is_another_request(shared, wide):
    keyed(shared, wide, "order-1").expect(200)
    keyed(shared, wide, "order-2").expect(200)
    assert total(shared, wide) == 2 * len(RECORDS)


def test_a_record_without_key_follows_the_idempotency_key(shared, wide):
    places = {
        keyed(shared, wide, "same", [{"value": 1}], via=via).document["records"][0]["partition"]
        for via in (1, 2, 3)
    }
    assert len(places) == 1
    assert total(shared, wide) == 1


def test_the_partition_path_takes_keys_too(shared, wide):
    first = keyed(shared, wide, "k", [{"value": 1}], partition=2).expect(200).document
    check_repeat(shared, first, keyed(shared, wide, "k", [{"value": 1}], partition=2, via=2))
    assert shared.values(wide, 2) == {0: 1}


def test_repeats_at_the_same_moment_are_stored_once(shared, wide):
    with ThreadPoolExecutor(9) as threads:
        answers = list(
            threads.map(lambda i: keyed(shared, wide, "at once", via=1 + i % 3), range(9))
        )
    assert {answer.expect(200).text.count('"duplicate":false') for answer in answers} <= {
        0,
        1,
        2,
        3,
    }
    assert len({str(answer.document["records"]) for answer in answers}) == 1
    assert total(shared, wide) == len(RECORDS)


def test_acks_0_and_1_count_as_the_request_as_well(shared, wide):
    first = keyed(shared, wide, "k", acks=1).expect(200).document
    check_repeat(shared, first, keyed(shared, wide, "k", acks="all"))
    keyed(shared, wide, "zero", acks=0).expect(200)
    eventually(lambda: total(shared, wide) == 2 * len(RECORDS))
    keyed(shared, wide, "zero", acks=1).expect(200)
    assert total(shared, wide) == 2 * len(RECORDS)


def test_keys_survive_the_leaders_death_and_a_restart_of_all(start_cluster):
    client = start_cluster()
    client.create_topic("t", partitions=4)
    client.wait_led("t", partitions=4)
    firsts = {
        key: keyed(client, "t", key).expect(200).document
        for key in (f"order-{number}" for number in range(6))
    }

    victim = client.leader("t", 3)
    client.cluster.broker(victim).kill()
    for number, (key, first) in enumerate(firsts.items()):
        # The retry goes to another broker, through the failover.
        other = client.others(victim)[number % 2]
        check_repeat(client, first, keyed(client, "t", key, via=other))
    reused = keyed(client, "t", "order-0", [{"value": 1}], via=client.others(victim)[0])
    assert reused.expect(422).code == "IDEMPOTENCY_KEY_REUSED"
    firsts["during"] = keyed(client, "t", "during").expect(200).document

    client.cluster.kill()
    client.cluster.start()
    client.cluster.wait_ready()
    client.wait_isr("t", 3)
    client.wait_led("t", partitions=4)
    for key, first in firsts.items():
        check_repeat(client, first, keyed(client, "t", key))
    assert set(client.cluster.stop(timeout_s=20).values()) == {0}
    client.cluster.start()
    client.cluster.wait_ready()
    client.wait_isr("t", 3)
    client.wait_led("t", partitions=4)
    for key, first in firsts.items():
        check_repeat(client, first, keyed(client, "t", key))
    assert total(client, "t") == len(firsts) * len(RECORDS)


def test_a_retry_after_a_lost_answer_is_stored_once(start_cluster):
    """The client's connection breaks with the leader's death; it cannot know what became of it."""
    client = start_cluster()
    client.create_topic("t", partitions=1)
    client.wait_led("t")
    leader = client.leader("t")
    other = client.others(leader)[0]

    def write_until_it_breaks():
        for number in range(10_000):
            try:
                answer = keyed(client, "t", f"k{number}", [{"value": number}], via=leader)
            except urllib3.exceptions.HTTPError:
                return number
            if answer.status != 200:
                return number
        raise AssertionError("the leader never broke")

    with ThreadPoolExecutor(1) as threads:
        writing = threads.submit(write_until_it_breaks)
        eventually(lambda: client.offset("t", via=other).document.get("offset", 0) >= 10)
        client.cluster.broker(leader).kill()
        broken = writing.result(30)
    for number in range(broken + 2):
        keyed(client, "t", f"k{number}", [{"value": number}], via=other).expect(200)
    found = client.values("t", via=other)
    assert found == {number: number for number in range(broken + 2)}
