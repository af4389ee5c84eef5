"""The coordinator's commands for consumer instances of the REST Proxy API.

An instance is what such a client takes for its consumer: settings, what it reads, and how far it
has come. All of it is the coordinator's, so any broker serves any instance. `member_id` is the
instance's id, and that of its membership while it subscribes.

Who asks for records says nothing of those that it got before, so they count as read once they have
been sent: `OfferRecords` writes down what is about to be sent, and `SettleDelivery` that it was, or
that it was not. Until then the instance's other requests wait; where the sending process is gone,
they name the delivery as void, and what it would have brought is read again.
"""

import msgspec

from ottla_cluster.groups.messages import OffsetToCommit
from ottla_cluster.state_machine.messages import CommandMessage, ResponseMessage


class InstanceSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a client chose when it made the instance."""

    record_format: str
    auto_offset_reset: str
    auto_commit: bool
    fetch_min_bytes: int
    request_timeout_ms: int | None
    """How long a request waits for records; None where the client did not say."""
    idle_timeout_ms: int
    """The instance is removed when nobody has asked for it for so long."""


class TopicPartitionName(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One partition."""

    topic: str
    partition: int


class InstancePartition(msgspec.Struct, frozen=True):
    """A partition that an instance reads, and where it goes on."""

    topic: str
    topic_id: str
    partition: int
    generation: int
    """In which it was assigned; 0 where the client chose it."""
    offset: int | None
    """What the instance has not read yet, else what the group has committed; None where nothing
    is."""


class CreateInstance(CommandMessage, frozen=True, tag="create_instance"):
    """Makes an instance that reads nothing yet; the same `creation_id` may come twice."""

    group: str
    member_id: str
    creation_id: str
    settings: InstanceSettings


class RemoveInstance(CommandMessage, frozen=True, tag="remove_instance"):
    """Ends an instance and its membership; with auto commit, what was read is committed."""

    group: str
    member_id: str


class SubscribeInstance(CommandMessage, frozen=True, tag="subscribe_instance"):
    """Makes the instance a member that reads topics, by name or pattern; neither ends both."""

    group: str
    member_id: str
    topics: tuple[str, ...] | None = None
    pattern: str | None = None


class AssignInstance(CommandMessage, frozen=True, tag="assign_instance"):
    """Has the instance read these partitions, without the group; none ends that."""

    group: str
    member_id: str
    partitions: tuple[TopicPartitionName, ...]


class DescribeInstance(CommandMessage, frozen=True, tag="describe_instance"):
    """Reads an instance; a sign of life like every command of it."""

    group: str
    member_id: str


class PollInstance(CommandMessage, frozen=True, tag="poll_instance"):
    """The client is done with what it got before: joins again if need be, gives up what was taken.

    With auto commit, what was read is committed.
    """

    group: str
    member_id: str
    void_delivery_id: str | None = None


class MoveInstance(CommandMessage, frozen=True, tag="move_instance"):
    """Sets positions in partitions that the instance reads."""

    group: str
    member_id: str
    offsets: tuple[OffsetToCommit, ...]
    void_delivery_id: str | None = None


class OfferRecords(CommandMessage, frozen=True, tag="offer_records"):
    """Records are about to be sent that begin at `starts` and end before `ends`."""

    group: str
    member_id: str
    delivery_id: str
    node_id: int
    broker_epoch: int
    starts: tuple[InstancePartition, ...]
    ends: tuple[InstancePartition, ...]


class SettleDelivery(CommandMessage, frozen=True, tag="settle_delivery"):
    """All of a delivery has left the broker, or it never will."""

    group: str
    member_id: str
    delivery_id: str
    is_delivered: bool


class CommitInstance(CommandMessage, frozen=True, tag="commit_instance"):
    """Commits next offsets; None for all that was read."""

    group: str
    member_id: str
    offsets: tuple[OffsetToCommit, ...] | None = None
    void_delivery_id: str | None = None


InstanceCommand = (
    CreateInstance
    | RemoveInstance
    | SubscribeInstance
    | AssignInstance
    | DescribeInstance
    | PollInstance
    | MoveInstance
    | OfferRecords
    | SettleDelivery
    | CommitInstance
)
"""What a broker may ask for on behalf of an instance."""


class ExpireInstances(CommandMessage, frozen=True, tag="expire_instances"):
    """Removes instances of one group that nobody has asked for, for too long; nothing is committed.

    The coordinator's own command.
    """

    group: str
    instance_ids: tuple[str, ...]


class PendingDelivery(msgspec.Struct, frozen=True):
    """Records are on their way to the instance's client."""

    delivery_id: str
    node_id: int
    broker_epoch: int


class InstanceResponse(ResponseMessage, frozen=True, tag="instance"):
    """The instance after the command.

    Where `pending` is set, a command that has to wait for the delivery has changed nothing.
    """

    instance_id: str
    settings: InstanceSettings
    topics: tuple[str, ...] | None
    pattern: str | None
    is_assigned: bool
    """The client chose the partitions."""
    subscription: tuple[str, ...]
    """The topics that it reads as a member: its list, or what its pattern matches."""
    generation: int
    """Of the membership; 0 without one."""
    partitions: tuple[InstancePartition, ...]
    """By topic and partition."""
    is_settled: bool
    """It has all that it is to have, so waiting will bring no other partitions."""
    pending: PendingDelivery | None
