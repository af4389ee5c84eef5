"""Markers at the leader: in the log once, committed, and for offsets at the group coordinator."""

import asyncio
from types import SimpleNamespace

import pytest

from ottla_broker.drivers.group_coordinators import OFFSETS_TOPIC
from ottla_broker.drivers.marker_appends import MarkerAppends
from ottla_broker.drivers.peer_messages import PartitionMarkers, TransactionMarker, WriteMarkers
from ottla_cluster.groups.commands import DoneResponse
from ottla_cluster.groups.transaction_commands import EndTransactionOffsets
from ottla_protocol.control_records import read_end_marker
from ottla_protocol.errors import NotCoordinatorError
from ottla_protocol.record_batch import read_header
from ottla_protocol.record_codec import decode_batch
from tests.unit.broker.test_partition import OTHER, Hosted, state

TOPIC_ID = "t" * 32
OFFSETS_ID = "f" * 32
COMMIT = TransactionMarker(5, 1, True, 9)


class Groups:
    def __init__(self):
        self.commands = []
        self.refusal = None
        self.has_pending = True

    async def execute(self, partition, command, *, deadline_ms):
        self.commands.append((partition, command))
        if self.refusal is not None:
            raise self.refusal
        return DoneResponse(has_changed=self.has_pending)


class Led:
    def __init__(self, hosted):
        self.hosted = hosted
        self.groups = Groups()
        offsets = SimpleNamespace(state=SimpleNamespace(topic=OFFSETS_TOPIC, partition=2))
        partitions = {hosted.partition.key: hosted.partition, (OFFSETS_ID, 2): offsets}
        self.appends = MarkerAppends(
            replicas=SimpleNamespace(partitions=partitions), groups=self.groups
        )

    async def write(self, *markers, topic_id=TOPIC_ID, partition=0, timeout_ms=60_000):
        call = WriteMarkers(timeout_ms, (PartitionMarkers(topic_id, partition, markers),))
        answer = await self.appends.write(call)
        ((codes,), (self.appended,)) = answer.error_codes, answer.appended
        return codes

    async def written(self, *markers):
        """The same, while the follower keeps up."""
        writing = asyncio.create_task(self.write(*markers))
        while not writing.done():
            end = self.hosted.partition.log.next_offset
            await self.hosted.partition.log.wait_durable(end)
            self.hosted.follower_has(end)
            await asyncio.sleep(0)
        return await writing

    async def markers(self):
        log = self.hosted.partition.log
        return [
            read_end_marker(record)
            for batch in await log.read(0, max_bytes=1 << 20, limit=log.next_offset)
            if read_header(batch.data).is_control
            for record in decode_batch(batch.data, max_inflated_bytes=1 << 20)
        ]


@pytest.fixture
async def led(tmp_path):
    hosted = await Hosted().open(tmp_path)
    await hosted.lead(0)
    yield Led(hosted)
    await hosted.partition.close()


def begin(led, epoch=0):
    led.hosted.append(producer_id=5, producer_epoch=epoch, base_sequence=0, is_transactional=True)


async def test_a_marker_counts_once_it_is_committed(led):
    begin(led)
    writing = asyncio.create_task(led.write(COMMIT))
    await asyncio.sleep(0)
    await led.hosted.partition.log.wait_durable(2)
    await asyncio.sleep(0.01)
    assert not writing.done()
    assert led.hosted.partition.last_stable_offset == 0
    led.hosted.follower_has(2)
    assert await writing == (None,)
    assert led.hosted.partition.last_stable_offset == 2
    (marker,) = await led.markers()
    assert (marker.is_commit, marker.coordinator_epoch) == (True, 9)


async def test_a_marker_that_comes_again_is_taken_once(led):
    begin(led)
    assert (await led.written(COMMIT), led.appended) == ((None,), (True,))
    assert (await led.written(COMMIT, COMMIT), led.appended) == ((None, None), (False, False))
    assert len(await led.markers()) == 1


async def test_one_of_the_other_kind_that_comes_second_tells_that_it_was_not_taken(led):
    begin(led)
    abort = TransactionMarker(5, 1, False, 9)
    assert (await led.written(COMMIT, abort), led.appended) == ((None, None), (True, False))
    assert [each.is_commit for each in await led.markers()] == [True]


async def test_a_marker_that_the_log_is_past_is_as_good_as_written(led):
    begin(led)
    assert await led.written(COMMIT) == (None,)
    begin(led, epoch=1)
    assert (await led.written(COMMIT), led.appended) == ((None,), (False,))
    assert len(await led.markers()) == 1


async def test_one_that_is_not_committed_in_time_is_refused_and_then_found_to_be_there(led):
    begin(led)
    timed_out = ("REQUEST_TIMED_OUT",)
    assert (await led.write(COMMIT, timeout_ms=20), led.appended) == (timed_out, (False,))
    assert led.hosted.partition.log.open_transactions() == ()
    assert (await led.written(COMMIT), led.appended) == ((None,), (False,))
    assert len(await led.markers()) == 1


async def test_who_does_not_lead_says_so(led):
    assert await led.write(COMMIT, partition=7) == ("NOT_LEADER_OR_FOLLOWER",)
    await led.hosted.partition.become_follower(state(OTHER, 1))
    assert await led.write(COMMIT) == ("NOT_LEADER_OR_FOLLOWER",)


async def test_offsets_are_the_group_coordinators_business(led):
    assert await led.write(COMMIT, topic_id=OFFSETS_ID, partition=2) == (None,)
    assert led.groups.commands == [(2, EndTransactionOffsets(5, 1, True, 9))]
    assert led.appended == (True,)
    led.groups.has_pending = False
    assert await led.write(COMMIT, topic_id=OFFSETS_ID, partition=2) == (None,)
    assert led.appended == (False,)
    led.groups.refusal = NotCoordinatorError("moved")
    assert await led.write(COMMIT, topic_id=OFFSETS_ID, partition=2) == ("NOT_COORDINATOR",)
