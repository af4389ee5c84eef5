"""What one poll tells the coordinator, and what it concludes, against a scripted coordinator."""

import asyncio
import gc
from types import SimpleNamespace

import pytest

from ottla_broker.drivers.peer_messages import PartitionBounds
from ottla_broker.drivers.purgatory import Purgatory
from ottla_broker.services.group_poll import GroupPollService
from ottla_broker.services.poll_acks import PollAck, decode_ack, encode_ack
from ottla_broker.services.poll_membership import PollMembership
from ottla_broker.services.poll_positions import PollPositions, mark_of
from ottla_cluster.controller.features import LATEST_FEATURE_LEVEL, TRANSACTIONS
from ottla_cluster.groups.commands import (
    AssignedTopic,
    CommitOffsets,
    CommitOffsetsResponse,
    CommittedPartition,
    FetchedOffset,
    FetchOffsets,
    FetchOffsetsResponse,
    Heartbeat,
    HeartbeatResponse,
    Join,
    JoinResponse,
)
from ottla_protocol.errors import (
    CoordinatorNotAvailableError,
    FencedMemberEpochError,
    InvalidRequestError,
    InvalidSessionTimeoutError,
    OttlaError,
    Outcome,
    OverloadedError,
    UnknownMemberIdError,
    UnstableOffsetCommitError,
)
from ottla_protocol.models import FetchedPartition
from ottla_protocol.models_poll import GroupPollRequest
from ottla_protocol.record_batch import patch_batch
from ottla_protocol.record_codec import RecordData, encode_batch

MEMBER = "m-1"
METADATA = SimpleNamespace(image=SimpleNamespace(feature_level=LATEST_FEATURE_LEVEL))
REQUEST = GroupPollRequest(topics=["t"])


def assigned(*numbers):
    return (AssignedTopic("t", "id", numbers),)


def joined(generation, *numbers):
    return JoinResponse(MEMBER, generation, assigned(*numbers), 30_000, 3_000)


def told(generation, *numbers):
    return HeartbeatResponse(MEMBER, generation, assigned(*numbers), 30_000, 3_000)


def no_news(generation):
    return HeartbeatResponse(MEMBER, generation, None, 30_000, 3_000)


