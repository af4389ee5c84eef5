from dataclasses import replace

import pytest

from ottla_cluster.controller import topic_handlers
from ottla_cluster.controller.commands import AlterTopicConfigs, CreateTopic, DeleteTopic
from ottla_cluster.controller.elections import effective_min_isr
from ottla_cluster.controller.limits import MAX_PARTITIONS_PER_TOPIC
from ottla_protocol.errors import (
    InvalidConfigError,
    InvalidPartitionsError,
    InvalidReplicationFactorError,
    InvalidTopicError,
    TopicAlreadyExistsError,
    UnavailableError,
    UnknownTopicIdError,
    UnknownTopicOrPartitionError,
)
from tests.unit.controller.metadata_under_test import MetadataUnderTest


@pytest.fixture
def metadata():
    return MetadataUnderTest()


def test_a_created_topic_is_what_the_response_says(metadata):
    response = metadata.apply(
        CreateTopic("a.b_c", partitions=4, replication_factor=2, configs={"segment.bytes": "65536"})
    )
    topic = metadata.image.topic("a.b_c")
    assert response.topic_id == topic.topic_id
    assert len(topic.topic_id) == 32
    assert [p.replicas for p in response.partitions] == [p.replicas for p in topic.partitions]
    assert len(topic.partitions) == 4
    for partition in topic.partitions:
        assert partition.isr == partition.replicas
        assert partition.leader == partition.replicas[0]
        assert (partition.leader_epoch, partition.partition_epoch) == (0, 0)
    assert response.configs["segment.bytes"] == 65536
    assert response.configs["durability"] == "fsync"
    assert len(response.warnings) == 1


def test_defaults_come_from_the_config(metadata):
    metadata.apply(CreateTopic("orders"))
    topic = metadata.image.topic("orders")
    assert (len(topic.partitions), topic.replication_factor) == (3, 3)
    assert effective_min_isr(topic, topic.partitions[0]) == 2
    other = MetadataUnderTest(
        3, default_partitions=5, default_replication_factor=2, default_min_insync_replicas=1
    )
    other.apply(CreateTopic("orders"))
    topic = other.image.topic("orders")
    assert (len(topic.partitions), topic.replication_factor) == (5, 2)
    assert effective_min_isr(topic, topic.partitions[0]) == 1


def test_a_default_replication_factor_above_the_active_brokers_is_refused():
    metadata = MetadataUnderTest(1)
    with pytest.raises(InvalidReplicationFactorError, match=r"1\.\.1"):
        metadata.apply(CreateTopic("orders"))


def test_a_single_broker_can_write_its_own_topics():
    metadata = MetadataUnderTest(1, default_replication_factor=1)
    metadata.apply(CreateTopic("orders"))
    topic = metadata.image.topic("orders")
    assert effective_min_isr(topic, topic.partitions[0]) == 1


@pytest.mark.parametrize(("min_isr", "effective"), [(1, 1), (2, 2), (3, 2)])
def test_the_effective_min_isr_is_at_most_the_replication_factor(metadata, min_isr, effective):
    topic = metadata.create(replication_factor=2, min_insync_replicas=min_isr)
    assert effective_min_isr(topic, topic.partitions[0]) == effective


@pytest.mark.parametrize("replication_factor", [-1, 0, 4])
def test_a_replication_factor_out_of_range_names_the_active_brokers(metadata, replication_factor):
    with pytest.raises(InvalidReplicationFactorError, match=r"1\.\.3"):
        metadata.create(replication_factor=replication_factor)


def test_fenced_and_draining_brokers_take_no_new_replicas(metadata):
    metadata.fence(1)
    metadata.heartbeat(2, draining=True)
    assert metadata.create(partitions=4, replication_factor=1).partitions[0].replicas == (3,)
    with pytest.raises(InvalidReplicationFactorError):
        metadata.create("other", replication_factor=2)


def test_without_an_active_broker_a_later_try_may_help(metadata):
    for node_id in (1, 2, 3):
        metadata.fence(node_id)
    with pytest.raises(UnavailableError) as refused:
        metadata.create()
    assert refused.value.retriable


@pytest.mark.parametrize("partitions", [-1, 0, MAX_PARTITIONS_PER_TOPIC + 1])
def test_a_partition_count_out_of_range_is_refused(metadata, partitions):
    with pytest.raises(InvalidPartitionsError):
        metadata.create(partitions=partitions)


def test_the_cluster_s_limits_hold(metadata, monkeypatch):
    monkeypatch.setattr(topic_handlers, "MAX_PARTITIONS", 5)
    metadata.create(partitions=3)
    with pytest.raises(InvalidPartitionsError, match="maximum of 5"):
        metadata.create("other", partitions=3)
    metadata.create("other", partitions=2)
    monkeypatch.setattr(topic_handlers, "MAX_TOPICS", 2)
    with pytest.raises(InvalidPartitionsError, match="maximum of 2 topics"):
        metadata.create("third")


