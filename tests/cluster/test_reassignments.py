"""Partitions move to other brokers while they are written, and leaders return when told."""

import json
from random import Random

import pytest

from ottla_protocol import routes
from tests.cluster.awaiting import eventually
from tests.cluster.writers import Writers

pytestmark = pytest.mark.cluster

MOVE_LIMIT_S = 20.0


def elect(client, partitions=None, *, via=None):
    url = (client.url(via) if via else client.any_url()) + routes.ELECTIONS
    named = partitions and [
        {"topic": topic, "partition": partition} for topic, partition in partitions
    ]
    return client.http.post(url, {"type": "preferred", "partitions": named})


def reassign(client, *wanted, via=None):
    url = (client.url(via) if via else client.any_url()) + routes.REASSIGNMENTS
    return client.http.post(
        url,
        {
            "reassignments": [
                {"topic": topic, "partition": partition, "replicas": replicas}
                for topic, partition, replicas in wanted
            ]
        },
    )


def reassignments(client, *, via=None):
    url = (client.url(via) if via else client.any_url()) + routes.REASSIGNMENTS
    return client.http.get(url).expect(200).document["reassignments"]


def wait_moved(client, topic, replicas, partition=0):
    """Wait until the partition has exactly these replicas, all in sync, as every broker tells."""

    def moved():
        for via in client.live_node_ids:
            state = client.partition(topic, partition, via=via)
            assert state["replicas"] == replicas, state
            assert sorted(state["isr"]) == sorted(replicas), state
            assert not [each for each in reassignments(client, via=via) if each["topic"] == topic]

    eventually(moved, MOVE_LIMIT_S)


def directory(client, node_id, topic, partition=0):
    return client.cluster.broker(node_id).data_dir / f"{topic}-{partition}"


def wait_stored_by(client, node_ids, topic, partition=0):
    """Wait until exactly these brokers keep the partition's files."""

    def stored():
        keepers = [
            node for node in client.node_ids if directory(client, node, topic, partition).exists()
        ]
        assert keepers == sorted(node_ids), keepers

    eventually(stored)


@pytest.fixture
def wide(start_cluster):
    """Five brokers, with the topic `t` on the brokers 1, 2 and 3."""
    client = start_cluster(brokers=5)
    client.create_topic("t", partitions=1, configs={"segment.bytes": 65_536})
    client.wait_led("t")
    reassign(client, ("t", 0, [1, 2, 3])).expect(200)
    wait_moved(client, "t", [1, 2, 3])
    return client


def test_a_partition_moves_to_other_brokers_while_it_is_written(wide):
    """Leader included: nothing acknowledged is lost, and removed replicas leave no files."""
    with Writers(wide, "t") as writers:
        writers.wait_for_more(50)
        epoch = wide.partition("t")["leader_epoch"]
        reassign(wide, ("t", 0, [4, 5]), via=5).expect(200)
        wait_moved(wide, "t", [4, 5])
        writers.wait_for_more(50)
        now = wide.partition("t")
        assert now["leader"] in {4, 5}
        assert now["leader_epoch"] > epoch
        wait_stored_by(wide, [4, 5], "t")
        reassign(wide, ("t", 0, [1, 4, 2])).expect(200)
        wait_moved(wide, "t", [1, 4, 2])
        writers.wait_for_more(50)
    wait_stored_by(wide, [1, 2, 4], "t")
    stored = wide.values("t")
    for (_, offset), value in writers.acknowledged.items():
        assert stored[offset] == value
    values = list(stored.values())
    assert len(set(values)) == len(values)
    assert not writers.refused & set(values)
    for broker in wide.cluster.brokers:
        lines = [json.loads(line) for line in broker.log_path.read_text().splitlines()]
        assert not [line for line in lines if line["level"] in {"error", "critical"}]


def test_the_preferred_leader_of_the_target_leads_in_the_end(wide):
    reassign(wide, ("t", 0, [3, 2, 1])).expect(200)
    wait_moved(wide, "t", [3, 2, 1])
    elect(wide, [("t", 0)]).expect(200)
    assert wide.partition("t")["leader"] == 3
    assert wide.append("t", "x") >= 0


