"""Before there is any group: questions are answered, and leave nothing behind."""

import pytest

from ottla_ops.local_cluster import LocalCluster
from ottla_protocol import routes
from tests.cluster.awaiting import eventually
from tests.cluster.cluster_client import ClusterClient
from tests.cluster.group_member import GroupMember

pytestmark = pytest.mark.cluster

OFFSETS_TOPIC = "__consumer_offsets"


@pytest.fixture(scope="module")
def client(tmp_path_factory, http, launch):
    with LocalCluster(tmp_path_factory.mktemp("nogroups"), launch=launch) as cluster:
        yield ClusterClient(cluster, http)


def topics(client):
    listed = client.http.get(client.any_url() + routes.TOPICS).expect(200).document["topics"]
    return {topic["name"] for topic in listed}


def test_what_asks_for_a_group_that_cannot_be_there_creates_no_topic(start_cluster):
    client = start_cluster()
    client.create_topic("orders", partitions=1)
    client.wait_led("orders", partitions=1)
    http, url = client.http, client.any_url()
    names = {"group": "nobody", "member": "m"}
    assert http.get(url + routes.GROUPS).expect(200).document == {"groups": []}
    fetched = http.get(url + routes.GROUP_OFFSETS.format(**names)).expect(200).document
    assert fetched == {"group": "nobody", "offsets": []}
    http.get(url + routes.GROUP.format(**names)).expect(404)
    http.delete(url + routes.GROUP.format(**names)).expect(404)
    http.delete(url + routes.GROUP_MEMBER.format(**names)).expect(409)
    refused = http.post(url + routes.GROUP_HEARTBEAT.format(**names), {"generation": 1})
    assert refused.expect(409).code == "UNKNOWN_MEMBER_ID"
    commit = {"member_id": "m", "generation": 1, "offsets": []}
    assert http.post(url + routes.GROUP_OFFSETS.format(**names), commit).expect(409)
    seek = {"to": "earliest", "topics": ["orders"], "dry_run": True}
    sought = http.post(url + routes.GROUP_SEEK.format(**names), seek).expect(200).document
    assert sought["offsets"] == [
        {"topic": "orders", "partition": 0, "committed": None, "offset": 0, "clamped_to": None}
    ]
    assert OFFSETS_TOPIC not in topics(client)
    GroupMember(client, "somebody", ["orders"])
    assert OFFSETS_TOPIC in topics(client)


def test_groups_are_counted(client):
    client.create_topic("counted", partitions=1)
    client.wait_led("counted", partitions=1)
    member = GroupMember(client, "counted", ["counted"])
    member.heartbeat()
    member.commit("counted", 0, 1).expect(200)
    member.leave()

    def total(name):
        lines = [
            line
            for node_id in (1, 2, 3)
            for line in client.http.get(client.url(node_id) + routes.METRICS).text.splitlines()
            if line.startswith(name + " ")
        ]
        return sum(float(line.rpartition(" ")[2]) for line in lines)

    assert total("ottla_group_heartbeats_total") >= 1
    assert total("ottla_group_commits_total") >= 1
    assert total("ottla_group_rebalances_total") >= 1
    assert total("ottla_group_load_seconds_count") >= 1
    assert total('ottla_group_coordinators{state="failed"}') == 0
    eventually(lambda: total('ottla_group_coordinators{state="active"}') >= 1)
    eventually(lambda: total('ottla_groups{state="empty"}') >= 1)


def test_clients_cannot_change_the_brokers_own_topic(client):
    GroupMember(client, "somebody", ["orders"])
    http, url = client.http, client.any_url()
    topic = routes.TOPIC.format(topic=OFFSETS_TOPIC)
    configs = routes.TOPIC_CONFIGS.format(topic=OFFSETS_TOPIC)
    for answer in (
        http.delete(url + topic),
        http.call("PATCH", url + topic, {"partitions": 60}),
        http.call("PATCH", url + configs, {"configs": {"retention.ms": 1_000}}),
    ):
        assert answer.expect(422).code == "INVALID_TOPIC_EXCEPTION"
    assert OFFSETS_TOPIC in topics(client)
