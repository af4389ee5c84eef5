import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ottla_cluster.controller.records import (
    BrokerDraining,
    BrokerFenced,
    BrokerRegistered,
    BrokerUnfenced,
    ClusterFormed,
    CorruptMetadataError,
    PartitionChanged,
    PartitionCreated,
    PartitionReassigned,
    ProducerIdsAllocated,
    TopicConfigsChanged,
    TopicCreated,
    TopicRemoved,
    decode_records,
    encode_records,
)

NUMBER = st.integers(0, 2**53)
NODES = st.lists(NUMBER, max_size=4).map(tuple)
CONFIGS = st.dictionaries(
    st.text(max_size=5), st.one_of(st.booleans(), NUMBER, st.text(max_size=5))
)
TEXT = st.text(max_size=8)
LEADER = st.one_of(st.none(), NUMBER)

RECORD = st.one_of(
    st.builds(ClusterFormed, TEXT, NUMBER),
    st.builds(BrokerRegistered, NUMBER, NUMBER, TEXT, TEXT, TEXT),
    st.builds(BrokerFenced, NUMBER, NUMBER),
    st.builds(BrokerUnfenced, NUMBER, NUMBER),
    st.builds(BrokerDraining, NUMBER, NUMBER),
    st.builds(TopicCreated, TEXT, TEXT, CONFIGS),
    st.builds(PartitionCreated, TEXT, NUMBER, NODES, NODES, LEADER, NUMBER, NUMBER),
    st.builds(PartitionChanged, TEXT, NUMBER, NODES, LEADER, NUMBER, NUMBER),
    st.builds(TopicConfigsChanged, TEXT, CONFIGS),
    st.builds(TopicRemoved, TEXT),
    st.builds(ProducerIdsAllocated, NUMBER, NUMBER, NUMBER),
    st.builds(
        PartitionReassigned, TEXT, NUMBER, NODES, NODES, NODES, NODES, LEADER, NUMBER, NUMBER
    ),
)


@given(st.lists(RECORD, max_size=6))
def test_records_survive_their_encoding(records):
    assert decode_records(encode_records(records)) == tuple(records)


def test_the_encoding_is_stable():
    """The log is kept for ever: these bytes must decode to these records in every version."""
    golden = bytes.fromhex("9393a26366a1780197a27078a1610592010201030292a27472a161")
    records = (
        ClusterFormed("x", 1),
        PartitionChanged("a", 5, (1, 2), 1, 3, 2),
        TopicRemoved("a"),
    )
    assert decode_records(golden) == records
    assert encode_records(records) == golden


def test_an_election_no_op_has_no_records():
    assert decode_records(b"") == ()


@pytest.mark.parametrize(
    "payload",
    [
        msgspec.msgpack.encode([["zz", 1]]),
        msgspec.msgpack.encode([["bf", 1]]),
        msgspec.msgpack.encode([["bf", 1, 2, 3]]),
        msgspec.msgpack.encode([["bf", 1, "two"]]),
        msgspec.msgpack.encode({"bf": 1}),
        b"\xc1",
        encode_records([BrokerFenced(1, 2)])[:-1],
    ],
    ids=["unknown tag", "missing field", "unknown field", "type", "no array", "garbage", "torn"],
)
def test_what_does_not_parse_is_a_typed_error(payload):
    with pytest.raises(CorruptMetadataError):
        decode_records(payload)
