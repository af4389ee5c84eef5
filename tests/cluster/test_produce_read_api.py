"""Producing and reading records as JSON: every field, every parameter, at every broker."""

import base64
import gzip
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from ottla_protocol.compression import deflate
from ottla_protocol.partitioning import partition_for_key
from ottla_protocol.record_batch import Compression
from tests.cluster.awaiting import eventually
from tests.cluster.paused_broker import DIRECT

pytestmark = pytest.mark.cluster


def b64(data):
    return base64.b64encode(data).decode()


def round_trip(client, topic, record, **query):
    """Append one record and read it back, without its offset and timestamp."""
    offset = (
        client.produce(topic, [record], partition=0)
        .expect(200)
        .document["results"][0]["base_offset"]
    )
    [found] = (
        client.read(topic, offset=offset, max_records=1, **query).expect(200).document["records"]
    )
    assert found.pop("offset") == offset
    assert isinstance(found.pop("timestamp"), int)
    return found


class TestFields:
    @pytest.mark.parametrize(
        "record",
        [
            {"key": "k", "value": {"a": [1, 2, {"b": None}]}, "headers": {}},
            {"key": None, "value": "text", "headers": {}},
            {"key": "", "value": "", "headers": {}},
            {"key": "ключ 🗝", "value": "значение 🗄 \u2028 \u0000", "headers": {}},
            {"key": "k", "value": None, "headers": {}},
            {"key": "k", "value": True, "headers": {}},
            {"key": "k", "value": [], "headers": {"trace": "1", "größe": "ü"}},
            {"key": "k", "value": 1, "headers": [["a", "1"], ["a", "2"]]},
            {"key": "k", "value": 1, "headers": [["a", {"b64": b64(b"\xff")}], ["b", None]]},
            {"key_b64": b64(b"\xff\x00"), "value_b64": b64(b"\x00\xfe\xff"), "headers": {}},
            {"key": "k", "value_text": "not {json", "headers": {}},
        ],
        ids=lambda record: ",".join(record) if isinstance(record, dict) else None,
    )
    def test_what_was_sent_is_read(self, shared, topic, record):
        assert round_trip(shared, topic, record) == record

    @pytest.mark.parametrize(
        "number",
        ["1.0", "1.10", "1e400", "-0", "-0.0", "1E5", "123456789012345678901234567890", "0.1e-999"],
    )
    def test_numbers_keep_their_text(self, shared, topic, number):
        body = f'{{"records":[{{"value":{{"n": {number} }}}}]}}'
        answer = shared.http.post(
            f"{shared.any_url()}/v1/topics/{topic}/partitions/0/records",
            body=body,
            headers={"Content-Type": "application/json"},
        )
        answer.expect(200)
        assert f'"value":{{"n":{number}}}' in shared.read(topic).expect(200).text

    @pytest.mark.parametrize(
        ("record", "form", "read"),
        [
            ({"value": {"a": 1}}, "json", {"value": {"a": 1}}),
            ({"value": {"a": 1}}, "text", {"value_text": '{"a":1}'}),
            ({"value": {"a": 1}}, "base64", {"value_b64": b64(b'{"a":1}')}),
            ({"value_text": "5"}, "auto", {"value": 5}),
            ({"value_text": "null"}, "auto", {"value_text": "null"}),
            ({"value_b64": b64(b'"t"')}, "auto", {"value": "t"}),
            ({"value_b64": b64(b"\xff")}, "text", {"value_b64": b64(b"\xff")}),
            ({"value": None}, "base64", {"value": None}),
        ],
    )
    def test_formats(self, shared, topic, record, form, read):
        found = round_trip(shared, topic, {"key": "k", **record}, format=form)
        key = {"key_b64": b64(b"k")} if form == "base64" else {"key": "k"}
        assert found == {**key, **read, "headers": {}}

    def test_format_json_of_what_is_no_json_names_the_offset(self, shared, topic):
        shared.produce(topic, [{"value": 1}, {"value_text": "no json"}], partition=0).expect(200)
        answer = shared.read(topic, format="json").expect(422)
        assert answer.document["offset"] == 1

    def test_timestamps_are_the_clients_or_now(self, shared, topic):
        before_ms = time.time_ns() // 1_000_000
        records = [{"value": 1, "timestamp": 12345}, {"value": 2}, {"value": 3, "timestamp": 0}]
        document = shared.produce(topic, records, partition=0).expect(200).document
        after_ms = time.time_ns() // 1_000_000
        found = [r["timestamp"] for r in shared.read(topic).document["records"]]
        assert (found[0], found[2]) == (12345, 0)
        assert before_ms <= found[1] <= after_ms
        assert document["results"][0]["timestamp"] == max(found)


