"""Random programs of appends, compactions, restarts and crashes, held against a list of records.

The model knows every record that was appended and what a compaction may take: never the newest
record of a key, save for a tombstone whose time is over, and nothing of what it must not touch.
Mistakes are planted to show that they are found.
"""

import asyncio
import shutil
import tempfile
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ottla_broker.storage import log_compactor, segment_compaction
from ottla_broker.storage.log_compactor import CompactionLimits
from ottla_broker.storage.log_files import LogFiles
from ottla_broker.storage.policy import compaction as policy
from ottla_broker.storage.policy.compaction import CompactionConfig
from ottla_broker.storage.policy.key_offsets import KeyOffsets
from ottla_broker.storage.segment import Segment
from ottla_protocol.errors import OttlaError
from ottla_protocol.record_batch import Compression, read_header
from tests.unit.storage.compaction_harness import compact, put, records_of
from tests.unit.storage.log_harness import LogHarness, read_all

DELETE_RETENTION_MS = 100
PRODUCER = 4
COPY_ATTEMPTS = 100
CONFIG = {
    "compaction": CompactionConfig(min_dirty_ratio=0.0, delete_retention_ms=DELETE_RETENTION_MS),
    "segment_bytes": 400,
}

keys = st.integers(0, 30).map("k{}".format)
records = st.lists(st.tuples(keys, st.sampled_from([None, "v", "w" * 60])), min_size=1, max_size=4)
steps = st.one_of(
    st.tuples(st.just("put"), records, st.sampled_from([Compression.NONE, Compression.ZSTD])),
    st.tuples(st.just("put"), records, st.just(Compression.NONE)),
    st.tuples(st.just("idempotent"), records),
    st.tuples(st.just("compact"), st.integers(0, 12)),
    st.tuples(st.just("compact"), st.just(0)),
    st.tuples(st.just("wait"), st.sampled_from([1, 60, 200])),
    st.tuples(st.just("reopen")),
    st.tuples(st.just("crash")),
)
programs = st.lists(steps, min_size=1, max_size=30)


@dataclass
class Model:
    """Every record that was ever appended, and the bounds of what compactions could take."""

    records: dict = field(default_factory=dict)
    untouchable_from: int = 0
    now_ms: int = 1_000_000
    sequence: int = 0
    last_producer_batch: int | None = None
    # When a compaction could first meet each tombstone, by offset.
    met_ms: dict = field(default_factory=dict)

    def newest(self):
        return {record.key: record for record in self.records.values()}

    def compacted(self, end_offset):
        self.untouchable_from = max(self.untouchable_from, end_offset)
        for offset, record in self.records.items():
            if record.value is None and offset < end_offset:
                self.met_ms.setdefault(offset, self.now_ms)

    def may_be_gone(self, record):
        if record.offset >= self.untouchable_from:
            return False
        if self.newest()[record.key].offset > record.offset:
            return True
        met_ms = self.met_ms.get(record.offset)
        return (
            record.value is None
            and met_ms is not None
            and self.now_ms >= met_ms + DELETE_RETENTION_MS
        )


class Program:
    def __init__(self, root):
        self.harness = LogHarness(root)
        self.model = Model()
        self.log = None
        self.copies = 0

    async def run(self, program):
        self.log = await self.harness.open(**CONFIG)
        try:
            for name, *arguments in program:
                await getattr(self, f"_{name}")(*arguments)
                await self.check()
            await self.check_follower()
        finally:
            await self.harness.close()

    async def _append(self, pairs, **fields):
        info = await put(self.log, *pairs, timestamp=self.model.now_ms, **fields)
        [batch] = await self.log.read(info.base_offset, max_bytes=1, limit=1 << 60)
        for record in segment_compaction.decode_validated_batch(
            batch.data, read_header(batch.data), max_inflated_bytes=1 << 20
        ):
            self.model.records[record.offset] = record
        return info

    async def _put(self, pairs, compression):
        await self._append(pairs, compression=compression)

    async def _idempotent(self, pairs):
        info = await self._append(pairs, producer=(PRODUCER, 0, self.model.sequence))
        self.model.sequence += len(pairs)
        self.model.last_producer_batch = info.base_offset

    async def _compact(self, short_of_the_end):
        high_watermark = max(0, self.log.log_end_offset - short_of_the_end)
        active = self.log._files.active.base_offset
        self.model.compacted(min(high_watermark, active))
        # The smallest table: 23 keys, so that some compactions cover a part only.
        await compact(
            self.log,
            high_watermark=high_watermark,
            now_ms=self.model.now_ms,
            limits=CompactionLimits(map_bytes=1),
        )

    async def _wait(self, milliseconds):
        self.model.now_ms += milliseconds

    async def _reopen(self):
        self.log = await self.harness.reopen(self.log, **CONFIG)

    async def _crash(self):
        """Go on with a copy of the files from somewhere within a compaction."""
        self.model.compacted(self.log._files.active.base_offset)
        self.copies += 1
        copy = self.harness.root / f"copy-{self.copies}"
        running = asyncio.create_task(
            compact(self.log, now_ms=self.model.now_ms, limits=CompactionLimits(map_bytes=1))
        )
        for _ in range(self.copies % 7):
            await asyncio.sleep(0.001)
        async with self.log._files.lock.shared():
            copy_amid_work(self.log.directory, copy)
        await running
        await self.log.close()
        self.log = await self.harness.open(copy, **CONFIG)

    async def check(self):
        model = self.model
        found = {record.offset: record for record in await records_of(self.log)}
        assert list(found) == sorted(found)
        for offset, record in found.items():
            assert record == model.records[offset]
        for offset, record in model.records.items():
            assert offset in found or model.may_be_gone(record), record
        end = max(model.records, default=-1) + 1
        assert self.log.next_offset == end
        if model.last_producer_batch is not None:
            producer = self.log._state.producers.get(PRODUCER)
            assert producer is not None
            assert producer.batches[-1].base_offset == model.last_producer_batch

    async def check_follower(self):
        """Whoever is filled from this log knows what it knows."""
        follower = await self.harness.open(self.harness.root / "follower", **CONFIG)
        for batch in await read_all(self.log):
            follower.append_as_follower([batch])
        await follower.wait_durable(follower.next_offset)
        assert await records_of(follower) == await records_of(self.log)
        assert follower.next_offset == self.log.next_offset
        assert follower.leader_epochs == self.log.leader_epochs
        assert last_batch_of_producer(self.log) == last_batch_of_producer(follower)


