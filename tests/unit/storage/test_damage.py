"""Damage that is found while a log is open: refused, told once, and cut off to be fetched again."""

import random
from contextlib import closing

import pytest

from ottla_broker.storage import segment as segments
from ottla_broker.storage import sqlite
from ottla_broker.storage.segment_header import check_header
from ottla_broker.storage.segment_pages import page_findings
from ottla_broker.storage.segment_rebuild import (
    DAMAGED_FILES_MAX,
    damaged_files,
    is_marked_for_rebuild,
)
from ottla_broker.storage.segment_verification import check_sealed_pages
from ottla_broker.storage.stored_batch import DamagedSegmentError
from ottla_protocol.errors import StorageError
from tests.unit.storage.log_harness import UNLIMITED, append_durably, read_all, request

SEGMENT_BYTES = 6_000
BATCHES = 30


def flip(path, position, bit=0):
    path.chmod(0o600)
    content = bytearray(path.read_bytes())
    content[position] ^= 1 << bit
    path.write_bytes(content)


async def filled(harness, *, told=None, **config):
    """Thirty batches of one record over several segments, told apart by their contents."""
    log = await harness.open(segment_bytes=SEGMENT_BYTES, **config)
    if told is not None:
        log.damage._on_damage = lambda error, by: told.append((error.path.name, by))
    for fill in range(BATCHES):
        await append_durably(log, value_bytes=1_000, fill=fill, idempotency=request(fill))
    return log


def spoil(harness, fill):
    """Flip a bit of the batch that holds `fill`; returns its segment."""
    for path in sorted(harness.directory.glob("*.sqlite")):
        position = path.read_bytes().find(bytes([fill]) * 500)
        if position >= 0:
            flip(path, position + 100)
            return path
    raise AssertionError(f"no segment holds {fill}")


async def read_upto_damage(log):
    found, offset = [], log.log_start_offset
    while True:
        try:
            batches = await log.read(offset, max_bytes=1, limit=UNLIMITED)
        except DamagedSegmentError:
            return found
        assert batches, "the damage was taken for the end of the log"
        found.extend(batch.base_offset for batch in batches)
        offset = batches[-1].last_offset + 1


async def test_damage_is_refused_and_told_once(harness):
    told = []
    log = await filled(harness, told=told)
    path = spoil(harness, 7)
    assert await read_upto_damage(log) == list(range(7))
    assert await read_upto_damage(log) == list(range(7))
    assert told == [(path.name, "read")]
    assert log.damage.first == path
    # What lies behind it is good, and is served.
    assert await log.next_readable(7) == 8
    [batch] = await log.read(8, max_bytes=1, limit=UNLIMITED)
    assert batch.base_offset == 8


async def test_a_cut_keeps_what_is_before_the_damage_and_what_is_fetched_again_follows(harness):
    log = await filled(harness)
    before = await read_all(log)
    path = spoil(harness, 7)
    await read_upto_damage(log)
    await log.cut_at_damage()
    assert (log.next_offset, log.log_end_offset) == (7, 7)
    assert log.damage.first is None
    assert [batch.base_offset for batch in await read_all(log)] == list(range(7))
    assert damaged_files(harness.directory) == [segments.quarantine_name(path)]
    log.append_as_follower(before[7:])
    await log.wait_durable(BATCHES)
    assert await read_all(log) == before
    log = await harness.reopen(log)
    assert log.recovery.damaged_from is None
    assert await read_all(log) == before


async def test_a_log_without_known_damage_is_not_cut(harness):
    log = await filled(harness)
    await log.cut_at_damage()
    assert log.next_offset == BATCHES


async def test_a_cut_below_the_start_of_the_log_begins_it_anew(harness):
    log = await filled(harness)
    log.cleanup.advance_log_start(9)
    path = log._files._segments[log._files._index_of(9)].path
    path.chmod(0o600)
    path.write_bytes(b"\0" * path.stat().st_size)
    with pytest.raises(DamagedSegmentError):
        await log.read(9, max_bytes=1, limit=UNLIMITED)
    await log.cut_at_damage()
    assert (log.log_start_offset, log.next_offset) == (9, 9)


async def test_what_the_only_replica_lost_leaves_a_gap_and_no_offset_is_used_again(harness):
    log = await filled(harness)
    await log.skip_to(BATCHES + 5)
    assert log.next_offset == BATCHES + 5
    info = await append_durably(log, fill=99)
    assert info.base_offset == BATCHES + 5
    [batch] = await log.read(BATCHES + 1, max_bytes=1, limit=UNLIMITED)
    assert batch.base_offset == BATCHES + 5
    log = await harness.reopen(log, segment_bytes=SEGMENT_BYTES)
    assert log.recovery.damaged_from is None
    assert len(await read_all(log)) == BATCHES + 1


async def test_a_wrong_last_offset_is_damage_and_not_the_end_of_the_segment(harness):
    log = await filled(harness)
    path = log._files._segments[0].path
    await harness.handles.close(path)
    path.chmod(0o600)
    connection = sqlite.driver.connect(path, isolation_level=None)
    connection.execute("UPDATE batches SET last_offset = 1 << 40 WHERE base_offset = 2")
    connection.close()
    path.chmod(0o400)
    with pytest.raises(DamagedSegmentError):
        await log.read(2, max_bytes=1, limit=20)


