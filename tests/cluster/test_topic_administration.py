"""Topics change while they are written: configs and partitions, on every broker, at run time."""

import sqlite3
from contextlib import closing

import pytest

from ottla_protocol import routes
from tests.cluster.awaiting import eventually

pytestmark = pytest.mark.cluster

LARGE = "x" * 5_000


def configs_url(client, topic, via=1):
    return client.url(via) + routes.TOPIC_CONFIGS.format(topic=topic)


def alter(client, topic, configs, *, via=1):
    return client.http.call("PATCH", configs_url(client, topic, via), {"configs": configs})


def configs(client, topic, *, via=1):
    return client.http.get(configs_url(client, topic, via)).expect(200).document["configs"]


def grow(client, topic, partitions, *, via=1):
    url = client.url(via) + routes.TOPIC.format(topic=topic)
    return client.http.call("PATCH", url, {"partitions": partitions})


# --- configs ------------------------------------------------------------------------------------


def test_configs_say_their_value_and_where_it_is_from(shared, topic):
    found = configs(shared, topic)
    assert found["segment.bytes"] == {"value": 1024**3, "source": "default"}
    answer = alter(shared, topic, {"segment.bytes": 1_048_576, "durability": "os"}).expect(200)
    assert answer.document["topic"] == topic
    assert answer.document["configs"]["segment.bytes"] == {"value": 1_048_576, "source": "topic"}
    for via in shared.node_ids:
        eventually(
            lambda via=via: (
                configs(shared, topic, via=via)["durability"]
                == {
                    "value": "os",
                    "source": "topic",
                }
            )
        )
    answer = alter(shared, topic, {"segment.bytes": None}).expect(200)
    assert answer.document["configs"]["segment.bytes"] == {"value": 1024**3, "source": "default"}
    assert answer.document["configs"]["durability"]["source"] == "topic"
    assert shared.describe(topic)["configs"]["durability"] == "os"


@pytest.mark.parametrize(
    ("wanted", "rule"),
    [
        ({"segment.byte": 1}, "segment.bytes"),
        ({"segment.bytes": 1}, "1024.."),
        ({"min.insync.replicas": 0}, "1..100"),
        ({"min.insync.replicas": "many"}, "whole number"),
        ({"durability": "perhaps"}, "fsync, os"),
        ({"durability": "os", "nonsense": None}, "unknown"),
    ],
)
def test_a_bad_config_is_refused_with_its_rule_and_changes_nothing(shared, topic, wanted, rule):
    before = configs(shared, topic)
    answer = alter(shared, topic, wanted)
    assert (answer.status, answer.code) == (422, "INVALID_CONFIG")
    assert rule in answer.document["detail"]
    assert configs(shared, topic) == before


def test_a_bad_body_and_an_unknown_topic_are_refused(shared, topic):
    url = configs_url(shared, topic)
    wrong = shared.http.call("PATCH", url, {"config": {}})
    assert (wrong.status, wrong.document["outcome"]) == (422, "not_applied")
    assert alter(shared, "nobody-made-this", {"durability": "os"}).expect(404)
    shared.http.get(configs_url(shared, "nobody-made-this")).expect(404)


def test_max_message_bytes_counts_at_once(shared, topic):
    shared.append(topic, LARGE)
    alter(shared, topic, {"max.message.bytes": 2_048}).expect(200)
    for via in shared.node_ids:
        eventually(
            lambda via=via: (
                shared.produce(topic, [{"value": LARGE}], via=via).code == "MESSAGE_TOO_LARGE"
            )
        )
    shared.append(topic, "small")
    alter(shared, topic, {"max.message.bytes": None}).expect(200)
    eventually(lambda: shared.produce(topic, [{"value": LARGE}]).status == 200)


def test_min_insync_replicas_counts_at_once(start_cluster):
    client = start_cluster()
    client.create_topic("t", partitions=1)
    client.wait_led("t")
    leader = client.leader("t")
    for other in client.others(leader):
        client.cluster.broker(other).kill()
        break
    survivors = client.live_node_ids
    client.wait_isr("t", 2)
    client.append("t", "two are enough", via=leader)
    alter(client, "t", {"min.insync.replicas": 3}, via=leader).expect(200)
    for via in survivors:
        eventually(
            lambda via=via: (
                client.produce("t", [{"value": 1}], via=via, timeout_ms=2_000).code
                == "NOT_ENOUGH_REPLICAS"
            )
        )
    alter(client, "t", {"min.insync.replicas": None}, via=leader).expect(200)
    assert configs(client, "t", via=leader)["min.insync.replicas"]["value"] == 2
    eventually(lambda: client.produce("t", [{"value": 2}], via=leader).status == 200)


