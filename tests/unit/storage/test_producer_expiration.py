"""How long a log remembers idempotent producers: by age, by count, and over dropped segments."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ottla_broker.storage.policy.producer_state import (
    Accept,
    Duplicate,
    ProducerAppend,
    ProducerStates,
)
from ottla_protocol.errors import OutOfOrderSequenceNumberError
from ottla_protocol.record_batch import read_header
from tests.unit.storage.log_harness import append, append_durably, make_batch, stored_batch

EXPIRATION_MS = 1_000
PRODUCER = {"producer_id": 9, "producer_epoch": 0}


def batch(sequence, producer_id=9, *, is_transactional=False):
    return read_header(
        make_batch(
            producer_id=producer_id,
            producer_epoch=0,
            base_sequence=sequence,
            transactional=is_transactional,
        )
    )


def take(states, sequence, now_ms, *, producer_id=9, offset=0, is_transactional=False):
    states.append(
        ProducerAppend(
            producer_id, 0, sequence, offset, offset, 0, is_transactional, is_control=False
        ),
        now_ms,
    )


@pytest.fixture
def states():
    return ProducerStates(expiration_ms=EXPIRATION_MS)


def test_a_silent_producer_is_forgotten_at_its_age_and_not_before(states):
    take(states, 5, now_ms=100)
    assert states.check(batch(5), 100 + EXPIRATION_MS - 1) == Duplicate(0, 0, 0)
    with pytest.raises(OutOfOrderSequenceNumberError):
        states.check(batch(9), 100 + EXPIRATION_MS - 1)
    assert states.check(batch(5), 100 + EXPIRATION_MS) == Accept()
    assert states.check(batch(9), 100 + EXPIRATION_MS) == Accept()


def test_every_batch_makes_a_producer_young_again(states):
    for number in range(5):
        take(states, number, now_ms=number * (EXPIRATION_MS - 1), offset=number)
    assert states.check(batch(4), 5 * (EXPIRATION_MS - 1)) == Duplicate(4, 4, 0)


def test_forgotten_producers_take_no_memory(states):
    for producer_id in range(10):
        take(states, 0, now_ms=producer_id * 100, producer_id=producer_id)
    take(states, 1, now_ms=EXPIRATION_MS + 450, producer_id=9)
    assert [producer_id for producer_id, _ in states.entries()] == [5, 6, 7, 8, 9]


def test_an_open_transaction_is_not_forgotten_by_age(states):
    take(states, 0, now_ms=0, is_transactional=True)
    take(states, 0, now_ms=10 * EXPIRATION_MS, producer_id=2)
    assert states.get(9).transaction_start == 0
    again = batch(0, is_transactional=True)
    assert states.check(again, 20 * EXPIRATION_MS) == Duplicate(0, 0, 0)


def test_record_timestamps_make_nobody_older(states):
    """They come from clients; one from the far future must not make others' retries new."""
    states.append(ProducerAppend(9, 0, 0, 0, 0, -(2**60), False, False), 0)
    states.append(ProducerAppend(8, 0, 0, 1, 1, 2**60, False, False), 1)
    assert states.check(batch(0), 2) == Duplicate(0, 0, -(2**60))


def test_a_follower_drops_what_its_leader_had_forgotten(states):
    """A batch that does not follow says that the leader took the producer for a new one."""
    take(states, 40, now_ms=0, offset=0)
    take(states, 41, now_ms=0, offset=1)
    take(states, 7, now_ms=0, offset=2)
    assert states.check(batch(8), 0) == Accept()
    assert states.check(batch(7), 0) == Duplicate(2, 2, 0)
    take(states, 8, now_ms=0, offset=3)
    assert [kept.base_sequence for kept in states.get(9).batches] == [7, 8]


