"""What one replica promises, and what a change of leadership takes back."""

import asyncio
import errno
from contextlib import asynccontextmanager

import pytest

from ottla_broker.drivers import partition as partition_module
from ottla_broker.drivers.clock import monotonic_ms
from ottla_broker.drivers.partition import Partition
from ottla_broker.drivers.peer_messages import FetchResult, ReplicatedBatch
from ottla_broker.storage import segment
from ottla_broker.storage.handles import HandlePool
from ottla_broker.storage.log_listeners import LogListeners
from ottla_broker.storage.partition_log import LogConfig, PartitionLog
from ottla_broker.storage.policy.compaction import CompactionConfig
from ottla_broker.storage.stored_batch import damaged
from ottla_broker.storage.tail_cache import TailCache
from ottla_cluster.controller.image import Partition as PartitionState
from ottla_protocol.errors import (
    InsufficientStorageError,
    LeaderNotAvailableError,
    NotEnoughReplicasAfterAppendError,
    NotEnoughReplicasError,
    NotLeaderOrFollowerError,
    Outcome,
    RequestTimedOutError,
)
from ottla_protocol.idempotency import Idempotency
from ottla_protocol.record_batch import validate_batch
from ottla_protocol.record_codec import RecordData, encode_batch
from tests.unit.awaiting import until
from tests.unit.broker.disks import DiskOf

LOCAL, OTHER = 1, 2
BROKER_EPOCHS = {LOCAL: 11, OTHER: 12}
FAR_MS = 60_000


def state(leader, leader_epoch, *, isr=(LOCAL, OTHER), unclean_leader_epoch=None):
    return PartitionState(
        topic_id="t" * 32,
        topic="orders",
        partition=0,
        replicas=(LOCAL, OTHER),
        isr=isr,
        leader=leader,
        leader_epoch=leader_epoch,
        partition_epoch=leader_epoch * 10 + len(isr),
        unclean_leader_epoch=unclean_leader_epoch,
    )


class Hosted:
    """A partition on a real log, with a lease that the test holds."""

    def __init__(self):
        self.leased = True
        self.proposals = []
        self.partition = None
        self.disk = DiskOf(free_bytes=1 << 40)

    async def open(self, path, *, high_watermark=0, lost_tail=False):
        log = await PartitionLog.open(
            path / "orders-0",
            topic="orders",
            topic_id="t" * 32,
            partition=0,
            config=LogConfig(),
            handles=HandlePool(8),
            tail_cache=TailCache(1 << 20),
            listeners=LogListeners(
                on_durable=lambda end: self.partition and self.partition.log_end_moved(end),
                on_failure=lambda error: pytest.fail(str(error)),
            ),
        )
        self.partition = Partition(
            log,
            state(None, 0),
            node_id=LOCAL,
            high_watermark=high_watermark,
            disk=self.disk,
            replica_lag_time_max_ms=FAR_MS,
            lease_valid=lambda: self.leased,
            propose=lambda partition, proposal: self.proposals.append(proposal),
            lost_tail=lost_tail,
        )
        return self

    async def lead(self, leader_epoch, *, min_insync_replicas=2, **changes):
        await self.partition.become_leader(
            state(LOCAL, leader_epoch, **changes),
            min_insync_replicas=min_insync_replicas,
            eligible=BROKER_EPOCHS,
            draining=(),
        )

    def append(self, value=b"v", *, idempotency=None, **producer):
        batch = encode_batch([RecordData(timestamp=1, key=None, value=value)], **producer)
        return self.partition.append(
            batch,
            validate_batch(batch, on_append=True),
            acks_all=True,
            now_ms=1,
            idempotency=idempotency,
        )

    def follower_has(self, offset):
        self.partition.follower_fetched(OTHER, BROKER_EPOCHS[OTHER], offset)


@pytest.fixture
async def hosted(tmp_path):
    hosted = await Hosted().open(tmp_path)
    yield hosted
    await hosted.partition.close()


