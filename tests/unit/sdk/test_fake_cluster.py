"""The fake cluster over its transports, as clients see it."""

import asyncio

import msgspec
import pytest

from ottla._transport import BrokerUnreachableError
from ottla.testing import FakeCluster, FakeRecord
from ottla_protocol import routes
from ottla_protocol.errors import (
    InvalidPartitionsError,
    InvalidReplicationFactorError,
    InvalidRequestError,
    InvalidTopicError,
    NotEnoughReplicasError,
    OffsetOutOfRangeError,
    OttlaError,
    Outcome,
    PolicyViolationError,
    PreferredLeaderNotAvailableError,
    TopicAlreadyExistsError,
    UnknownTopicOrPartitionError,
    error_from_problem,
)
from ottla_protocol.models import (
    BatchToAppend,
    BinaryFetchRequest,
    BinaryFetchResponse,
    BinaryProduceRequest,
    BinaryProduceResponse,
    MetadataResponse,
    PartitionToFetch,
    ProducerIdentity,
)
from ottla_protocol.record_codec import RecordData, decode_batch, encode_batch


@pytest.fixture
def cluster():
    made = FakeCluster()
    made.create_topic("flights", partitions=3)
    return made


def batch(*values, **numbers):
    return encode_batch([RecordData(5, b"k", value, (("h", b"1"),)) for value in values], **numbers)


class Client:
    """Binary calls to the broker of a node id."""

    def __init__(self, cluster):
        self.cluster = cluster
        self.transport = cluster.transport()

    def url(self, node_id):
        return self.cluster.bootstrap_servers[node_id - 1]

    async def post(self, node_id, path, body, timeout_ms=1000):
        return await self.transport.post(self.url(node_id), path, body, timeout_ms=timeout_ms)

    async def produce(self, node_id, *batches, acks=-1):
        sent = [BatchToAppend("flights", number, memoryview(data)) for number, data in batches]
        body = msgspec.msgpack.encode(BinaryProduceRequest(sent, acks))
        response = await self.post(node_id, routes.PRODUCE, body)
        if response.content_type == routes.PROBLEM_JSON:
            error = error_from_problem(msgspec.json.decode(response.body))
            assert error.status == response.status
            raise error
        return response.status, msgspec.msgpack.decode(
            response.body, type=BinaryProduceResponse
        ).results

    async def fetch(self, node_id, partition, offset):
        wanted = BinaryFetchRequest([PartitionToFetch("flights", partition, offset)])
        response = await self.post(node_id, routes.FETCH, msgspec.msgpack.encode(wanted))
        assert response.status == 200
        [result] = msgspec.msgpack.decode(response.body, type=BinaryFetchResponse).partitions
        return result


@pytest.fixture
def client(cluster):
    return Client(cluster)


async def test_metadata_leads_to_the_leaders(cluster, client):
    response = await client.transport.get(
        client.url(1), f"{routes.METADATA}?topics=flights", timeout_ms=1000
    )
    metadata = msgspec.json.decode(response.body, type=MetadataResponse)
    assert [broker.url for broker in metadata.brokers] == list(cluster.bootstrap_servers)
    [topic] = metadata.topics
    assert [each.leader for each in topic.partitions] == [1, 2, 3]


async def test_what_is_produced_is_read_back(cluster, client):
    status, [first] = await client.produce(1, (0, batch(b"a", b"b")))
    assert (status, first.base_offset, first.count, first.timestamp) == (200, 0, 2, 5)
    await client.produce(1, (0, batch(b"c")))
    await client.produce(2, (1, batch(b"d")))
    assert [(each.partition, each.offset, each.value) for each in cluster.records("flights")] == [
        (0, 0, b"a"),
        (0, 1, b"b"),
        (0, 2, b"c"),
        (1, 0, b"d"),
    ]
    assert cluster.records("flights", 1) == [
        FakeRecord("flights", 1, 0, 5, b"k", b"d", (("h", b"1"),))
    ]
    fetched = await client.fetch(1, 0, 2)
    assert fetched.high_watermark == 3
    assert [
        record.value
        for each in fetched.batches
        for record in decode_batch(each, max_inflated_bytes=1000)
    ] == [b"c"]