class Coordinator:
    """Answers what it was told to, in order, and keeps what it was asked."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.asked = []

    async def decide(self, group, command, *, repeatable):
        assert group == "g"
        self.asked.append(command)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer, 1

    def of_type(self, kind):
        return [command for command in self.asked if isinstance(command, kind)]


def membership(*answers):
    coordinator = Coordinator(*answers)
    return PollMembership(coordinator, "g", MEMBER, REQUEST), coordinator


def owned(heartbeat):
    return {(each.topic, number) for each in heartbeat.owned for number in each.partitions}


class TestMembership:
    async def test_a_member_gives_up_what_was_taken_before_anything_else(self):
        member, coordinator = membership(joined(4, 0, 1), told(4, 1), no_news(4))
        await member.join()
        await member.settle()
        assert [owned(each) for each in coordinator.of_type(Heartbeat)] == [
            {("t", 0), ("t", 1)},
            {("t", 1)},
        ]
        assert member.owned == {("t", 1)}

    async def test_a_waiting_member_gives_up_at_once_what_is_taken(self):
        member, coordinator = membership(joined(4, 0, 1), told(4, 0), no_news(4))
        await member.join()
        assert await member.watch(60_000) is True
        parked, confirmation = coordinator.of_type(Heartbeat)
        assert 0 < parked.max_wait_ms <= 10_000
        assert (owned(confirmation), confirmation.max_wait_ms) == ({("t", 0)}, 0)

    async def test_partitions_of_another_topic_of_that_name_are_others(self):
        """It was deleted and made again: what is known of the former is nothing of the new one."""
        another = HeartbeatResponse(
            MEMBER, 5, (AssignedTopic("t", "another", (0,)),), 30_000, 3_000
        )
        member, _ = membership(joined(4, 0), another, no_news(5))
        await member.join()
        assert member.topic_ids == {"t": "id"}
        assert await member.watch(60_000) is True
        assert member.topic_ids == {"t": "another"}
        assert not member.kept(("t", 0))
        assert member.take_lost() == {("t", 0)}

    async def test_what_came_back_was_lost_all_the_same(self):
        member, _ = membership(joined(4, 0, 1), told(4, 0), told(5, 0, 1), no_news(5))
        await member.join()
        await member.settle()
        assert member.owned == {("t", 0), ("t", 1)}
        assert member.take_lost() == {("t", 1)}
        assert member.take_lost() == frozenset()

    async def test_a_coordinator_that_is_away_is_waited_for(self):
        away = CoordinatorNotAvailableError("away")
        member, _ = membership(joined(4, 0), away, told(5, 0, 1), no_news(5))
        await member.join()
        member._heartbeat_interval_ms = 1
        assert await member.watch(60_000) is True

    async def test_a_session_that_may_have_ended_serves_nothing(self, monkeypatch):
        now_ms = 1_000
        monkeypatch.setattr("ottla_broker.services.poll_membership.monotonic_ms", lambda: now_ms)
        member, _ = membership(joined(4, 0))
        await member.join()
        now_ms += 29_999
        member.require_session()
        now_ms += 1
        with pytest.raises(UnknownMemberIdError):
            member.require_session()

    async def test_only_a_member_that_was_not_there_is_new(self):
        unnamed, coordinator = membership()
        await unnamed.begin(was_named=False)
        assert (unnamed.is_new, coordinator.asked) == (True, [])
        known, _ = membership(told(4, 0))
        await known.begin(was_named=True)
        assert not known.is_new
        expired, _ = membership(UnknownMemberIdError("gone"))
        await expired.begin(was_named=True)
        assert expired.is_new

    @pytest.mark.parametrize(
        ("answer", "expected"),
        [
            (joined(1), True),
            (CoordinatorNotAvailableError("lost", outcome=Outcome.UNKNOWN), True),
            (CoordinatorNotAvailableError("none", outcome=Outcome.NOT_APPLIED), False),
            (InvalidSessionTimeoutError("short"), False),
        ],
    )
    async def test_a_refused_join_has_nothing_to_leave(self, answer, expected):
        member, _ = membership(answer)
        assert await member.may_have_joined() is False
        await asyncio.gather(member.join(), return_exceptions=True)
        assert await member.may_have_joined() is expected

    async def test_a_join_goes_on_when_its_client_goes_away(self):
        member, coordinator = membership()
        answer = asyncio.get_running_loop().create_future()

        async def decide(*_, **__):
            return await answer, 1

        coordinator.decide = decide
        joining = asyncio.create_task(member.join())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        joining.cancel()
        await asyncio.gather(joining, return_exceptions=True)
        answer.set_result(joined(1))
        assert await member.may_have_joined() is True


def fetched(**offsets):
    return FetchOffsetsResponse(
        tuple(
            FetchedOffset("t", int(name[1:]), offset, metadata=mark)
            for name, (offset, mark) in offsets.items()
        )
    )


class TestAcks:
    MINE = mark_of(MEMBER)
    THEIRS = mark_of("m-2")

    async def committed(self, found, **offsets):
        """The offsets that an ack has committed after the coordinator told `found`."""
        coordinator = Coordinator(found, CommitOffsetsResponse(()))
        positions = PollPositions(calls=coordinator, bounds=None, metadata=METADATA)
        ack = PollAck("g", MEMBER, 4, {("t", int(n[1:])): o for n, o in offsets.items()})
        await positions.commit_ack(ack)
        assert len(coordinator.of_type(FetchOffsets)) == 1
        commits = coordinator.of_type(CommitOffsets)
        assert all((each.member_id, each.generation) == (MEMBER, 4) for each in commits)
        assert all(entry.metadata == self.MINE for each in commits for entry in each.offsets)
        assert all(each.only_forward for each in commits), "another poll may be further"
        return {entry.partition: entry.offset for each in commits for entry in each.offsets}

    async def test_what_is_new_is_committed(self):
        found = fetched(p0=(None, ""), p1=(3, self.MINE))
        assert await self.committed(found, p0=5, p1=8) == {0: 5, 1: 8}

    async def test_what_this_member_has_committed_already_is_done(self):
        assert await self.committed(fetched(p0=(5, self.MINE)), p0=5) == {}
        assert await self.committed(fetched(p0=(9, self.MINE)), p0=5) == {}

    @pytest.mark.parametrize("mark", [THEIRS, ""])
    async def test_what_others_committed_is_left_to_the_fence(self, mark):
        assert await self.committed(fetched(p0=(9, mark)), p0=5) == {0: 5}

    async def test_a_member_that_is_gone_is_fenced(self):
        coordinator = Coordinator(fetched(p0=(None, "")), UnknownMemberIdError("gone"))
        positions = PollPositions(calls=coordinator, bounds=None, metadata=METADATA)
        with pytest.raises(FencedMemberEpochError) as refused:
            await positions.commit_ack(PollAck("g", MEMBER, 4, {("t", 0): 5}))
        assert refused.value.outcome is Outcome.NOT_APPLIED


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ((CoordinatorNotAvailableError("away", outcome=Outcome.NOT_APPLIED),), Outcome.NOT_APPLIED),
        (
            (
                fetched(p0=(None, "")),
                CommitOffsetsResponse((CommittedPartition("t", 0, 5),)),
                InvalidSessionTimeoutError("short", outcome=Outcome.NOT_APPLIED),
            ),
            Outcome.UNKNOWN,
        ),
    ],
    ids=["before the commit", "after the commit"],
)
async def test_an_error_after_the_ack_was_committed_does_not_deny_that(answers, expected):
    coordinator = Coordinator(*answers)
    polls = GroupPollService(
        calls=coordinator,
        reads=None,
        positions=PollPositions(calls=coordinator, bounds=None, metadata=METADATA),
        purgatory=Purgatory(10),
    )
    ack = encode_ack(PollAck("g", MEMBER, 4, {("t", 0): 5}))
    with pytest.raises(OttlaError) as refused:
        await polls.poll("g", GroupPollRequest(topics=["t"], ack=ack))
    assert refused.value.outcome is expected
    assert coordinator.answers == []


@pytest.mark.parametrize(
    "request_",
    [GroupPollRequest(), GroupPollRequest(topics=["t"], ack="AAAA")],
    ids=["no topics", "no ack of a poll"],
)
async def test_a_poll_that_cannot_be_changes_nothing_and_says_so(request_):
    polls = GroupPollService(calls=None, reads=None, positions=None, purgatory=Purgatory(10))
    with pytest.raises(InvalidRequestError) as refused:
        await polls.poll("g", request_)
    assert refused.value.outcome is Outcome.NOT_APPLIED


class Bounds:
    """Leaders whose partitions go from 20 to 80."""

    async def look_up(self, names):
        return {name: PartitionBounds(name.topic_id, name.partition, 20, 80) for name in names}


class TestResets:
    """Where a poll begins where the group has no valid offset."""

    async def placed(self, reset, *, refused, stands=None):
        """Where it reads, and the commit of that; `stands` is what another poll committed."""
        member, coordinator = membership(joined(4, 0))
        await member.join()
        committed = CommitOffsetsResponse((CommittedPartition("t", 0, stands),))
        coordinator.answers = [fetched(p0=(None, "")), committed]
        positions = PollPositions(calls=coordinator, bounds=Bounds(), metadata=METADATA)
        where = {}
        if refused is None:
            await positions.locate(member, reset, where)
        else:
            where[("t", 0)] = refused
            await positions.reset(member, reset, where, [("t", 0)])
            coordinator.answers = coordinator.answers[1:]
        return where[("t", 0)], coordinator.of_type(CommitOffsets)

    async def test_another_poll_of_the_member_may_have_begun_at_the_end_before(self):
        where, [commit] = await self.placed("latest", refused=None, stands=83)
        assert (commit.offsets[0].offset, commit.only_forward) == (80, True)
        assert where == 83

    async def test_nothing_is_committed_where_the_start_is_taken_again_anyway(self):
        assert await self.placed("earliest", refused=None) == (20, [])


async def test_a_join_carries_the_subscription_and_the_session():
    member, coordinator = membership(joined(1))
    await member.join()
    [join] = coordinator.of_type(Join)
    assert (join.topics, join.member_id, join.session_timeout_ms) == (("t",), MEMBER, 30_000)


class Reads:
    """Reads of one record at offset 5, at the same moment as the coordinator's news."""

    def __init__(self, coordinator, news):
        self.asked = []
        self._coordinator = coordinator
        self._news = news
        self._moment = asyncio.Event()
        self._decide = coordinator.decide
        coordinator.decide = self.decide

    async def decide(self, group, command, *, repeatable):
        if isinstance(command, Heartbeat) and command.max_wait_ms:
            await self._moment.wait()
            return self._news, 1
        return await self._decide(group, command, repeatable=repeatable)

    async def read(self, positions, *, max_wait_ms, topic_ids, max_bytes, isolation):
        assert topic_ids == {"t": "id"}
        self.asked.append(dict(positions))
        if max_wait_ms:
            asyncio.get_running_loop().call_soon(self._moment.set)
            await self._moment.wait()
        elif len(self.asked) == 1:
            return {}
        batch = encode_batch([RecordData(1, None, b"v")])
        patch_batch(batch, base_offset=5, leader_epoch=0)
        return {("t", 0): FetchedPartition("t", 0, [memoryview(batch)], 6, 0)}


