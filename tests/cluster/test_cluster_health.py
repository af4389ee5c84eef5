"""`GET /v1/cluster/health` and its gauges, on real brokers."""

import pytest

from ottla_protocol import routes
from tests.cluster.awaiting import eventually

pytestmark = pytest.mark.cluster

LIMIT_S = 30.0


def health(client, via=None, **query):
    url = client.url(via) if via is not None else client.any_url()
    return client.http.get(url + routes.CLUSTER_HEALTH, **query)


def gauge(client, name):
    """The sum over the brokers that live: only the active controller tells other than 0."""
    return sum(client.metric(node, f"ottla_{name}_partitions") for node in client.live_node_ids)


class TestAHealthyCluster:
    def test_every_broker_tells_the_same(self, shared, topic):
        def healthy():
            for node_id in shared.node_ids:
                told = health(shared, node_id).expect(200).document
                assert told["served_by"] == node_id
                assert told["status"] == "healthy", told
                assert told["reasons"] == []
                assert told["metadata_is_current"] is True
                assert [each["answers"] for each in told["brokers"]] == [True] * 3
                assert {each["controller"] for each in told["voters"]} == {told["controller"]}

        eventually(healthy, LIMIT_S)

    @pytest.mark.parametrize(
        ("query", "parameter"),
        [
            ({"limit": 0}, "limit"),
            ({"limit": 1001}, "limit"),
            ({"condition": "ill"}, "condition"),
            ({"cursor": "nowhere"}, "cursor"),
            ({"page": 1}, "page"),
        ],
    )
    def test_a_wrong_parameter_is_named(self, shared, query, parameter):
        answer = health(shared, **query).expect(422)
        assert answer.code == "INVALID_REQUEST"
        assert answer.document["parameter"] == parameter


def test_dedicated_controllers_are_asked_and_tell_too(start_cluster):
    client = start_cluster(brokers=1, controllers=3)
    client.create_topic("t", partitions=1, replication_factor=1)
    for node_id in (1, 3):

        def healthy(node_id=node_id):
            told = health(client, node_id).expect(200).document
            assert told["status"] == "healthy", told
            assert [each["id"] for each in told["brokers"]] == [1]
            assert [(each["id"], each["answers"]) for each in told["voters"]] == [
                (2, True), (3, True), (4, True),
            ]  # fmt: skip

        eventually(healthy, LIMIT_S)
    client.cluster.broker(4).kill()

    def degraded():
        told = health(client, 1).expect(200).document
        assert told["status"] == "degraded", told
        assert [each["code"] for each in told["reasons"]] == ["voter_silent"]
        assert told["reasons"][0]["broker"] == 4

    eventually(degraded, LIMIT_S)


def test_killed_brokers_degrade_the_cluster_and_then_take_its_controller(start_cluster):
    client = start_cluster()
    client.create_topic("wide", partitions=4, replication_factor=3)
    client.wait_led("wide", partitions=4)
    client.create_topic_led_by(3)
    survivor, second, killed = 1, 2, 3
    client.cluster.broker(killed).kill()

    def degraded():
        told = health(client, survivor, limit=3).expect(200).document
        assert told["status"] == "degraded", told
        assert told["counts"]["under_replicated"] == told["counts"]["partitions"] >= 5
        assert told["counts"]["at_min_isr"] == told["counts"]["under_replicated"]
        assert {each["code"] for each in told["reasons"]} == {
            "at_min_isr", "under_replicated", "broker_fenced",
        }  # fmt: skip
        assert len(told["partitions"]) == 3
        for each in told["partitions"]:
            assert killed not in each["isr"]
            assert [reason["broker"] for reason in each["reasons"]] == [killed]
        rest = health(client, survivor, cursor=told["next_cursor"]).expect(200).document
        assert len(rest["partitions"]) == told["counts"]["partitions"] - 3
        assert rest["next_cursor"] is None
        return told

    told = eventually(degraded, LIMIT_S)
    eventually(lambda: gauge(client, "under_replicated") == told["counts"]["partitions"], LIMIT_S)
    assert gauge(client, "offline") == gauge(client, "under_min_isr") == 0
    for node_id in (survivor, second):
        # What is missing is no reason to restart a broker, or to take clients away from it.
        client.http.get(client.url(node_id) + routes.LIVENESS).expect(200)
        eventually(
            lambda node_id=node_id: (
                client.http.get(client.url(node_id) + routes.READINESS)
                .expect(200)
                .document["ready"]
            ),
            LIMIT_S,
        )

    client.cluster.broker(second).kill()

    def unavailable():
        told = health(client, survivor).expect(200).document
        assert told["status"] == "unavailable"
        assert told["controller"] is None, told
        assert (told["metadata_is_current"], told["metadata_age_ms"] > 0) == (False, True)
        found = {each["code"]: each["detail"] for each in told["reasons"]}
        assert "no_controller" in found
        assert "connection refused" in found["broker_silent"]

    eventually(unavailable, LIMIT_S)

    client.cluster.broker(second).start()
    client.cluster.broker(killed).start()
    eventually(
        lambda: health(client, survivor).expect(200).document["status"] == "healthy", LIMIT_S
    )
    eventually(lambda: gauge(client, "under_replicated") == 0, LIMIT_S)