def soon():
    return monotonic_ms() + FAR_MS


async def test_an_append_is_committed_once_the_isr_holds_it(hosted):
    await hosted.lead(0)
    appended = hosted.append()
    await hosted.partition.log.wait_durable(1)
    with pytest.raises(RequestTimedOutError) as caught:
        await hosted.partition.committed(appended, deadline_ms=monotonic_ms() + 10)
    assert caught.value.outcome is Outcome.UNKNOWN
    hosted.follower_has(1)
    await hosted.partition.committed(appended, deadline_ms=soon())
    assert hosted.partition.high_watermark == 1


async def test_a_high_watermark_of_a_later_epoch_acknowledges_nothing_of_an_earlier_one(hosted):
    """The batch may have been truncated, and its offset given to another record."""
    await hosted.lead(0)
    appended = hosted.append(b"lost")
    await hosted.partition.log.wait_durable(1)
    await hosted.partition.become_follower(state(OTHER, 1))
    await hosted.partition.log.truncate_to(0)
    hosted.partition.follower_log_changed()
    await hosted.lead(2)
    again = hosted.append(b"another")
    await hosted.partition.log.wait_durable(1)
    hosted.follower_has(1)
    assert hosted.partition.high_watermark == 1
    for wait in (
        hosted.partition.committed(appended, deadline_ms=soon()),
        hosted.partition.durable(appended, deadline_ms=soon()),
    ):
        with pytest.raises(NotLeaderOrFollowerError) as caught:
            await wait
        assert caught.value.outcome is Outcome.UNKNOWN
    await hosted.partition.committed(again, deadline_ms=soon())


async def handed_over(hosted):
    """Two batches, durable here, that wait for an ack when another broker becomes the leader."""
    await hosted.lead(0)
    waiting = [
        asyncio.create_task(
            hosted.partition.committed(hosted.append(), deadline_ms=monotonic_ms() + FAR_MS)
        )
        for _ in range(2)
    ]
    await asyncio.sleep(0)
    await hosted.partition.become_follower(state(OTHER, 1))
    return waiting


async def unknown(task):
    with pytest.raises(NotLeaderOrFollowerError) as caught:
        await task
    assert caught.value.outcome is Outcome.UNKNOWN
    assert caught.value.members["leader"] == OTHER


async def test_a_leader_that_hands_over_appends_nothing_more(hosted):
    await hosted.lead(0)
    hosted.append()
    assert not hosted.partition.is_handed_over
    hosted.partition.begin_handover(FAR_MS)
    with pytest.raises(LeaderNotAvailableError, match="handed over"):
        hosted.append()
    await hosted.partition.log.wait_durable(1)
    hosted.follower_has(1)
    assert hosted.partition.is_handed_over
    # A leadership of its own begins anew, and so does one that nobody took in time.
    await hosted.lead(1)
    hosted.append()
    hosted.partition.begin_handover(0)
    hosted.append()


async def test_what_the_next_leader_commits_is_acknowledged(hosted):
    first, second = await handed_over(hosted)
    assert hosted.partition.has_waiting_acks
    assert not first.done()
    position = hosted.partition.follower.fetch_position
    await hosted.partition.take_fetched(position, fetched(high_watermark=1))
    await first
    assert not second.done()
    await hosted.partition.take_fetched(position, fetched(high_watermark=2))
    await second
    assert not hosted.partition.has_waiting_acks


async def test_what_the_next_leader_does_not_have_is_not_acknowledged(hosted):
    first, second = await handed_over(hosted)
    diverging = FetchResult("t" * 32, 0, None, 0, 0, (0, 1), [])
    await hosted.partition.take_fetched(hosted.partition.follower.fetch_position, diverging)
    await unknown(second)
    assert not first.done()
    # Another record takes the place of the second: it is not what was waited for.
    batch = encode_batch(
        [RecordData(timestamp=1, key=None, value=b"other")], base_offset=1, leader_epoch=1
    )
    answer = fetched(high_watermark=2, batches=[ReplicatedBatch(memoryview(batch), None)])
    await hosted.partition.take_fetched(hosted.partition.follower.fetch_position, answer)
    await hosted.partition.log.wait_durable(2)
    hosted.partition.follower_log_changed()
    await first


