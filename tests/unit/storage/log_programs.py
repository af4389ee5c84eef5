"""Random programs on a real log, held against the model; one that fails is made shorter.

A step is a name and some whole numbers, which mean something in any state of the log; so any part
of a program is a program too. Everything runs on one thread (`one_thread`): a seed does the same
every time, and a thousand programs take seconds.
"""

import asyncio
import random
import shutil
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from unittest.mock import patch

from ottla_broker.storage.handles import HandlePool
from ottla_broker.storage.log_compactor import CompactionLimits
from ottla_broker.storage.log_config import LogConfig
from ottla_broker.storage.policy.compaction import CompactionConfig
from ottla_broker.storage.policy.producer_state import PRODUCER_BATCHES_MAX
from ottla_broker.storage.segment import base_offset_of
from ottla_broker.storage.stored_batch import StoredBatch
from ottla_broker.storage.tail_cache import TailCache
from ottla_protocol.errors import OffsetOutOfRangeError, StorageError
from ottla_protocol.record_batch import patch_batch, read_header
from ottla_protocol.record_codec import RecordData, encode_batch
from tests.unit.storage.crash_points import (
    CrashPoint,
    crash_at,
    removals_watched,
    statements_counted,
)
from tests.unit.storage.failing_commits import commits_failing
from tests.unit.storage.log_harness import UNLIMITED, LogHarness, read_all, request
from tests.unit.storage.log_model import (
    LogModel,
    ModelBatch,
    check_after_crash,
    check_compaction,
    records_in,
)

PRODUCER_ID = 4
NOW_MS = 40
TIMESTAMPS = (1, 3, 10, 22, 30, 39)
LOOK_UPS = (0, 2, 5, 11, 23, 31, 40, 50)
KEYS = (b"a", b"b", b"c", b"d", b"e")
OPERATIONS = 15
OPERATIONS_MAX = 90
SEGMENT_BYTES = (1, 400, 1_500)
OPEN_SEGMENTS = (1, 16, 16, 16)
CACHE_BYTES = (0, 600, 1 << 20)
STEPS_MAX = 8
NUMBERS_PER_STEP = 6
LARGEST_NUMBER = 1 << 30


class ProgramFailedError(AssertionError):
    """A program whose log and model disagree."""


class InlineQueue:
    """Runs what is put into it at once, on the caller's thread."""

    def put_nowait(self, item):
        future, function = item
        try:
            result = function()
        except BaseException as error:
            if future is None:
                raise
            future.set_exception(error)
        else:
            if future is not None:
                future.set_result(result)


class NoThread:
    """A thread that has nothing to do."""

    def __init__(self, **_):
        pass

    def start(self):
        pass


async def run_inline(function, *arguments, **options):
    return function(*arguments, **options)


@contextmanager
def one_thread():
    """Connections and blocking work run on the event loop's thread."""
    with (
        patch("aiosqlite.core.SimpleQueue", InlineQueue),
        patch("aiosqlite.core.Thread", NoThread),
        patch("asyncio.to_thread", run_inline),
        statements_counted(),
    ):
        yield


def memory_directory():
    """A directory in memory where there is one: nothing here cares about the disk."""
    shared_memory = Path("/dev/shm")
    parent = shared_memory if shared_memory.is_dir() else None
    return Path(tempfile.mkdtemp(prefix="ottla-log-programs-", dir=parent))


