"""What voters and observers say to one another, and what each writes down.

Every message carries its sender's current term, so that one rule holds everywhere: whoever sees a
higher term than its own follows it (Raft §5.1). Three requests are excepted: a pre-vote request
(dissertation §9.6) and an observer's announcement never move the receiver's term, and a vote
request moves it only when the receiver has no live leader (dissertation §4.2.3). And every message
carries its sender's `origin`: the data directory and the start that speak; None from a version that
does not know it.

On the wire a batch of messages is one MessagePack array. Each message is an array too, tag first,
so a field may be added at the end, with a default, and older nodes skip it.
"""

from enum import IntEnum
from typing import Annotated, Final

import msgspec

from ottla_cluster.raft.configuration import UNKNOWN_DIRECTORY, Configuration
from ottla_protocol.errors import MalformedBodyError

FORMER_STARTS_MAX: Final = 8
"""How many starts back a data directory tells which ones they were."""

FORMER_STARTS_ACCEPTED_MAX: Final = 64
"""How many are taken from others: a later version may tell more."""

_Count = Annotated[int, msgspec.Meta(ge=0)]
_NodeId = Annotated[int, msgspec.Meta(ge=1)]
_FormerStarts = Annotated[tuple[str, ...], msgspec.Meta(max_length=FORMER_STARTS_ACCEPTED_MAX)]
_Url = Annotated[str, msgspec.Meta(max_length=2_048)]


class EntryKind(IntEnum):
    """Whom an entry is for."""

    STATE_MACHINE = 0
    """The state machine; an empty payload is the no-op that a leader appends on its election."""
    CONFIGURATION = 1
    """Raft itself: the payload is a `configuration`."""


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """One entry of the Raft log; indexes start at 1.

    An empty payload is the no-op that a leader appends on its election (Raft §8).
    """

    index: _Count
    term: _Count
    payload: bytes
    kind: EntryKind = EntryKind.STATE_MACHINE


class HardState(msgspec.Struct, frozen=True, array_like=True):
    """What a voter must remember over a crash, beside its entries (Raft figure 2).

    `term` and `voted_for` are safety: a voter that forgets them may vote twice in one term.
    `commit_index` only saves time after a restart and may lag behind.
    """

    term: _Count = 0
    voted_for: _NodeId | None = None
    commit_index: _Count = 0


class Snapshot(msgspec.Struct, frozen=True, array_like=True):
    """The state machine's state after the entry (`index`, `term`), in place of all up to there."""

    index: _Count
    term: _Count
    data: bytes
    configuration: Configuration | None = None
    """Who votes as of that entry; None while no entry has told."""


class Compaction(msgspec.Struct, frozen=True, array_like=True):
    """A snapshot as a voter keeps it, and where its log was cut.

    (`compacted_index`, `compacted_term`) is the last entry that is gone, at or before the
    snapshot's: some entries that the snapshot covers may stay.
    """

    snapshot: Snapshot
    compacted_index: _Count
    compacted_term: _Count


class Origin(msgspec.Struct, frozen=True, array_like=True):
    """Which of a node's data directories speaks, and which start of its process.

    `start_count` is one more at every start on the directory, and on disk before anything is said;
    `incarnation` is random and tells two starts of one count apart. `former_incarnations` are those
    of the starts before this one, newest first, at most FORMER_STARTS_MAX; "" where not known.
    """

    directory_id: str
    start_count: _Count
    incarnation: str
    former_incarnations: _FormerStarts = ()

    def is_start_of(self, other: "Origin") -> bool:
        """Whether both are one start; a version that knows no former ones echoes none."""
        return (self.directory_id, self.start_count, self.incarnation) == (
            other.directory_id,
            other.start_count,
            other.incarnation,
        )


class RememberedStart(msgspec.Struct, frozen=True, array_like=True):
    """The newest start of a voter that a peer has heard of, and the highest term that it told."""

    directory_id: str
    start_count: _Count
    incarnation: str
    term: _Count


class PreVoteRequest(msgspec.Struct, frozen=True, array_like=True, tag="pre_vote_request"):
    """Would you vote for me in term + 1? Binds nobody; `term` is the sender's current term.

    `is_named`: the sender's configuration names its data directory, not just its node.
    """

    term: _Count
    sender: _NodeId
    receiver: _NodeId
    last_index: _Count
    last_term: _Count
    origin: Origin | None = None
    is_named: bool = False


class PreVoteResponse(msgspec.Struct, frozen=True, array_like=True, tag="pre_vote_response"):
    """The answer; `request_term` repeats the request's term.

    `leader_id` is whom the sender follows: a voter that was removed meanwhile learns of it there.
    """

    term: _Count
    sender: _NodeId
    receiver: _NodeId
    request_term: _Count
    granted: bool
    origin: Origin | None = None
    leader_id: _NodeId | None = None


class VoteRequest(msgspec.Struct, frozen=True, array_like=True, tag="vote_request"):
    """Vote for me in `term`; my log ends with (last_index, last_term).

    `is_named` is that of PreVoteRequest. `is_transfer`: the leader of the term before asked the
    sender to campaign, so nobody need hold to that leader.
    """

    term: _Count
    sender: _NodeId
    receiver: _NodeId
    last_index: _Count
    last_term: _Count
    origin: Origin | None = None
    is_named: bool = False
    is_transfer: bool = False


