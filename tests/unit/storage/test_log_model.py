"""The log against a list in memory, through any run of what may happen to it.

Appends, rolls, truncations, retention, look-ups by time, restarts and crashes.
"""

import asyncio
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from ottla_broker.storage.log_config import LogConfig
from ottla_broker.storage.policy.producer_state import PRODUCER_BATCHES_MAX
from ottla_broker.storage.tail_cache import TailCache
from ottla_protocol.errors import OffsetOutOfRangeError
from ottla_protocol.record_batch import read_header
from tests.unit.storage.log_harness import (
    UNLIMITED,
    LogHarness,
    append,
    read_all,
    request,
    stored_batch,
)

PRODUCER_ID = 4
NOW_MS = 40
TIMESTAMPS = st.sampled_from((1, 3, 10, 22, 30, 39))


class LogAgainstModel(RuleBasedStateMachine):
    """`batches` is what the log must hold, `let_go` what was below its start once.

    Both hold (base, last, epoch, bytes, idempotency, sequence, newest timestamp).
    """

    def __init__(self):
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.root = Path(tempfile.mkdtemp(prefix="ottla-log-model-"))
        self.batches = []
        self.let_go = []
        self.start = 0
        self.end = 0
        self.epoch = 0
        self.requests = 0
        self.crashes = 0

    def run(self, awaitable):
        return self.loop.run_until_complete(awaitable)

    @initialize(
        segment_bytes=st.sampled_from((1, 400, 1_500)),
        cache_bytes=st.sampled_from((0, 600, 1 << 20)),
    )
    def begin(self, segment_bytes, cache_bytes):
        self.config = {"segment_bytes": segment_bytes, "group_commit_max_bytes": 1_000}
        self.one_batch_a_segment = segment_bytes == 1

        async def begin():
            self.harness = LogHarness(self.root, tail_cache=TailCache(cache_bytes))
            self.log = await self.harness.open(**self.config)

        self.run(begin())

    def teardown(self):
        if hasattr(self, "log"):
            self.run(self.harness.close())
            assert self.harness.failures == []
        self.loop.close()
        shutil.rmtree(self.root)

    def take(self, info, data, idempotency=None, sequence=None):
        self.batches.append(
            (
                info.base_offset,
                info.last_offset,
                self.epoch,
                bytes(data),
                idempotency,
                sequence,
                read_header(data).max_timestamp,
            )
        )
        self.end = info.last_offset + 1

    def expected_sequence(self):
        known = self.let_go + self.batches
        sequences = [batch[5] for batch in known if batch[5] is not None]
        return sequences[-1][1] + 1 if sequences else 0

    @rule(
        records=st.integers(1, 3),
        value_bytes=st.sampled_from((1, 200, 900)),
        fill=st.integers(0, 9),
        timestamp=TIMESTAMPS,
    )
    def append_plain(self, records, value_bytes, fill, timestamp):
        info = self.append(records, value_bytes=value_bytes, fill=fill, timestamp=timestamp)
        assert not info.duplicate

    @rule(timestamps=st.lists(TIMESTAMPS, min_size=3, max_size=6))
    def append_out_of_order(self, timestamps):
        for timestamp in timestamps:
            self.append(1, value_bytes=1, timestamp=timestamp)

    @rule(records=st.integers(1, 3))
    def append_request(self, records):
        self.requests += 1
        info = self.append(records, idempotency=request(self.requests))
        assert not info.duplicate

    @rule(records=st.integers(1, 3))
    def append_sequenced(self, records):
        sequence = self.expected_sequence()
        info = self.append(
            records, producer_id=PRODUCER_ID, producer_epoch=0, base_sequence=sequence
        )
        assert not info.duplicate

    def append(self, records, **fields):
        async def append_one():
            return append(self.log, records, leader_epoch=self.epoch, **fields)

        info = self.run(append_one())
        assert (info.base_offset, info.last_offset) == (self.end, self.end + records - 1)
        (found,) = self.run(self.log.read(info.base_offset, max_bytes=1, limit=UNLIMITED))
        sequence = fields.get("base_sequence")
        idempotency = fields.get("idempotency")
        self.take(
            info,
            found.data,
            None if idempotency is None else idempotency.to_bytes(),
            None if sequence is None else (sequence, sequence + records - 1),
        )
        return info

    @rule(gap=st.sampled_from((0, 0, 1, 5)), records=st.integers(1, 3), timestamp=TIMESTAMPS)
    def append_fetched(self, gap, records, timestamp):
        batch = stored_batch(
            self.end + gap,
            records,
            leader_epoch=self.epoch,
            value_bytes=100,
            timestamp=timestamp,
        )

        async def append_one():
            self.log.append_as_follower([batch])

        self.run(append_one())
        self.take(batch, batch.data)

    @rule()
    def begin_epoch(self):
        self.epoch += 1
        self.run(self.log.begin_epoch(self.epoch))

    @precondition(lambda self: any(batch[4] for batch in self.batches))
    @rule(data=st.data())
    def retry_request(self, data):
        stored = data.draw(st.sampled_from([batch for batch in self.batches if batch[4]]))
        found = self.log.check_idempotency(stored[4][:16], stored[4][16:])
        assert (found.base_offset, found.last_offset) == stored[:2]

    @precondition(lambda self: any(batch[5] for batch in self.batches))
    @rule(data=st.data())
    def retry_sequenced(self, data):
        known = [batch for batch in self.batches if batch[5]][-PRODUCER_BATCHES_MAX:]
        stored = data.draw(st.sampled_from(known))
        info = append(
            self.log,
            stored[1] - stored[0] + 1,
            leader_epoch=self.epoch,
            producer_id=PRODUCER_ID,
            producer_epoch=0,
            base_sequence=stored[5][0],
        )
        assert (info.duplicate, info.base_offset, info.last_offset) == (True, *stored[:2])

    @rule(back=st.integers(0, 12))
    def truncate(self, back):
        offset = max(self.end - back, self.start)
        self.run(self.log.truncate_to(offset))
        cut = [batch[0] for batch in self.batches if batch[1] >= offset]
        forgotten = [batch for batch in self.batches if batch[1] >= offset and batch[4]]
        self.batches = [batch for batch in self.batches if batch[1] < offset]
        self.end = min([offset, *cut])
        self.epoch = max(self.log.leader_epochs.latest_epoch, 0)
        for batch in forgotten:
            assert self.log.check_idempotency(batch[4][:16], batch[4][16:]) is None

    @rule(ahead=st.integers(0, 5))
    def reset(self, ahead):
        self.run(self.log.reset_to(self.end + ahead))
        self.start = self.end = self.end + ahead
        self.batches = []
        self.let_go = []
        self.epoch = 0

    @rule(retention_ms=st.sampled_from((0, 5, 15, 100)), back=st.integers(0, 6))
    def let_go_by_age(self, retention_ms, back):
        """With a segment for each batch it is exactly the old ones from the beginning on."""
        committed = max(self.end - back, self.start)
        kept = self.enforce(committed, retention_ms=retention_ms)
        gone = self.batches[: len(self.batches) - len(kept)]
        assert all(NOW_MS - batch[6] > retention_ms for batch in gone)
        if self.one_batch_a_segment:
            first = next(iter(kept), None)
            assert first is None or first[1] >= committed or NOW_MS - first[6] <= retention_ms
        if committed == self.end and all(NOW_MS - b[6] > retention_ms for b in self.batches):
            assert kept == []
        self.started_at(self.log.log_start_offset)

    @rule(retention_bytes=st.sampled_from((0, 150_000, 1 << 30)), back=st.integers(0, 6))
    def let_go_by_size(self, retention_bytes, back):
        """Never the segment that is written."""
        committed = max(self.end - back, self.start)
        self.run(self.log.wait_durable(self.end))
        size_bytes = self.log.size_bytes
        kept = self.enforce(committed, retention_bytes=retention_bytes)
        assert kept == self.batches or size_bytes >= retention_bytes
        active = [b for b in self.batches if b[0] >= self.log._files.active.base_offset]
        assert kept[len(kept) - len(active) :] == active
        self.started_at(self.log.log_start_offset)

    def enforce(self, committed, **limits):
        """Hold the log against these limits; returns the batches that are kept."""
        self.run(self.log.wait_durable(self.end))
        self.log.reconfigure(LogConfig(**self.config, **limits))
        self.run(self.log.enforce_retention(high_watermark=committed, now_ms=NOW_MS))
        assert self.start <= self.log.log_start_offset <= max(committed, self.start)
        kept = [batch for batch in self.batches if batch[0] >= self.log.log_start_offset]
        # No batch is cut in two.
        assert all(batch[1] < self.log.log_start_offset for batch in self.batches[: -len(kept)])
        return kept

    @rule(back=st.integers(0, 6))
    def follow_the_leader_s_start(self, back):
        starts = [batch[0] for batch in self.batches] + [self.end]
        self.run(self.log.wait_durable(self.end))
        self.log.advance_log_start(starts[max(0, len(starts) - 1 - back)])
        self.started_at(self.log.log_start_offset)

    def started_at(self, start):
        self.let_go += [batch for batch in self.batches if batch[0] < start]
        self.batches = [batch for batch in self.batches if batch[0] >= start]
        self.start = start

    @rule()
    def remove_expired(self):
        self.run(self.log.remove_expired())
        names = sorted(int(path.stem) for path in self.log.directory.glob("*.sqlite"))
        assert all(base > self.start for base in names[1:])
        assert names[0] <= self.start

    def opened_again(self):
        """Where the log begins is told by its files, and some of them may have been left."""
        start = self.log.log_start_offset
        assert start <= self.start
        self.batches = [batch for batch in self.let_go if batch[0] >= start] + self.batches
        self.let_go = [batch for batch in self.let_go if batch[0] < start]
        self.start = start

    @rule(at=st.sampled_from((0, 0, 0, 1, 3, 8)))
    def find_timestamps(self, at):
        """The lowest offset of each time, wherever the look-up begins."""
        for timestamp in (0, 2, 5, 11, 23, 31, 40, 50):
            found = self.run(
                self.log.find_timestamp(timestamp, offset=self.start + at, limit=UNLIMITED)
            )
            wanted = next(
                (b for b in self.batches if b[0] >= self.start + at and b[6] >= timestamp), None
            )
            assert (found and found.base_offset) == (wanted and wanted[0])

    @rule()
    def restart(self):
        self.log = self.run(self.harness.reopen(self.log, **self.config))
        self.opened_again()
        assert self.log.recovery.verified_batches == 0
        assert self.log.recovery.damaged_from is None

    @rule()
    def crash(self):
        """Everything durable is there after a crash; nothing else was promised."""
        self.run(self.log.wait_durable(self.end))
        self.crashes += 1
        target = self.root / f"crash-{self.crashes}"
        shutil.copytree(self.log.directory, target)
        self.run(self.log.close())
        self.log = self.run(self.harness.open(target, **self.config))
        self.opened_again()
        assert self.log.recovery.damaged_from is None
        assert not self.log.recovery.suspect_tail

    @rule(
        at=st.integers(-1, 40), max_bytes=st.sampled_from((0, 500, 1 << 20)), back=st.integers(0, 5)
    )
    def read(self, at, max_bytes, back):
        offset, limit = self.start + at, self.end - back
        try:
            found = self.run(self.log.read(offset, max_bytes=max_bytes, limit=limit))
        except OffsetOutOfRangeError:
            assert not self.start <= offset <= self.end
            return
        wanted = [batch for batch in self.batches if batch[1] >= offset and batch[1] < limit]
        assert self.content(found) == [batch[:5] for batch in wanted[: len(found)]]
        assert len(found) > 0 or not wanted or offset >= limit
        assert len(found) <= 1 or sum(len(batch.data) for batch in found) <= max_bytes

    def content(self, batches):
        return [
            (b.base_offset, b.last_offset, b.leader_epoch, bytes(b.data), b.idempotency)
            for b in batches
        ]

    @invariant()
    def ends_agree(self):
        if not hasattr(self, "log"):
            return
        assert self.log.log_start_offset == self.start
        assert self.log.next_offset == self.end
        assert self.start <= self.log.log_end_offset <= self.end
        if self.batches and self.batches[-1][1] == self.end - 1:
            assert self.log.last_batch_epoch == self.batches[-1][2]

    @rule()
    def everything_is_there(self):
        assert self.content(self.run(read_all(self.log))) == [batch[:5] for batch in self.batches]
        for base_offset, _, epoch, *_ in self.batches:
            assert self.log.leader_epochs.epoch_at(base_offset) == epoch


TestLogAgainstModel = pytest.mark.timeout(120)(LogAgainstModel.TestCase)
TestLogAgainstModel.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
