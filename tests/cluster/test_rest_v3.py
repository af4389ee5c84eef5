"""The REST Proxy API, version 3, on real brokers, as its clients use it."""

import base64
import json
import socket
from http.client import HTTPResponse
from itertools import count
from threading import Thread
from urllib.parse import urlsplit

import pytest

from ottla_protocol.compression import deflate_content
from tests.cluster.awaiting import eventually

pytestmark = pytest.mark.cluster

CLUSTER = "/v3/clusters/local"
RECEIVE_TIMEOUT_S = 60
HELD_BACK_S = 2.0
ENDLESS_RECORDS = 5_000_000

_numbers = count(1)


def name(kind):
    return f"v3-{kind}-{next(_numbers)}"


@pytest.fixture
def api(shared):
    """Calls below the cluster's URL, at any broker."""

    def call(method, path, document=None, *, via=None, **arguments):
        url = shared.url(via) if via is not None else shared.any_url()
        return shared.http.call(method, url + CLUSTER + path, document, **arguments)

    return call


def items(answer):
    """The items of a stream."""
    return [json.loads(line) for line in answer.body.splitlines()]


def text(value, **fields):
    return {"value": {"type": "STRING", "data": value}, **fields}


def joined(*records):
    """Concatenated JSON without anything in between."""
    return "".join(json.dumps(record) for record in records).encode()


def test_the_links_of_the_cluster_lead_on(shared, http):
    root = shared.url(2) + "/v3/clusters"
    listed = http.get(root).expect(200).document
    assert (listed["kind"], listed["metadata"]) == (
        "KafkaClusterList",
        {"self": root, "next": None},
    )
    [cluster] = listed["data"]
    # Anybody can say that: it must not send others elsewhere.
    forwarded = {"X-Forwarded-Host": "elsewhere", "X-Forwarded-Proto": "https"}
    assert http.get(root, headers=forwarded).expect(200).document == listed
    assert cluster == http.get(cluster["metadata"]["self"]).expect(200).document
    assert http.get(cluster["controller"]["related"]).expect(200).document["host"] == "127.0.0.1"
    brokers = http.get(cluster["brokers"]["related"]).expect(200).document["data"]
    assert [each["broker_id"] for each in brokers] == [1, 2, 3]
    for each in ("acls", "broker_configs"):
        assert http.get(cluster[each]["related"]).expect(200).document["data"] == []
    assert http.get(brokers[0]["configs"]["related"]).expect(200).document["data"] == []
    for each in ("topics", "consumer_groups", "partition_reassignments"):
        assert http.get(cluster[each]["related"]).expect(200).document["kind"].endswith("List")
    assert http.get(shared.any_url() + "/v3/clusters/other").expect(404).document == {
        "error_code": 404,
        "message": "the cluster here is 'local', not 'other' (RESOURCE_NOT_FOUND)",
    }
    assert http.get(root + "/local/nothing").expect(404).document["error_code"] == 404
    refused = http.delete(root).expect(405)
    assert (refused.document["error_code"], refused.headers["Allow"]) == (405, "GET,HEAD")


