"""Commands and responses cross the wire; the coordinator's own commands do not."""

import msgspec
import pytest

from ottla_cluster.controller.image import MetadataImage
from ottla_cluster.controller.records import PartitionCreated, TopicCreated, TopicRemoved
from ottla_cluster.controller.replay import replay
from ottla_cluster.groups.cluster_view import ClusterView, TopicView
from ottla_cluster.groups.commands import (
    CommitOffsets,
    CommitTransactionOffsets,
    DeleteGroup,
    DescribeGroup,
    EndTransactionOffsets,
    ExpireMembers,
    ExpireOffsets,
    FetchOffsets,
    ForgetProducers,
    Heartbeat,
    HeartbeatResponse,
    Join,
    Leave,
    ListGroups,
    OffsetToCommit,
    OffsetToSeek,
    OverdueMember,
    OwnedTopic,
    RefreshTopics,
    SeekOffsets,
    decode_command,
    decode_response,
)
from ottla_cluster.state_machine.messages import encode_message
from ottla_protocol.errors import MalformedBodyError
from tests.unit.groups.groups_under_test import GroupsUnderTest

COMMANDS = [
    Join("g", ("orders",), member_id="a"),
    Heartbeat("g", "a", 2, (OwnedTopic("orders", (0, 1, 2)),)),
    CommitOffsets("g", (OffsetToCommit("orders", 0, 5),), "a", 2),
    FetchOffsets("g", (OwnedTopic("orders", (0,)),)),
    CommitTransactionOffsets("h", "t", 7, 0, (OffsetToCommit("orders", 0, 5),)),
    DescribeGroup("g"),
    DescribeGroup("h"),
    ListGroups(),
    Leave("g", "a"),
    SeekOffsets("g", (OffsetToSeek("orders", 0, 1),), dry_run=True),
    DeleteGroup("g"),
]


def test_commands_and_responses_survive_the_wire():
    groups = GroupsUnderTest()
    for command in COMMANDS:
        received = decode_command(encode_message(command))
        assert received == command
        response = groups.apply(received)
        assert decode_response(encode_message(response)) == response


@pytest.mark.parametrize(
    "own",
    [
        EndTransactionOffsets(7, 1, is_commit=True, coordinator_epoch=0),
        ExpireMembers("g", (OverdueMember("a", "no"),)),
        RefreshTopics("g"),
        ExpireOffsets("g"),
        ForgetProducers(((7, 1),)),
    ],
    ids=lambda own: type(own).__name__,
)
def test_nobody_sends_the_coordinators_own_commands(own):
    with pytest.raises(MalformedBodyError, match="parse"):
        decode_command(encode_message(own))


def test_a_field_that_the_coordinator_does_not_know_is_refused_in_a_command_only():
    message = {"type": "leave", "group": "g", "member_id": "a", "new": 1}
    with pytest.raises(MalformedBodyError, match="new"):
        decode_command(msgspec.msgpack.encode(message))
    answer = HeartbeatResponse("a", 1, None, 10, 5)
    newer = msgspec.to_builtins(answer) | {"new": 1}
    assert decode_response(msgspec.msgpack.encode(newer)) == answer
    with pytest.raises(MalformedBodyError):
        decode_response(b"\xc1")


def test_a_fetch_that_needs_nothing_new_is_what_the_version_before_sends():
    message = msgspec.msgpack.decode(encode_message(FetchOffsets("g")))
    assert message == {"type": "fetch_offsets", "group": "g"}
    stable = FetchOffsets("g", require_stable=True)
    assert decode_command(encode_message(stable)) == stable


# --- the view of the cluster ---


def created(name, topic_id, version, image, partitions=1):
    records = [TopicCreated(topic_id, name, {})]
    records += [
        PartitionCreated(topic_id, number, (1,), (1,), 1, 0, 0) for number in range(partitions)
    ]
    return replay(image, records, version)


def test_the_view_follows_the_image_without_internal_topics():
    image = created("orders", "id-1", 1, MetadataImage(), partitions=2)
    image = created("__consumer_offsets", "id-2", 2, image)
    view = ClusterView().updated(image)
    assert view == ClusterView(2, {"orders": TopicView("id-1", 2)})
    assert view.updated(image) is view


def test_the_view_keeps_its_topics_object_while_they_are_the_same():
    image = created("orders", "id-1", 1, MetadataImage())
    view = ClusterView().updated(image)
    later = view.updated(replay(image, (), 2))
    assert later.version == 2
    assert later.topics is view.topics
    gone = later.updated(replay(image, [TopicRemoved("id-1")], 3))
    assert gone.topics == {}
