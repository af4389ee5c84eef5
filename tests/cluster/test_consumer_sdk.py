"""The consumer on real brokers, reading what it is told to: leaders that die, racks, times."""

import subprocess
import sys
import textwrap
import threading
import time

import pytest

from ottla import Consumer, OffsetOutOfRangeError, Producer, TopicPartition, aio
from ottla_protocol import routes
from tests.cluster.awaiting import eventually
from tests.cluster.test_consumer_groups import urls

pytestmark = pytest.mark.cluster

WAIT_S = 30


def consumer_of(client, **options):
    return Consumer(bootstrap_servers=urls(client), **{"auto_offset_reset": "earliest", **options})


def take(consumer, count):
    """Poll until `count` records came, and once more."""
    records = []
    deadline_s = time.monotonic() + WAIT_S
    while len(records) < count and time.monotonic() < deadline_s:
        for part in consumer.poll(0.5).values():
            records += part
    for part in consumer.poll(0).values():
        records += part
    return records


def offsets(records):
    return [record.offset for record in records]


@pytest.mark.parametrize("compression", ["none", "gzip", "snappy", "lz4", "zstd"])
def test_records_come_whole_under_every_compression(shared, topic, compression):
    with Producer(urls(shared), compression=compression, linger_ms=5) as producer:
        for number in range(2_000):
            producer.send(topic, b"%d" % number, key=b"k", headers=[("h", b"%d" % number)])
    with consumer_of(shared) as consumer:
        consumer.assign([TopicPartition(topic, 0)])
        records = take(consumer, 2_000)
    assert offsets(records) == list(range(2_000))
    assert [record.value for record in records] == [b"%d" % number for number in range(2_000)]
    assert records[7].headers == (("h", b"7"),)


def test_a_waiting_poll_gets_a_record_soon_after_it_is_written(shared, topic):
    name = TopicPartition(topic, 0)
    options = {"fetch_max_wait_ms": 20_000}
    with consumer_of(shared, **options) as consumer, Producer(urls(shared)) as producer:
        consumer.assign([name])
        assert consumer.poll(1.2) == {}
        written = []

        def write():
            producer.send(topic, b"v").get(WAIT_S)
            written.append(time.monotonic())

        threading.Timer(0.2, write).start()
        assert offsets(consumer.poll(WAIT_S)[name]) == [0]
        eventually(lambda: written)
        # Far below fetch_max_wait_ms: the broker answers when there is something.
        assert time.monotonic() - written[0] < 10


async def test_the_same_with_asyncio(shared, topic):
    name = TopicPartition(topic, 0)
    async with aio.Producer(urls(shared)) as producer:
        for number in range(100):
            await producer.send(topic, b"%d" % number)
    # It ends by itself, but not where the machine stands still before the first record.
    options = {"auto_offset_reset": "earliest", "consumer_timeout_ms": 5_000}
    async with aio.Consumer(bootstrap_servers=urls(shared), **options) as consumer:
        consumer.assign([name])
        assert [record.offset async for record in consumer] == list(range(100))
        assert await consumer.end_offsets([name]) == {name: 100}


def test_times_and_ends(shared, topic):
    name = TopicPartition(topic, 0)
    with Producer(urls(shared), batch_size=1) as producer:
        for timestamp in (1_000, 5_000, 3_000, 9_000):
            producer.send(topic, b"v", timestamp=timestamp)
    with consumer_of(shared) as consumer:
        assert consumer.beginning_offsets([name]) == {name: 0}
        assert consumer.end_offsets([name]) == {name: 4}
        found = {at: consumer.offsets_for_times({name: at})[name] for at in (0, 2_000, 6_000)}
        assert {at: (each.offset, each.timestamp) for at, each in found.items()} == {
            0: (0, 1_000),
            2_000: (1, 5_000),
            6_000: (3, 9_000),
        }
        assert consumer.offsets_for_times({name: 9_001}) == {name: None}
        consumer.assign([name])
        consumer.seek(name, found[2_000].offset)
        assert offsets(take(consumer, 3)) == [1, 2, 3]


def test_out_of_range_is_told_or_begins_anew(shared, topic):
    name = TopicPartition(topic, 0)
    with Producer(urls(shared)) as producer:
        producer.send_many(topic, [b"v"] * 3)
    with consumer_of(shared, auto_offset_reset="none") as consumer:
        consumer.assign([name])
        consumer.seek(name, 99)
        with pytest.raises(OffsetOutOfRangeError) as caught:
            consumer.poll(WAIT_S)
        assert caught.value.members["log_end_offset"] == 3
    with consumer_of(shared) as consumer:
        consumer.assign([name])
        consumer.seek(name, 99)
        assert offsets(take(consumer, 3)) == [0, 1, 2]


def test_a_large_record_is_read_whatever_the_limits(shared, topic):
    with Producer(urls(shared), max_request_size=1 << 20) as producer:
        producer.send(topic, b"x" * 900_000).get(WAIT_S)
    with consumer_of(shared, max_partition_fetch_bytes=1, fetch_max_bytes=1) as consumer:
        consumer.assign([TopicPartition(topic, 0)])
        [record] = take(consumer, 1)
    assert len(record.value) == 900_000


