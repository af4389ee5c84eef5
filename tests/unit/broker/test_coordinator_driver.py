"""One coordinator on one partition: what it answers, when, and what a new epoch leaves of it."""

import asyncio
import time
from dataclasses import replace
from random import Random

import msgspec
import pytest

from ottla_broker.drivers import coordinator_driver
from ottla_broker.drivers.clock import monotonic_ms
from ottla_broker.drivers.coordinator_driver import CoordinatorDriver
from ottla_cluster.controller.features import TRANSACTIONS
from ottla_cluster.groups.active_coordinator import ActiveCoordinator
from ottla_cluster.groups.cluster_view import ClusterView, TopicView
from ottla_cluster.groups.commands import (
    CommitOffsets,
    FetchOffsets,
    Heartbeat,
    Join,
    Leave,
    OffsetToCommit,
    OwnedTopic,
)
from ottla_cluster.groups.config import GroupConfig
from ottla_cluster.groups.transaction_commands import (
    CommitTransactionOffsets,
    EndTransactionOffsets,
)
from ottla_cluster.transactions.records import ProducerIdentity
from ottla_protocol.errors import (
    CoordinatorLoadInProgressError,
    CoordinatorNotAvailableError,
    InvalidRequestError,
    NotCoordinatorError,
    NotEnoughReplicasError,
    Outcome,
    RequestTimedOutError,
    StorageError,
    UnknownMemberIdError,
)
from tests.unit.broker.test_partition import LOCAL, OTHER, Hosted, soon, state

VIEW = ClusterView(version=1, topics={"orders": TopicView("o" * 32, 3)})
WAIT_LIMIT_S = 5.0


class Coordinated:
    """A coordinator on a real partition, whose follower does what the test says."""

    def __init__(self, hosted):
        self.hosted = hosted
        self.partition = hosted.partition
        self.drivers = []

    async def coordinate(self, leader_epoch, *, follower_keeps_up=True, **changes):
        """Lead that epoch, and run a coordinator in it."""
        await self.hosted.lead(leader_epoch, **changes)
        self.driver = CoordinatorDriver(
            self.partition,
            leader_epoch,
            lambda image: ActiveCoordinator(image, GroupConfig(), Random(1), monotonic_ms()),
            lambda error: pytest.fail(str(error)),
        )
        self.drivers.append(self.driver)
        if follower_keeps_up:
            self.hosted.follower_has(self.partition.log.next_offset)
            await self.until(lambda: self.driver._active is not None)

    async def until(self, condition):
        deadline_s = time.monotonic() + WAIT_LIMIT_S
        while not condition():
            assert time.monotonic() < deadline_s, "not in time"
            await asyncio.sleep(0)

    def execute(self, command, *, deadline_ms=None):
        deadline_ms = soon() if deadline_ms is None else deadline_ms
        return self.driver.execute(command, VIEW, deadline_ms=deadline_ms)

    def start(self, command, **arguments):
        return asyncio.ensure_future(self.execute(command, **arguments))

    async def replicate(self):
        """The follower catches up with all that is durable here."""
        end = self.partition.log.next_offset
        await self.partition.log.wait_durable(end)
        self.hosted.follower_has(end)

    async def executed(self, command):
        answering = self.start(command)
        await asyncio.sleep(0)
        await self.replicate()
        return await answering

    async def offset(self):
        """What group g has committed in partition 0."""
        fetched = (await self.executed(FetchOffsets("g"))).offsets
        return fetched[0].offset if fetched else None


def commit(offset):
    return CommitOffsets("g", (OffsetToCommit("orders", 0, offset),))


@pytest.fixture
async def coordinated(tmp_path):
    coordinated = Coordinated(await Hosted().open(tmp_path))
    yield coordinated
    for driver in coordinated.drivers:
        await driver.stop()
    await coordinated.partition.close()


async def test_an_answer_leaves_when_its_records_are_committed(coordinated):
    await coordinated.coordinate(0)
    answering = coordinated.start(commit(7))
    await coordinated.until(lambda: coordinated.partition.log.next_offset > 0)
    await coordinated.partition.log.wait_durable(coordinated.partition.log.next_offset)
    await asyncio.sleep(0)
    assert not answering.done()
    await coordinated.replicate()
    assert (await answering).offsets[0].offset == 7


