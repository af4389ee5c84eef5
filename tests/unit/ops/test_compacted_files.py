"""Tools read a compacted log's files, also while compaction makes fewer of them."""

from pathlib import Path

import pytest

from ottla_ops.records.selection import Bounds, Selection
from ottla_ops.records.stored_records import StoredRecords
from ottla_ops.segments.dump import dump_replica
from ottla_ops.segments.found_segments import find_replicas
from ottla_ops.segments.verification import verify_replica
from tests.unit.storage.compaction_harness import ALWAYS, compact, put
from tests.unit.storage.log_harness import TOPIC, LogHarness


@pytest.fixture
async def harness(tmp_path: Path):
    harness = LogHarness(tmp_path)
    yield harness
    await harness.close()


async def fill(harness):
    log = await harness.open(compaction=ALWAYS, segment_bytes=1)
    for number in range(12):
        await put(log, ("abc"[number % 3], number))
    log.reconfigure(log.config.__class__(compaction=ALWAYS, segment_bytes=1 << 20))
    return log


def offsets(replicas, **bounds):
    found = StoredRecords(replicas).read(TOPIC, Selection(offset=Bounds(**bounds)))
    return [record.offset for run in found.records for record in run]


async def test_what_compaction_leaves_is_verified_dumped_and_read(harness):
    log = await fill(harness)
    await compact(log)
    [replica] = find_replicas(harness.root)
    verified = list(verify_replica(replica, decode=True))
    assert [segment.findings for segment in verified] == [[], []]
    assert [segment.has_gaps for segment in verified] == [True, False]
    assert offsets([replica]) == [8, 9, 10, 11]
    dumped = list(dump_replica(replica, None, None, decode=True))
    assert [(batch.header.base_offset, len(batch.records)) for batch in dumped] == [
        (0, 0), (8, 1), (9, 1), (10, 1), (11, 1)
    ]  # fmt: skip


async def test_files_that_became_one_after_they_were_listed_are_read_once(harness):
    log = await fill(harness)
    replicas = find_replicas(harness.root)
    await compact(log)
    assert offsets(replicas) == [8, 9, 10, 11]
    assert offsets(replicas, low=9, high=10) == [9, 10]


async def test_files_that_become_one_while_they_are_read_lose_nothing(harness):
    log = await fill(harness)
    replicas = find_replicas(harness.root)
    runs = iter(StoredRecords(replicas).read(TOPIC, Selection()).records)
    first = [record.offset for record in next(runs)]
    await compact(log)
    rest = [record.offset for run in runs for record in run]
    assert first + rest == [0, 8, 9, 10, 11]
