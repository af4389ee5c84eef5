"""Polls of readers of committed records: what they show, where they go on, and when they wait."""

import asyncio
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ottla_broker.drivers.purgatory import Purgatory, Watchers
from ottla_broker.services import consumer_reads
from ottla_broker.services.batch_decoding import decode_records
from ottla_broker.services.consumer_reads import FollowerRead, LeaderRead, LocalRead
from ottla_broker.services.reading import poll
from ottla_broker.storage.stored_batch import DamagedSegmentError
from ottla_protocol.errors import (
    LeaderNotAvailableError,
    NotLeaderOrFollowerError,
    ReplicaNotAvailableError,
    StorageError,
)
from tests.unit.broker.transactional_log import STEPS, TransactionalLog, shown

KINDS = [LeaderRead, LocalRead, FollowerRead]
SOON_S = 5.0


class Partition:
    """A replica whose log is a model, all of it below the high watermark."""

    def __init__(self):
        self.model = TransactionalLog()
        self.log = self
        self.name = "orders-0"
        self.state = SimpleNamespace(leader_epoch=3, partition=0)
        self.leader = object()
        self.fitness = SimpleNamespace(lost_tail=False)
        self.watermark_watchers = Watchers()
        self.log_start_offset = 0
        self.taken_away_count = 0
        self.refusal = None
        self.elected = SimpleNamespace(may_be_acknowledged=lambda _: False)
        self.reads = 0
        self.during_lookup = lambda: None

    def step(self, *steps):
        for step in steps:
            self.model.step(*step)
        self.watermark_watchers.wake()

    @property
    def high_watermark(self):
        return self.model.next_offset

    next_offset = high_watermark

    @property
    def last_stable_offset(self):
        return self.model.last_stable_offset

    def leading(self):
        if self.refusal is not None:
            raise self.refusal
        return self.elected

    require_in_sync = leading

    def read_tail(self, offset, *, max_bytes, limit):
        self.reads += 1
        found, size_bytes = [], 0
        for entry in self.model.entries:
            batch = entry.batch
            if batch.last_offset < offset:
                continue
            size_bytes += len(batch.data)
            if batch.last_offset >= limit or (found and size_bytes > max_bytes):
                break
            found.append(batch)
        return tuple(found)

    async def aborted_transactions(self, from_offset, end_offset):
        found = tuple(each for each in self.model.aborted if each.touches(from_offset, end_offset))
        self.during_lookup()
        return found


def committed(partition, offset=0, *, kind=LeaderRead, max_bytes=1 << 20):
    return kind(partition, offset, max_bytes, isolation="read_committed")


async def polled(read, *, max_wait_ms=0, min_bytes=1):
    await poll(
        [read],
        min_bytes=min_bytes,
        max_bytes=1 << 20,
        max_wait_ms=max_wait_ms,
        purgatory=Purgatory(10),
    )
    assert read.error is None
    return read


@pytest.mark.parametrize("kind", KINDS)
@given(steps=STEPS, max_bytes=st.sampled_from([1, 200, 400, 1 << 20]))
def test_page_after_page_all_that_is_committed_is_read_once(kind, steps, max_bytes):
    partition = Partition()
    partition.step(*steps)

    async def read_all():
        found, offset = [], 0
        while offset < partition.last_stable_offset:
            read = await polled(committed(partition, offset, kind=kind, max_bytes=max_bytes))
            assert read.batches or read.next_offset == partition.last_stable_offset
            assert read.next_offset > offset
            found += read.batches
            offset = read.next_offset
        return found, offset

    found, offset = asyncio.run(read_all())
    assert found == shown(partition.model.stable())
    assert offset == partition.last_stable_offset


@given(STEPS)
def test_without_isolation_all_is_read_as_before(steps):
    partition = Partition()
    partition.step(*steps)
    read = asyncio.run(polled(LeaderRead(partition, 0, 1 << 20)))
    assert list(read.batches) == [entry.batch for entry in partition.model.entries]
    assert read.next_offset is None


async def test_a_poll_wakes_when_the_transaction_is_committed():
    partition = Partition()
    partition.step((1, "plain"), (1, "records"))
    read = committed(partition, partition.last_stable_offset)
    waiting = asyncio.create_task(polled(read, max_wait_ms=60_000))
    await asyncio.sleep(0)
    # Records behind the open transaction are no news.
    partition.step((2, "plain"))
    await asyncio.sleep(0)
    assert not waiting.done()
    partition.step((1, "commit"))
    await asyncio.wait_for(waiting, SOON_S)
    assert list(read.batches) == [partition.model.entries[n].batch for n in (1, 2)]
    assert read.next_offset == partition.high_watermark


async def test_a_poll_waits_on_behind_what_was_aborted_and_tells_how_far_that_was():
    partition = Partition()
    partition.step((1, "records"), (1, "abort"))
    end = partition.high_watermark
    read = committed(partition)
    waiting = asyncio.create_task(polled(read, max_wait_ms=50))
    await asyncio.sleep(0)
    assert read.offset == end
    await waiting
    assert (read.batches, read.next_offset) == ((), end)


async def test_what_was_passed_over_is_not_read_again():
    partition = Partition()
    partition.step(*[(1, kind) for _ in range(20) for kind in ("records", "abort")])
    read = committed(partition, max_bytes=1)
    waiting = asyncio.create_task(polled(read, max_wait_ms=60_000))
    await asyncio.sleep(0)
    before = partition.reads
    partition.step((2, "plain"))
    await asyncio.wait_for(waiting, SOON_S)
    assert partition.reads == before + 1
    assert len(read.batches) == 1


