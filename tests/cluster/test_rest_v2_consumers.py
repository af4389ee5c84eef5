"""Consumer instances of the REST Proxy API v2: any broker serves any of them."""

import contextlib
import socket
import threading
from itertools import count, cycle

import msgspec
import pytest
import urllib3

from tests.cluster.awaiting import eventually
from tests.cluster.rest_v2_consumer import JSON, V2, RestConsumer

_names = count(1)


@pytest.fixture
def group():
    return f"rest-v2-group-{next(_names)}"


def store(client, topic, values, *, partition=0, via=1):
    """Store JSON values."""
    path = f"{client.url(via)}/topics/{topic}/partitions/{partition}"
    document = {"records": [{"value": value} for value in values]}
    answer = client.http.call("POST", path, document, headers={"Content-Type": JSON}).expect(200)
    assert not [each for each in answer.document["offsets"] if each["error"]]


def at(topic, partition=0, **more):
    return {"topic": topic, "partition": partition, **more}


def test_an_instance_reads_and_commits_through_any_broker(shared, topic, group):
    store(shared, topic, ["a", "b", "c"])
    consumer = RestConsumer(shared, group, "one", **{"auto.commit.enable": "false"})
    document = consumer.created.expect(200).document
    assert document["instance_id"] == "one"
    assert document["base_uri"] == f"{shared.url(1)}/consumers/{group}/instances/one"
    consumer.subscribe(topic)
    # The first request has records: it waits for the instance's place in the group.
    first = consumer.read()
    assert [(each["offset"], each["value"]) for each in first] == [(0, "a"), (1, "b"), (2, "c")]
    assert first[0].keys() == {"topic", "partition", "key", "value", "offset", "timestamp"}
    assert consumer.read(timeout=0) == []
    assert consumer.committed(topic) is None
    consumer.commit()
    assert consumer.committed(topic) == 3
    consumer.commit(at(topic, offset=0, metadata="mine"))
    assert consumer.committed(topic) == 1
    assert consumer.of("GET", "/subscription").expect(200).document == {"topics": [topic]}
    assigned = {"partitions": [at(topic)]}
    assert consumer.of("GET", "/assignments").expect(200).document == assigned
    store(shared, topic, ["d"])
    assert consumer.read_values(1) == ["d"]
    consumer.of("DELETE", "").expect(204)
    # Whoever comes next goes on from what was committed.
    successor = RestConsumer(shared, group, "two").subscribe(topic)
    assert successor.read_values(3) == ["b", "c", "d"]


def test_an_instance_goes_where_it_is_sent(shared, topic, group):
    store(shared, topic, list(range(10)))
    consumer = RestConsumer(shared, group, "one", **{"auto.offset.reset": "latest"})
    consumer.of("POST", "/assignments", {"partitions": [at(topic)]}).expect(204)
    assert consumer.read(timeout=0) == []
    consumer.of("POST", "/positions", {"offsets": [at(topic, offset=7)]}).expect(204)
    assert consumer.read_values(3) == [7, 8, 9]
    consumer.of("POST", "/positions/beginning", {"partitions": [at(topic)]}).expect(204)
    assert consumer.read(max_bytes=1)[0]["value"] == 0
    stamp = consumer.read(max_bytes=1)[0]["timestamp"]
    consumer.of("POST", "/positions/end", {"partitions": [at(topic)]}).expect(204)
    assert consumer.read(timeout=0) == []
    sought = {"timestamps": [at(topic, timestamp=stamp)]}
    consumer.of("POST", "/positions", sought).expect(204)
    assert consumer.read(max_bytes=1)[0]["value"] == 0
    # Without a group of members, what was read is committed for the group all the same.
    consumer.commit()
    assert consumer.committed(topic) == 1


