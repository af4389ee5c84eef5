"""A partition whose only replica in sync is gone: offline until its topic gives up what is lost."""

from urllib.parse import urlencode

import pytest

from ottla_protocol import routes
from tests.cluster.awaiting import eventually

pytestmark = pytest.mark.cluster


def elect(client, topic, partition=0):
    body = {"type": "unclean", "partitions": [{"topic": topic, "partition": partition}]}
    return client.http.post(client.any_url() + routes.ELECTIONS, body)


def read_given(client, **query):
    path = routes.TOPIC_RECORDS.format(topic="given")
    query["max_wait_ms"] = 0
    return client.http.get(f"{client.any_url()}{path}?{urlencode(query)}")


def partition_on(client, topic, node_ids):
    return next(
        state["partition"]
        for state in client.describe(topic)["partitions"]
        if set(state["replicas"]) == set(node_ids)
    )


def test_only_a_topic_that_allows_it_goes_on_without_what_is_lost(start_cluster):
    client = start_cluster()
    safe = {"min.insync.replicas": 1}
    client.create_topic("kept", partitions=1, replication_factor=2, configs=safe)
    risky = safe | {"unclean.leader.election.enable": True}
    # With as many partitions, placed evenly, each pair of brokers has two of them.
    client.create_topic("given", partitions=6, replication_factor=2, configs=risky)
    ahead, behind = client.partition("kept")["replicas"]
    given = partition_on(client, "given", (ahead, behind))
    places = (("kept", 0), ("given", given))
    for topic, partition in places:
        client.append(topic, "both", partition=partition)
    client.cluster.broker(behind).kill()
    for topic, partition in places:
        eventually(lambda t=topic, p=partition: client.partition(t, p)["isr"] == [ahead], 20)
        client.append(topic, "one", partition=partition)
    reached = read_given(client).expect(200).document
    assert reached["unavailable"] == []
    client.cluster.broker(ahead).kill()
    client.cluster.broker(behind).start()
    client.cluster.broker(behind).wait_ready()

    # The one elects by itself, once no replica in sync has come back in a session's time.
    eventually(lambda: client.partition("given", given)["leader"] == behind, 20)
    eventually(lambda: client.offset("given", given).status == 200)
    assert client.values("given", given) == {0: "both"}
    assert client.append("given", "another", partition=given) == 1
    elected = sum(
        client.metric(node_id, "ottla_unclean_elections_total") for node_id in client.live_node_ids
    )
    assert elected >= 1
    # Whoever has read the one that is lost is told, though its place has been taken.
    told = read_given(client, cursor=reached["cursor"]).expect(416).document
    assert told["code"] == "LOG_TRUNCATED"
    assert (told["partition"], told["divergent_offset"]) == (given, 1)
    goes_on = read_given(client, cursor=told["cursor"]).expect(200).document
    assert [(each["partition"], each["value"]) for each in goes_on["records"]] == [
        (given, "another")
    ]
    read_given(client, cursor=goes_on["cursor"]).expect(200)

    # The other waits, until its topic says so and somebody asks.
    assert client.partition("kept")["leader"] is None
    refused = elect(client, "kept").expect(409).document
    assert refused["code"] == "POLICY_VIOLATION"
    assert "unclean.leader.election.enable" in refused["detail"]
    client.http.call(
        "PATCH",
        client.any_url() + routes.TOPIC_CONFIGS.format(topic="kept"),
        {"configs": {"unclean.leader.election.enable": True}},
    ).expect(200)
    results = elect(client, "kept").expect(200).document["results"]
    assert [(each["topic"], each["leader"]) for each in results] == [("kept", behind)]
    assert client.append("kept", "another") == 1

    # Who had more comes back, and gives it up.
    client.cluster.broker(ahead).start()
    client.cluster.broker(ahead).wait_ready()
    for topic, partition in places:
        client.wait_isr(topic, 2, partitions=[partition])
        assert client.values(topic, partition) == {0: "both", 1: "another"}

        def equal(topic=topic, partition=partition):
            ahead_has, behind_has = (
                client.local_records(node_id, topic, partition) for node_id in (ahead, behind)
            )
            assert ahead_has == behind_has
            assert ahead_has[0] == 2

        eventually(equal)