async def test_a_read_waits_for_what_it_saw(coordinated):
    await coordinated.coordinate(0)
    writing = coordinated.start(commit(7))
    await asyncio.sleep(0)
    reading = coordinated.start(FetchOffsets("g"))
    await asyncio.sleep(0.01)
    assert not reading.done()
    await coordinated.replicate()
    assert (await reading).offsets[0].offset == 7
    await writing


async def test_it_loads_once_min_isr_is_lowered_to_what_there_is(coordinated):
    """After an unclean election the new leader is alone in the ISR."""
    await coordinated.coordinate(0)
    unanswered = coordinated.start(commit(7))
    await coordinated.until(lambda: coordinated.partition.log.next_offset > 0)
    await coordinated.partition.log.wait_durable(coordinated.partition.log.next_offset)
    await coordinated.partition.become_follower(state(None, 1))
    with pytest.raises(NotCoordinatorError):
        await unanswered
    now = {"isr": (LOCAL,), "unclean_leader_epoch": 2}
    await coordinated.coordinate(2, follower_keeps_up=False, **now)
    await asyncio.sleep(0.01)
    assert coordinated.driver.state == "loading"
    with pytest.raises(CoordinatorLoadInProgressError):
        await coordinated.execute(FetchOffsets("g"))
    await coordinated.hosted.lead(2, min_insync_replicas=1, **now)
    await coordinated.until(lambda: coordinated.driver.state == "active")
    assert (await coordinated.execute(FetchOffsets("g"))).offsets[0].offset == 7
    await coordinated.execute(commit(8))
    assert (await coordinated.execute(FetchOffsets("g"))).offsets[0].offset == 8


async def test_it_tells_whose_offsets_wait_for_the_end_of_a_transaction(coordinated):
    assert VIEW.feature_level < TRANSACTIONS.level
    view = replace(VIEW, feature_level=TRANSACTIONS.level)
    await coordinated.coordinate(0)
    for group in ("g", "h"):
        command = CommitTransactionOffsets(group, "t", 7, 3, (OffsetToCommit("orders", 0, 5),))
        pending = asyncio.ensure_future(
            coordinated.driver.execute(command, view, deadline_ms=soon())
        )
        await asyncio.sleep(0)
        if group == "g":
            assert not coordinated.driver.pending_transactions(), "it is not committed yet"
        await coordinated.replicate()
        await pending
        assert coordinated.driver.pending_transactions() == {ProducerIdentity(7, 3)}
    await coordinated.executed(EndTransactionOffsets(7, 4, is_commit=True, coordinator_epoch=0))
    assert not coordinated.driver.pending_transactions()


async def test_the_next_epoch_knows_what_was_answered(coordinated):
    await coordinated.coordinate(0)
    for offset in (1, 2, 3):
        await coordinated.executed(commit(offset))
    former = coordinated.driver
    await coordinated.partition.become_follower(state(OTHER, 1))
    await coordinated.coordinate(2)
    assert await coordinated.offset() == 3
    with pytest.raises(NotCoordinatorError) as caught:
        await former.execute(commit(4), VIEW, deadline_ms=soon())
    assert caught.value.outcome is Outcome.NOT_APPLIED


async def test_what_was_not_committed_has_an_unknown_outcome_and_may_vanish(coordinated):
    await coordinated.coordinate(0)
    await coordinated.executed(commit(1))
    end = coordinated.partition.log.next_offset
    answering = coordinated.start(commit(2))
    await asyncio.sleep(0)
    await coordinated.partition.become_follower(state(OTHER, 1))
    with pytest.raises(NotCoordinatorError) as caught:
        await answering
    assert caught.value.outcome is Outcome.UNKNOWN
    await coordinated.partition.log.truncate_to(end)
    coordinated.partition.follower_log_changed()
    await coordinated.coordinate(2)
    assert await coordinated.offset() == 1


async def test_nothing_is_decided_before_all_is_replayed(coordinated):
    await coordinated.coordinate(0)
    await coordinated.executed(commit(1))
    answering = coordinated.start(commit(2))
    await asyncio.sleep(0)
    await coordinated.partition.become_follower(state(OTHER, 1))
    await asyncio.gather(answering, return_exceptions=True)
    # The new epoch does not know yet whether the second commit counts.
    await coordinated.coordinate(2, follower_keeps_up=False)
    await asyncio.sleep(0.01)
    with pytest.raises(CoordinatorLoadInProgressError) as caught:
        await coordinated.execute(FetchOffsets("g"))
    assert caught.value.outcome is Outcome.NOT_APPLIED
    await coordinated.replicate()
    await coordinated.until(lambda: coordinated.driver._active is not None)
    assert await coordinated.offset() == 2