@given(
    appends=st.lists(
        st.tuples(st.integers(0, 400), st.integers(0, 3), st.booleans()), min_size=1, max_size=30
    ),
    lag_ms=st.integers(0, 5_000),
)
def test_a_follower_remembers_whatever_its_leader_does(appends, lag_ms):
    """It takes each batch in later, and so forgets later."""
    leader = ProducerStates(expiration_ms=EXPIRATION_MS)
    follower = ProducerStates(expiration_ms=EXPIRATION_MS)
    now_ms, sequences, taken = 0, {}, []
    for offset, (pause_ms, producer_id, restarts) in enumerate(appends):
        now_ms += pause_ms
        sequence = sequences.get(producer_id, 0)
        if restarts and judge(leader, batch(sequence + 3, producer_id), now_ms) == Accept():
            sequence += 3
        sequences[producer_id] = sequence + 1
        take(leader, sequence, now_ms, producer_id=producer_id, offset=offset)
        taken.append((sequence, now_ms, producer_id, offset))
    for sequence, at_ms, producer_id, offset in taken:
        take(follower, sequence, at_ms + lag_ms, producer_id=producer_id, offset=offset)
    for sequence, _, producer_id, _ in taken:
        verdict = judge(leader, batch(sequence, producer_id), now_ms)
        if isinstance(verdict, Duplicate):
            assert judge(follower, batch(sequence, producer_id), now_ms + lag_ms) == verdict


def judge(states, header, now_ms):
    try:
        return states.check(header, now_ms)
    except Exception as error:
        return type(error)


# --- in a log -----------------------------------------------------------------------------------


async def test_a_log_forgets_by_its_own_setting_and_steady_clock(harness):
    log = await harness.open(producer_id_expiration_ms=EXPIRATION_MS)
    append(log, base_sequence=3, **PRODUCER)
    harness.now_ms = 10 * EXPIRATION_MS
    harness.monotonic_ms = EXPIRATION_MS - 1
    assert append(log, base_sequence=3, **PRODUCER).duplicate
    harness.monotonic_ms = EXPIRATION_MS
    assert not append(log, base_sequence=3, **PRODUCER).duplicate


async def test_after_a_restart_a_producer_has_its_whole_time_again(harness):
    log = await harness.open(producer_id_expiration_ms=EXPIRATION_MS)
    await append_durably(log, base_sequence=3, **PRODUCER)
    harness.monotonic_ms = EXPIRATION_MS - 1
    log = await harness.reopen(log, producer_id_expiration_ms=EXPIRATION_MS)
    harness.monotonic_ms += EXPIRATION_MS - 1
    assert append(log, base_sequence=3, **PRODUCER).duplicate
    harness.monotonic_ms += 1
    assert not append(log, base_sequence=3, **PRODUCER).duplicate


async def test_a_follower_s_log_forgets_too(harness):
    log = await harness.open(producer_id_expiration_ms=EXPIRATION_MS)
    log.append_as_follower([stored_batch(0, base_sequence=0, **PRODUCER)])
    harness.monotonic_ms = EXPIRATION_MS
    log.append_as_follower([stored_batch(1, base_sequence=0, producer_id=8, producer_epoch=0)])
    assert [producer_id for producer_id, _ in log._state.producers.entries()] == [8]


@pytest.mark.parametrize("how", ["clean", "crash"])
async def test_dropping_old_segments_forgets_no_producer(harness, how):
    """Each segment begins with all that was known before it, so the old ones are not needed."""
    size = len(make_batch())
    log = await harness.open(segment_bytes=2 * size)
    await append_durably(log, base_sequence=0, **PRODUCER)
    for number in range(5):
        await append_durably(log, base_sequence=number, producer_id=8, producer_epoch=0)
    if how == "clean":
        await log.close()
        directory = harness.directory
    else:
        directory = harness.copy("crashed")
    *old, _ = sorted(directory.glob("*.sqlite"))
    assert len(old) >= 2
    for path in old:
        for file in directory.glob(path.name + "*"):
            file.unlink()
    log = await harness.open(directory, segment_bytes=2 * size)
    assert log.log_start_offset > 0
    retry = append(log, base_sequence=0, **PRODUCER)
    assert (retry.duplicate, retry.base_offset) == (True, 0)
    for number in range(1, 5):
        retry = append(log, base_sequence=number, producer_id=8, producer_epoch=0)
        assert (retry.duplicate, retry.base_offset) == (True, number + 1)
    with pytest.raises(OutOfOrderSequenceNumberError) as raised:
        append(log, base_sequence=7, **PRODUCER)
    assert raised.value.members["expected_sequence"] == 1
