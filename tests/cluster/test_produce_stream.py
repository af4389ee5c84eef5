"""NDJSON streams in, and an answer for each line streams out while the upload is open."""

import gzip
import json
import zlib

import pytest

from ottla_broker.http.line_intake import BYTES_WAITING_MAX
from ottla_broker.http.record_lines import LINE_BYTES_MAX
from ottla_protocol.compression import CONTENT_RATIO_FREE_BYTES, deflate
from ottla_protocol.record_batch import Compression
from tests.cluster.awaiting import eventually
from tests.cluster.line_stream import LineStream, StreamEndedError

pytestmark = pytest.mark.cluster

WRITE_TIMEOUT_S = 2.0
BLOCKS_MAX = 1_000


def stream(client, path, *, via=1, **headers):
    return LineStream(client.url(via) + path, **headers)


def lines(values):
    return b"".join(b'{"value":%d}\n' % value for value in values)


def test_each_line_is_answered_in_order_while_the_upload_is_open(shared, topic):
    with stream(shared, f"/v1/topics/{topic}/records", via=2) as upload:
        for number in range(3):
            upload.send({"value": number})
            assert upload.answer() == {"partition": 0, "offset": number}
        upload.send(b"\n\r\n \n", b'{"value":3}\r\n{"val', b'ue":4}\n')
        assert [answer["offset"] for answer in upload.answers(2)] == [3, 4]
        upload.send(b'{"value":5}')
        upload.finish()
        assert upload.answers() == [{"partition": 0, "offset": 5}]
        assert (upload.status, upload.headers["content-type"]) == (200, "application/x-ndjson")
        assert upload.headers["connection"] == "close"
    assert shared.values(topic) == {number: number for number in range(6)}


def test_a_line_that_fails_is_told_in_its_place_and_the_next_ones_are_stored(shared, topic):
    path = f"/v1/topics/{topic}/partitions/0/records?first_index=10"
    long = json.dumps({"value": "x" * LINE_BYTES_MAX}).encode() + b"\n"
    bad = [b"{oops\n", {"valu": 1}, {"value": 1, "partition": 1}, b'{"value":"\xff"}\n', long]
    with stream(shared, path) as upload:
        upload.send({"value": 0}, *bad, {"value": 2})
        upload.finish()
        first, *failed, last = upload.answers()
    assert (first["offset"], last["offset"]) == (0, 1)
    assert [(answer["index"], answer["error"]["code"]) for answer in failed] == [
        (11, "MALFORMED_BODY"),
        (12, "INVALID_REQUEST"),
        (13, "INVALID_REQUEST"),
        (14, "MALFORMED_BODY"),
        (15, "MESSAGE_TOO_LARGE"),
    ]
    assert {answer["error"]["outcome"] for answer in failed} == {"not_applied"}
    assert shared.values(topic) == {0: 0, 1: 2}


@pytest.mark.parametrize("key", [{}, {"Idempotency_Key": "k"}])
def test_a_line_that_its_topic_does_not_take_costs_no_line_before_it(shared, topic, key):
    far_ahead = 99_999_999_999_999
    with stream(shared, f"/v1/topics/{topic}/records", **key) as upload:
        # In one write, and so mostly in one batch.
        upload.send(lines([0, 1]) + b'{"value":2,"timestamp":%d}\n' % far_ahead + lines([3]))
        upload.finish()
        first, second, failed, *behind = upload.answers()
    assert [first["offset"], second["offset"]] == [0, 1]
    assert (failed["index"], failed["error"]["code"]) == (2, "INVALID_TIMESTAMP")
    if key:
        assert all("error" in answer for answer in behind)
        assert shared.values(topic) == {0: 0, 1: 1}
    else:
        assert behind == [{"partition": 0, "offset": 2}]
        assert shared.values(topic) == {0: 0, 1: 1, 2: 3}


def test_lines_of_many_topics_name_theirs(shared, topic):
    with stream(shared, "/v1/records") as upload:
        upload.send({"topic": topic, "value": 1}, {"topic": "never-made", "value": 2})
        upload.send({"value": 3}, {"topic": topic, "value": 4})
        upload.finish()
        first, unknown, nameless, last = upload.answers()
    assert first == {"topic": topic, "partition": 0, "offset": 0}
    assert unknown["error"]["code"] == "UNKNOWN_TOPIC_OR_PARTITION"
    assert (nameless["index"], nameless["error"]["code"]) == (2, "INVALID_REQUEST")
    assert last == {"topic": topic, "partition": 0, "offset": 1}


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/v1/topics/never-made/records", {}, 404),
        ("/v1/topics/{topic}/partitions/1/records", {}, 404),
        ("/v1/topics/{topic}/records?acks=2", {}, 422),
        ("/v1/topics/{topic}/records?first_index=-1", {}, 422),
        ("/v1/topics/{topic}/records", {"Idempotency_Key": "x" * 256}, 422),
        ("/v1/topics/{topic}/records", {"Content_Encoding": "br"}, 415),
    ],
)
def test_what_is_wrong_before_the_first_line_has_a_status(shared, topic, path, headers, status):
    with stream(shared, path.format(topic=topic), **headers) as upload:
        upload.send({"value": 1})
        problem = upload.document()
        assert (upload.status, problem["outcome"]) == (status, "not_applied")
    assert shared.values(topic) == {}