async def test_what_the_log_refuses_never_was(coordinated):
    await coordinated.coordinate(0)
    await coordinated.executed(commit(1))
    await coordinated.coordinate(1, isr=(LOCAL,), follower_keeps_up=False)
    await coordinated.until(lambda: coordinated.driver._active is not None)
    with pytest.raises(NotEnoughReplicasError) as caught:
        await coordinated.execute(commit(2))
    assert caught.value.outcome is Outcome.NOT_APPLIED
    assert (await coordinated.execute(FetchOffsets("g"))).offsets[0].offset == 1


async def test_a_late_commit_is_unknown_and_harms_no_later_one(coordinated):
    await coordinated.coordinate(0)
    with pytest.raises(RequestTimedOutError) as caught:
        await coordinated.execute(commit(1), deadline_ms=monotonic_ms() + 5)
    assert caught.value.outcome is Outcome.UNKNOWN
    await coordinated.executed(commit(2))
    assert await coordinated.offset() == 2


async def test_without_a_lease_nothing_is_answered(coordinated):
    await coordinated.coordinate(0)
    await coordinated.executed(commit(1))
    coordinated.hosted.leased = False
    for command in (FetchOffsets("g"), commit(2)):
        with pytest.raises(CoordinatorNotAvailableError) as caught:
            await coordinated.execute(command)
        assert caught.value.outcome is Outcome.NOT_APPLIED


async def test_a_silent_member_expires(coordinated):
    member_id, start_ms = await joined(coordinated)
    coordinated.driver.tick(VIEW, start_ms + 1_500)
    with pytest.raises(UnknownMemberIdError):
        await coordinated.executed(Heartbeat("g", member_id, 1))


async def test_nobody_is_silent_while_the_coordinator_cannot_hear(coordinated):
    member_id, start_ms = await joined(coordinated)
    coordinated.hosted.leased = False
    coordinated.driver.tick(VIEW, start_ms + 500)
    coordinated.hosted.leased = True
    coordinated.driver.tick(VIEW, start_ms + 1_500)
    assert (await coordinated.executed(Heartbeat("g", member_id, 1))).member_id == member_id


async def joined(coordinated):
    """A member with a session of a second; its id, and when that began."""
    await coordinated.coordinate(0)
    response = await coordinated.executed(Join("g", topics=("orders",), session_timeout_ms=1_000))
    start_ms = monotonic_ms()
    coordinated.driver.tick(VIEW, start_ms)
    await coordinated.replicate()
    return response.member_id, start_ms


async def test_a_damaged_state_is_told_and_stops_nothing_else(coordinated):
    await coordinated.hosted.lead(0)
    coordinated.hosted.append(b"no record of a coordinator")
    await coordinated.replicate()
    await coordinated.coordinate(0, follower_keeps_up=False)
    await coordinated.until(lambda: coordinated.driver._failure is not None)
    with pytest.raises(CoordinatorNotAvailableError, match="cannot be read") as caught:
        await coordinated.execute(FetchOffsets("g"))
    assert caught.value.outcome is Outcome.NOT_APPLIED


async def test_many_who_fall_silent_at_once_go_in_more_than_one_tick(coordinated, monkeypatch):
    """Each expiry is a rebalance: all in one tick would keep the event loop from everything."""
    await coordinated.coordinate(0)
    for number in range(5):
        await coordinated.executed(Join("g", member_id=f"m{number}", topics=("orders",)))
    far_ms = monotonic_ms() + 10_000_000
    monkeypatch.setattr(coordinator_driver, "TICK_DECISIONS_MS", 0)
    end = coordinated.partition.log.next_offset
    coordinated.driver.tick(VIEW, far_ms)
    assert coordinated.partition.log.next_offset == end, "no time was left for any"
    monkeypatch.setattr(coordinator_driver, "TICK_DECISIONS_MS", 60_000)
    coordinated.driver.tick(VIEW, far_ms)
    assert coordinated.partition.log.next_offset > end, "they are still overdue"
    await coordinated.replicate()


# --- parked heartbeats ----------------------------------------------------------------------


