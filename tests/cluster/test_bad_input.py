"""Whatever is wrong with a request is told precisely, and nothing of it is applied."""

import gzip
import json
import socket
import struct
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import google_crc32c
import pytest

from ottla_protocol import routes
from ottla_protocol.models import BatchToAppend
from ottla_protocol.record_codec import RecordData, encode_batch
from tests.cluster.awaiting import eventually
from tests.cluster.http_client import produced

pytestmark = pytest.mark.cluster

JSON = {"Content-Type": "application/json"}
MAX_JSON_BODY_BYTES = 8 << 20
SOCKET_TIMEOUT_S = 10.0
GZIP_WINDOW_BITS = 31
"""zlib's way to ask for gzip's header."""


def post_body(client, topic, body, *, headers=None, partition=0):
    """POST these bytes as a produce."""
    path = routes.PARTITION_RECORDS.format(topic=topic, partition=partition)
    return client.http.post(client.any_url() + path, body=body, headers={**JSON, **(headers or {})})


def refused(answer, status, code):
    """The problem document of a write of which nothing was applied."""
    problem = answer.expect(status).document
    assert (problem["code"], problem["outcome"]) == (code, "not_applied"), problem
    assert answer.headers["Content-Type"].startswith("application/problem+json")
    assert answer.headers["Ottla-Served-By"] in {"1", "2", "3"}
    return problem


def batch_of(*values):
    return encode_batch([RecordData(1, None, value) for value in values])


class TestUnknownTopics:
    def test_every_call_answers_404(self, shared):
        for node_id in (1, 2, 3):
            problem = refused(
                shared.produce("absent", [{"value": 1}], via=node_id),
                404,
                "UNKNOWN_TOPIC_OR_PARTITION",
            )
            assert "absent" in problem["detail"]
            assert problem["retriable"] is False
            for answer in (shared.read("absent", via=node_id), shared.offset("absent")):
                assert answer.expect(404).code == "UNKNOWN_TOPIC_OR_PARTITION"

    def test_the_answer_does_not_take_long(self, shared):
        started_s = time.monotonic()
        shared.produce("absent", [{"value": 1}]).expect(404)
        assert time.monotonic() - started_s < 5

    def test_the_brokers_own_topics_are_not_there_to_write(self, shared):
        answer = shared.produce("__consumer_offsets", [{"value": 1}])
        # Groups of other tests may have made it.
        assert answer.code in ("UNKNOWN_TOPIC_OR_PARTITION", "INVALID_TOPIC_EXCEPTION")


class TestMalformedJson:
    @pytest.mark.parametrize(
        ("body", "position"),
        [
            (b'{"records":[{"value":1},]}', 24),
            (b'{"records":[{"value":tru}]}', 21),
            (b'{"records":[{"value":1}]} x', 26),
            (b'{"records":\n[{"value":1}', 24),
            (b'{"records":[{"value":"\xff"}]}', 22),
            (b"", 0),
        ],
    )
    def test_400_with_the_position(self, shared, topic, body, position):
        problem = refused(post_body(shared, topic, body), 400, "MALFORMED_BODY")
        assert abs(problem["position"] - position) <= 1, problem
        assert f"byte {problem['position']}" in problem["detail"]
        assert problem["line"] == body[: problem["position"]].count(b"\n") + 1

    @pytest.mark.parametrize(
        ("document", "told"),
        [
            ({"records": []}, "at least one"),
            ({}, "records"),
            ([], "object"),
            ({"records": {}}, "records"),
            ({"records": [{"value": 1}], "extra": 1}, "extra"),
        ],
    )
    def test_a_document_of_another_shape_is_422(self, shared, topic, document, told):
        answer = post_body(shared, topic, json.dumps(document).encode())
        assert told in refused(answer, 422, "INVALID_REQUEST")["detail"]

    @pytest.mark.parametrize(
        "record",
        [
            {"value": 1, "value_b64": "AA=="},
            {"value": 1, "value_text": "1"},
            {"value_text": "1", "value_b64": "AA=="},
            {"key": "a", "key_b64": "AA==", "value": 1},
            {"key": "only"},
            {},
            {"value_b64": "not base64!"},
            {"value": 1, "timestamp": -1},
            {"value": 1, "timestamp": 2**63},
            {"value": 1, "timestamp": "now"},
            {"value": 1, "partition": -1},
            {"value": 1, "partition": 1.5},
            {"value": 1, "key": 7},
            {"value": 1, "headers": {"a": 1}},
            {"value": 1, "headers": [["a"]]},
            {"value": 1, "offset": 5},
            7,
        ],
        ids=json.dumps,
    )
    def test_a_wrong_record_is_422_with_its_index_and_nothing_is_appended(
        self, shared, topic, record
    ):
        records = [{"value": "good"}, {"value": "good"}, record]
        problem = refused(shared.produce(topic, records, partition=0), 422, "INVALID_REQUEST")
        assert problem["index"] == 2
        assert problem["path"].startswith("$.records[2]")
        assert shared.values(topic) == {}

    def test_deep_nesting_is_refused_or_stored_but_harms_nobody(self, shared, topic):
        for depth in (500, 100_000):
            body = b'{"records":[{"value":' + b"[" * depth + b"]" * depth + b"}]}"
            assert post_body(shared, topic, body).status in {200, 422}
        shared.read(topic, max_wait_ms=0).expect(200)


