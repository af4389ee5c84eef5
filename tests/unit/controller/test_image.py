import pytest

from ottla_cluster.controller.commands import AlterTopicConfigs, DeleteTopic
from ottla_cluster.controller.image import Partition, partitions_changed
from ottla_cluster.controller.records import (
    BrokerRegistered,
    BrokerUnfenced,
    ClusterFormed,
    PartitionChanged,
)
from ottla_cluster.controller.replay import replay
from ottla_cluster.controller.snapshot import decode_image, encode_image
from ottla_protocol.errors import UnknownTopicIdError, UnknownTopicOrPartitionError
from tests.unit.controller.metadata_under_test import MetadataUnderTest


def test_lookups_find_by_name_and_by_id():
    metadata = MetadataUnderTest()
    topic = metadata.create(partitions=2)
    assert metadata.image.partition("orders", 1) is topic.partitions[1]
    assert metadata.image.partition_by_id(topic.topic_id, 0) is topic.partitions[0]
    assert metadata.image.topic_ids == {"orders": topic.topic_id}


def test_lookups_of_what_is_not_there_are_typed_errors():
    image = MetadataUnderTest().image
    with pytest.raises(UnknownTopicOrPartitionError, match="'nothing'"):
        image.topic("nothing")
    with pytest.raises(UnknownTopicIdError):
        image.partition_by_id("0" * 32, 0)


@pytest.mark.parametrize("partition", [-1, 2])
def test_a_partition_out_of_range_is_unknown(partition):
    metadata = MetadataUnderTest()
    metadata.create(partitions=2)
    with pytest.raises(UnknownTopicOrPartitionError, match="0 to 1") as caught:
        metadata.image.partition("orders", partition)
    assert caught.value.members == {"partitions": 2}


def test_replay_leaves_the_old_image_alone():
    metadata = MetadataUnderTest()
    metadata.create()
    before, snapshot = metadata.image, encode_image(metadata.image)
    metadata.create("other")
    metadata.fence(1)
    assert encode_image(before) == snapshot


def test_replay_shares_what_it_does_not_touch():
    metadata = MetadataUnderTest()
    metadata.create("a", partitions=2)
    metadata.create("b")
    before = metadata.image
    leader = before.partition("a", 0).leader
    metadata.set_isr([leader], name="a", partition=0)
    assert metadata.image.brokers is before.brokers
    assert metadata.image.topic("b") is before.topic("b")
    assert metadata.image.partition("a", 1) is before.partition("a", 1)


def test_an_entry_without_records_only_moves_the_version():
    before = MetadataUnderTest().image
    after = replay(before, (), before.version + 5)
    assert after.version == before.version + 5
    assert after.topics is before.topics


@pytest.mark.parametrize(
    "isr", [(), (9,), (2, 1), (1, 1)], ids=["empty", "stranger", "order", "repeated"]
)
def test_an_impossible_isr_is_a_programmer_error(isr):
    with pytest.raises(AssertionError):
        Partition("id", "t", 0, (1, 2, 3), isr, None, 0, 0)


def test_a_leader_outside_the_isr_is_a_programmer_error():
    with pytest.raises(AssertionError):
        Partition("id", "t", 0, (1, 2, 3), (1, 2), 3, 0, 0)


@pytest.mark.parametrize(
    "change",
    [
        {"partition_epoch": 0},
        {"partition_epoch": 2},
        {"leader_epoch": 1},
        {"leader": None},
    ],
    ids=["same partition epoch", "skipped", "epoch without new leader", "leader without new epoch"],
)
def test_epochs_that_do_not_rise_by_their_rule_are_programmer_errors(change):
    metadata = MetadataUnderTest()
    now = metadata.create().partitions[0]
    fields = {
        "topic_id": now.topic_id,
        "partition": 0,
        "isr": now.isr,
        "leader": now.leader,
        "leader_epoch": 0,
        "partition_epoch": 1,
    }
    with pytest.raises(AssertionError):
        replay(
            metadata.image,
            (PartitionChanged(**(fields | change)),),
            metadata.image.version + 1,
        )


@pytest.mark.parametrize(
    "record",
    [
        ClusterFormed("again", 1),
        BrokerRegistered(1, 1, "x", "http://x", ""),
        BrokerUnfenced(1, 1),
        BrokerUnfenced(1, 99),
    ],
    ids=["formed twice", "broker epoch reused", "unfenced twice", "unknown epoch"],
)
def test_records_that_contradict_the_image_are_programmer_errors(record):
    image = MetadataUnderTest().image
    with pytest.raises(AssertionError):
        replay(image, (record,), image.version + 1)


def test_the_version_only_rises():
    image = MetadataUnderTest().image
    with pytest.raises(AssertionError):
        replay(image, (), image.version)


def test_changes_are_empty_between_an_image_and_itself():
    metadata = MetadataUnderTest()
    metadata.create()
    before = metadata.image
    metadata.heartbeat(1)
    changes = partitions_changed(before, metadata.image)
    assert (changes.partitions, changes.removed_partitions) == ((), ())
    assert (changes.reconfigured_topics, changes.brokers) == ((), ())


def test_changes_name_new_changed_and_removed_partitions():
    metadata = MetadataUnderTest()
    metadata.create("kept", partitions=2)
    metadata.create("gone", partitions=2)
    before = metadata.image
    metadata.set_isr([before.partition("kept", 1).leader], name="kept", partition=1)
    metadata.apply(DeleteTopic("gone"))
    metadata.create("new", partitions=1)
    changes = partitions_changed(before, metadata.image)
    assert changes.partitions == (metadata.partition("kept", 1), metadata.partition("new", 0))
    assert changes.removed_partitions == before.topic("gone").partitions
    assert changes.brokers == ()


def test_a_namesake_is_a_removal_and_a_new_partition_with_another_id():
    metadata = MetadataUnderTest()
    before_topic = metadata.create()
    before = metadata.image
    metadata.apply(DeleteTopic("orders"))
    after_topic = metadata.create()
    changes = partitions_changed(before, metadata.image)
    assert changes.removed_partitions == before_topic.partitions
    assert changes.partitions == after_topic.partitions
    assert before_topic.topic_id != after_topic.topic_id


def test_changes_name_reconfigured_topics_and_brokers():
    metadata = MetadataUnderTest()
    metadata.create()
    before = metadata.image
    metadata.apply(AlterTopicConfigs("orders", {"durability": "os"}))
    metadata.register(9)
    changes = partitions_changed(before, metadata.image)
    assert changes.reconfigured_topics == (metadata.image.topic("orders"),)
    assert changes.partitions == ()
    assert changes.brokers == (9,)


def test_changes_across_a_snapshot_compare_by_value():
    metadata = MetadataUnderTest()
    metadata.create(partitions=2)
    changes = partitions_changed(metadata.image, decode_image(encode_image(metadata.image)))
    assert changes.partitions == ()
    assert changes.brokers == ()
