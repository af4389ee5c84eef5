"""The group coordinator's commands and their responses, as they cross the wire between brokers.

How they are encoded is in `ottla_cluster.state_machine.messages`.

`ClientCommand` is what brokers forward for clients; the coordinator's own commands (expiry, topics
that changed) never cross the wire, and `decode_command` refuses them.
"""

import msgspec

from ottla_cluster.groups.instance_commands import (
    ExpireInstances,
    InstanceCommand,
    InstanceResponse,
)
from ottla_cluster.groups.messages import OffsetToCommit
from ottla_cluster.groups.transaction_commands import (
    CommitTransactionOffsets,
    CommitTransactionOffsetsResponse,
    EndTransactionOffsets,
    ForgetProducers,
    PendingTransaction,
)
from ottla_cluster.state_machine.messages import CommandMessage, MessageDecoder, ResponseMessage


class OwnedTopic(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The partitions of one topic that a member says it holds."""

    topic: str
    partitions: tuple[int, ...]


class Join(CommandMessage, frozen=True, tag="join"):
    """A process becomes a member, or a member joins again: after a lost reply, or to read others.

    Exactly one of `topics` and `pattern` is set. None takes the coordinator's default.
    """

    group: str
    topics: tuple[str, ...] | None = None
    pattern: str | None = None
    """Matches whole topic names; internal topics never match."""
    member_id: str | None = None
    """Chosen by the process, so that it can repeat a join whose reply was lost without leaving a
    ghost behind; None has the coordinator choose one."""
    instance_id: str | None = None
    """Makes the member static: whoever joins under it next takes over its partitions at once."""
    assignor: str | None = None
    session_timeout_ms: int | None = None
    rebalance_timeout_ms: int | None = None
    client_id: str = ""


class Heartbeat(CommandMessage, frozen=True, tag="heartbeat"):
    """A member is alive, and says what it works on.

    `generation` is that of the last reply that the member adopted. Once it has sent a heartbeat of
    a generation without a partition, it must not work on that partition again before a reply of a
    later generation assigns it: such a heartbeat gives the partition up.
    """

    group: str
    member_id: str
    generation: int
    owned: tuple[OwnedTopic, ...] | None = None
    """None says nothing about it: nothing is given up, and the reply has the whole assignment."""
    max_wait_ms: int = 0
    """How long a reply that tells nothing new may wait for news; the driver's business."""


class Leave(CommandMessage, frozen=True, tag="leave"):
    """A member goes; its partitions are free at once. A static member too."""

    group: str
    member_id: str


class CommitOffsets(CommandMessage, frozen=True, tag="commit_offsets"):
    """Commits all offsets, or none of them.

    With a member id a generation is needed too; without one the group must have no members.
    """

    group: str
    offsets: tuple[OffsetToCommit, ...]
    member_id: str | None = None
    generation: int | None = None
    only_forward: bool = False
    """An offset that the group has gone beyond stays; so a commit that comes late or twice takes
    nothing back."""


class FetchOffsets(CommandMessage, frozen=True, tag="fetch_offsets", omit_defaults=True):
    """Reads committed offsets."""

    group: str
    partitions: tuple[OwnedTopic, ...] | None = None
    """None for all that the group has committed."""
    require_stable: bool = False
    """Refused while a transaction that is not over may change one of them (KIP-447). What is false
    is left out, so that a broker of the version before understands it."""


class DescribeGroup(CommandMessage, frozen=True, tag="describe_group"):
    """Reads all of one group."""

    group: str


class ListGroups(CommandMessage, frozen=True, tag="list_groups"):
    """Reads the groups of this coordinator: those of one partition of the offsets topic."""


class DeleteGroup(CommandMessage, frozen=True, tag="delete_group"):
    """Removes a group without members, with its offsets."""

    group: str


class OffsetToSeek(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a group is to go on in one partition; the caller has resolved times and shifts."""

    topic: str
    partition: int
    offset: int


class SeekOffsets(CommandMessage, frozen=True, tag="seek_offsets"):
    """Moves committed offsets of a group without members; makes the group if there is none."""

    group: str
    offsets: tuple[OffsetToSeek, ...]
    dry_run: bool = False
    """Only tell what would change."""


ClientCommand = (
    Join
    | Heartbeat
    | Leave
    | CommitOffsets
    | CommitTransactionOffsets
    | FetchOffsets
    | DescribeGroup
    | ListGroups
    | DeleteGroup
    | SeekOffsets
    | InstanceCommand
)
"""What a client may ask for, through any broker."""


class OverdueMember(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A member that the coordinator holds for dead, or for stuck in giving partitions up."""

    member_id: str
    reason: str


class ExpireMembers(CommandMessage, frozen=True, tag="expire_members"):
    """Ends the membership of all overdue members of one group, by one rebalance."""

    group: str
    members: tuple[OverdueMember, ...]


class RefreshTopics(CommandMessage, frozen=True, tag="refresh_topics"):
    """Topics that the group reads, or might, were created, deleted or given partitions."""

    group: str


class ExpireOffsets(CommandMessage, frozen=True, tag="expire_offsets"):
    """Removes offsets of deleted topics, and those that a group without members keeps too long."""

    group: str
    retention_is_over: bool = False
    """Whether the latter go too: the coordinator has seen for a while that they are too old."""


Command = (
    ClientCommand
    | EndTransactionOffsets
    | ExpireMembers
    | ExpireInstances
    | RefreshTopics
    | ExpireOffsets
    | ForgetProducers
)
"""Any command of the coordinator."""


class AssignedTopic(msgspec.Struct, frozen=True):
    """The partitions of one topic that a member owns, in rising order."""

    topic: str
    topic_id: str
    partitions: tuple[int, ...]


class JoinResponse(ResponseMessage, frozen=True, tag="joined"):
    """The membership. Partitions that others still hold come with later heartbeats."""

    member_id: str
    generation: int
    assignment: tuple[AssignedTopic, ...]
    session_timeout_ms: int
    heartbeat_interval_ms: int


class HeartbeatResponse(ResponseMessage, frozen=True, tag="heartbeat_taken"):
    """What the member owns from now on: whatever is missing it must give up."""

    member_id: str
    generation: int
    assignment: tuple[AssignedTopic, ...] | None
    """None where it is just what the heartbeat said, in the same generation."""
    session_timeout_ms: int
    heartbeat_interval_ms: int
    """Shorter while partitions are on their way to or from the member."""


class LeaveResponse(ResponseMessage, frozen=True, tag="left"):
    """The member is gone."""

    member_id: str


class CommittedPartition(msgspec.Struct, frozen=True):
    """One committed partition."""

    topic: str
    partition: int
    offset: int


class CommitOffsetsResponse(ResponseMessage, frozen=True, tag="offsets_committed"):
    """What is committed for all partitions of the command, in its order."""

    offsets: tuple[CommittedPartition, ...]


class FetchedOffset(msgspec.Struct, frozen=True):
    """One partition's committed offset; None where the group has none."""

    topic: str
    partition: int
    offset: int | None
    leader_epoch: int | None = None
    metadata: str = ""
    commit_timestamp_ms: int | None = None


class FetchOffsetsResponse(ResponseMessage, frozen=True, tag="offsets_fetched"):
    """In the order of the command, or by topic and partition where it named none."""

    offsets: tuple[FetchedOffset, ...]


class MemberDescription(msgspec.Struct, frozen=True):
    """One member."""

    member_id: str
    instance_id: str | None
    client_id: str
    generation: int
    topics: tuple[str, ...]
    """What it reads: its list, or what its pattern matches."""
    pattern: str | None
    owned: tuple[AssignedTopic, ...]
    revoking: tuple[AssignedTopic, ...]
    """What it has been told to give up and may still work on."""
    target: tuple[AssignedTopic, ...]
    """What it is to own in the end."""
    session_timeout_ms: int
    rebalance_timeout_ms: int


class DescribeGroupResponse(ResponseMessage, frozen=True, tag="group_described"):
    """One group."""

    group: str
    state: str
    """"empty", "reconciling" or "stable"."""
    generation: int
    assignor: str
    members: tuple[MemberDescription, ...]
    """By member id."""
    offsets: tuple[FetchedOffset, ...]
    """By topic and partition."""
    pending: tuple[PendingTransaction, ...] = ()
    """By producer id."""


class GroupListing(msgspec.Struct, frozen=True):
    """One line of a list of groups."""

    group: str
    state: str
    generation: int
    assignor: str
    members: int


class ListGroupsResponse(ResponseMessage, frozen=True, tag="groups_listed"):
    """By group id."""

    groups: tuple[GroupListing, ...]


class DeleteGroupResponse(ResponseMessage, frozen=True, tag="group_deleted"):
    """The group is gone."""

    group: str


class SoughtOffset(msgspec.Struct, frozen=True):
    """What a seek changes in one partition."""

    topic: str
    partition: int
    before: int | None
    offset: int


class SeekOffsetsResponse(ResponseMessage, frozen=True, tag="offsets_sought"):
    """All partitions of the command, in its order."""

    dry_run: bool
    offsets: tuple[SoughtOffset, ...]


class DoneResponse(ResponseMessage, frozen=True, tag="done"):
    """A command that no client sent is carried out. Never crosses the wire."""

    has_changed: bool = True
    """Whether there was anything to do; told by `EndTransactionOffsets` alone."""


Response = (
    JoinResponse
    | HeartbeatResponse
    | LeaveResponse
    | CommitOffsetsResponse
    | CommitTransactionOffsetsResponse
    | FetchOffsetsResponse
    | DescribeGroupResponse
    | ListGroupsResponse
    | DeleteGroupResponse
    | SeekOffsetsResponse
    | InstanceResponse
    | DoneResponse
)
"""Any response of the coordinator."""

decode_command = MessageDecoder[ClientCommand](ClientCommand, "group command").decode
"""The command that a broker forwarded; those of the coordinator's own are refused."""

decode_response = MessageDecoder[Response](Response, "group response").decode
"""The response that a coordinator sent."""
