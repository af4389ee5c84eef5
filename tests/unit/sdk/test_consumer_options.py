"""Each option of the consumer, by what it changes for the brokers or the caller."""

import asyncio
import dataclasses
import json
import threading
import time
from itertools import pairwise
from typing import get_type_hints

import msgspec
import pytest

from ottla import ClusterUnreachableError, Consumer, NoOffsetForPartitionError, TopicPartition
from ottla._consumer_config import MAX_FETCH_BYTES, ConsumerConfig, ConsumerOptions
from ottla._deserializers import deserialize_bytes
from ottla._errors import ConfigError
from ottla._transport import BrokerUnreachableError
from ottla.testing import FakeCluster, FakeTransport
from ottla_protocol import routes
from ottla_protocol.errors import LeaderNotAvailableError
from ottla_protocol.models import BinaryFetchRequest
from tests.cluster.awaiting import eventually

WAIT_S = 20
SERVER = {"bootstrap_servers": "127.0.0.1:7101"}
A = TopicPartition("t", 0)


@pytest.fixture
def cluster():
    made = FakeCluster()
    made.create_topic("t", partitions=1)
    return made


class WatchingTransport(FakeTransport):
    """Notes what it is asked, and how long it may take; answers nothing while told so."""

    def __init__(self, cluster):
        super().__init__(cluster)
        self.asked = []
        self.is_cut = False

    async def request(self, method, url, path, body, *, timeout_ms):
        self.asked.append((time.monotonic(), path, body, timeout_ms))
        if self.is_cut:
            await asyncio.sleep(timeout_ms / 1000)
            raise BrokerUnreachableError(f"{url}: no answer within {timeout_ms} ms")
        return await super().request(method, url, path, body, timeout_ms=timeout_ms)

    def to(self, path):
        return [each for each in self.asked if each[1].partition("?")[0] == path]


@pytest.fixture
def transport(cluster):
    return WatchingTransport(cluster)


@pytest.fixture
def consume(cluster, transport):
    made = []

    def consume(*topics, **options):
        options = {"auto_offset_reset": "earliest", **options}
        consumer = Consumer(
            *topics, bootstrap_servers=cluster.bootstrap_servers, transport=transport, **options
        )
        made.append(consumer)
        return consumer

    yield consume
    for consumer in made:
        consumer.close(timeout=1)


def fill(cluster, count, size=10):
    with cluster.producer() as producer:
        producer.send_many("t", [b"v" * size] * count, partition=0)
        producer.flush(WAIT_S)


def fetch_request(consumer, transport):
    """The first fetch of a consumer, as the broker gets it."""
    consumer.assign([A])
    eventually(lambda: transport.to(routes.FETCH))
    _, _, body, timeout_ms = transport.to(routes.FETCH)[0]
    return msgspec.msgpack.decode(body, type=BinaryFetchRequest), timeout_ms


def join_request(consumer, transport, cluster):
    """The join of a consumer, as the broker gets it."""
    consumer.subscribe("t")

    def joined():
        consumer.poll(0.02)
        return consumer.assignment()

    eventually(joined, WAIT_S)
    _, _, body, _ = transport.to("/v1/groups/g/members")[0]
    return json.loads(body)


