"""Bodies other than one topic's JSON: raw values, CloudEvents, many topics; and bombs."""

import base64
import gzip
import json

import pytest

from ottla_protocol.compression import CONTENT_RATIO_FREE_BYTES, deflate
from ottla_protocol.record_batch import Compression

pytestmark = pytest.mark.cluster

EVENT = {"specversion": "1.0", "id": "A1", "source": "/planes", "type": "landed"}


def post(client, path, body, *, via=1, **headers):
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.http.post(client.url(via) + path, body=body, headers=sent)


def stored(client, topic):
    return client.read(topic, format="base64").expect(200).document["records"]


def test_one_raw_record_with_key_and_headers_by_any_broker(shared, topic):
    value = bytes(range(256))
    for via in (1, 2, 3):
        answer = post(
            shared,
            f"/v1/topics/{topic}/records?key=N%2F1&timestamp=17",
            value,
            via=via,
            Content_Type="application/octet-stream",
            Ottla_Header_Trace_Id="42",
        )
        assert answer.expect(200).document["records"] == [{"partition": 0, "offset": via - 1}]
    for record in stored(shared, topic):
        assert base64.b64decode(record["value_b64"]) == value
        assert base64.b64decode(record["key_b64"]) == b"N/1"
        assert record["timestamp"] == 17
        assert record["headers"] == {"trace-id": "42"}


def test_a_retry_of_a_raw_record_is_known_by_all_that_makes_it(shared, topic):
    def send(key):
        path = f"/v1/topics/{topic}/partitions/0/records?key={key}"
        return post(
            shared, path, b"x", Content_Type="application/octet-stream", Idempotency_Key="once"
        )

    assert send("a").expect(200).document["results"][0]["duplicate"] is False
    assert send("a").expect(200).document["results"][0]["duplicate"] is True
    assert send("b").expect(422).code == "IDEMPOTENCY_KEY_REUSED"
    assert len(stored(shared, topic)) == 1


def test_cloud_events_in_their_three_forms(shared, topic):
    path = f"/v1/topics/{topic}/records"
    keyed = EVENT | {"partitionkey": "N1", "data": {"n": 1}}
    post(shared, path, json.dumps(keyed), Content_Type="application/cloudevents+json").expect(200)
    batch = json.dumps([EVENT, EVENT | {"id": "A2"}])
    post(shared, path, batch, Content_Type="application/cloudevents-batch+json").expect(200)
    binary = {f"ce_{name}": value for name, value in EVENT.items()}
    post(shared, path, b"\xff", Content_Type="image/png", **binary).expect(200)
    broken = post(shared, path, b"\xff", **(binary | {"ce_specversion": "9"})).expect(422)
    assert "specversion" in broken.document["detail"]
    first, second, third, last = stored(shared, topic)
    assert json.loads(base64.b64decode(first["value_b64"])) == keyed
    assert base64.b64decode(first["key_b64"]) == b"N1"
    assert first["headers"] == {"content-type": "application/cloudevents+json; charset=UTF-8"}
    assert [json.loads(base64.b64decode(each["value_b64"]))["id"] for each in (second, third)] == [
        "A1",
        "A2",
    ]
    assert base64.b64decode(last["value_b64"]) == b"\xff"
    assert last["headers"] == {
        "content-type": "image/png",
        **{f"ce_{name}": value for name, value in EVENT.items()},
    }


def test_many_topics_in_one_call(shared, topic):
    other = f"{topic}-other"
    shared.create_topic(other, partitions=2)
    shared.wait_led(other, partitions=2)
    records = [
        {"topic": topic, "value": 1},
        {"topic": other, "value": 2, "partition": 1},
        {"topic": topic, "value": 3},
    ]
    headers = {"Idempotency_Key": "both", "Content_Type": "application/json"}
    body = json.dumps({"records": records})
    for via, duplicate in ((1, False), (2, True)):
        answer = post(shared, "/v1/records", body, via=via, **headers).expect(200).document
        assert [result["duplicate"] for result in answer["results"]] == [duplicate] * 2
        assert answer["records"] == [
            {"topic": topic, "partition": 0, "offset": 0},
            {"topic": other, "partition": 1, "offset": 0},
            {"topic": topic, "partition": 0, "offset": 1},
        ]
    assert shared.values(topic) == {0: 1, 1: 3}
    assert shared.values(other, 1) == {0: 2}


def test_what_one_topic_refuses_is_told_with_its_index_and_the_others_are_stored(shared, topic):
    records = [
        {"topic": "never-made", "value": 1},
        {"topic": topic, "value": 2},
        {"topic": "never-made", "value": 3},
    ]
    body = json.dumps({"records": records})
    answer = post(shared, "/v1/records", body).expect(207).document
    assert [result["topic"] for result in answer["results"]] == ["never-made", topic]
    assert answer["results"][0]["error"]["code"] == "UNKNOWN_TOPIC_OR_PARTITION"
    assert answer["records"][1] == {"topic": topic, "partition": 0, "offset": 0}
    for index in (0, 2):
        failed = answer["records"][index]
        assert (failed["partition"], failed["offset"]) == (-1, -1)
        assert failed["error"]["index"] == index
        assert failed["error"]["outcome"] == "not_applied"
    assert shared.values(topic) == {0: 2}
    only = json.dumps({"records": records[:1]})
    assert post(shared, "/v1/records", only).expect(404).document["outcome"] == "not_applied"
    body = json.dumps({"records": [{"topic": topic, "value": 1, "partition": 7}, records[0]]})
    answer = post(shared, "/v1/records", body).expect(404).document
    assert answer["code"] == "UNKNOWN_TOPIC_OR_PARTITION"
    missing = post(shared, "/v1/records", b'{"records":[{"value":1}]}').expect(422).document
    assert missing["index"] == 0


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_a_bomb_is_413_by_its_ratio(shared, topic, encoding):
    size = 4 * CONTENT_RATIO_FREE_BYTES
    plain = b'{"records":[{"value":"' + b"a" * size + b'"}]}'
    body = gzip.compress(plain) if encoding == "gzip" else deflate(Compression.ZSTD, plain)
    assert len(body) * 100 < size
    answer = post(
        shared,
        f"/v1/topics/{topic}/records",
        body,
        Content_Type="application/json",
        Content_Encoding=encoding,
    )
    problem = answer.expect(413).document
    assert (problem["max_ratio"], problem["outcome"]) == (100, "not_applied")
    assert shared.values(topic) == {}