class Members:
    """Members of group g that park a heartbeat of what they were last told."""

    def __init__(self, coordinated):
        self.coordinated = coordinated
        self.known = {}

    async def join(self, member_id, session_timeout_ms=10_000):
        join = Join("g", topics=("orders",), member_id=member_id)
        join = msgspec.structs.replace(join, session_timeout_ms=session_timeout_ms)
        self._adopt(await self.coordinated.executed(join))

    async def settle(self):
        """Heartbeat without waiting until nobody is told anything new."""
        told = True
        while told:
            told = False
            for member_id in sorted(self.known):
                answer = await self.coordinated.executed(self.heartbeat(member_id))
                told = told or answer.assignment is not None
                self._adopt(answer)

    def _adopt(self, answer):
        owned = self.known[answer.member_id][1] if answer.assignment is None else answer.assignment
        self.known[answer.member_id] = answer.generation, owned

    def heartbeat(self, member_id, max_wait_ms=0):
        generation, assignment = self.known[member_id]
        owned = tuple(OwnedTopic(each.topic, each.partitions) for each in assignment)
        return Heartbeat("g", member_id, generation, owned, max_wait_ms)

    async def park(self, member_id, max_wait_ms=9_000):
        """A heartbeat that waits already."""
        driver = self.coordinated.driver
        heartbeat = self.heartbeat(member_id, max_wait_ms)
        parking = asyncio.ensure_future(
            driver.heartbeat(heartbeat, lambda: VIEW, deadline_ms=soon() + max_wait_ms)
        )
        await asyncio.sleep(0)
        assert not parking.done()
        return parking

    async def answer(self, parked):
        """Its answer, which must come without the wait being over."""
        await asyncio.sleep(0)
        await self.coordinated.replicate()
        return await asyncio.wait_for(parked, WAIT_LIMIT_S)


@pytest.fixture
async def members(coordinated):
    """a and b, who share three partitions."""
    await coordinated.coordinate(0)
    members = Members(coordinated)
    await members.join("a")
    await members.join("b")
    await members.settle()
    return members


def partitions_of(answer):
    return [number for topic in answer.assignment for number in topic.partitions]


async def test_a_heartbeat_without_news_waits_until_the_others_partitions_are_free(members):
    parked = await members.park("b")
    await members.coordinated.executed(Leave("g", "a"))
    assert partitions_of(await members.answer(parked)) == [0, 1, 2]


async def test_a_parked_heartbeat_hears_of_what_it_must_give_up(members):
    parked_a, parked_b = await members.park("a"), await members.park("b")
    await members.join("c")
    await asyncio.sleep(0)
    await members.coordinated.replicate()
    done, waiting = await asyncio.wait(
        (parked_a, parked_b), timeout=WAIT_LIMIT_S, return_when=asyncio.FIRST_COMPLETED
    )
    assert [len(partitions_of(each.result())) for each in done] == [1]
    assert len(waiting) == 1


async def test_a_partition_that_is_given_up_wakes_the_one_who_waits_for_it(members):
    await members.join("c")
    told = {
        name: await members.coordinated.executed(members.heartbeat(name)) for name in ("a", "b")
    }
    (loser,) = (name for name, answer in told.items() if answer.assignment is not None)
    (keeper,) = told.keys() - {loser}
    parked_c, parked_keeper = await members.park("c"), await members.park(keeper)
    members._adopt(told[loser])
    await members.coordinated.executed(members.heartbeat(loser))
    assert len(partitions_of(await members.answer(parked_c))) == 1
    assert not parked_keeper.done(), "it has nothing to do with that"


async def test_a_wait_ends_without_news(members):
    started_ms = monotonic_ms()
    parked = await members.park("a", max_wait_ms=60)
    answer = await members.answer(parked)
    assert answer.assignment is None
    assert monotonic_ms() - started_ms >= 60


async def test_a_later_heartbeat_ends_the_wait_of_the_former_at_once(members):
    former = await members.park("a")
    later = await members.park("a")
    assert (await members.answer(former)).assignment is None
    assert not later.done()


async def test_a_later_heartbeat_ends_one_that_does_not_wait_yet(members):
    """Its decision is being committed; when it is, it must not take the later one's place."""
    coordinated = members.coordinated
    joining = coordinated.start(Join("g", topics=("orders",), member_id="z", pattern=None))
    await asyncio.sleep(0)
    former, later = await members.park("b"), await members.park("b")
    await coordinated.replicate()
    await joining
    first = await asyncio.wait_for(former, WAIT_LIMIT_S)
    assert first.assignment is None
    assert not later.done()


async def test_leaving_ends_the_members_own_wait(members):
    parked = await members.park("a")
    await members.coordinated.executed(Leave("g", "a"))
    with pytest.raises(UnknownMemberIdError):
        await members.answer(parked)


