"""Many leaders' ISR proposals in one command."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ottla_cluster.controller.commands import AlterPartitions, IsrChange, IsrMember
from ottla_cluster.controller.limits import MAX_ISR_CHANGES
from ottla_protocol.errors import InvalidRequestError, OttlaError, StaleBrokerEpochError
from tests.unit.controller.metadata_under_test import MetadataUnderTest

PARTITIONS = 12


def cluster():
    metadata = MetadataUnderTest(4)
    metadata.create(partitions=PARTITIONS)
    metadata.fence(4)
    return metadata


def change_of(single):
    return IsrChange(
        single.topic_id,
        single.partition,
        single.leader_epoch,
        single.partition_epoch,
        single.new_isr,
    )


def batch_of(singles, node_id, broker_epoch):
    return AlterPartitions(node_id, broker_epoch, tuple(map(change_of, singles)))


def decided_alone(metadata, single):
    try:
        return metadata.apply(single).state, None
    except OttlaError as error:
        return None, error.problem()


@st.composite
def proposals(draw, metadata):
    """What a broker may say of any partitions: right, late, early, or none of its business."""
    node_id = draw(st.sampled_from([1, 2, 3]))
    numbers = st.sets(st.integers(0, PARTITIONS - 1), min_size=PARTITIONS // 2)
    singles = []
    for number in sorted(draw(numbers)):
        known = metadata.partition(partition=number)
        others = [member for member in known.replicas if member != node_id]
        members = draw(st.sampled_from([[], others, others[:1], others[:1] * 2, [4], [9]]))
        off_by = draw(st.sampled_from([(0, 0, 0)] * 6 + [(1, 0, 0), (0, -1, 0), (0, 0, -1)]))
        singles.append(
            metadata.proposal(
                [],
                partition=number,
                node_id=node_id,
                broker_epoch=metadata.epoch(node_id),
                leader_epoch=known.leader_epoch + off_by[0],
                partition_epoch=known.partition_epoch + off_by[1],
                new_isr=tuple(
                    IsrMember(member, epoch_of(metadata, member) + off_by[2])
                    for member in (node_id, *members)
                ),
            )
        )
    return node_id, singles


def epoch_of(metadata, node_id):
    registration = metadata.image.brokers.get(node_id)
    return 0 if registration is None else registration.broker_epoch


@given(st.data())
def test_a_batch_decides_what_its_changes_would_alone(data):
    together, alone = cluster(), cluster()
    node_id, singles = data.draw(proposals(together))
    response = together.apply(batch_of(singles, node_id, together.epoch(node_id)))
    assert len(response.results) == len(singles)
    for single, result in zip(singles, response.results, strict=True):
        assert (result.topic_id, result.partition) == (single.topic_id, single.partition)
        state, error = decided_alone(alone, single)
        assert (result.state, result.error) == (state, error)
    for number in range(PARTITIONS):
        assert together.partition(partition=number) == alone.partition(partition=number)


def test_all_that_a_broker_leads_changes_in_one_entry():
    metadata = cluster()
    leader = metadata.partition().leader
    led = [
        partition.partition
        for partition in metadata.image.topic("orders").partitions
        if partition.leader == leader
    ]
    assert len(led) > 1
    singles = [metadata.proposal([leader], partition=number) for number in led]
    version = metadata.image.version
    metadata.apply(batch_of(singles, leader, metadata.epoch(leader)))
    assert metadata.image.version == version + 1
    assert all(metadata.partition(partition=number).isr == (leader,) for number in led)


def test_a_partition_is_named_once():
    metadata = cluster()
    single = metadata.proposal(metadata.partition().isr)
    with pytest.raises(InvalidRequestError, match="each once"):
        metadata.apply(batch_of([single, single], single.node_id, single.broker_epoch))


def test_a_batch_has_a_limit():
    metadata = cluster()
    single = metadata.proposal(metadata.partition().isr)
    changes = tuple(
        IsrChange(single.topic_id, number, 0, 0, single.new_isr)
        for number in range(MAX_ISR_CHANGES + 1)
    )
    with pytest.raises(InvalidRequestError, match=str(MAX_ISR_CHANGES)):
        metadata.apply(AlterPartitions(single.node_id, single.broker_epoch, changes))


def test_a_former_incarnation_proposes_nothing():
    metadata = cluster()
    single = metadata.proposal(metadata.partition().isr)
    with pytest.raises(StaleBrokerEpochError):
        metadata.apply(batch_of([single], single.node_id, single.broker_epoch - 1))
