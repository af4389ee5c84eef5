"""Requests and responses of consumer groups; the rules are those of `models`."""

from typing import Annotated, Literal

from msgspec import Meta, field

from ottla_protocol.models import Request, Response

Count = Annotated[int, Meta(ge=0, le=2**31 - 1)]
"""A partition, an epoch, or a time-out in milliseconds."""

MAX_HEARTBEAT_WAIT_MS = 30_000
"""How long a heartbeat may ask to wait for news; never longer than the member's session either."""

Wait = Annotated[int, Meta(ge=0, le=MAX_HEARTBEAT_WAIT_MS)]
"""How long a heartbeat may wait, in milliseconds."""

Offset = Annotated[int, Meta(ge=0, le=2**63 - 1)]
"""An offset, or a generation."""

Shift = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
"""An offset, or a number of offsets forwards or backwards."""


class OwnedPartitions(Request, frozen=True):
    """The partitions of one topic that a member says it reads."""

    topic: str
    partitions: list[Count]


class AssignedPartitions(Response, frozen=True):
    """The partitions of one topic that a member may read, in rising order."""

    topic: str
    partitions: list[int]


class JoinGroupRequest(Request, frozen=True):
    """`POST /v1/groups/{group}/members`: exactly one of `topics` and `pattern`.

    `pattern` is a regular expression that must match a topic's whole name. With `member_id` a
    member that was there before joins again. What is left out takes the group's default.
    """

    topics: list[str] | None = None
    pattern: str | None = None
    member_id: str | None = None
    instance_id: str | None = None
    assignor: str | None = None
    session_timeout_ms: Count | None = None
    rebalance_timeout_ms: Count | None = None


class GroupHeartbeatRequest(Request, frozen=True):
    """`POST …/heartbeat`: the generation that the member knows, and what it reads.

    A partition that was taken from the member goes to its next owner once `owned` lacks it.

    An answer that would only confirm `owned` waits for up to `max_wait_ms` until there is news, and
    never for longer than the session. The member counts as alive meanwhile, and its session
    begins anew with the answer. A later heartbeat of the member has the waiting one answered at
    once, without news, and so may a broker that has no more room for waiting requests: the next
    one is then due after `heartbeat_interval_ms`, as is that of a member that has news and still
    reads what was taken from it. A heartbeat without `owned` never waits.
    """

    generation: Offset
    owned: list[OwnedPartitions] | None = None
    """None says nothing about it, and the answer has the whole assignment."""
    max_wait_ms: Wait = 0


class MembershipResponse(Response, frozen=True):
    """The answer to join and heartbeat; `assignment` is None where it did not change."""

    member_id: str
    generation: int
    assignment: list[AssignedPartitions] | None
    session_timeout_ms: int
    heartbeat_interval_ms: int


class OffsetToCommit(Request, frozen=True):
    """The next offset to read of one partition."""

    topic: str
    partition: Count
    offset: Offset
    leader_epoch: Count | None = None
    metadata: str = ""


class CommitOffsetsRequest(Request, frozen=True):
    """`POST /v1/groups/{group}/offsets`: all are committed, or none.

    Members name themselves and their generation; without both, the group must have no members.
    """

    offsets: list[OffsetToCommit]
    member_id: str | None = None
    generation: Offset | None = None


class PartitionOffset(Response, frozen=True):
    """One committed offset of a commit's answer."""

    topic: str
    partition: int
    offset: int


class CommitOffsetsResponse(Response, frozen=True):
    """What is committed now, in the order of the request."""

    offsets: list[PartitionOffset]


class CommittedOffset(Response, frozen=True):
    """The next offset to read of one partition, as the group committed it."""

    topic: str
    partition: int
    offset: int
    leader_epoch: int | None
    metadata: str
    commit_timestamp: int
    """Milliseconds since the epoch."""


class CommittedOffsets(Response, frozen=True):
    """`GET /v1/groups/{group}/offsets`: by topic and partition; none that was never committed."""

    group: str
    offsets: list[CommittedOffset]


class GroupListing(Response, frozen=True):
    """One group of a list."""

    group: str
    state: str
    members: int


class GroupList(Response, frozen=True):
    """`GET /v1/groups`: all groups, by name."""

    groups: list[GroupListing]


class GroupMemberDescription(Response, frozen=True):
    """One member, with what it may read now; `topics` are those that its pattern matches."""

    member_id: str
    instance_id: str | None
    generation: int
    topics: list[str]
    pattern: str | None
    assignment: list[AssignedPartitions]
    revoking: list[AssignedPartitions]
    """What it was told to give up and may still read."""
    session_timeout_ms: int


class PartitionLag(Response, frozen=True):
    """How far the group is on one partition.

    `end` is the high watermark, or the last stable offset with `isolation=read_committed`.
    `committed` is None where nothing was committed, `end` while the leader does not tell it, `lag`
    where either is.
    """

    topic: str
    partition: int
    committed: int | None
    end: int | None
    lag: int | None
    member_id: str | None
    metadata: str


class PendingOffsets(Response, frozen=True):
    """What a transaction that is not over has committed; by topic and partition.

    They become the group's offsets if the transaction commits, and vanish if it aborts.
    """

    producer_id: int
    producer_epoch: int
    offsets: list[PartitionOffset]


class GroupDescription(Response, frozen=True):
    """`GET /v1/groups/{group}`; `coordinator` is the node id of the broker that coordinates it."""

    group: str
    state: str
    coordinator: int
    generation: int
    assignor: str
    members: list[GroupMemberDescription]
    offsets: list[PartitionLag]
    pending: list[PendingOffsets] = field(default_factory=list)


class SeekGroupRequest(Request, frozen=True):
    """`POST /v1/groups/{group}/seek`: set committed offsets of a group without members.

    `to` is `earliest`, `latest`, `offset` (to `value`), `shift` (by `value`, from what is
    committed) or `timestamp` (to the first record at or after `value`, in ms since the epoch, or
    the end); where the result lies outside a partition, its nearest end is taken, and the answer
    tells so. Without `topics` all partitions that the group has committed are meant, without
    `partitions` all of the topics'. With `dry_run` nothing changes.
    """

    to: Literal["earliest", "latest", "offset", "shift", "timestamp"]
    value: Shift | None = None
    topics: list[str] | None = None
    partitions: list[Count] | None = None
    dry_run: bool = False


class SoughtOffset(Response, frozen=True):
    """One partition of a seek: what was committed, None if nothing was, and what is now.

    `clamped_to` names the end of the partition that was taken because what was asked for, `offset`
    or `shift`, lies outside.
    """

    topic: str
    partition: int
    committed: int | None
    offset: int
    clamped_to: Literal["earliest", "latest"] | None = None


class SeekGroupResponse(Response, frozen=True):
    """By topic and partition; with `dry_run`, what would be."""

    group: str
    dry_run: bool
    offsets: list[SoughtOffset]