@pytest.mark.parametrize("value", ["NULL", "'x'", "x'00'", "1.5", "-1"])
@pytest.mark.parametrize("column", ["last_offset", "size", "record_count", "data", "max_timestamp"])
async def test_whatever_a_column_holds_is_damage(harness, column, value):
    log = await filled(harness)
    path = log._files._segments[0].path
    await harness.handles.close(path)
    path.chmod(0o600)
    connection = sqlite.driver.connect(path, isolation_level=None)
    connection.execute("PRAGMA writable_schema=ON")
    connection.execute("UPDATE sqlite_master SET sql = replace(sql, ' NOT NULL', '')")
    connection.close()
    connection = sqlite.driver.connect(path, isolation_level=None)
    connection.execute(f"UPDATE batches SET {column} = {value} WHERE base_offset = 2")
    connection.close()
    path.chmod(0o400)
    with pytest.raises(DamagedSegmentError):
        await log.read(2, max_bytes=1, limit=UNLIMITED)
    good = await log.read(0, max_bytes=1 << 20, limit=UNLIMITED)
    assert [batch.base_offset for batch in good] == [0, 1]


async def test_any_flipped_bit_of_a_sealed_segment_is_found_or_changes_nothing(harness):
    """And the log can be cut and filled again, whatever it hit."""
    log = await filled(harness)
    before = await read_all(log)
    random_numbers = random.Random(16)
    found = 0
    for _ in range(60):
        sealed = log._files._segments[:-1]
        path = random_numbers.choice(sealed).path
        await harness.handles.close(path)
        # Where there is something: a page is mostly empty.
        used = [index for index, byte in enumerate(path.read_bytes()) if byte]
        flip(path, random_numbers.choice(used), random_numbers.randrange(8))
        path.chmod(0o400)
        try:
            assert await read_all(log) == before
        except DamagedSegmentError:
            found += 1
            await log.cut_at_damage()
            kept = await read_all(log)
            assert kept == before[: len(kept)]
            log.append_as_follower(before[len(kept) :])
            await log.wait_durable(BATCHES)
            assert await read_all(log) == before
    assert found > 20
    assert len(damaged_files(harness.directory)) <= DAMAGED_FILES_MAX


async def test_every_field_of_the_header_that_never_changes_is_checked(harness):
    log = await filled(harness)
    await log.close()
    path = min(harness.directory.glob("*.sqlite"))
    check_header(path)
    refused = 0
    for position in [*range(24), *range(44, 48), *range(52, 92)]:
        for bit in range(8):
            flip(path, position, bit)
            try:
                check_header(path)
            except DamagedSegmentError:
                refused += 1
            else:
                # The two journal versions are 1 or 2 in a sound file.
                assert position in (18, 19), (position, bit)
            flip(path, position, bit)
    assert refused > 400


async def test_a_commit_that_comes_upon_damage_has_the_segment_rebuilt(harness, monkeypatch):
    """Else a page's list of free room, which nobody reads, would fail every commit for ever."""
    log = await harness.open()
    await append_durably(log)
    path = log._files.active.path
    real = segments.insert

    def fail(connection, *_, **__):
        connection.execute("SELECT * FROM absent")

    monkeypatch.setattr(segments, "insert", fail)
    with pytest.raises(StorageError):
        await append_durably(log)
    monkeypatch.setattr(segments, "insert", real)
    assert is_marked_for_rebuild(path)
    copy = harness.copy("crashed")
    log = await harness.open(copy)
    assert log.recovery.damaged_from == 1
    assert not is_marked_for_rebuild(copy / path.name)
    assert (await append_durably(log)).base_offset == 1


async def test_damage_to_room_that_is_free_is_found_by_checking_pages(harness):
    log = await filled(harness)
    path = log._files._segments[0].path
    assert check_sealed_pages(path) == []
    content = path.read_bytes()
    # The count of free bytes in fragments, of the last page that is a leaf of a table.
    page = max(start for start in range(0, len(content), sqlite.PAGE_BYTES) if content[start] == 13)
    flip(path, page + 7)
    assert [finding.path for finding in check_sealed_pages(path)] == [path]
    path.unlink()
    assert check_sealed_pages(path) == []


def spoil_aborted_transactions(path):
    """Flip a bit in the list of free room of a table that nothing is in, the last of the schema."""
    with closing(sqlite.connect_active(path, sqlite.Durability.FSYNC)) as connection:
        [(page,)] = connection.execute(
            "SELECT rootpage FROM sqlite_schema WHERE name = 'aborted_transactions'"
        ).fetchall()
    flip(path, (page - 1) * sqlite.PAGE_BYTES + 1)


async def test_recovery_finds_damage_that_no_batch_lies_in(harness):
    log = await harness.open()
    for fill in range(3):
        await append_durably(log, fill=fill)
    copy = harness.copy("crashed")
    path = copy / log._files.active.path.name
    spoil_aborted_transactions(path)
    # A crash, since a clean close has batches verified and no log is left beside the file.
    path.with_name(path.name + "-wal").touch()
    log = await harness.open(copy)
    assert log.recovery.damaged_from == 3
    assert "free space" in log.recovery.reason
    assert [batch.base_offset for batch in await read_all(log)] == [0, 1, 2]
    await log.close()
    with closing(sqlite.connect_active(path, sqlite.Durability.FSYNC)) as connection:
        assert page_findings(connection) == []


async def test_damage_to_an_empty_table_of_the_active_segment_is_found_by_looking(harness):
    log = await harness.open()
    await append_durably(log)
    await log.close()
    path = log._files.active.path
    spoil_aborted_transactions(path)
    told = []
    log = await harness.open()
    log.damage._on_damage = lambda error, by: told.append((error.path, by))
    step = await log.inspector.verify(0, found_by="scrub")
    assert [finding.path for finding in step.segment.findings] == [path]
    assert told == [(path, "scrub")]