class TestTooLarge:
    def test_a_body_over_the_limit(self, shared, topic):
        body = b'{"records":[{"value":"' + b"x" * MAX_JSON_BODY_BYTES + b'"}]}'
        problem = refused(post_body(shared, topic, body), 413, "MESSAGE_TOO_LARGE")
        assert problem["limit_bytes"] == MAX_JSON_BODY_BYTES

    def test_a_body_over_the_limit_in_chunks_of_unknown_number(self, shared, topic):
        chunks = (b"x" * (1 << 20) for _ in range(9))
        answer = post_body(shared, topic, chunks)
        refused(answer, 413, "MESSAGE_TOO_LARGE")
        assert shared.values(topic) == {}

    def test_a_declared_length_over_the_limit_is_refused_without_reading_it(self, shared, topic):
        head = (
            f"POST /v1/topics/{topic}/records HTTP/1.1\r\nHost: x\r\n"
            f"Content-Type: application/json\r\nContent-Length: {1 << 40}\r\n\r\n"
        )
        with closing(connect(shared)) as connection:
            connection.sendall(head.encode())
            assert receive_status(connection) == 413

    def test_a_gzip_bomb_stops_early(self, shared, topic):
        # In pieces, for the bomb is not to go off here.
        packer = zlib.compressobj(9, wbits=GZIP_WINDOW_BITS)
        bomb = packer.compress(b'{"records":[{"value":"')
        bomb += b"".join(packer.compress(b"x" * (1 << 20)) for _ in range(256))
        bomb += packer.compress(b'"}]}') + packer.flush()
        assert len(bomb) < 1 << 20
        started_s = time.monotonic()
        problem = refused(
            post_body(shared, topic, bomb, headers={"Content-Encoding": "gzip"}),
            413,
            "MESSAGE_TOO_LARGE",
        )
        assert str(MAX_JSON_BODY_BYTES) in problem["detail"]
        assert time.monotonic() - started_s < 5

    def test_a_body_that_does_not_inflate(self, shared, topic):
        whole = gzip.compress(b'{"records":[{"value":1}]}')
        for body in (b"no gzip", whole[:-4], whole[:10], b""):
            answer = post_body(shared, topic, body, headers={"Content-Encoding": "gzip"})
            refused(answer, 400, "MALFORMED_BODY")
        assert shared.values(topic) == {}

    def test_a_batch_over_max_message_bytes_names_the_limit(self, shared, topic):
        name = f"{topic}-small"
        shared.create_topic(name, partitions=1, configs={"max.message.bytes": 2048})
        answer = shared.produce(name, [{"value": "x" * 4000}], partition=0)
        problem = refused(answer, 413, "MESSAGE_TOO_LARGE")
        assert problem["limit_bytes"] == 2048
        shared.append(name, "x" * 1000)
        assert len(shared.values(name)) == 1

    def test_too_many_records(self, shared, topic):
        body = b'{"records":[' + b",".join([b'{"value":1}'] * 100_001) + b"]}"
        problem = refused(post_body(shared, topic, body), 413, "MESSAGE_TOO_LARGE")
        assert problem["max_records"] == 100_000