class VoteResponse(msgspec.Struct, frozen=True, array_like=True, tag="vote_response"):
    """The answer: sent only after the vote is on disk."""

    term: _Count
    sender: _NodeId
    receiver: _NodeId
    granted: bool
    origin: Origin | None = None


class AppendRequest(msgspec.Struct, frozen=True, array_like=True, tag="append_request"):
    """Entries that follow (prev_index, prev_term); without entries a heartbeat or commit news.

    `read_sequence` numbers the read rounds of this leadership; a response of the same term repeats
    it, one of a newer term tells 0.
    """

    term: _Count
    sender: _NodeId
    receiver: _NodeId
    prev_index: _Count
    prev_term: _Count
    entries: tuple[Entry, ...]
    commit_index: _Count
    read_sequence: _Count
    origin: Origin | None = None


class AppendResponse(msgspec.Struct, frozen=True, array_like=True, tag="append_response"):
    """The answer: sent only after the entries are on disk.

    Accepted: the sender's log equals the leader's up to `index`. Refused: it holds no entry
    (prev_index, prev_term) with prev_index = `index`; (`hint_index`, `hint_term`) is then the last
    entry of the sender at or before it whose term is not above prev_term, so that the leader steps
    back over whole terms at once (Raft §5.3, last paragraphs). To a request of an older term the
    hint is the sender's last entry.
    """

    term: _Count
    sender: _NodeId
    receiver: _NodeId
    accepted: bool
    index: _Count
    hint_index: _Count
    hint_term: _Count
    read_sequence: _Count
    origin: Origin | None = None


class InstallSnapshotRequest(msgspec.Struct, frozen=True, array_like=True, tag="snapshot_request"):
    """A part of the sender's snapshot (Raft §7); without bytes a heartbeat that asks how far it is.

    (`index`, `snapshot_term`) is the last entry that the snapshot covers, `size_bytes` its length,
    and `chunk` what begins at `offset`. `read_sequence` is that of AppendRequest.
    """

    term: _Count
    sender: _NodeId
    receiver: _NodeId
    index: _Count
    snapshot_term: _Count
    size_bytes: _Count
    offset: _Count
    chunk: bytes
    read_sequence: _Count
    origin: Origin | None = None
    configuration: Configuration | None = None


class InstallSnapshotResponse(
    msgspec.Struct, frozen=True, array_like=True, tag="snapshot_response"
):
    """The sender lacks the snapshot of `index` from byte `next_offset` on; none of it is on disk.

    Once it has all of it on disk, or needs none of it, it answers with an AppendResponse instead.
    """

    term: _Count
    sender: _NodeId
    receiver: _NodeId
    index: _Count
    next_offset: _Count
    read_sequence: _Count
    origin: Origin | None = None


class ObserveRequest(msgspec.Struct, frozen=True, array_like=True, tag="observe_request"):
    """I follow the log without a vote and am reached at `url`: send to me, if you lead.

    `term` is the sender's current term; it moves nobody's.
    """

    term: _Count
    sender: _NodeId
    receiver: _NodeId
    url: _Url
    origin: Origin | None = None


class TimeoutNow(msgspec.Struct, frozen=True, array_like=True, tag="timeout_now"):
    """You have all of my log: campaign now (dissertation §3.10). From a leader, to a voter."""

    term: _Count
    sender: _NodeId
    receiver: _NodeId
    origin: Origin | None = None


class StartRefused(msgspec.Struct, frozen=True, array_like=True, tag="start_refused"):
    """The start `refused` of yours is not behind all that I have heard from that directory.

    Only to senders that told an origin, so that no older version gets it.
    """

    term: _Count
    sender: _NodeId
    receiver: _NodeId
    refused: Origin
    origin: Origin | None = None


Message = (
    PreVoteRequest
    | PreVoteResponse
    | VoteRequest
    | VoteResponse
    | AppendRequest
    | AppendResponse
    | InstallSnapshotRequest
    | InstallSnapshotResponse
    | ObserveRequest
    | TimeoutNow
    | StartRefused
)

ADDED_MESSAGES: Final = (ObserveRequest, TimeoutNow, StartRefused)
"""Kinds that a version of feature level 1 may not know; it refuses any batch that holds one."""


def directory_of(message: Message) -> str:
    """The data directory that speaks; "" when it does not tell."""
    return message.origin.directory_id if message.origin else UNKNOWN_DIRECTORY


MAX_MESSAGES_PER_BATCH: Final = 4_096
"""Messages that one encoded batch may hold; a peer that sends more is refused."""

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[list[Message]] = msgspec.msgpack.Decoder(
    Annotated[list[Message], msgspec.Meta(max_length=MAX_MESSAGES_PER_BATCH)]
)


def encode_messages(messages: list[Message]) -> bytes:
    """Messages for one receiver as MessagePack, in order.

    The caller splits at MAX_MESSAGES_PER_BATCH.
    """
    assert len(messages) <= MAX_MESSAGES_PER_BATCH, "split the batch before encoding it"
    return _encoder.encode(messages)


def decode_messages(data: bytes) -> list[Message]:
    """The messages of one batch, in order.

    Raises:
        MalformedBodyError: not MessagePack, not a batch of messages, or over the limit.
    """
    try:
        return _decoder.decode(data)
    except msgspec.MsgspecError as error:
        raise MalformedBodyError(f"not a batch of Raft messages: {error}") from error
