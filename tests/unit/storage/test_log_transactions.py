"""Transactions in a log: markers, the last stable offset, and what was aborted."""

import sqlite3
from contextlib import closing

import pytest

from ottla_broker.storage.log_aborts import INDEXES_MAX
from ottla_broker.storage.policy.open_transactions import AbortedTransaction
from ottla_broker.storage.stored_batch import DamagedSegmentError
from ottla_protocol.control_records import EndMarker
from ottla_protocol.errors import (
    ConcurrentTransactionsError,
    InvalidProducerEpochError,
    InvalidTransactionStateError,
)
from ottla_protocol.record_batch import read_header, validate_batch
from tests.unit.storage.log_harness import append_durably, make_batch, read_all

COMMIT, ABORT = EndMarker(True, 4), EndMarker(False, 4)
PRODUCER = 7
SMALL = {"segment_bytes": 1}
"""A segment for each batch."""


async def write(log, producer_id=PRODUCER, epoch=0, records=1, sequence=-1):
    """A batch of a transaction."""
    batch = make_batch(
        records,
        producer_id=producer_id,
        producer_epoch=epoch,
        base_sequence=sequence,
        transactional=True,
    )
    header = validate_batch(batch, on_append=True)
    info = log.append_as_leader(batch, header, leader_epoch=0, now_ms=0)
    await log.wait_durable(info.next_offset)
    return info


async def end(log, marker, producer_id=PRODUCER, epoch=1):
    """The marker of the transaction whose records have one epoch less."""
    info = log.append_marker(
        marker, producer_id=producer_id, producer_epoch=epoch, leader_epoch=0, now_ms=5
    )
    await log.wait_durable(info.next_offset)
    return info


def header_of(producer_id, epoch):
    batch = make_batch(
        producer_id=producer_id, producer_epoch=epoch, base_sequence=0, transactional=True
    )
    return read_header(batch)


async def test_a_transaction_is_open_until_its_marker_is_committed(harness):
    log = await harness.open()
    await append_durably(log)
    await write(log)
    assert log.is_in_transaction(header_of(PRODUCER, 0))
    assert log.last_stable_offset(2) == 1
    assert [each.first_offset for each in log.open_transactions()] == [1]
    marker = await end(log, COMMIT)
    assert (marker.base_offset, marker.duplicate) == (2, False)
    assert not log.is_in_transaction(header_of(PRODUCER, 0))
    assert log.open_transactions() == ()
    assert log.last_stable_offset(2) == 1
    assert log.last_stable_offset(3) == 3
    header = read_header((await read_all(log))[-1].data)
    assert (header.is_control, header.producer_epoch, header.max_timestamp) == (True, 1, 5)


async def test_a_marker_that_comes_again_is_there_already_and_a_late_one_is_refused(harness):
    log = await harness.open()
    await write(log)
    await end(log, ABORT)
    again = await end(log, ABORT)
    assert (again.duplicate, again.next_offset) == (True, 2)
    await write(log, epoch=1)
    with pytest.raises(InvalidProducerEpochError):
        await end(log, ABORT)
    assert log.next_offset == 3


@pytest.mark.parametrize("config", [{}, SMALL])
async def test_aborted_transactions_are_found_wherever_their_records_are(harness, config):
    log = await harness.open(**config)
    for producer_id in (1, 2, 1, 3):
        await write(log, producer_id)
    await end(log, ABORT, 1)
    await end(log, COMMIT, 2)
    await end(log, ABORT, 3)
    await append_durably(log)
    one, three = AbortedTransaction(1, 0, 4), AbortedTransaction(3, 3, 6)
    for again in (False, True):
        if again:
            log = await harness.reopen(log, **config)
        assert await log.aborted_transactions(0, 8) == (one, three)
        assert await log.aborted_transactions(0, 3) == (one,)
        assert await log.aborted_transactions(5, 8) == (three,)
        assert await log.aborted_transactions(7, 8) == ()
        # What has been asked once is in memory.
        assert log.aborted_in_memory(0, 3) == (one,)


