"""A decision's payload is taken apart as it was put together, or refused."""

import pytest

from ottla_cluster.state_machine.keyed_records import (
    CorruptDecisionError,
    decode_pairs,
    encode_pairs,
)


@pytest.mark.parametrize("pairs", [(), ((b"key", b"value"),), ((b"", b""), (b"gone", None))])
def test_a_decision_comes_back_as_it_was(pairs):
    assert decode_pairs(encode_pairs(pairs)) == pairs


@pytest.mark.parametrize("payload", [b"", b"\x01", b"\xc1", encode_pairs(()) + b"\x00"])
def test_a_payload_that_is_none_is_refused(payload):
    with pytest.raises(CorruptDecisionError, match="payload"):
        decode_pairs(payload)
