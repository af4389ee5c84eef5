"""The admin client against real brokers, for threads and for asyncio."""

import inspect
from itertools import count

import pytest

from ottla._admin import Admin
from ottla._aio_admin import Admin as AsyncAdmin
from ottla._errors import ClusterUnreachableError
from ottla_protocol.errors import (
    InvalidConfigError,
    InvalidPartitionsError,
    InvalidRequestError,
    InvalidTopicError,
    OffsetOutOfRangeError,
    TopicAlreadyExistsError,
    UnknownTopicOrPartitionError,
)
from tests.cluster.awaiting import eventually

pytestmark = pytest.mark.cluster

_numbers = count(1)


@pytest.fixture
def name():
    """A name that no test has used."""
    return f"admin-{next(_numbers)}"


def addresses(client):
    return [client.url(node_id) for node_id in client.node_ids]


@pytest.fixture
def admin(shared):
    with Admin(addresses(shared)) as made:
        yield made


class TestTopics:
    def test_from_creation_to_deletion(self, admin, name):
        made = admin.create_topic(name, 3, 2, {"min.insync.replicas": 1})
        assert (made.name, len(made.partitions), made.warnings) == (name, 3, [])
        assert {len(each.replicas) for each in made.partitions} == {2}
        described = admin.describe_topic(name)
        assert described.topic_id == made.topic_id
        assert name in [topic.name for topic in admin.list_topics()]
        admin.delete_topic(name)
        with pytest.raises(UnknownTopicOrPartitionError, match=name):
            admin.describe_topic(name)

    def test_what_is_left_out_takes_the_default(self, admin, name):
        made = admin.create_topic(name)
        assert len(made.partitions) == 3
        assert {len(each.replicas) for each in made.partitions} == {3}

    def test_validation_makes_nothing(self, admin, name):
        assert len(admin.create_topic(name, 2, validate_only=True).partitions) == 2
        assert name not in [topic.name for topic in admin.list_topics()]

    def test_errors_are_classes(self, admin, name):
        admin.create_topic(name, 1)
        with pytest.raises(TopicAlreadyExistsError):
            admin.create_topic(name, 1)
        with pytest.raises(InvalidTopicError):
            admin.create_topic("a b")
        with pytest.raises(InvalidPartitionsError):
            admin.create_topic(f"{name}-0", 0)
        with pytest.raises(InvalidConfigError, match=r"min\.insync\.replicas"):
            admin.create_topic(f"{name}-1", 1, configs={"min.insync.replica": 1})

    def test_a_name_that_needs_quoting_is_an_unknown_topic_not_another_path(self, admin):
        for odd in ("a/b", "a b", "a%2fb", "größe", "a?b#c"):
            with pytest.raises((UnknownTopicOrPartitionError, InvalidTopicError)):
                admin.describe_topic(odd)

    def test_partitions_are_added_and_served(self, shared, admin, name):
        admin.create_topic(name, 1)
        grown = admin.add_partitions(name, 3)
        assert [each.partition for each in grown.partitions] == [0, 1, 2]
        shared.wait_led(name, partitions=3)
        assert shared.append(name, 1, partition=2) == 0
        with pytest.raises(InvalidPartitionsError):
            admin.add_partitions(name, 3)

    def test_configs_are_set_and_reset(self, admin, name):
        admin.create_topic(name, 1)
        before = admin.describe_configs(name)["max.message.bytes"]
        assert before.source == "default"
        altered = admin.alter_configs(name, {"max.message.bytes": 2_000})["max.message.bytes"]
        assert (altered.value, altered.source) == (2_000, "topic")
        assert admin.describe_configs(name)["max.message.bytes"] == altered
        assert admin.alter_configs(name, {"max.message.bytes": None})["max.message.bytes"] == before
        with pytest.raises(InvalidConfigError):
            admin.alter_configs(name, {"max.message.bytes": -1})


