"""Images as snapshots: equal, the same bytes everywhere, and no more news than there is."""

from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ottla_cluster.controller import snapshot as snapshot_module
from ottla_cluster.controller.commands import (
    AddPartitions,
    AllocateProducerIds,
    AlterReassignments,
    AlterTopicConfigs,
    DeleteTopic,
    ElectPreferred,
    ElectUnclean,
    Reassignment,
    UncleanElection,
)
from ottla_cluster.controller.image import (
    BrokerRegistration,
    MetadataImage,
    Partition,
    Topic,
    partitions_changed,
)
from ottla_cluster.controller.image_sharing import sharing_with
from ottla_cluster.controller.records import CorruptMetadataError
from ottla_cluster.controller.replay import replay
from ottla_cluster.controller.snapshot import decode_image, encode_image
from ottla_protocol.errors import OttlaError
from tests.unit.controller.metadata_under_test import MetadataUnderTest

NAMES = ("clicks", "flights", "orders")
NODES = (1, 2, 3, 4)

names, nodes = st.sampled_from(NAMES), st.sampled_from(NODES)
replica_lists = st.permutations(NODES).flatmap(
    lambda order: st.integers(1, 3).map(lambda count: tuple(order[:count]))
)


def isr_change(metadata, name, members):
    partition = metadata.partition(name)
    if partition.leader is None:
        return
    members = [n for n in partition.replicas if n in members or n == partition.leader]
    metadata.set_isr(members, name=name)


# Each draws an action on a metadata log.
ACTIONS = st.one_of(
    st.builds(
        lambda name, count, factor, configs: (
            lambda m: m.create(name, partitions=count, replication_factor=factor, **configs)
        ),
        names,
        st.integers(1, 3),
        st.integers(1, 3),
        st.sampled_from(
            (
                {},
                {"segment_bytes": 2048, "durability": "os"},
                {"unclean_leader_election_enable": True},
            )
        ),
    ),
    st.builds(lambda name: lambda m: m.apply(DeleteTopic(name)), names),
    st.builds(lambda name, some: lambda m: isr_change(m, name, some), names, st.sets(nodes)),
    st.builds(lambda node: lambda m: m.fence(node), nodes),
    st.builds(lambda node, new: lambda m: m.restart(node, new), nodes, st.text(max_size=3)),
    st.builds(lambda node: lambda m: m.heartbeat(node, draining=True), nodes),
    st.builds(lambda node: lambda m: m.heartbeat(node, is_full=True), nodes),
    st.builds(
        lambda name, value: lambda m: m.apply(AlterTopicConfigs(name, {"retention.ms": value})),
        names,
        st.integers(1, 9),
    ),
    st.builds(lambda name, count: lambda m: m.apply(AddPartitions(name, count)), names, st.just(5)),
    st.builds(
        lambda name, target: (
            lambda m: m.apply(AlterReassignments((Reassignment(name, 0, target),)))
        ),
        names,
        replica_lists,
    ),
    st.builds(lambda: lambda m: m.apply(ElectPreferred())),
    st.builds(lambda name: lambda m: m.apply(ElectUnclean((UncleanElection(name, 0),))), names),
    st.builds(lambda node: lambda m: m.apply(AllocateProducerIds(node, m.epoch(node))), nodes),
)


class RecordingMetadata(MetadataUnderTest):
    """Remembers every entry of its log."""

    def __init__(self, *arguments):
        self.entries = []
        super().__init__(*arguments)

    def commit(self, command):
        response = super().commit(command)
        self.entries.append((self.image.version, self.last_records))
        return response


def apply(metadata, actions):
    for action in actions:
        try:
            action(metadata)
        except OttlaError:
            continue


@given(st.lists(ACTIONS, max_size=25))
def test_an_image_survives_its_snapshot(actions):
    metadata = MetadataUnderTest(4)
    apply(metadata, actions)
    decoded = decode_image(encode_image(metadata.image))
    assert decoded == metadata.image
    assert list(decoded.all_partitions()) == list(metadata.image.all_partitions())


def test_an_empty_image_survives_its_snapshot():
    assert decode_image(encode_image(MetadataImage())) == MetadataImage()


@given(st.lists(ACTIONS, max_size=20), st.lists(ACTIONS, max_size=10))
def test_a_broker_that_came_by_snapshot_encodes_to_the_same_bytes(before, after):
    """One replayed all of the log, the other a snapshot and what followed."""
    metadata = RecordingMetadata(4)
    apply(metadata, before)
    other = decode_image(encode_image(metadata.image))
    metadata.entries.clear()
    apply(metadata, after)
    for version, records in metadata.entries:
        other = replay(other, records, version)
    assert other == metadata.image
    assert encode_image(other) == encode_image(metadata.image)


@given(st.lists(ACTIONS, max_size=20), st.lists(ACTIONS, max_size=10))
def test_a_restored_image_shares_all_that_has_not_changed(before, after):
    metadata = MetadataUnderTest(4)
    apply(metadata, before)
    former = metadata.image
    apply(metadata, after)
    restored = sharing_with(former, decode_image(encode_image(metadata.image)))
    assert restored == metadata.image
    assert list(restored.topics) == list(metadata.image.topics)
    assert partitions_changed(former, restored) == partitions_changed(former, metadata.image)
    for topic_id, topic in restored.topics.items():
        known = former.topics.get(topic_id)
        assert (topic is known) == (topic == known)
        for number, partition in enumerate(topic.partitions):
            if known is not None and number < len(known.partitions):
                same = known.partitions[number]
                assert (partition is same) == (partition == same)


def test_an_equal_image_shares_everything():
    metadata = MetadataUnderTest()
    metadata.create()
    restored = sharing_with(metadata.image, decode_image(encode_image(metadata.image)))
    assert restored.topics is metadata.image.topics
    assert restored.brokers is metadata.image.brokers
    assert restored.topic_ids is metadata.image.topic_ids


def test_configs_in_another_order_encode_to_the_same_bytes():
    one, other = MetadataUnderTest(), MetadataUnderTest()
    one.create(durability="os", segment_bytes=2048)
    other.create(segment_bytes=2048, durability="os")
    assert encode_image(one.image) == encode_image(other.image)


@pytest.mark.parametrize(
    ("row", "part", "derived"),
    [
        ("_BrokerRow", BrokerRegistration, set()),
        ("_TopicRow", Topic, set()),
        ("_PartitionRow", Partition, {"topic_id", "topic", "partition"}),
        ("_Image", MetadataImage, {"topic_ids"}),
    ],
)
def test_every_field_of_an_image_is_in_the_snapshot(row, part, derived):
    """A field that a snapshot forgets would be lost on a voter that comes by one."""
    kept = set(getattr(snapshot_module, row).__struct_fields__)
    assert kept == {field.name for field in fields(part)} - derived


def test_a_damaged_snapshot_is_a_typed_error():
    metadata = MetadataUnderTest()
    metadata.create()
    whole = encode_image(metadata.image)
    for length in range(len(whole)):
        with pytest.raises(CorruptMetadataError):
            decode_image(whole[:length])
    with pytest.raises(CorruptMetadataError, match="format 9"):
        decode_image(whole[:1] + b"\x09" + whole[2:])