def test_segment_size_and_durability_change_under_a_writing_topic(start_cluster):
    client = start_cluster()
    client.create_topic("t", partitions=1)
    client.wait_led("t")
    leader = client.leader("t")
    client.append("t", *["before"] * 3)
    alter(client, "t", {"segment.bytes": 8_192, "durability": "os"}).expect(200)

    def rolled():
        client.append("t", LARGE)
        directories = [client.cluster.broker(node).data_dir / "t-0" for node in client.node_ids]
        return all(len(list(directory.glob("*.sqlite"))) >= 3 for directory in directories)

    eventually(rolled, 20)
    alter(client, "t", {"segment.bytes": None, "durability": None}, via=leader).expect(200)
    client.append("t", "after")
    client.wait_replicas_equal("t")
    assert set(client.cluster.stop(timeout_s=20).values()) == {0}
    for node in client.node_ids:
        for path in (client.cluster.broker(node).data_dir / "t-0").glob("*.sqlite"):
            with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
                assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


# --- partitions ---------------------------------------------------------------------------------


def test_added_partitions_serve_on_every_broker(shared, topic):
    before = shared.describe(topic)["partitions"]
    shared.append(topic, "before")
    answer = grow(shared, topic, 4, via=2).expect(200).document
    assert [state["partition"] for state in answer["partitions"]] == [0, 1, 2, 3]
    assert all(len(state["replicas"]) == 3 for state in answer["partitions"])
    assert len({state["leader"] for state in answer["partitions"]}) == 3
    shared.wait_led(topic, partitions=4)
    for via in shared.node_ids:
        eventually(lambda via=via: len(shared.describe(topic, via=via)["partitions"]) == 4)
        for partition in range(4):
            shared.append(topic, f"via {via}", partition=partition, via=via)
    copies = shared.wait_replicas_equal(topic, partitions=4)
    assert {number: len(records) for number, records in copies.items()} == {0: 4, 1: 3, 2: 3, 3: 3}
    assert shared.describe(topic)["partitions"][0]["replicas"] == before[0]["replicas"]


@pytest.mark.parametrize("partitions", [-1, 0, 1, 100_000])
def test_partitions_only_become_more_up_to_a_limit(shared, topic, partitions):
    answer = grow(shared, topic, partitions)
    assert (answer.status, answer.code) == (422, "INVALID_PARTITIONS")
    assert str(partitions) in answer.document["detail"]
    assert len(shared.describe(topic)["partitions"]) == 1


def test_partitions_of_an_unknown_topic(shared, topic):
    grow(shared, "nobody-made-this", 3).expect(404)
    answer = shared.http.call("PATCH", shared.url(1) + routes.TOPIC.format(topic=topic), {"n": 3})
    assert (answer.status, answer.code) == (422, "INVALID_REQUEST")


def test_a_repeat_finds_its_records_after_partitions_were_added(shared, topic):
    """Keys go elsewhere with more partitions; a repetition must still not be stored twice."""
    grow(shared, topic, 3).expect(200)
    shared.wait_led(topic, partitions=3)
    records = [{"key": f"key-{number}", "value": number} for number in range(12)]
    records.append({"value": "no key"})

    def send(key, via=1, of=records):
        return shared.produce(topic, of, via=via, headers={"Idempotency-Key": key})

    first = send("order-1").expect(200).document
    grow(shared, topic, 7).expect(200)
    shared.wait_led(topic, partitions=7)
    for via in shared.node_ids:
        eventually(lambda via=via: len(shared.describe(topic, via=via)["partitions"]) == 7)
        again = send("order-1", via).expect(200).document
        assert again["records"] == first["records"]
        assert all(result["duplicate"] for result in again["results"])
    fresh = send("order-2").expect(200).document
    assert {position["partition"] for position in fresh["records"]} > {0, 1, 2}
    assert send("order-2", 3).expect(200).document["records"] == fresh["records"]
    stored = sum(len(shared.values(topic, partition)) for partition in range(7))
    assert stored == 2 * len(records)
    reused = send("order-1", of=records[:1])
    assert (reused.status, reused.code) == (422, "IDEMPOTENCY_KEY_REUSED")
