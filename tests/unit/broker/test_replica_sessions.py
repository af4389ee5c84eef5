"""The leader's end of fetch sessions, on real logs: what is told, when, and what it learns."""

import asyncio
from dataclasses import replace
from random import Random

import pytest

from ottla_broker.drivers.clock import monotonic_ms
from ottla_broker.drivers.metadata import MetadataCache
from ottla_broker.drivers.peer_messages import PartitionFetch, ReplicaFetchRequest
from ottla_broker.drivers.purgatory import Purgatory
from ottla_broker.drivers.replica_copies import ReplicaCopies
from ottla_broker.services.replica_sessions import SessionRead
from ottla_broker.services.replication import ReplicationService
from ottla_cluster.controller.image import MetadataImage
from ottla_cluster.replication.fetch_session import FIRST_EPOCH, NO_SESSION, NO_SESSION_EPOCH
from ottla_cluster.replication.leader import UNKNOWN_LOG_END_OFFSET
from ottla_protocol.errors import (
    FetchSessionIdNotFoundError,
    InvalidFetchSessionEpochError,
    LeaderNotAvailableError,
    StaleBrokerEpochError,
    UnknownTopicIdError,
)
from tests.unit.awaiting import until
from tests.unit.broker.test_partition import BROKER_EPOCHS, LOCAL, OTHER, Hosted, state

TOPIC_ID = "t" * 32
LONG_MS = 5_000


class Replicas:
    """The one replica there is, and the lease."""

    def __init__(self, hosted):
        self.hosted = hosted
        self.partitions = {(TOPIC_ID, 0): hosted.partition}

    def by_topic_id(self, topic_id, partition):
        if (topic_id, partition) != (TOPIC_ID, 0):
            raise UnknownTopicIdError("another")
        return self.hosted.partition

    def require_lease(self):
        if not self.hosted.leased:
            raise LeaderNotAvailableError("not confirmed")


class Leader:
    """A leader with one partition, and the follower's half of a session with it."""

    def __init__(self, hosted):
        self.hosted = hosted
        self.metadata = MetadataCache(MetadataImage())
        replicas = Replicas(hosted)
        self.service = ReplicationService(
            replicas, Purgatory(8), ReplicaCopies(self.metadata, replicas), Random(1)
        )
        self.session_id, self.epoch = NO_SESSION, FIRST_EPOCH

    async def fetch(self, *positions, max_wait_ms=0, forgotten=(), leader_epoch=0, **changes):
        """Offsets to fetch from; none of them for a fetch that names nothing."""
        request = {
            "replica_id": OTHER,
            "broker_epoch": BROKER_EPOCHS[OTHER],
            "session_id": self.session_id,
            "session_epoch": self.epoch,
        } | changes
        self.session_id, results = await self.service.fetch(
            ReplicaFetchRequest(
                max_wait_ms=max_wait_ms,
                min_bytes=1,
                max_bytes=1 << 20,
                positions=[
                    PartitionFetch(TOPIC_ID, 0, leader_epoch, offset, 0 if offset else -1, 1 << 20)
                    for offset in positions
                ],
                forgotten=list(forgotten),
                **request,
            )
        )
        self.epoch += 1
        return results

    def progress(self):
        self.hosted.partition.tick(BROKER_EPOCHS, ())
        return self.hosted.partition.leader._followers[OTHER]


@pytest.fixture
async def leader(tmp_path):
    hosted = await Hosted().open(tmp_path)
    await hosted.lead(0)
    yield Leader(hosted)
    await hosted.partition.close()


async def test_only_news_are_told(leader):
    [told] = await leader.fetch(0)
    assert (told.error_code, told.high_watermark) == (None, 0)
    assert await leader.fetch() == []
    leader.hosted.append()
    await leader.hosted.partition.log.wait_durable(1)
    [told] = await leader.fetch()
    assert len(told.batches) == 1
    # What the follower could not take it gets again.
    [told] = await leader.fetch()
    assert len(told.batches) == 1
    # It acknowledges: the high watermark moves, and is told with the answer to that.
    [told] = await leader.fetch(1)
    assert (told.high_watermark, list(told.batches)) == (1, [])
    assert await leader.fetch() == []


async def test_a_replica_that_is_assigned_anew_says_again_what_it_has(leader):
    """Its broker may have heard of both at once, and so have changed nothing; or have lost all."""
    await leader.fetch(0)
    partition = leader.hosted.partition
    fetching = asyncio.create_task(leader.fetch(max_wait_ms=LONG_MS))
    await until(lambda: leader.service._purgatory.parked == 1)
    for replicas in ((LOCAL,), (LOCAL, OTHER)):
        again = replace(
            partition.state,
            replicas=replicas,
            isr=(LOCAL,),
            partition_epoch=partition.state.partition_epoch + 1,
        )
        await partition.become_leader(
            again, min_insync_replicas=1, eligible=BROKER_EPOCHS, draining=()
        )
    [told] = await asyncio.wait_for(fetching, LONG_MS)
    assert told.error_code == "NOT_LEADER_OR_FOLLOWER"
    assert leader.progress().log_end_offset == UNKNOWN_LOG_END_OFFSET
    assert not leader.hosted.proposals
    [told] = await leader.fetch(0)
    assert told.error_code is None
    partition.tick(BROKER_EPOCHS, ())
    [proposal] = leader.hosted.proposals
    assert [member.replica_id for member in proposal.isr] == [LOCAL, OTHER]


async def test_an_append_wakes_a_fetch_that_names_nothing(leader):
    await leader.fetch(0)
    fetching = asyncio.create_task(leader.fetch(max_wait_ms=LONG_MS))
    await until(lambda: leader.service._purgatory.parked == 1)
    leader.hosted.append()
    [told] = await asyncio.wait_for(fetching, LONG_MS)
    assert len(told.batches) == 1


