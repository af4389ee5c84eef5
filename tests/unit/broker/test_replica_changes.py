"""What an image changes, against all that it says compared with all that was said before."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from ottla_broker.drivers.replica_changes import changes_for
from ottla_cluster.controller.image import MetadataImage, Partition, Topic
from ottla_cluster.controller.image_sharing import sharing_with

LOCAL, OTHER, THIRD = 1, 2, 3

replica_lists = st.sampled_from([(LOCAL, OTHER), (OTHER, THIRD), (THIRD, LOCAL)])


@st.composite
def images(draw):
    topics = {}
    for topic_id in draw(st.sets(st.sampled_from("abc"))):
        partitions = tuple(
            Partition(
                topic_id, f"topic-{topic_id}", number, replicas, replicas, replicas[0], epoch, 0
            )
            for number, (replicas, epoch) in enumerate(
                draw(st.lists(st.tuples(replica_lists, st.integers(0, 1)), min_size=1, max_size=3))
            )
        )
        configs = draw(st.sampled_from([{}, {"min.insync.replicas": 1}]))
        topics[topic_id] = Topic(topic_id, f"topic-{topic_id}", configs, partitions)
    return MetadataImage(version=draw(st.integers(1, 9)), topics=topics)


def hosted(image):
    return {
        (state.topic_id, state.partition): (topic, state)
        for topic, state in image.all_partitions()
        if LOCAL in state.replicas
    }


@given(images(), images())
def test_nothing_that_changed_is_left_out(former, latest):
    latest = sharing_with(former, latest)
    changes = changes_for(LOCAL, former, latest)
    before, now = hosted(former), hosted(latest)
    assert set(changes.wanted) <= set(now)
    assert not set(changes.unwanted) & set(now)
    assert set(before) - set(now) <= set(changes.unwanted)
    for key, (topic, state) in now.items():
        known = before.get(key)
        is_same = known is not None and known[1] == state and known[0].configs == topic.configs
        assert (key in changes.wanted) or is_same
        assert changes.wanted.get(key, (topic, state)) == (topic, state)
    assert changes_for(LOCAL, None, latest).wanted == now
    same = changes_for(LOCAL, latest, replace(latest, version=latest.version + 1))
    assert (same.wanted, same.unwanted) == ({}, [])


def test_a_change_of_one_partition_is_that_one():
    partitions = tuple(
        Partition("a", "topic-a", number, (LOCAL, OTHER), (LOCAL, OTHER), LOCAL, 0, 0)
        for number in range(4)
    )
    topic = Topic("a", "topic-a", {}, partitions)
    moved = replace(partitions[2], leader=OTHER, leader_epoch=1)
    changed = replace(topic, partitions=(*partitions[:2], moved, partitions[3]))
    former = MetadataImage(version=1, topics={"a": topic})
    latest = MetadataImage(version=2, topics={"a": changed})
    assert changes_for(LOCAL, former, latest).wanted == {("a", 2): (changed, moved)}
