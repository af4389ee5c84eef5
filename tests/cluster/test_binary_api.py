"""The SDK's calls: record batches in MessagePack, at the leader alone."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from ottla_protocol.compression import deflate
from ottla_protocol.models import BatchToAppend, PartitionToFetch
from ottla_protocol.record_batch import Compression, read_header, seal_batch
from ottla_protocol.record_codec import RecordData, decode_batch, encode_batch
from tests.cluster.awaiting import eventually
from tests.cluster.binary_producer import BinaryProducer, batch_of
from tests.cluster.http_client import fetched, produced

pytestmark = pytest.mark.cluster


def values_of(batches):
    return [
        record.value
        for batch in batches
        for record in decode_batch(batch, max_inflated_bytes=1 << 20)
    ]


def fetch(client, topic, offset=0, *, to=None, leader_epoch=None, **options):
    """Fetch partition 0; the bare answer."""
    leader = to or client.leader(topic)
    wanted = PartitionToFetch(topic, 0, offset, leader_epoch=leader_epoch)
    return client.http.binary_fetch(client.url(leader), [wanted], **options)


class TestProduceAndFetch:
    @pytest.mark.parametrize("acks", [1, -1])
    def test_what_is_produced_is_fetched_byte_for_byte(self, shared, topic, acks):
        leader = shared.leader(topic)
        batches = [batch_of(b"a", b"b"), batch_of(b"c")]
        results = produced(
            shared.http.binary_produce(
                shared.url(leader),
                [BatchToAppend(topic, 0, memoryview(batch)) for batch in batches],
                acks=acks,
            ).expect(200)
        )
        assert [(result.base_offset, result.count) for result in results] == [(0, 2), (2, 1)]
        assert all(result.error is None and not result.duplicate for result in results)
        [partition] = eventually(
            lambda: [p for p in fetched(fetch(shared, topic).expect(200)) if p.high_watermark == 3]
        )
        assert values_of(partition.batches) == [b"a", b"b", b"c"]
        assert [read_header(batch).base_offset for batch in partition.batches] == [0, 2]
        # Only what the leader assigns differs: the first 16 bytes, outside of the CRC.
        for sent, received in zip(batches, partition.batches, strict=True):
            assert bytes(sent[16:]) == bytes(received[16:])
        assert (partition.log_start_offset, partition.error) == (0, None)

    @pytest.mark.parametrize("compression", list(Compression))
    def test_compressed_batches_stay_as_they_are_and_json_readers_see_their_records(
        self, shared, topic, compression
    ):
        batch = encode_batch([RecordData(1, b"k", b'{"a":1}')] * 50, compression=compression)
        answer = shared.http.binary_produce(
            shared.url(shared.leader(topic)), [BatchToAppend(topic, 0, memoryview(batch))]
        )
        assert produced(answer.expect(200))[0].count == 50
        [received] = fetched(fetch(shared, topic).expect(200))[0].batches
        assert bytes(received[16:]) == bytes(batch[16:])
        records = shared.read(topic).expect(200).document["records"]
        assert [record["value"] for record in records] == [{"a": 1}] * 50

    def test_an_inflating_bomb_in_a_batch_is_refused_to_its_json_readers(self, shared, topic):
        plain = encode_batch([RecordData(1, None, b"x" * (80 << 20))])
        bomb = bytearray(plain[:61]) + deflate(Compression.GZIP, memoryview(plain)[61:])
        bomb[22] |= Compression.GZIP
        seal_batch(bomb)
        assert len(bomb) < 1 << 20
        answer = shared.http.binary_produce(
            shared.url(shared.leader(topic)), [BatchToAppend(topic, 0, memoryview(bomb))]
        )
        answer.expect(200)
        assert shared.read(topic).expect(413).code == "MESSAGE_TOO_LARGE"

    def test_many_partitions_in_one_request(self, shared, topic):
        name = f"{topic}-wide"
        shared.create_topic(name, partitions=6)
        shared.wait_led(name, partitions=6)
        leader = shared.leader(name, 0)
        led = [p for p in range(6) if shared.leader(name, p) == leader]
        assert len(led) == 2
        answer = shared.http.binary_produce(
            shared.url(leader),
            [BatchToAppend(name, p, memoryview(batch_of(b"%d" % p))) for p in led],
        )
        assert [r.partition for r in produced(answer.expect(200))] == led
        answer = shared.http.binary_fetch(
            shared.url(leader), [PartitionToFetch(name, p, 0) for p in reversed(led)]
        )
        found = fetched(answer.expect(200))
        assert [p.partition for p in found] == led[::-1]
        assert [values_of(p.batches) for p in found] == [[b"%d" % p] for p in reversed(led)]

    def test_a_fetch_in_the_middle_of_a_batch_gives_the_whole_batch(self, shared, topic):
        leader = shared.leader(topic)
        batch = batch_of(b"a", b"b", b"c")
        shared.http.binary_produce(
            shared.url(leader), [BatchToAppend(topic, 0, memoryview(batch))]
        ).expect(200)
        [received] = fetched(fetch(shared, topic, 2).expect(200))[0].batches
        assert read_header(received).base_offset == 0

    def test_acks_0_answers_without_an_offset(self, shared, topic):
        answer = shared.http.binary_produce(
            shared.url(shared.leader(topic)),
            [BatchToAppend(topic, 0, memoryview(batch_of(b"x")))],
            acks=0,
        )
        assert produced(answer.expect(200))[0].base_offset == -1
        eventually(lambda: shared.offset(topic).document["offset"] == 1)

    @pytest.mark.parametrize(
        ("options", "named"),
        [({"acks": 2}, "acks"), ({"timeout_ms": 0}, "timeout_ms"), ({"timeout_ms": 10**9}, "time")],
    )
    def test_wrong_options_are_refused(self, shared, topic, options, named):
        answer = shared.http.binary_produce(
            shared.url(shared.leader(topic)),
            [BatchToAppend(topic, 0, memoryview(batch_of(b"x")))],
            **options,
        )
        problem = answer.expect(422).document
        assert named in problem["detail"]
        assert problem["outcome"] == "not_applied"

    def test_clients_may_not_claim_an_idempotency_column(self, shared, topic):
        batch = BatchToAppend(topic, 0, memoryview(batch_of(b"x")), idempotency=bytes(32))
        answer = shared.http.binary_produce(shared.url(shared.leader(topic)), [batch])
        assert "idempotency" in answer.expect(422).document["detail"]

    def test_the_topic_id_of_a_namesake_is_refused(self, shared, topic):
        batch = BatchToAppend(topic, 0, memoryview(batch_of(b"x")), topic_id="0" * 32)
        answer = shared.http.binary_produce(shared.url(shared.leader(topic)), [batch])
        problem = answer.expect(404).document
        assert (problem["code"], problem["retriable"]) == ("UNKNOWN_TOPIC_ID", True)
        right = shared.describe(topic)["topic_id"]
        batch = BatchToAppend(topic, 0, memoryview(batch_of(b"x")), topic_id=right)
        shared.http.binary_produce(shared.url(shared.leader(topic)), [batch]).expect(200)


class TestRouting:
    def test_a_follower_answers_421_with_the_leader_and_its_url(self, shared, topic):
        leader = shared.leader(topic)
        for follower in shared.others(leader):
            eventually(lambda follower=follower: shared.local_records(follower, topic))
            for answer in (
                shared.http.binary_produce(
                    shared.url(follower), [BatchToAppend(topic, 0, memoryview(batch_of(b"x")))]
                ),
                fetch(shared, topic, to=follower),
            ):
                problem = answer.expect(421).document
                assert problem["code"] == "NOT_LEADER_OR_FOLLOWER"
                assert problem["retriable"] is True
                assert problem["leader"] == leader
                assert problem["leader_url"] == shared.url(leader)
                assert problem["leader_epoch"] == 0
        assert shared.offset(topic).document["offset"] == 0

    def test_a_broker_without_a_replica_answers_421_too(self, shared, topic):
        name = f"{topic}-one"
        shared.create_topic(name, partitions=1, replication_factor=1)
        shared.wait_led(name)
        leader = shared.leader(name)
        answer = fetch(shared, name, to=shared.others(leader)[0])
        problem = answer.expect(421).document
        assert (problem["leader"], problem["leader_url"]) == (leader, shared.url(leader))

    def test_leader_epochs_fence(self, shared, topic):
        answer = fetch(shared, topic, leader_epoch=7).expect(409)
        assert answer.code == "UNKNOWN_LEADER_EPOCH"
        assert answer.document["leader_epoch"] == 0
        fetch(shared, topic, leader_epoch=0, max_wait_ms=0).expect(200)

    def test_some_partitions_here_and_some_elsewhere_are_207(self, shared, topic):
        name = f"{topic}-wide"
        shared.create_topic(name, partitions=3)
        shared.wait_led(name, partitions=3)
        leader = shared.leader(name, 0)
        wanted = [PartitionToFetch(name, p, 0) for p in (0, 1, 2)]
        started_s = time.monotonic()
        answer = shared.http.binary_fetch(shared.url(leader), wanted, max_wait_ms=20_000)
        found = fetched(answer.expect(207))
        assert time.monotonic() - started_s < 10
        assert found[0].error is None
        for other in found[1:]:
            assert other.error["code"] == "NOT_LEADER_OR_FOLLOWER"
            assert other.error["leader_url"] == shared.url(shared.leader(name, other.partition))

    def test_unknown_topics_and_offsets_out_of_range(self, shared, topic):
        answer = shared.http.binary_fetch(shared.any_url(), [PartitionToFetch("absent", 0, 0)])
        assert answer.expect(404).code == "UNKNOWN_TOPIC_OR_PARTITION"
        problem = fetch(shared, topic, 5).expect(416).document
        assert (problem["log_start_offset"], problem["log_end_offset"]) == (0, 0)


class TestLongPoll:
    def test_a_parked_fetch_returns_with_the_record_at_once(self, shared, topic):
        leader = shared.leader(topic)
        with ThreadPoolExecutor(1) as threads:
            parked = threads.submit(fetch, shared, topic, to=leader, max_wait_ms=20_000)
            shared.wait_parked(leader)
            started_s = time.monotonic()
            shared.append(topic, "x")
            [partition] = fetched(parked.result(10).expect(200))
        assert time.monotonic() - started_s < 10
        assert values_of(partition.batches) == [b'"x"']
        assert partition.high_watermark == 1

    def test_a_fetch_without_news_waits_its_time(self, shared, topic):
        started_s = time.monotonic()
        [partition] = fetched(fetch(shared, topic, max_wait_ms=300).expect(200))
        assert 0.28 <= time.monotonic() - started_s < 10
        assert (partition.batches, partition.high_watermark) == ([], 0)

    def test_max_bytes_bounds_the_answer_but_gives_one_batch(self, shared, topic):
        leader = shared.leader(topic)
        batches = [BatchToAppend(topic, 0, memoryview(batch_of(b"x" * 1000))) for _ in range(10)]
        shared.http.binary_produce(shared.url(leader), batches).expect(200)
        for max_bytes, count in ((1, 1), (2500, 2), (1 << 20, 10)):
            [partition] = fetched(fetch(shared, topic, to=leader, max_bytes=max_bytes).expect(200))
            assert len(partition.batches) == count


class TestIdempotentProducer:
    """KIP-98: a producer numbers its records, and a number is stored once."""

    def test_a_repeat_returns_the_original_offsets(self, shared, topic):
        producer = BinaryProducer(shared, topic, producer_id=7)
        assert producer.append(0, b"a", b"b").base_offset == 0
        assert producer.append(2, b"c").base_offset == 2
        for sequence, values, offset in ((0, (b"a", b"b"), 0), (2, (b"c",), 2)):
            repeated = producer.append(sequence, *values)
            assert (repeated.base_offset, repeated.duplicate) == (offset, True)
            assert repeated.count == len(values)
        assert producer.append(3, b"d").base_offset == 3
        assert shared.offset(topic).document["offset"] == 4

    def test_a_gap_is_refused_with_the_expected_sequence(self, shared, topic):
        producer = BinaryProducer(shared, topic, producer_id=7)
        producer.append(0, b"a")
        problem = producer.send(2, b"c").expect(409).document
        assert problem["code"] == "OUT_OF_ORDER_SEQUENCE_NUMBER"
        assert problem["expected_sequence"] == 1
        assert problem["outcome"] == "not_applied"
        assert producer.append(1, b"b").base_offset == 1

    def test_an_old_epoch_is_refused(self, shared, topic):
        producer = BinaryProducer(shared, topic, producer_id=7, producer_epoch=3)
        producer.append(0, b"a")
        producer.append(0, b"b", epoch=4)
        problem = producer.send(1, b"c", epoch=3).expect(409).document
        assert (problem["code"], problem["producer_epoch"]) == ("INVALID_PRODUCER_EPOCH", 4)
        problem = producer.send(5, b"c", epoch=5).expect(409).document
        assert (problem["code"], problem["expected_sequence"]) == (
            "OUT_OF_ORDER_SEQUENCE_NUMBER", 0,
        )  # fmt: skip

    def test_older_than_the_last_five_is_told_so(self, shared, topic):
        producer = BinaryProducer(shared, topic, producer_id=7)
        for sequence in range(7):
            producer.append(sequence, b"x")
        assert producer.send(0, b"x").expect(409).code == "DUPLICATE_SEQUENCE_NUMBER"
        assert producer.append(2, b"x").duplicate
        assert shared.offset(topic).document["offset"] == 7

    def test_partitions_and_producers_are_apart(self, shared, topic):
        first = BinaryProducer(shared, topic, producer_id=1)
        second = BinaryProducer(shared, topic, producer_id=2)
        assert first.append(0, b"1").base_offset == 0
        assert second.append(0, b"2").base_offset == 1
        assert first.append(1, b"1").base_offset == 2

    def test_repeats_at_the_same_moment_are_stored_once(self, shared, topic):
        producer = BinaryProducer(shared, topic, producer_id=7)
        with ThreadPoolExecutor(8) as threads:
            results = list(threads.map(lambda _: producer.append(0, b"once"), range(8)))
        assert {result.base_offset for result in results} == {0}
        assert sorted(result.duplicate for result in results) == [False] + [True] * 7
        assert shared.offset(topic).document["offset"] == 1


def check_memory(producer, *, next_sequence, offset_of):
    """That a leader, whoever it is by now, remembers what the producer sent before."""
    last = next_sequence - 1
    repeated = producer.append(last, b"%d" % last)
    assert (repeated.base_offset, repeated.duplicate) == (offset_of[last], True)

    def refused(*arguments, **options):
        """The refusal, once enough replicas are in sync to judge what is new."""
        return eventually(lambda: producer.send(*arguments, **options).expect(409))

    problem = refused(next_sequence + 3, b"gap").document
    assert (problem["code"], problem["expected_sequence"]) == (
        "OUT_OF_ORDER_SEQUENCE_NUMBER", next_sequence,
    )  # fmt: skip
    assert refused(0, b"old", epoch=0).code == "INVALID_PRODUCER_EPOCH"


def test_the_producers_state_survives_failover_and_restarts(start_cluster):
    client = start_cluster()
    client.create_topic("t", partitions=1)
    client.wait_led("t")
    producer = BinaryProducer(client, "t", producer_id=9, producer_epoch=1)
    offset_of = {}

    def send_next():
        sequence = len(offset_of)
        offset_of[sequence] = producer.append(sequence, b"%d" % sequence).base_offset

    for _ in range(7):
        send_next()

    first = client.leader("t")
    epoch_before = client.partition("t")["leader_epoch"]
    client.cluster.broker(first).kill()
    survivor = client.live_node_ids[0]
    eventually(lambda: client.leader("t", via=survivor) != first)
    check_memory(producer, next_sequence=7, offset_of=offset_of)
    send_next()
    fenced = fetch(client, "t", leader_epoch=epoch_before).expect(409)
    assert fenced.code == "FENCED_LEADER_EPOCH"
    assert fenced.document["leader_epoch"] > epoch_before

    client.cluster.broker(first).start()
    client.cluster.wait_ready()
    client.wait_isr("t", 3)
    client.cluster.kill()
    client.cluster.start()
    client.cluster.wait_ready()
    client.wait_led("t")
    check_memory(producer, next_sequence=8, offset_of=offset_of)
    send_next()

    client.wait_isr("t", 3)
    assert set(client.cluster.stop(timeout_s=20).values()) == {0}
    client.cluster.start()
    client.cluster.wait_ready()
    client.wait_led("t")
    check_memory(producer, next_sequence=9, offset_of=offset_of)
    send_next()
    assert offset_of == {sequence: sequence for sequence in range(10)}
    values = [
        bytes(value) for value in values_of(fetched(fetch(client, "t").expect(200))[0].batches)
    ]
    assert values == [b"%d" % sequence for sequence in range(10)]