class TestPartitions:
    @pytest.fixture
    def wide(self, shared, topic):
        """A fresh topic with six partitions."""
        shared.create_topic(f"{topic}-wide", partitions=6)
        return f"{topic}-wide"

    def test_a_key_decides_as_every_kafka_client_does(self, shared, wide):
        keys = ["a", "b", "21", "foobar", "ключ", ""]
        document = (
            shared.produce(wide, [{"key": key, "value": 1} for key in keys]).expect(200).document
        )
        expected = [partition_for_key(key.encode(), 6) for key in keys]
        assert [record["partition"] for record in document["records"]] == expected
        known = shared.produce(wide, [{"key_b64": b64(b"\xff\xfe"), "value": 1}]).document
        assert known["records"][0]["partition"] == partition_for_key(b"\xff\xfe", 6)

    def test_the_field_decides_over_the_key(self, shared, wide):
        records = [{"key": "a", "value": p, "partition": p} for p in range(6)]
        document = shared.produce(wide, records).expect(200).document
        assert [record["partition"] for record in document["records"]] == list(range(6))

    def test_records_answer_in_request_order_and_results_by_partition(self, shared, wide):
        order = [5, 0, 5, 3, 0, 5]
        document = (
            shared.produce(wide, [{"value": i, "partition": p} for i, p in enumerate(order)])
            .expect(200)
            .document
        )
        assert document["topic"] == wide
        assert [(r["partition"], r["base_offset"], r["count"]) for r in document["results"]] == [
            (0, 0, 2),
            (3, 0, 1),
            (5, 0, 3),
        ]
        assert all(r["duplicate"] is False and r["error"] is None for r in document["results"])
        assert [(r["partition"], r["offset"]) for r in document["records"]] == [
            (5, 0), (0, 0), (5, 1), (3, 0), (0, 1), (5, 2),
        ]  # fmt: skip
        for index, place in enumerate(document["records"]):
            [record] = shared.read(
                wide, place["partition"], offset=place["offset"], max_records=1
            ).document["records"]
            assert record["value"] == index

    def test_records_without_key_stay_together_and_in_order(self, shared, wide):
        document = shared.produce(wide, [{"value": i} for i in range(20)]).expect(200).document
        assert len({record["partition"] for record in document["records"]}) == 1
        assert [record["offset"] for record in document["records"]] == list(range(20))

    def test_the_path_may_repeat_the_field_but_not_contradict_it(self, shared, wide):
        shared.produce(wide, [{"value": 1, "partition": 2}], partition=2).expect(200)
        answer = shared.produce(wide, [{"value": 1}, {"value": 1, "partition": 3}], partition=2)
        problem = answer.expect(422).document
        assert problem["index"] == 1
        assert problem["outcome"] == "not_applied"
        assert len(shared.values(wide, 2)) == 1

    @pytest.mark.parametrize("partition", ["6", "99999999999999999999", "-1", "x", "1.0", "%2e%2e"])
    def test_partitions_that_do_not_exist_are_404(self, shared, wide, partition):
        for answer in (
            shared.produce(wide, [{"value": 1}], partition=partition),
            shared.read(wide, partition),
            shared.offset(wide, partition),
        ):
            assert answer.expect(404).code == "UNKNOWN_TOPIC_OR_PARTITION"

    def test_a_field_beyond_the_partitions_appends_nothing_at_all(self, shared, wide):
        answer = shared.produce(wide, [{"value": 1, "partition": 0}, {"value": 2, "partition": 6}])
        assert answer.expect(404).document["index"] == 1
        assert answer.document["outcome"] == "not_applied"
        assert shared.values(wide, 0) == {}


