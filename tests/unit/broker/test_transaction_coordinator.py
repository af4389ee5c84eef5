"""The transaction coordinator on one partition: when markers leave, and who waits for them."""

import asyncio
import itertools

import pytest

from ottla_broker.drivers.clock import monotonic_ms
from ottla_broker.drivers.transaction_coordinator import (
    PRODUCER_IDS_KEPT,
    TransactionCoordinatorDriver,
    WrittenMarker,
)
from ottla_cluster.transactions.commands import (
    AddPartitions,
    DescribeTransaction,
    EndTransaction,
    InitialiseProducer,
    InitialiseProducerResponse,
)
from ottla_cluster.transactions.config import TransactionConfig
from ottla_cluster.transactions.records import TransactionPartition, TransactionState
from ottla_protocol.errors import (
    ConcurrentTransactionsError,
    CoordinatorNotAvailableError,
    NotCoordinatorError,
    Outcome,
    ProducerFencedError,
    UnavailableError,
)
from tests.unit.awaiting import until
from tests.unit.broker.test_partition import OTHER, Hosted, soon, state

PARTITIONS = tuple(TransactionPartition("orders", "o" * 32, number) for number in range(2))


class Coordinated:
    """A coordinator on a real partition whose follower keeps up; the test writes the markers."""

    def __init__(self, hosted):
        self.hosted = hosted
        self.drivers = []
        self.told = []
        self.gone = []
        self.producer_ids = itertools.count(100)
        self.no_producer_ids = False
        self.keeps_up = True
        self.following = asyncio.create_task(self._follow())

    async def _follow(self):
        while True:
            partition = self.hosted.partition
            if self.keeps_up and partition.leader is not None:
                end = partition.log.next_offset
                await partition.log.wait_durable(end)
                if partition.leader is not None and partition.high_watermark < end:
                    self.hosted.follower_has(end)
            await asyncio.sleep(0.001)

    # The marker sink.

    def decided(self, coordinator, decisions):
        self.told += [(coordinator, each) for each in decisions]

    def resigned(self, coordinator):
        self.gone.append(coordinator)

    async def next_producer_id(self):
        if self.no_producer_ids:
            raise UnavailableError("no controller")
        return next(self.producer_ids)

    async def coordinate(self, leader_epoch, **changes):
        await self.hosted.lead(leader_epoch, **changes)
        self.driver = TransactionCoordinatorDriver(
            self.hosted.partition,
            leader_epoch,
            config=TransactionConfig(),
            markers=self,
            next_producer_id=self.next_producer_id,
            on_failure=lambda error: pytest.fail(str(error)),
        )
        self.drivers.append(self.driver)
        await until(lambda: self.driver.state == "active")

    def execute(self, command, *, deadline_ms=None):
        return self.driver.execute(command, deadline_ms=deadline_ms or soon())

    async def begun(self, name="t"):
        granted = (await self.execute(InitialiseProducer(name, 1_000, None))).granted
        await self.execute(AddPartitions(name, granted, PARTITIONS))
        return granted

    async def decided_markers(self, count=1):
        await until(lambda: len(self.told) >= count)
        return self.told[count - 1][1]

    def write(self, decision, partitions=PARTITIONS):
        self.driver.markers_written(
            WrittenMarker(decision.transactional_id, decision.marker, each) for each in partitions
        )

    async def state(self, name="t"):
        return (await self.execute(DescribeTransaction(name))).transaction.state


@pytest.fixture
async def coordinated(tmp_path):
    coordinated = Coordinated(await Hosted().open(tmp_path))
    await coordinated.coordinate(0)
    yield coordinated
    for driver in coordinated.drivers:
        await driver.stop()
    coordinated.following.cancel()
    await asyncio.gather(coordinated.following, return_exceptions=True)
    await coordinated.hosted.partition.close()


async def test_markers_leave_once_a_decision_is_committed_and_not_before(coordinated):
    granted = await coordinated.begun()
    coordinated.keeps_up = False
    ending = asyncio.create_task(coordinated.execute(EndTransaction("t", granted, True)))
    log = coordinated.hosted.partition.log
    await until(lambda: log.log_end_offset == log.next_offset > 2)
    assert not coordinated.told
    assert not ending.done()
    coordinated.keeps_up = True
    assert (await ending).granted.producer_epoch == granted.producer_epoch + 1
    decision = await coordinated.decided_markers()
    assert (decision.is_commit, decision.partitions) == (True, set(PARTITIONS))


async def test_the_next_transaction_waits_for_the_last_marker_and_not_for_a_tick(coordinated):
    granted = await coordinated.begun()
    successor = (await coordinated.execute(EndTransaction("t", granted, True))).granted
    decision = await coordinated.decided_markers()
    adding = asyncio.create_task(coordinated.execute(AddPartitions("t", successor, PARTITIONS[:1])))
    coordinated.write(decision, PARTITIONS[:1])
    assert await coordinated.state() is TransactionState.PREPARE_COMMIT
    assert not adding.done()
    coordinated.write(decision, PARTITIONS[1:])
    await adding
    assert await coordinated.state() is TransactionState.ONGOING
    assert not coordinated.driver._completions


async def test_to_take_over_is_answered_once_what_was_open_is_aborted(coordinated):
    granted = await coordinated.begun()
    taking = asyncio.create_task(coordinated.execute(InitialiseProducer("t", 1_000, None)))
    decision = await coordinated.decided_markers()
    assert not decision.is_commit
    assert not taking.done()
    coordinated.write(decision)
    response = await taking
    assert isinstance(response, InitialiseProducerResponse)
    assert response.granted.producer_epoch == granted.producer_epoch + 2


