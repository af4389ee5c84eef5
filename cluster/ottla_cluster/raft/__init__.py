"""Raft-lite: the quorum that holds the cluster's metadata.

`node` is the state machine and states the driver's contract; `elections` and `voter_changes` are
parts of it, over `node_state`. Below it, each importing only what follows: `campaign` (a
candidate's votes), `leadership` (a leader's work), `appends` and `snapshots` (a leader's entries
and its snapshot on their way here), `ready` (what an input asks of the driver), `membership` (who
follows a leader, and who is to vote), `transfer` (of a leadership), `starts` (what is remembered of
the others' directories), `observers` (nodes without a vote),
`reads`, `progress`, `log`, `election_timer`, `admission`, `quorum`, `messages`, `config`,
`configuration` (who votes, as the log has it), `errors`.
Beside it, `snapshot_schedule` tells the driver when to take a snapshot.
"""

from ottla_cluster.raft.config import RaftConfig
from ottla_cluster.raft.configuration import (
    MAX_LEARNERS,
    MAX_VOTERS,
    UNKNOWN_DIRECTORY,
    Configuration,
    Voter,
    decode_configuration,
    encode_configuration,
)
from ottla_cluster.raft.errors import (
    NotLeaderError,
    RaftDirectoryRolledBackError,
    RaftInvariantError,
    RaftMessageRefusedError,
    RaftStateCorruptError,
)
from ottla_cluster.raft.messages import (
    MAX_MESSAGES_PER_BATCH,
    AppendRequest,
    AppendResponse,
    Compaction,
    Entry,
    EntryKind,
    HardState,
    InstallSnapshotRequest,
    InstallSnapshotResponse,
    Message,
    ObserveRequest,
    Origin,
    PreVoteRequest,
    PreVoteResponse,
    RememberedStart,
    Snapshot,
    StartRefused,
    TimeoutNow,
    VoteRequest,
    VoteResponse,
    decode_messages,
    encode_messages,
)
from ottla_cluster.raft.node import RaftNode
from ottla_cluster.raft.reads import ReadConfirmed
from ottla_cluster.raft.ready import Proposed, Ready, Role
from ottla_cluster.raft.snapshot_schedule import SnapshotSchedule

__all__ = [
    "MAX_LEARNERS",
    "MAX_MESSAGES_PER_BATCH",
    "MAX_VOTERS",
    "UNKNOWN_DIRECTORY",
    "AppendRequest",
    "AppendResponse",
    "Compaction",
    "Configuration",
    "Entry",
    "EntryKind",
    "HardState",
    "InstallSnapshotRequest",
    "InstallSnapshotResponse",
    "Message",
    "NotLeaderError",
    "ObserveRequest",
    "Origin",
    "PreVoteRequest",
    "PreVoteResponse",
    "Proposed",
    "RaftConfig",
    "RaftDirectoryRolledBackError",
    "RaftInvariantError",
    "RaftMessageRefusedError",
    "RaftNode",
    "RaftStateCorruptError",
    "ReadConfirmed",
    "Ready",
    "RememberedStart",
    "Role",
    "Snapshot",
    "SnapshotSchedule",
    "StartRefused",
    "TimeoutNow",
    "VoteRequest",
    "VoteResponse",
    "Voter",
    "decode_configuration",
    "decode_messages",
    "encode_configuration",
    "encode_messages",
]