class TestCorruptBatches:
    def corruptions(self):
        good = batch_of(b"value")
        flipped, magic, length, count = (bytearray(good) for _ in range(4))
        flipped[-2] ^= 0x10
        magic[16] = 1
        struct.pack_into(">i", length, 8, len(good))
        struct.pack_into(">i", count, 57, 5)
        return {
            "a flipped bit": flipped,
            "another magic": magic,
            "a lying length": length,
            "a lying count": count,
            "truncated": good[:-1],
            "truncated in its header": good[:40],
            "twenty bytes": good[:20],
            "empty": b"",
            "two batches in one": good + good,
            "garbage": b"\xff" * 100,
        }

    def test_each_is_422_and_nothing_is_appended(self, shared, topic):
        leader = shared.leader(topic)
        for what, batch in self.corruptions().items():
            answer = shared.http.binary_produce(
                shared.url(leader), [BatchToAppend(topic, 0, memoryview(batch))]
            )
            assert refused(answer, 422, "CORRUPT_MESSAGE")["detail"], what
        assert shared.offset(topic).document["offset"] == 0

    def test_one_corrupt_of_two_is_207_and_the_good_one_is_appended(self, shared, topic):
        bad = batch_of(b"bad")
        bad[-1] ^= 1
        answer = shared.http.binary_produce(
            shared.url(shared.leader(topic)),
            [
                BatchToAppend(topic, 0, memoryview(bad)),
                BatchToAppend(topic, 0, memoryview(batch_of(b"good"))),
            ],
        )
        failed, appended = produced(answer.expect(207))
        assert failed.error["code"] == "CORRUPT_MESSAGE"
        assert failed.error["outcome"] == "not_applied"
        assert (failed.base_offset, failed.count, failed.timestamp) == (-1, 0, -1)
        assert (appended.error, appended.base_offset, appended.count) == (None, 0, 1)
        [record] = shared.read(topic, format="text").document["records"]
        assert record["value_text"] == "good"

    def test_different_errors_of_all_batches_are_207_each_with_its_own(self, shared, topic):
        """One status cannot tell that one batch may be sent again and the other may not."""
        bad = batch_of(b"bad")
        bad[-1] ^= 1
        answer = shared.http.binary_produce(
            shared.url(shared.leader(topic)),
            [
                BatchToAppend(topic, 0, memoryview(bad)),
                BatchToAppend("absent", 0, memoryview(batch_of(b"good"))),
            ],
        )
        codes = [result.error["code"] for result in produced(answer.expect(207))]
        assert codes == ["CORRUPT_MESSAGE", "UNKNOWN_TOPIC_OR_PARTITION"]

    def test_a_control_batch_of_a_client_is_refused(self, shared, topic):
        control = encode_batch(
            [RecordData(1, b"\0\0\0\1", b"\0\0\0\0\0\0")],
            producer_id=1, producer_epoch=0, base_sequence=0, is_control=True,
        )  # fmt: skip
        answer = shared.http.binary_produce(
            shared.url(shared.leader(topic)), [BatchToAppend(topic, 0, memoryview(control))]
        )
        assert "control" in refused(answer, 422, "CORRUPT_MESSAGE")["detail"]

    def test_records_that_do_not_decode_do_not_stop_a_reader_for_ever(self, shared, topic):
        """The broker appends without decoding; a reader learns which offset, not a 500."""
        batch = batch_of(b"v")
        batch[61:] = bytes(len(batch) - 62) + b"\x7f"
        struct.pack_into(">I", batch, 17, google_crc32c.value(bytes(batch[21:])))
        shared.http.binary_produce(
            shared.url(shared.leader(topic)), [BatchToAppend(topic, 0, memoryview(batch))]
        ).expect(200)
        answer = shared.read(topic)
        assert answer.expect(422).code == "CORRUPT_MESSAGE"
        shared.append(topic, "after")
        [record] = shared.read(topic, offset=1).expect(200).document["records"]
        assert record["value"] == "after"

    @pytest.mark.parametrize("body", [b"", b"\xc1", b"\x80", b"\x81\xa7batches", b"{}", b"\x90"])
    def test_a_body_that_is_no_such_messagepack(self, shared, body):
        for path in (routes.PRODUCE, routes.FETCH):
            answer = shared.http.post(
                shared.any_url() + path,
                body=body,
                headers={"Content-Type": "application/msgpack"},
            )
            assert answer.status in {400, 422}
            assert answer.code in {"MALFORMED_BODY", "INVALID_REQUEST"}
            if path == routes.PRODUCE:
                assert answer.document["outcome"] == "not_applied"