def copy_amid_work(directory, copy):
    """Copy files while a thread makes new ones: again where one went between list and copy."""
    for _ in range(COPY_ATTEMPTS):
        try:
            shutil.copytree(directory, copy)
        except shutil.Error:
            shutil.rmtree(copy)
        else:
            return
    raise AssertionError(f"files came and went during {COPY_ATTEMPTS} copies")


def last_batch_of_producer(log):
    """All but its timestamp: that of its latest record, which may be gone from what is left."""
    producer = log._state.producers.get(PRODUCER)
    return producer and producer.batches[-1]._replace(timestamp=0)


def run(program):
    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(Program(Path(directory)).run(program))


@settings(max_examples=30, suppress_health_check=list(HealthCheck))
@given(programs)
def test_what_may_go_goes_and_nothing_else(program):
    run(program)


CAUGHT_BY = [
    *[("put", [(f"k{number % 3}", "w" * 60)], Compression.NONE) for number in range(9)],
    ("idempotent", [("k1", "v")]),
    ("put", [("k2", None), ("k1", "v")], Compression.NONE),
    *[("put", [("k9", "w" * 60)], Compression.NONE) for _ in range(6)],
    ("compact", 0),
    ("wait", 1),
    *[("put", [("k9", "w" * 60)], Compression.NONE) for _ in range(6)],
    ("compact", 5),
    ("compact", 0),
]


def test_the_program_that_finds_mistakes_finds_none():
    run(CAUGHT_BY)


def plant_dropped_newest(monkeypatch):
    get = KeyOffsets.get
    monkeypatch.setattr(
        KeyOffsets, "get", lambda table, key: get(table, key) + (get(table, key) >= 0)
    )


def plant_no_high_watermark(monkeypatch):
    allowed = policy._allowed
    monkeypatch.setattr(
        policy,
        "_allowed",
        lambda segments, config, _, now_ms: allowed(segments, config, 1 << 60, now_ms),
    )


def plant_active_segment(monkeypatch):
    monkeypatch.setattr(
        LogFiles,
        "sealed_segments",
        lambda files: [
            (segment, after.base_offset)
            for segment, after in pairwise([*files.segments, Segment(Path(), 1 << 60, *[None] * 3)])
        ],
    )
    monkeypatch.setattr(LogFiles, "has_all", lambda *_: True)
    monkeypatch.setattr(
        policy, "_allowed", lambda segments, *_: iter([*segments[:-1], segments[-1]])
    )


def plant_early_tombstones(monkeypatch):
    kept = policy.kept_records
    monkeypatch.setattr(
        segment_compaction,
        "kept_records",
        lambda *arguments, **keywords: kept(*arguments, **keywords | {"drop_tombstones": True}),
    )


def plant_lost_sequence(monkeypatch):
    monkeypatch.setattr(log_compactor, "remembered_batches", lambda _: frozenset())


def plant_records_behind_the_map(monkeypatch):
    kept = policy.kept_records
    monkeypatch.setattr(
        segment_compaction,
        "kept_records",
        lambda records, newest_of, *, mapped_end, drop_tombstones: kept(
            records, lambda _: mapped_end, mapped_end=mapped_end, drop_tombstones=drop_tombstones
        ),
    )


@pytest.mark.parametrize(
    "plant",
    [
        plant_dropped_newest,
        plant_no_high_watermark,
        plant_active_segment,
        plant_early_tombstones,
        plant_lost_sequence,
        plant_records_behind_the_map,
    ],
)
def test_a_planted_mistake_is_found(monkeypatch, plant):
    plant(monkeypatch)
    with pytest.raises((AssertionError, OttlaError)):
        run(CAUGHT_BY)
