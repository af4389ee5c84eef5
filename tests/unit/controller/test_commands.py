import msgspec
import pytest

from ottla_cluster.controller.commands import (
    AddPartitions,
    AllocateProducerIds,
    AlterPartition,
    AlterPartitionResponse,
    AlterPartitions,
    AlterReassignments,
    AlterTopicConfigs,
    CreateTopic,
    DeleteTopic,
    ElectPreferred,
    FenceBroker,
    FormCluster,
    Heartbeat,
    HeartbeatResponse,
    IsrChange,
    IsrMember,
    PartitionState,
    Reassignment,
    RegisterBroker,
    ReportUnfitReplicas,
    TopicPartition,
    UnfitReplica,
    decode_command,
    decode_response,
)
from ottla_cluster.state_machine.messages import encode_message
from ottla_protocol.errors import MalformedBodyError


@pytest.mark.parametrize(
    "command",
    [
        FormCluster("c"),
        RegisterBroker(1, "i", "http://b", "r", "c"),
        Heartbeat(1, 2, 3, draining=True),
        FenceBroker(1, 2, "refused"),
        AlterPartition(1, 2, "id", 0, 3, 4, (IsrMember(1, 2),)),
        AlterPartitions(1, 2, (IsrChange("id", 0, 3, 4, (IsrMember(1, 2),)),)),
        CreateTopic("t", configs={"durability": "os", "segment.bytes": 4096}),
        AlterTopicConfigs("t", {"durability": None}),
        DeleteTopic("t"),
        DeleteTopic("t", "id"),
        ElectPreferred(),
        ElectPreferred((TopicPartition("t", 0),)),
        AllocateProducerIds(1, 2),
        AddPartitions("t", 6),
        AlterReassignments((Reassignment("t", 0, (1, 2)), Reassignment("t", 1, None))),
        ReportUnfitReplicas(1, 2, (UnfitReplica("id", 0, lost_tail=True),)),
    ],
    ids=lambda command: type(command).__name__,
)
def test_commands_cross_the_wire(command):
    assert decode_command(encode_message(command)) == command


def test_a_deletion_by_name_is_as_older_versions_know_it():
    encoded = msgspec.msgpack.decode(encode_message(DeleteTopic("t")))
    assert encoded == {"type": "delete_topic", "name": "t"}


def test_responses_cross_the_wire_and_may_gain_fields():
    response = AlterPartitionResponse("id", PartitionState(0, (1, 2), (1,), None, 3, 4))
    assert decode_response(encode_message(response)) == response
    newer = {
        "type": "heartbeat_taken",
        "fenced": False,
        "version": 7,
        "may_shut_down": True,
        "x": 1,
    }
    assert decode_response(msgspec.msgpack.encode(newer)) == HeartbeatResponse(
        fenced=False, version=7, may_shut_down=True
    )


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc1",
        msgspec.msgpack.encode({"type": "drop_everything"}),
        msgspec.msgpack.encode({"type": "delete_topic", "name": "t", "force": True}),
        msgspec.msgpack.encode({"type": "delete_topic"}),
    ],
)
def test_a_command_that_does_not_parse_is_malformed(body):
    with pytest.raises(MalformedBodyError):
        decode_command(body)