async def test_a_log_that_begins_anew_acknowledges_nothing(hosted):
    waiting = await handed_over(hosted)
    position = hosted.partition.follower.fetch_position
    await hosted.partition.take_fetched(position, fetched(log_start=7, high_watermark=9))
    for task in waiting:
        await unknown(task)


async def test_who_waits_is_told_when_nobody_commits_it(hosted, monkeypatch):
    monkeypatch.setattr(partition_module, "HANDOVER_ACK_TIMEOUT_MS", 20)
    for task in await handed_over(hosted):
        await unknown(task)


async def test_what_is_committed_by_a_later_leadership_of_this_broker_is_acknowledged(hosted):
    waiting = await handed_over(hosted)
    await hosted.lead(2)
    hosted.follower_has(2)
    for task in waiting:
        await task


async def test_without_a_lease_nothing_is_appended_or_concluded(hosted):
    await hosted.lead(0)
    hosted.leased = False
    with pytest.raises(LeaderNotAvailableError):
        hosted.append()
    with pytest.raises(LeaderNotAvailableError):
        hosted.follower_has(0)
    hosted.partition.tick(BROKER_EPOCHS, ())
    assert hosted.partition.log.next_offset == 0
    assert hosted.proposals == []


async def test_below_min_isr_an_append_with_acks_all_is_refused_beforehand(hosted):
    await hosted.lead(0, isr=(LOCAL,))
    with pytest.raises(NotEnoughReplicasError):
        hosted.append()
    assert hosted.partition.log.next_offset == 0


def numbered(sequence):
    return {"producer_id": 5, "producer_epoch": 0, "base_sequence": sequence}


def keyed(number, body=0):
    return {"idempotency": Idempotency(bytes([number]) * 16, bytes([body]) * 16)}


@pytest.mark.parametrize("client", [numbered, keyed])
async def test_below_min_isr_a_retry_of_what_is_committed_is_told_its_offset(hosted, client):
    await hosted.lead(0)
    hosted.append(b"other")
    hosted.append(**client(0))
    await hosted.partition.log.wait_durable(2)
    hosted.follower_has(2)
    await hosted.lead(1, isr=(LOCAL,))
    retry = hosted.append(**client(0))
    await hosted.partition.committed(retry, deadline_ms=soon())
    assert (retry.info.duplicate, retry.info.base_offset) == (True, 1)
    with pytest.raises(NotEnoughReplicasError):
        hosted.append(**client(1))
    assert hosted.partition.log.next_offset == 2


@pytest.mark.parametrize("client", [numbered, keyed])
async def test_below_min_isr_a_retry_of_what_is_not_committed_waits_for_it(hosted, client):
    """It is in the log: to say that nothing was applied would be wrong."""
    await hosted.lead(0)
    hosted.append(**client(0))
    await hosted.partition.log.wait_durable(1)
    await hosted.lead(1, isr=(LOCAL,))
    retry = hosted.append(**client(0))
    with pytest.raises(NotEnoughReplicasAfterAppendError) as caught:
        await hosted.partition.committed(retry, deadline_ms=monotonic_ms() + 10)
    assert caught.value.outcome is Outcome.UNKNOWN
    waiting = asyncio.create_task(hosted.partition.committed(retry, deadline_ms=soon()))
    await hosted.lead(2)
    with pytest.raises(NotLeaderOrFollowerError):
        await waiting
    again = hosted.append(**client(0))
    hosted.follower_has(1)
    await hosted.partition.committed(again, deadline_ms=soon())
    assert hosted.partition.log.next_offset == 1


