"""A log that begins above 0 and is filled from a backup."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ottla_broker.storage.append_rules import check_restored
from ottla_broker.storage.log_config import LogConfig
from ottla_broker.storage.log_listeners import LogListeners
from ottla_broker.storage.partition_log import PartitionLog
from ottla_protocol.errors import (
    CorruptMessageError,
    FencedLeaderEpochError,
    InvalidRequestError,
    RestoreConflictError,
)
from ottla_protocol.record_batch import patch_batch, read_header, validate_batch
from ottla_protocol.record_codec import RecordData, encode_batch
from tests.unit.storage.log_harness import (
    PARTITION,
    TOPIC,
    TOPIC_ID,
    append_durably,
    make_batch,
    read_all,
)


def batch_at(offset, records=1, *, leader_epoch=9, **fields):
    batch = make_batch(records, **fields)
    patch_batch(batch, base_offset=offset, leader_epoch=leader_epoch)
    return batch


async def opened_at(harness, first_offset):
    log = await PartitionLog.open(
        harness.directory,
        topic=TOPIC,
        topic_id=TOPIC_ID,
        partition=PARTITION,
        config=LogConfig(),
        handles=harness.handles,
        tail_cache=harness.tail_cache,
        listeners=LogListeners(harness.durable_ends.append, harness.failures.append),
        first_offset=first_offset,
    )
    harness._opened.append(log)
    return log


async def test_it_begins_where_it_did_and_keeps_its_gaps_over_a_restart(harness):
    log = await opened_at(harness, 40)
    assert (log.log_start_offset, log.next_offset) == (40, 40)
    info = log.append_restored([batch_at(42, 2), batch_at(50, 3, fill=1)], leader_epoch=1)
    assert (info.base_offset, info.last_offset) == (42, 52)
    await log.wait_durable(53)
    log = await harness.reopen(log)
    assert (log.log_start_offset, log.next_offset) == (40, 53)
    found = await read_all(log)
    assert [(batch.base_offset, batch.last_offset, batch.leader_epoch) for batch in found] == [
        (42, 43, 1),
        (50, 52, 1),
    ]
    assert (await append_durably(log, leader_epoch=1)).base_offset == 53


async def test_what_is_there_already_is_left_out(harness):
    log = await opened_at(harness, 0)
    log.append_restored([batch_at(0, 2), batch_at(2, 2)], leader_epoch=0)
    assert log.append_restored([batch_at(0, 2), batch_at(2, 2)], leader_epoch=0) is None
    info = log.append_restored([batch_at(2, 2), batch_at(4)], leader_epoch=1)
    assert (info.base_offset, info.last_offset) == (4, 4)
    with pytest.raises(RestoreConflictError):
        log.append_restored([batch_at(4, 2)], leader_epoch=1)
    with pytest.raises(FencedLeaderEpochError):
        log.append_restored([batch_at(5)], leader_epoch=0)
    assert log.next_offset == 5


async def test_producers_of_the_backup_are_none_of_this_cluster(harness):
    log = await opened_at(harness, 0)
    produced = {"producer_id": 7, "producer_epoch": 0, "base_sequence": 0}
    log.append_restored([batch_at(0, 2, **produced)], leader_epoch=0)
    # Another producer was given the same id here. It is no duplicate.
    info = await append_durably(log, 2, fill=5, **produced)
    assert (info.base_offset, info.duplicate) == (2, False)
    first, _ = await read_all(log)
    header = validate_batch(first.data, on_append=False)
    assert (header.producer_id, header.base_sequence, header.record_count) == (-1, -1, 2)


@settings(max_examples=50)
@given(
    st.integers(0, 20),
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 4)), max_size=6),
    st.integers(0, 40),
)
def test_only_what_is_new_is_taken_and_in_order(start, shape, known):
    batches, position, ends = [], start, [start]
    for gap, records in shape:
        batches.append(batch_at(position + gap, records))
        position += gap + records
        ends.append(position)
    known = ends[known % len(ends)]
    found = check_restored(batches, known)
    new = [batch for batch in batches if read_header(batch).base_offset >= known]
    assert [bytes(batch) for _, batch in found] == [bytes(batch) for batch in new]


def test_damage_markers_and_transactions_are_refused():
    damaged = batch_at(0)
    damaged[-1] ^= 1
    with pytest.raises(CorruptMessageError):
        check_restored([damaged], 0)
    record = [RecordData(1, b"k", b"v", ())]
    producer = {"producer_id": 1, "producer_epoch": 0, "base_sequence": 0}
    for kind in ("is_control", "is_transactional"):
        with pytest.raises(InvalidRequestError):
            check_restored([encode_batch(record, **producer, **{kind: True})], 0)
    with pytest.raises(RestoreConflictError):
        check_restored([batch_at(3, 2), batch_at(4)], 0)
