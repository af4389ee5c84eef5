"""Drains and reassignments are told as they are now, or not at all."""

import asyncio
from types import SimpleNamespace

import pytest

from ottla_broker.drivers.clock import monotonic_ms
from ottla_broker.drivers.metadata import MetadataCache
from ottla_broker.services import controller_commands
from ottla_broker.services.broker_drains import MAX_BLOCKED_SHOWN, BrokerDrainService
from ottla_broker.services.controller_commands import ControllerCommands
from ottla_broker.services.reassignments import ReassignmentService
from ottla_cluster.controller.commands import (
    AdvanceDrains,
    AlterReassignments,
    DrainBroker,
    Reassignment,
)
from ottla_protocol.errors import ControllerNotAvailableError, NotFoundError, Outcome
from ottla_protocol.models import ElectionRequest
from tests.unit.controller.metadata_under_test import MetadataUnderTest


class Broker:
    """A broker whose view is as old as its last `catch_up`, and the cluster that it asks."""

    def __init__(self, broker_count=4):
        self.cluster = MetadataUnderTest(broker_count)
        self.cluster.create(partitions=4)
        self.metadata = MetadataCache(self.cluster.image)
        self.silent_for = 0
        self.commands = ControllerCommands(metadata=self.metadata, controller=self)
        self.drains = BrokerDrainService(metadata=self.metadata, commands=self.commands)
        self.reassignments = ReassignmentService(
            node_id=9,
            metadata=self.metadata,
            commands=self.commands,
            copies=None,
            peers=SimpleNamespace(call=self._copies),
        )

    async def _copies(self, *_, **__):
        return SimpleNamespace(copies=[])

    async def execute(self, command, **_):
        return self.cluster.apply(command)

    async def catch_up(self):
        await asyncio.sleep(0)
        if self.silent_for > 0:
            self.silent_for -= 1
            return False
        if self.cluster.image is not self.metadata.image:
            self.metadata.publish(self.cluster.image)
        return True

    def cut_off(self, monkeypatch):
        monkeypatch.setattr(controller_commands, "CATCH_UP_PATIENCE_MS", 150)
        self.silent_for = 1_000_000


@pytest.fixture
def broker(monkeypatch):
    monkeypatch.setattr(controller_commands, "RETRY_INTERVAL_MS", 1)
    return Broker()


async def test_a_drain_that_has_begun_elsewhere_is_told(broker):
    broker.cluster.apply(DrainBroker(3))
    assert (await broker.drains.progress(3)).state == "draining"


async def test_a_drain_is_told_as_begun_and_as_called_off(broker):
    broker.silent_for = 3
    assert (await broker.drains.begin(3)).state == "draining"
    broker.silent_for = 3
    assert (await broker.drains.cancel(3)).state == "none"


async def test_reassignments_that_have_begun_elsewhere_are_listed(broker):
    partition = broker.cluster.partition()
    goal = tuple(n for n in (1, 2, 3, 4) if n != partition.replicas[0])
    broker.cluster.apply(AlterReassignments((Reassignment("orders", 0, goal),)))
    broker.silent_for = 3
    (told,) = (await broker.reassignments.reassignments()).reassignments
    assert (told.topic, told.partition) == ("orders", 0)


async def test_a_broker_that_is_cut_off_says_so_and_not_that_there_is_nothing(broker, monkeypatch):
    broker.cut_off(monkeypatch)
    begun_ms = monotonic_ms()
    for asked in (broker.drains.progress(3), broker.reassignments.reassignments()):
        with pytest.raises(ControllerNotAvailableError) as caught:
            await asked
        assert caught.value.retriable
        assert caught.value.outcome is None
    assert monotonic_ms() - begun_ms >= 300, "an election is waited for"


async def test_what_was_decided_and_is_not_seen_may_be_asked_again(broker, monkeypatch):
    broker.cut_off(monkeypatch)
    with pytest.raises(ControllerNotAvailableError) as caught:
        await broker.drains.begin(3)
    assert caught.value.outcome is Outcome.UNKNOWN
    assert 3 in broker.cluster.image.drains
    broker.silent_for = 0
    assert (await broker.drains.begin(3)).state == "draining"


async def test_an_unclean_election_of_all_finds_what_has_just_lost_its_leader(broker):
    broker.cluster.create("risky", replication_factor=2, unclean_leader_election_enable=True)
    leader, other = broker.cluster.partition("risky").replicas
    broker.cluster.set_isr([leader], name="risky")
    broker.cluster.fence(leader)
    (result,) = (await broker.reassignments.elect(ElectionRequest(type="unclean"))).results
    assert (result.topic, result.leader, result.elected) == ("risky", other, True)


async def test_what_waits_is_named_a_few_at_a_time(broker):
    broker.cluster.create("alone", partitions=60, replication_factor=1)
    broker.cluster.fence(3)
    broker.cluster.apply(DrainBroker(3))
    for _ in range(3):
        broker.cluster.apply(AdvanceDrains())
    progress = await broker.drains.progress(3)
    assert len(progress.blocked) == MAX_BLOCKED_SHOWN
    assert {each.topic for each in progress.blocked} == {"alone"}
    assert "nobody leads it" in progress.blocked[0].detail


async def test_a_broker_that_has_just_registered_is_known(broker):
    with pytest.raises(NotFoundError):
        await broker.drains.progress(5)
    broker.cluster.register(5)
    assert (await broker.drains.progress(5)).state == "none"