async def test_records_that_come_with_news_are_read_again_and_not_passed_over():
    coordinator = Coordinator(
        joined(4, 0),
        no_news(4),  # The member settles.
        fetched(p0=(5, "")),
        no_news(5),  # It confirms the news.
        fetched(p1=(0, "")),
    )
    reads = Reads(coordinator, told(5, 0, 1))
    polls = GroupPollService(
        calls=coordinator,
        reads=reads,
        positions=PollPositions(calls=coordinator, bounds=None, metadata=METADATA),
        purgatory=Purgatory(10),
    )
    polled = await polls.poll("g", GroupPollRequest(topics=["t"], max_wait_ms=10_000))
    assert reads.asked == [
        {("t", 0): 5},
        {("t", 0): 5},
        {("t", 0): 5, ("t", 1): 0},
    ]
    assert [(each.key, each.next_offset) for each in polled.partitions] == [(("t", 0), 6)]
    assert polled.generation == 5


async def test_records_of_what_is_being_given_up_are_kept_back():
    """They come after the news, while the member confirms that it is done with the partition."""
    coordinator = Coordinator(joined(4, 0, 1), no_news(4), fetched(p0=(5, ""), p1=(5, "")))
    told_news, confirmed = asyncio.Event(), asyncio.Event()
    asked = coordinator.decide

    async def decide(group, command, *, repeatable):
        if isinstance(command, Heartbeat) and command.max_wait_ms:
            return told(4, 1), 1
        if isinstance(command, Heartbeat) and owned(command) == {("t", 1)}:
            told_news.set()
            await confirmed.wait()
            return no_news(4), 1
        return await asked(group, command, repeatable=repeatable)

    class Slow:
        asked = 0

        async def read(self, positions, *, max_wait_ms, topic_ids, max_bytes, isolation):
            assert topic_ids == {"t": "id"}
            self.asked += 1
            if self.asked == 1:
                return {}
            if self.asked == 2:
                await told_news.wait()
                asyncio.get_running_loop().call_later(0.02, confirmed.set)
            batch = encode_batch([RecordData(1, None, b"v")])
            patch_batch(batch, base_offset=5, leader_epoch=0)
            return {key: FetchedPartition(*key, [memoryview(batch)], 6, 0) for key in positions}

    coordinator.decide = decide
    reads = Slow()
    polls = GroupPollService(
        calls=coordinator,
        reads=reads,
        positions=PollPositions(calls=coordinator, bounds=None, metadata=METADATA),
        purgatory=Purgatory(10),
    )
    polled = await polls.poll("g", GroupPollRequest(topics=["t"], max_wait_ms=10_000))
    assert [each.key for each in polled.partitions] == [("t", 1)]
    assert reads.asked == 3, "it reads again once that is confirmed, and no sooner"


