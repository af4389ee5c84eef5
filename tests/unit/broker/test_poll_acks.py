"""The ack of a poll: opaque to clients, and nothing else passes for one."""

import base64

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ottla_broker.services.poll_acks import MAX_ACK_PARTITIONS, PollAck, decode_ack, encode_ack
from ottla_protocol.errors import InvalidRequestError

OFFSETS = st.dictionaries(
    st.tuples(st.text(max_size=20), st.integers(0, 2**31 - 1)),
    st.integers(0, 2**63 - 1),
    min_size=1,
    max_size=20,
)
ACK = PollAck("billing", "m-1", 7, {("orders", 0): 3, ("orders", 2): 9})

TOO_MANY = dict.fromkeys(range(MAX_ACK_PARTITIONS + 1), 1)


def encoded(*fields):
    return base64.urlsafe_b64encode(msgspec.msgpack.encode(fields)).decode().rstrip("=")


@given(st.text(), st.text(), st.integers(0, 2**63 - 1), OFFSETS)
def test_an_ack_comes_back_as_it_was(group, member_id, generation, offsets):
    ack = PollAck(group, member_id, generation, offsets)
    text = encode_ack(ack)
    assert text.isascii()
    assert not set(text) & set("+/=&? ")
    assert decode_ack(text, group=group, member_id=member_id) == ack
    assert decode_ack(text, group=group, member_id=None) == ack


@example("l0Ch00")  # its text is no UTF-8
@given(st.text() | st.binary().map(lambda raw: base64.urlsafe_b64encode(raw).decode()))
def test_whatever_comes_instead_is_refused(text):
    with pytest.raises(InvalidRequestError) as refused:
        decode_ack(text, group="billing", member_id=None)
    assert refused.value.members["field"] == "ack"


@pytest.mark.parametrize(
    "text",
    [
        encoded(2, "billing", "m-1", 7, {"orders": {0: 3}}),
        encoded(1, "billing", "m-1", -7, {"orders": {0: 3}}),
        encoded(1, "billing", "m-1", 7, {"orders": {0: -3}}),
        encoded(1, "billing", "m-1", 7, {"orders": {2**31: 3}}),
        encoded(1, "billing", "m-1", 7, {"orders": {0: 2**63}}),
        encoded(1, "billing", "m-1", 7, {"orders": {}}),
        encoded(1, "billing", "m-1", 7, {}),
        encoded(1, "billing", "m-1", 7),
        encoded(1, "billing", "m-1", 7, {"orders": TOO_MANY}),
        encoded(1, "other", "m-1", 7, {"orders": {0: 3}}),
        encoded(1, "billing", "m-2", 7, {"orders": {0: 3}}),
        encode_ack(ACK)[:-1] + "\n",
    ],
)
def test_an_ack_of_another_shape_group_or_member_is_refused(text):
    with pytest.raises(InvalidRequestError) as refused:
        decode_ack(text, group="billing", member_id="m-1")
    assert refused.value.members["field"] == "ack"
