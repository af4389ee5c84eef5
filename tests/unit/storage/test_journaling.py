"""Which journal commits go through, and that neither loses or keeps what it should not."""

import random

import pytest

from ottla_broker.storage import segment as segments
from ottla_broker.storage import sqlite
from ottla_broker.storage.policy.journaling import (
    BULK_AFTER_COMMITS,
    BULK_COMMIT_BYTES,
    SMALL_AFTER_COMMITS,
    JournalChoice,
)
from ottla_broker.storage.stored_batch import row_of
from ottla_protocol.record_batch import read_header
from tests.unit.storage.log_harness import append, append_durably, read_all, stored_batch


def choices(sizes):
    choice = JournalChoice()
    return [choice.next_is_bulk(size) for size in sizes]


def test_small_commits_stay_in_the_write_ahead_log():
    assert choices([BULK_COMMIT_BYTES - 1] * 20) == [False] * 20


def test_a_run_of_large_commits_leaves_it():
    found = choices([BULK_COMMIT_BYTES] * (BULK_AFTER_COMMITS + 2))
    assert found == [False] * (BULK_AFTER_COMMITS - 1) + [True] * 3


def test_now_and_then_a_large_commit_does_not():
    assert choices([BULK_COMMIT_BYTES, BULK_COMMIT_BYTES, 1] * 10) == [False] * 30


def test_a_run_of_small_commits_returns_to_it():
    sizes = [BULK_COMMIT_BYTES] * BULK_AFTER_COMMITS + [1] * SMALL_AFTER_COMMITS
    assert choices(sizes)[-SMALL_AFTER_COMMITS:] == [True] * (SMALL_AFTER_COMMITS - 1) + [False]


async def append_large(log, commits, **fields):
    for fill in range(commits):
        await append_durably(log, value_bytes=BULK_COMMIT_BYTES, fill=fill, **fields)


async def journal_mode(harness, log):
    async with harness.handles.use(log._files.active) as connection:
        (mode,) = await connection.run(
            "mode", lambda raw: raw.execute("PRAGMA journal_mode").fetchall()[0]
        )
        return mode, connection.is_bulk


async def test_the_file_follows_the_choice_and_keeps_everything(harness):
    log = await harness.open()
    await append_durably(log)
    assert await journal_mode(harness, log) == ("wal", False)
    await append_large(log, BULK_AFTER_COMMITS)
    assert await journal_mode(harness, log) == ("delete", True)
    await harness.handles.close_all()
    assert await journal_mode(harness, log) == ("wal", False)
    await append_large(log, 1)
    assert await journal_mode(harness, log) == ("delete", True)
    for _ in range(SMALL_AFTER_COMMITS):
        await append_durably(log)
    assert await journal_mode(harness, log) == ("wal", False)
    log = await harness.reopen(log)
    expected = BULK_AFTER_COMMITS + SMALL_AFTER_COMMITS + 2
    assert [batch.base_offset for batch in await read_all(log)] == list(range(expected))


async def test_durability_os_stays_in_the_write_ahead_log(harness):
    """The rollback journal would sync each commit, which nobody asked for."""
    log = await harness.open(durability="os")
    await append_large(log, BULK_AFTER_COMMITS + 1)
    assert await journal_mode(harness, log) == ("wal", False)


async def test_a_crash_between_bulk_commits_loses_nothing(harness):
    log = await harness.open()
    await append_large(log, BULK_AFTER_COMMITS + 2)
    crashed = await harness.open(await harness.copy_while_writing(log, "crashed"))
    assert crashed.recovery.damaged_from is None
    assert crashed.log_end_offset == BULK_AFTER_COMMITS + 2
    assert len(await read_all(crashed)) == BULK_AFTER_COMMITS + 2
    await append_durably(crashed)


async def test_a_crash_within_a_bulk_commit_leaves_what_was_committed(harness):
    """The transaction has spilled pages into the file; the journal takes them out again."""
    log = await harness.open()
    await append_large(log, BULK_AFTER_COMMITS + 1)
    end = log.log_end_offset
    batches = [stored_batch(end + n, value_bytes=2_000_000) for n in range(3)]
    rows = [row_of(read_header(batch.data), batch) for batch in batches]

    def crash_inside(raw):
        raw.execute("BEGIN IMMEDIATE")
        segments.insert_rows(raw, rows)
        journal = sqlite.sidecars(log._files.active.path)[2]
        assert journal.stat().st_size > 0
        assert journal.read_bytes()[:8] != bytes(8)
        directory = harness.copy("crashed")
        raw.execute("ROLLBACK")
        return directory

    async with harness.handles.use(log._files.active) as connection:
        directory = await connection.run("test", crash_inside)
    crashed = await harness.open(directory)
    assert crashed.recovery.damaged_from is None
    assert crashed.log_end_offset == end
    assert [batch.base_offset for batch in await read_all(crashed)] == list(range(end))
    await append_durably(crashed)


async def test_a_segment_sealed_out_of_bulk_is_one_plain_file(harness):
    log = await harness.open(segment_bytes=8 * BULK_COMMIT_BYTES)
    await append_large(log, 10)
    sealed = harness.directory / f"{0:020d}.sqlite"
    assert [path.name for path in harness.directory.glob(f"{sealed.name}*")] == [sealed.name]
    connection = sqlite.driver.connect(f"{sealed.as_uri()}?mode=ro", uri=True)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()
    assert len(await read_all(log)) == 10


@pytest.mark.parametrize("seed", range(2))
async def test_mixed_sizes_survive_truncation_and_restart(harness, seed):
    rng = random.Random(seed)
    log = await harness.open(segment_bytes=6_000_000)
    expected = []
    for number in range(40):
        size = rng.choice((10, 900_000, 900_000, 900_000))
        info = append(log, value_bytes=size, fill=number)
        expected.append((info.base_offset, size))
        if rng.random() < 0.7:
            await log.wait_durable(info.next_offset)
        if rng.random() < 0.1:
            await log.truncate_to(log.next_offset - rng.randint(0, 3))
            expected = [item for item in expected if item[0] < log.next_offset]
    log = await harness.reopen(log)
    found = [(batch.base_offset, len(batch.data)) for batch in await read_all(log)]
    assert [offset for offset, _ in found] == [offset for offset, _ in expected]
    assert all(size > value for (_, size), (_, value) in zip(found, expected, strict=True))
