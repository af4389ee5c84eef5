"""Topics that are filled from a backup: begun, begun again, finished, and in snapshots."""

import pytest
from msgspec.structs import replace

from ottla_cluster.controller.commands import (
    AddPartitions,
    BeginRestore,
    DeleteTopic,
    FinishRestore,
    FormCluster,
)
from ottla_cluster.controller.features import RESTORES
from ottla_cluster.controller.image import MetadataImage, partitions_changed
from ottla_cluster.controller.snapshot import decode_image, encode_image
from ottla_protocol.errors import (
    InvalidPartitionsError,
    InvalidRequestError,
    InvalidTopicError,
    RestoreConflictError,
    TopicAlreadyExistsError,
    TopicBeingRestoredError,
    UnknownTopicOrPartitionError,
    UnsupportedFeatureLevelError,
)
from tests.unit.controller.metadata_under_test import CLUSTER_ID, MetadataUnderTest

BEGIN = BeginRestore(
    name="flights", restore_id="monday", first_offsets=(0, 70), configs={"retention.ms": 5}
)
FINISH = FinishRestore(name="flights", restore_id="monday")


@pytest.fixture
def metadata():
    return MetadataUnderTest()


def test_a_restored_topic_begins_where_its_logs_did_and_belongs_to_the_restore(metadata):
    response = metadata.apply(BEGIN)
    topic = metadata.image.topic("flights")
    assert response.topic_id == topic.topic_id
    assert topic.restore_id == "monday"
    assert topic.configs["retention.ms"] == 5
    assert [partition.first_offset for partition in topic.partitions] == [0, 70]
    assert topic.former_partition_counts == ()
    with pytest.raises(TopicBeingRestoredError):
        metadata.apply(AddPartitions("flights", 5))


def test_beginning_again_changes_nothing_and_answers_the_same(metadata):
    first = metadata.apply(BEGIN)
    assert metadata.apply(BEGIN) == first
    assert metadata.last_records == ()
    for other in (
        replace(BEGIN, restore_id="tuesday"),
        replace(BEGIN, first_offsets=(0,)),
        replace(BEGIN, first_offsets=(0, 71)),
    ):
        with pytest.raises(RestoreConflictError):
            metadata.apply(other)


def test_a_finished_topic_is_one_like_any_other(metadata):
    metadata.apply(BEGIN)
    before = metadata.image
    with pytest.raises(RestoreConflictError):
        metadata.apply(replace(FINISH, restore_id="tuesday"))
    metadata.apply(FINISH)
    topic = metadata.image.topic("flights")
    assert topic.restore_id is None
    assert topic.partitions[1].first_offset == 70
    # Its logs hear of it: what was held back for the restore applies.
    assert partitions_changed(before, metadata.image).reconfigured_topics == (topic,)
    with pytest.raises(TopicAlreadyExistsError):
        metadata.apply(BEGIN)


def test_finishing_again_changes_nothing_and_answers_the_same(metadata):
    metadata.apply(BEGIN)
    first = metadata.apply(FINISH)
    assert metadata.apply(FINISH) == first
    assert metadata.last_records == ()
    with pytest.raises(RestoreConflictError):
        metadata.apply(replace(FINISH, restore_id="tuesday"))
    metadata.apply(DeleteTopic("flights"))
    metadata.create("flights")
    with pytest.raises(RestoreConflictError):
        metadata.apply(FINISH)


def test_what_cannot_be_restored_is_refused(metadata):
    metadata.create("orders")
    for command, error in (
        (replace(BEGIN, name="orders"), TopicAlreadyExistsError),
        (replace(BEGIN, name="__consumer_offsets"), InvalidTopicError),
        (replace(BEGIN, first_offsets=()), InvalidPartitionsError),
        (replace(FINISH, name="none"), UnknownTopicOrPartitionError),
        (replace(FINISH, name="orders"), RestoreConflictError),
    ):
        with pytest.raises(error):
            metadata.apply(command)


@pytest.mark.parametrize(
    ("field", "value"), [("restore_id", ""), ("first_offsets", (-1,)), ("first_offsets", (0, -1))]
)
def test_what_breaks_a_rule_is_named(metadata, field, value):
    with pytest.raises(InvalidRequestError) as caught:
        metadata.apply(replace(BEGIN, **{field: value}))
    assert caught.value.members == {"field": field}


@pytest.mark.parametrize("name", ["a/b", "__consumer_offsets"])
def test_a_name_that_cannot_be_is_that_of_the_path(metadata, name):
    with pytest.raises(InvalidTopicError) as caught:
        metadata.apply(replace(BEGIN, name=name))
    assert caught.value.members == {"parameter": "topic"}


def test_a_topic_whose_restore_is_given_up_can_be_deleted(metadata):
    metadata.apply(BEGIN)
    metadata.apply(DeleteTopic("flights"))
    assert "flights" not in metadata.image.topic_ids


def test_snapshots_carry_it(metadata):
    metadata.apply(BEGIN)
    assert decode_image(encode_image(metadata.image)) == metadata.image
    metadata.apply(FINISH)
    assert decode_image(encode_image(metadata.image)) == metadata.image


def test_below_its_feature_level_nothing_of_it_is_written():
    metadata = MetadataUnderTest(0)
    metadata.image = MetadataImage()
    metadata.apply(FormCluster(CLUSTER_ID, RESTORES.level - 1))
    with pytest.raises(UnsupportedFeatureLevelError):
        metadata.apply(BEGIN)