def test_a_topic_from_creation_to_deletion(api, shared):
    topic = name("topic")
    wanted = {
        "topic_name": topic,
        "partitions_count": 2,
        "replication_factor": 3,
        "configs": [{"name": "retention.ms", "value": "3600000"}],
    }
    assert api("POST", "/topics", wanted | {"validate_only": True}).expect(200)
    created = api("POST", "/topics", wanted).expect(201)
    assert created.headers["Location"] == created.document["metadata"]["self"]
    facts = ("kind", "topic_name", "is_internal", "replication_factor", "partitions_count")
    assert [created.document[fact] for fact in facts] == ["KafkaTopic", topic, False, 3, 2]
    shared.wait_led(topic, partitions=2)
    # Another broker may take its time to hear of it, but says so.
    described = api("GET", f"/topics/{topic}", via=2).expect(200).document
    assert described["metadata"]["resource_name"] == f"crn:///kafka=local/topic={topic}"
    again = api("POST", "/topics", wanted).expect(400).document
    assert again["error_code"] == 40002
    assert "TOPIC_ALREADY_EXISTS, not_applied" in again["message"]

    grown = api("PATCH", f"/topics/{topic}", {"partitions_count": 3}).expect(200).document
    assert grown["partitions_count"] == 3
    shared.wait_led(topic, partitions=3)
    partitions = api("GET", f"/topics/{topic}/partitions").expect(200).document["data"]
    assert [each["partition_id"] for each in partitions] == [0, 1, 2]
    one = shared.http.get(partitions[1]["metadata"]["self"]).expect(200).document
    leader = shared.http.get(one["leader"]["related"]).expect(200).document
    assert (leader["is_leader"], leader["is_in_sync"]) == (True, True)
    replicas = shared.http.get(one["replicas"]["related"]).expect(200).document["data"]
    assert sorted(each["broker_id"] for each in replicas) == [1, 2, 3]
    on_it = api("GET", f"/brokers/{leader['broker_id']}/partition-replicas").expect(200).document
    assert leader in on_it["data"]
    assert api("GET", f"/topics/{topic}/partitions/1/reassignment").expect(404)
    assert api("GET", f"/topics/{topic}/partitions/3").expect(404).document["error_code"] == 40403

    api("DELETE", f"/topics/{topic}").expect(204)
    assert api("GET", f"/topics/{topic}").expect(404).document["error_code"] == 40403


def test_configs_are_read_set_and_reset(api, topic):
    configs = f"/topics/{topic}/configs"

    def config(wanted):
        found = api("GET", f"{configs}/{wanted}").expect(200).document
        return found["value"], found["is_default"], found["source"]

    by_default = ("604800000", True, "DEFAULT_CONFIG")
    assert config("retention.ms") == by_default
    api("PUT", f"{configs}/retention.ms", {"value": "5000"}).expect(204)
    eventually(lambda: config("retention.ms") == ("5000", False, "DYNAMIC_TOPIC_CONFIG"))
    changes = [
        {"name": "retention.ms", "operation": "DELETE"},
        {"name": "cleanup.policy", "value": "compact"},
    ]
    api("POST", f"{configs}:alter", {"data": changes}).expect(204)
    eventually(lambda: config("retention.ms") == by_default)
    assert config("cleanup.policy")[0] == "compact"
    api("DELETE", f"{configs}/cleanup.policy").expect(204)
    eventually(lambda: config("cleanup.policy") == ("delete", True, "DEFAULT_CONFIG"))
    listed = api("GET", configs).expect(200).document
    assert listed["kind"] == "KafkaTopicConfigList"
    assert "max.message.bytes" in [each["name"] for each in listed["data"]]

    assert api("GET", f"{configs}/nonsense").expect(404).document["error_code"] == 404
    wrong = api("PUT", f"{configs}/retention.ms", {"value": "soon"}).expect(400).document
    assert wrong["error_code"] == 40002
    both = [{"name": "retention.ms", "value": "1"}, {"name": "nonsense", "value": "1"}]
    assert api("POST", f"{configs}:alter", {"data": both}).expect(400)
    assert config("retention.ms") == by_default
    assert api("POST", f"{configs}:alter", {"data": {}}).expect(422).document["error_code"] == 422