async def test_several_batches_of_one_partition_are_appended_in_order(cluster, client):
    sent = [(0, batch(b"a", producer_id=1, producer_epoch=0, base_sequence=0))]
    sent += [(0, batch(b"b", producer_id=1, producer_epoch=0, base_sequence=1))]
    _, results = await client.produce(1, *sent)
    assert [result.base_offset for result in results] == [0, 1]
    _, results = await client.produce(1, *sent)
    assert [(result.base_offset, result.duplicate) for result in results] == [(0, True), (1, True)]
    assert len(cluster.records("flights")) == 2


async def test_without_acks_no_offset_is_told(cluster, client):
    _, [result] = await client.produce(1, (0, batch(b"a")), acks=0)
    assert (result.base_offset, result.timestamp, result.error) == (-1, -1, None)
    assert len(cluster.records("flights")) == 1


async def test_another_broker_names_the_leader(cluster, client):
    with pytest.raises(OttlaError) as caught:
        await client.produce(1, (1, batch(b"a")))
    assert (caught.value.code, caught.value.outcome) == (
        "NOT_LEADER_OR_FOLLOWER",
        Outcome.NOT_APPLIED,
    )
    assert caught.value.members == {
        "leader": 2,
        "leader_epoch": 0,
        "leader_url": cluster.bootstrap_servers[1],
    }


async def test_batches_fail_one_by_one(client):
    status, [good, bad] = await client.produce(1, (0, batch(b"a")), (9, batch(b"b")))
    assert status == 207
    assert good.base_offset == 0
    assert (bad.error["code"], bad.error["outcome"]) == (
        "UNKNOWN_TOPIC_OR_PARTITION",
        "not_applied",
    )


async def test_every_producer_id_is_another(client):
    found = set()
    for node_id in (1, 2, 3, 1):
        response = await client.post(node_id, routes.PRODUCER_IDS, b"{}")
        identity = msgspec.json.decode(response.body, type=ProducerIdentity)
        assert identity.producer_epoch == 0
        found.add(identity.producer_id)
    assert len(found) == 4


async def test_a_stopped_broker_refuses_and_another_leads(cluster, client):
    cluster.stop_broker(1)
    with pytest.raises(BrokerUnreachableError) as caught:
        await client.produce(1, (0, batch(b"a")))
    assert (caught.value.refused, caught.value.outcome) == (True, Outcome.NOT_APPLIED)
    [first, *_] = cluster.admin().describe_topic("flights").partitions
    assert (first.leader, first.leader_epoch) == (2, 1)
    await client.produce(2, (0, batch(b"a")))
    for node_id in (2, 3):
        cluster.stop_broker(node_id)
    cluster.start_broker(3)
    leaders = [each.leader for each in cluster.admin().describe_topic("flights").partitions]
    assert leaders == [3, 3, 3]


async def test_a_topic_made_while_a_broker_is_down_is_led_by_another(cluster):
    cluster.stop_broker(1)
    made = cluster.create_topic("trains", partitions=3)
    assert 1 not in [each.leader for each in made.partitions]


async def test_a_moved_leader_is_told_by_the_old_one(cluster, client):
    cluster.move_leader("flights", 0, 3)
    with pytest.raises(OttlaError) as caught:
        await client.produce(1, (0, batch(b"a")))
    assert caught.value.members["leader"] == 3