def test_a_replica_that_is_away_is_waited_for_and_called_off(wide):
    wide.append("t", *range(5))
    broker = wide.cluster.broker(5)
    broker.pause()
    try:
        # At once: broker 5 is still unfenced.
        reassign(wide, ("t", 0, [1, 2, 5]), via=1).expect(200)
        # A broker that was not asked hears of it a moment later.
        (ongoing,) = eventually(lambda: reassignments(wide, via=2))
        assert ongoing["topic"] == "t"
        assert ongoing["replicas"] == [1, 2, 3, 5]
        assert ongoing["target_replicas"] == [1, 2, 5]
        assert (ongoing["adding_replicas"], ongoing["removing_replicas"]) == ([5], [3])
        assert ongoing["isr"] == [1, 2, 3]
        assert wide.append("t", "while it waits", via=1) == 5
        reassign(wide, ("t", 0, None), via=1).expect(200)
        assert reassignments(wide, via=1) == []
        assert wide.partition("t", via=1)["replicas"] == [1, 2, 3]
        again = reassign(wide, ("t", 0, None), via=1)
        assert (again.status, again.code) == (409, "NO_REASSIGNMENT_IN_PROGRESS")
    finally:
        broker.resume()
    eventually(lambda: wide.answers_quickly(5))
    wait_stored_by(wide, [1, 2, 3], "t")


def test_a_reassignment_goes_on_under_another_controller(wide):
    """The target's last replica returns after the controller died, and the partition switches."""
    wide.append("t", *range(20))
    wide.cluster.broker(5).kill()
    eventually(lambda: 5 not in active(wide))
    assert reassign(wide, ("t", 0, [1, 2, 5])).code == "INVALID_REPLICA_ASSIGNMENT"
    wide.cluster.broker(5).start()
    eventually(lambda: 5 in active(wide))
    wide.cluster.broker(2).kill()
    eventually(lambda: 2 not in active(wide))
    reassign(wide, ("t", 0, [2, 4, 5]), via=4).expect(200)
    eventually(lambda: {4, 5} <= set(wide.partition("t", via=4)["isr"]), MOVE_LIMIT_S)
    victim = wide.controller()
    wide.cluster.broker(victim).kill()
    wide.cluster.broker(2).start()
    assert wide.controller() != victim
    wide.cluster.broker(victim).start()
    wide.cluster.wait_ready()
    wait_moved(wide, "t", [2, 4, 5])
    wait_stored_by(wide, [2, 4, 5], "t")
    wide.append("t", "after")
    assert list(wide.values("t").values()) == [*range(20), "after"]


@pytest.mark.parametrize("seed", [1, 2])
def test_moves_under_kills_lose_nothing(wide, seed):
    """Somebody who takes part dies in every move: the leader, one that comes or one that goes."""
    random = Random(seed)
    with Writers(wide, "t") as writers:
        for _ in range(3):
            writers.wait_for_more()
            before = wide.partition("t")
            target = random.sample(wide.node_ids, 3)
            victim = random.choice([before["leader"], *before["replicas"], *target])
            reassign(wide, ("t", 0, target)).expect(200)
            wide.cluster.broker(victim).kill()
            wide.cluster.broker(victim).start()
            wide.cluster.wait_ready()
            wait_moved(wide, "t", target)
    stored = wide.values("t")
    for (_, offset), value in writers.acknowledged.items():
        assert stored[offset] == value
    values = list(stored.values())
    assert len(set(values)) == len(values)
    assert not writers.refused & set(values)
    replicas = wide.partition("t")["replicas"]
    wait_stored_by(wide, replicas, "t")

    def equal():
        copies = [wide.local_records(node, "t") for node in replicas]
        assert all(copy == copies[0] for copy in copies)
        assert copies[0][0] == len(stored)

    eventually(equal)


def active(client):
    document = client.http.get(client.any_url() + routes.CLUSTER).expect(200).document
    return {broker["id"] for broker in document["brokers"] if broker["state"] == "active"}


