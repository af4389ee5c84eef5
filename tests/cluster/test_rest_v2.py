"""The REST Proxy API v2 at a real cluster: topics and produce, and every error that they have."""

import base64
from itertools import count

import pytest

from tests.cluster.awaiting import eventually

V2 = "application/vnd.kafka.v2+json"
BINARY = "application/vnd.kafka.binary.v2+json"
JSON = "application/vnd.kafka.json.v2+json"
AVRO = "application/vnd.kafka.avro.v2+json"

_names = count(1)


@pytest.fixture
def proxy_topic(shared):
    """A fresh topic with three partitions."""
    name = f"rest-v2-{next(_names)}"
    shared.create_topic(name, partitions=3, configs={"retention.ms": 3_600_000})
    shared.wait_led(name, partitions=3)
    return name


def post(client, path, document, *, via=1, content_type=JSON, **headers):
    return client.http.call(
        "POST",
        client.url(via) + path,
        document,
        headers={"Content-Type": content_type, **headers},
    )


def test_topics_and_brokers_are_told_as_proxies_do(shared, proxy_topic):
    url = shared.url(2)
    assert shared.http.get(url + "/").expect(200).document == {}
    assert sorted(shared.http.get(url + "/brokers").expect(200).document["brokers"]) == [1, 2, 3]
    listed = shared.http.get(url + "/topics").expect(200)
    assert listed.headers["Content-Type"].startswith(V2)
    assert proxy_topic in listed.document
    assert not [name for name in listed.document if name.startswith("__")]
    topic = shared.http.get(f"{url}/topics/{proxy_topic}").expect(200).document
    assert (topic["name"], topic["configs"]["retention.ms"]) == (proxy_topic, "3600000")
    partitions = shared.http.get(f"{url}/topics/{proxy_topic}/partitions/").expect(200).document
    assert [each["partition"] for each in partitions] == [0, 1, 2]
    assert topic["partitions"] == partitions
    second = shared.http.get(f"{url}/topics/{proxy_topic}/partitions/1").expect(200).document
    assert second == partitions[1]
    [leader] = [each["broker"] for each in second["replicas"] if each["leader"]]
    assert second["leader"] == leader


def test_records_are_stored_and_told_in_request_order(shared, proxy_topic):
    path = f"/topics/{proxy_topic}"
    records = [
        {"value": {"n": 1}, "partition": 2},
        {"value": "lost", "partition": 9},
        {"value": None, "partition": 0},
        {"key": "k", "value": [1.10], "partition": 2},
    ]
    answer = post(shared, path, {"records": records}, via=3).expect(200)
    assert answer.headers["Content-Type"].startswith(V2)
    document = answer.document
    assert (document["key_schema_id"], document["value_schema_id"]) == (None, None)
    first, lost, tombstone, last = document["offsets"]
    assert first == {"partition": 2, "offset": 0, "error_code": None, "error": None}
    assert (lost["partition"], lost["offset"], lost["error_code"]) == (None, None, 50002)
    assert (tombstone["partition"], tombstone["offset"]) == (0, 0)
    assert (last["partition"], last["offset"]) == (2, 1)
    ends = shared.http.get(f"{shared.url(1)}{path}/partitions/2/offsets").expect(200).document
    assert ends == {"beginning_offset": 0, "end_offset": 2}
    read = f"{shared.url(1)}/v1/topics/{proxy_topic}/partitions/2/records"
    stored = shared.http.get(read, format="text").expect(200).document["records"]
    assert [(each["key"], each["value_text"]) for each in stored] == [
        (None, '{"n":1}'),
        ('"k"', "[1.1]"),
    ]
    value = base64.b64encode(b"\x00\xff").decode()
    one = post(shared, f"{path}/partitions/1/", {"records": [{"value": value}]}, content_type=V2)
    assert one.expect(200).document["offsets"][0]["partition"] == 1


ERRORS = [
    ("GET", "/topics/no-such-topic", None, {}, 404, 40403),
    ("GET", "/topics/no-such-topic/partitions", None, {}, 404, 40403),
    ("GET", "/topics/{topic}/partitions/3", None, {}, 404, 40402),
    ("GET", "/topics/{topic}/partitions/x", None, {}, 404, 40402),
    ("GET", "/topics/{topic}/partitions/3/offsets", None, {}, 404, 40402),
    ("GET", "/topics", None, {"Accept": "text/html"}, 406, 406),
    ("GET", "/topics/{topic}/no-such-path", None, {}, 404, 404),
    ("DELETE", "/topics/{topic}", None, {}, 405, 405),
    ("POST", "/topics/no-such-topic", {"records": [{"value": 1}]}, {}, 404, 40401),
    ("POST", "/topics/__consumer_offsets", {"records": [{"value": 1}]}, {}, 404, 40401),
    ("POST", "/topics/{topic}/partitions/3", {"records": [{"value": 1}]}, {}, 404, 40402),
    ("POST", "/topics/{topic}", {"records": []}, {}, 422, 42206),
    ("POST", "/topics/{topic}", {"records": [{"value": 1, "x": 2}]}, {}, 422, 42206),
    (
        "POST",
        "/topics/{topic}/partitions/0",
        {"records": [{"value": 1, "partition": 0}]},
        {},
        422,
        42206,
    ),
    ("POST", "/topics/{topic}", b"{", {}, 400, 400),
    ("POST", "/topics/{topic}", {"records": [{"value": "="}]}, {"Content-Type": V2}, 400, 400),
    ("POST", "/topics/{topic}", b"x", {"Content-Type": "text/plain"}, 415, 415),
    ("POST", "/topics/{topic}", b" " * ((8 << 20) + 1), {}, 413, 413),
    ("POST", "/topics/{topic}", {"records": [{"value": 1}]}, {"Content-Type": AVRO}, 422, 42202),
    (
        "POST",
        "/topics/{topic}",
        {"records": [{"key": 1, "value": 1}], "value_schema_id": 7},
        {"Content-Type": AVRO},
        422,
        42201,
    ),
    (
        "POST",
        "/topics/{topic}",
        {"records": [{"value": 1}], "value_schema": '"int"'},
        {"Content-Type": AVRO},
        408,
        40801,
    ),
]


def test_every_error_has_its_status_and_code(shared, proxy_topic):
    """The golden table; whatever fails says `error_code` and `message`, and nothing else."""
    found = []
    for method, path, document, headers, *_ in ERRORS:
        sent = {"Content-Type": JSON, **headers} if document is not None else headers
        body = {"body": document} if isinstance(document, bytes) else {"document": document}
        url = shared.url(1) + path.format(topic=proxy_topic)
        answer = shared.http.call(method, url, headers=sent, **body)
        assert answer.document.keys() == {"error_code", "message"}, answer
        assert answer.headers["Content-Type"].startswith(V2)
        found.append((method, path, answer.status, answer.document["error_code"]))
    assert found == [(method, path, *codes) for method, path, _, _, *codes in ERRORS]


def test_records_that_a_log_refuses_are_told_one_by_one(shared):
    name = f"rest-v2-compacted-{next(_names)}"
    shared.create_topic(name, partitions=1, configs={"cleanup.policy": "compact"})
    shared.wait_led(name)
    records = [{"value": 1}, {"key": 1, "value": None}, {"value": 2}]
    answer = post(shared, f"/topics/{name}", {"records": records}).expect(200)
    entries = answer.document["offsets"]
    assert [each["error_code"] for each in entries] == [50002, None, 50002]
    assert entries[1]["offset"] == 0
    eventually(lambda: shared.offset(name).document["offset"] == 1)
