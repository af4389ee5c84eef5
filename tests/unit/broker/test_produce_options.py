"""Which options a produce may have, and what of them an older broker is not bothered with."""

import msgspec
import pytest

from ottla_broker.services.produce_options import ProduceOptions
from ottla_protocol.errors import InvalidRequestError, InvalidRequiredAcksError
from ottla_protocol.models import ACKS_ALL, BinaryProduceRequest
from ottla_protocol.transaction_tokens import TransactionToken


@pytest.mark.parametrize("acks", [0, 1])
def test_a_transaction_needs_every_acknowledgement(acks):
    assert ProduceOptions.checked(acks, 1_000).acks == acks
    with pytest.raises(InvalidRequiredAcksError, match="all") as told:
        ProduceOptions.checked(acks, 1_000, "transfers")
    assert told.value.members == {"field": "acks"}
    with pytest.raises(InvalidRequiredAcksError, match="all") as told:
        ProduceOptions.of_records(acks, 1_000, TransactionToken("transfers", 7, 0))
    # It came in the query.
    assert told.value.members == {"parameter": "acks"}
    assert ProduceOptions.checked(ACKS_ALL, 1_000, "transfers").transactional_id == "transfers"


@pytest.mark.parametrize("transactional_id", ["", "x" * 250, "a\nb", ".."])
def test_a_transactional_id_has_rules(transactional_id):
    with pytest.raises(InvalidRequestError, match="transactional_id must"):
        ProduceOptions.checked(ACKS_ALL, 1_000, transactional_id)


def test_records_of_a_transaction_go_under_its_holder_s_id():
    token = TransactionToken("transfers", 7001, 3)
    options = ProduceOptions.of_records(ACKS_ALL, 1_000, token)
    assert (options.transaction, options.transactional_id) == (token, "transfers")
    assert options.token == "7001.3.transfers"
    assert ProduceOptions.of_records(1, 1_000, None).token is None
    with pytest.raises(InvalidRequiredAcksError, match="all"):
        ProduceOptions.of_records(1, 1_000, token)


def test_a_request_without_transactions_has_no_field_that_an_older_broker_refuses():
    sent = msgspec.msgpack.decode(msgspec.msgpack.encode(BinaryProduceRequest([], 1, 7)))
    assert sent == {"batches": [], "acks": 1, "timeout_ms": 7}
    named = BinaryProduceRequest([], transactional_id="transfers")
    again = msgspec.msgpack.decode(msgspec.msgpack.encode(named), type=BinaryProduceRequest)
    assert again == named
