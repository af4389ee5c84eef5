"""Whose time a batch carries, and how one of some time is found."""

from contextlib import closing

import pytest

from ottla_broker.storage import segment_reader, sqlite
from ottla_broker.storage.log_config import LogConfig
from ottla_protocol.errors import InvalidTimestampError, Outcome
from ottla_protocol.record_batch import read_header, validate_batch
from ottla_protocol.record_codec import decode_batch
from tests.unit.storage.log_harness import (
    UNLIMITED,
    append,
    append_durably,
    make_batch,
    read_all,
    request,
)

NOW_MS = 1_700_000_000_000
APPEND_TIME = {"timestamp_type": "LogAppendTime"}


async def test_the_leader_s_time_replaces_the_producer_s(harness):
    log = await harness.open(**APPEND_TIME)
    info = append(log, 3, timestamp=5, now_ms=NOW_MS)
    assert info.timestamp == NOW_MS
    await log.wait_durable(3)
    log = await harness.reopen(log, **APPEND_TIME)
    (batch,) = await read_all(log)
    header = validate_batch(batch.data, on_append=False)
    assert (header.is_log_append_time, header.max_timestamp) == (True, NOW_MS)
    assert [
        record.timestamp for record in decode_batch(batch.data, max_inflated_bytes=1 << 20)
    ] == [NOW_MS] * 3


async def test_a_retry_is_answered_with_the_first_append_s_time(harness):
    log = await harness.open(**APPEND_TIME)
    first = append(log, idempotency=request(1), now_ms=NOW_MS)
    producer = {"producer_id": 4, "producer_epoch": 0, "base_sequence": 0}
    append(log, now_ms=NOW_MS + 1, **producer)
    await log.wait_durable(2)
    for _ in range(2):
        again = append(log, idempotency=request(1), now_ms=NOW_MS + 50)
        assert (again.duplicate, again.timestamp) == (True, first.timestamp)
        again = append(log, now_ms=NOW_MS + 50, **producer)
        assert (again.duplicate, again.timestamp) == (True, NOW_MS + 1)
        log = await harness.reopen(log, **APPEND_TIME)


async def test_the_type_changes_at_run_time_and_what_is_there_keeps_its_own(harness):
    log = await harness.open()
    append(log, timestamp=5, now_ms=NOW_MS)
    log.reconfigure(LogConfig(**APPEND_TIME))
    append(log, timestamp=5, now_ms=NOW_MS)
    log.reconfigure(LogConfig())
    append(log, timestamp=6, now_ms=NOW_MS)
    await log.wait_durable(3)
    found = [read_header(batch.data).max_timestamp for batch in await read_all(log)]
    assert found == [5, NOW_MS, 6]


async def test_segments_roll_by_the_time_that_is_stored(harness):
    log = await harness.open(segment_ms=100, **APPEND_TIME)
    for now_ms in (NOW_MS, NOW_MS + 99, NOW_MS + 100):
        await append_durably(log, timestamp=5, now_ms=now_ms)
    assert len(log._files) == 2


async def test_a_timestamp_too_far_ahead_is_refused_and_appends_nothing(harness):
    log = await harness.open(timestamp_after_max_ms=1_000)
    append(log, 2, timestamp=NOW_MS + 999, now_ms=NOW_MS)
    with pytest.raises(InvalidTimestampError) as refused:
        append(log, 2, timestamp=NOW_MS + 1_000, now_ms=NOW_MS)
    assert refused.value.outcome is Outcome.NOT_APPLIED
    assert "message.timestamp.after.max.ms" in refused.value.detail
    assert refused.value.members == {"timestamp": NOW_MS + 1_001, "broker_time": NOW_MS}
    assert log.next_offset == 2