async def test_what_is_passed_over_at_a_time_is_bounded(monkeypatch):
    monkeypatch.setattr(consumer_reads, "READS_MAX", 3)
    partition = Partition()
    partition.step(*[(1, "records")] * 5, (1, "abort"), (1, "plain"))
    read = committed(partition, max_bytes=1)
    # It answers without waiting: the client asks again from there.
    await asyncio.wait_for(polled(read, max_wait_ms=60_000), SOON_S)
    assert (read.batches, read.next_offset) == ((), partition.model.entries[3].batch.base_offset)
    read = await polled(committed(partition, read.next_offset), max_wait_ms=60_000)
    assert list(read.batches) == [partition.model.entries[-1].batch]


async def test_bytes_that_are_passed_over_are_bounded(monkeypatch):
    monkeypatch.setattr(consumer_reads, "PASSED_BYTES_MAX", 1)
    partition = Partition()
    partition.step(*[(1, "records")] * 5, (1, "abort"), (1, "plain"))
    read = await asyncio.wait_for(polled(committed(partition, max_bytes=1)), SOON_S)
    assert (read.batches, read.next_offset) == ((), partition.model.entries[1].batch.base_offset)


async def test_a_new_leader_epoch_has_what_was_passed_over_read_again():
    partition = Partition()
    partition.step((1, "records"), (1, "abort"))
    read = committed(partition)
    await read.look(1 << 20)
    assert read.offset == partition.high_watermark
    # An unclean election: the log has something else there now.
    partition.model = TransactionalLog()
    partition.step((1, "plain"), (1, "plain"))
    partition.state.leader_epoch += 1
    await read.look(1 << 20)
    assert list(read.batches) == [entry.batch for entry in partition.model.entries]


@pytest.mark.parametrize("change", ["election", "retention"])
async def test_records_are_not_judged_by_what_is_known_of_a_log_that_has_changed(change):
    partition = Partition()
    partition.step((1, "records"), (1, "abort"), (2, "plain"))

    def happen():
        # Between the read and the look-up, which finds nothing any more.
        partition.during_lookup = lambda: None
        if change == "election":
            partition.state.leader_epoch += 1
        else:
            partition.log_start_offset = 1
        return ()

    async def lookup(from_offset, end_offset):
        if lookups.append((from_offset, end_offset)) or len(lookups) == 1:
            return happen()
        return tuple(partition.model.aborted)

    lookups = []
    partition.aborted_transactions = lookup
    read = committed(partition, 1)
    await read.look(1 << 20)
    assert list(read.batches) == [partition.model.entries[-1].batch]
    assert len(lookups) == 2


@pytest.mark.parametrize("kind", [LeaderRead, FollowerRead])
async def test_a_role_that_ends_during_the_lookup_ends_the_read(kind):
    partition = Partition()
    partition.step((1, "records"), (1, "commit"))

    def lose():
        partition.refusal = NotLeaderOrFollowerError("gone")

    partition.during_lookup = lose
    read = committed(partition, kind=kind)
    await read.look(1 << 20)
    assert isinstance(read.error, NotLeaderOrFollowerError)
    assert not read.batches


async def test_a_new_leader_that_may_lack_a_marker_has_the_reader_wait_for_it():
    partition = Partition()
    partition.step((1, "records"))
    # The marker is above what it knows to be committed, and other readers may have seen what is.
    partition.elected.may_be_acknowledged = lambda offset: offset >= partition.high_watermark
    read = committed(partition)
    await read.look(1 << 20)
    assert read.awaits_watermark


@pytest.mark.parametrize(
    ("is_only_replica", "error"), [(True, StorageError), (False, ReplicaNotAvailableError)]
)
async def test_damage_to_what_is_known_of_transactions_is_told_and_is_not_passed_over(
    is_only_replica, error
):
    partition = Partition()
    partition.step((1, "records"), (1, "commit"))
    partition.is_only_replica = is_only_replica

    def fail():
        raise DamagedSegmentError("the aborted transactions are damaged")

    partition.during_lookup = fail
    read = committed(partition)
    await read.look(1 << 20)
    assert type(read.error) is error
    assert (read.batches, read.next_offset) == ((), 0)


async def test_what_fails_is_told():
    partition = Partition()
    partition.refusal = LeaderNotAvailableError("none")
    read = committed(partition)
    await read.look(1 << 20)
    assert read.error is partition.refusal


async def test_a_partition_for_which_there_is_no_room_has_not_moved():
    first, second = Partition(), Partition()
    for partition in (first, second):
        partition.step((1, "records"), (1, "abort"), (1, "plain"))
    reads = [committed(first), committed(second)]
    await reads[1].look(1 << 20)
    assert reads[1].next_offset == second.high_watermark
    # The poll looks again, and the first takes all that there is room for.
    await poll(reads, min_bytes=1, max_bytes=1, max_wait_ms=0, purgatory=Purgatory(1))
    assert reads[0].batches
    assert reads[1].batches == ()
    assert reads[1].next_offset == 0


async def test_an_end_behind_the_batches_is_where_to_go_on_once_all_is_decoded():
    model = TransactionalLog()
    for step in ((1, "plain"), (1, "plain"), (1, "records"), (1, "abort")):
        model.step(*step)
    batches = [entry.batch.data for entry in model.entries[:2]]
    everything = await decode_records(batches, 0, max_records=9, end_offset=model.next_offset)
    assert everything.next_offset == model.next_offset
    exactly = await decode_records(batches, 0, max_records=4, end_offset=model.next_offset)
    assert exactly.next_offset == model.next_offset
    some = await decode_records(batches, 0, max_records=3, end_offset=model.next_offset)
    assert some.next_offset == 3
    nothing = await decode_records([], 2, max_records=3, end_offset=model.next_offset)
    assert (nothing.records, nothing.next_offset) == ([], model.next_offset)