def test_reading_goes_on_when_leaders_die(start_cluster):
    client = start_cluster(settings={"OTTLA_SESSION_TIMEOUT_MS": "1000"})
    client.create_topic("t", partitions=3, replication_factor=3)
    client.wait_led("t", partitions=3)
    names = [TopicPartition("t", partition) for partition in range(3)]
    seen = {name: [] for name in names}
    stop = threading.Event()
    acknowledged = []

    def write():
        with Producer(urls(client), delivery_timeout_ms=60_000) as producer:
            while not stop.is_set():
                acknowledged.extend(
                    producer.send(name.topic, b"v", partition=name.partition) for name in names
                )
                stop.wait(0.01)
            producer.flush(WAIT_S)

    writing = threading.Thread(target=write)
    writing.start()

    def read(consumer):
        for name, records in consumer.poll(0.2).items():
            seen[name] += offsets(records)

    try:
        with consumer_of(client) as consumer:
            consumer.assign(names)
            for node_id in (1, 2):
                before = {name: len(seen[name]) for name in names}
                client.cluster.broker(node_id).kill()

                def all_moved(before=before):
                    read(consumer)
                    return all(len(seen[name]) > before[name] for name in names)

                eventually(all_moved, WAIT_S)
                client.cluster.broker(node_id).start()
                client.cluster.broker(node_id).wait_ready()
            stop.set()
            writing.join(WAIT_S)
            ends = dict.fromkeys(names, 0)
            for future in acknowledged:
                metadata = future.get(WAIT_S)
                name = TopicPartition(metadata.topic, metadata.partition)
                ends[name] = max(ends[name], metadata.offset + 1)

            def all_read():
                read(consumer)
                return all(len(seen[name]) >= ends[name] for name in names)

            eventually(all_read, WAIT_S)
    finally:
        stop.set()
        writing.join()
    for name in names:
        assert seen[name] == list(range(len(seen[name]))), name


def test_reading_goes_on_when_a_leader_is_paused(start_cluster):
    client = start_cluster(settings={"OTTLA_SESSION_TIMEOUT_MS": "1000"})
    name = TopicPartition(client.create_topic_led_by(1), 0)
    with (
        consumer_of(client) as consumer,
        Producer(urls(client)[1:], request_timeout_ms=2_000) as producer,
    ):
        consumer.assign([name])
        producer.send(name.topic, b"before").get(WAIT_S)
        assert len(take(consumer, 1)) == 1
        client.cluster.broker(1).pause()
        paused_s = time.monotonic()
        future = producer.send(name.topic, b"after")
        # Far below request_timeout_ms, for which the fetch at the paused broker may be out.
        assert [record.value for record in take(consumer, 1)] == [b"after"]
        assert time.monotonic() - paused_s < 15
        assert future.get(WAIT_S).offset == 1
        client.cluster.broker(1).resume()
        producer.send(name.topic, b"resumed").get(WAIT_S)
        assert [record.value for record in take(consumer, 1)] == [b"resumed"]


def test_a_consumer_reads_from_the_replica_in_its_rack(start_cluster, http):
    client = start_cluster(
        broker_settings={each: {"OTTLA_RACK": f"rack-{each}"} for each in (1, 2, 3)}
    )
    name = TopicPartition(client.create_topic_led_by(1), 0)
    with Producer(urls(client)) as producer:
        producer.send_many(name.topic, [b"v"] * 50).get(WAIT_S)

    def fetches(node_id):
        text = http.get(client.url(node_id) + routes.METRICS).expect(200).body.decode()
        [line] = [
            each
            for each in text.splitlines()
            if each.startswith("ottla_fetched_bytes_total") and 'binary"' in each
        ] or ["x 0"]
        return float(line.split()[-1])

    with consumer_of(client, client_rack="rack-3") as consumer:
        consumer.assign([name])
        assert offsets(take(consumer, 50)) == list(range(50))
        with Producer(urls(client)) as producer:
            producer.send(name.topic, b"v").get(WAIT_S)
        assert offsets(take(consumer, 1)) == [50]
    assert fetches(3) > 0
    assert fetches(1) == fetches(2) == 0


GEVENT_PROGRAM = """
    from gevent import monkey
    monkey.patch_all()
    import gevent, sys
    from ottla import ConcurrentUseError, Consumer, Producer
    url, topic = sys.argv[1:]
    ticks = []
    def tick():
        while True:
            ticks.append(1)
            gevent.sleep(0.001)
    gevent.spawn(tick)
    with Producer(url) as producer, Consumer(
        topic, bootstrap_servers=url, group_id="greenlets", auto_offset_reset="earliest"
    ) as consumer:
        def write():
            for index in range(50):
                producer.send(topic, b"%d" % index).get(timeout=20)
        writing = gevent.spawn(write)
        read = []
        while len(read) < 50:
            for records in consumer.poll(20).values():
                read += [record.offset for record in records]
        writing.get()
        assert read == list(range(50)), read
        polling = gevent.spawn(consumer.poll, 0.5)
        gevent.sleep(0.1)
        try:
            consumer.poll(0)
        except ConcurrentUseError:
            print("refused")
        polling.get()
        consumer.commit()
    assert len(ticks) > 20, len(ticks)
    print("read")
"""


def test_it_works_in_a_program_patched_by_gevent(shared, topic):
    pytest.importorskip("gevent")
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(GEVENT_PROGRAM), shared.any_url(), topic],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == ["refused", "read"]
