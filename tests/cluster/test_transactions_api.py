"""Transactions over plain HTTP: records and offsets appear together, or not at all."""

import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest

from ottla_protocol import routes
from tests.cluster.transactional_client import TransactionalClient

pytestmark = pytest.mark.cluster


@pytest.fixture
def teller(shared):
    """A producer with a transactional id of its own, which needs percent-encoding."""
    return TransactionalClient(shared, f"teller/{uuid.uuid4().hex}")


@pytest.fixture
def two(shared, topic):
    """A topic with two partitions."""
    name = f"{topic}-two"
    shared.create_topic(name, partitions=2)
    shared.wait_led(name, partitions=2)
    return name


def committed_now(client, topic, partition=0):
    read = client.read(topic, partition, isolation="read_committed", max_wait_ms=0).expect(200)
    return [record["value"] for record in read.document["records"]]


def group_offset(client, group):
    url = client.any_url() + routes.GROUP_OFFSETS.format(group=group)
    offsets = client.http.get(url).expect(200).document["offsets"]
    return offsets[0]["offset"] if offsets else None


def test_records_and_offsets_appear_with_the_commit(shared, teller, two):
    group = f"of-{two}"
    teller.produce(two, "a").expect(200)
    teller.produce(two, "b", partition=1).expect(200)
    line = b'{"value": "c", "partition": 1}\n'
    headers = {routes.HEADER_TRANSACTION: teller.token, "Content-Type": routes.NDJSON}
    path = routes.TOPIC_RECORDS.format(topic=two)
    shared.http.post(shared.url(2) + path, body=line, headers=headers).expect(200)
    pending = teller.offsets(group, two, 1).expect(200).document
    assert pending == {
        "group": group,
        "offsets": [{"topic": two, "partition": 0, "offset": 1}],
    }
    assert shared.values(two, 1) == {0: "b", 1: "c"}
    assert committed_now(shared, two) == committed_now(shared, two, 1) == []
    assert group_offset(shared, group) is None

    token = teller.token
    first = teller.commit().expect(200)
    assert first.document["state"] == "committed"
    assert teller.committed_values(two, 1) == ["a"]
    assert teller.committed_values(two, 2, partition=1) == ["b", "c"]
    assert teller.commit(token).expect(200).document == first.document
    # The offsets' partition has its marker before the next transaction may begin.
    teller.offsets(group, two, 2).expect(200)
    assert group_offset(shared, group) == 1
    teller.abort().expect(200)
    assert group_offset(shared, group) == 1


def test_the_rest_proxies_take_part(shared, teller, topic):
    headers = {routes.HEADER_TRANSACTION: teller.token}
    of_v2 = headers | {"Content-Type": "application/vnd.kafka.json.v2+json"}
    path = routes.PROXY_TOPIC.format(topic=topic)
    body = b'{"records": [{"value": "two"}]}'
    shared.http.post(shared.url(1) + path, body=body, headers=of_v2).expect(200)
    cluster = shared.http.get(shared.any_url() + routes.CLUSTER).document["cluster_id"]
    path = routes.V3_RECORDS.format(cluster=cluster, topic=topic)
    record = {"value": {"type": "JSON", "data": "three"}}
    item = shared.http.post(shared.url(2) + path, record, headers=headers).expect(200).document
    assert item["error_code"] == 200, item
    assert committed_now(shared, topic) == []
    teller.commit().expect(200)
    assert teller.committed_values(topic, 2) == ["two", "three"]


def test_an_aborted_record_is_nobody_s_and_its_key_is_free(shared, teller, topic):
    teller.produce(topic, "first", key="k").expect(200)
    assert teller.abort().expect(200).document["state"] == "aborted"
    again = teller.produce(topic, "first", key="k").expect(200).document["results"][0]
    assert not again["duplicate"]
    repeated = teller.produce(topic, "first", key="k").expect(200).document["results"][0]
    assert repeated == again | {"duplicate": True}
    teller.commit().expect(200)
    teller.produce(topic, "second").expect(200)
    teller.commit().expect(200)
    assert teller.committed_values(topic, 2) == ["first", "second"]
    assert list(shared.values(topic).values()) == ["first", "first", "second"]