async def test_below_min_isr_a_later_batch_is_refused_as_one_that_may_come_again(hosted):
    """The one before it was refused for the same reason: a gap is no mistake of the producer's."""
    await hosted.lead(0)
    hosted.append(**numbered(0))
    await hosted.partition.log.wait_durable(1)
    await hosted.lead(1, isr=(LOCAL,))
    for sequence in (1, 2):
        with pytest.raises(NotEnoughReplicasError):
            hosted.append(**numbered(sequence))


async def test_a_follower_refuses_appends_and_names_the_leader(hosted):
    await hosted.partition.become_follower(state(OTHER, 3))
    with pytest.raises(NotLeaderOrFollowerError) as caught:
        hosted.append()
    assert caught.value.members == {"leader": OTHER, "leader_epoch": 3}


async def test_a_replica_that_lost_its_end_does_not_lead_before_it_was_let_into_the_isr(tmp_path):
    hosted = await Hosted().open(tmp_path, high_watermark=1, lost_tail=True)
    partition = hosted.partition
    assert not partition.is_fit_to_lead
    await partition.become_follower(state(OTHER, 1))
    with pytest.raises(NotLeaderOrFollowerError):
        partition.require_in_sync()
    position = partition.follower.fetch_position
    batch = encode_batch([RecordData(timestamp=1, key=None, value=b"v")], leader_epoch=1)
    await partition.take_fetched(
        position,
        FetchResult("t" * 32, 0, None, 1, 0, None, [ReplicatedBatch(memoryview(batch), None)]),
    )
    await partition.log.wait_durable(1)
    partition.follower_log_changed()
    assert partition.high_watermark == 1
    # Its own high watermark proves nothing: the leader's may still be behind.
    assert not partition.is_fit_to_lead
    partition.fitness.left_isr(20, partition.fitness.losses)
    assert partition.fitness.observe((OTHER, LOCAL), 21)
    assert partition.is_fit_to_lead
    await partition.close()


async def test_a_cut_takes_the_high_watermark_along_and_the_role(hosted):
    await follow_with(hosted, b"one", b"two")
    partition = hosted.partition
    path = partition.log._files.active.path
    partition.log.damage.found(damaged(path, 0, "test"), "read")
    partition.begin_cut()
    await partition.cut_at_damage()
    # The file is sound, so that all of it stays.
    assert partition.log.log_end_offset == partition.high_watermark == 2
    assert partition.follower is None
    assert partition.fitness.lost_tail
    assert not partition.fitness.must_report((LOCAL, OTHER), OTHER)


async def test_an_answer_that_the_logs_diverge_tells_the_leader_nothing(hosted):
    await follow_with(hosted, b"one", b"two")
    partition = hosted.partition
    partition.begin_cut()
    await partition.become_follower(state(OTHER, 5))
    diverging = FetchResult("t" * 32, 0, None, 0, 0, (1, 1), [])
    await partition.take_fetched(partition.follower.fetch_position, diverging)
    assert partition.log.log_end_offset == 1
    assert not partition.fitness.must_report((LOCAL, OTHER), OTHER)
    await partition.take_fetched(partition.follower.fetch_position, fetched())
    assert partition.fitness.must_report((LOCAL, OTHER), OTHER)


async def test_a_truncation_is_told_of_before_it_happens(hosted):
    told = []
    await follow_with(hosted, b"one", b"two")
    partition = hosted.partition

    @asynccontextmanager
    async def truncating(replica, end_offset):
        told.append((end_offset, replica.log.log_end_offset))
        yield
        told.append((end_offset, replica.log.log_end_offset))

    partition._truncating = truncating
    await partition.become_follower(state(OTHER, 5))
    position = partition.follower.fetch_position
    await partition.take_fetched(position, FetchResult("t" * 32, 0, None, 0, 0, (2, 1), []))
    assert told == [(1, 2), (1, 1)]
    assert partition.log.log_end_offset == 1


