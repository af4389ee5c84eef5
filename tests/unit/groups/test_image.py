"""The image follows from the newest record of each key."""

from random import Random

import pytest

from ottla_cluster.groups.commands import DeleteGroup
from ottla_cluster.groups.image import GroupsImage, replay
from ottla_cluster.groups.records import (
    CurrentAssigned,
    GroupChanged,
    GroupRemoved,
    HeldPartition,
    MemberRemoved,
    OffsetCommitted,
    OffsetRemoved,
    encode_record,
)
from tests.unit.groups.groups_under_test import GroupsUnderTest

OFFSET = OffsetCommitted("g", "orders", "id-1", 0, 17, None, "", 1_000, 1)


def test_replay_leaves_the_image_before_as_it_is():
    first = replay(GroupsImage(), [OFFSET], 1)
    second = replay(first, [OffsetRemoved("g", "id-1", 0)], 2)
    assert first.groups["g"].offsets == {("id-1", 0): OFFSET}
    assert second.groups["g"].offsets == {}
    assert replay(second, [], 7) == GroupsImage(7, second.groups)


def test_groups_share_nothing_and_untouched_ones_stay_the_same_object():
    first = replay(GroupsImage(), [OFFSET], 1)
    second = replay(first, [OffsetRemoved("h", "id-1", 0), GroupRemoved("h")], 2)
    assert second.groups["g"] is first.groups["g"]
    assert list(second.groups) == ["g"]


def test_a_tombstone_may_remove_what_is_not_there():
    assert replay(GroupsImage(), [MemberRemoved("g", "m"), GroupRemoved("g")], 1).groups == {}


def test_a_group_may_come_back_in_the_batch_that_removed_it():
    image = replay(GroupsImage(), [OFFSET], 1)
    image = replay(image, [OffsetRemoved("g", "id-1", 0), GroupRemoved("g"), OFFSET], 2)
    assert image.groups["g"].offsets == {("id-1", 0): OFFSET}


def test_holders_follow_what_members_hold():
    held = HeldPartition("orders", "id-1", 0, 1)
    other = HeldPartition("orders", "id-1", 1, 1)
    image = replay(GroupsImage(), [CurrentAssigned("g", "m", 1, (held,), (other,))], 1)
    assert image.groups["g"].holders == {("orders", 0): "m", ("orders", 1): "m"}
    image = replay(image, [CurrentAssigned("g", "m", 1, (held,), ())], 2)
    image = replay(image, [CurrentAssigned("g", "n", 2, (other,), ())], 3)
    assert image.groups["g"].holders == {("orders", 0): "m", ("orders", 1): "n"}


def test_a_generation_never_falls():
    image = replay(GroupsImage(), [GroupChanged("g", 5, "range", (), 1, None)], 1)
    with pytest.raises(AssertionError):
        replay(image, [GroupChanged("g", 4, "range", (), 1, None)], 2)
    with pytest.raises(AssertionError):
        replay(image, [], 1)


def test_compaction_at_any_time_changes_nothing():
    groups = GroupsUnderTest(topics={"orders": 5, "clicks": 2})
    random = Random(3)
    log = []
    for step in range(200):
        member_id = random.choice("abcd")
        members = groups.image.groups["g"].members if "g" in groups.image.groups else {}
        if member_id not in members:
            groups.join(member_id, random.choice((("orders",), ("clicks", "orders"))))
        elif random.random() < 0.1:
            groups.leave(member_id)
        elif random.random() < 0.5 and groups.owned(member_id):
            topic, _, partition = random.choice(groups.owned(member_id)).rpartition("-")
            groups.commit(int(partition), step, member_id, topic=topic)
        else:
            groups.beat(member_id, *groups.owned(member_id))
        log.extend(groups.last_records)
        if not groups.group().members and random.random() < 0.5:
            groups.apply(DeleteGroup("g"))
            log.extend(groups.last_records)
        newest = {}
        for record in log:
            key, value = encode_record(record)
            newest.pop(key, None)
            newest[key] = None if value is None else record
        kept = [record for record in newest.values() if record is not None]
        assert replay(GroupsImage(), kept, groups.image.version) == groups.image