class TestFaults:
    async def test_a_broker_answers_what_it_is_told(self, cluster, client):
        cluster.fail(NotEnoughReplicasError("one is in sync"), times=2)
        for _ in range(2):
            with pytest.raises(NotEnoughReplicasError) as caught:
                await client.produce(1, (0, batch(b"a")))
            assert caught.value.outcome is Outcome.NOT_APPLIED
        await client.produce(1, (0, batch(b"a")))
        assert len(cluster.records("flights")) == 1

    async def test_a_connection_is_cut_before_or_after_the_append(self, cluster, client):
        for after_append, stored in ((False, 0), (True, 1)):
            cluster.fail(after_append=after_append)
            with pytest.raises(BrokerUnreachableError) as caught:
                await client.produce(1, (0, batch(b"a")))
            assert caught.value.outcome is Outcome.UNKNOWN
            assert len(cluster.records("flights")) == stored

    async def test_only_the_requests_that_are_meant(self, cluster, client):
        cluster.fail(node_id=2)
        cluster.fail(path=routes.FETCH)
        cluster.fail(path=routes.TOPICS)
        assert (await client.post(2, routes.PRODUCER_IDS, b"{}")).status == 200
        await client.produce(1, (0, batch(b"a")))
        with pytest.raises(BrokerUnreachableError):
            await client.produce(2, (1, batch(b"a")))
        with pytest.raises(BrokerUnreachableError):
            await client.fetch(1, 0, 0)
        with pytest.raises(BrokerUnreachableError):
            await client.transport.get(client.url(1), "/v1/topics/flights?a=b", timeout_ms=1000)

    async def test_a_slow_broker_misses_the_deadline(self, cluster, client):
        cluster.delay_ms = 20
        with pytest.raises(BrokerUnreachableError, match="within 5 ms"):
            await client.post(1, routes.PRODUCER_IDS, b"{}", timeout_ms=5)

    async def test_requests_are_kept(self, cluster, client):
        await client.post(2, routes.PRODUCER_IDS, b"{}")
        assert cluster.requests[-1] == (2, "POST", "/v1/producer-ids", b"{}")

    @pytest.mark.parametrize(
        ("path", "body", "code"),
        [
            (routes.PRODUCE, b"\xc1", "MALFORMED_BODY"),
            (routes.PRODUCE, b"\x80", "INVALID_REQUEST"),
            (routes.PRODUCER_IDS, b"{", "MALFORMED_BODY"),
            (routes.PRODUCER_IDS, b'{"x": 1}', "INVALID_REQUEST"),
            ("/v1/nothing", b"", "RESOURCE_NOT_FOUND"),
        ],
    )
    async def test_wrong_requests_are_problems(self, client, path, body, code):
        response = await client.post(1, path, body)
        problem = msgspec.json.decode(response.body)
        assert (problem["code"], problem["outcome"]) == (code, "not_applied")


