"""Which offsets of a group count for its lag, and how many groups are measured."""

from ottla_cluster.groups.image import Group
from ottla_cluster.groups.lag import GroupLag, group_lag, groups_to_measure
from ottla_cluster.groups.records import OffsetCommitted, SubscribedTopic

ANY = {"groups_max": 10, "partitions_max": 100}


def committed(topic_id, partition, offset):
    return OffsetCommitted("g", topic_id.lower(), topic_id, partition, offset, None, "", 0, 1)


def group(group_id, *offsets, reads=()):
    """A group with those offsets, and a member where it reads anything."""
    return Group(
        group_id,
        offsets={(each.topic_id, each.partition): each for each in offsets},
        topics={
            topic_id.lower(): SubscribedTopic(topic_id.lower(), topic_id, 4) for topic_id in reads
        },
        members=dict.fromkeys(["m"] if reads else []),
    )


def chosen(groups, topic_ids=frozenset("AB"), **bounds):
    found = groups_to_measure(groups, topic_ids, **(ANY | bounds))
    return {
        name: [(each.topic_id, each.partition) for each in offsets]
        for name, offsets in found.groups
    }, found.left_out


def test_members_count_in_what_they_read_and_others_in_all_that_exists():
    offsets = committed("A", 0, 1), committed("B", 3, 1), committed("GONE", 0, 1)
    groups = [group("reads", *offsets, reads="A"), group("empty", *offsets), group("new")]
    assert chosen(groups) == ({"reads": [("A", 0)], "empty": [("A", 0), ("B", 3)]}, 0)


def test_beyond_the_bounds_groups_with_members_come_first_then_names():
    one = committed("A", 0, 1)
    groups = [group("a", one), group("b", one), group("z", one, reads="A")]
    assert chosen(groups, groups_max=2) == ({"z": [("A", 0)], "a": [("A", 0)]}, 1)
    two = group("y", one, committed("A", 1, 1), reads="A")
    # What does not fit is left out, and what comes after it may fit.
    assert chosen([two, *groups], partitions_max=1) == ({"z": [("A", 0)]}, 3)


def test_the_lag_is_the_sum_and_the_largest():
    offsets = [committed("A", 0, 10), committed("A", 1, 5), committed("B", 0, 7)]
    ends = {("A", 0): 12, ("A", 1): 45, ("B", 0): 3}
    assert group_lag("g", offsets, ends) == GroupLag("g", 42, 40)


def test_without_an_end_there_is_no_lag_to_tell():
    offsets = [committed("A", 0, 10), committed("A", 1, 5)]
    assert group_lag("g", offsets, {("A", 0): 12}) is None
