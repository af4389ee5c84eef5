"""The largest decisions that the limits allow fit into one record batch."""

from ottla_cluster.controller.features import LATEST_FEATURE_LEVEL
from ottla_cluster.groups.cluster_view import ClusterView, TopicView
from ottla_cluster.groups.commands import (
    CommitOffsets,
    CommitTransactionOffsets,
    DeleteGroup,
    EndTransactionOffsets,
    Leave,
    OffsetToCommit,
)
from ottla_cluster.groups.image import replay
from ottla_cluster.groups.limits import (
    MAX_COMMIT_METADATA_LENGTH,
    MAX_DECISION_BYTES,
    MAX_GROUP_ID_LENGTH,
    MAX_MEMBER_ID_LENGTH,
    MAX_MEMBERS,
    MAX_OFFSETS_PER_COMMIT,
    MAX_OFFSETS_PER_GROUP,
    MAX_PENDING_METADATA_LENGTH,
    MAX_PENDING_OFFSETS_PER_PRODUCER,
)
from ottla_cluster.groups.records import (
    CurrentAssigned,
    GroupChanged,
    MemberChanged,
    OffsetCommitted,
    TargetAssigned,
    encode_records,
)
from tests.unit.groups.groups_under_test import GroupsUnderTest

WIDE = "\N{GRINNING FACE}"
"""A printable character of four bytes."""

GROUP = WIDE * MAX_GROUP_ID_LENGTH
TOPICS = {f"{number:05}".ljust(248, "x"): TopicView(f"{number:032}", 1) for number in range(10_000)}


def size(groups, command):
    groups.apply(command)
    return len(encode_records(groups.last_records))


def groups_with(records):
    groups = GroupsUnderTest()
    groups.view = ClusterView(1, TOPICS, LATEST_FEATURE_LEVEL)
    groups.image = replay(groups.image, records, 1)
    return groups


def test_the_largest_deletion_and_the_largest_commit_fit():
    groups = groups_with(
        [
            OffsetCommitted(GROUP, "orders", f"{number:032}", 0, 1, None, "", 0, 0)
            for number in range(MAX_OFFSETS_PER_GROUP)
        ]
    )
    assert size(groups, DeleteGroup(GROUP)) < MAX_DECISION_BYTES
    share = MAX_COMMIT_METADATA_LENGTH // MAX_OFFSETS_PER_COMMIT
    entries = tuple(
        OffsetToCommit(topic, 0, 2**63 - 1, 2**31, WIDE * share)
        for topic in list(TOPICS)[:MAX_OFFSETS_PER_COMMIT]
    )
    assert size(groups, CommitOffsets(GROUP, entries)) < MAX_DECISION_BYTES


def test_the_largest_transaction_fits():
    groups = groups_with([OffsetCommitted(GROUP, "orders", "t", 0, 1, None, "", 0, 0)])
    topics, largest = list(TOPICS), 0
    share = MAX_PENDING_METADATA_LENGTH // MAX_PENDING_OFFSETS_PER_PRODUCER
    for start in range(0, MAX_PENDING_OFFSETS_PER_PRODUCER, MAX_OFFSETS_PER_COMMIT):
        entries = tuple(
            OffsetToCommit(topic, 0, 2**63 - 1, 2**31, WIDE * share)
            for topic in topics[start : start + MAX_OFFSETS_PER_COMMIT]
        )
        commit = CommitTransactionOffsets(GROUP, "t", 2**63 - 1, 0, entries)
        largest = max(largest, size(groups, commit))
    assert largest < MAX_DECISION_BYTES
    end = EndTransactionOffsets(2**63 - 1, 1, is_commit=True, coordinator_epoch=0)
    assert size(groups, end) < MAX_DECISION_BYTES
    assert len(groups.last_records) > MAX_PENDING_OFFSETS_PER_PRODUCER


def test_the_largest_rebalance_fits():
    pad = WIDE * (MAX_MEMBER_ID_LENGTH - 4)
    records = [GroupChanged(GROUP, 1, "round_robin", (), 0, None)]
    for number in range(MAX_MEMBERS):
        member_id = f"{number:04}{pad}"
        records += [
            MemberChanged(GROUP, member_id, None, "", None, ".*", 10_000, 60_000, ()),
            TargetAssigned(GROUP, member_id, ()),
            CurrentAssigned(GROUP, member_id, 1, (), ()),
        ]
    groups = groups_with(records)
    assert size(groups, Leave(GROUP, f"0000{pad}")) < MAX_DECISION_BYTES
    assert len(groups.last_records) > MAX_MEMBERS