class TestAcks:
    @pytest.mark.parametrize("acks", ["1", "all", "-1"])
    def test_an_acknowledged_record_has_its_offset(self, shared, topic, acks):
        for expected in range(3):
            document = shared.produce(topic, [{"value": 1}], acks=acks).expect(200).document
            assert document["results"][0]["base_offset"] == expected
            assert document["records"] == [{"partition": 0, "offset": expected}]

    def test_acks_0_tells_no_offset_and_appends(self, shared, topic):
        document = shared.produce(topic, [{"value": "quick"}], acks=0).expect(200).document
        assert document["results"][0]["base_offset"] == -1
        assert document["results"][0]["count"] == 1
        assert document["records"] == [{"partition": 0, "offset": -1}]
        eventually(lambda: shared.values(topic) == {0: "quick"})

    def test_all_is_the_default_and_means_on_all_in_sync_replicas(self, shared, topic):
        """At the answer every replica's disk has the record, though not yet its high watermark."""
        shared.append(topic, "x")
        for node_id in (1, 2, 3):
            eventually(lambda node_id=node_id: shared.local_records(node_id, topic)[0] == 1)

    @pytest.mark.parametrize("acks", ["2", "", "ALL", "quorum"])
    def test_other_acks_are_refused(self, shared, topic, acks):
        problem = shared.produce(topic, [{"value": 1}], acks=acks).expect(422).document
        assert problem["code"] == "INVALID_REQUIRED_ACKS"
        assert problem["outcome"] == "not_applied"


class TestReading:
    @pytest.fixture
    def filled(self, shared, topic):
        """Offsets 0 to 29 in batches of three, values 0 to 29."""
        for base in range(0, 30, 3):
            assert shared.append(topic, base, base + 1, base + 2, acks=1) == base
        eventually(lambda: shared.offset(topic).document["offset"] == 30)
        return topic

    @pytest.mark.parametrize(
        ("offset", "first"),
        [(0, 0), (1, 1), (10, 10), (29, 29), ("earliest", 0), (-1, 29), (-5, 25), (-30, 0)],
    )
    def test_offsets(self, shared, filled, offset, first):
        document = shared.read(filled, offset=offset).expect(200).document
        assert [record["offset"] for record in document["records"]] == list(range(first, 30))
        assert [record["value"] for record in document["records"]] == list(range(first, 30))
        assert (document["topic"], document["partition"]) == (filled, 0)
        assert document["next_offset"] == 30
        assert document["high_watermark"] == 30
        assert document["log_start_offset"] == 0

    def test_earliest_is_the_default(self, shared, filled):
        assert len(shared.read(filled).document["records"]) == 30

    def test_more_than_there_is_from_the_end_is_everything(self, shared, filled):
        assert len(shared.read(filled, offset=-1000).expect(200).document["records"]) == 30

    @pytest.mark.parametrize("offset", ["latest", 30])
    def test_the_end_is_no_error(self, shared, filled, offset):
        document = shared.read(filled, offset=offset, max_wait_ms=0).expect(200).document
        assert (document["records"], document["next_offset"]) == ([], 30)

    def test_max_records_and_next_offset_walk_through_everything(self, shared, filled):
        found, offset = [], 0
        while offset < 30:
            document = shared.read(filled, offset=offset, max_records=7).expect(200).document
            assert 1 <= len(document["records"]) <= 7
            found += [record["offset"] for record in document["records"]]
            assert document["next_offset"] == found[-1] + 1
            offset = document["next_offset"]
        assert found == list(range(30))

    def test_max_bytes_gives_less_but_always_one_batch(self, shared, filled):
        one = shared.read(filled, offset=4, max_bytes=1).expect(200).document
        assert [record["offset"] for record in one["records"]] == [4, 5]
        assert one["next_offset"] == 6
        some = shared.read(filled, offset=0, max_bytes=300).expect(200).document
        assert 3 <= len(some["records"]) < 30

    def test_a_poll_without_news_waits_its_time(self, shared, filled):
        started_s = time.monotonic()
        document = shared.read(filled, offset=30, max_wait_ms=400).expect(200).document
        assert document["records"] == []
        assert 0.38 <= time.monotonic() - started_s < 10

    def test_a_parked_poll_returns_with_the_record_at_once(self, shared, filled):
        for via in (1, 2, 3):
            end = shared.offset(filled).document["offset"]
            with ThreadPoolExecutor(1) as threads:
                poll = threads.submit(shared.read, filled, via=via, offset=end, max_wait_ms=20_000)
                leader = shared.leader(filled)
                shared.wait_parked(leader)
                started_s = time.monotonic()
                shared.append(filled, f"news-{via}")
                document = poll.result(10).expect(200).document
            assert time.monotonic() - started_s < 10
            assert [record["value"] for record in document["records"]] == [f"news-{via}"]

    def test_min_bytes_waits_for_more_than_one_record(self, shared, topic):
        leader = shared.leader(topic)
        with ThreadPoolExecutor(1) as threads:
            poll = threads.submit(shared.read, topic, via=leader, min_bytes=600, max_wait_ms=20_000)
            shared.wait_parked(leader)
            shared.append(topic, "x" * 100)
            shared.append(topic, "x" * 100)
            assert not poll.done()
            shared.append(topic, "x" * 800)
            assert len(poll.result(10).expect(200).document["records"]) == 3

    def test_min_bytes_that_never_come_give_what_there_is(self, shared, filled):
        document = shared.read(filled, min_bytes=100_000, max_wait_ms=200).expect(200).document
        assert len(document["records"]) == 30

    def test_many_polls_wake_together(self, shared, topic):
        with ThreadPoolExecutor(20) as threads:
            polls = [
                threads.submit(shared.read, topic, via=1 + i % 3, offset=0, max_wait_ms=20_000)
                for i in range(20)
            ]
            shared.wait_parked(shared.leader(topic), polls=20)
            shared.append(topic, "wake")
            for poll in polls:
                [record] = poll.result(10).expect(200).document["records"]
                assert record["value"] == "wake"

    @pytest.mark.parametrize(
        ("query", "named"),
        [
            ({"ofset": 1}, "ofset"),
            ({"offset": "first"}, "offset"),
            ({"offset": "1.5"}, "offset"),
            ({"offset": "9" * 30}, "offset"),
            ({"offset": ""}, "offset"),
            ({"max_records": 0}, "max_records"),
            ({"max_records": 100_001}, "max_records"),
            ({"max_records": "all"}, "max_records"),
            ({"max_bytes": 0}, "max_bytes"),
            ({"max_bytes": 2**40}, "max_bytes"),
            ({"min_bytes": -1}, "min_bytes"),
            ({"max_wait_ms": -1}, "max_wait_ms"),
            ({"max_wait_ms": 60_001}, "max_wait_ms"),
            ({"format": "xml"}, "format"),
            ({"replica": "nearest"}, "replica"),
        ],
    )
    def test_a_wrong_parameter_is_named(self, shared, topic, query, named):
        problem = shared.read(topic, **query).expect(422).document
        assert problem["code"] == "INVALID_REQUEST"
        assert named in problem["detail"]
        assert problem["parameter"] == named

    def test_a_parameter_given_twice_is_refused(self, shared, topic):
        url = f"{shared.any_url()}/v1/topics/{topic}/partitions/0/records?offset=1&offset=2"
        assert "twice" in shared.http.get(url).expect(422).document["detail"]


