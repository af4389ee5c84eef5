"""Raft-lite: the quorum that holds the cluster's metadata.

`node` is the state machine and states the driver's contract. Below it, each importing only what
follows: `campaign` (a candidate's votes), `leadership` (a leader's work), `ready` (what an input
asks of the driver), `reads`, `progress`, `log`, `admission`, `quorum`, `messages`, `config`,
`errors`.
"""

from ottla_cluster.raft.config import MAX_VOTERS, RaftConfig
from ottla_cluster.raft.errors import (
    NotLeaderError,
    RaftInvariantError,
    RaftMessageRefusedError,
    RaftStateCorruptError,
)
from ottla_cluster.raft.messages import (
    MAX_MESSAGES_PER_BATCH,
    AppendRequest,
    AppendResponse,
    Entry,
    HardState,
    Message,
    PreVoteRequest,
    PreVoteResponse,
    VoteRequest,
    VoteResponse,
    decode_messages,
    encode_messages,
)
from ottla_cluster.raft.node import RaftNode
from ottla_cluster.raft.reads import ReadConfirmed
from ottla_cluster.raft.ready import Proposed, Ready, Role

__all__ = [
    "MAX_MESSAGES_PER_BATCH",
    "MAX_VOTERS",
    "AppendRequest",
    "AppendResponse",
    "Entry",
    "HardState",
    "Message",
    "NotLeaderError",
    "PreVoteRequest",
    "PreVoteResponse",
    "Proposed",
    "RaftConfig",
    "RaftInvariantError",
    "RaftMessageRefusedError",
    "RaftNode",
    "RaftStateCorruptError",
    "ReadConfirmed",
    "Ready",
    "Role",
    "VoteRequest",
    "VoteResponse",
    "decode_messages",
    "encode_messages",
]
