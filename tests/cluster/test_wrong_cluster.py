"""Two clusters on one machine: neither takes a process of the other for one of its own."""

import json

import pytest

from ottla_ops.local_cluster import HOST, LocalBroker, LocalCluster, free_ports
from ottla_protocol import routes
from tests.cluster.awaiting import eventually
from tests.cluster.cluster_client import ClusterClient

INTERNAL_ROUTES = sorted(
    path for name, path in vars(routes).items() if name.startswith("INTERNAL_") and path[-1] != "/"
)


@pytest.fixture(scope="module")
def east(tmp_path_factory, http, launch):
    directory = tmp_path_factory.mktemp("east")
    with LocalCluster(directory, brokers=1, cluster_id="east", launch=launch) as cluster:
        yield ClusterClient(cluster, http)


def process_of_west(tmp_path, launch, voters, **settings):
    """A process of cluster 'west' with node id 2."""
    (port,) = free_ports(1)
    listen = f"{HOST}:{port}"
    return LocalBroker(
        2,
        listen=listen,
        data_dir=tmp_path / "broker-2",
        log_path=tmp_path / "broker-2.log",
        settings={
            "OTTLA_NODE_ID": "2",
            "OTTLA_LISTEN": listen,
            "OTTLA_DATA_DIR": str(tmp_path / "broker-2"),
            "OTTLA_VOTERS": voters.format(listen=listen),
            "OTTLA_CLUSTER_ID": "west",
            "OTTLA_LOG_FORMAT": "json",
            **settings,
        },
        launch=launch,
    )


@pytest.mark.parametrize(
    ("own_voter", "roles"), [("", "broker"), (",2@{listen}", "broker,controller")]
)
def test_a_process_with_voters_of_another_cluster_says_so(
    east, tmp_path, http, launch, own_voter, roles
):
    voters = east.cluster.voters + own_voter
    process = process_of_west(tmp_path, launch, voters, OTTLA_ROLES=roles)
    process.start()
    try:

        def reasons():
            answer = http.get(process.url + routes.READINESS).expect(503)
            return [reason for reason in answer.document["reasons"] if "node 1 at" in reason]

        (reason,) = eventually(reasons)
        assert "'east'" in reason
        assert "'west'" in reason
        lines = [json.loads(line) for line in process.log_path.read_text().splitlines()]
        told = [line for line in lines if line["event"] == "raft_messages_refused"]
        assert [(line["code"], line["peer"]) for line in told] == [("INCONSISTENT_CLUSTER_ID", 1)]
        assert "'east'" in told[0]["detail"]
        assert "'west'" in told[0]["detail"]
    finally:
        process.kill()
    # Nothing of it has arrived, and the cluster goes on.
    brokers = http.get(east.any_url() + routes.BROKERS).expect(200).document["brokers"]
    assert [broker["id"] for broker in brokers] == [1]
    http.get(east.any_url() + routes.READINESS).expect(200)


def test_a_process_whose_voters_are_not_there_says_so(tmp_path, http, launch):
    (port,) = free_ports(1)
    process = process_of_west(tmp_path, launch, f"1@{HOST}:{port}", OTTLA_ROLES="broker")
    process.start()
    try:

        def reasons():
            answer = http.get(process.url + routes.READINESS).expect(503)
            return [reason for reason in answer.document["reasons"] if "node 1 " in reason]

        (reason,) = eventually(reasons)
        assert "does not answer" in reason
        assert str(port) in reason
    finally:
        process.kill()


def test_a_process_of_another_cluster_at_a_brokers_address_harms_nobody(
    start_cluster, tmp_path, http, launch
):
    client = start_cluster(brokers=3, cluster_id="east")
    topic = client.create_topic_led_by(3)
    client.append(topic, "before")
    taken = client.cluster.broker(3)
    taken.kill()
    intruder = process_of_west(tmp_path, launch, f"2@{taken.listen}", OTTLA_LISTEN=taken.listen)
    intruder.start()
    try:
        # What is asked of broker 3 meanwhile is told to come back, and then served by others.
        eventually(lambda: client.append(topic, "meanwhile", via=1) is not None, 30)
        assert client.values(topic, via=2)[0] == "before"

        # The controller is who has something to say to voters.
        def warnings():
            url = client.url(client.controller())
            answer = http.get(url + routes.READINESS).expect(200)
            return [text for text in answer.document["warnings"] if "node 3 at" in text]

        (warning,) = eventually(warnings, 30)
        assert "'east'" in warning
        assert "'west'" in warning
        eventually(lambda: http.get(taken.url + routes.READINESS).status == 200, 30)
        assert http.get(taken.url + routes.TOPICS).expect(200).document["topics"] == []
    finally:
        intruder.kill()
    taken.start()
    taken.wait_ready()
    client.wait_isr(topic, 3, timeout_s=30)


def test_every_internal_call_names_its_cluster(east, http):
    assert len(INTERNAL_ROUTES) >= 12
    for path in INTERNAL_ROUTES:
        for headers, theirs in (
            ({routes.HEADER_CLUSTER_ID: "west"}, "west"),
            ({}, "none"),
        ):
            answer = http.post(east.any_url() + path, body=b"", headers=headers).expect(403)
            assert answer.code == "INCONSISTENT_CLUSTER_ID", path
            for cluster_id in ("east", theirs):
                assert f"'{cluster_id}'" in answer.document["detail"]


def test_a_request_that_another_cluster_passes_on_is_refused(east):
    east.create_topic("flights", partitions=1)
    east.append("flights", "of the east")
    foreign = {routes.HEADER_CLUSTER_ID: "west", routes.HEADER_FORWARDED_BY: "2"}
    url = east.any_url() + routes.PARTITION_RECORDS.format(topic="flights", partition=0)
    for answer in (
        east.http.get(url, headers=foreign, offset=0),
        east.http.post(url, {"records": [{"value": 1}]}, headers=foreign),
    ):
        assert (answer.status, answer.code) == (403, "INCONSISTENT_CLUSTER_ID")
    assert east.values("flights") == {0: "of the east"}
