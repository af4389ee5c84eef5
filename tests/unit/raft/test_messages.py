"""Messages survive the wire, and what is none is refused."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ottla_cluster.raft import (
    MAX_MESSAGES_PER_BATCH,
    AppendRequest,
    AppendResponse,
    Entry,
    EntryKind,
    InstallSnapshotRequest,
    InstallSnapshotResponse,
    PreVoteRequest,
    PreVoteResponse,
    VoteRequest,
    VoteResponse,
    decode_messages,
    encode_messages,
)
from ottla_protocol.errors import MalformedBodyError

COUNTS = st.integers(0, 2**63 - 1)
NODES = st.integers(1, 2**31)
ENTRIES = st.builds(Entry, COUNTS, COUNTS, st.binary(max_size=20))
MESSAGES = st.one_of(
    st.builds(PreVoteRequest, COUNTS, NODES, NODES, COUNTS, COUNTS),
    st.builds(PreVoteResponse, COUNTS, NODES, NODES, COUNTS, st.booleans()),
    st.builds(VoteRequest, COUNTS, NODES, NODES, COUNTS, COUNTS),
    st.builds(VoteResponse, COUNTS, NODES, NODES, st.booleans()),
    st.builds(
        AppendRequest,
        COUNTS,
        NODES,
        NODES,
        COUNTS,
        COUNTS,
        st.lists(ENTRIES, max_size=4).map(tuple),
        COUNTS,
        COUNTS,
    ),
    st.builds(AppendResponse, COUNTS, NODES, NODES, st.booleans(), COUNTS, COUNTS, COUNTS, COUNTS),
    st.builds(
        InstallSnapshotRequest,
        COUNTS,
        NODES,
        NODES,
        COUNTS,
        COUNTS,
        COUNTS,
        COUNTS,
        st.binary(max_size=20),
        COUNTS,
    ),
    st.builds(InstallSnapshotResponse, COUNTS, NODES, NODES, COUNTS, COUNTS, COUNTS),
)


@given(st.lists(MESSAGES, max_size=5))
def test_messages_survive_the_wire(messages):
    assert decode_messages(encode_messages(messages)) == messages


@given(st.binary(max_size=60))
def test_bytes_are_messages_or_malformed(data):
    try:
        messages = decode_messages(data)
    except MalformedBodyError:
        return
    assert encode_messages(messages)


@pytest.mark.parametrize(
    "message",
    [
        ["vote_response", -1, 1, 2, True],
        ["vote_response", 1, 0, 2, True],
        ["vote_response", 1, 1, 2],
        ["no_such_message", 1, 1, 2],
    ],
    ids=["negative term", "node 0", "a field is missing", "unknown tag"],
)
def test_a_malformed_message_is_refused(message):
    with pytest.raises(MalformedBodyError):
        decode_messages(msgspec.msgpack.encode([message]))


def test_a_newer_field_at_the_end_is_skipped():
    data = msgspec.msgpack.encode([["vote_response", 1, 2, 3, True, None, "of a newer version"]])
    assert decode_messages(data) == [VoteResponse(1, 2, 3, True)]


def test_an_older_version_tells_no_origin():
    data = msgspec.msgpack.encode([["vote_response", 1, 2, 3, True]])
    assert decode_messages(data)[0].origin is None


def test_an_entry_of_an_older_version_is_for_the_state_machine():
    entries = msgspec.msgpack.decode(msgspec.msgpack.encode([[1, 1, b"x"]]), type=list[Entry])
    assert entries == [Entry(1, 1, b"x", EntryKind.STATE_MACHINE)]


def test_a_batch_has_a_limit():
    message = ["vote_response", 1, 2, 3, True]
    with pytest.raises(MalformedBodyError):
        decode_messages(msgspec.msgpack.encode([message] * (MAX_MESSAGES_PER_BATCH + 1)))
