"""Random programs of transactions on a real log, held against a plain list of what was appended.

A step is a name and some whole numbers, as in `log_programs`. After each of them the last stable
offset, the open and the aborted transactions, and what a reader of committed records is shown must
be what the list says.
"""

import shutil
from contextlib import closing
from dataclasses import dataclass, field

from ottla_broker.services.committed_batches import committed_batches
from ottla_broker.storage import segment as segments
from ottla_broker.storage import sqlite
from ottla_broker.storage.handles import HandlePool
from ottla_broker.storage.log_compactor import CompactionLimits
from ottla_broker.storage.log_config import LogConfig
from ottla_broker.storage.policy.compaction import CompactionConfig
from ottla_broker.storage.segment_snapshot import read_snapshot
from ottla_broker.storage.segment_transactions import read_index, replayed, require_indexed
from ottla_broker.storage.tail_cache import TailCache
from ottla_protocol.control_records import EndMarker
from ottla_protocol.record_batch import read_header, validate_batch
from ottla_protocol.record_codec import RecordData, decode_batch, encode_batch
from tests.unit.storage.crash_points import CrashPoint, crash_at
from tests.unit.storage.log_harness import UNLIMITED, LogHarness, read_all
from tests.unit.storage.log_programs import run_programs

SEGMENT_BYTES = (1, 250, 800, 1 << 20)
PRODUCERS = 3
KEYS = (b"a", b"b", b"c")
DELETE_RETENTION_MS = 3
CRASH_OPERATIONS = 40
STEPS_MAX = 14
NO_PRODUCER = -1
INFLATED_BYTES_MAX = 1 << 20

WEIGHTS = {
    "append_plain": 3,
    "append_records": 9,
    "append_marker": 6,
    "repeat_marker": 1,
    "move_high_watermark": 6,
    "roll": 2,
    "truncate": 3,
    "restart": 2,
    "crash_amid": 3,
    "retain": 2,
    "compact": 4,
    "follow": 2,
}


@dataclass(frozen=True)
class Entry:
    """One batch that was appended; `kind` is plain, records, commit or abort."""

    base: int
    last: int
    kind: str
    producer_id: int
    epoch: int
    records: tuple = ()


@dataclass
class TransactionModel:
    """Everything that was appended, save for what was truncated; the simplest answers from it."""

    entries: list = field(default_factory=list)
    high_watermark: int = 0
    # The highest that ever was: what is below is decided for good, whoever knows it.
    committed: int = 0
    compacted_to: int = 0

    @property
    def end(self):
        return self.entries[-1].last + 1 if self.entries else 0

    def marker_of(self, entry):
        """What ends the transaction of an entry; None while nothing does."""
        own = (other for other in self.entries if other.producer_id == entry.producer_id)
        return next(
            (each for each in own if each.base > entry.base and each.kind in {"commit", "abort"}),
            None,
        )

    def first_undecided(self, high_watermark):
        for entry in self.entries:
            if entry.kind == "records" and entry.base < high_watermark:
                marker = self.marker_of(entry)
                if marker is None or marker.base >= high_watermark:
                    return entry.base
        return high_watermark

    def transactions(self):
        """(producer id, epoch, first offset, marker) of each, in the order of their beginnings."""
        found, open_now = [], {}
        for entry in self.entries:
            if entry.kind == "records":
                if entry.producer_id not in open_now:
                    open_now[entry.producer_id] = len(found)
                    found.append((entry.producer_id, entry.epoch, entry.base, None))
            elif entry.kind != "plain" and entry.producer_id in open_now:
                position = open_now.pop(entry.producer_id)
                found[position] = (*found[position][:3], entry)
        return found

    def aborted(self, start, end):
        return {
            (producer_id, first, marker.base)
            for producer_id, _, first, marker in self.transactions()
            if marker is not None and marker.kind == "abort"
            if first < end and marker.base >= start
        }

    def shown(self, start, end):
        """Offset, key and value of each record that a reader of committed records may be shown."""
        return [
            record
            for entry in self.entries
            if entry.last < end
            if entry.kind == "plain"
            or (entry.kind == "records" and getattr(self.marker_of(entry), "kind", "") == "commit")
            for record in entry.records
            if record[0] >= start
        ]

    def truncate(self, offset):
        self.entries = [entry for entry in self.entries if entry.last < offset]