async def test_a_poll_ends_in_time_though_it_cannot_confirm_what_was_taken():
    coordinator = Coordinator(joined(4, 0), no_news(4), fetched(p0=(5, "")))
    asked = coordinator.decide

    async def decide(group, command, *, repeatable):
        if isinstance(command, Heartbeat) and command.max_wait_ms:
            return told(4), 1
        if isinstance(command, Heartbeat) and not owned(command):
            await asyncio.Event().wait()
        return await asked(group, command, repeatable=repeatable)

    class OnceEmpty:
        asked = 0

        async def read(self, positions, *, max_wait_ms, topic_ids, max_bytes, isolation):
            assert topic_ids == {"t": "id"}
            self.asked += 1
            if self.asked == 1:
                return {}
            await asyncio.sleep(0.01)
            batch = encode_batch([RecordData(1, None, b"v")])
            patch_batch(batch, base_offset=5, leader_epoch=0)
            return {key: FetchedPartition(*key, [memoryview(batch)], 6, 0) for key in positions}

    coordinator.decide = decide
    reads = OnceEmpty()
    polls = GroupPollService(
        calls=coordinator,
        reads=reads,
        positions=PollPositions(calls=coordinator, bounds=None, metadata=METADATA),
        purgatory=Purgatory(10),
    )
    async with asyncio.timeout(30):
        polled = await polls.poll("g", GroupPollRequest(topics=["t"], max_wait_ms=400))
    assert polled.partitions == []
    assert 2 <= reads.asked <= 10, "it is paced"


