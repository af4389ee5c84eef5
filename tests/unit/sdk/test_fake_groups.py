"""The fake cluster's groups keep a coordinator's rules, as far as a member can notice."""

import asyncio
from time import monotonic

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ottla import BrokerUnreachableError
from ottla._consumer_types import OffsetAndMetadata, TopicPartition
from ottla._fake_group import ASSIGNORS
from ottla.testing import FakeCluster
from ottla_protocol import routes
from ottla_protocol.models import BinaryFetchRequest, PartitionToFetch
from ottla_protocol.record_batch import read_header
from tests.cluster.awaiting import eventually

GROUP = "billing"


class Member:
    """A member by plain requests."""

    def __init__(self, cluster, **request):
        self.cluster = cluster
        self.answer = self.call("POST", routes.GROUP_MEMBERS, {"topics": ["orders"], **request})

    def call(self, method, route, document=None):
        path = route.format(group=GROUP, member=getattr(self, "member_id", ""))
        body = b"" if document is None else msgspec.json.encode(document)
        response = self.cluster.answer(method, self.cluster.bootstrap_servers[0], path, body)
        found = msgspec.json.decode(response.body) if response.body else None
        if response.status < 300 and route in (routes.GROUP_MEMBERS, routes.GROUP_HEARTBEAT):
            self.member_id, self.generation = found["member_id"], found["generation"]
            if found["assignment"] is not None:
                self.owned = {
                    (each["topic"], number)
                    for each in found["assignment"]
                    for number in each["partitions"]
                }
        return response.status, found

    def told(self, owned, **more):
        return {
            "generation": self.generation,
            "owned": [{"topic": t, "partitions": [n]} for t, n in sorted(owned)],
            **more,
        }

    def heartbeat(self, owned=None):
        owned = self.owned if owned is None else owned
        return self.call("POST", routes.GROUP_HEARTBEAT, self.told(owned))

    def leave(self):
        return self.call("DELETE", routes.GROUP_MEMBER)

    def commit(self, partition, offset, **more):
        return self.call(
            "POST",
            routes.GROUP_OFFSETS,
            {
                "member_id": self.member_id,
                "generation": self.generation,
                "offsets": [{"topic": "orders", "partition": partition, "offset": offset}],
                **more,
            },
        )


@pytest.fixture
def cluster():
    cluster = FakeCluster()
    cluster.create_topic("orders", partitions=4)
    return cluster


def every(topic, count):
    return {(topic, number) for number in range(count)}


def test_one_member_has_everything(cluster):
    assert Member(cluster).owned == every("orders", 4)


def test_the_next_owner_waits_for_the_one_before(cluster):
    first = Member(cluster)
    before = set(first.owned)
    second = Member(cluster)
    assert second.owned == set()

    first.heartbeat(before)
    assert len(first.owned) == 2
    second.heartbeat()
    assert second.owned == set(), "the first still reads what was taken from it"

    first.heartbeat()
    second.heartbeat()
    assert first.owned | second.owned == every("orders", 4)
    assert not first.owned & second.owned


def test_whoever_leaves_makes_room_at_once(cluster):
    first, second = Member(cluster), Member(cluster)
    assert first.leave() == (204, None)
    second.heartbeat()
    assert second.owned == every("orders", 4)
    status, problem = first.leave()
    assert (status, problem["code"]) == (409, "UNKNOWN_MEMBER_ID")


def test_a_member_can_be_declared_silent(cluster):
    member = Member(cluster)
    cluster.expire_member(GROUP, member.member_id)
    assert cluster.assignment(GROUP) == {}
    assert member.heartbeat()[1]["code"] == "UNKNOWN_MEMBER_ID"


def test_a_static_member_takes_its_place_and_the_former_process_must_stop(cluster):
    former = Member(cluster, instance_id="till-1")
    other = Member(cluster)
    former.heartbeat()
    former.heartbeat()
    successor = Member(cluster, instance_id="till-1")
    assert successor.owned == former.owned
    assert other.owned == set()
    assert former.heartbeat()[1]["code"] == "FENCED_INSTANCE_ID"


def test_commits_are_held_to_the_assignment(cluster):
    member = Member(cluster)
    assert member.commit(0, 7)[0] == 200
    assert cluster.committed(GROUP) == {TopicPartition("orders", 0): OffsetAndMetadata(7)}
    assert member.commit(0, 8, generation=member.generation + 1)[1]["code"] == "FENCED"
    member.heartbeat(member.owned - {("orders", 0)})
    assert ("orders", 0) in member.owned, "it is given back, in a new generation"
    assert member.commit(0, 9, generation=member.generation - 1)[1]["code"] == "FENCED"
    assert member.commit(0, 9, member_id=None, generation=None)[1]["code"] == "NON_EMPTY_GROUP"
    assert cluster.committed(GROUP)[TopicPartition("orders", 0)].offset == 7


