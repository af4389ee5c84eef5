"""Where a partition's records of some time begin, from any broker."""

import pytest

from ottla_protocol.compression import deflate
from ottla_protocol.models import BatchToAppend
from ottla_protocol.record_batch import Compression
from ottla_protocol.record_codec import RecordData, encode_batch
from tests.cluster.awaiting import eventually
from tests.cluster.http_client import produced

pytestmark = pytest.mark.cluster

TIMES = (100, 300, 200, 900, 400, 500)
"""Timestamps that go backwards, one record each."""


def found(client, topic, at, **arguments):
    document = client.offset(topic, at=at, **arguments).expect(200).document
    return document["offset"], document["timestamp"]


def append_times(client, topic, *times):
    records = [{"value": time, "timestamp": time} for time in times]
    client.produce(topic, records, partition=0).expect(200)


@pytest.fixture
def backwards(shared, topic):
    """A topic with a batch for each of TIMES."""
    for time in TIMES:
        append_times(shared, topic, time)
    return topic


@pytest.mark.parametrize("via", [1, 2, 3])
def test_the_lowest_offset_with_a_late_enough_timestamp_is_told(shared, backwards, via):
    expected = {0: (0, 100), 100: (0, 100), 101: (1, 300), 301: (3, 900), 900: (3, 900)}
    for at, position in expected.items():
        assert found(shared, backwards, at, via=via) == position


def test_a_time_after_all_records_is_the_end_without_a_timestamp(shared, backwards):
    assert found(shared, backwards, 901) == (len(TIMES), None)


def test_in_an_empty_partition_every_time_is_the_end(shared, topic):
    assert found(shared, topic, 0) == (0, None)


def test_records_are_told_apart_within_one_batch(shared, topic):
    append_times(shared, topic, 5, 50, 20, 70)
    assert found(shared, topic, 21) == (1, 50)
    assert found(shared, topic, 51) == (3, 70)


@pytest.mark.parametrize("compression", list(Compression))
def test_compressed_batches_are_looked_into(shared, topic, compression):
    deflate(compression, b"")  # Fails here, and not at the broker, where a codec is missing.
    batch = encode_batch(
        [RecordData(time, None, b"x" * 100) for time in (10, 30, 20)], compression=compression
    )
    to = shared.url(shared.leader(topic))
    sent = [BatchToAppend(topic, 0, memoryview(batch))]
    assert produced(shared.http.binary_produce(to, sent).expect(200))[0].error is None
    assert found(shared, topic, 11) == (1, 30)


def test_a_read_begins_at_the_first_record_of_a_time(shared, backwards):
    for via in (1, 2, 3):
        document = shared.read(backwards, via=via, timestamp=301).expect(200).document
        assert [record["timestamp"] for record in document["records"]] == [900, 400, 500]
    document = shared.read(backwards, timestamp=901, max_wait_ms=0).expect(200).document
    assert (document["records"], document["next_offset"]) == ([], len(TIMES))


@pytest.mark.parametrize("at", ["-1", "1.5", "yesterday", "9" * 19, "9" * 40])
def test_what_is_no_time_is_refused(shared, topic, at):
    assert shared.offset(topic, at=at).expect(422).document["parameter"] == "at"
    problem = shared.read(topic, timestamp=at).expect(422).document
    assert problem["parameter"] == "timestamp"


@pytest.mark.parametrize("other", [{"offset": 0}, {"replica": "local"}])
def test_a_timestamp_goes_with_no_offset_and_with_the_leader_alone(shared, topic, other):
    problem = shared.read(topic, timestamp=1, **other).expect(422).document
    assert problem["parameter"] == "timestamp"


def test_the_answer_survives_segments_a_restart_and_another_leader(start_cluster):
    client = start_cluster()
    client.create_topic("t", partitions=1, configs={"segment.bytes": 1 << 20})
    client.wait_led("t")
    filler = "x" * 300_000
    for time in TIMES:
        client.produce("t", [{"value": filler, "timestamp": time}], partition=0).expect(200)
    client.wait_isr("t", 3)
    leader = client.leader("t")
    client.cluster.broker(leader).kill()

    def answered_by_another():
        return client.leader("t") != leader and found(client, "t", 301) == (3, 900)

    eventually(answered_by_another, 20)
    client.cluster.broker(leader).start()
    client.cluster.wait_ready()
    assert found(client, "t", 301, via=leader) == (3, 900)
    assert found(client, "t", 901, via=leader) == (len(TIMES), None)