async def test_a_log_without_aborted_transactions_is_not_read_for_them(harness):
    log = await harness.open()
    await write(log)
    await end(log, COMMIT)
    assert log.aborted_in_memory(0, 2) == ()


async def test_only_the_producers_own_transaction_goes_on_while_it_is_open(harness):
    log = await harness.open()
    await write(log, sequence=0)
    with pytest.raises(InvalidTransactionStateError):
        await append_durably(log, producer_id=PRODUCER, producer_epoch=0, base_sequence=1)
    with pytest.raises(ConcurrentTransactionsError):
        await write(log, epoch=1, sequence=0)
    await write(log, sequence=-1)
    await write(log, sequence=1)
    await end(log, COMMIT)
    with pytest.raises(InvalidProducerEpochError):
        await write(log, epoch=0)
    await write(log, epoch=1, sequence=0)


@pytest.mark.parametrize("config", [{}, SMALL])
async def test_a_marker_in_a_sealed_segment_is_not_forgotten(harness, config):
    """It is above the high watermark, so it may be lost with its leader yet."""
    log = await harness.open(**config)
    await write(log)
    await end(log, COMMIT)
    await append_durably(log)
    log = await harness.reopen(log, **config)
    assert log.last_stable_offset(1) == 0
    assert log.last_stable_offset(2) == 2


@pytest.mark.parametrize("config", [{}, SMALL])
async def test_a_truncation_opens_again_what_it_cuts_the_marker_of(harness, config):
    log = await harness.open(**config)
    await write(log)
    await end(log, ABORT)
    await append_durably(log)
    await log.truncate_to(1)
    assert await log.aborted_transactions(0, 9) == ()
    assert log.last_stable_offset(1) == 0
    await end(log, COMMIT)
    await append_durably(log)
    log = await harness.reopen(log, **config)
    assert await log.aborted_transactions(0, 9) == ()
    assert log.last_stable_offset(3) == 3


async def test_a_follower_has_the_same_transactions(harness):
    log = await harness.open()
    await write(log, 1)
    await write(log, 2)
    await end(log, ABORT, 1)
    follower = await harness.open(harness.root / "follower", **SMALL)
    follower.append_as_follower(await read_all(log))
    await follower.wait_durable(3)
    assert follower.last_stable_offset(2) == 0
    assert follower.last_stable_offset(3) == 1
    assert await follower.aborted_transactions(0, 3) == (AbortedTransaction(1, 0, 2),)
    assert follower.open_transactions() == log.open_transactions()


def change(path, statement):
    """Change a segment behind the broker's back, as a failing disk does."""
    mode = path.stat().st_mode
    path.chmod(0o600)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(statement)
        connection.commit()
        connection.execute("PRAGMA journal_mode=DELETE").fetchall()
    path.chmod(mode)


DAMAGES = (
    "UPDATE aborted_transactions SET first_offset = 1",
    "UPDATE aborted_transactions SET producer_id = 'none'",
    "DELETE FROM aborted_transactions",
    "DROP TABLE aborted_transactions",
)


async def with_damaged_aborts(harness, *statements):
    """A log whose second segment has markers of two transactions; the first began before it."""
    log = await harness.open()
    await write(log, 1)
    log._appender.roll()
    await write(log, 2)
    await end(log, ABORT, 2)
    await end(log, ABORT, 1)
    log._appender.roll()
    await append_durably(log)
    await log.close()
    for statement in statements:
        change(harness.directory / f"{1:020d}.sqlite", statement)
    return await harness.open()


