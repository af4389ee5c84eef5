"""Sequence rules of idempotent producers."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ottla_broker.storage.policy.producer_state import (
    PRODUCER_BATCHES_MAX,
    Accept,
    Duplicate,
    ProducerAppend,
    ProducerStates,
)
from ottla_protocol.errors import (
    DuplicateSequenceNumberError,
    InvalidProducerEpochError,
    Outcome,
    OutOfOrderSequenceNumberError,
)
from ottla_protocol.record_batch import MAX_SEQUENCE, NO_SEQUENCE, read_header
from tests.unit.storage.log_harness import make_batch


def header_of(sequence, records=1, *, producer_id=7, epoch=0, is_transactional=False):
    return read_header(
        make_batch(
            records,
            producer_id=producer_id,
            producer_epoch=epoch,
            base_sequence=sequence,
            transactional=is_transactional,
        )
    )


def take(states, sequence, records=1, *, base_offset=0, producer_id=7, epoch=0, **flags):
    states.append(
        ProducerAppend(
            producer_id,
            epoch,
            sequence,
            base_offset,
            base_offset + records - 1,
            timestamp=base_offset,
            is_transactional=flags.get("is_transactional", False),
            is_control=flags.get("is_control", False),
        )
    )


def test_a_batch_without_producer_is_always_accepted():
    assert ProducerStates().check(read_header(make_batch())) == Accept()


@pytest.mark.parametrize("sequence", [0, 5, MAX_SEQUENCE])
def test_an_unknown_producer_may_begin_at_any_sequence(sequence):
    assert ProducerStates().check(header_of(sequence)) == Accept()


@pytest.mark.parametrize("sequence", [1, MAX_SEQUENCE])
def test_an_unknown_producer_begins_a_transaction_at_sequence_0(sequence):
    states = ProducerStates()
    for accepted in (0, NO_SEQUENCE):
        assert states.check(header_of(accepted, is_transactional=True)) == Accept()
    with pytest.raises(OutOfOrderSequenceNumberError) as refused:
        states.check(header_of(sequence, is_transactional=True))
    assert refused.value.members == {"expected_sequence": 0}


def test_the_next_sequence_is_accepted_and_a_later_one_is_not():
    states = ProducerStates()
    take(states, 0, records=3)
    assert states.check(header_of(3)) == Accept()
    with pytest.raises(OutOfOrderSequenceNumberError) as raised:
        states.check(header_of(4))
    assert raised.value.members["expected_sequence"] == 3
    assert raised.value.outcome is Outcome.NOT_APPLIED


def test_each_of_the_last_five_batches_is_recognised_with_its_offsets():
    states = ProducerStates()
    for number in range(PRODUCER_BATCHES_MAX):
        take(states, number * 2, records=2, base_offset=100 + number * 2)
    for number in range(PRODUCER_BATCHES_MAX):
        base = 100 + number * 2
        assert states.check(header_of(number * 2, records=2)) == Duplicate(base, base + 1, base)


def test_the_sixth_last_batch_is_a_duplicate_whose_offset_is_forgotten():
    states = ProducerStates()
    for number in range(PRODUCER_BATCHES_MAX + 1):
        take(states, number, base_offset=number)
    with pytest.raises(DuplicateSequenceNumberError):
        states.check(header_of(0))


def test_a_batch_cut_differently_is_out_of_order():
    states = ProducerStates()
    take(states, 0, records=2)
    take(states, 2, records=2)
    with pytest.raises(OutOfOrderSequenceNumberError):
        states.check(header_of(1, records=2))


def test_sequences_wrap_from_the_largest_int32_to_zero():
    states = ProducerStates()
    take(states, MAX_SEQUENCE - 1, records=2)
    assert states.check(header_of(0)) == Accept()
    take(states, 0, base_offset=2)
    assert states.check(header_of(MAX_SEQUENCE - 1, records=2)) == Duplicate(0, 1, 0)
    assert states.check(header_of(1)) == Accept()
    with pytest.raises(OutOfOrderSequenceNumberError):
        states.check(header_of(2))


def test_a_batch_over_the_wrap_is_one_batch():
    states = ProducerStates()
    take(states, MAX_SEQUENCE, records=3)
    assert states.check(header_of(2)) == Accept()
    assert states.check(header_of(MAX_SEQUENCE, records=3)) == Duplicate(0, 2, 0)


def test_an_older_epoch_is_fenced_and_a_newer_one_begins_at_zero():
    states = ProducerStates()
    take(states, 0, records=4, epoch=3)
    with pytest.raises(InvalidProducerEpochError):
        states.check(header_of(4, epoch=2))
    with pytest.raises(OutOfOrderSequenceNumberError) as raised:
        states.check(header_of(4, epoch=4))
    assert raised.value.members["expected_sequence"] == 0
    assert states.check(header_of(0, epoch=4)) == Accept()


def test_a_new_epoch_forgets_the_batches_of_the_old():
    states = ProducerStates()
    take(states, 0, epoch=1)
    take(states, 0, epoch=2, base_offset=9)
    assert states.check(header_of(0, epoch=2)) == Duplicate(9, 9, 9)


def test_a_transaction_is_open_from_its_first_batch_to_its_marker():
    states = ProducerStates()
    take(states, 0, base_offset=5, is_transactional=True)
    take(states, 1, base_offset=6, is_transactional=True)
    assert states.get(7).transaction_start == 5
    take(states, -1, base_offset=7, is_control=True)
    assert states.get(7).transaction_start is None
    assert states.check(header_of(2)) == Accept()


def test_the_producer_silent_for_longest_is_evicted():
    states = ProducerStates(producers_max=2)
    take(states, 0, producer_id=1)
    take(states, 0, producer_id=2)
    take(states, 1, producer_id=1)
    take(states, 0, producer_id=3)
    assert [producer_id for producer_id, _ in states.entries()] == [1, 3]


def test_whoever_may_have_been_forgotten_is_counted():
    states = ProducerStates(producers_max=1, expiration_ms=10)
    take(states, 0, producer_id=1)
    assert states.forgotten == 0
    take(states, 0, producer_id=2)
    assert (states.get(1), states.forgotten) == (None, 1)
    states.append(ProducerAppend(2, 0, 1, 1, 1, 0, False, False), 10)
    states.append(ProducerAppend(3, 0, 0, 2, 2, 0, False, False), 20)
    assert (states.get(2), states.forgotten) == (None, 2)


def test_a_snapshot_restores_everything():
    states = ProducerStates()
    take(states, 0, producer_id=1)
    take(states, 4, producer_id=2, base_offset=1)
    restored = ProducerStates()
    restored.load(states.entries())
    assert restored.entries() == states.entries()


@settings(deadline=None)
@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=12),
    st.integers(0, MAX_SEQUENCE),
    st.data(),
)
def test_every_retry_is_answered_or_refused_and_only_the_next_batch_accepted(sizes, start, data):
    """Whatever a producer repeats, no second copy is accepted."""
    states = ProducerStates()
    sequence, offset = start, 0
    sent = []
    for size in sizes:
        assert states.check(header_of(sequence, size)) == Accept()
        take(states, sequence, size, base_offset=offset)
        sent.append((sequence, size, offset))
        sequence = (sequence + size) % (MAX_SEQUENCE + 1)
        offset += size
    index = data.draw(st.integers(0, len(sent) - 1))
    sequence, size, offset = sent[index]
    if len(sent) - index <= PRODUCER_BATCHES_MAX:
        verdict = states.check(header_of(sequence, size))
        assert (verdict.base_offset, verdict.last_offset) == (offset, offset + size - 1)
    else:
        with pytest.raises(DuplicateSequenceNumberError):
            states.check(header_of(sequence, size))


def test_a_marker_is_taken_once_and_never_ends_the_next_transaction():
    states = ProducerStates()
    assert states.check_marker(7, 1)
    take(states, 0, base_offset=0, is_transactional=True)
    assert states.check_marker(7, 1)
    take(states, NO_SEQUENCE, base_offset=1, epoch=1, is_transactional=True, is_control=True)
    assert not states.check_marker(7, 1)
    with pytest.raises(InvalidProducerEpochError):
        states.check(header_of(1))
    take(states, 0, base_offset=2, epoch=1, is_transactional=True)
    for late in (0, 1):
        with pytest.raises(InvalidProducerEpochError) as raised:
            states.check_marker(7, late)
        assert raised.value.outcome is Outcome.NOT_APPLIED
    assert states.check_marker(7, 2)


def test_a_transaction_goes_on_only_in_its_own_epoch_and_until_its_marker():
    states = ProducerStates()
    assert not states.is_in_transaction(header_of(0))
    take(states, 0, is_transactional=True)
    assert states.is_in_transaction(header_of(1))
    assert not states.is_in_transaction(header_of(0, epoch=1))
    assert not states.is_in_transaction(header_of(0, producer_id=8))
    take(states, NO_SEQUENCE, base_offset=1, epoch=1, is_transactional=True, is_control=True)
    assert not states.is_in_transaction(header_of(0, epoch=1))


def test_a_producer_in_a_transaction_is_not_evicted():
    states = ProducerStates(producers_max=2)
    take(states, 0, producer_id=1, is_transactional=True)
    for number in range(2, 6):
        take(states, 0, base_offset=number, producer_id=number)
        assert [producer_id for producer_id, _ in states.entries()] == [1, number]
    for number in (5, 6):
        take(states, 0, base_offset=10 + number, producer_id=number, is_transactional=True)
    assert [producer_id for producer_id, _ in states.entries()] == [1, 5, 6]
