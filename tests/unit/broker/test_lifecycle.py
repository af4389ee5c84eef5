"""When a broker may act as a leader: its heartbeats and its lease."""

import asyncio

import pytest

from ottla_broker.drivers.lifecycle import BrokerLifecycle
from ottla_broker.drivers.metadata import MetadataCache
from ottla_cluster.controller.commands import Heartbeat, HeartbeatResponse
from tests.unit.awaiting import until
from tests.unit.controller.metadata_under_test import MetadataUnderTest

TAKEN = HeartbeatResponse(fenced=False, version=5, may_shut_down=False)


class Controller:
    """Answers heartbeats when the test says so."""

    def __init__(self):
        self.beats = []

    async def execute(self, command, *, timeout_ms):
        assert isinstance(command, Heartbeat)
        answer = asyncio.get_running_loop().create_future()
        self.beats.append((command, answer))
        return await answer


class Replicas:
    applied_version = 5

    async def wait_applied(self, _version):
        return


async def test_a_full_broker_leads_nothing_until_it_knows_what_became_of_it():
    """Another leads as soon as the controller has heard of it, and acknowledges without it."""
    is_full = False
    metadata = MetadataUnderTest()
    metadata.create()
    leader = metadata.partition().leader
    cache = MetadataCache(metadata.image)
    controller = Controller()
    lifecycle = BrokerLifecycle(
        node_id=leader,
        url="u",
        rack="",
        cluster_id="c",
        session_timeout_ms=60_000,
        controller=controller,
        metadata=cache,
        replicas=lambda: Replicas(),
        is_full=lambda: is_full,
        gives_up=lambda: False,
        on_fatal=lambda error: pytest.fail(str(error)),
    )

    async def beat():
        beating = asyncio.create_task(lifecycle._beat())
        count = len(controller.beats)
        await until(lambda: len(controller.beats) > count)
        return controller.beats[-1][0].is_full, lifecycle.lease_is_valid, beating

    async def answered(beating):
        controller.beats[-1][1].set_result(TAKEN)
        lifecycle.hurry()
        await beating

    _, _, beating = await beat()
    await answered(beating)
    assert lifecycle.lease_is_valid
    is_full = True
    said, was_valid, beating = await beat()
    assert (said, was_valid) == (True, False)
    metadata.heartbeat(leader, is_full=True)
    assert metadata.partition().leader != leader
    cache.publish(metadata.image)
    await answered(beating)
    assert lifecycle.lease_is_valid
    # There is nothing left to lose: whoever reads what it still has is not interrupted.
    said, was_valid, beating = await beat()
    assert (said, was_valid) == (True, True)
    await answered(beating)