@pytest.mark.parametrize("statement", DAMAGES)
async def test_a_sealed_segment_s_aborted_transactions_are_made_anew_where_they_are_damaged(
    harness, statement
):
    log = await with_damaged_aborts(harness, statement)
    expected = (AbortedTransaction(2, 1, 2), AbortedTransaction(1, 0, 3))
    assert await log.aborted_transactions(0, 2) == expected
    assert log.damage.first is not None, "another replica is to be refilled"
    assert log.aborted_in_memory(0, 2) == expected
    assert await log.aborted_transactions(0, 1) == expected[1:]


@pytest.mark.parametrize("statement", DAMAGES)
@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE batches SET data = zeroblob(78) WHERE base_offset = 3",
        "DELETE FROM batches WHERE base_offset = 3",
        "DELETE FROM producer_snapshot",
        "UPDATE producer_snapshot SET transaction_start = 5",
        "UPDATE meta SET value = value + 1 WHERE name = 'aborted_crc'",
    ],
)
async def test_aborted_transactions_are_not_made_of_what_is_damaged_itself(
    harness, statement, damage
):
    log = await with_damaged_aborts(harness, statement, damage)
    with pytest.raises(DamagedSegmentError):
        await log.aborted_transactions(0, 2)
    assert log.damage.first is not None


async def test_an_active_segment_s_are_made_anew_from_its_batches(harness):
    log = await harness.open()
    await write(log)
    await end(log, ABORT)
    await log.close()
    change(harness.directory / f"{0:020d}.sqlite", "DELETE FROM aborted_transactions")
    log = await harness.open()
    assert "not those of its batches" in log.recovery.reason
    assert (log.recovery.damaged_from, log.next_offset) == (2, 2)
    assert await log.aborted_transactions(0, 2) == (AbortedTransaction(PRODUCER, 0, 1),)
    log = await harness.reopen(log)
    assert await log.aborted_transactions(0, 2) == (AbortedTransaction(PRODUCER, 0, 1),)


async def test_what_is_kept_of_a_damaged_segment_has_its_aborted_transactions(harness):
    """The first transaction began in the segment before, the last one lost its marker."""
    log = await harness.open()
    await write(log, 1)
    log._appender.roll()
    await write(log, 2)
    await end(log, ABORT, 1)
    await end(log, ABORT, 2)
    await append_durably(log)
    await log.close()
    path = harness.directory / f"{1:020d}.sqlite"
    change(path, "UPDATE batches SET size = size + 1 WHERE base_offset = 3")
    change(path, "DELETE FROM meta WHERE name = 'verified_end'")
    log = await harness.open()
    assert log.next_offset == 3
    assert await log.aborted_transactions(0, 3) == (AbortedTransaction(1, 0, 2),)
    assert [each.producer_id for each in log.open_transactions()] == [2]
    assert log.last_stable_offset(3) == 1


async def test_a_transaction_whose_marker_was_lost_is_open_and_can_be_ended_behind_the_gap(harness):
    """As the only replica of a partition goes on whose disk lost the end of the log."""
    log = await harness.open()
    await write(log)
    await write(log)
    await log.skip_to(9)
    log = await harness.reopen(log)
    assert [each.first_offset for each in log.open_transactions()] == [0]
    assert log.last_stable_offset(9) == 0
    await end(log, ABORT)
    assert log.open_transactions() == ()
    assert log.last_stable_offset(10) == 10
    assert await log.aborted_transactions(0, 2) == (AbortedTransaction(PRODUCER, 0, 9),)


async def test_few_sealed_segments_keep_what_was_aborted_in_memory(harness):
    log = await harness.open(**SMALL)
    for number in range(2 * INDEXES_MAX):
        await write(log, epoch=number)
        await end(log, ABORT, epoch=number + 1)
    await append_durably(log)
    found = await log.aborted_transactions(0, log.next_offset)
    assert [each.first_offset for each in found] == list(range(0, 4 * INDEXES_MAX, 2))
    held = [each for each in log._files.segments if each.aborts and each.aborts.aborted]
    assert len(held) == INDEXES_MAX