@pytest.mark.parametrize(
    ("isr", "compacted", "end_offset"),
    [((OTHER,), True, 0), ((OTHER,), False, 1), ((LOCAL, OTHER), True, 1)],
)
async def test_a_compacted_log_that_is_cut_below_what_was_compacted_begins_anew(
    hosted, isr, compacted, end_offset
):
    """What newer records have replaced here, the leader of an unclean election still has."""
    await follow_with(hosted, b"one", b"two", b"three")
    partition = hosted.partition
    if compacted:
        partition.log.reconfigure(LogConfig(compaction=CompactionConfig()))
    # The first three records are in a sealed segment then.
    partition.log._appender.roll()
    await partition.log._commits.drain()
    await partition.become_follower(state(OTHER, 5, isr=isr))
    diverging = FetchResult("t" * 32, 0, None, 0, 0, (1, 1), [])
    assert await partition.take_fetched(partition.follower.fetch_position, diverging) == end_offset
    assert partition.log.log_end_offset == partition.high_watermark == end_offset
    assert partition.follower.fetch_position.offset == end_offset


def fetched(*, log_start=0, high_watermark=0, batches=()):
    return FetchResult("t" * 32, 0, None, high_watermark, log_start, None, list(batches))


async def follow_with(hosted, *values):
    """Follow, and take in these values from the leader."""
    partition = hosted.partition
    await partition.become_follower(state(OTHER, 1))
    for offset, value in enumerate(values):
        batch = encode_batch(
            [RecordData(timestamp=1, key=None, value=value)], base_offset=offset, leader_epoch=1
        )
        result = fetched(
            high_watermark=offset + 1, batches=[ReplicatedBatch(memoryview(batch), None)]
        )
        assert await partition.take_fetched(partition.follower.fetch_position, result) is None
        await partition.log.wait_durable(offset + 1)
        partition.follower_log_changed()


async def test_a_log_that_ends_below_its_leader_s_start_begins_anew_there(hosted):
    await follow_with(hosted, b"old")
    partition = hosted.partition
    result = fetched(log_start=40, high_watermark=50)
    assert await partition.take_fetched(partition.follower.fetch_position, result) == 40
    assert (partition.log.log_start_offset, partition.log.next_offset) == (40, 40)
    assert partition.high_watermark == 40
    assert partition.follower.fetch_position.offset == 40


async def test_a_follower_lets_go_what_its_leader_has_let_go(hosted):
    await follow_with(hosted, b"a", b"b", b"c")
    partition = hosted.partition
    position = partition.follower.fetch_position
    await partition.take_fetched(position, fetched(log_start=2, high_watermark=3))
    assert partition.log.log_start_offset == 2
    assert (await partition.log.cleanup.remove_expired()).count == 0
    await partition.take_fetched(position, fetched(log_start=3, high_watermark=3))
    assert (await partition.log.cleanup.remove_expired()).count == 1
    assert (partition.log.log_start_offset, partition.log.next_offset) == (3, 3)


async def test_a_follower_lets_go_nothing_above_its_own_high_watermark(hosted):
    await follow_with(hosted, b"a", b"b")
    partition = hosted.partition
    position = partition.follower.fetch_position
    partition.high_watermark = 1
    await partition.take_fetched(position, fetched(log_start=2, high_watermark=1))
    assert partition.log.log_start_offset == 1


async def test_only_a_leader_that_may_lead_enforces_retention(hosted):
    hosted.partition.log.reconfigure(LogConfig(retention_ms=0))
    with pytest.raises(LeaderNotAvailableError):
        await hosted.partition.enforce_retention(1 << 50)
    await hosted.lead(0)
    hosted.append()
    hosted.append()
    await hosted.partition.log.wait_durable(2)
    hosted.follower_has(1)
    await hosted.partition.enforce_retention(1 << 50)
    assert hosted.partition.log.log_start_offset == 0
    hosted.follower_has(2)
    hosted.leased = False
    with pytest.raises(LeaderNotAvailableError):
        await hosted.partition.enforce_retention(1 << 50)
    hosted.leased = True
    await hosted.partition.enforce_retention(1 << 50)
    assert hosted.partition.log.log_start_offset == 2