async def test_a_retry_of_what_was_taken_is_not_held_to_the_clock_again(harness):
    log = await harness.open(timestamp_after_max_ms=0)
    append(log, timestamp=NOW_MS, now_ms=NOW_MS, idempotency=request(1))
    again = append(log, timestamp=NOW_MS, now_ms=NOW_MS - 9_000, idempotency=request(1))
    assert again.duplicate


async def test_the_leader_s_time_is_never_ahead(harness):
    log = await harness.open(timestamp_after_max_ms=0, **APPEND_TIME)
    assert append(log, timestamp=NOW_MS * 2, now_ms=NOW_MS).timestamp == NOW_MS


# --- the index of sealed segments -------------------------------------------------------------

TIMES = (100, 300, 200, 300, 900, 400, 500, 900, 950)


@pytest.fixture
async def log(harness):
    """A batch for each of TIMES in one sealed segment, and 50 in the active one."""
    log = await harness.open(segment_bytes=len(TIMES) * len(make_batch()))
    for timestamp in (*TIMES, 50):
        await append_durably(log, timestamp=timestamp)
    assert len(log._files) == 2
    return log


def index_of(harness):
    path = harness.directory / f"{0:020d}.sqlite"
    with closing(sqlite.driver.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
        return connection.execute("SELECT * FROM time_index ORDER BY 1").fetchall()


async def offset_at(log, timestamp, **arguments):
    found = await log.find_timestamp(timestamp, limit=UNLIMITED, **arguments)
    return found and found.base_offset


def first_at(timestamp, offset=0):
    times = (*TIMES, 50)
    return next((n for n, time in enumerate(times) if n >= offset and time >= timestamp), None)


async def test_the_index_has_the_batches_that_are_later_than_all_before(harness, log):
    assert index_of(harness) == [(100, 0), (300, 1), (900, 4), (950, 8)]


async def test_the_first_batch_of_a_time_is_found_from_any_offset(log):
    for timestamp in range(0, 1_000, 10):
        for offset in range(len(TIMES) + 2):
            expected = first_at(timestamp, offset)
            assert await offset_at(log, timestamp, offset=offset) == expected


async def test_a_sealed_segment_is_not_scanned(log, monkeypatch):
    assert await offset_at(log, 1) == 0
    monkeypatch.setattr(segment_reader, "SCANNED_BATCHES", None)
    assert await offset_at(log, 301) == 4
    assert await offset_at(log, 950) == 8


async def test_a_segment_that_is_too_old_is_not_even_opened(harness, log):
    assert await offset_at(log, 951) is None
    sealed = log._files._segments[0].path
    await harness.handles.close(sealed)
    assert await offset_at(log, 951) is None
    assert sealed not in harness.handles._handles


async def test_a_segment_without_the_index_is_scanned(harness, log):
    """As the first versions sealed them."""
    await log.close()
    path = harness.directory / f"{0:020d}.sqlite"
    path.chmod(0o600)
    with closing(sqlite.driver.connect(str(path), isolation_level=None)) as connection:
        connection.execute("DROP TABLE time_index")
        connection.execute("CREATE INDEX batches_by_time ON batches (max_timestamp)")
    path.chmod(0o400)
    log = await harness.open()
    for timestamp in range(0, 1_000, 50):
        assert await offset_at(log, timestamp) == first_at(timestamp)
    await log.truncate_to(3)
    log.reconfigure(LogConfig(segment_bytes=1))
    await append_durably(log, timestamp=7)
    assert index_of(harness) == [(100, 0), (300, 1)]


async def test_a_truncated_segment_is_indexed_anew(harness, log):
    await log.truncate_to(4)
    assert await offset_at(log, 500) is None
    for timestamp in (350, 700):
        await append_durably(log, timestamp=timestamp)
    assert await offset_at(log, 301) == 4
    log.reconfigure(LogConfig(segment_bytes=1))
    await append_durably(log, timestamp=1)
    assert index_of(harness) == [(100, 0), (300, 1), (350, 4), (700, 5)]
    assert await offset_at(log, 351) == 5