class TestOffsetsOutOfRange:
    @pytest.mark.parametrize("via", [1, 2, 3])
    def test_beyond_the_end_is_416_with_both_bounds(self, shared, topic, via):
        shared.append(topic, 1, 2, 3)
        for offset in (4, 2**62):
            problem = shared.read(topic, via=via, offset=offset).expect(416).document
            assert problem["code"] == "OFFSET_OUT_OF_RANGE"
            assert (problem["log_start_offset"], problem["log_end_offset"]) == (0, 3)
            assert str(offset) in problem["detail"]
        shared.read(topic, via=via, offset=3, max_wait_ms=0).expect(200)

    def test_it_is_told_at_once(self, shared, topic):
        started_s = time.monotonic()
        shared.read(topic, offset=7, max_wait_ms=20_000).expect(416)
        assert time.monotonic() - started_s < 10


class TestIdempotencyKeys:
    def keyed(self, client, topic, key, records, **arguments):
        return client.produce(topic, records, headers={"Idempotency-Key": key}, **arguments)

    def test_another_body_to_the_same_partition_is_422(self, shared, topic):
        self.keyed(shared, topic, "k", [{"value": 1}]).expect(200)
        problem = refused(
            self.keyed(shared, topic, "k", [{"value": 2}]), 422, "IDEMPOTENCY_KEY_REUSED"
        )
        assert problem["retriable"] is False
        assert shared.values(topic) == {0: 1}

    def test_another_body_to_other_partitions_is_422_at_every_broker(self, shared, topic):
        name = f"{topic}-wide"
        shared.create_topic(name, partitions=4)
        self.keyed(shared, name, "k", [{"value": 1, "partition": 0}]).expect(200)
        for via in (1, 2, 3):
            for records in (
                [{"value": 1, "partition": 1}],
                [{"value": 2, "partition": 2}, {"value": 3, "partition": 3}],
            ):
                refused(
                    self.keyed(shared, name, "k", records, via=via), 422, "IDEMPOTENCY_KEY_REUSED"
                )
        assert [shared.values(name, partition) for partition in range(4)] == [{0: 1}, {}, {}, {}]

    def test_the_same_body_to_another_path_is_422(self, shared, topic):
        """It is another request, and must not be stored a second time as if it were a repeat."""
        name = f"{topic}-wide"
        shared.create_topic(name, partitions=2)
        records = [{"value": 1}]
        self.keyed(shared, name, "k", records, partition=0).expect(200)
        for partition in (1, None):
            answer = self.keyed(shared, name, "k", records, partition=partition)
            refused(answer, 422, "IDEMPOTENCY_KEY_REUSED")
        repeat = self.keyed(shared, name, "k", records, partition=0).expect(200).document
        assert repeat["results"][0]["duplicate"] is True
        assert [shared.values(name, partition) for partition in (0, 1)] == [{0: 1}, {}]

    def test_keys_of_other_topics_do_not_meet(self, shared, topic):
        shared.create_topic(f"{topic}-b", partitions=1)
        self.keyed(shared, topic, "k", [{"value": 1}]).expect(200)
        self.keyed(shared, f"{topic}-b", "k", [{"value": 2}]).expect(200)

    @pytest.mark.parametrize("key", ["", "x" * 256])
    def test_a_key_without_characters_or_with_too_many(self, shared, topic, key):
        problem = refused(self.keyed(shared, topic, key, [{"value": 1}]), 422, "INVALID_REQUEST")
        assert "Idempotency-Key" in problem["detail"]


class TestInternalRoutes:
    PATHS = (
        "/internal/raft",
        "/internal/controller",
        "/internal/commit-version",
        "/internal/unreachable-broker",
        "/internal/fetch",
        "/internal/produce",
        "/internal/idempotency",
        "/internal/transactions",
        "/internal/markers",
    )

    @pytest.mark.parametrize("path", PATHS)
    def test_a_client_without_the_cluster_id_is_403_naming_both(self, shared, path):
        url = shared.any_url() + path
        problem = shared.http.post(url, body=b"").expect(403).document
        assert problem["code"] == "INCONSISTENT_CLUSTER_ID"
        assert "'local'" in problem["detail"]
        assert "'none'" in problem["detail"]
        answer = shared.http.post(url, body=b"", headers={"Ottla-Cluster-Id": "elsewhere"})
        problem = answer.expect(403).document
        assert "'local'" in problem["detail"]
        assert "'elsewhere'" in problem["detail"]

    @pytest.mark.parametrize("path", PATHS)
    def test_the_path_cannot_be_written_another_way(self, shared, path):
        for written in (path.replace("/internal", "/%69nternal"), "/" + path, path + "/"):
            answer = shared.http.post(shared.any_url() + written, body=b"")
            assert answer.status in {403, 404}

    def test_garbage_from_a_member_is_refused_and_harms_nobody(self, shared, topic):
        headers = {"Ottla-Cluster-Id": "local", "Content-Type": "application/msgpack"}
        for path in self.PATHS:
            for body in (b"\xc1garbage", b"\xa3abc"):
                if path == "/internal/commit-version":
                    continue
                answer = shared.http.post(shared.any_url() + path, body=body, headers=headers)
                assert answer.status in {400, 421, 422}, (path, answer.body)
        assert shared.append(topic, "still fine") == 0