async def test_joining_again_ends_the_members_own_wait_only_with_news(members):
    parked = await members.park("a")
    await members.coordinated.executed(
        Join("g", topics=("orders",), member_id="a", session_timeout_ms=10_000)
    )
    await asyncio.sleep(0.01)
    assert not parked.done(), "it has what it had"


async def test_who_coordinates_no_more_keeps_nobody_waiting(members):
    parked = await members.park("a")
    await members.coordinated.partition.become_follower(state(OTHER, 1))
    with pytest.raises(NotCoordinatorError) as caught:
        await asyncio.wait_for(parked, WAIT_LIMIT_S)
    assert caught.value.outcome is Outcome.NOT_APPLIED


async def test_a_wait_longer_than_a_session_is_refused(members):
    with pytest.raises(InvalidRequestError, match="max_wait_ms must be 0 to 10000"):
        await members.coordinated.driver.heartbeat(
            members.heartbeat("a", 10_001), lambda: VIEW, deadline_ms=soon()
        )


async def test_a_parked_member_is_not_silent_and_its_session_counts_from_the_end(members):
    driver = members.coordinated.driver
    parked = await members.park("a")
    far_ms = monotonic_ms() + 10_500
    driver.tick(VIEW, far_ms)
    await members.coordinated.replicate()
    assert list(driver._active.speculative_image.groups["g"].members) == ["a"], "b is silent"
    parked.cancel()
    await asyncio.gather(parked, return_exceptions=True)
    driver.tick(VIEW, monotonic_ms() + 9_000)
    assert list(driver._active.speculative_image.groups["g"].members) == ["a"]
    driver.tick(VIEW, monotonic_ms() + 10_500)
    assert not driver._active.speculative_image.groups["g"].members
    await members.coordinated.replicate()


async def test_a_client_that_goes_away_leaves_nothing_behind(members):
    parked = await members.park("a")
    parked.cancel()
    await asyncio.gather(parked, return_exceptions=True)
    driver = members.coordinated.driver
    assert driver._parked._latest == {}
    assert not driver._active._machine.sessions._unanswered


async def test_a_member_whose_heartbeat_is_not_yet_answered_is_not_silent(coordinated):
    """The log commits nothing for longer than a session: that is not the member's silence."""
    member_id, start_ms = await joined(coordinated)
    writing = coordinated.start(CommitOffsets("other", (OffsetToCommit("orders", 0, 1),)))
    beating = coordinated.start(Heartbeat("g", member_id, 1))
    await asyncio.sleep(0.01)
    assert not beating.done()
    coordinated.driver.tick(VIEW, start_ms + 5_000)
    await coordinated.replicate()
    assert (await beating).member_id == member_id
    await writing


async def test_a_log_that_refuses_is_asked_again_more_and_more_rarely(coordinated):
    """Each attempt is a rebalance, and the log refuses while too few replicas are in sync."""
    _, start_ms = await joined(coordinated)
    await coordinated.coordinate(1, isr=(LOCAL,), follower_keeps_up=False)
    await coordinated.until(lambda: coordinated.driver._active is not None)
    attempts = []
    append = coordinated.partition.append

    def counted(*arguments, **options):
        attempts.append(arguments)
        return append(*arguments, **options)

    coordinated.partition.append = counted
    for now_ms in range(start_ms + 3_000, start_ms + 13_000, 100):
        coordinated.driver.tick(VIEW, now_ms)
    assert 4 <= len(attempts) <= 8
    assert list(coordinated.driver._active.speculative_image.groups["g"].members)
    await coordinated.coordinate(2, follower_keeps_up=True)


async def test_a_load_that_failed_is_tried_again(coordinated, monkeypatch):
    monkeypatch.setattr(coordinator_driver, "FIRST_LOAD_RETRY_MS", 5)
    await coordinated.coordinate(0)
    await coordinated.executed(commit(1))
    await coordinated.partition.become_follower(state(OTHER, 1))
    log = coordinated.partition.log
    read, failures = log.read, iter((StorageError("not now"), StorageError("nor now")))

    async def fails_twice(*arguments, **options):
        failure = next(failures, None)
        if failure is not None:
            raise failure
        return await read(*arguments, **options)

    monkeypatch.setattr(log, "read", fails_twice)
    await coordinated.coordinate(2)
    assert coordinated.driver._failure is None
    assert await coordinated.offset() == 1
