"""Where a partition begins: it only rises, at the word of its leader, and outlives everything."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from ottla_cluster.controller.commands import (
    AlterTopicConfigs,
    BeginRestore,
    CreateTopic,
    FormCluster,
    TrimPartition,
)
from ottla_cluster.controller.features import TRIMS
from ottla_cluster.controller.image import MetadataImage, partitions_changed
from ottla_cluster.controller.snapshot import decode_image, encode_image
from ottla_protocol.errors import (
    FencedLeaderEpochError,
    InvalidRequestError,
    InvalidTopicError,
    PolicyViolationError,
    TopicBeingRestoredError,
    UnknownTopicIdError,
    UnknownTopicOrPartitionError,
    UnsupportedFeatureLevelError,
)
from tests.unit.controller.metadata_under_test import CLUSTER_ID, MetadataUnderTest


@pytest.fixture
def metadata():
    return MetadataUnderTest()


def trim(metadata, first_offset, *, name="orders", partition=0):
    state = metadata.partition(name, partition)
    return TrimPartition(state.topic_id, partition, state.leader_epoch, first_offset)


def test_a_trim_raises_the_first_offset_of_its_partition_alone(metadata):
    metadata.create(partitions=2)
    before = metadata.image
    response = metadata.apply(trim(metadata, 70, partition=1))
    after = metadata.partition(partition=1)
    assert (response.partition, response.first_offset) == (1, 70)
    assert after.first_offset == 70
    assert metadata.partition(partition=0).first_offset == 0
    assert partitions_changed(before, metadata.image).partitions == (after,)
    former = before.partition("orders", 1)
    assert (after.partition_epoch, after.leader_epoch) == (
        former.partition_epoch,
        former.leader_epoch,
    )


@given(offsets=st.lists(st.integers(0, 2**62), max_size=8))
def test_it_never_falls_and_a_trim_that_is_done_changes_nothing(offsets):
    metadata = MetadataUnderTest()
    metadata.create()
    highest = 0
    for offset in offsets:
        response = metadata.apply(trim(metadata, offset))
        assert bool(metadata.last_records) == (offset > highest)
        highest = max(highest, offset)
        assert response.first_offset == metadata.partition().first_offset == highest


def test_it_outlives_leaders_and_snapshots(metadata):
    metadata.create()
    metadata.apply(trim(metadata, 70))
    metadata.fence(metadata.partition().leader)
    assert metadata.partition().first_offset == 70
    assert decode_image(encode_image(metadata.image)) == metadata.image


def test_another_leader_epoch_is_refused(metadata):
    """Which offsets are committed is what the leader of an epoch knows in that epoch."""
    metadata.create()
    late = trim(metadata, 70)
    metadata.fence(metadata.partition().leader)
    with pytest.raises(FencedLeaderEpochError):
        metadata.apply(late)
    assert metadata.partition().first_offset == 0


def test_only_what_may_go_by_age_or_size_is_trimmed(metadata):
    metadata.create("table", cleanup_policy="compact")
    with pytest.raises(PolicyViolationError, match=r"cleanup\.policy=compact") as refused:
        metadata.apply(trim(metadata, 1, name="table"))
    assert refused.value.members["config"] == "cleanup.policy"
    metadata.apply(AlterTopicConfigs("table", {"cleanup.policy": "delete,compact"}))
    metadata.apply(trim(metadata, 1, name="table"))
    assert metadata.partition("table").first_offset == 1


def test_topics_of_the_brokers_own_and_of_a_restore_are_refused(metadata):
    metadata.apply(
        CreateTopic(
            "__consumer_offsets", configs={"cleanup.policy": "delete,compact"}, internal=True
        )
    )
    with pytest.raises(InvalidTopicError):
        metadata.apply(trim(metadata, 1, name="__consumer_offsets"))
    metadata.apply(BeginRestore(name="flights", restore_id="monday", first_offsets=(5,)))
    with pytest.raises(TopicBeingRestoredError):
        metadata.apply(trim(metadata, 6, name="flights"))


def test_what_does_not_exist_and_what_is_no_offset_is_refused(metadata):
    metadata.create()
    command = trim(metadata, 1)
    with pytest.raises(UnknownTopicIdError):
        metadata.apply(replace(command, topic_id="other"))
    with pytest.raises(UnknownTopicOrPartitionError):
        metadata.apply(replace(command, partition=1))
    with pytest.raises(InvalidRequestError):
        metadata.apply(replace(command, first_offset=-1))


def test_below_its_feature_level_nothing_of_it_is_written():
    metadata = MetadataUnderTest(0)
    metadata.image = MetadataImage()
    metadata.apply(FormCluster(CLUSTER_ID, TRIMS.level - 1))
    with pytest.raises(UnsupportedFeatureLevelError):
        metadata.apply(TrimPartition("topic", 0, 0, 1))