class TestRawHttp:
    def test_a_body_cut_off_midway_appends_nothing(self, shared, topic):
        body = b'{"records":[{"value":"whole"}]}'
        head = (
            f"POST /v1/topics/{topic}/records HTTP/1.1\r\nHost: x\r\n"
            "Content-Type: application/json\r\n"
        )
        for sent in (
            f"{head}Content-Length: {len(body) + 10}\r\n\r\n".encode() + body,
            f"{head}Transfer-Encoding: chunked\r\n\r\n{len(body):x}\r\n".encode() + body + b"\r\n",
            f"{head}Content-Encoding: gzip\r\nContent-Length: 500\r\n\r\n".encode()
            + gzip.compress(body),
        ):
            for reset in (False, True):
                with closing(connect(shared)) as connection:
                    connection.sendall(sent)
                    if reset:
                        linger = struct.pack("ii", 1, 0)
                        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        # A complete request behind them shows that the broker is past them all.
        assert shared.append(topic, "after") == 0
        assert shared.values(topic) == {0: "after"}

    def test_a_client_that_leaves_before_its_ack_leaves_no_half_state(self, shared, topic):
        """The record may be there or not; the next one has the next offset either way."""
        body = b'{"records":[{"value":"left"}]}'
        head = (
            f"POST /v1/topics/{topic}/records HTTP/1.1\r\nHost: x\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        for _ in range(5):
            with closing(connect(shared)) as connection:
                connection.sendall(head.encode() + body)
        offset = shared.append(topic, "after")
        found = shared.values(topic)
        assert found[offset] == "after"
        assert list(found) == list(range(len(found)))

    @pytest.mark.parametrize(
        "garbage",
        [
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
            b"NONSENSE\r\n\r\n",
            b"GET / HTTP/9.9\r\n\r\n",
            b"GET /v1/topics HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
            b"GET /v1/topics HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            b"POST /v1/topics HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
            b"POST /v1/topics HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
            b"Content-Length: 4\r\n\r\n0\r\n\r\n",
            b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 20_000 + b"\r\n\r\n",
            b"GET /%zz HTTP/1.1\r\nHost: x\r\n\r\n",
            b"GET //[ HTTP/1.1\r\nHost: x\r\n\r\n",
        ],
        ids=lambda garbage: repr(garbage[:25]),
    )
    def test_garbage_is_refused_and_never_a_500(self, shared, garbage):
        with closing(connect(shared)) as connection:
            connection.sendall(garbage)
            connection.shutdown(socket.SHUT_WR)
            status = receive_status(connection)
        assert status is None or 400 <= status < 500
        shared.http.get(shared.any_url() + "/livez").expect(200)

    def test_a_dripping_client_does_not_hold_up_others(self, shared, topic):
        with closing(connect(shared)) as dripping:
            dripping.sendall(b"POST /v1/topics/")
            with closing(connect(shared)) as half:
                half.sendall(
                    f"POST /v1/topics/{topic}/records HTTP/1.1\r\nHost: x\r\n"
                    "Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{".encode()
                )
                started_s = time.monotonic()
                assert shared.append(topic, 1) == 0
                assert time.monotonic() - started_s < 5

    def test_requests_in_one_packet_are_answered_in_order(self, shared, topic):
        request = f"GET /v1/topics/{topic} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
        with closing(connect(shared)) as connection:
            connection.sendall(request + b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
            received = b""
            while b'{"live":true}' not in received:
                received += connection.recv(65536)
        assert received.index(topic.encode()) < received.index(b'{"live":true}')

    def test_no_answer_leads_to_another_host(self, shared):
        """The Host header is the client's to make up: nothing echoes or follows it."""
        with closing(connect(shared)) as connection:
            connection.sendall(b"GET /v1/brokers HTTP/1.1\r\nHost: evil-one\r\n\r\n")
            received = connection.recv(65536)
        assert b"evil-one" not in received


def connect(client):
    host, port = client.any_url().removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), SOCKET_TIMEOUT_S)