class LogProgram:
    """Runs one program."""

    def __init__(self, root, numbers):
        self.root = root
        self.model = LogModel()
        self.requests = 0
        self.copies = 0
        self.crashes = 0
        # What the metadata knows of the log's beginning: nothing below comes back.
        self.trimmed_to = 0
        self.config = {
            "segment_bytes": SEGMENT_BYTES[numbers[0] % 3],
            "group_commit_max_bytes": 1_000,
        }
        self.harness = LogHarness(
            root,
            handles=HandlePool(OPEN_SEGMENTS[numbers[1] % 4]),
            tail_cache=TailCache(CACHE_BYTES[numbers[1] % 3]),
        )

    async def run(self, steps):
        self.log = await self.harness.open(**self.config)
        try:
            for name, *numbers in steps:
                await self.step(name, numbers)
                self.check_ends()
            await self.check_everything()
        finally:
            await self.harness.close()
        assert self.harness.failures == []

    async def step(self, name, numbers):
        step = getattr(self, name)
        # Most steps end whole; the last number says whether one is crashed, and where.
        number = 1 + numbers[-1] // 8 % (OPERATIONS_MAX if name == "compact" else OPERATIONS)
        if name not in CRASHING or numbers[-1] % 8 > 2:
            await step(*numbers)
            return
        await self.log.wait_durable(self.model.end)
        before = self.model.copy()
        base_offsets = self.log.inspector.base_offsets()
        self.copies += 1
        point = CrashPoint(self.log.directory, self.root / f"crash-{self.copies}", number)
        with crash_at(point):
            await step(*numbers)
        if point.hit is not None:
            await self.crashed(point, before, base_offsets, may_begin_anew=name == "reset")

    async def crashed(self, point, before, base_offsets, *, may_begin_anew):
        """Go on with what was there at the crash, of segments that began at `base_offsets`."""
        self.crashes += 1
        await self.log.wait_durable(self.model.end)
        after, abandoned = self.model, self.log
        await abandoned.close()
        shutil.rmtree(abandoned.directory)
        opened = await self.harness.open(point.target, **self.config)
        found_end = opened.next_offset
        self.log = await self.trimmed(opened)
        assert self.log.recovery.damaged_from is None, f"damaged by a crash before {point.hit}"
        stored = await self.stored()
        begun_anew = may_begin_anew and not stored and self.is_anew(before, found_end)
        # Where all was to go, what is left is the old log, with what compactions did to it.
        old = before if may_begin_anew and not begun_anew else after
        self.model = LogModel(
            records=stored,
            batches=list({b.base: b for b in (*after.batches, *before.batches)}.values()),
            start=self.log.log_start_offset,
            end=self.log.next_offset,
            epoch=max(self.log.leader_epochs.latest_epoch, 0),
            is_compacted=after.is_compacted,
            committed=old.committed,
            horizons=old.horizons,
        )
        try:
            check_after_crash(
                before,
                after,
                self.model,
                base_offsets=base_offsets,
                may_begin_anew=may_begin_anew,
            )
        except AssertionError as error:
            raise AssertionError(f"after a crash before {point.hit}: {error}") from error
        self.model.batches = sorted(b for b in self.model.batches if b.last < self.model.end)
        self.model.let_go = [
            r for r in (*before.let_go, *before.records) if r.offset < self.model.start
        ]
        if begun_anew:
            self.model.batches, self.model.let_go = [], []

    def is_anew(self, before, found_end):
        """Whether a log without a record is the new one; an old one may have shown none either.

        That one knows its producers still. `reset` has its end differ from the new one's.
        """
        return (
            found_end < max(self.trimmed_to, 1)  # what was opened was nothing, or begun anew
            or found_end > before.end
            or self.shows_its_beginning(before)
        )

    def shows_its_beginning(self, model):
        """Whether what is left of the log has a record, however little that is."""
        return bool(model.records) and not model.is_compacted and model.start >= self.trimmed_to

    async def trimmed(self, log):
        """A log that was opened begins no lower than the metadata says; if need be, anew there."""
        if log.log_end_offset < self.trimmed_to:
            await log.reset_to(self.trimmed_to)
        log.cleanup.advance_log_start(self.trimmed_to)
        return log

    async def stored(self):
        """What a reader finds: batches are read whole, also the one that the start is in."""
        found = records_in(await read_all(self.log))
        return [record for record in found if record.offset >= self.log.log_start_offset]

    # --- steps ----------------------------------------------------------------------------------

    async def append(self, *numbers):
        await self.append_one(numbers)

    async def append_many(self, *numbers):
        """Batches in a row, none of them waited for."""
        for index in range(1 + numbers[1] % 5):
            await self.append_one([number >> index for number in numbers])

    async def append_request(self, *numbers):
        self.requests += 1
        await self.append_one(numbers, request_number=self.requests)

    async def append_sequenced(self, *numbers):
        await self.append_one(numbers, sequence=self.model.next_sequence())

    async def append_one(self, numbers, request_number=None, sequence=None):
        batch = batch_of(numbers, sequence=sequence)
        header = read_header(batch)
        info = self.log.append_as_leader(
            batch,
            header,
            leader_epoch=self.model.epoch,
            now_ms=0,
            idempotency=None if request_number is None else request(request_number),
        )
        end = self.model.end
        assert not info.duplicate
        assert (info.base_offset, info.last_offset) == (end, end + header.record_count - 1)
        stored = StoredBatch(info.base_offset, info.last_offset, self.model.epoch, bytes(batch))
        self.model.append(
            records_in([stored]),
            ModelBatch(info.base_offset, info.last_offset, request_number, sequence),
        )

    async def append_fetched(self, *numbers):
        """As a follower, which finds gaps where its leader has compacted."""
        base = self.model.end + (0, 0, 1, 5)[numbers[4] % 4]
        batch = batch_of(numbers)
        count = read_header(batch).record_count
        patch_batch(batch, base_offset=base, leader_epoch=self.model.epoch)
        stored = StoredBatch(base, base + count - 1, self.model.epoch, bytes(batch))
        self.log.append_as_follower([stored])
        self.model.append(records_in([stored]), ModelBatch(stored.base_offset, stored.last_offset))

    async def begin_epoch(self, *_):
        self.model.epoch += 1
        await self.log.begin_epoch(self.model.epoch)

    async def retry_request(self, *numbers):
        asked = [batch for batch in self.model.batches if batch.request is not None]
        if asked:
            batch = asked[numbers[0] % len(asked)]
            wanted = request(batch.request)
            found = self.log.check_idempotency(wanted.key_digest, wanted.body_digest)
            assert found is not None, f"the request of {batch} is forgotten"
            assert (found.base_offset, found.last_offset) == (batch.base, batch.last)

    async def retry_sequenced(self, *numbers):
        """What the log has let go of was stored all the same."""
        sent = [batch for batch in self.model.batches if batch.sequence is not None]
        if sent:
            known = sent[-PRODUCER_BATCHES_MAX:]
            batch = known[numbers[0] % len(known)]
            count = batch.last - batch.base + 1
            again = batch_of([count - 1, *numbers[1:]], sequence=batch.sequence)
            info = self.log.append_as_leader(
                again, read_header(again), leader_epoch=self.model.epoch, now_ms=0
            )
            assert info.duplicate, f"a retry of {batch} is stored again"
            assert (info.base_offset, info.last_offset) == (batch.base, batch.last)

    async def truncate(self, *numbers):
        # What a compaction was told to be committed never goes.
        least = min(max(self.model.first_whole, self.model.committed), self.model.end)
        offset = max(self.model.end - numbers[0] % 13, least)
        forgotten = [b for b in self.model.batches if b.last >= offset and b.request is not None]
        await self.log.truncate_to(offset)
        expected = self.model.end_after_truncation(offset)
        end = self.log.next_offset
        assert end == expected or (self.model.is_compacted and end == offset), (end, expected)
        self.model.truncate(end)
        self.model.epoch = max(self.log.leader_epochs.latest_epoch, 0)
        for batch in forgotten:
            wanted = request(batch.request)
            assert self.log.check_idempotency(wanted.key_digest, wanted.body_digest) is None

    async def reset(self, *numbers):
        least = self.model.end + (not self.shows_its_beginning(self.model))
        offset = least + numbers[0] % 6
        await self.log.reset_to(offset)
        self.model.reset(offset)

    async def let_go_by_age(self, *numbers):
        """With a segment for each batch it is exactly the old ones from the beginning on."""
        age_ms = (0, 5, 15, 100)[numbers[0] % 4]
        below_start = self.below_start_in_its_segment()
        cut = [r for r in self.model.records if r.batch < self.model.start]
        committed, gone, kept = await self.enforce(numbers[1], retention_ms=age_ms)
        assert all(NOW_MS - r.timestamp > age_ms for r in gone), "what is young enough went"
        ages = [self.model.newest_timestamp(batch) for batch in kept]
        ages = [NOW_MS - newest for newest in ages if newest is not None]
        is_whole = not cut and not self.model.is_compacted
        if self.config["segment_bytes"] == 1 and kept and is_whole:
            assert kept[0].last >= committed or ages[0] <= age_ms, "what is too old stayed"
        if committed == self.model.end and not self.model.is_compacted and ages:
            # What is hidden below the start counts while its segment is there: that goes whole.
            ages += [NOW_MS - record.timestamp for record in (*below_start, *cut)]
            assert min(ages) <= age_ms, "everything is too old and some stayed"

    def below_start_in_its_segment(self):
        """Records that the log has let go of, in the segment that it begins in."""
        start = self.model.start
        base = max(base for base in self.log.inspector.base_offsets() if base <= start)
        return [record for record in self.model.let_go if record.offset >= base]

    async def let_go_by_size(self, *numbers):
        """Never the segment that is written."""
        await self.log.wait_durable(self.model.end)
        kept_bytes = (0, 150_000, 1 << 30)[numbers[0] % 3]
        size_bytes = self.log.size_bytes
        active = self.log.inspector.base_offsets()[-1]
        written = [batch for batch in self.model.kept if batch.base >= active]
        _, gone, kept = await self.enforce(numbers[1], retention_bytes=kept_bytes)
        assert kept[len(kept) - len(written) :] == written, "the active segment lost records"
        assert not gone or size_bytes >= kept_bytes, "there was room for all"

    async def enforce(self, back, **limits):
        """Hold the log against limits: what was committed, the records that went, what is kept."""
        committed = max(self.model.end - back % 7, self.model.start)
        await self.log.wait_durable(self.model.end)
        self.log.reconfigure(LogConfig(**self.config, **limits))
        with removals_watched(self.going):
            await self.log.cleanup.enforce_retention(high_watermark=committed, now_ms=NOW_MS)
        start = self.log.log_start_offset
        assert self.model.start <= start <= max(committed, self.model.start)
        is_cut = any(b.base < start <= b.last for b in self.model.batches)
        assert start == self.model.start or not is_cut, "a batch is cut"
        gone = [record for record in self.model.records if record.offset < start]
        self.model.begin_at(start)
        self.log.reconfigure(LogConfig(**self.config))
        return committed, gone, self.model.kept

    def going(self, path):
        """A file is about to go: the log must have told before that it begins behind it."""
        base = base_offset_of(path)
        if base is None or path.parent != self.log.directory:
            return
        bases = sorted(map(base_offset_of, path.parent.glob("*.sqlite")))
        end = next((each for each in bases if each > base), None)
        assert end is not None, "the active segment goes"
        start = self.log.log_start_offset
        assert end <= start, f"offsets {base} to {end - 1} go while the log begins at {start}"

    async def follow_the_leaders_start(self, *numbers):
        starts = [batch.base for batch in self.model.kept] + [self.model.end]
        await self.log.wait_durable(self.model.end)
        with removals_watched(self.going):
            self.log.cleanup.advance_log_start(starts[max(0, len(starts) - 1 - numbers[0] % 7)])
        self.model.begin_at(self.log.log_start_offset)

    async def trim(self, *numbers):
        """The log begins at any offset, amid a batch too, and never below it again."""
        await self.log.wait_durable(self.model.end)
        offset = max(self.model.end - numbers[0] % 11, self.model.start)
        self.trimmed_to = max(self.trimmed_to, offset)
        going = self.log.cleanup.segments_below(offset)
        with removals_watched(self.going):
            self.log.cleanup.advance_log_start(offset)
            self.model.begin_at(offset)
            if numbers[1] % 3:
                removed = await self.log.cleanup.remove_expired()
                assert removed.count >= going.count, "what was told to go stays"

    async def remove_expired(self, *_):
        """Files go after the log's start has moved, and only those below it."""
        with removals_watched(self.going):
            await self.log.cleanup.remove_expired()
            # A write under way may just have begun a segment, with which the one before expired.
            await self.log.wait_durable(self.model.end)
            await self.log.cleanup.remove_expired()
        names = sorted(int(path.stem) for path in self.log.directory.glob("*.sqlite"))
        assert names[0] <= self.model.start
        assert all(base > self.model.start for base in names[1:])

    async def find_timestamps(self, *numbers):
        """The lowest offset of each time, wherever the look-up begins."""
        offset = self.model.start + (0, 0, 0, 1, 3, 8)[numbers[0] % 6]
        for timestamp in LOOK_UPS:
            found = await self.find_timestamp(timestamp, offset)
            wanted = self.model.first_at_or_after(timestamp, offset)
            assert found == wanted, f"time {timestamp} from offset {offset}"

    async def find_timestamp(self, timestamp, offset):
        """A batch that compaction has emptied has the time of what was in it."""
        while True:
            found = await self.log.find_timestamp(timestamp, offset=offset, limit=UNLIMITED)
            if found is None:
                return None
            late = [r for r in records_in([found]) if r.timestamp >= timestamp]
            late = [r for r in late if r.offset >= offset]
            is_whole = found.base_offset >= offset and not self.model.is_compacted
            assert late or not is_whole, f"time {timestamp} from offset {offset}"
            if late:
                return late[0]
            offset = found.last_offset + 1

    async def read(self, *numbers):
        offset = self.model.start + numbers[0] % 42 - 1
        limit = self.model.end - numbers[1] % 6
        max_bytes = (0, 500, 1 << 20)[numbers[2] % 3]
        try:
            found = await self.log.read(offset, max_bytes=max_bytes, limit=limit)
        except OffsetOutOfRangeError:
            assert not self.model.start <= offset <= self.model.end
            return
        assert self.model.start <= offset <= self.model.end
        assert len(found) <= 1 or sum(len(batch.data) for batch in found) <= max_bytes
        read = [record for record in records_in(found) if record.offset >= self.model.start]
        batches = {batch.base for batch in self.model.held if batch.last < limit}
        wanted = [r for r in self.model.records if r.batch in batches]
        wanted = [r for r in wanted if any(r.batch == b.base and b.last >= offset
                                           for b in self.model.batches)]  # fmt: skip
        assert read == wanted[: len(read)]
        assert found or not wanted

    async def restart(self, *_):
        self.log = await self.trimmed(await self.harness.reopen(self.log, **self.config))
        await self.opened()
        assert self.log.recovery.verified_batches == 0
        assert self.log.recovery.damaged_from is None

    async def opened(self):
        """The files may tell an earlier start; what is there again may have been compacted."""
        before = self.model.copy()
        self.model.opened(self.log.log_start_offset)
        if self.model.is_compacted:
            found = await self.stored()
            revived = [record for record in found if record.offset < before.start]
            assert set(revived) <= set(before.let_go)
            assert found[len(revived) :] == before.records
            self.model.records = found

    async def compact(self, *numbers):
        """Only what a newer committed record replaces goes, and tombstones whose time is over."""
        committed = max(self.model.end - numbers[0] % 7, self.model.start)
        now_ms = NOW_MS + numbers[1] % 20
        delete_retention_ms = (0, 5, 1_000)[numbers[2] % 3]
        await self.log.wait_durable(self.model.end)
        compaction = CompactionConfig(0.0, delete_retention_ms=delete_retention_ms)
        # With more room in a segment, neighbours become one.
        segment_bytes = (self.config["segment_bytes"], 1 << 20)[numbers[3] % 2]
        self.log.reconfigure(
            LogConfig(**{**self.config, "segment_bytes": segment_bytes}, compaction=compaction)
        )
        active = self.log.inspector.base_offsets()[-1]
        result = await self.log.cleanup.compact(
            high_watermark=committed, now_ms=now_ms, limits=CompactionLimits(map_bytes=1 << 16)
        )
        self.log.reconfigure(LogConfig(**self.config))
        found = await self.stored()
        check_compaction(
            self.model,
            found,
            end=min(committed, active),
            cleaned_to=0 if result is None else result.cleaned_to,
            now_ms=now_ms,
        )
        self.model.records = found
        if result is not None:
            self.model.is_compacted = True
            self.model.committed = max(self.model.committed, committed)
            self.model.horizons.append((result.cleaned_to, now_ms + delete_retention_ms))

    async def crash(self, *_):
        """Between two steps; everything durable is there."""
        await self.log.wait_durable(self.model.end)
        self.copies += 1
        target = self.root / f"crash-{self.copies}"
        shutil.copytree(self.log.directory, target)
        await self.log.close()
        self.log = await self.trimmed(await self.harness.open(target, **self.config))
        await self.opened()
        assert self.log.recovery.damaged_from is None
        assert not self.log.recovery.suspect_tail

    async def fail_to_sync(self, *numbers):
        """A commit that fails is durable for nobody, whatever of it the disk has got.

        The log fails with it, and the next process finds the log without the batch or with it.
        """
        await self.log.wait_durable(self.model.end)
        before = self.model.copy()
        with commits_failing(is_written=numbers[4] % 2):
            await self.append_one(numbers)
            try:
                await self.log.wait_durable(self.model.end)
            except StorageError:
                assert self.harness.failures, "nobody is told of a commit that failed"
            else:
                raise AssertionError("a commit that failed counts as durable")
        assert self.log.log_end_offset == before.end, "a commit that failed counts as durable"
        with suppress(StorageError):
            await self.log.close()
        self.harness.failures.clear()
        self.log = await self.trimmed(await self.harness.open(self.log.directory, **self.config))
        assert self.log.next_offset in {before.end, self.model.end}
        if self.log.next_offset != self.model.end:
            self.model = before
        await self.opened()
        assert self.log.recovery.damaged_from is None

    # --- what holds after each of them ------------------------------------------------------------

    def check_ends(self):
        assert self.log.log_start_offset >= self.trimmed_to, "what was trimmed is back"
        assert self.log.log_start_offset == self.model.start
        assert self.log.next_offset == self.model.end
        assert self.model.start <= self.log.log_end_offset <= self.model.end
        last = self.model.records[-1] if self.model.records else None
        if last is not None and last.offset == self.model.end - 1:
            assert self.log.last_batch_epoch == last.epoch

    async def check_everything(self, *_):
        found = await self.stored()
        assert found == self.model.records
        for record in found:
            assert self.log.leader_epochs.epoch_at(record.offset) == record.epoch


