"""How the Raft messages to one peer are divided into batches."""

from collections import deque

from ottla_broker.drivers.raft_outboxes import next_batch
from ottla_cluster.raft.messages import (
    ADDED_MESSAGES,
    AppendRequest,
    AppendResponse,
    InstallSnapshotRequest,
    InstallSnapshotResponse,
    Message,
    ObserveRequest,
    PreVoteRequest,
    PreVoteResponse,
    VoteRequest,
    VoteResponse,
)

ANSWER = AppendResponse(1, 1, 2, True, 1, 0, 0, 0)
ANNOUNCEMENT = ObserveRequest(1, 1, 2, "http://a")
KNOWN_TO_ALL = {
    AppendRequest,
    AppendResponse,
    InstallSnapshotRequest,
    InstallSnapshotResponse,
    PreVoteRequest,
    PreVoteResponse,
    VoteRequest,
    VoteResponse,
}


def batches(*messages):
    waiting = deque(messages)
    found = []
    while waiting:
        found.append(next_batch(waiting))
    return found


def test_what_an_older_version_does_not_know_takes_nothing_else_down():
    assert batches(ANSWER, ANSWER, ANNOUNCEMENT, ANNOUNCEMENT, ANSWER) == [
        [ANSWER, ANSWER],
        [ANNOUNCEMENT],
        [ANNOUNCEMENT],
        [ANSWER],
    ]


def test_every_added_kind_is_named():
    assert set(ADDED_MESSAGES) == set(Message.__args__) - KNOWN_TO_ALL