def test_a_name_or_its_swapped_twin_is_taken(metadata):
    metadata.create("a.b")
    with pytest.raises(TopicAlreadyExistsError, match="exists already"):
        metadata.create("a.b")
    with pytest.raises(TopicAlreadyExistsError, match=r"'a_b'.*'a\.b'"):
        metadata.create("a_b")


def test_internal_topics_are_refused_to_clients_only(metadata):
    with pytest.raises(InvalidTopicError) as caught:
        metadata.create("__consumer_offsets")
    assert caught.value.members == {"field": "name"}
    metadata.apply(CreateTopic("__consumer_offsets", internal=True))
    with pytest.raises(InvalidTopicError) as caught:
        metadata.apply(DeleteTopic("__consumer_offsets"))
    assert caught.value.members == {"parameter": "topic"}


def test_an_illegal_name_or_config_creates_nothing(metadata):
    before = metadata.image
    with pytest.raises(InvalidTopicError) as caught:
        metadata.create("a/b")
    assert caught.value.members == {"field": "name"}
    with pytest.raises(InvalidConfigError):
        metadata.create("a", min_insync_replicas="many")
    assert metadata.image is before


def test_validate_only_answers_and_creates_nothing(metadata):
    response = metadata.apply(CreateTopic("orders", partitions=2, validate_only=True))
    assert metadata.last_records == ()
    assert response.topic_id is None
    assert len(response.partitions) == 2
    with pytest.raises(InvalidPartitionsError):
        metadata.apply(CreateTopic("orders", partitions=0, validate_only=True))


def test_a_namesake_gets_a_new_id_and_none_of_the_old_configs(metadata):
    first = metadata.create(durability="os")
    response = metadata.apply(DeleteTopic("orders"))
    assert response.topic_id == first.topic_id
    with pytest.raises(UnknownTopicOrPartitionError):
        metadata.image.topic("orders")
    second = metadata.create()
    assert second.topic_id != first.topic_id
    assert "durability" not in second.configs


def test_deleting_what_is_not_there_is_unknown(metadata):
    with pytest.raises(UnknownTopicOrPartitionError):
        metadata.apply(DeleteTopic("orders"))


def test_a_deletion_that_comes_late_spares_the_namesake(metadata):
    first = metadata.create()
    metadata.apply(DeleteTopic("orders", first.topic_id))
    second = metadata.create()
    with pytest.raises(UnknownTopicIdError):
        metadata.apply(DeleteTopic("orders", first.topic_id))
    assert metadata.image.topic("orders").topic_id == second.topic_id
    metadata.apply(DeleteTopic("orders", second.topic_id))


def test_configs_are_set_and_reset_one_by_one(metadata):
    metadata.create(durability="os", segment_bytes=65536)
    response = metadata.apply(
        AlterTopicConfigs("orders", {"segment.bytes": None, "min.insync.replicas": "3"})
    )
    assert metadata.image.topic("orders").configs == {"durability": "os", "min.insync.replicas": 3}
    assert response.configs["segment.bytes"] == 1024**3
    metadata.apply(AlterTopicConfigs("orders", {"min.insync.replicas": None}))
    assert metadata.image.topic("orders").configs["min.insync.replicas"] == 2
    metadata.apply(AlterTopicConfigs("orders", {"min.insync.replicas": 2}))
    assert metadata.last_records == ()


def test_one_bad_config_changes_none(metadata):
    before = metadata.create()
    for configs in ({"durability": "os", "nonsense": 1}, {"durability": "os", "nonsense": None}):
        with pytest.raises(InvalidConfigError):
            metadata.apply(AlterTopicConfigs("orders", configs))
    assert metadata.image.topic("orders") == before


def test_changing_configs_leaves_leadership_alone(metadata):
    before = metadata.create()
    metadata.apply(AlterTopicConfigs("orders", {"durability": "os"}))
    after = metadata.image.topic("orders")
    assert after == replace(before, configs=after.configs)


def test_chosen_defaults_are_written_into_a_topic_and_come_back_with_a_reset():
    metadata = MetadataUnderTest(3, default_topic_configs={"retention.ms": 60_000})
    metadata.apply(CreateTopic("orders", partitions=1))
    assert metadata.image.topic("orders").configs["retention.ms"] == 60_000
    response = metadata.apply(AlterTopicConfigs("orders", {"retention.ms": -1}))
    assert response.configs["retention.ms"] == -1
    response = metadata.apply(AlterTopicConfigs("orders", {"retention.ms": None}))
    assert response.configs["retention.ms"] == 60_000


def test_the_brokers_own_topics_keep_everything():
    metadata = MetadataUnderTest(3, default_topic_configs={"retention.ms": 60_000})
    response = metadata.apply(CreateTopic("__consumer_offsets", partitions=1, internal=True))
    assert (response.configs["retention.ms"], response.configs["retention.bytes"]) == (-1, -1)