class TestReplicas:
    def test_local_reads_this_brokers_copy(self, shared, topic):
        shared.append(topic, "a", "b")
        for node_id in (1, 2, 3):

            def copied(node_id=node_id):
                answer = shared.read(topic, via=node_id, replica="local", max_wait_ms=0).expect(200)
                assert answer.headers["Ottla-Served-By"] == str(node_id)
                assert [record["value"] for record in answer.document["records"]] == ["a", "b"]

            eventually(copied)

    def test_a_local_poll_at_a_follower_wakes_by_itself(self, shared, topic):
        follower = shared.others(shared.leader(topic))[0]
        local = {"via": follower, "replica": "local"}
        eventually(lambda: shared.read(topic, **local, max_wait_ms=0).status == 200)
        with ThreadPoolExecutor(1) as threads:
            poll = threads.submit(shared.read, topic, **local, offset=0, max_wait_ms=20_000)
            shared.wait_parked(follower)
            started_s = time.monotonic()
            shared.append(topic, "x")
            assert len(poll.result(10).expect(200).document["records"]) == 1
        assert time.monotonic() - started_s < 10

    def test_local_at_a_broker_without_a_replica_is_421_with_the_leader(self, shared, topic):
        made = shared.create_topic(f"{topic}-one", partitions=1, replication_factor=1)
        leader = made["partitions"][0]["leader"]
        other = shared.others(leader)[0]
        eventually(lambda: shared.describe(f"{topic}-one", via=other))
        answer = shared.read(f"{topic}-one", via=other, replica="local").expect(421)
        assert answer.code == "NOT_LEADER_OR_FOLLOWER"
        assert answer.document["leader"] == leader

    def test_any_broker_serves_any_partition_and_names_who_did(self, shared, topic):
        shared.create_topic(f"{topic}-wide", partitions=6)
        for partition in range(6):
            for via in (1, 2, 3):
                leader = shared.leader(f"{topic}-wide", partition)
                shared.append(f"{topic}-wide", via, partition=partition, via=via)
                answer = shared.read(f"{topic}-wide", partition, via=via).expect(200)
                assert [record["value"] for record in answer.document["records"]][-1] == via
                assert answer.headers["Ottla-Leader"] == str(leader)
                assert answer.headers["Ottla-Served-By"] == str(leader)

    def test_a_forwarded_request_is_not_forwarded_again(self, shared, topic):
        follower = shared.others(shared.leader(topic))[0]
        url = f"{shared.url(follower)}/v1/topics/{topic}/partitions/0/records"
        answer = shared.http.get(url, headers=DIRECT).expect(421)
        assert answer.code == "NOT_LEADER_OR_FOLLOWER"
        assert answer.document["leader"] == shared.leader(topic)


