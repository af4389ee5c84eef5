"""Looking into an open log: counting and verifying its segments in small steps."""

import sqlite3
from contextlib import closing

import pytest

from ottla_broker.storage import log_inspection
from ottla_broker.storage.log_compactor import CompactionLimits
from ottla_broker.storage.policy.compaction import CompactionConfig
from ottla_broker.storage.segment import segment_path
from ottla_protocol.errors import UnavailableError
from tests.unit.storage.log_harness import append_durably, stored_batch


@pytest.fixture(autouse=True)
def small_steps(monkeypatch):
    """One batch a step, so that every boundary is one between two steps."""
    monkeypatch.setattr(log_inspection, "VERIFIED_BYTES", 1)
    monkeypatch.setattr(log_inspection, "COUNTED_BATCHES", 2)


async def ten_batches(harness, **config):
    """Ten batches of three records, in segments of a few batches each."""
    log = await harness.open(segment_bytes=config.pop("segment_bytes", 700), **config)
    for number in range(10):
        await append_durably(log, 3, timestamp=1_000 * number)
    return log


def change(path, *statements):
    """Change a sealed segment behind the broker's back, as a failing disk does."""
    path.chmod(0o600)
    with closing(sqlite3.connect(path)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()
    path.chmod(0o400)


async def verified(log, offset=0):
    """Every step from `offset` on."""
    steps = []
    while offset is not None:
        step = await log.inspector.verify(offset)
        assert step.next_offset is None or step.next_offset > offset
        steps.append(step)
        offset = step.next_offset
    return steps


def findings(steps):
    return [
        (found.path.name, found.offset, found.reason)
        for step in steps
        for found in step.segment.findings
    ]


async def test_a_segment_is_counted_in_steps(harness):
    log = await ten_batches(harness)
    bases = log.inspector.base_offsets()
    found = [await log.inspector.describe(base) for base in bases]
    assert len(found) > 2
    assert [each.sealed for each in found] == [True] * (len(found) - 1) + [False]
    assert [each.end_offset for each in found] == [*bases[1:], 30]
    assert sum(each.batches for each in found) == 10
    assert [each.records for each in found] == [
        end - base for base, end in zip(bases, [*bases[1:], 30], strict=True)
    ]
    assert (found[0].first_timestamp, found[-1].last_timestamp) == (2, 9_002)
    assert all(each.size_bytes > 0 and each.leader_epoch == 0 for each in found)
    assert await log.inspector.describe(1) is None


async def test_a_sound_log_verifies(harness):
    log = await ten_batches(harness)
    steps = await verified(log)
    assert findings(steps) == []
    assert sum(step.segment.batches for step in steps) == 10
    assert sum(step.segment.records for step in steps) == 30
    assert all(step.read_bytes > 0 for step in steps if step.segment.batches)


async def test_an_empty_log_verifies(harness):
    log = await harness.open()
    [step] = await verified(log)
    assert (step.segment.findings, step.next_offset) == ([], None)


@pytest.mark.parametrize(
    ("statement", "offset", "reason"),
    [
        ("UPDATE batches SET record_count = 9 WHERE base_offset = 3", 3, "columns differ"),
        ("DELETE FROM batches WHERE base_offset = 0", 0, "offsets 0 to 2 are missing"),
        ("DELETE FROM batches WHERE base_offset > 0", 3, "are missing"),
        ("UPDATE leader_epochs SET epoch = 4", 0, "leader epoch 0, where"),
        ("UPDATE meta SET value = 'other' WHERE name = 'topic'", None, "belongs to"),
        ("DELETE FROM meta WHERE name = 'topic_id'", None, "meta has no"),
        ("UPDATE leader_epochs SET start_offset = 'x'", 0, ""),
        (
            "INSERT INTO producer_snapshot VALUES (0, 1, 0, x'90', NULL, 0)",
            0,
            "snapshot is damaged",
        ),
    ],
)
async def test_damage_is_told_with_file_and_offset(harness, statement, offset, reason):
    log = await ten_batches(harness)
    path = segment_path(log.directory, 0)
    await harness.handles.close(path)
    change(path, statement)
    found = findings(await verified(log))
    assert found[0][:2] == (path.name, offset)
    assert reason in found[0][2]
    assert {name for name, *_ in found} == {path.name}
    # Whoever heals it was told.
    assert log.damage.first == path


async def test_a_file_that_sqlite_cannot_read_does_not_hide_the_others(harness):
    log = await ten_batches(harness)
    path = segment_path(log.directory, 0)
    await harness.handles.close(path)
    path.chmod(0o600)
    path.write_bytes(b"not a database " * 4_000)
    path.chmod(0o400)
    steps = await verified(log)
    [(name, offset, reason)] = findings(steps)
    assert (name, offset) == (path.name, 0)
    assert reason == "it does not begin as an SQLite file does"
    assert not steps[0].segment.is_complete
    assert sum(step.segment.batches for step in steps) > 5
    assert log.damage.first == path
    assert "SQLite" in (await log.inspector.describe(0)).unreadable


async def test_a_truncation_between_two_steps_is_no_damage(harness):
    """The new batches begin elsewhere than the old ones: one reaches over the step's beginning."""
    log = await ten_batches(harness, segment_bytes=1 << 20)
    step = await log.inspector.verify(0)
    while step.next_offset < 15:
        step = await log.inspector.verify(step.next_offset)
    await log.truncate_to(12)
    await append_durably(log, 7)
    steps = await verified(log, 15)
    assert findings(steps) == []
    assert steps[0].segment.batches == 1


async def test_it_goes_on_where_the_log_begins_now(harness):
    log = await ten_batches(harness)
    second = log.inspector.base_offsets()[1]
    log.cleanup.advance_log_start(second)
    await log.cleanup.remove_expired()
    steps = await verified(log, 0)
    assert steps[0].segment.base_offset == second
    assert findings(steps) == []


async def test_gaps_of_a_compacted_log_are_no_damage(harness):
    log = await harness.open(segment_bytes=400)
    for base in (0, 5, 6, 20, 40):
        log.append_as_follower([stored_batch(base, 2 if base == 0 else 1, value_bytes=200)])
        await log.wait_durable(log.next_offset)
    assert findings(await verified(log)) == []


async def test_a_batch_that_a_compacted_segment_has_lost_is_missed(harness):
    """Where offsets may be missing, only their number tells."""
    log = await ten_batches(harness, compaction=CompactionConfig(0.0))
    await log.cleanup.compact(
        high_watermark=30, now_ms=0, limits=CompactionLimits(map_bytes=1 << 16)
    )
    assert findings(await verified(log)) == []
    path = segment_path(log.directory, 0)
    await harness.handles.close(path)
    change(path, "DELETE FROM batches WHERE base_offset = (SELECT min(base_offset) FROM batches)")
    [(name, offset, reason)] = findings(await verified(log))
    assert (name, offset) == (path.name, None)
    assert "where compaction left" in reason


async def test_batches_that_are_not_there_at_the_end_are_missing(harness):
    log = await ten_batches(harness, segment_bytes=1 << 20)
    async with harness.handles.use(log._files.active) as connection:
        await connection.run(
            "lose", lambda raw: raw.execute("DELETE FROM batches WHERE base_offset >= 24")
        )
    assert findings(await verified(log)) == [
        (segment_path(log.directory, 0).name, 24, "offsets 24 to 29 are missing")
    ]


async def test_a_closed_log_opens_no_file_again(harness):
    log = await ten_batches(harness)
    await log.close()
    with pytest.raises(UnavailableError):
        await log.inspector.verify(0)
    with pytest.raises(UnavailableError):
        await log.inspector.describe(0)
    assert len(harness.handles) == 0


async def test_files_put_aside_are_told(harness):
    log = await ten_batches(harness)
    aside = log.directory / f"{12:020d}.sqlite.damaged"
    aside.write_bytes(b"x" * 100)
    assert log.inspector.put_aside() == [(aside, 12, 100)]