class TestConfig:
    def test_defaults_are_kafka_s(self):
        config = ConsumerConfig.from_options(SERVER)
        assert dataclasses.asdict(config) == {
            "bootstrap_servers": ("http://127.0.0.1:7101",),
            "group_id": None,
            "group_instance_id": None,
            "client_id": "ottla-consumer",
            "client_rack": "",
            "key_deserializer": deserialize_bytes,
            "value_deserializer": deserialize_bytes,
            "interceptors": (),
            "auto_offset_reset": "latest",
            "enable_auto_commit": False,  # There is no group.
            "auto_commit_interval_ms": 5_000,
            "max_poll_records": 500,
            "max_poll_interval_ms": 300_000,
            "session_timeout_ms": 45_000,
            "rebalance_timeout_ms": None,
            "assignor": None,
            "fetch_min_bytes": 1,
            "fetch_max_wait_ms": 500,
            "fetch_max_bytes": MAX_FETCH_BYTES,
            "max_partition_fetch_bytes": 1 << 20,
            "isolation_level": "read_uncommitted",
            "consumer_timeout_ms": None,
            "request_timeout_ms": 30_000,
            "default_api_timeout_ms": 60_000,
            "metadata_max_age_ms": 300_000,
            "retry_backoff_ms": 100,
            "retry_backoff_max_ms": 1_000,
        }
        assert ConsumerConfig.from_options({**SERVER, "group_id": "g"}).enable_auto_commit

    def test_the_keywords_for_type_checkers_are_the_options(self):
        fields = {field.name for field in dataclasses.fields(ConsumerConfig)}
        assert set(get_type_hints(ConsumerOptions)) == fields - {"bootstrap_servers"}

    @pytest.mark.parametrize(
        ("spelled", "keyword", "value"),
        [
            ("partition.assignment.strategy", "assignor", "sticky"),
            ("fetch.max.wait.ms", "fetch_max_wait_ms", 7),
            ("max.partition.fetch.bytes", "max_partition_fetch_bytes", 7),
            ("isolation.level", "isolation_level", "read_committed"),
            ("client.rack", "client_rack", "a"),
        ],
    )
    def test_kafka_s_spelling_is_taken(self, spelled, keyword, value):
        for name in (spelled, keyword):
            config = ConsumerConfig.from_options({**SERVER, name: value})
            assert getattr(config, keyword) == value

    @pytest.mark.parametrize("name", ["round-robin", "roundrobin", "round_robin", ["round-robin"]])
    def test_an_assignor_has_one_name_in_every_spelling(self, name):
        assert ConsumerConfig.from_options({**SERVER, "assignor": name}).assignor == "round_robin"

    @pytest.mark.parametrize(
        ("options", "text"),
        [
            ({"max_pol_records": 5}, "did you mean 'max_poll_records'"),
            ({"auto.ofset.reset": "x"}, "did you mean 'auto.offset.reset'"),
            ({"auto_offset_reset": "end"}, "earliest, latest, none"),
            ({"max_poll_records": 0}, "from 1 to"),
            ({"fetch_max_wait_ms": 60_001}, "from 0 to 60000"),
            ({"group_id": ""}, "group_id must be text"),
            ({"enable_auto_commit": True}, "needs a group_id"),
            ({"group_instance_id": "a"}, "needs a group_id"),
            ({"heartbeat_interval_ms": 5}, "coordinator says how often"),
            ({"interceptors": [5]}, "on_consume"),
            ({"value_deserializer": "jsn"}, "value_deserializer"),
        ],
    )
    def test_what_is_wrong_is_refused_by_name(self, options, text):
        with pytest.raises(ConfigError, match=text):
            ConsumerConfig.from_options({**SERVER, **options})

    def test_servers_are_needed(self):
        with pytest.raises(ConfigError, match="bootstrap_servers is missing"):
            ConsumerConfig.from_options({})


