"""Dedicated controllers, and brokers that follow the quorum without a vote."""

import shutil

from ottla_protocol import routes
from tests.cluster.awaiting import eventually

BROKERS_ROUTES = (
    ("POST", "/v1/topics/flights/records"),
    ("POST", "/v1/topics/flights/partitions/0/records"),
    ("GET", "/v1/topics/flights/partitions/0/records?offset=0"),
    ("GET", "/v1/topics/flights/partitions/0/offsets"),
    ("GET", "/v1/topics/flights/partitions/0/segments"),
    ("POST", "/v1/topics/flights/partitions/0/segments/verify"),
    ("POST", "/v1/produce"),
    ("POST", "/v1/fetch"),
    ("POST", "/v1/producer-ids"),
    ("GET", "/v1/groups"),
    ("GET", "/v1/groups/reports"),
    ("DELETE", "/v1/groups/reports"),
    ("POST", "/v1/groups/reports/members"),
    ("DELETE", "/v1/groups/reports/members/laptop"),
    ("POST", "/v1/groups/reports/members/laptop/heartbeat"),
    ("GET", "/v1/groups/reports/offsets"),
    ("POST", "/v1/groups/reports/offsets"),
    ("POST", "/v1/groups/reports/seek"),
    ("POST", "/v1/groups/reports/poll"),
)


def registered(client, url):
    brokers = client.http.get(url + routes.BROKERS).expect(200).document["brokers"]
    return {broker["id"]: broker["state"] for broker in brokers}


def test_dedicated_controllers_hold_the_metadata_and_no_records(start_cluster):
    client = start_cluster(brokers=3, controllers=3)
    cluster, http = client.cluster, client.http
    client.create_topic("flights", partitions=1, configs={"min.insync.replicas": 1})
    client.wait_led("flights")
    client.append("flights", "first")

    # They are voters and no brokers, and tell of both.
    assert client.controller() in {4, 5, 6}
    controller = cluster.broker(4)
    eventually(lambda: registered(client, controller.url) == dict.fromkeys((1, 2, 3), "active"))
    eventually(lambda: client.describe("flights", via=4)["partitions"][0]["leader"] is not None)
    http.get(controller.url + routes.LIVENESS).expect(200)
    assert client.metric(4, "ottla_metadata_version") > 0

    # Whoever wants records of them is told where those are.
    misdirected = client.produce("flights", [{"value": 1}], via=4).expect(421).document
    assert misdirected["code"] == "MISMATCHED_ENDPOINT_TYPE"
    assert misdirected["outcome"] == "not_applied"
    assert set(misdirected["brokers"]) == set(cluster.urls)
    for method, path in BROKERS_ROUTES:
        answer = http.call(method, controller.url + path, {} if method == "POST" else None)
        assert (answer.status, answer.code) == (421, "MISMATCHED_ENDPOINT_TYPE"), path

    # The leading controller crashes: brokers, none of which votes, follow the next one.
    former = client.controller()
    cluster.broker(former).kill()
    client.create_topic("after-the-crash", partitions=1)
    assert client.controller() in {4, 5, 6} - {former}
    client.append("flights", "second")

    # Brokers come and go; the controllers notice at once.
    leader = client.leader("flights")
    cluster.broker(leader).kill()
    eventually(lambda: client.partition("flights")["leader"] not in {None, leader})
    client.append("flights", "third")
    cluster.broker(leader).start()
    cluster.broker(leader).wait_ready()
    client.wait_isr("flights", 3)
    assert list(client.values("flights").values()) == ["first", "second", "third"]

    for process in cluster.controllers:
        assert not list(process.data_dir.glob("flights-*")), process.data_dir
    assert cluster.broker(client.controller()).terminate(timeout_s=20) == 0


def test_a_broker_without_a_vote_finds_the_leader_and_catches_up_by_a_snapshot(start_cluster):
    """It has lost its disk, and knows one voter only, which does not lead."""
    client = start_cluster(brokers=4, voters=3, settings={"OTTLA_METADATA_SNAPSHOT_ENTRIES": "10"})
    observer = client.cluster.broker(4)
    observer.kill()
    for number in range(20):
        client.create_topic(f"topic-{number}", partitions=1, replication_factor=1, via=1)
    shutil.rmtree(observer.data_dir)
    follower = next(node_id for node_id in (1, 2, 3) if node_id != client.controller())
    observer.settings["OTTLA_VOTERS"] = f"{follower}@{client.cluster.broker(follower).listen}"
    # It may become a voter one day; until it is added it has no vote.
    observer.settings |= {"OTTLA_ROLES": "broker,controller", "OTTLA_JOIN_QUORUM": "true"}
    observer.start()
    observer.wait_ready()
    # It may lead that topic: then its return is a change, of which not all hear at once.
    eventually(lambda: client.describe("topic-19", via=4) == client.describe("topic-19", via=1))
    assert client.metric(4, 'ottla_metadata_snapshots_total{event="installed"}') >= 1