def test_partitions_and_topics_are_seen_when_they_come(cluster):
    member = Member(cluster, topics=None, pattern="orders|clicks")
    cluster.create_topic("clicks", partitions=1)
    member.heartbeat()
    assert member.owned == every("orders", 4) | every("clicks", 1)


def test_wrong_joins_are_told(cluster):
    def code(**request):
        return Member(cluster, **request).answer[1]["code"]

    assert code(pattern="x") == "INVALID_REQUEST"
    assert code(topics=None, pattern="(") == "INVALID_REGULAR_EXPRESSION"
    assert code(assignor="dice") == "UNSUPPORTED_ASSIGNOR"
    assert code(session_timeout_ms=1) == "INVALID_SESSION_TIMEOUT"
    Member(cluster, assignor="range")
    assert code(assignor="sticky") == "UNSUPPORTED_ASSIGNOR"


def test_a_group_is_described_and_deleted(cluster):
    member = Member(cluster)
    member.commit(1, 0)
    _, described = member.call("GET", routes.GROUP)
    assert described["state"] == "stable"
    assert [each["lag"] for each in described["offsets"]] == [None, 0, None, None]
    assert member.call("DELETE", routes.GROUP)[1]["code"] == "NON_EMPTY_GROUP"
    member.leave()
    assert member.call("DELETE", routes.GROUP)[0] == 204
    assert cluster.committed(GROUP) == {}


@settings(max_examples=200, deadline=None)
@given(
    name=st.sampled_from(sorted(ASSIGNORS)),
    counts=st.dictionaries(st.sampled_from("abc"), st.integers(1, 7), min_size=1),
    data=st.data(),
)
def test_assignors_give_each_partition_to_one_reader(name, counts, data):
    topics = st.sets(st.sampled_from(sorted(counts)))
    members = st.dictionaries(st.sampled_from("uvwxyz"), topics, min_size=1)
    target = {}
    for _ in range(2):
        subscriptions = {who: sorted(read) for who, read in data.draw(members).items()}
        target = ASSIGNORS[name](subscriptions, counts, target)
        owned = [(key, who) for who, keys in target.items() for key in keys]
        assert all(key.topic in subscriptions[who] for key, who in owned)
        readable = {topic for read in subscriptions.values() for topic in read}
        assert sorted(key for key, _ in owned) == sorted(
            TopicPartition(topic, number) for topic in readable for number in range(counts[topic])
        )


def test_sticky_moves_no_more_than_it_must():
    before = {"a": {TopicPartition("t", number) for number in range(4)}}
    target = ASSIGNORS["sticky"]({"a": ["t"], "b": ["t"]}, {"t": 4}, before)
    assert len(target["a"]) == len(target["b"]) == 2


# --- requests that wait ---------------------------------------------------------------------


async def timed(work):
    began = monotonic()
    return await work, monotonic() - began


async def arrived(cluster, path):
    for _ in range(5_000):
        if any(request.path == path for request in cluster.requests):
            return
        await asyncio.sleep(0.001)
    raise AssertionError(path)


def heartbeat_request(member, max_wait_ms):
    path = routes.GROUP_HEARTBEAT.format(group=GROUP, member=member.member_id)
    return path, msgspec.json.encode(member.told(member.owned, max_wait_ms=max_wait_ms))


async def test_a_heartbeat_waits_for_news(cluster):
    member = Member(cluster)
    path, body = heartbeat_request(member, 30_000)
    url = cluster.bootstrap_servers[1]
    waiting = asyncio.ensure_future(
        cluster.transport().request("POST", url, path, body, timeout_ms=20_000)
    )
    await arrived(cluster, path)
    assert not waiting.done()
    Member(cluster)
    response = await waiting
    assigned = msgspec.json.decode(response.body)["assignment"]
    assert [len(each["partitions"]) for each in assigned] == [2]
    assert sum(request.path == path for request in cluster.requests) == 1


async def test_a_heartbeat_without_news_is_answered_after_its_wait(cluster):
    member = Member(cluster)
    path, body = heartbeat_request(member, 150)
    url = cluster.bootstrap_servers[1]
    response, took_s = await timed(
        cluster.transport().request("POST", url, path, body, timeout_ms=20_000)
    )
    assert msgspec.json.decode(response.body)["assignment"] is None
    assert took_s >= 0.15