async def test_who_waits_for_partitions_needs_a_place_as_who_waits_for_records():
    coordinator = Coordinator(joined(4), no_news(4))
    asked = coordinator.decide

    async def decide(group, command, *, repeatable):
        if isinstance(command, Heartbeat) and command.max_wait_ms:
            await asyncio.Event().wait()
        return await asked(group, command, repeatable=repeatable)

    coordinator.decide = decide
    purgatory = Purgatory(1)
    polls = GroupPollService(
        calls=coordinator,
        reads=None,
        positions=PollPositions(calls=coordinator, bounds=None, metadata=METADATA),
        purgatory=purgatory,
    )
    with purgatory.parked_request(), pytest.raises(OverloadedError, match="max_parked_requests"):
        await polls.poll("g", GroupPollRequest(topics=["t"], max_wait_ms=10_000))
    await polls.stop()


async def test_a_join_that_fails_unheard_is_no_defect():
    member, coordinator = membership()
    answer = asyncio.get_running_loop().create_future()
    reported = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))

    async def decide(*_, **__):
        return await answer, 1

    coordinator.decide = decide
    joining = asyncio.create_task(member.join())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    joining.cancel()
    await asyncio.gather(joining, return_exceptions=True)
    answer.set_exception(CoordinatorNotAvailableError("away"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    del member, joining
    gc.collect()
    assert reported == []


class Transactional:
    """A partition from 5 on with an aborted batch, its marker, and then what is appended."""

    def __init__(self):
        self.end = 7
        self.records = {}
        self.isolations = set()

    def append(self):
        batch = encode_batch([RecordData(1, None, b"v")])
        patch_batch(batch, base_offset=self.end, leader_epoch=0)
        self.records[self.end] = memoryview(batch)
        self.end += 1

    async def read(self, positions, *, max_wait_ms, topic_ids, max_bytes, isolation):
        self.isolations.add(isolation)
        if max_wait_ms and positions == {("t", 0): self.end}:
            await asyncio.sleep(max_wait_ms / 1000)
        [(key, offset)] = positions.items()
        batches = [batch for base, batch in self.records.items() if base >= offset]
        return {key: FetchedPartition(*key, batches, self.end, 0, next_offset=self.end)}


def committed_polls(coordinator, reads):
    return GroupPollService(
        calls=coordinator,
        reads=reads,
        positions=PollPositions(calls=coordinator, bounds=Bounds(), metadata=METADATA),
        purgatory=Purgatory(10),
    )


def committed_request(max_wait_ms):
    return GroupPollRequest(topics=["t"], max_wait_ms=max_wait_ms, isolation="read_committed")


async def test_an_ack_covers_what_was_passed_over_though_there_are_no_records():
    """Or the next poll would look through it again, and the group never come to the end."""
    coordinator = Coordinator(joined(4, 0), no_news(4), fetched(p0=(5, "")))
    reads = Transactional()
    polled = await committed_polls(coordinator, reads).poll("g", committed_request(0))
    [found] = polled.partitions
    assert (found.key, list(found.records), found.next_offset) == (("t", 0), [], 7)
    assert decode_ack(polled.ack, group="g", member_id=None).offsets == {("t", 0): 7}
    assert reads.isolations == {"read_committed"}
    assert coordinator.of_type(FetchOffsets)[0].require_stable


async def test_records_behind_what_was_passed_over_are_told_once():
    coordinator = Coordinator(joined(4, 0), no_news(4), fetched(p0=(5, "")))
    reads = Transactional()
    reads.append()
    polled = await committed_polls(coordinator, reads).poll("g", committed_request(0))
    [found] = polled.partitions
    assert ([each.offset for each in found.records], found.next_offset) == ([7], 8)


async def test_where_there_is_nothing_at_all_there_is_no_ack():
    coordinator = Coordinator(joined(4, 0), no_news(4), fetched(p0=(7, "")))
    polled = await committed_polls(coordinator, Transactional()).poll("g", committed_request(0))
    assert (polled.partitions, polled.ack) == ([], None)


async def test_a_poll_waits_while_a_transaction_may_move_the_committed_offset():
    coordinator = Coordinator(
        joined(4, 0), no_news(4), UnstableOffsetCommitError("pending"), fetched(p0=(7, ""))
    )
    decide = coordinator.decide

    async def waiting(group, command, *, repeatable):
        if isinstance(command, Heartbeat) and command.max_wait_ms:
            await asyncio.Event().wait()
        return await decide(group, command, repeatable=repeatable)

    coordinator.decide = waiting
    reads = Transactional()
    reads.append()
    async with asyncio.timeout(5):
        polled = await committed_polls(coordinator, reads).poll("g", committed_request(60_000))
    assert [each.offset for found in polled.partitions for each in found.records] == [7]
    assert coordinator.answers == []


@pytest.mark.parametrize(
    ("isolation", "level", "expected"),
    [
        ("read_committed", TRANSACTIONS.level, True),
        # A broker of the version before does not know the field.
        ("read_committed", TRANSACTIONS.level - 1, False),
        ("read_uncommitted", TRANSACTIONS.level, False),
    ],
)
async def test_stable_offsets_are_asked_for_where_they_can_be(isolation, level, expected):
    coordinator = Coordinator(joined(4, 0), fetched(p0=(7, "")))
    request = GroupPollRequest(topics=["t"], isolation=isolation)
    member = PollMembership(coordinator, "g", MEMBER, request)
    await member.join()
    metadata = SimpleNamespace(image=SimpleNamespace(feature_level=level))
    positions = PollPositions(calls=coordinator, bounds=None, metadata=metadata)
    await positions.locate(member, "earliest", {})
    assert coordinator.of_type(FetchOffsets)[0].require_stable == expected
