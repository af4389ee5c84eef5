"""When a broker may act as a leader: its heartbeats and its lease."""

import asyncio
from dataclasses import replace

import msgspec
import pytest

from ottla_broker.drivers.lifecycle import BrokerLifecycle
from ottla_broker.drivers.metadata import MetadataCache
from ottla_cluster.controller.commands import (
    Heartbeat,
    HeartbeatResponse,
    RegisterBrokerResponse,
)
from ottla_protocol.errors import UnsupportedFeatureLevelError
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
        directory_id=lambda: "disk",
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


async def test_a_draining_broker_leads_nothing_until_it_knows_who_leads_now():
    """The next leader may acknowledge without it, from before its own metadata say so."""
    metadata = MetadataUnderTest()
    metadata.create()
    leader = metadata.partition().leader
    cache = MetadataCache(metadata.image)
    controller = Controller()
    lifecycle = lifecycle_of(controller, metadata.image, node_id=leader, metadata=cache)
    beating = asyncio.create_task(lifecycle._beat())
    await until(lambda: controller.beats)
    controller.beats[0][1].set_result(TAKEN)
    lifecycle.hurry()
    await beating
    assert lifecycle.lease_is_valid
    lifecycle._draining = True
    beating = asyncio.create_task(lifecycle._beat())
    await until(lambda: len(controller.beats) == 2)
    assert not lifecycle.lease_is_valid
    metadata.heartbeat(leader, draining=True)
    assert metadata.partition().leader != leader
    cache.publish(metadata.image)
    controller.beats[1][1].set_result(TAKEN)
    lifecycle.hurry()
    await beating
    assert lifecycle.lease_is_valid


class Registrar:
    """Refuses registrations that lack what the cluster's level wants."""

    def __init__(self, *wanted):
        self.wanted = wanted
        self.commands = []

    async def execute(self, command, **_):
        self.commands.append(command)
        if not all(msgspec.to_builtins(command).get(name) for name in self.wanted):
            raise UnsupportedFeatureLevelError("it has to tell more")
        return RegisterBrokerResponse(9)


def lifecycle_of(controller, image, *, node_id=1, metadata=None):
    return BrokerLifecycle(
        node_id=node_id,
        url="u",
        rack="",
        cluster_id="c",
        directory_id=lambda: "disk",
        session_timeout_ms=60_000,
        controller=controller,
        metadata=metadata or MetadataCache(image),
        replicas=lambda: Replicas(),
        is_full=lambda: False,
        gives_up=lambda: False,
        on_fatal=lambda error: pytest.fail(str(error)),
    )


@pytest.mark.parametrize("wanted", [(), ("latest_feature_level",), ("directory_id",)])
async def test_a_registration_tells_only_what_the_controller_asks_for(wanted):
    controller = Registrar(*wanted)
    lifecycle = lifecycle_of(controller, MetadataUnderTest(0).image)
    await lifecycle._register()
    assert lifecycle.broker_epoch == 9
    told = set(msgspec.to_builtins(controller.commands[-1]))
    assert ("latest_feature_level" in told) == bool(wanted)
    assert ("directory_id" in told) == (wanted == ("directory_id",))


async def test_a_registration_that_tells_all_and_is_refused_ends_the_process():
    with pytest.raises(UnsupportedFeatureLevelError):
        await lifecycle_of(Registrar("wheels"), MetadataUnderTest(0).image)._register()


async def test_a_broker_that_had_not_told_its_directory_does_when_the_level_rises():
    metadata = MetadataUnderTest(1)
    known = metadata.image
    untold = replace(known, brokers={1: replace(known.brokers[1], directory_id="")})
    for image, count in ((known, 0), (replace(untold, feature_level=3), 0), (untold, 1)):
        controller = Registrar()
        lifecycle = lifecycle_of(controller, image)
        lifecycle.broker_epoch = metadata.epoch(1)
        await lifecycle._tell_directory()
        assert [command.directory_id for command in controller.commands] == ["disk"] * count