async def test_a_high_watermark_that_moves_wakes_nobody_and_is_told_at_the_end(leader):
    await leader.fetch(0)
    session = leader.service._open[leader.session_id]
    session.changed.clear()
    leader.hosted.partition.news_watchers.wake()
    assert not session.changed.is_set()
    leader.hosted.partition.high_watermark = 0
    session.session.positions[TOPIC_ID, 0].told = (-1, 0)
    [told] = await leader.fetch(max_wait_ms=50)
    assert told.high_watermark == 0


async def test_a_fetch_that_names_nothing_keeps_the_follower_in_sync(leader):
    await leader.fetch(0)
    first_ms = leader.progress().last_caught_up_ms
    await until(lambda: monotonic_ms() > first_ms + 5)
    await leader.fetch()
    assert leader.progress().last_caught_up_ms > first_ms
    # Without a lease nothing is learned, and the session is as it was.
    heard_ms = leader.progress().last_fetch_ms
    leader.hosted.leased = False
    with pytest.raises(LeaderNotAvailableError):
        await leader.fetch()
    leader.hosted.leased = True
    assert leader.progress().last_fetch_ms == heard_ms
    # What is left out is spoken for no more.
    await leader.fetch(forgotten=[(TOPIC_ID, 0)])
    heard_ms = leader.progress().last_fetch_ms
    await until(lambda: monotonic_ms() > heard_ms + 5)
    await leader.fetch()
    assert leader.progress().last_fetch_ms == heard_ms
    assert leader.hosted.partition._sessions == {}


async def test_a_change_of_leader_is_told_at_once_and_ends_what_was_asked(leader):
    await leader.fetch(0)
    fetching = asyncio.create_task(leader.fetch(max_wait_ms=LONG_MS))
    await until(lambda: leader.service._purgatory.parked == 1)
    await leader.hosted.partition.become_follower(state(OTHER, 1))
    [told] = await asyncio.wait_for(fetching, LONG_MS)
    assert told.error_code == "FENCED_LEADER_EPOCH"
    assert await leader.fetch() == []
    assert leader.service._open[leader.session_id].session.positions == {}
    # It leads again, in another epoch: it has to be asked anew.
    await leader.hosted.lead(2)
    assert await leader.fetch() == []
    assert leader.hosted.partition._sessions == {}
    [told] = await leader.fetch(0, leader_epoch=2)
    assert told.error_code is None
    assert leader.progress().broker_epoch == BROKER_EPOCHS[OTHER]


async def test_a_follower_that_diverges_is_to_say_anew_what_it_wants(leader):
    leader.hosted.append()
    await leader.hosted.partition.log.wait_durable(1)
    [told] = await leader.fetch(7)
    assert told.diverging == (0, 1)
    assert await leader.fetch() == []
    [told] = await leader.fetch(0)
    assert len(told.batches) == 1


async def test_another_full_fetch_ends_the_session_and_the_fetch_that_waits_in_it(leader):
    await leader.fetch(0)
    former = leader.session_id, leader.epoch
    fetching = asyncio.create_task(leader.fetch(max_wait_ms=LONG_MS))
    await until(lambda: leader.service._purgatory.parked == 1)
    again = Leader(leader.hosted)
    again.service = leader.service
    await again.fetch(0)
    with pytest.raises(FetchSessionIdNotFoundError):
        await asyncio.wait_for(fetching, LONG_MS)
    leader.session_id, leader.epoch = former
    with pytest.raises(FetchSessionIdNotFoundError):
        await leader.fetch()
    again.epoch += 1
    with pytest.raises(InvalidFetchSessionEpochError):
        await again.fetch()
    with pytest.raises(StaleBrokerEpochError):
        await again.fetch(0, session_id=NO_SESSION, broker_epoch=BROKER_EPOCHS[OTHER] - 1)
    partition = leader.hosted.partition
    assert list(partition._sessions) == [OTHER]
    assert len(partition.append_watchers._events) == len(partition.news_watchers._events) == 1


async def test_a_follower_without_sessions_hears_everything_each_time(leader):
    for _ in range(2):
        session_id, results = await leader.service.fetch(
            ReplicaFetchRequest(
                OTHER,
                BROKER_EPOCHS[OTHER],
                0,
                1,
                1 << 20,
                [PartitionFetch(TOPIC_ID, 0, 0, 0, -1, 1 << 20)],
            )
        )
        assert session_id is None
        assert len(results) == 1
    assert ReplicaFetchRequest(OTHER, 1, 0, 1, 1, []).session_epoch == NO_SESSION_EPOCH
    assert leader.hosted.partition._sessions == {}


async def test_what_a_throttle_held_back_is_looked_at_by_the_next_fetch(leader, monkeypatch):
    leader.hosted.append()
    await leader.hosted.partition.log.wait_durable(1)
    await leader.fetch(1)
    read = leader.service._open[leader.session_id].session.positions[TOPIC_ID, 0]
    read.read.offset = 0

    class Exhausted:
        left_bytes = 0

        def allowance_bytes(self):
            return self.left_bytes

        def charge(self, size_bytes):
            pass

        sent = charge

    monkeypatch.setattr(SessionRead, "is_being_added", True)
    read.read.copy = Exhausted()
    leader.service._open[leader.session_id].urgent((TOPIC_ID, 0))
    assert await leader.fetch() == []
    read.read.copy.left_bytes = 1
    [told] = await leader.fetch()
    assert len(told.batches) == 1
    # Once it is in sync it has what everybody has.
    monkeypatch.setattr(SessionRead, "is_being_added", False)
    read.read.copy.left_bytes = 0
    [told] = await leader.fetch()
    assert len(told.batches) == 1