def test_records_of_every_type_are_stored_as_sent(api, shared, topic):
    sent = [
        {"key": {"type": "STRING", "data": "k"}, "value": {"type": "JSON", "data": {"n": 1}}},
        {
            "partition_id": 0,
            "headers": [{"name": "h", "value": base64.b64encode(b"\xff").decode()}],
            "value": {"type": "BINARY", "data": base64.b64encode(b"\x00\xff").decode()},
            "timestamp": "2013-01-01T10:00:00Z",
        },
        text("é"),
        {"key": {"type": "STRING", "data": "gone"}, "value": {"type": "JSON"}},
    ]
    answer = api("POST", f"/topics/{topic}/records", body=joined(*sent)).expect(200)
    told = items(answer)
    assert [(each["error_code"], each["partition_id"], each["offset"]) for each in told] == [
        (200, 0, 0), (200, 0, 1), (200, 0, 2), (200, 0, 3),
    ]  # fmt: skip
    assert {each["cluster_id"] for each in told} == {"local"}
    assert told[0]["key"] == {"type": "STRING", "size": 1}
    assert told[0]["value"] == {"type": "JSON", "size": 7}
    assert told[1]["timestamp"] == "2013-01-01T10:00:00.000Z"
    read = shared.read(topic, format="auto").expect(200).document["records"]
    assert [each.get("value", each.get("value_b64", each.get("value_text"))) for each in read] == [
        {"n": 1}, "AP8=", "é", None,
    ]  # fmt: skip
    assert read[1]["headers"] == [["h", {"b64": "/w=="}]]
    assert read[1]["timestamp"] == 1_357_034_400_000


def test_each_record_of_a_stream_has_its_own_error(api, shared, topic):
    """Neighbours of what is refused are appended, in order, and later ones too."""
    sent = joined(
        text("a"),
        {"value": {"type": "AVRO", "data": "b"}},
        text("c", partition_id=7),
        text("far", timestamp="2999-01-01T00:00:00Z"),
        text("x" * 1_100_000),
        text("d"),
    )
    told = items(api("POST", f"/topics/{topic}/records", body=sent).expect(200))
    assert [each["error_code"] for each in told] == [200, 422, 404, 400, 413, 200]
    assert "42206" in told[1]["message"]
    assert told[2]["message"].startswith("40403: ")
    assert [told[0]["offset"], told[5]["offset"]] == [0, 1]
    read = shared.read(topic, format="text").expect(200).document["records"]
    assert [each["value_text"] for each in read] == ["a", "d"]
    broken = api("POST", f"/topics/{topic}/records", body=joined(text("e")) + b"nonsense" + b"{}")
    assert [each["error_code"] for each in items(broken.expect(200))] == [200, 400]
    assert [each["error_code"] for each in items(
        api("POST", f"/topics/{topic}/records", body=b" \n ").expect(200)
    )] == [422]  # fmt: skip
    unknown = items(api("POST", "/topics/nowhere/records", body=joined(text("f"))).expect(200))
    assert [each["error_code"] for each in unknown] == [404]
    keyed = {"Idempotency-Key": "1"}
    refused = api("POST", f"/topics/{topic}/records", body=joined(text("g")), headers=keyed)
    assert refused.expect(422).document["error_code"] == 422
    assert shared.offset(topic).expect(200).document["offset"] == 3


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_a_compressed_stream_is_taken_as_it_comes(api, shared, topic, encoding):
    # Compressed at once it is more than is inflated at once.
    sent = joined(*(text("x" * 100 + str(number)) for number in range(2_000)))
    path, headers = f"/topics/{topic}/records", {"Content-Encoding": encoding}
    body = deflate_content(encoding, sent[:1_000]) + deflate_content(encoding, sent[1_000:])
    told = items(api("POST", path, body=body, headers=headers).expect(200))
    assert [each.get("offset") for each in told] == list(range(2_000))
    cut = items(api("POST", path, body=body[:-10], headers=headers).expect(200))
    assert (cut[0]["error_code"], cut[-1]["error_code"]) == (200, 400)
    # Tens of MiB of blanks in a few KiB.
    bomb = deflate_content(encoding, b" " * (30 << 20))
    assert [each["error_code"] for each in items(
        api("POST", path, body=bomb, headers=headers).expect(200)
    )] == [413]  # fmt: skip
    refused = api("POST", path, body=sent, headers={"Content-Encoding": "br"}).expect(415)
    assert refused.document["error_code"] == 415
    assert shared.offset(topic).expect(200).document["offset"] >= 2_000


