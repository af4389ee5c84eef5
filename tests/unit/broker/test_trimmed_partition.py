"""What was trimmed is read at no replica any more, whatever its role and however it comes back."""

from dataclasses import replace

import pytest

from ottla_broker.drivers.peer_messages import FetchResult, ReplicatedBatch
from ottla_broker.services import record_read
from ottla_broker.services.consumer_reads import LeaderRead
from ottla_broker.services.timestamps import find_by_timestamp
from ottla_protocol.errors import OffsetOutOfRangeError
from ottla_protocol.record_batch import patch_batch, validate_batch
from ottla_protocol.record_codec import RecordData, encode_batch
from tests.unit.broker.test_partition import OTHER, Hosted, soon, state

RECORDS = 5
"""In each batch, at the times 0 to 4, 5 to 9 and so on."""


def batch_at(base_offset, *, leader_epoch=0):
    records = [RecordData(base_offset + index, None, b"v") for index in range(RECORDS)]
    batch = bytearray(encode_batch(records))
    patch_batch(batch, base_offset=base_offset, leader_epoch=leader_epoch)
    return batch


def trimmed(first_offset, leader, leader_epoch, **changes):
    return replace(state(leader, leader_epoch, **changes), first_offset=first_offset)


async def lead(hosted, leader_epoch, first_offset=0, *, isr=(1, 2)):
    await hosted.partition.become_leader(
        trimmed(first_offset, 1, leader_epoch, isr=isr),
        min_insync_replicas=1,
        eligible={1: 11, 2: 12},
        draining=(),
    )


async def append_committed(hosted, batches):
    for _ in range(batches):
        batch = batch_at(hosted.partition.log.next_offset)
        appended = hosted.partition.append(
            batch,
            validate_batch(batch, on_append=True),
            acks_all=True,
            now_ms=1,
            idempotency=None,
        )
        await hosted.partition.log.wait_durable(appended.info.next_offset)
        hosted.follower_has(appended.info.next_offset)
        await hosted.partition.committed(appended, deadline_ms=soon())


@pytest.fixture
async def hosted(tmp_path):
    hosted = await Hosted().open(tmp_path)
    yield hosted
    await hosted.partition.close()


async def read_at(hosted, offset):
    read = LeaderRead(hosted.partition, offset, 1 << 20)
    await read.look(1 << 20)
    if read.error is not None:
        raise read.error
    return read.batches


async def test_a_leader_reads_nothing_below_and_the_batch_that_the_start_is_in(hosted):
    await lead(hosted, 0)
    await append_committed(hosted, 3)
    await lead(hosted, 0, 7)
    log = hosted.partition.log
    assert (log.log_start_offset, hosted.partition.high_watermark) == (7, 15)
    with pytest.raises(OffsetOutOfRangeError) as refused:
        await read_at(hosted, 6)
    assert refused.value.members["log_start_offset"] == 7
    assert [batch.base_offset for batch in await read_at(hosted, 7)] == [5, 10]


async def test_a_time_is_looked_for_from_the_start_on(hosted):
    await lead(hosted, 0)
    await append_committed(hosted, 3)
    await lead(hosted, 0, 7)
    for timestamp, offset in ((0, 7), (6, 7), (7, 7), (8, 8), (11, 11), (99, 15)):
        assert (await find_by_timestamp(hosted.partition, timestamp)).offset == offset


async def test_a_restart_brings_nothing_back(hosted, tmp_path):
    await lead(hosted, 0)
    await append_committed(hosted, 3)
    await hosted.partition.close()
    await hosted.open(tmp_path, high_watermark=0)
    assert hosted.partition.log.log_start_offset == 0
    await hosted.partition.become_follower(trimmed(7, OTHER, 1))
    assert hosted.partition.log.log_start_offset == 7
    # It may lead before its leader has told it a high watermark.
    await lead(hosted, 2, 7)
    assert hosted.partition.high_watermark >= 7
    with pytest.raises(OffsetOutOfRangeError):
        await read_at(hosted, 6)


async def test_a_leader_that_lacks_what_was_trimmed_begins_anew_behind_it(hosted):
    """From outside the ISR: what it has was cut away below, and no offset is given twice."""
    await lead(hosted, 0, isr=(1,))
    await append_committed(hosted, 1)
    hosted.partition.withdraw()
    await lead(hosted, 5, 40, isr=(1,))
    log = hosted.partition.log
    assert (log.log_start_offset, log.log_end_offset) == (40, 40)
    assert hosted.partition.high_watermark == 40
    await append_committed(hosted, 1)
    assert [batch.base_offset for batch in await read_at(hosted, 40)] == [40]