def test_instances_share_topics_with_members_of_other_kinds(shared, group):
    """A v2 instance joins a group that polls, and each partition has one owner."""
    topic = f"rest-v2-shared-{next(_names)}"
    shared.create_topic(topic, partitions=4)
    shared.wait_led(topic, partitions=4)
    url = shared.url(1)

    def poll(**more):
        document = {"topics": [topic], "max_wait_ms": 200, **more}
        return shared.http.post(f"{url}/v1/groups/{group}/poll", document).expect(200).document

    member = poll()["member_id"]
    consumer = RestConsumer(shared, group, "one").subscribe(topic)

    def described():
        found = shared.http.get(f"{url}/v1/groups/{group}").expect(200).document
        return {
            each["member_id"]: [n for topic in each["assignment"] for n in topic["partitions"]]
            for each in found["members"]
        }

    def is_shared():
        poll(member_id=member)
        consumer.read(timeout=0)
        owned = described()
        return len(owned) == 2 and all(len(partitions) == 2 for partitions in owned.values())

    eventually(is_shared)
    owned = described()
    for partition in range(4):
        store(shared, topic, [partition], partition=partition)
    assert sorted(consumer.read_values(2)) == sorted(owned["one"])
    consumer.of("DELETE", "").expect(204)
    eventually(lambda: poll(member_id=member) and len(described()[member]) == 4)


def test_records_that_their_client_did_not_wait_for_are_read_again(shared, topic, group):
    """More than sockets hold, to a client that goes away in the middle."""
    for first in (0, 6):
        store(shared, topic, [f"{first + number}" + "x" * 1_000_000 for number in range(6)])
    settings = {"auto.commit.enable": "false", "fetch.min.bytes": 10_000_000}
    consumer = RestConsumer(shared, group, "one", **settings).subscribe(topic)
    host, port = shared.url(2).removeprefix("http://").split(":")
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        client.connect((host, int(port)))
        path = f"/consumers/{group}/instances/one/records?timeout=30000"
        request = f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nAccept: {JSON}\r\n\r\n"
        client.sendall(request.encode())
        assert client.recv(100).startswith(b"HTTP/1.1 200")
    consumer.commit()
    assert consumer.committed(topic) is None
    assert consumer.read(max_bytes=1)[0]["offset"] == 0


def test_head_reads_no_records(shared, topic, group):
    store(shared, topic, ["a"])
    consumer = RestConsumer(shared, group, "one").subscribe(topic)
    assert consumer.of("HEAD", "/records", accept=JSON, timeout=5_000).expect(200).body == b""
    assert consumer.of("HEAD", "/records", accept=V2).status == 406
    assert consumer.read_values(1) == ["a"]


def test_records_before_one_that_cannot_be_told_are_read_first(shared, topic, group):
    """Whoever seeks past what is no JSON passes over nothing else."""
    for value in ({"value": "a"}, {"value": "b"}, {"value_text": "no JSON"}, {"value": "c"}):
        shared.http.post(f"{shared.url(1)}/v1/topics/{topic}/records", {"records": [value]}).expect(
            200
        )
    settings = {"auto.commit.enable": "false", "fetch.min.bytes": 16}
    consumer = RestConsumer(shared, group, "one", **settings).subscribe(topic)
    assert [each["value"] for each in consumer.read()] == ["a", "b"]
    for _ in range(2):
        refused = consumer.of("GET", "/records", accept=JSON, timeout=0).expect(422).document
        assert (refused["error_code"], "at offset 2" in refused["message"]) == (42207, True)
    consumer.commit()
    assert consumer.committed(topic) == 2
    consumer.of("POST", "/positions", {"offsets": [at(topic, offset=3)]}).expect(204)
    assert consumer.read_values(1, timeout=0) == ["c"]


def of(path):
    return "/consumers/{group}/instances/one" + path


NOBODY = "/consumers/{group}/instances/nobody"
ASSIGNED = {"partitions": [{"topic": "{topic}", "partition": 0}]}