class TestPartitions:
    def test_offsets(self, shared, admin, topic):
        assert admin.offsets(topic, 0).offset == 0
        shared.append(topic, 1, 2, 3)
        assert (admin.offsets(topic, 0).offset, admin.offsets(topic, 0, "earliest").offset) == (
            3,
            0,
        )
        with pytest.raises(UnknownTopicOrPartitionError):
            admin.offsets(topic, 1)

    def test_records_go_from_the_beginning(self, shared, admin, topic):
        shared.append(topic, *range(10))
        told = admin.delete_records(topic, 0, before_offset=4, dry_run=True)
        assert (told.log_start_offset, told.records) == (4, 4)
        assert admin.delete_records(topic, 0, before_offset=4).log_start_offset == 4
        assert admin.offsets(topic, 0, "earliest").offset == 4
        with pytest.raises(OffsetOutOfRangeError):
            admin.delete_records(topic, 0, before_offset=11)
        assert admin.delete_records(topic, 0, before_end=True).log_start_offset == 10

    def test_a_partition_moves_to_other_brokers_with_its_records(self, shared, admin, name):
        made = admin.create_topic(name, 1, 1)
        shared.wait_led(name)
        shared.append(name, *range(10))
        [before] = made.partitions[0].replicas
        after = next(node_id for node_id in shared.node_ids if node_id != before)
        [result] = admin.reassign_partitions({(name, 0): [after]})
        assert (result.topic, result.partition, result.error) == (name, 0, None)
        eventually(lambda: admin.describe_topic(name).partitions[0].replicas == [after])
        eventually(lambda: admin.describe_topic(name).partitions[0].leader == after)
        eventually(
            lambda: name not in [each.topic for each in admin.list_reassignments()],
        )
        assert list(shared.values(name).values()) == list(range(10))

    def test_a_throttle_is_set_refused_and_taken_away(self, admin):
        admin.alter_reassignment_throttle(20_000_000)
        assert admin.describe_reassignment_throttle() == 20_000_000
        with pytest.raises(InvalidRequestError, match="throttle"):
            admin.alter_reassignment_throttle(1)
        assert admin.describe_reassignment_throttle() == 20_000_000
        admin.alter_reassignment_throttle(None)
        assert admin.describe_reassignment_throttle() is None

    def test_an_election_where_the_preferred_leader_leads_already(self, admin, topic):
        partition = admin.describe_topic(topic).partitions[0]
        assert partition.leader == partition.replicas[0]
        [result] = admin.elect_leaders([(topic, 0)])
        assert (result.leader, result.elected, result.error) == (partition.leader, False, None)
        with pytest.raises(UnknownTopicOrPartitionError):
            admin.elect_leaders([(topic, 1)])


class TestCluster:
    def test_cluster_and_brokers(self, shared, admin):
        described = admin.cluster()
        assert [broker.id for broker in described.brokers] == shared.node_ids
        assert described.controller in shared.node_ids
        assert [broker.url for broker in admin.brokers()] == addresses(shared)


async def test_asyncio_does_the_same(shared, name):
    async with AsyncAdmin(addresses(shared)) as admin:
        await admin.create_topic(name, 1)
        assert (await admin.describe_topic(name)).name == name
        assert name in [topic.name for topic in await admin.list_topics()]
        assert (await admin.alter_configs(name, {"max.message.bytes": 5_000}))[
            "max.message.bytes"
        ].value == 5_000
        assert "max.message.bytes" in await admin.describe_configs(name)
        assert len((await admin.add_partitions(name, 2)).partitions) == 2
        assert (await admin.cluster()).cluster_id
        assert len(await admin.brokers()) == 3
        assert await admin.list_reassignments() == []
        assert await admin.describe_reassignment_throttle() is None
        await admin.alter_reassignment_throttle(None)
        [result] = await admin.elect_leaders([(name, 0)])
        assert result.error is None
        shared.wait_led(name, partitions=2)
        assert (await admin.offsets(name, 0)).offset == 0
        assert (await admin.delete_records(name, 0, before_end=True)).records == 0
        [reassigned] = await admin.reassign_partitions({(name, 1): shared.node_ids})
        assert reassigned.error is None
        await admin.delete_topic(name)
        with pytest.raises(UnknownTopicOrPartitionError):
            await admin.describe_topic(name)


@pytest.mark.parametrize("kind", [Admin, AsyncAdmin])
async def test_one_live_broker_of_the_list_is_enough_and_none_names_them_all(start_cluster, kind):
    client = start_cluster()
    admin = kind(addresses(client))

    async def ask(method, *arguments):
        found = getattr(admin, method)(*arguments)
        return await found if inspect.isawaitable(found) else found

    await ask("create_topic", "flights", 1)
    for node_id in client.node_ids:
        # Two of three have it; the third, or who does not know yet that it is committed, could not
        # hear of it from those that are dead.
        client.describe("flights", via=node_id)
    for node_id in (1, 2):
        client.cluster.broker(node_id).kill()
        topics = await ask("list_topics")
        assert [topic.name for topic in topics] == ["flights"]
    client.cluster.broker(3).kill()
    with pytest.raises(ClusterUnreachableError) as caught:
        await ask("list_topics")
    assert caught.value.reasons == dict.fromkeys(addresses(client), "connection refused")
    await ask("close")
