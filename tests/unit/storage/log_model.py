"""What a log must hold, in plain lists; it knows nothing of segments, files or SQLite."""

from dataclasses import dataclass, field, replace
from typing import NamedTuple

from ottla_protocol.record_batch import read_header
from ottla_protocol.record_codec import decode_batch

MAX_INFLATED_BYTES = 1 << 20


class ModelRecord(NamedTuple):
    """One record, with the first offset of the batch that it is in."""

    offset: int
    epoch: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    batch: int


class ModelBatch(NamedTuple):
    """Where a batch was appended, and what its producer or its client may ask about again."""

    base: int
    last: int
    request: int | None = None
    sequence: int | None = None


def records_in(stored):
    """The records of stored batches."""
    return [
        ModelRecord(
            record.offset,
            batch.leader_epoch,
            record.timestamp,
            record.key,
            record.value,
            batch.base_offset,
        )
        for batch in stored
        if not read_header(batch.data).is_control
        for record in decode_batch(batch.data, max_inflated_bytes=MAX_INFLATED_BYTES)
    ]


@dataclass
class LogModel:
    """The log as a list.

    Attributes:
        records: what a reader finds, from `start` on.
        let_go: what was below the start once, and may be there again after a restart: where the
            log begins is told by its files, and some of them may have been left.
        batches: where batches were appended, those of both lists; compaction may empty some.
        start, end: the log's offsets.
        epoch: the newest leader epoch.
        is_compacted: offsets may be missing.
        committed: the highest high watermark that a compaction was told.
        horizons: how far each compaction got, and when the tombstones that it met may go.
    """

    records: list[ModelRecord] = field(default_factory=list)
    let_go: list[ModelRecord] = field(default_factory=list)
    batches: list[ModelBatch] = field(default_factory=list)
    start: int = 0
    end: int = 0
    epoch: int = 0
    is_compacted: bool = False
    committed: int = 0
    horizons: list[tuple[int, int]] = field(default_factory=list)

    def copy(self):
        return replace(
            self,
            records=list(self.records),
            let_go=list(self.let_go),
            batches=list(self.batches),
            horizons=list(self.horizons),
        )

    @property
    def kept(self):
        """Batches from the start on."""
        return [batch for batch in self.batches if batch.base >= self.start]

    @property
    def held(self):
        """The same, with the one that the start is in."""
        return [batch for batch in self.batches if batch.last >= self.start]

    @property
    def first_whole(self):
        """The first offset from the start on that is amid no batch."""
        return max([self.start, *(b.last + 1 for b in self.batches if b.base < self.start)])

    def append(self, records, batch):
        assert batch.base >= self.end
        self.records += records
        self.batches.append(batch)
        self.end = batch.last + 1

    def next_sequence(self):
        return max(
            (b.sequence + b.last - b.base + 1 for b in self.batches if b.sequence is not None),
            default=0,
        )

    def end_after_truncation(self, offset):
        """A batch that reaches the offset goes as a whole."""
        return min([offset, *(b.base for b in self.batches if b.base < offset <= b.last)])

    def truncate(self, end):
        self.records = [record for record in self.records if record.offset < end]
        self.batches = [batch for batch in self.batches if batch.last < end]
        self.end = end

    def reset(self, offset):
        self.records, self.let_go, self.batches = [], [], []
        self.start = self.end = offset
        self.epoch = self.committed = 0
        self.horizons = []

    def begin_at(self, start):
        self.let_go += [record for record in self.records if record.offset < start]
        self.records = [record for record in self.records if record.offset >= start]
        self.start = start

    def opened(self, start):
        """The files told an earlier start."""
        assert start <= self.start, (start, self.start)
        known = self.let_go + self.records
        self.let_go = [record for record in known if record.offset < start]
        self.records = [record for record in known if record.offset >= start]
        self.start = start

    def newest_timestamp(self, batch):
        """Of the records of a batch that are left; None where there are none."""
        return max(
            (record.timestamp for record in self.records if record.batch == batch.base),
            default=None,
        )

    def first_at_or_after(self, timestamp, offset):
        """The first record of that time or later from `offset` on."""
        return next(
            (r for r in self.records if r.offset >= offset and r.timestamp >= timestamp), None
        )


def check_after_crash(before, after, found, *, base_offsets, may_begin_anew):
    """A crash amid one step leaves the log of before or of after it, or something on the way.

    Args:
        before: the log before the step; all of it was durable.
        after: the log after it.
        found: what was there after the crash.
        base_offsets: where the segments began before the step.
        may_begin_anew: the step drops everything.
    """
    known = {record.offset: record for record in (*before.let_go, *before.records, *after.records)}
    there = {record.offset: record for record in found.records}
    for offset, record in there.items():
        assert offset in known, f"{record} was never written"
        assert known[offset][:5] == record[:5], f"{record} is not {known[offset]}"
    if may_begin_anew:
        # Compaction also goes through what readers are not told of any more.
        hidden = [r for r in before.let_go if not before.is_compacted or r.offset in there]
        old = [r for r in (*hidden, *before.records) if r.offset >= found.start]
        is_start = found.records == old[: len(found.records)]
        assert is_start, "neither a beginning of the old log nor the new one"
        return
    assert found.start <= after.start, (found.start, after.start)
    # A truncation into a gap first cuts back to the last batch, or to the beginning of a segment
    # that is left with none (the log's start may be above it), then begins a segment there.
    left = [batch.last + 1 for batch in after.batches]
    begun = [base for base in base_offsets if base <= after.end]
    least_end = min(before.end, after.end, max(left + begun))
    assert least_end <= found.end <= max(before.end, after.end), (least_end, found.end)
    stays = {r.offset for r in before.records} & {r.offset for r in after.records}
    assert stays <= there.keys(), f"lost {sorted(stays - there.keys())}"
    # What is there has no holes but those that the step itself makes, by compaction.
    last = max(there, default=found.start - 1)
    # Compaction also goes through what readers are not told of any more.
    least = max(found.start, before.start) if after.is_compacted else found.start
    missing = {offset for offset in known if least <= offset <= last} - there.keys()
    dropped = {r.offset for r in (*before.let_go, *before.records)} - {
        r.offset for r in (*after.let_go, *after.records)
    }
    assert missing <= dropped, f"lost {sorted(missing - dropped)}"
    if not after.is_compacted:
        assert not missing, f"lost {sorted(missing)}"


def check_compaction(model, found, *, end, cleaned_to, now_ms):
    """What a compaction took was replaced, or is over; and what it was to take is gone.

    Args:
        model: the log before.
        found: the records after.
        end: no segment beyond may have been touched.
        cleaned_to: how far it says that it got.
        now_ms: its wall clock.
    """
    assert set(found) <= set(model.records), "records were made up"
    assert found == sorted(found)
    gone = sorted(set(model.records) - set(found))
    newest = {record.key: record.offset for record in model.records if record.offset < end}
    for record in gone:
        assert record.offset < end, f"{record} is not committed, or in the active segment"
        if record.key is None or newest[record.key] > record.offset:
            continue
        assert record.value is None, f"{record} is the newest of its key"
        met = [horizon for cleaned, horizon in model.horizons if cleaned > record.offset]
        assert min(met, default=now_ms + 1) <= now_ms, f"tombstone {record} went too early"
        older = [r for r in found if r.key == record.key and r.offset < record.offset]
        assert not older, f"tombstone {record} went before {older}"
    keys = [record.key for record in found if record.offset < cleaned_to]
    assert None not in keys
    assert len(keys) == len(set(keys)), "an older record of a key stayed"