class TestAdmin:
    def test_topics_from_creation_to_deletion(self, cluster):
        with cluster.admin() as admin:
            made = admin.create_topic("trains", 2, 1, {"retention.ms": 5})
            assert (len(made.partitions), made.configs) == (2, {"retention.ms": 5})
            assert admin.describe_topic("trains") == made
            assert [topic.name for topic in admin.list_topics()] == ["flights", "trains"]
            assert len(admin.add_partitions("trains", 4).partitions) == 4
            assert admin.offsets("trains", 3).offset == 0
            admin.delete_topic("trains")
            with pytest.raises(UnknownTopicOrPartitionError):
                admin.describe_topic("trains")

    def test_what_was_trimmed_is_read_no_more(self, cluster):
        with cluster.producer() as producer:
            for _ in range(2):
                producer.send_many("flights", [b"one", b"two", b"three"], partition=0)
                producer.flush()
        admin = cluster.admin()
        told = admin.delete_records("flights", 0, before_offset=4, dry_run=True)
        assert (told.records, told.log_start_offset, told.dry_run) == (4, 4, True)
        assert admin.offsets("flights", 0, "earliest").offset == 0
        for _ in range(2):
            assert admin.delete_records("flights", 0, before_offset=4).log_start_offset == 4
        assert admin.delete_records("flights", 0, before_offset=2).records == 0
        assert admin.offsets("flights", 0, "earliest").offset == 4
        assert [record.offset for record in cluster.records("flights", 0)] == [4, 5]
        with cluster.consumer(auto_offset_reset="earliest") as consumer:
            consumer.assign([("flights", 0)])
            (found,) = consumer.poll(timeout=5).values()
            assert [record.offset for record in found] == [4, 5]
        with pytest.raises(OffsetOutOfRangeError):
            admin.delete_records("flights", 0, before_offset=7)
        with pytest.raises(InvalidRequestError):
            admin.delete_records("flights", 0)
        assert admin.delete_records("flights", 0, before_end=True).log_start_offset == 6
        assert cluster.records("flights", 0) == []

    @pytest.mark.parametrize(
        ("arguments", "named", "told"),
        [
            (({("flights", 0): 4},), {}, "the number of one partition, and one of before_offset="),
            (("flights", 0, 4), {}, "the number of one partition, and one of before_offset="),
            (("flights", 0), {"offset": 4}, "unexpected keyword argument 'offset'"),
            (("flights", {0: 4}), {}, "partition must be a whole number from 0 on"),
            (("flights", "0"), {"before_offset": 4}, "partition must be a whole number from 0 on"),
            (("flights", -1), {"before_offset": 4}, "partition must be a whole number from 0 on"),
            (("flights", 0), {"before_offset": {"offset": 4}}, "before_offset"),
            (("flights", 0), {"before_offset": object()}, "has no JSON"),
        ],
    )
    async def test_arguments_of_another_shape_are_told_what_is_taken(
        self, cluster, arguments, named, told
    ):
        with pytest.raises(InvalidRequestError, match=told):
            cluster.admin().delete_records(*arguments, **named)
        with pytest.raises(InvalidRequestError, match=told):
            await cluster.async_admin().delete_records(*arguments, **named)

    @pytest.mark.parametrize(
        ("arguments", "named", "told"),
        [
            (({("flights", 0): "latest"},), {}, "the number of one partition, and at='earliest'"),
            ((("flights", 0),), {}, "missing a required argument: 'partition'"),
            (("flights", 0), {"timestamp": 4}, "unexpected keyword argument 'timestamp'"),
            (("flights", "0"), {}, "partition must be a whole number from 0 on"),
            (("flights", 0), {"at": None}, "at must be latest, earliest or a timestamp"),
        ],
    )
    async def test_offsets_are_asked_for_one_partition_at_a_time(
        self, cluster, arguments, named, told
    ):
        with pytest.raises(InvalidRequestError, match=told):
            cluster.admin().offsets(*arguments, **named)
        with pytest.raises(InvalidRequestError, match=told):
            await cluster.async_admin().offsets(*arguments, **named)

    @pytest.mark.parametrize(
        ("call", "told"),
        [
            (lambda admin: admin.create_topic("x", configs=["a"]), "configs must be a mapping"),
            (lambda admin: admin.create_topic("x", configs="a=b"), "configs must be a mapping"),
            (
                lambda admin: admin.create_topic("x", partitions="3"),
                "partitions must be a whole number or null, not text",
            ),
            (lambda admin: admin.alter_configs("flights", "a=b"), "configs must be a mapping"),
            (lambda admin: admin.elect_leaders("flights"), "partitions must be several"),
            (lambda admin: admin.elect_leaders(5), "partitions must be several"),
            (lambda admin: admin.elect_leaders(["flights"]), "a partition is TopicPartition"),
            (lambda admin: admin.elect_leaders([("flights", "0")]), "a partition is TopicPart"),
            (lambda admin: admin.reassign_partitions([("flights", 0)]), "replicas must be a map"),
            (lambda admin: admin.reassign_partitions({"flights": [1]}), "a partition is TopicPart"),
            (lambda admin: admin.reassign_partitions({("flights", 0): 1}), "must be node ids"),
            (lambda admin: admin.reassign_partitions({("flights", 0): "1"}), "must be node ids"),
        ],
    )
    def test_arguments_that_are_of_another_shape_are_told_the_rule(self, cluster, call, told):
        with pytest.raises(InvalidRequestError, match=told):
            call(cluster.admin())

    def test_only_topics_whose_records_may_go_are_trimmed(self, cluster):
        cluster.create_topic("table", 1, configs={"cleanup.policy": "compact"})
        with pytest.raises(PolicyViolationError):
            cluster.admin().delete_records("table", 0, before_end=True)

    def test_the_cluster(self, cluster):
        admin = cluster.admin()
        cluster.stop_broker(1)
        described = admin.cluster()
        assert (described.controller, described.topics, described.partitions) == (2, 1, 3)
        assert [broker.state for broker in admin.brokers()] == ["fenced", "active", "active"]

    def test_validation_makes_nothing(self, cluster):
        admin = cluster.admin()
        assert len(admin.create_topic("trains", 2, validate_only=True).partitions) == 2
        assert [topic.name for topic in admin.list_topics()] == ["flights"]

    @pytest.mark.parametrize(
        ("arguments", "error"),
        [
            (("flights",), TopicAlreadyExistsError),
            (("a b",), InvalidTopicError),
            (("trains", 0), InvalidPartitionsError),
            (("trains", 1, 4), InvalidReplicationFactorError),
        ],
    )
    def test_rules(self, cluster, arguments, error):
        with pytest.raises(error) as caught:
            cluster.create_topic(*arguments)
        assert caught.value.outcome is Outcome.NOT_APPLIED

    def test_partitions_are_only_added(self, cluster):
        with pytest.raises(InvalidPartitionsError):
            cluster.admin().add_partitions("flights", 3)

    def test_configs(self, cluster):
        admin = cluster.admin()
        admin.alter_configs("flights", {"retention.ms": 5, "segment.bytes": 6})
        configs = admin.alter_configs("flights", {"segment.bytes": None})
        assert {name: each.value for name, each in configs.items()} == {"retention.ms": 5}
        assert admin.describe_configs("flights") == configs

    def test_elections(self, cluster):
        admin = cluster.admin()
        cluster.move_leader("flights", 0, 2)
        cluster.move_leader("flights", 1, 1)
        [first] = admin.elect_leaders([("flights", 0)])
        assert (first.topic, first.partition, first.leader, first.elected) == (
            "flights",
            0,
            1,
            True,
        )
        [again] = admin.elect_leaders([("flights", 0)])
        assert (again.leader, again.elected, again.error) == (1, False, None)
        assert [each.partition for each in admin.elect_leaders()] == [1]
        cluster.stop_broker(1)
        with pytest.raises(PreferredLeaderNotAvailableError):
            admin.elect_leaders()
        results = admin.elect_leaders([("flights", 0), ("flights", 1)])
        assert [None if each.error is None else each.error["code"] for each in results] == [
            "PREFERRED_LEADER_NOT_AVAILABLE",
            None,
        ]

    def test_unclean_elections(self, cluster):
        admin = cluster.admin()
        leader = admin.describe_topic("flights").partitions[0].leader
        [led] = admin.elect_leaders([("flights", 0)], "unclean")
        assert (led.leader, led.elected, led.error) == (leader, False, None)
        assert admin.elect_leaders(type="unclean") == []

    def test_reassignments(self, cluster):
        admin = cluster.admin()
        results = admin.reassign_partitions(
            {("flights", 0): [3, 2], ("flights", 1): None, ("flights", 2): [4]}
        )
        assert [None if each.error is None else each.error["code"] for each in results] == [
            None,
            "NO_REASSIGNMENT_IN_PROGRESS",
            "INVALID_REPLICA_ASSIGNMENT",
        ]
        [first, *_] = admin.describe_topic("flights").partitions
        assert (first.replicas, first.leader) == ([3, 2], 3)
        assert admin.list_reassignments() == []

    def test_a_throttle_stays_until_it_is_taken_away(self, cluster):
        admin = cluster.admin()
        assert admin.describe_reassignment_throttle() is None
        admin.alter_reassignment_throttle(20_000_000)
        admin.reassign_partitions({("flights", 0): [3, 2]})
        assert admin.describe_reassignment_throttle() == 20_000_000
        admin.alter_reassignment_throttle(None)
        assert admin.describe_reassignment_throttle() is None

    async def test_asyncio(self, cluster):
        async with cluster.async_admin() as admin:
            topics, described = await asyncio.gather(admin.list_topics(), admin.cluster())
        assert [topic.name for topic in topics] == ["flights"]
        assert described.cluster_id == "fake"