async def test_a_former_leader_asks_the_next_one_only_from_what_is_durable_here(hosted):
    """Otherwise its queued tail could come to stand below a high watermark that is not its own."""
    await hosted.lead(0)
    hosted.append()
    assert hosted.partition.log.log_end_offset == 0
    await hosted.partition.become_follower(state(OTHER, 1))
    assert hosted.partition.follower.fetch_position.offset == 1


async def test_a_follower_serves_consumers_only_in_sync_and_while_its_lease_lasts(hosted):
    partition = hosted.partition
    with pytest.raises(LeaderNotAvailableError):
        partition.require_in_sync()
    await partition.become_follower(state(OTHER, 0))
    partition.require_in_sync()
    hosted.leased = False
    with pytest.raises(LeaderNotAvailableError):
        partition.require_in_sync()
    hosted.leased = True
    await partition.become_follower(state(OTHER, 1, isr=(OTHER,)))
    with pytest.raises(NotLeaderOrFollowerError) as refused:
        partition.require_in_sync()
    assert refused.value.members["leader"] == OTHER


async def test_a_leader_is_no_follower(hosted):
    await hosted.lead(0)
    with pytest.raises(LeaderNotAvailableError):
        hosted.partition.require_in_sync()


# --- a disk without room --------------------------------------------------------------------


async def test_a_full_disk_refuses_an_append_which_is_not_applied(hosted):
    await hosted.lead(0)
    hosted.disk.found_full()
    with pytest.raises(InsufficientStorageError) as caught:
        hosted.append()
    assert caught.value.outcome is Outcome.NOT_APPLIED
    assert hosted.partition.log.next_offset == 0


async def test_a_full_disk_does_not_keep_a_retry_from_its_answer(hosted):
    await hosted.lead(0)
    producer = {"producer_id": 1, "producer_epoch": 0, "base_sequence": 0}
    appended = hosted.append(**producer)
    hosted.disk.found_full()
    again = hosted.append(**producer)
    assert again.info.duplicate
    assert again.info.base_offset == appended.info.base_offset


async def test_what_is_appended_counts_against_the_disk(hosted):
    await hosted.lead(0)
    before = hosted.disk.available_bytes
    hosted.append(b"v" * 500)
    assert before - hosted.disk.available_bytes > 1000


async def test_whoever_waits_for_a_commit_that_found_no_room_hears_that_its_fate_is_unknown(hosted):
    await hosted.lead(0)
    appended = hosted.append()
    waiting = asyncio.create_task(hosted.partition.committed(appended, deadline_ms=soon()))
    await asyncio.sleep(0)
    hosted.partition.commit_held()
    with pytest.raises(InsufficientStorageError) as caught:
        await waiting
    assert caught.value.outcome is Outcome.UNKNOWN


@pytest.mark.parametrize("acks_all", [True, False])
async def test_a_held_commit_is_given_up_by_whoever_leads_no_more(hosted, monkeypatch, acks_all):
    await hosted.lead(0)

    def no_room(*arguments, **keywords):
        raise OSError(errno.ENOSPC, "No space left on device")

    insert = segment.insert
    monkeypatch.setattr(segment, "insert", no_room)
    appended = hosted.append()
    await until(lambda: hosted.partition.log.held is not None)
    wait = hosted.partition.committed if acks_all else hosted.partition.durable
    with pytest.raises(InsufficientStorageError) as caught:
        await wait(appended, deadline_ms=soon())
    assert caught.value.outcome is Outcome.UNKNOWN
    await hosted.partition.become_follower(state(OTHER, 1))
    assert hosted.partition.follower.fetch_position.offset == 0
    assert hosted.partition.log.next_offset == 0
    monkeypatch.setattr(segment, "insert", insert)
