"""Committed records read from a real log's segments, of which many have aborted transactions."""

from random import Random
from types import SimpleNamespace

import pytest

from ottla_broker.drivers.purgatory import Purgatory, Watchers
from ottla_broker.services.consumer_reads import LeaderRead
from ottla_broker.services.reading import poll
from ottla_protocol.control_records import EndMarker
from ottla_protocol.record_batch import read_header
from tests.unit.storage.compaction_harness import ALWAYS, compact, put
from tests.unit.storage.log_harness import LogHarness, make_batch

SEGMENT_BYTES = 700
PRODUCERS = 4
STEPS = 150


class WrittenLog:
    """Appends what it is told, and knows what readers of committed records are to see."""

    def __init__(self, log):
        self.log = log
        self.epochs = [0] * PRODUCERS
        self.sequences = [0] * PRODUCERS
        self.open = {}
        self.committed = set()

    def append(self, producer_id, *, is_transactional):
        batch = make_batch(
            2,
            producer_id=producer_id,
            producer_epoch=self.epochs[producer_id],
            base_sequence=self.sequences[producer_id],
            transactional=is_transactional,
        )
        info = self.log.append_as_leader(batch, read_header(batch), leader_epoch=0, now_ms=1_000)
        self.sequences[producer_id] += 2
        if is_transactional:
            self.open.setdefault(producer_id, []).append(info.base_offset)
        else:
            self.committed.add(info.base_offset)

    def end(self, producer_id, *, is_commit):
        self.epochs[producer_id] += 1
        self.sequences[producer_id] = 0
        self.log.append_marker(
            EndMarker(is_commit, 0),
            producer_id=producer_id,
            producer_epoch=self.epochs[producer_id],
            leader_epoch=0,
            now_ms=1_000,
        )
        ended = self.open.pop(producer_id, [])
        if is_commit:
            self.committed.update(ended)

    def step(self, random):
        producer_id = random.randrange(PRODUCERS)
        kind = random.choice(["records", "records", "records", "plain", "commit", "abort"])
        if kind == "records":
            self.append(producer_id, is_transactional=True)
        elif kind != "plain":
            self.end(producer_id, is_commit=kind == "commit")
        elif producer_id not in self.open:
            self.append(producer_id, is_transactional=False)


def replica(log):
    """Its leader, all of whose log is committed."""
    return SimpleNamespace(
        log=log,
        name="orders-0",
        state=SimpleNamespace(leader_epoch=0, partition=0),
        leading=lambda: SimpleNamespace(may_be_acknowledged=lambda _: False),
        high_watermark=log.next_offset,
        last_stable_offset=log.last_stable_offset(log.next_offset),
        is_only_replica=True,
        watermark_watchers=Watchers(),
    )


async def read_all(partition, max_bytes):
    found, offset = [], partition.log.log_start_offset
    while offset < partition.last_stable_offset:
        read = LeaderRead(partition, offset, max_bytes, isolation="read_committed")
        await poll([read], min_bytes=1, max_bytes=1 << 20, max_wait_ms=0, purgatory=Purgatory(1))
        assert read.error is None
        assert read.next_offset > offset
        found += [batch.base_offset for batch in read.batches]
        offset = read.next_offset
    return found


@pytest.mark.parametrize("seed", range(4))
async def test_pages_of_any_size_show_what_is_committed_also_after_a_restart(tmp_path, seed):
    random = Random(seed)
    harness = LogHarness(tmp_path)
    try:
        log = await harness.open(segment_bytes=SEGMENT_BYTES)
        log.assign_epoch(0)
        written = WrittenLog(log)
        for _ in range(STEPS):
            written.step(random)
        await log.wait_durable(log.next_offset)
        for _ in range(2):
            partition = replica(log)
            stable = partition.last_stable_offset
            wanted = sorted(offset for offset in written.committed if offset < stable)
            assert wanted
            for max_bytes in (1, 400, 1 << 20):
                assert await read_all(partition, max_bytes) == wanted
            log = await harness.reopen(log, segment_bytes=SEGMENT_BYTES)
            assert log.last_stable_offset(log.next_offset) == stable
        assert len([name for name in harness.files() if name.endswith(".sqlite")]) > 10
    finally:
        await harness.close()


@pytest.mark.parametrize("change", ["compaction", "truncation"])
async def test_what_is_taken_away_during_a_read_does_not_make_aborted_records_committed(
    tmp_path, monkeypatch, change
):
    harness = LogHarness(tmp_path)
    try:
        log = await harness.open(compaction=ALWAYS)
        await put(log, ("first of its epoch", 0))
        await put(log, ("aborted", 1), producer=(7, 0, -1), transactional=True)
        log.append_marker(
            EndMarker(False, 0), producer_id=7, producer_epoch=1, leader_epoch=0, now_ms=1_000
        )
        await put(log, ("kept", 1))
        log._appender.roll()
        await put(log, ("kept too", 1))
        # After a restart it is not in memory what was aborted.
        log = await harness.reopen(log, compaction=ALWAYS)
        partition, read_log = replica(log), log.read

        async def read_before_the_change(offset, **bounds):
            batches = await read_log(offset, **bounds)
            monkeypatch.setattr(log, "read", read_log)
            if change == "truncation":
                await log.truncate_to(2)
                partition.last_stable_offset = log.last_stable_offset(log.next_offset)
            else:
                await compact(log)
            return batches

        monkeypatch.setattr(log, "read", read_before_the_change)
        read = LeaderRead(partition, 1, 1 << 20, isolation="read_committed")
        await read.look(1 << 20)
        assert 1 not in [batch.base_offset for batch in read.batches]
    finally:
        await harness.close()


@pytest.mark.parametrize("aborted_batches", [1, 2])
async def test_what_is_passed_over_in_a_newer_leader_epoch_is_no_truncation(
    tmp_path, aborted_batches
):
    harness = LogHarness(tmp_path)
    try:
        log = await harness.open()
        await put(log, ("read in epoch 0", 0))
        for number in range(aborted_batches):
            await put(
                log,
                ("aborted", number),
                producer=(7, 0, -1),
                transactional=True,
                leader_epoch=1,
            )
        log.append_marker(
            EndMarker(False, 0), producer_id=7, producer_epoch=1, leader_epoch=1, now_ms=1_000
        )
        await log.wait_durable(log.next_offset)
        partition = replica(log)
        partition.state.leader_epoch = 1
        read = LeaderRead(partition, 1, 1, 0, isolation="read_committed")
        # The second look is that of a parked read which something woke.
        for _ in range(2):
            await read.look(1 << 20)
            assert read.error is None
            assert read.next_offset == log.next_offset
    finally:
        await harness.close()