def receive_status(connection):
    """The status code of the answer; None when the connection was closed without one."""
    received = b""
    while b"\r\n" not in received:
        try:
            part = connection.recv(65536)
        except ConnectionResetError:
            return None
        if not part:
            return None
        received += part
    return int(received.split()[1])


class TestTooFewReplicas:
    def test_three_wanted_and_one_down_is_503_and_nothing_is_appended(self, start_cluster):
        client = start_cluster()
        client.create_topic("three", partitions=1, configs={"min.insync.replicas": 3})
        client.create_topic("two", partitions=1)
        client.append("three", "a")
        client.append("two", "a")
        victim = client.others(client.leader("three"))[0]
        client.cluster.broker(victim).kill()

        def refuses():
            return client.produce("three", [{"value": "perhaps"}], timeout_ms=3000)

        eventually(lambda: refuses().code == "NOT_ENOUGH_REPLICAS")
        answer = client.produce("three", [{"value": "no"}])
        problem = answer.expect(503).document
        assert (problem["code"], problem["retriable"]) == ("NOT_ENOUGH_REPLICAS", True)
        assert problem["outcome"] == "not_applied"
        assert int(answer.headers["Retry-After"]) >= 1
        assert len(problem["isr"]) == 2
        # It is about this topic alone: acks=all with two in sync, and acks=1, go on.
        eventually(lambda: client.produce("two", [{"value": "b"}], timeout_ms=3000).status == 200)
        client.produce("three", [{"value": "acks 1"}], acks=1).expect(200)

        # With two of three gone there is no quorum: nothing is acknowledged to anybody.
        second = client.others(client.leader("two", via=client.live_node_ids[0]))
        second = next(node for node in second if node != victim)
        client.cluster.broker(second).kill()
        survivor = client.live_node_ids[0]
        for topic in ("two", "three"):
            answer = client.produce(topic, [{"value": "alone"}], via=survivor, timeout_ms=1500)
            assert answer.status in {503, 504}, answer.body
            assert answer.document["retriable"] is True
            assert answer.document["outcome"] in {"not_applied", "unknown"}

        client.cluster.broker(victim).start()
        client.cluster.broker(second).start()
        client.cluster.wait_ready()
        eventually(lambda: client.produce("three", [{"value": "again"}]).status == 200, 20)
        assert "no" not in client.values("three").values()


class TestSecret:
    def test_internal_calls_need_the_clusters_secret(self, start_cluster):
        settings = {"OTTLA_CLUSTER_SECRET": "s3cret-canary"}
        client = start_cluster(brokers=2, settings=settings, cluster_id="guarded")
        client.create_topic("t", partitions=1)
        assert client.append("t", 1) == 0
        for headers in ({}, {"Ottla-Cluster-Secret": "wrong"}, {"Ottla-Cluster-Secret": ""}):
            for path in TestInternalRoutes.PATHS:
                answer = client.http.post(
                    client.any_url() + path,
                    body=b"",
                    headers={"Ottla-Cluster-Id": "guarded", **headers},
                )
                assert answer.expect(403).code == "CLUSTER_AUTHORIZATION_FAILED"
                assert "canary" not in answer.text
        # The cluster is told first: which one it is, is no secret.
        answer = client.http.post(
            f"{client.any_url()}/internal/raft",
            body=b"",
            headers={"Ottla-Cluster-Id": "local", "Ottla-Cluster-Secret": "s3cret-canary"},
        )
        assert answer.expect(403).code == "INCONSISTENT_CLUSTER_ID"
        for broker in client.cluster.brokers:
            assert "canary" not in broker.log_path.read_text()


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("/v1/topic", "did you mean /v1/topics? "),
        ("/v3/clusters/", "did you mean /v3/clusters? "),
        ("/nothing", ""),
    ],
)
def test_a_path_that_nothing_has_names_the_one_that_was_meant(shared, path, meant):
    document = shared.http.get(shared.any_url() + path).expect(404).document
    told = document.get("detail") or document["message"]
    assert told.startswith(f"there is no {path}; {meant}/docs has all calls")


def test_parallel_bad_requests_leave_the_broker_alone(shared, topic):
    """Many wrong requests at once, then one that is right."""

    def bad(number):
        body = zlib.compress(bytes(number)) * number
        return post_body(shared, topic, body).status

    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(bad, range(40))) == {400}
    assert shared.append(topic, "fine") == 0