class TransactionProgram:
    """Runs one program."""

    def __init__(self, root, numbers):
        self.root = root
        self.crashes = self.copies = 0
        self.now_ms = 0
        self.config = {"segment_bytes": SEGMENT_BYTES[numbers[0] % 4]}
        self.model = TransactionModel()
        self.harness = LogHarness(
            root,
            handles=HandlePool((1, 16)[numbers[1] % 2]),
            tail_cache=TailCache((0, 1 << 20)[numbers[1] // 2 % 2]),
        )

    async def run(self, steps):
        self.log = await self.harness.open(**self.config)
        try:
            for name, *numbers in steps:
                await getattr(self, name)(*numbers)
                await self.log.wait_durable(self.log.next_offset)
                await self.check()
            await self.restart(0, 0)
            await self.check()
            await self.log.close()
            self.check_files()
        finally:
            await self.harness.close()
        assert self.harness.failures == []

    # --- appends --------------------------------------------------------------------------------

    def batch(self, kind, numbers, producer_id=NO_PRODUCER, epoch=-1):
        records = [
            RecordData(1_000, KEYS[(numbers[1] + index) % 3], b"%d" % (numbers[2] + index))
            for index in range(1 + numbers[0] % 2)
        ]
        data = encode_batch(
            records,
            producer_id=producer_id,
            producer_epoch=epoch,
            is_transactional=kind == "records",
        )
        info = self.log.append_as_leader(
            data, validate_batch(data, on_append=True), leader_epoch=0, now_ms=0
        )
        assert info.base_offset == self.model.end
        stored = tuple(
            (info.base_offset + index, record.key, record.value)
            for index, record in enumerate(records)
        )
        self.model.entries.append(
            Entry(info.base_offset, info.last_offset, kind, producer_id, epoch, stored)
        )

    def epoch_of(self, producer_id):
        """The epoch that the producer was granted last, as far as the log tells."""
        own = [entry for entry in self.model.entries if entry.producer_id == producer_id]
        return own[-1].epoch if own else 0

    async def append_plain(self, *numbers):
        self.batch("plain", numbers)

    async def append_records(self, *numbers):
        producer_id = numbers[3] % PRODUCERS
        self.batch("records", numbers, producer_id, self.epoch_of(producer_id))

    async def append_marker(self, *numbers):
        open_now = [each[0] for each in self.model.transactions() if each[3] is None]
        producer_id = numbers[0] % PRODUCERS
        if open_now and numbers[2] % 4:
            producer_id = open_now[numbers[0] % len(open_now)]
        epoch = self.epoch_of(producer_id) + 1
        info = self.mark(producer_id, epoch, is_commit=numbers[1] % 2 == 0)
        assert not info.duplicate

    async def repeat_marker(self, *numbers):
        producer_id = numbers[0] % PRODUCERS
        own = [entry for entry in self.model.entries if entry.producer_id == producer_id]
        if own and own[-1].kind in {"commit", "abort"}:
            self.mark(producer_id, own[-1].epoch, is_commit=own[-1].kind == "commit")

    def mark(self, producer_id, epoch, *, is_commit):
        info = self.log.append_marker(
            EndMarker(is_commit, 0),
            producer_id=producer_id,
            producer_epoch=epoch,
            leader_epoch=0,
            now_ms=1_000,
        )
        if not info.duplicate:
            assert info.base_offset == self.model.end
            kind = "commit" if is_commit else "abort"
            self.model.entries.append(
                Entry(info.base_offset, info.base_offset, kind, producer_id, epoch)
            )
        return info

    # --- everything else ------------------------------------------------------------------------

    async def move_high_watermark(self, *numbers):
        model = self.model
        low = max(model.high_watermark, self.log.log_start_offset)
        # Never within a batch, as replicas acknowledge whole ones.
        ends = [entry.last + 1 for entry in model.entries if entry.last >= low]
        model.high_watermark = (low, *ends)[numbers[0] % (len(ends) + 1)]
        model.committed = max(model.committed, model.high_watermark)

    async def roll(self, *_):
        if self.log._state.fill.batches:
            self.log._appender.roll()

    async def truncate(self, *numbers):
        low = self.model.committed
        offset = low + numbers[0] % (self.model.end - low + 1)
        self.model.truncate(offset)
        await self.log.truncate_to(offset)
        self.model_ends_with_log()

    async def restart(self, *numbers):
        await self.come_back(await self.harness.reopen(self.log, **self.config), numbers[0])

    async def come_back(self, log, number):
        """The high watermark that was written down may be an older one."""
        self.log = log
        assert log.recovery.damaged_from is None, log.recovery.reason
        ends = [entry.last + 1 for entry in self.model.entries]
        ends = [0, *(end for end in ends if end <= self.model.high_watermark)]
        known = ends[max(0, len(ends) - 1 - number % 4)]
        self.model.high_watermark = max(known, log.log_start_offset)

    async def crash_amid(self, *numbers):
        """A copy of the files amid a step; what was appended before that step is durable."""
        name = ("append_marker", "append_records", "truncate", "compact", "retain")[numbers[4] % 5]
        await self.log.wait_durable(self.model.end)
        before = list(self.model.entries)
        self.copies += 1
        target = self.root / f"crash-{self.copies}"
        point = CrashPoint(self.log.directory, target, 1 + numbers[5] % CRASH_OPERATIONS)
        with crash_at(point):
            await getattr(self, name)(*numbers)
            await self.log.wait_durable(self.log.next_offset)
        if point.hit is None:
            return
        self.crashes += 1
        await self.log.close()
        log = await self.harness.open(target, **self.config)
        longer = max(before, self.model.entries, key=len)
        self.model.entries = [entry for entry in longer if entry.last < log.next_offset]
        assert log.next_offset >= min(len(before), len(self.model.entries))
        assert log.next_offset >= self.model.committed, "a crash took what was committed"
        await self.come_back(log, numbers[0])

    async def retain(self, *numbers):
        self.log.reconfigure(LogConfig(**self.config, retention_bytes=0))
        stable = self.model.first_undecided(self.model.committed)
        await self.log.cleanup.enforce_retention(
            high_watermark=self.model.high_watermark, now_ms=self.now_ms
        )
        assert self.log.log_start_offset <= stable, "retention took what is not over"
        if numbers[0] % 2:
            await self.log.cleanup.remove_expired()
        self.log.reconfigure(LogConfig(**self.config))
        self.model.high_watermark = max(self.model.high_watermark, self.log.log_start_offset)

    async def compact(self, *numbers):
        self.now_ms += numbers[0] % 3
        config = CompactionConfig(0.0, delete_retention_ms=DELETE_RETENTION_MS)
        segment_bytes = (self.config["segment_bytes"], 1 << 20)[numbers[1] % 2]
        self.log.reconfigure(
            LogConfig(**{**self.config, "segment_bytes": segment_bytes}, compaction=config)
        )
        stable = self.model.first_undecided(self.model.committed)
        self.model.compacted_to = max(self.model.compacted_to, stable)
        if numbers[2] % 2:
            # As after a loss of the file: every segment is looked at again.
            self.log._compactor._progress = None
            (self.log.directory / "compaction.json").unlink(missing_ok=True)
        await self.log.cleanup.compact(
            high_watermark=self.model.high_watermark,
            now_ms=self.now_ms,
            limits=CompactionLimits(map_bytes=1 << 16),
        )
        self.log.reconfigure(LogConfig(**self.config))

    async def follow(self, *numbers):
        """Another replica is filled from this one, and goes on in its place."""
        self.copies += 1
        directory = self.root / f"follower-{self.copies}"
        config = {"segment_bytes": SEGMENT_BYTES[numbers[1] % 4]}
        follower = await self.harness.open(directory, **config)
        if self.log.log_start_offset:
            await follower.reset_to(self.log.log_start_offset)
        for batch in await read_all(self.log):
            follower.last_stable_offset(self.model.high_watermark)
            follower.append_as_follower([batch])
        if follower.next_offset != self.log.next_offset:
            # The log's end was truncated to where compaction had left nothing.
            await follower.close()
            return
        await follower.wait_durable(follower.next_offset)
        await self.log.close()
        self.config = config
        await self.come_back(follower, numbers[0])

    def model_ends_with_log(self):
        assert self.log.next_offset == self.model.end or self.model.compacted_to

    # --- what holds after each of them ----------------------------------------------------------

    async def check(self):
        model, log = self.model, self.log
        assert log.next_offset == model.end
        start, high_watermark = log.log_start_offset, model.high_watermark
        stable = log.last_stable_offset(high_watermark)
        exact = max(model.first_undecided(high_watermark), start)
        decided = max(min(high_watermark, model.first_undecided(model.committed)), start)
        assert exact <= stable <= decided, f"stable at {stable}, not {exact} to {decided}"
        if high_watermark == model.committed:
            assert stable == exact, f"stable at {stable}, not {exact}"
        self.check_open()
        await self.check_aborted(start, stable)
        await self.check_shown(start, stable)
        await self.check_undecided(max(model.first_undecided(model.committed), start))

    def check_open(self):
        found = [tuple(each[:3]) for each in self.log.open_transactions()]
        wanted = [each[:3] for each in self.model.transactions() if each[3] is None]
        assert found == wanted, f"open are {found}, not {wanted}"

    async def check_aborted(self, start, stable):
        for first in range(start, stable):
            for end in (first + 1, stable):
                found = {
                    (each.producer_id, each.last_offset)
                    for each in await self.log.aborted_transactions(first, end)
                }
                known = {(each[0], each[2]) for each in self.model.aborted(first, end)}
                if self.model.compacted_to or start:
                    # A beginning that is gone may be told as where it begins now.
                    assert found <= known, f"aborted from {first} to {end}: {found}, not {known}"
                else:
                    assert found == known, f"aborted from {first} to {end}: {found}, not {known}"

    async def check_shown(self, start, stable):
        found, offset = [], start
        while offset < stable:
            batches = await self.log.read(offset, max_bytes=300, limit=stable)
            if not batches:
                break
            first, after = batches[0].base_offset, batches[-1].last_offset + 1
            aborted = await self.log.aborted_transactions(first, after)
            for batch in committed_batches(batches, aborted):
                records = decode_batch(batch.data, max_inflated_bytes=INFLATED_BYTES_MAX)
                found += [(each.offset, each.key, each.value) for each in records]
            offset = after
        found = [record for record in found if record[0] >= start]
        wanted = self.model.shown(start, stable)
        assert set(found) <= set(wanted), f"shown: {set(found) - set(wanted)}"
        assert found == sorted(found)
        newest = {key: at for at, key, _ in self.model.shown(0, self.model.compacted_to)}
        missing = set(wanted) - set(found)
        wrong = {each for each in missing if newest.get(each[1], -1) <= each[0]}
        assert not wrong, f"not shown: {wrong}"

    async def check_undecided(self, decided):
        """Nothing from there on is touched by anybody."""
        found = await self.log.read(
            decided,
            max_bytes=1 << 20,
            limit=UNLIMITED,
        )
        bases = [batch.base_offset for batch in found if read_header(batch.data).record_count]
        wanted = [entry.base for entry in self.model.entries if entry.last >= decided]
        assert bases == wanted[: len(bases)]

    def check_files(self):
        """Each segment's aborted transactions are those of its rows."""
        for path in sorted(self.log.directory.glob("*.sqlite")):
            with closing(sqlite.connect_sealed(path)) as connection:
                snapshot = read_snapshot(connection, path)
                require_indexed(connection, path, replayed(connection, snapshot))
                if segments.is_sealed(path):
                    read_index(connection, path)
        shutil.rmtree(self.log.directory)


def run_transaction_programs(seeds, *, steps_max=STEPS_MAX):
    """Run the programs of these seeds; returns how many there were, and how many crashes."""
    return run_programs(seeds, steps_max=steps_max, kind=TransactionProgram, weights=WEIGHTS)