def test_what_comes_late_touches_no_other_transaction(shared, teller, topic):
    late = teller.token
    teller.produce(topic, "kept").expect(200)
    teller.commit().expect(200)
    # Until its marker is there, what comes late is still a part of it.
    assert teller.committed_values(topic, 1) == ["kept"]
    assert teller.produce(topic, "late", token=late).status == 409
    assert teller.abort(late).expect(409).code == "INVALID_TXN_STATE"
    successor = TransactionalClient(shared, teller.transactional_id)
    successor.produce(topic, "successor").expect(200)
    for refused in (teller.commit(), teller.abort(), teller.commit(late)):
        assert refused.expect(409).code == "PRODUCER_FENCED"
    assert teller.produce(topic, "zombie").status == 409
    successor.commit().expect(200)
    assert successor.committed_values(topic, 2) == ["kept", "successor"]


def test_an_id_is_taken_over_once_however_often_it_is_asked_for(shared, teller, topic):
    wanted = {"transactional_id": teller.transactional_id}
    keyed = wanted | {"idempotency_key": "started again"}
    teller.produce(topic, "left open").expect(200)
    urls = [shared.url(node_id) + routes.TRANSACTIONS for node_id in shared.live_node_ids]
    with ThreadPoolExecutor(len(urls)) as pool:
        answers = list(pool.map(lambda url: shared.http.post(url, keyed).expect(200), urls))
    [token] = {answer.document["transaction"] for answer in answers}
    teller.token = token
    teller.produce(topic, "kept").expect(200)
    assert shared.http.post(urls[0], keyed).expect(409).code == "PRODUCER_FENCED"
    going_on = wanted | {"transaction": token}
    with ThreadPoolExecutor(len(urls)) as pool:
        answers = list(pool.map(lambda url: shared.http.post(url, going_on).expect(200), urls))
    [teller.token] = {answer.document["transaction"] for answer in answers}
    teller.produce(topic, "after").expect(200)
    teller.commit().expect(200)
    assert teller.committed_values(topic, 1) == ["after"]


def test_an_operator_sees_what_is_open_and_aborts_it(shared, teller, topic):
    http, url = shared.http, shared.any_url()
    base = teller.produce(topic, "open").expect(200).document["results"][0]["base_offset"]
    listed = http.get(url + routes.TRANSACTIONS, state="ongoing").expect(200).document
    mine = [
        each
        for each in listed["transactions"]
        if each["transactional_id"] == teller.transactional_id
    ]
    assert [each["partitions"] for each in mine] == [1]
    encoded = teller.transactional_id.replace("/", "%2F")
    described = http.get(url + f"/v1/transactions/{encoded}").expect(200).document
    assert described["partitions"] == [{"topic": topic, "partition": 0}]
    of_log = http.get(url + routes.PARTITION_TRANSACTIONS.format(topic=topic, partition=0)).expect(
        200
    )
    assert of_log.document["last_stable_offset"] == base
    [found] = of_log.document["transactions"]
    identity = {name: teller.granted[name] for name in ("producer_id", "producer_epoch")}
    assert found.items() >= identity.items()
    # Its coordinator has it: it does not hang, and is not to be ended behind its back.
    hanging = http.get(url + routes.HANGING_TRANSACTIONS, topic=topic, idle_ms=0).expect(200)
    assert hanging.document == {"transactions": [], "unavailable": []}
    path = routes.PARTITION_TRANSACTION_ABORT.format(
        topic=topic, partition=0, producer=identity["producer_id"]
    )
    epoch = {"producer_epoch": identity["producer_epoch"]}
    assert http.post(url + path, epoch).expect(409).code == "INVALID_TXN_STATE"

    aborted = http.post(url + f"/v1/transactions/{encoded}/abort").expect(200).document
    assert aborted["state"] == "aborted"
    assert teller.commit().expect(409).code == "TRANSACTION_ABORTABLE"
    teller.abort().expect(200)
    teller.produce(topic, "after").expect(200)
    teller.commit().expect(200)
    assert teller.committed_values(topic, 1) == ["after"]
    assert not http.post(url + path, epoch).expect(200).document["aborted"]


def test_what_is_wrong_is_told(shared, teller, topic):
    post = shared.http.post
    url = shared.any_url()
    assert teller.produce(topic, "x", token="nonsense").expect(422).code == "INVALID_REQUEST"
    assert teller.produce(topic, "x", acks=1).expect(422).code == "INVALID_REQUIRED_ACKS"
    assert teller.commit("7001.0.another").expect(422).code == "INVALID_REQUEST"
    unknown = {"transaction": "7001.0.nobody-knows"}
    answer = post(url + "/v1/transactions/nobody-knows/commit", unknown)
    assert answer.expect(404).code == "TRANSACTIONAL_ID_NOT_FOUND"
    too_long = {"transactional_id": "t", "timeout_ms": 2_000_000_000}
    assert post(url + routes.TRANSACTIONS, too_long).expect(422).code == (
        "INVALID_TRANSACTION_TIMEOUT"
    )