async def test_a_broker_that_stops_drops_those_who_wait(cluster):
    member = Member(cluster)
    path, body = heartbeat_request(member, 30_000)
    url = cluster.bootstrap_servers[1]
    waiting = asyncio.ensure_future(
        cluster.transport().request("POST", url, path, body, timeout_ms=20_000)
    )
    await arrived(cluster, path)
    cluster.stop_broker(2)
    with pytest.raises(BrokerUnreachableError):
        await waiting


async def test_a_fetch_waits_for_records(cluster):
    leader = next(
        each.leader for each in cluster._brokers.partitions("orders") if each.partition == 0
    )
    url = cluster._brokers.urls[leader]
    body = msgspec.msgpack.encode(
        BinaryFetchRequest([PartitionToFetch("orders", 0, 0)], max_wait_ms=10_000, min_bytes=1)
    )
    waiting = asyncio.ensure_future(
        cluster.transport().post(url, routes.FETCH, body, timeout_ms=20_000)
    )
    await arrived(cluster, routes.FETCH)
    async with cluster.async_producer() as producer:
        await (await producer.send("orders", b"x", partition=0))
    response = await waiting
    [result] = msgspec.msgpack.decode(response.body)["partitions"]
    assert read_header(result["batches"][0]).record_count == 1


# --- consumers ------------------------------------------------------------------------------


def read_all(consumers, count):
    """Polls in turn until so many different records were handed out; returns their values."""
    seen = set()
    for _ in range(1_000):
        for consumer in consumers:
            for records in consumer.poll(0.02).values():
                seen |= {record.value for record in records}
        if len(seen) >= count:
            return seen
    raise AssertionError(seen)


def test_consumers_share_a_group(cluster):
    with cluster.producer() as producer:
        for number in range(40):
            producer.send("orders", str(number).encode(), partition=number % 4)
    options = {"group_id": GROUP, "auto_offset_reset": "earliest"}
    with (
        cluster.consumer("orders", **options) as first,
        cluster.consumer("orders", **options) as second,
    ):
        assert len(read_all([first, second], 40)) == 40

        def share():
            # The first may have read everything before the second was a member.
            read_all([first, second], 0)
            return len(first.assignment()) == 2 == len(second.assignment())

        eventually(share)
        owned = first.assignment(), second.assignment()
        assert set().union(*cluster.assignment(GROUP).values()) == set().union(*owned)
    assert cluster.assignment(GROUP) == {}, "whoever closes leaves"
    assert sum(each.offset for each in cluster.committed(GROUP).values()) == 40


def test_lost_answers_of_the_group_change_nothing_for_the_application(cluster):
    with cluster.producer() as producer:
        for number in range(8):
            producer.send("orders", str(number).encode(), partition=number % 4)
    cluster.fail(path=routes.GROUPS, times=2, after_append=True)
    with cluster.consumer(
        "orders", group_id=GROUP, auto_offset_reset="earliest", enable_auto_commit=False
    ) as consumer:
        assert len(read_all([consumer], 8)) == 8
        cluster.fail(path=routes.GROUP_OFFSETS.format(group=GROUP), times=2, after_append=True)
        consumer.commit(timeout=10)
    assert sum(each.offset for each in cluster.committed(GROUP).values()) == 8


async def test_an_asyncio_consumer_that_is_declared_silent_comes_back(cluster):
    async with cluster.async_consumer("orders", group_id=GROUP) as consumer:
        while not consumer.assignment():
            await consumer.poll(0.02)
        ((member_id, _),) = cluster.assignment(GROUP).items()
        cluster.expire_member(GROUP, member_id)
        while member_id in cluster.assignment(GROUP) or not consumer.assignment():
            await consumer.poll(0.02)
        assert len(consumer.assignment()) == 4


def test_offsets_are_found_by_time(cluster):
    with cluster.producer() as producer:
        for timestamp in (1_000, 3_000, 2_000):
            producer.send("orders", b"x", partition=0, timestamp=timestamp).get(10)

    def found(at):
        path = routes.PARTITION_OFFSETS.format(topic="orders", partition=0)
        answer = cluster.answer("GET", cluster.bootstrap_servers[0], f"{path}?at={at}", b"")
        document = msgspec.json.decode(answer.body)
        return document["offset"], document["timestamp"]

    assert found(0) == (0, 1_000)
    assert found(1_500) == (1, 3_000)
    assert found(3_001) == (3, None)
