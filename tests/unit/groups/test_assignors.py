"""Every assignor gives each readable partition to exactly one reader; each has its own balance."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ottla_cluster.groups.assignors import (
    ASSIGNORS,
    assign_range,
    assign_round_robin,
    assign_sticky,
    assignor,
)
from ottla_protocol.errors import UnsupportedAssignorError

TOPICS = ("a", "b", "c", "gone")
subscriptions = st.dictionaries(
    st.sampled_from("uvwxyz"), st.lists(st.sampled_from(TOPICS), unique=True), max_size=6
)
counts = st.fixed_dictionaries({name: st.integers(1, 7) for name in TOPICS[:3]})


def keys(topic, *partitions):
    return [(topic, partition) for partition in partitions]


def as_previous(target):
    return {member_id: frozenset(partitions) for member_id, partitions in target.items()}


@pytest.mark.parametrize("name", sorted(ASSIGNORS))
@given(before=subscriptions, after=subscriptions, partitions=counts, fewer=counts)
def test_each_readable_partition_has_one_owner_who_reads_it(name, before, after, partitions, fewer):
    previous = as_previous(ASSIGNORS[name](before, partitions, {}))
    target = ASSIGNORS[name](after, fewer, previous)
    assert list(target) == sorted(after)
    given_out = [key for of_member in target.values() for key in of_member]
    readable = {topic for topics in after.values() for topic in topics} & fewer.keys()
    assert sorted(given_out) == sorted((t, p) for t in readable for p in range(fewer[t]))
    for member_id, of_member in target.items():
        assert of_member == sorted(of_member)
        assert {topic for topic, _ in of_member} <= set(after[member_id])


def test_range_gives_equal_numbers_of_topics_to_one_member():
    target = assign_range({"x": "ab", "y": "ab"}, {"a": 3, "b": 3}, {})
    assert target == {
        "x": keys("a", 0, 1) + keys("b", 0, 1),
        "y": keys("a", 2) + keys("b", 2),
    }


def test_round_robin_deals_over_topics():
    target = assign_round_robin({"x": "ab", "y": "ab"}, {"a": 3, "b": 3}, {})
    assert target == {"x": keys("a", 0, 2) + keys("b", 1), "y": keys("a", 1) + keys("b", 0, 2)}


def test_round_robin_passes_over_members_that_do_not_read_a_topic():
    target = assign_round_robin({"x": "a", "y": "ab", "z": "a"}, {"a": 3, "b": 2}, {})
    assert target == {"x": keys("a", 0), "y": keys("a", 1) + keys("b", 0, 1), "z": keys("a", 2)}


def test_four_members_on_three_partitions_leave_one_standing_by():
    for assign in ASSIGNORS.values():
        target = assign(dict.fromkeys("wxyz", "a"), {"a": 3}, {})
        assert sorted(map(len, target.values())) == [0, 1, 1, 1]


@given(
    st.sets(st.sampled_from("uvwxyz"), min_size=1),
    st.sets(st.sampled_from("uvwxyz"), min_size=1),
    counts,
)
def test_sticky_is_even_and_moves_no_more_than_it_must(before, after, partitions):
    previous = as_previous(assign_sticky(dict.fromkeys(before, "abc"), partitions, {}))
    target = assign_sticky(dict.fromkeys(after, "abc"), partitions, previous)
    sizes = sorted(map(len, target.values()))
    assert sizes[-1] - sizes[0] <= 1
    kept = sum(len(previous.get(m, frozenset()) & set(target[m])) for m in target)
    # The members that stay keep as much as the sizes allow: the largest kept get the largest sizes.
    had = sorted((len(previous.get(member_id, ())) for member_id in after), reverse=True)
    assert kept == sum(map(min, had, reversed(sizes)))


@given(subscriptions, counts)
def test_sticky_leaves_what_is_settled_alone(members, partitions):
    target = assign_sticky(members, partitions, {})
    assert assign_sticky(members, partitions, as_previous(target)) == target


@given(subscriptions, subscriptions, counts)
def test_sticky_leaves_no_partition_that_had_better_move(before, after, partitions):
    previous = as_previous(assign_sticky(before, partitions, {}))
    target = assign_sticky(after, partitions, previous)
    for owner, of_owner in target.items():
        for topic, _ in of_owner:
            for reader, topics in after.items():
                if topic in topics:
                    assert len(of_owner) - len(target[reader]) <= 1 or owner == reader


def test_sticky_moves_only_what_a_leaver_had():
    members = dict.fromkeys("wxyz", "a")
    before = assign_sticky(members, {"a": 12}, {})
    del members["x"]
    after = assign_sticky(members, {"a": 12}, as_previous(before))
    for member_id in "wyz":
        assert set(before[member_id]) < set(after[member_id])


def test_an_unknown_assignor_is_refused():
    with pytest.raises(UnsupportedAssignorError, match="range, round_robin, sticky"):
        assignor("fastest")


def test_a_large_group_is_assigned_in_a_moment():
    members = {f"m{number}": [f"t{number % 7}", "all"] for number in range(300)}
    partitions = {"all": 1_000} | {f"t{number}": 300 for number in range(7)}
    target = assign_sticky(members, partitions, {})
    sizes = sorted(map(len, target.values()))
    assert sum(sizes) == 3_100
    assert sizes[-1] - sizes[0] <= 1