ERRORS = [
    ("POST", "/consumers/{group}", {"name": "one"}, {}, 409, 40902),
    ("POST", "/consumers/{group}", {"fetch.min.bytes": -2}, {}, 422, 40001),
    ("POST", "/consumers/{group}", {"fetch.min.bytes": "10000001"}, {}, 422, 40001),
    ("POST", "/consumers/{group}", {"fetch.min.bytes": "many"}, {}, 422, 42204),
    ("POST", "/consumers/{group}", {"format": "avro"}, {}, 422, 42204),
    ("POST", "/consumers/{group}", {"format": "xml"}, {}, 422, 42204),
    ("POST", "/consumers/{group}", {"auto.offset.reset": "oldest"}, {}, 422, 42204),
    ("POST", "/consumers/{group}", {"auto.commit.enable": "perhaps"}, {}, 422, 42204),
    ("POST", "/consumers/{group}", {"consumer.request.timeout.ms": -1}, {}, 422, 42204),
    ("POST", "/consumers/{group}", {"name": ""}, {}, 422, 42206),
    ("POST", "/consumers/{group}", {"colour": "red"}, {}, 422, 42206),
    ("POST", "/consumers/{group}", b"{", {}, 400, 400),
    ("POST", "/consumers/{group}", b"{}", {"Content-Type": "text/plain"}, 415, 415),
    ("POST", "/consumers/{group}", {}, {"Accept": "text/html"}, 406, 406),
    ("DELETE", NOBODY, None, {}, 404, 40403),
    ("GET", NOBODY + "/records", None, {}, 404, 40403),
    ("GET", NOBODY + "/subscription", None, {}, 404, 40403),
    ("POST", NOBODY + "/subscription", {"topics": ["{topic}"]}, {}, 404, 40403),
    ("GET", NOBODY + "/assignments", None, {}, 404, 40403),
    ("POST", NOBODY + "/offsets", None, {}, 404, 40403),
    ("GET", NOBODY + "/offsets", ASSIGNED, {}, 404, 40403),
    ("GET", of("/records"), None, {"Accept": JSON}, 409, 40903),
    ("GET", of("/records"), None, {"Accept": V2}, 406, 40601),
    ("GET", of("/records?timeout=soon"), None, {"Accept": JSON}, 400, 40002),
    ("GET", of("/records?max_bytes=x"), None, {"Accept": JSON}, 400, 40002),
    ("POST", of("/positions/end"), ASSIGNED, {}, 409, 40903),
    ("POST", of("/positions"), {"offsets": [{**ASSIGNED["partitions"][0], "offset": 0}]}, {}, 409,
     40903),
    ("POST", of("/assignments"), {"partitions": [{"topic": "nowhere", "partition": 0}]}, {}, 404,
     40403),
    ("POST", of("/positions/end"), {"partitions": [{"topic": "nowhere", "partition": 0}]}, {}, 404,
     40403),
    ("POST", of("/positions"), {"timestamps": [
        {**ASSIGNED["partitions"][0], "timestamp": number} for number in range(101)
    ]}, {}, 422, 42206),
    ("POST", of("/subscription"), {}, {}, 422, 42206),
    ("POST", of("/subscription"), {"topic_pattern": "("}, {}, 422, 42206),
    ("POST", of("/subscription"), {"topics": ["__consumer_offsets"]}, {}, 422, 42206),
    ("POST", of("/subscription"), {"topics": ["{topic}"]}, {}, 204, None),
    ("POST", of("/subscription"), {"topic_pattern": ".*"}, {}, 409, 40903),
    ("POST", of("/assignments"), ASSIGNED, {}, 409, 40903),
    ("POST", of("/offsets"), {"offsets": [{"topic": "nowhere", "partition": 0, "offset": 1}]}, {},
     409, 40903),
    ("PUT", of("/subscription"), {"topics": []}, {}, 405, 405),
    ("GET", of("/nothing"), None, {}, 404, 404),
    ("DELETE", of("/subscription"), None, {}, 204, None),
    ("POST", of("/assignments"), ASSIGNED, {}, 204, None),
    ("POST", of("/subscription"), {"topics": ["{topic}"]}, {}, 409, 40903),
    # What stands at the beginning is no JSON.
    ("POST", of("/positions/beginning"), ASSIGNED, {}, 204, None),
    ("GET", of("/records"), None, {"Accept": JSON}, 422, 42207),
    ("DELETE", of(""), None, {}, 204, None),
    ("DELETE", of(""), None, {}, 404, 40403),
]  # fmt: skip