def test_what_is_sent_again_under_a_key_is_stored_once(shared, topic):
    path, key = f"/v1/topics/{topic}/records", {"Idempotency_Key": "import-1"}
    with stream(shared, path, **key) as broken:
        broken.send(lines(range(30)))
        assert [answer["offset"] for answer in broken.answers(10)] == list(range(10))
        # The other answers are lost, and what becomes of these lines is not known.
        broken.send(lines(range(30, 40)))
    with stream(shared, f"{path}?first_index=10", via=2, **key) as again:
        again.send(lines(range(10, 20)))
        again.send(lines(range(20, 50)))
        again.finish()
        answers = again.answers()
    assert len(answers) == 40
    known = {offset for offset in (answer["offset"] for answer in answers) if offset >= 0}
    assert set(range(40, 50)) <= known
    for number, answer in enumerate(answers, 10):
        assert answer["offset"] in (-1, number)
        assert answer["offset"] == number or answer["duplicate"] is True
        assert answer.get("duplicate", False) is (number < 30) or 30 <= number < 40
    with stream(shared, path, via=3, **key) as whole:
        whole.send(lines(range(50)))
        whole.finish()
        assert all(answer["duplicate"] for answer in whole.answers())
    assert shared.values(topic) == {number: number for number in range(50)}
    with stream(shared, path, Idempotency_Key="import-2") as other:
        other.send(lines([50]))
        assert other.answer() == {"partition": 0, "offset": 50}


def test_under_a_key_nothing_is_stored_behind_an_error(shared, topic):
    path, key = f"/v1/topics/{topic}/records", {"Idempotency_Key": "k"}
    with stream(shared, path, **key) as upload:
        upload.send(lines([0]), {"value": 1, "partition": 7}, lines([2]))
        upload.finish()
        stored, failed = upload.answers()
    assert (stored["offset"], failed["index"]) == (0, 1)
    assert shared.values(topic) == {0: 0}
    # What is mended goes on from there.
    with stream(shared, f"{path}?first_index=1", **key) as upload:
        upload.send(lines([1, 2]), b"{oops\n", lines([3]))
        upload.finish()
        *stored, failed = upload.answers()
    assert [answer["offset"] for answer in stored] == [1, 2]
    assert failed["index"] == 3
    assert shared.values(topic) == {0: 0, 1: 1, 2: 2}


def test_a_stream_keeps_its_split_when_partitions_are_added(shared, topic):
    path, key = f"/v1/topics/{topic}/records", {"Idempotency_Key": "k"}
    records = [{"key": f"k{number}", "value": number} for number in range(20)]
    with stream(shared, path, **key) as upload:
        upload.send(*records[:10])
        upload.answers(10)
    url = f"{shared.any_url()}/v1/topics/{topic}"
    shared.http.call("PATCH", url, {"partitions": 4}).expect(200)
    shared.wait_led(topic, partitions=4)
    with stream(shared, path, via=3, **key) as upload:
        upload.send(*records)
        upload.finish()
        assert {answer["partition"] for answer in upload.answers()} == {0}
    assert sorted(shared.values(topic).values()) == list(range(20))


def test_a_stream_finds_itself_in_partitions_that_were_added_under_it(shared, topic):
    path, key = f"/v1/topics/{topic}/records", {"Idempotency_Key": "k"}
    line = {"value": 1, "partition": 3}
    with stream(shared, path, **key) as upload:
        # With the head, the stream has begun.
        upload.read_head()
        url = f"{shared.any_url()}/v1/topics/{topic}"
        shared.http.call("PATCH", url, {"partitions": 4}).expect(200)
        shared.wait_led(topic, partitions=4)
        upload.send(line)
        assert upload.answer() == {"partition": 3, "offset": 0}
    with stream(shared, path, via=2, **key) as again:
        again.send(line)
        again.finish()
        assert again.answers() == [{"partition": 3, "offset": 0, "duplicate": True}]


def test_compressed_lines_are_answered_while_they_come(shared, topic):
    path = f"/v1/topics/{topic}/records"
    compressor = zlib.compressobj(wbits=31)
    with stream(shared, path, Content_Encoding="gzip") as upload:
        upload.send(compressor.compress(lines([0, 1])) + compressor.flush(zlib.Z_SYNC_FLUSH))
        assert len(upload.answers(2)) == 2
        upload.send(compressor.compress(lines([2])) + compressor.flush(), gzip.compress(lines([3])))
        upload.finish()
        assert len(upload.answers()) == 2
    with stream(shared, path, Content_Encoding="zstd") as upload:
        frame = deflate(Compression.ZSTD, lines([4, 5]))
        upload.send(frame[:5])
        upload.send(frame[5:])
        assert len(upload.answers(2)) == 2
        upload.send(frame[:6])
        upload.finish()
        [failed] = upload.answers()
        assert failed["error"]["code"] == "MALFORMED_BODY"
    assert list(shared.values(topic).values()) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_a_stream_that_inflates_too_far_is_413(shared, topic, encoding):
    plain = b'{"value":"' + b"a" * (8 * CONTENT_RATIO_FREE_BYTES - 100) + b'"}\n'
    bomb = gzip.compress(plain) if encoding == "gzip" else deflate(Compression.ZSTD, plain)
    with stream(shared, f"/v1/topics/{topic}/records", Content_Encoding=encoding) as upload:
        upload.send(bomb)
        problem = upload.document()
        assert (upload.status, problem["max_ratio"]) == (413, 100)
    assert shared.values(topic) == {}


def test_a_client_that_reads_no_answers_is_made_to_wait_and_costs_little(shared, topic):
    held = "ottla_inflight_produce_bytes"
    with stream(shared, f"/v1/topics/{topic}/records?acks=0", via=3) as upload:
        upload.never_wait_longer_than(WRITE_TIMEOUT_S)
        blocks = [lines(range(5_000))] * BLOCKS_MAX
        with pytest.raises(StreamEndedError):
            upload.send_one_by_one(blocks)
        assert shared.metric(3, held) < 3 * BYTES_WAITING_MAX
    eventually(lambda: shared.metric(3, held) == 0, 30.0)
