"""Producers and idempotent requests over restarts, rolls and truncations."""

import pytest

from ottla_protocol.errors import (
    IdempotencyKeyReusedError,
    OutOfOrderSequenceNumberError,
)
from tests.unit.storage.log_harness import (
    append,
    append_durably,
    make_batch,
    request,
    stored_batch,
)

PRODUCER = {"producer_id": 9, "producer_epoch": 0}


async def test_a_retry_gets_the_first_offsets_before_and_after_it_is_durable(harness):
    log = await harness.open()
    first = append(log, 2, base_sequence=0, **PRODUCER)
    retry = append(log, 2, base_sequence=0, **PRODUCER)
    assert retry.duplicate
    assert (retry.base_offset, retry.last_offset) == (first.base_offset, first.last_offset)
    await log.wait_durable(2)
    assert append(log, 2, base_sequence=0, **PRODUCER).duplicate
    assert log.next_offset == 2


async def test_a_request_is_stored_once_and_its_key_keeps_its_body(harness):
    log = await harness.open()
    first = append(log, 2, timestamp=77, idempotency=request(1))
    retry = append(log, 2, idempotency=request(1))
    assert (retry.duplicate, retry.base_offset, retry.timestamp) == (True, 0, first.timestamp)
    with pytest.raises(IdempotencyKeyReusedError):
        append(log, idempotency=request(1, body=2))
    assert log.check_idempotency(request(2).key_digest, request(2).body_digest) is None
    assert log.next_offset == 2


@pytest.mark.parametrize("how", ["clean", "crash"])
@pytest.mark.parametrize("segment_bytes", [1, 400, 1 << 20])
async def test_duplicates_are_known_after_a_restart_and_over_segments(harness, how, segment_bytes):
    log = await harness.open(segment_bytes=segment_bytes)
    for number in range(6):
        await append_durably(
            log, 2, base_sequence=number * 2, idempotency=request(number), **PRODUCER
        )
    if how == "clean":
        log = await harness.reopen(log, segment_bytes=segment_bytes)
    else:
        log = await harness.open(harness.copy("crashed"), segment_bytes=segment_bytes)
    for number in range(6):
        retry = append(log, 2, idempotency=request(number))
        assert (retry.duplicate, retry.base_offset) == (True, number * 2)
    for number in range(1, 6):
        retry = append(log, 2, base_sequence=number * 2, **PRODUCER)
        assert (retry.duplicate, retry.base_offset) == (True, number * 2)
    with pytest.raises(OutOfOrderSequenceNumberError) as raised:
        append(log, base_sequence=13, **PRODUCER)
    assert raised.value.members["expected_sequence"] == 12
    assert not append(log, base_sequence=12, **PRODUCER).duplicate


async def test_truncation_forgets_exactly_what_it_cuts(harness):
    """A record that was cut off was never stored: its retry is new."""
    log = await harness.open(segment_bytes=400)
    for number in range(6):
        append(log, 2, base_sequence=number * 2, idempotency=request(number), **PRODUCER)
    await log.truncate_to(6)
    assert append(log, 2, base_sequence=4, **PRODUCER).base_offset == 4
    assert append(log, 2, idempotency=request(2)).duplicate
    again = append(log, 2, base_sequence=6, idempotency=request(3), **PRODUCER)
    assert (again.duplicate, again.base_offset) == (False, 6)


async def test_a_snapshot_holds_nothing_that_is_queued_behind_it(harness):
    """The writer is slow: between roll and commit more batches of the producer are appended.

    If the crash loses them, their retry must be stored, not answered as a duplicate.
    """
    log = await harness.open(segment_bytes=1)
    crashed = []

    def crash_after_the_second(end_offset):
        if end_offset == 2:
            crashed.append(harness.copy("crashed"))

    log._commits._on_durable = crash_after_the_second
    for number in range(10):
        append(log, base_sequence=number, idempotency=request(number), **PRODUCER)
    await log.wait_durable(10)
    log = await harness.open(crashed[0], segment_bytes=1)
    assert log.next_offset == 2
    assert append(log, base_sequence=1, **PRODUCER).duplicate
    for number in range(2, 10):
        info = append(log, base_sequence=number, idempotency=request(number), **PRODUCER)
        assert (info.duplicate, info.base_offset) == (False, number)


async def test_a_follower_knows_what_the_leader_knew(harness):
    log = await harness.open()
    log.append_as_follower(
        [
            stored_batch(0, 2, base_sequence=0, **PRODUCER),
            stored_batch(2, 1, idempotency=request(1).to_bytes()),
        ]
    )
    assert append(log, 2, base_sequence=0, **PRODUCER).base_offset == 0
    assert append(log, idempotency=request(1)).base_offset == 2
    assert log.next_offset == 3


async def test_requests_are_forgotten_after_the_window_and_a_restart_begins_it_anew(harness):
    log = await harness.open(idempotency_window_ms=1_000, segment_bytes=1)
    for number, monotonic_ms in ((1, 0), (2, 600), (3, 1_000)):
        harness.monotonic_ms = monotonic_ms
        append(log, idempotency=request(number))
    assert log.check_idempotency(request(1).key_digest, request(1).body_digest) is None
    assert log.check_idempotency(request(2).key_digest, request(2).body_digest) is not None
    harness.monotonic_ms = 1_600
    log = await harness.reopen(log, idempotency_window_ms=1_000, segment_bytes=1)
    for number, monotonic_ms in ((4, 2_599), (5, 2_600)):
        harness.monotonic_ms = monotonic_ms
        append(log, idempotency=request(number))
        found = log.check_idempotency(request(2).key_digest, request(2).body_digest)
        assert (found is not None) is (number == 4)


async def test_a_wall_clock_that_jumps_makes_no_retry_a_new_request(harness):
    log = await harness.open(idempotency_window_ms=1_000, segment_bytes=1)
    append(log, idempotency=request(1), now_ms=0)
    month_ms = 30 * 24 * 60 * 60 * 1_000
    append(log, idempotency=request(2), now_ms=month_ms)
    assert append(log, idempotency=request(1), now_ms=month_ms).duplicate
    harness.now_ms = 2 * month_ms
    log = await harness.reopen(log, idempotency_window_ms=1_000, segment_bytes=1)
    append(log, idempotency=request(3), now_ms=3 * month_ms)
    assert append(log, idempotency=request(1), now_ms=3 * month_ms).duplicate


async def test_a_refused_append_leaves_no_trace(harness):
    log = await harness.open(pending_max_bytes=1, max_batch_bytes=10_000)
    append(log)
    for fields in ({"base_sequence": 0, **PRODUCER}, {"idempotency": request(1)}):
        with pytest.raises(Exception, match="wait for the disk"):
            append(log, **fields)
    await log.wait_durable(1)
    assert not append(log, base_sequence=0, **PRODUCER).duplicate
    await log.wait_durable(2)
    assert not append(log, idempotency=request(1)).duplicate
    assert len(make_batch()) > 1