async def test_who_waits_for_markers_that_do_not_come_is_told_in_time(coordinated):
    granted = await coordinated.begun()
    successor = (await coordinated.execute(EndTransaction("t", granted, False))).granted
    for command in (
        AddPartitions("t", successor, PARTITIONS),
        InitialiseProducer("t", None, None),
    ):
        with pytest.raises(ConcurrentTransactionsError):
            await coordinated.execute(command, deadline_ms=monotonic_ms() + 30)
    assert not coordinated.driver._completions


async def test_the_next_coordinator_writes_all_markers_again_and_completes(coordinated):
    granted = await coordinated.begun()
    await coordinated.execute(EndTransaction("t", granted, True))
    decision = await coordinated.decided_markers()
    coordinated.write(decision, PARTITIONS[:1])
    waiting = asyncio.create_task(coordinated.execute(InitialiseProducer("t", None, None)))
    await asyncio.sleep(0.01)
    former = coordinated.driver
    await coordinated.hosted.partition.become_follower(state(OTHER, 1))
    with pytest.raises(NotCoordinatorError) as caught:
        await waiting
    assert caught.value.outcome is Outcome.NOT_APPLIED
    assert coordinated.gone == [former.epoch]
    await coordinated.coordinate(2)
    again = await coordinated.decided_markers(2)
    assert again == decision
    assert coordinated.told[1][0].leader_epoch == 2
    former.markers_written([WrittenMarker("t", decision.marker, PARTITIONS[0])])
    coordinated.write(again)
    await until(lambda: coordinated.driver.open_count() == 0)
    assert await coordinated.state() is TransactionState.COMPLETE_COMMIT


async def test_what_stands_before_an_unclean_election_is_revoked_until_it_is_decided_upon(
    coordinated,
):
    """Each coordinator after the election reads it so; what is decided after it counts."""
    open_one = await coordinated.begun("open")
    idle = (await coordinated.execute(InitialiseProducer("idle", 1_000, None))).granted
    for leader_epoch in (2, 4):
        await coordinated.hosted.partition.become_follower(state(OTHER, leader_epoch - 1))
        await coordinated.coordinate(leader_epoch, unclean_leader_epoch=2)
        assert await coordinated.state("open") is TransactionState.PREPARE_ABORT
        with pytest.raises(ProducerFencedError):
            await coordinated.execute(AddPartitions("idle", idle, PARTITIONS))
    decision = await coordinated.decided_markers(2)
    assert (decision.transactional_id, decision.is_commit) == ("open", False)
    assert decision.marker.producer_epoch == open_one.producer_epoch + 1
    coordinated.write(decision)
    await until(lambda: coordinated.driver.open_count() == 0)
    successor = (await coordinated.execute(InitialiseProducer("idle", 1_000, None))).granted
    assert successor.producer_id not in {open_one.producer_id, idle.producer_id}
    await coordinated.hosted.partition.become_follower(state(OTHER, 5))
    await coordinated.coordinate(6, unclean_leader_epoch=2)
    assert await coordinated.state("open") is TransactionState.COMPLETE_ABORT
    await coordinated.execute(AddPartitions("idle", successor, PARTITIONS))
    ended = await coordinated.execute(EndTransaction("idle", successor, True))
    assert ended.granted.producer_id == successor.producer_id


async def test_a_transaction_whose_time_is_up_is_aborted_by_a_tick(coordinated):
    await coordinated.begun()
    assert coordinated.driver.open_count() == 1
    coordinated.driver.tick(monotonic_ms() + 900)
    coordinated.driver.tick(monotonic_ms() + 1_001)
    decision = await coordinated.decided_markers()
    assert not decision.is_commit
    coordinated.write(decision)
    assert await coordinated.state() is TransactionState.COMPLETE_ABORT


async def test_a_completion_that_the_log_refuses_is_due_again(coordinated):
    granted = await coordinated.begun()
    await coordinated.execute(EndTransaction("t", granted, True))
    decision = await coordinated.decided_markers()
    partition = coordinated.hosted.partition
    append, refusals = partition.append, iter((UnavailableError("not now"),))

    def refuses_once(*arguments, **options):
        for refusal in refusals:
            raise refusal
        return append(*arguments, **options)

    partition.append = refuses_once
    coordinated.write(decision)
    assert await coordinated.state() is TransactionState.PREPARE_COMMIT
    coordinated.driver.tick(monotonic_ms() + 60_000)
    assert await coordinated.state() is TransactionState.COMPLETE_COMMIT


async def test_producer_ids_are_fetched_where_few_are_left_and_waited_for(coordinated):
    for number in range(3 * PRODUCER_IDS_KEPT):
        granted = (await coordinated.execute(InitialiseProducer(f"t-{number}", None, None))).granted
        assert granted.producer_id == 100 + number


async def test_without_producer_ids_only_new_ids_are_refused(coordinated):
    granted = await coordinated.begun()
    coordinated.no_producer_ids = True
    for number in range(coordinated.driver._active.machine.producer_ids_left):
        await coordinated.execute(InitialiseProducer(f"t-{number}", None, None))
    with pytest.raises(CoordinatorNotAvailableError) as caught:
        await coordinated.execute(InitialiseProducer("another", None, None))
    assert caught.value.outcome is Outcome.NOT_APPLIED
    await coordinated.execute(EndTransaction("t", granted, True))