def test_every_error_of_a_consumer_has_its_status_and_code(shared, topic, group):
    """The golden table, in an order in which each step makes the next one's state."""
    text = {"records": [{"value_text": "no JSON"}]}
    shared.http.post(f"{shared.url(1)}/v1/topics/{topic}/records", text).expect(200)
    RestConsumer(shared, group, "one").created.expect(200)
    found = []
    for number, (method, path, document, headers, *_) in enumerate(ERRORS):
        if isinstance(document, dict):
            document = msgspec.json.encode(document).replace(b"{topic}", topic.encode())
        sent = {"Content-Type": V2, **headers} if document is not None else headers
        url = shared.url(1 + number % 3) + path.format(group=group)
        answer = shared.http.call(method, url, body=document, headers=sent)
        code = None
        if answer.status != 204:
            assert answer.document.keys() == {"error_code", "message"}, (path, answer)
            code = answer.document["error_code"]
        found.append((method, path, answer.status, code))
    assert found == [(method, path, *codes) for method, path, _, _, *codes in ERRORS]


def test_no_record_is_lost_with_the_broker_that_served_an_instance(start_cluster):
    client = start_cluster(settings={"OTTLA_REST_INSTANCE_TIMEOUT_MS": "60000"})
    client.create_topic("flights", partitions=3)
    client.wait_led("flights", partitions=3)
    consumer = RestConsumer(client, "g", "one", **{"auto.commit.enable": "false"})
    consumer.subscribe("flights")
    for number in range(30):
        store(client, "flights", [number], partition=number % 3)
    seen = consumer.read_values(10, max_bytes=10)
    consumer.commit()
    # The next request is under way at the broker that dies.
    coordinator = client.http.get(client.url(1) + "/v1/groups/g").expect(200).document
    victim = coordinator["coordinator"]
    consumer.via = cycle(client.others(victim))
    held = RestConsumer(client, "g", "two", via=[victim])
    held.subscribe("flights")
    reading = threading.Thread(target=lambda: suppressed(lambda: held.read(timeout=30_000)))
    reading.start()
    client.cluster.broker(victim).kill()
    reading.join(60)
    held.via = cycle(client.others(victim))
    survivor = client.others(victim)[0]
    for number in range(30, 36):
        # One that the dying broker may have taken is stored again.
        eventually(
            lambda number=number: stored(client, "flights", number, via=survivor), timeout_s=60
        )

    def all_are_there():
        for each in (consumer, held):
            answer = each.of("GET", "/records", accept=JSON, timeout=200)
            if answer.status == 200:
                seen.extend(record["value"] for record in answer.document)
        return set(seen) == set(range(36))

    # What the request at the dead broker had read, and nobody was sent, is read again.
    eventually(all_are_there, timeout_s=60)

    def all_is_committed():
        # A record that was stored twice may be the last one, and not be read yet.
        all_are_there()
        for each in (consumer, held):
            each.commit()
        for partition in range(3):
            path = f"/topics/flights/partitions/{partition}/offsets"
            end = consumer.call("GET", path).expect(200).document["end_offset"]
            assert consumer.committed("flights", partition) == end

    eventually(all_is_committed, timeout_s=60)


def stored(client, topic, value, *, via):
    """Store a value; true so that it can be awaited."""
    store(client, topic, [value], partition=value % 3, via=via)
    return True


def suppressed(call):
    """Make a call to a broker that is about to die."""
    with contextlib.suppress(urllib3.exceptions.HTTPError, AssertionError):
        call()
