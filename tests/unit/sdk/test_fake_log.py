"""The fake cluster judges sequences exactly as brokers do."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ottla._fake_log import FakePartition
from ottla_broker.storage.policy.producer_state import Accept, ProducerAppend, ProducerStates
from ottla_protocol.errors import (
    CorruptMessageError,
    OffsetOutOfRangeError,
    OttlaError,
    OutOfOrderSequenceNumberError,
)
from ottla_protocol.record_batch import MAX_SEQUENCE, NO_SEQUENCE, read_header
from ottla_protocol.record_codec import RecordData, decode_batch, encode_batch


def batch(count=1, producer_id=-1, epoch=-1, sequence=-1, value=b"v", transactional=False):
    records = [RecordData(1_000 + index, None, value) for index in range(count)]
    return encode_batch(
        records,
        producer_id=producer_id,
        producer_epoch=epoch,
        base_sequence=sequence,
        is_transactional=transactional,
    )


class Broker:
    """What a broker's partition would say, by its own rules."""

    def __init__(self):
        self.states = ProducerStates()
        self.end_offset = 0

    def append(self, buffer):
        header = read_header(buffer)
        found = self.states.check(header)
        if not isinstance(found, Accept):
            return found.base_offset, True
        base_offset = self.end_offset
        self.end_offset += header.record_count
        if header.has_producer:
            last_offset = self.end_offset - 1
            self.states.append(
                ProducerAppend(
                    header.producer_id,
                    header.producer_epoch,
                    header.base_sequence,
                    base_offset,
                    last_offset,
                    header.max_timestamp,
                    is_transactional=header.is_transactional,
                    is_control=False,
                )
            )
        return base_offset, False

    def end_transaction(self, producer_id, marker_epoch):
        self.states.append(
            ProducerAppend(
                producer_id,
                marker_epoch,
                NO_SEQUENCE,
                self.end_offset,
                self.end_offset,
                1_000,
                is_transactional=True,
                is_control=True,
            )
        )
        self.end_offset += 1


def verdict(append, buffer):
    try:
        return append(buffer)
    except OttlaError as error:
        return error.code, error.members


def fake_append(partition):
    def append(buffer):
        appended = partition.append(buffer)
        return appended.base_offset, appended.duplicate

    return append


@given(
    st.integers(0, 1),
    st.lists(
        st.tuples(st.integers(1, 3), st.integers(1, 2), st.integers(0, 2), st.integers(0, 12)),
        max_size=40,
    ),
)
def test_it_agrees_with_the_brokers_rules(wraps, steps):
    broker, partition = Broker(), FakePartition("flights", 0, [1])
    first = MAX_SEQUENCE - 5 if wraps else 0
    for count, producer_id, epoch, step in steps:
        sequence = (first + step) % (MAX_SEQUENCE + 1)
        sent = batch(count, producer_id, epoch, sequence)
        assert verdict(fake_append(partition), sent) == verdict(broker.append, sent)
    assert partition.end_offset == broker.end_offset


@given(
    st.lists(
        st.one_of(
            st.tuples(
                st.sampled_from([1, 2]),
                st.integers(0, 2),
                st.integers(0, 4),
                st.sampled_from([True, True, False]),
            ),
            st.tuples(st.sampled_from([1, 2]), st.just("end")),
        ),
        max_size=30,
    )
)
def test_it_agrees_with_the_brokers_rules_of_transactions(steps):
    broker, partition = Broker(), FakePartition("flights", 0, [1])
    for producer_id, *step in steps:
        if step == ["end"]:
            known = broker.states.get(producer_id)
            if known is not None and known.transaction_start is not None:
                broker.end_transaction(producer_id, known.epoch + 1)
                partition.end_transaction(
                    producer_id, known.epoch + 1, is_commit=True, coordinator_epoch=0
                )
            continue
        epoch, sequence, transactional = step
        sent = batch(1, producer_id, epoch, sequence, transactional=transactional)
        assert verdict(fake_append(partition), sent) == verdict(broker.append, sent)


def test_the_first_batch_of_a_transaction_begins_at_0():
    partition = FakePartition("flights", 0, [1])
    with pytest.raises(OutOfOrderSequenceNumberError) as caught:
        partition.append(batch(1, 7, 0, 3, transactional=True))
    assert caught.value.members["expected_sequence"] == 0
    assert partition.open_transactions == {}
    partition.append(batch(3, 7, 0, 0, transactional=True))
    partition.append(batch(1, 7, 0, 3, transactional=True))
    # Without a transaction the log may have forgotten what was before.
    partition.append(batch(1, 8, 0, 3))


def test_a_whole_run_with_every_batch_repeated_is_stored_once():
    partition = FakePartition("flights", 0, [1])
    offsets = []
    for sequence in range(0, 40, 2):
        sent = batch(2, 7, 0, sequence)
        offsets += [partition.append(sent).base_offset, partition.append(sent).base_offset]
    assert offsets == [offset for base in range(0, 40, 2) for offset in (base, base)]
    assert len(partition.batches) == 20


def test_batches_without_a_producer_are_all_new():
    partition = FakePartition("flights", 0, [1])
    assert [partition.append(batch(2)).base_offset for _ in range(3)] == [0, 2, 4]


def test_offsets_are_in_the_batches_that_it_keeps():
    partition = FakePartition("flights", 0, [1])
    partition.lead(2)
    sent = [batch(2), batch(3)]
    for each in sent:
        partition.append(each)
    records = [
        record.offset
        for each in partition.batches
        for record in decode_batch(each, max_inflated_bytes=1000)
    ]
    assert records == [0, 1, 2, 3, 4]
    assert read_header(partition.batches[0]).leader_epoch == 1
    assert read_header(sent[1]).base_offset == 0  # The sender's own buffer is not written to.


def test_what_is_no_batch_is_refused():
    partition = FakePartition("flights", 0, [1])
    damaged = batch(2)
    damaged[-1] ^= 1
    with pytest.raises(CorruptMessageError):
        partition.append(damaged)
    assert partition.end_offset == 0


def test_reading_gives_whole_batches_within_the_limit_but_at_least_one():
    partition = FakePartition("flights", 0, [1])
    for _ in range(3):
        partition.append(batch(2))
    size = len(partition.batches[0])
    assert [len(partition.read(0, limit)) for limit in (0, 2 * size, 3 * size)] == [1, 2, 3]
    [last, *more] = partition.read(5, 1)
    assert read_header(last).base_offset == 4
    assert more == []
    assert partition.read(6, 1) == []
    for outside in (-1, 7):
        with pytest.raises(OffsetOutOfRangeError) as caught:
            partition.read(outside, 1)
        assert caught.value.members == {"log_start_offset": 0, "log_end_offset": 6}


def test_a_new_leader_has_a_new_epoch():
    partition = FakePartition("flights", 0, [1, 2])
    partition.lead(1)
    assert partition.leader_epoch == 0
    partition.lead(2)
    assert (partition.leader, partition.leader_epoch) == (2, 1)