class TestOffsets:
    def test_earliest_and_latest(self, shared, topic):
        for via in (1, 2, 3):
            for at in ("earliest", "latest"):
                document = shared.offset(topic, at=at, via=via).expect(200).document
                assert document == {
                    "topic": topic, "partition": 0, "offset": 0, "leader_epoch": 0,
                    "timestamp": None,
                }  # fmt: skip
        shared.append(topic, 1, 2, 3)
        for via in (1, 2, 3):
            assert shared.offset(topic, at="latest", via=via).document["offset"] == 3
            assert shared.offset(topic, at="earliest", via=via).document["offset"] == 0

    def test_latest_covers_whatever_was_acknowledged_before(self, shared, topic):
        """Real time: a question asked after an ack covers it, at whichever broker."""
        for count in range(1, 16):
            shared.append(topic, count, via=1 + count % 3)
            latest = shared.offset(topic, via=1 + (count + 1) % 3).document["offset"]
            assert latest == count

    def test_another_position_is_refused(self, shared, topic):
        problem = shared.offset(topic, at="middle").expect(422).document
        assert problem["parameter"] == "at"


class TestContentTypes:
    @pytest.mark.parametrize(
        "content_type", ["application/yaml", "text/plain", "application/xml", "multipart/x"]
    )
    def test_other_content_types_are_415(self, shared, topic, content_type):
        answer = shared.http.post(
            f"{shared.any_url()}/v1/topics/{topic}/records",
            body=b'{"records":[{"value":1}]}',
            headers={"Content-Type": content_type},
        )
        problem = answer.expect(415).document
        assert problem["code"] == "UNSUPPORTED_MEDIA_TYPE"
        assert problem["outcome"] == "not_applied"
        assert "application/json" in problem["detail"]

    def test_json_with_a_charset(self, shared, topic):
        shared.produce(
            topic, [{"value": 1}], headers={"Content-Type": "application/json; charset=utf-8"}
        ).expect(200)

    def test_gzip_and_zstd_bodies(self, shared, topic):
        plain = json.dumps({"records": [{"value": "x" * 1000}]}).encode()
        for encoding, body in (
            ("gzip", gzip.compress(plain)),
            ("zstd", deflate(Compression.ZSTD, plain)),
            ("identity", plain),
        ):
            shared.http.post(
                f"{shared.any_url()}/v1/topics/{topic}/records",
                body=body,
                headers={"Content-Type": "application/json", "Content-Encoding": encoding},
            ).expect(200)
        assert shared.values(topic) == dict.fromkeys(range(3), "x" * 1000)

    @pytest.mark.parametrize("encoding", ["br", "gzip, gzip", "snappy"])
    def test_other_encodings_are_415(self, shared, topic, encoding):
        answer = shared.http.post(
            f"{shared.any_url()}/v1/topics/{topic}/records",
            body=b"x",
            headers={"Content-Type": "application/json", "Content-Encoding": encoding},
        )
        assert answer.expect(415).document["outcome"] == "not_applied"


def test_concurrent_writers_get_different_offsets_without_gaps(shared, topic):
    """Through all brokers at once; every value ends at exactly the offset that was told."""
    told, lock = {}, threading.Lock()

    def write(writer):
        for number in range(15):
            value = f"{writer}-{number}"
            offset = shared.append(topic, value, via=1 + (writer + number) % 3)
            with lock:
                assert told.setdefault(offset, value) == value

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(write, range(6)))
    assert sorted(told) == list(range(90))
    assert shared.values(topic) == told