def answer(hosted, *batches, log_start_offset=0, high_watermark=15):
    return hosted.partition.follower.fetch_position, FetchResult(
        topic_id="t" * 32,
        partition=0,
        error_code=None,
        high_watermark=high_watermark,
        log_start_offset=log_start_offset,
        diverging=None,
        batches=[ReplicatedBatch(batch, None) for batch in batches],
    )


async def take(hosted, *batches, **answered):
    await hosted.partition.take_fetched(*answer(hosted, *batches, **answered))
    await hosted.partition.log.wait_durable(hosted.partition.log.next_offset)
    hosted.partition.follower_log_changed()


async def test_a_follower_that_hears_of_a_trim_first_tells_of_no_end_that_is_wrong(hosted):
    """It has what was trimmed, and does not know yet that this is committed."""
    partition = hosted.partition
    await partition.become_follower(state(OTHER, 0))
    await take(hosted, batch_at(0), batch_at(5), batch_at(10), high_watermark=5)
    partition.take_state(trimmed(12, OTHER, 0))
    assert (partition.log.log_start_offset, partition.high_watermark) == (12, 5)
    assert partition.last_stable_offset == 5
    for isolation in ("read_uncommitted", "read_committed"):
        assert record_read._resolve(partition, "latest", isolation, local=True) == 12
    await take(hosted, log_start_offset=12, high_watermark=15)
    assert partition.last_stable_offset == 15


async def test_a_follower_begins_with_the_whole_batch_that_its_leader_begins_in(hosted):
    partition = hosted.partition
    await partition.become_follower(trimmed(7, OTHER, 0))
    await take(hosted, log_start_offset=7)
    assert partition.follower.fetch_position.offset == 7
    await take(hosted, batch_at(5), batch_at(10), log_start_offset=7)
    log = partition.log
    assert (log.log_start_offset, log.log_end_offset) == (7, 15)
    assert log.inspector.base_offsets() == (5,)
    assert partition.follower.fetch_position.offset == 15
    assert partition.high_watermark == 15


async def test_a_batch_that_does_not_hold_the_start_is_refused_as_before(hosted):
    partition = hosted.partition
    await partition.become_follower(trimmed(7, OTHER, 0))
    await take(hosted, log_start_offset=7)
    with pytest.raises(Exception, match=r"below|begins"):
        await take(hosted, batch_at(0), log_start_offset=7)
    assert partition.log.log_end_offset == 7


async def test_a_follower_that_was_away_hides_what_it_still_has(hosted, tmp_path):
    partition = hosted.partition
    await partition.become_follower(state(OTHER, 0))
    await take(hosted, batch_at(0), batch_at(5), high_watermark=0)
    await partition.become_follower(trimmed(7, OTHER, 1))
    assert partition.log.log_start_offset == 7
    # All of it went: it stays hidden, and its leader says where to go on.
    await partition.become_follower(trimmed(40, OTHER, 2))
    assert partition.log.log_start_offset == partition.log.log_end_offset == 10
    await take(hosted, log_start_offset=40, high_watermark=40)
    assert partition.log.log_start_offset == partition.log.log_end_offset == 40


async def test_a_trim_acknowledges_nothing(hosted):
    """A former leader may have other records there than the next one has committed."""
    await lead(hosted, 0)
    batch = batch_at(0)
    appended = hosted.partition.append(
        batch, validate_batch(batch, on_append=True), acks_all=True, now_ms=1, idempotency=None
    )
    await hosted.partition.log.wait_durable(RECORDS)
    await hosted.partition.become_follower(trimmed(RECORDS, OTHER, 1))
    assert hosted.partition.high_watermark < appended.info.next_offset


async def test_a_restored_leader_begins_with_the_batch_that_the_backup_begins_in(hosted):
    """The backup is of a log that was trimmed; a follower of this one gets the batch whole too."""
    partition = hosted.partition
    await partition.log.reset_to(7)
    await lead(hosted, 0, 7, isr=(1,))
    for _ in range(2):
        batches = [batch_at(5), batch_at(10)]
        await partition.begin_with(batches[0])
        partition.append_restored(batches)
        await partition.log.wait_durable(15)
    log = partition.log
    assert (log.log_start_offset, log.log_end_offset, partition.high_watermark) == (7, 15, 15)
    assert [batch.base_offset for batch in await read_at(hosted, 7)] == [5, 10]