def test_more_replicas_do_not_stop_writes_while_they_catch_up(start_cluster):
    client = start_cluster()
    made = client.create_topic("one", partitions=1, replication_factor=1)
    client.wait_led("one")
    (only,) = made["partitions"][0]["replicas"]
    with Writers(client, "one", threads=2) as writers:
        writers.wait_for_more()
        target = [only, *client.others(only)]
        reassign(client, ("one", 0, target)).expect(200)
        wait_moved(client, "one", target)
        writers.wait_for_more()
        reassign(client, ("one", 0, [only])).expect(200)
        wait_moved(client, "one", [only])
        writers.wait_for_more()
        assert not writers.refused
    wait_stored_by(client, [only], "one")


def test_preferred_leaders_return_when_told(start_cluster):
    client = start_cluster()
    client.create_topic("t", partitions=3)
    client.wait_led("t", partitions=3)
    client.cluster.broker(1).kill()
    eventually(lambda: all(p["leader"] != 1 for p in client.describe("t", via=2)["partitions"]))
    (lost,) = (p for p in client.describe("t", via=2)["partitions"] if p["replicas"][0] == 1)
    refused = elect(client, [("t", lost["partition"])], via=2)
    assert (refused.status, refused.code) == (503, "PREFERRED_LEADER_NOT_AVAILABLE")
    mixed = elect(client, [("t", number) for number in range(3)] + [("nothing", 0)], via=2)
    results = mixed.expect(207).document["results"]
    codes = {(r["topic"], r["partition"]): r["error"] and r["error"]["code"] for r in results}
    assert codes.pop(("nothing", 0)) == "UNKNOWN_TOPIC_OR_PARTITION"
    assert codes.pop(("t", lost["partition"])) == "PREFERRED_LEADER_NOT_AVAILABLE"
    assert set(codes.values()) == {None}
    client.cluster.broker(1).start()
    client.cluster.wait_ready()
    client.wait_isr("t", 3)
    # The controller may have been quicker: then there is nothing left to elect.
    for result in elect(client).expect(200).document["results"]:
        assert (result["leader"], result["elected"], result["error"]) == (1, True, None)
    (result,) = elect(client, [("t", lost["partition"])]).expect(200).document["results"]
    assert (result["leader"], result["elected"], result["error"]) == (1, False, None)
    assert client.partition("t", lost["partition"])["leader"] == 1


@pytest.mark.parametrize(
    ("path", "document"),
    [
        (routes.ELECTIONS, {"type": "unlawful", "partitions": None}),
        (routes.ELECTIONS, {"partitions": None}),
        (routes.ELECTIONS, {"type": "preferred", "partitions": [{"topic": "t"}]}),
        (routes.REASSIGNMENTS, {"reassignments": [{"topic": "t", "partition": 0}]}),
        (routes.REASSIGNMENTS, {}),
    ],
)
def test_a_body_that_breaks_a_rule_is_refused(shared, path, document):
    answer = shared.http.post(shared.url(1) + path, document)
    assert (answer.status, answer.code) == (422, "INVALID_REQUEST")
    assert answer.document["outcome"] == "not_applied"


def test_each_reassignment_has_its_own_result(shared, topic):
    replicas = shared.partition(topic)["replicas"]
    mixed = reassign(shared, (topic, 0, replicas), (topic, 9, [1]), ("nothing", 0, [1]))
    results = mixed.expect(207).document["results"]
    assert [r["error"] and r["error"]["code"] for r in results] == [
        None,
        "UNKNOWN_TOPIC_OR_PARTITION",
        "UNKNOWN_TOPIC_OR_PARTITION",
    ]
    for target, rule in (([], "at least one"), ([1, 1], "repeat"), ([1, 99], "not registered")):
        refused = reassign(shared, (topic, 0, target))
        assert (refused.status, refused.code) == (422, "INVALID_REPLICA_ASSIGNMENT")
        assert rule in refused.document["detail"]
    twice = reassign(shared, (topic, 0, replicas), (topic, 0, None))
    assert (twice.status, twice.code) == (422, "INVALID_REQUEST")
