"""The brokers' own topics in an operator's hands: moved, and led again after a loss."""

from functools import partial

import pytest

from ottla_protocol import routes
from tests.cluster.awaiting import eventually
from tests.cluster.group_member import GroupMember
from tests.cluster.test_reassignments import reassign, reassignments, wait_moved
from tests.cluster.test_unclean_elections import elect
from tests.cluster.transactional_client import TransactionalClient

pytestmark = pytest.mark.cluster

OFFSETS, TRANSACTIONS = INTERNAL = "__consumer_offsets", "__transaction_state"
UNCLEAN = "unclean.leader.election.enable"
MIN_ISR = "min.insync.replicas"
ONE_PARTITION_EACH = {
    "OTTLA_OFFSETS_PARTITIONS": "1",
    "OTTLA_TRANSACTION_STATE_PARTITIONS": "1",
}
SERVED_LIMIT_S = 20.0
SESSION = {"session_timeout_ms": 120_000}


def alter(client, topic, **configs):
    named = {name.replace("_", "."): value for name, value in configs.items()}
    url = client.any_url() + routes.TOPIC_CONFIGS.format(topic=topic)
    return client.http.call("PATCH", url, {"configs": named})


def served(call):
    """The answer of whoever leads in the end."""

    def answered():
        answer = call()
        return answer.status != 503 and answer

    return eventually(answered, SERVED_LIMIT_S)


def committed(client, group="g"):
    """What the group has committed of partition 0; waits for its coordinator."""
    url = client.any_url() + routes.GROUP_OFFSETS.format(group=group)
    offsets = served(partial(client.http.get, url)).expect(200).document["offsets"]
    return offsets[0]["offset"] if offsets else None


def commits(member, offset):
    """Commit through whatever failover there is."""
    eventually(lambda: member.commit("t", 0, offset).status == 200, SERVED_LIMIT_S)


def test_a_live_group_keeps_its_offsets_while_one_replica_becomes_three(start_cluster):
    """As where a cluster began with one broker."""
    client = start_cluster(settings=ONE_PARTITION_EACH | {"OTTLA_DEFAULT_REPLICATION_FACTOR": "1"})
    client.create_topic("t", partitions=1, replication_factor=3)
    member = GroupMember(client, "g", ["t"], **SESSION)
    member.commit("t", 0, 1).expect(200)
    producer = TransactionalClient(client, "p")
    target = {}
    for topic in INTERNAL:
        (only,) = client.partition(topic)["replicas"]
        target[topic] = [*client.others(only), only]
        reassign(client, (topic, 0, target[topic])).expect(200)
    last = 1
    while reassignments(client):
        last += 1
        member.heartbeat()
        member.commit("t", 0, last).expect(200)
    for topic in INTERNAL:
        wait_moved(client, topic, target[topic])
    assert committed(client) == last

    # Each of its brokers may go now, the one that was alone before among them.
    client.cluster.broker(target[OFFSETS][-1]).kill()
    commits(member, last + 1)
    eventually(lambda: member.try_heartbeat().status == 200, SERVED_LIMIT_S)
    assert committed(client) == last + 1
    eventually(lambda: producer.produce("t", "x").status == 200, SERVED_LIMIT_S)
    eventually(lambda: producer.commit().status == 200, SERVED_LIMIT_S)
    assert producer.committed_values("t", 1) == ["x"]


def test_what_operators_may_not_change_is_refused_with_the_rule(shared):
    shared.create_topic("internal-rule", partitions=1)
    GroupMember(shared, "internal-rule", ["internal-rule"]).leave()
    before = shared.describe(OFFSETS)["configs"]
    for name, value in (("cleanup.policy", "delete"), ("segment.bytes", None)):
        refused = alter(shared, OFFSETS, **{MIN_ISR: 1, name: value}).expect(422)
        assert refused.code == "INVALID_TOPIC_EXCEPTION"
        rule = f"only {MIN_ISR} and {UNCLEAN} can be set on it, not {name}"
        assert rule in refused.document["detail"]
    assert shared.describe(OFFSETS)["configs"] == before
    assert (before["cleanup.policy"], before["retention.ms"]) == ("compact", -1)


