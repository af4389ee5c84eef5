"""Reads with a filter: what they find, where they go on, and what one request may cost."""

import pytest

from ottla_broker.drivers.purgatory import Purgatory, Watchers
from ottla_broker.services import filtered_read
from ottla_broker.services.filtered_read import read_filtered
from ottla_broker.services.json_predicate import JsonPredicate
from ottla_broker.services.reading import PartitionRead
from ottla_broker.services.record_filter import RecordFilter
from ottla_broker.storage.stored_batch import StoredBatch
from ottla_protocol.errors import NotLeaderOrFollowerError, RecordsLostError
from ottla_protocol.record_batch import patch_batch
from ottla_protocol.record_codec import RecordData, encode_batch

RECORDS_OF_A_BATCH = 10


class Log:
    """Batches of ten records whose values are their offsets; a step reads one of them."""

    def __init__(self, batches, *, is_broken_from=None):
        self.batches = []
        self.is_broken_from = is_broken_from
        self.reads = 0
        self.appended = Watchers()
        for _ in range(batches):
            self.append()

    @property
    def end(self):
        return len(self.batches) * RECORDS_OF_A_BATCH

    def append(self):
        base = self.end
        values = [b'{"n":%d}' % (base + n) for n in range(RECORDS_OF_A_BATCH)]
        batch = encode_batch([RecordData(1, b"k%d" % (n % 2), v) for n, v in enumerate(values)])
        patch_batch(batch, base_offset=base, leader_epoch=0)
        last = base + RECORDS_OF_A_BATCH - 1
        self.batches.append(StoredBatch(base, last, 0, bytes(batch), None))
        self.appended.wake()

    def open(self, offset, max_bytes):
        return Read(self, offset, max_bytes)


class Read(PartitionRead):
    next_offset = None

    def __init__(self, log, offset, max_bytes):
        super().__init__(None, offset, max_bytes)
        self.log = log

    @property
    def watchers(self):
        return self.log.appended

    def limit(self):
        return self.log.end

    async def look(self, budget_bytes):
        self.log.reads += 1
        self.last_limit = self.limit()
        if self.log.is_broken_from is not None and self.offset >= self.log.is_broken_from:
            self.error = RecordsLostError("lost", next_offset=1_000)
        elif self.offset < self.limit():
            self.batches = self.log.batches[self.offset // RECORDS_OF_A_BATCH :][:1]


async def find(log, where, offset=0, **bounds):
    bounds = {"max_bytes": 1 << 20, "max_records": 500, "min_bytes": 1, "max_wait_ms": 0} | bounds
    return await read_filtered(
        log.open,
        RecordFilter(where=JsonPredicate(where)),
        offset,
        purgatory=Purgatory(10),
        **bounds,
    )


def offsets(found):
    return [record.offset for record in found.records]


async def test_looks_on_until_the_end():
    found = await find(Log(5), "$.n == 7 || $.n == 43")
    assert (offsets(found), found.next_offset, found.limit) == ([7, 43], 50, 50)


async def test_goes_on_behind_the_last_record_where_there_is_no_more_room():
    log = Log(5)
    found = await find(log, "$.n >= 5", max_records=7)
    assert (offsets(found), found.next_offset) == ([*range(5, 12)], 12)
    assert log.reads == 2
    # Keys take two bytes, values seven or eight; the one that passes the bound is told.
    found = await find(log, "$.n >= 5", max_bytes=20)
    assert (offsets(found), found.next_offset) == ([5, 6, 7], 8)


async def test_begins_within_a_batch():
    found = await find(Log(2), "$.n < 15", offset=8)
    assert (offsets(found), found.next_offset) == ([*range(8, 15)], 20)


@pytest.mark.parametrize(
    ("bound", "value"), [("MAX_EXAMINED_RECORDS", 25), ("MAX_EXAMINED_BYTES", 500)]
)
async def test_what_one_request_looks_at_is_bounded_and_whoever_goes_on_gets_there(
    monkeypatch, bound, value
):
    monkeypatch.setattr(filtered_read, bound, value)
    log = Log(20)
    position, requests, seen = 0, 0, []
    while position < log.end:
        reads_before = log.reads
        found = await find(log, "$.n == 199", offset=position)
        assert position < found.next_offset <= position + 40
        assert log.reads - reads_before <= 4
        position, requests = found.next_offset, requests + 1
        seen += offsets(found)
    assert seen == [199]
    assert requests >= 5


async def test_a_request_that_is_late_answers_with_what_it_has(monkeypatch):
    monkeypatch.setattr(filtered_read, "MAX_LATE_MS", -1)
    found = await find(Log(5), "$.n == 7 || $.n == 43")
    assert (offsets(found), found.next_offset, found.limit) == ([7], 10, 50)


async def test_waits_at_the_end_for_what_the_filter_lets_through(monkeypatch):
    log = Log(1)
    parked = []

    async def append_in_between(reads, *, max_wait_ms, **options):
        await reads[0].look(1 << 20)
        if not reads[0].batches:
            parked.append(max_wait_ms)
            if len(parked) <= 3:
                log.append()
                await reads[0].look(1 << 20)

    monkeypatch.setattr(filtered_read, "poll", append_in_between)
    found = await find(log, "$.n == 35", max_wait_ms=60_000)
    # Nothing of the first two appends is wanted, so it parks again; the rest is not waited for.
    assert (offsets(found), found.next_offset) == ([35], 40)
    assert all(50_000 < wait_ms <= 60_000 for wait_ms in parked[:3])
    assert parked[3:] == [0]


async def test_an_error_at_the_beginning_is_told_and_a_later_one_ends_the_read_before_it():
    with pytest.raises(RecordsLostError):
        await find(Log(3, is_broken_from=20), "$.n == 3", offset=20)
    found = await find(Log(3, is_broken_from=20), "$.n == 3")
    assert (offsets(found), found.next_offset) == ([3], 20)


async def test_by_key_alone():
    log = Log(2)
    found = await read_filtered(
        log.open,
        RecordFilter(key=b"k1"),
        0,
        max_bytes=1 << 20,
        max_records=500,
        min_bytes=0,
        max_wait_ms=60_000,
        purgatory=Purgatory(0),
    )
    assert offsets(found) == [*range(1, 20, 2)]


async def test_a_broker_that_does_not_lead_says_so():
    class Elsewhere(Read):
        async def look(self, budget_bytes):
            self.error = NotLeaderOrFollowerError("elsewhere")

    log = Log(1)
    log.open = lambda offset, max_bytes: Elsewhere(log, offset, max_bytes)
    with pytest.raises(NotLeaderOrFollowerError):
        await find(log, "$.n == 1")