def batch_of(numbers, sequence=None):
    """A batch of one to three records with keys."""
    count = 1 + numbers[0] % 3
    value_bytes = (1, 40, 200, 900)[numbers[1] % 4]
    records = []
    for index in range(count):
        mix = numbers[2] // (index + 1)
        value = None if mix % 11 == 0 else bytes([mix % 251]) * value_bytes
        timestamp = TIMESTAMPS[(numbers[3] >> (3 * index)) % len(TIMESTAMPS)]
        records.append(RecordData(timestamp, KEYS[mix % len(KEYS)], value))
    producer = {"producer_id": PRODUCER_ID, "producer_epoch": 0, "base_sequence": sequence}
    return bytearray(encode_batch(records, **(producer if sequence is not None else {})))


WEIGHTS = {
    "append": 8,
    "append_many": 6,
    "append_request": 2,
    "append_sequenced": 2,
    "append_fetched": 3,
    "begin_epoch": 2,
    "retry_request": 1,
    "retry_sequenced": 1,
    "truncate": 3,
    "reset": 1,
    "let_go_by_age": 3,
    "let_go_by_size": 3,
    "follow_the_leaders_start": 2,
    "trim": 3,
    "remove_expired": 4,
    "compact": 5,
    "find_timestamps": 3,
    "read": 4,
    "restart": 2,
    "crash": 2,
    "fail_to_sync": 1,
    "check_everything": 1,
}