def test_without_a_key_a_compacted_topic_refuses_that_record_alone(api, shared):
    topic = name("compacted")
    configs = {"cleanup.policy": "compact"}
    shared.create_topic(topic, partitions=1, replication_factor=3, configs=configs)
    shared.wait_led(topic)

    def keyed(value):
        return text(value, key={"type": "STRING", "data": "k"}, partition_id=0)

    sent = joined(keyed("a"), text("b", partition_id=0), keyed("c"), keyed("d"))
    told = items(api("POST", f"/topics/{topic}/records", body=sent).expect(200))
    assert [each["error_code"] for each in told] == [200, 400, 200, 200]
    assert "INVALID_RECORD, not_applied" in told[1]["message"]
    assert [each["offset"] for each in told if each["error_code"] == 200] == [0, 1, 2]


def test_acks_come_back_while_the_request_goes_on(shared, topic):
    """A record is answered before the next one is sent, on one open request."""
    where = urlsplit(shared.url(1))
    with socket.create_connection((where.hostname, where.port), RECEIVE_TIMEOUT_S) as peer:
        received = peer.makefile("rb")

        def chunk(data):
            peer.sendall(b"%x\r\n%b\r\n" % (len(data), data))

        def received_chunk():
            size = int(received.readline(), 16)
            data = received.read(size)
            assert received.readline() == b"\r\n"
            return data

        peer.sendall(
            f"POST {CLUSTER}/topics/{topic}/records HTTP/1.1\r\nHost: {where.netloc}\r\n"
            "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        )
        whole = json.dumps(text("x")).encode()
        for number in range(3):
            # The end of one record and the beginning of the next come in one chunk.
            chunk(whole[:10] if number == 0 else whole[10:] + whole[:10])
            if number == 0:
                assert received.readline() == b"HTTP/1.1 200 OK\r\n"
                while received.readline() != b"\r\n":
                    pass
                continue
            told = json.loads(received_chunk())
            assert (told["error_code"], told["offset"]) == (200, number - 1)
        chunk(whole[10:])
        assert json.loads(received_chunk())["offset"] == 2
        peer.sendall(b"0\r\n\r\n")
        assert received_chunk() == b""
    assert shared.offset(topic).expect(200).document["offset"] == 3


def test_a_batch_tells_each_entry_by_its_id(api, shared, topic):
    entries = [
        {"id": "1", **text("a")},
        {"id": "2", "value": {"type": "PROTOBUF"}},
        {"id": "3", **text("c")},
    ]
    path = f"/topics/{topic}/records:batch"
    told = api("POST", path, {"entries": entries}).expect(207).document
    assert [(each["id"], each["offset"]) for each in told["successes"]] == [("1", 0), ("3", 1)]
    [failure] = told["failures"]
    assert (failure["id"], failure["error_code"]) == ("2", 422)
    assert api("POST", path, {"entries": []}).expect(422).document["error_code"] == 422
    assert api("POST", path, body=b"{").expect(400).document["error_code"] == 400
    assert shared.offset(topic).expect(200).document["offset"] == 2
    offset = f"/topics/{topic}/partitions/0/offset"
    assert api("GET", offset, offset_type="latest").expect(200).document["latest_offset"] == 2
    earliest = api("GET", offset, offset_type="earliest", via=3).expect(200).document
    assert (earliest["earliest_offset"], "latest_offset" in earliest) == (0, False)


def test_a_group_with_its_lag(api, shared, topic):
    group = name("group")
    shared.append(topic, 1, 2, 3, 4)
    polls = shared.any_url() + f"/v1/groups/{group}/poll"
    wanted = {"topics": [topic], "member_id": "m", "max_records": 1, "max_wait_ms": 5_000}
    shared.http.post(polls, wanted).expect(200)

    def acknowledged():
        ack = shared.http.post(polls, wanted).expect(200).document["ack"]
        shared.http.post(polls, wanted | {"ack": ack, "max_wait_ms": 0}).expect(200)
        return ack is not None

    eventually(acknowledged)
    found = api("GET", f"/consumer-groups/{group}", via=2).expect(200).document
    assert (found["state"], found["is_simple"]) == ("STABLE", False)
    listed = api("GET", "/consumer-groups", via=2).expect(200).document["data"]
    assert found in listed
    consumers = shared.http.get(found["consumers"]["related"]).expect(200).document["data"]
    assert [each["consumer_id"] for each in consumers] == ["m"]
    assigned = shared.http.get(consumers[0]["assignments"]["related"]).expect(200).document["data"]
    assert [(each["topic_name"], each["partition_id"]) for each in assigned] == [(topic, 0)]
    assert shared.http.get(assigned[0]["metadata"]["self"]).expect(200).document == assigned[0]
    lag = shared.http.get(assigned[0]["lag"]["related"]).expect(200).document
    assert (lag["current_offset"], lag["log_end_offset"], lag["lag"]) == (1, 4, 3)
    assert api("GET", f"/consumer-groups/{group}/lags", via=2).expect(200).document["data"] == [lag]
    summary = shared.http.get(found["lag_summary"]["related"]).expect(200).document
    assert (summary["max_lag"], summary["total_lag"]) == (3, 3)
    assert (summary["max_lag_consumer_id"], summary["max_lag_topic_name"]) == ("m", topic)
    shared.http.delete(shared.any_url() + f"/v1/groups/{group}/members/m").expect(204)
    summary = shared.http.get(found["lag_summary"]["related"]).expect(200).document
    assert (summary["max_lag"], summary["max_lag_consumer_id"]) == (3, "")
    left = shared.http.get(summary["max_lag_consumer"]["related"]).expect(200).document
    assert left["data"] == []
    missing = api("GET", "/consumer-groups/nobody").expect(404).document
    assert missing["error_code"] == 40405


def test_who_does_not_read_the_items_is_held_back_and_loses_none(shared, topic):
    """Sending stops long before a stream's end, and goes on once items are read.

    The records are refused, and the items name them: so the disk has no part in it.
    """
    where = urlsplit(shared.url(shared.leader(topic)))
    with socket.socket() as peer:
        # The less there is between the two, the sooner it is full.
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 << 10)
        peer.connect((where.hostname, where.port))
        peer.settimeout(HELD_BACK_S)
        peer.sendall(
            f"POST {CLUSTER}/topics/{topic}/records HTTP/1.1\r\nHost: {where.netloc}\r\n"
            "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        )
        records, rest = send_until_held_back(peer)
        # Items are read beside, or neither side would move.
        peer.settimeout(RECEIVE_TIMEOUT_S)
        sender = Thread(target=peer.sendall, args=(bytes(rest) + b"0\r\n\r\n",))
        sender.start()
        answer = HTTPResponse(peer)
        answer.begin()
        told = answer.read().splitlines()
        sender.join()
    assert len(told) == records
    for number, item in enumerate(told):
        assert f"value.type is 'n{number}'" in json.loads(item)["message"]
    assert shared.offset(topic).expect(200).document["offset"] == 0


def send_until_held_back(peer):
    """Send records until nothing more is taken: how many, and what of the last ones is unsent."""
    for first in range(0, ENDLESS_RECORDS, 1_000):
        # As long as many items, so that few of them fill what the system holds for the broker.
        long = [{"name": "x" * 1_000}]
        records = joined(
            *({"value": {"type": f"n{first + each}"}, "headers": long} for each in range(1_000))
        )
        unsent = memoryview(b"%x\r\n%b\r\n" % (len(records), records))
        try:
            while unsent:
                unsent = unsent[peer.send(unsent) :]
        except TimeoutError:
            return first + 1_000, unsent
    raise AssertionError("nothing held the client back")