class TestFetching:
    def test_what_a_fetch_asks_for(self, consume, transport):
        consumer = consume(
            fetch_min_bytes=7, fetch_max_wait_ms=80, fetch_max_bytes=9_000,
            max_partition_fetch_bytes=8_000, isolation_level="read_committed",
            request_timeout_ms=5_000,
        )  # fmt: skip
        request, timeout_ms = fetch_request(consumer, transport)
        assert (request.min_bytes, request.max_wait_ms, request.max_bytes) == (7, 80, 9_000)
        assert (request.partitions[0].max_bytes, request.isolation) == (8_000, "read_committed")
        assert (request.replica, timeout_ms) == ("leader", 5_080)

    def test_client_rack(self, consume, transport):
        request, _ = fetch_request(consume(client_rack="a"), transport)
        assert request.replica == "any"

    def test_max_poll_records(self, cluster, consume):
        fill(cluster, 10)
        consumer = consume(max_poll_records=3)
        consumer.assign([A])
        assert len(consumer.poll(WAIT_S)[A]) == 3
        assert len(consumer.poll(WAIT_S, max_records=4)[A]) == 4

    def test_deserializers(self, cluster, consume):
        with cluster.producer() as producer:
            producer.send("t", b"[1]", key=b"k", partition=0)
        consumer = consume(key_deserializer="string", value_deserializer="json")
        consumer.assign([A])
        [record] = consumer.poll(WAIT_S)[A]
        assert (record.key, record.value) == ("k", [1])

    def test_auto_offset_reset(self, cluster, consume):
        fill(cluster, 3)
        for reset, position in (("earliest", 0), ("latest", 3)):
            consumer = consume(auto_offset_reset=reset)
            consumer.assign([A])
            assert consumer.position(A, WAIT_S) == position
        consumer = consume(auto_offset_reset="none")
        consumer.assign([A])
        with pytest.raises(NoOffsetForPartitionError):
            consumer.poll(WAIT_S)

    def test_consumer_timeout_ms(self, consume):
        consumer = consume(consumer_timeout_ms=100)
        consumer.assign([A])
        started = time.monotonic()
        assert list(consumer) == []
        assert 0.1 <= time.monotonic() - started < WAIT_S / 2

    def test_metadata_max_age_ms(self, consume, transport):
        consume(metadata_max_age_ms=50).assign([A])
        eventually(lambda: len(transport.to(routes.METADATA)) > 3)

    @pytest.mark.parametrize("error", [None, LeaderNotAvailableError("wait")])
    def test_retry_backoff_ms_and_its_maximum(self, cluster, consume, transport, error):
        consumer = consume(retry_backoff_ms=20, retry_backoff_max_ms=50)
        cluster.fail(error, path=routes.FETCH, times=9)
        consumer.assign([A])
        eventually(lambda: len(transport.to(routes.FETCH)) >= 10)
        times = [each[0] for each in transport.to(routes.FETCH)]
        waits = [later - earlier for earlier, later in pairwise(times[:10])]
        assert waits[0] >= 0.019
        assert waits[1] >= 0.039
        assert min(waits[2:]) >= 0.049
        assert waits[8] < 20 * 2**8 / 1_000, "what it would be without the maximum"

    def test_request_timeout_ms(self, consume, transport):
        consumer = consume(request_timeout_ms=60)
        consumer.assign([A])
        consumer.position(A, WAIT_S)
        assert {each[3] for each in transport.to(routes.METADATA)} == {60}

    def test_default_api_timeout_ms(self, cluster, consume, transport):
        transport.is_cut = True
        consumer = consume(default_api_timeout_ms=120, request_timeout_ms=20)
        consumer.assign([A])
        # Calls tell of it once every broker has failed, as these have when one more is asked.
        eventually(lambda: len(transport.asked) > len(cluster.bootstrap_servers))
        for call in (consumer.poll, lambda: consumer.end_offsets([A])):
            started = time.monotonic()
            with pytest.raises(ClusterUnreachableError):
                call()
            assert time.monotonic() - started < WAIT_S / 2

    def test_interceptors(self, cluster, consume):
        fill(cluster, 4)
        told = []

        class Interceptor:
            def on_consume(self, records):
                return {name: part[1:] for name, part in records.items()}

            def on_commit(self, offsets):
                told.append((offsets[A].offset, threading.current_thread()))

        consumer = consume(
            group_id="g", enable_auto_commit=False, interceptors=[Interceptor()], max_poll_records=2
        )
        consumer.assign([A])
        assert [record.offset for record in consumer.poll(WAIT_S)[A]] == [1]
        assert next(consumer).offset == 3
        consumer.commit()
        assert told == [(4, threading.current_thread())]


class TestGroups:
    def test_what_a_join_tells(self, cluster, consume, transport):
        consumer = consume(
            group_id="g", group_instance_id="one", assignor="sticky", session_timeout_ms=7_000,
            rebalance_timeout_ms=8_000,
        )  # fmt: skip
        told = join_request(consumer, transport, cluster)
        assert (told["topics"], told["instance_id"]) == (["t"], "one")
        assert (told["assignor"], told["session_timeout_ms"]) == ("sticky", 7_000)
        assert told["rebalance_timeout_ms"] == 8_000

    @pytest.mark.parametrize(("interval_ms", "limit_ms"), [(9_000, 9_000), (3_000, 7_000)])
    def test_max_poll_interval_ms_is_the_time_for_rebalances_and_a_session_the_least(
        self, cluster, consume, transport, interval_ms, limit_ms
    ):
        consumer = consume(group_id="g", max_poll_interval_ms=interval_ms, session_timeout_ms=7_000)
        assert join_request(consumer, transport, cluster)["rebalance_timeout_ms"] == limit_ms

    @pytest.mark.parametrize("is_on", [True, False])
    def test_enable_auto_commit(self, cluster, consume, is_on):
        fill(cluster, 2)
        consumer = consume(group_id="g", enable_auto_commit=is_on)
        consumer.assign([A])
        consumer.poll(WAIT_S)
        consumer.poll(0)
        consumer.close()
        assert bool(cluster.committed("g")) is is_on

    def test_auto_commit_interval_ms(self, cluster, consume, transport):
        fill(cluster, 1_000)
        consumer = consume(group_id="g", auto_commit_interval_ms=100, max_poll_records=1)
        consumer.assign([A])
        started_s = time.monotonic()

        def poll_and_count_commits():
            consumer.poll(0.01)
            time.sleep(0.005)
            return sum(bool(each[2]) for each in transport.to("/v1/groups/g/offsets"))

        eventually(lambda: poll_and_count_commits() >= 3)
        assert time.monotonic() - started_s >= 0.2