CRASHING = frozenset(
    {
        "append",
        "append_many",
        "append_fetched",
        "begin_epoch",
        "truncate",
        "reset",
        "let_go_by_age",
        "let_go_by_size",
        "remove_expired",
        "trim",
        "compact",
    }
)


def program_of(seed, steps_max, only=None, *, weights=WEIGHTS):
    """The program of a seed: what the log is like, and its steps, of those names only."""
    source = random.Random(seed)
    names = [name for name in weights if only is None or name in only]
    weights = [weights[name] for name in names]
    chosen = source.choices(names, weights, k=source.randint(3, steps_max))
    return [source.randrange(LARGEST_NUMBER), source.randrange(LARGEST_NUMBER)], [
        (name, *(source.randrange(LARGEST_NUMBER) for _ in range(NUMBERS_PER_STEP)))
        for name in chosen
    ]


async def failure_of(root, numbers, steps, kind=LogProgram):
    """What goes wrong when a program runs; None when nothing does. And how often it crashed."""
    root.mkdir()
    program = kind(root, numbers)
    try:
        await program.run(steps)
    except Exception as error:
        return error, program.crashes
    finally:
        shutil.rmtree(root)
    return None, program.crashes


async def shortened(root, numbers, steps, kind=LogProgram):
    """A program that still fails, and does not without any one of its steps."""
    index, tries = len(steps) - 1, 0
    while index >= 0:
        rest = steps[:index] + steps[index + 1 :]
        tries += 1
        if (await failure_of(root / f"shorter-{tries}", numbers, rest, kind))[0] is not None:
            steps = rest
        index = min(index, len(steps)) - 1
    return steps


def run_programs(seeds, *, steps_max=STEPS_MAX, only=None, kind=LogProgram, weights=WEIGHTS):
    """Run the programs of these seeds; returns how many there were, and how many crashes.

    Raises:
        ProgramFailedError: with the seed and the shortest program that still fails.
    """
    directory = memory_directory()
    programs = crashes = 0

    async def run():
        nonlocal programs, crashes
        for seed in seeds:
            numbers, steps = program_of(seed, steps_max, only, weights=weights)
            error, crashed = await failure_of(directory / str(seed), numbers, steps, kind)
            programs, crashes = programs + 1, crashes + crashed
            if error is not None:
                shorter = await shortened(directory, numbers, steps, kind)
                error, _ = await failure_of(directory / "again", numbers, shorter, kind)
                told = "\n".join(f"    {step!r}," for step in shorter)
                raise ProgramFailedError(
                    f"seed {seed}: {type(error).__name__}: {error}\n"
                    f"  numbers {numbers}, steps\n{told}"
                ) from error

    try:
        with one_thread():
            asyncio.run(run())
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return programs, crashes