def test_groups_and_transactions_go_on_after_the_only_replica_s_broker_is_gone(start_cluster):
    client = start_cluster(settings=ONE_PARTITION_EACH | {"OTTLA_DEFAULT_REPLICATION_FACTOR": "1"})
    for topic in ("t", "other"):
        client.create_topic(topic, partitions=1, replication_factor=3)
    member = GroupMember(client, "g", ["t"], **SESSION)
    TransactionalClient(client, "p")
    (gone,) = client.partition(OFFSETS)["replicas"]
    reassign(client, (TRANSACTIONS, 0, [gone])).expect(200)
    wait_moved(client, TRANSACTIONS, [gone])
    member.commit("t", 0, 7).expect(200)
    former = TransactionalClient(client, "p")
    client.cluster.broker(gone).kill()
    eventually(lambda: [client.partition(topic)["leader"] for topic in INTERNAL] == [None] * 2, 20)
    other = client.live_node_ids[0]

    for topic in INTERNAL:
        assert elect(client, topic).expect(409).code == "POLICY_VIOLATION"
        altered = alter(client, topic, **{UNCLEAN: True}).expect(200).document["configs"]
        assert altered[UNCLEAN]["value"] is True
        assert elect(client, topic).expect(503).code == "ELIGIBLE_LEADERS_NOT_AVAILABLE"
        reassign(client, (topic, 0, [other])).expect(200)
        (elected,) = elect(client, topic).expect(200).document["results"]
        assert (elected["leader"], elected["elected"]) == (other, True)
        wait_moved(client, topic, [other])
        alter(client, topic, **{UNCLEAN: None}).expect(200)

    assert committed(client) is None, "it is lost"
    assert served(member.try_heartbeat).code == "UNKNOWN_MEMBER_ID"
    member = GroupMember(client, "g", ["t"], **SESSION)
    member.commit("t", 0, 8).expect(200)
    assert former.commit().code == "TRANSACTIONAL_ID_NOT_FOUND"
    producer = TransactionalClient(client, "p")
    assert producer.token.split(".")[0] != former.token.split(".")[0]
    producer.produce("other", "x").expect(200)
    producer.commit().expect(200)
    assert producer.committed_values("other", 1) == ["x"]

    # Whoever had it all comes back, is no replica any more, and changes nothing.
    client.cluster.broker(gone).start()
    client.cluster.broker(gone).wait_ready()
    member.heartbeat()
    assert committed(client) == 8
    directory = client.cluster.broker(gone).data_dir
    eventually(lambda: not [name for name in INTERNAL if (directory / f"{name}-0").exists()])


def test_groups_go_on_with_the_replica_that_is_left_and_then_with_one_that_lagged(start_cluster):
    client = start_cluster(controllers=1, settings=ONE_PARTITION_EACH)
    client.create_topic("t", partitions=1, replication_factor=3, configs={MIN_ISR: 1})
    member = GroupMember(client, "g", ["t"], **SESSION)
    member.commit("t", 0, 5).expect(200)
    idle, busy = TransactionalClient(client, "idle"), TransactionalClient(client, "busy")
    behind, ahead = client.node_ids[1], client.node_ids[2]
    for topic in INTERNAL:
        client.wait_isr(topic, 3)
    busy.produce("t", "of the open one").expect(200)
    for node_id in (client.node_ids[0], behind):
        client.cluster.broker(node_id).kill()
    for topic in (*INTERNAL, "t"):
        eventually(lambda each=topic: client.partition(each)["isr"] == [ahead], SERVED_LIMIT_S)

    refused = member.commit("t", 0, 6)
    assert refused.expect(503).code in {"NOT_ENOUGH_REPLICAS", "COORDINATOR_LOAD_IN_PROGRESS"}
    for topic in INTERNAL:
        alter(client, topic, **{MIN_ISR: 1}).expect(200)
    commits(member, 6)
    assert committed(client) == 6
    taken_over = TransactionalClient(client, "idle")
    assert taken_over.token.split(".")[:1] == idle.token.split(".")[:1], "the next epoch"

    # Now that one is lost as well, and with it the last commit and the take-over.
    client.cluster.broker(ahead).kill()
    client.cluster.broker(behind).start()
    client.cluster.broker(behind).wait_ready()
    for topic in INTERNAL:
        eventually(lambda each=topic: client.partition(each)["leader"] is None, SERVED_LIMIT_S)
        alter(client, topic, **{UNCLEAN: True}).expect(200)
        elect(client, topic).expect(200)
    alter(client, "t", **{UNCLEAN: True}).expect(200)
    elect(client, "t").expect(200)
    assert committed(client) == 5
    commits(member, 9)
    assert committed(client) == 9

    # No identity is granted twice, and what was open is aborted.
    for former in (idle, taken_over):
        answer = served(partial(former.produce, "t", "-"))
        assert answer.expect(409).code in {"PRODUCER_FENCED", "INVALID_PRODUCER_EPOCH"}
    successor = TransactionalClient(client, "idle")
    assert successor.token.split(".")[0] != idle.token.split(".")[0]
    assert busy.commit().expect(409).code == "TRANSACTION_ABORTABLE"
    busy.abort().expect(200)
    successor.produce("t", "of the next").expect(200)
    successor.commit().expect(200)
    busy.produce("t", "of the busy one").expect(200)
    busy.commit().expect(200)
    assert busy.committed_values("t", 2) == ["of the next", "of the busy one"]
