"""What the service of consumer instances asks of their coordinator."""

import asyncio
from types import SimpleNamespace

import pytest

from ottla_broker.services.rest_consumers import RestConsumerService
from ottla_cluster.controller.features import CONSUMER_INSTANCES
from ottla_cluster.groups.instance_commands import InstanceResponse, InstanceSettings
from ottla_cluster.groups.limits import MAX_OFFSETS_PER_COMMIT
from ottla_protocol.errors import UnsupportedFeatureLevelError

SETTINGS = InstanceSettings("json", "latest", False, -1, None, 60_000)
STATE = InstanceResponse("one", SETTINGS, ("t",), None, False, ("t",), 1, (), True, None)


class Calls:
    """A coordinator that does whatever it is asked."""

    def __init__(self):
        self.commands = []

    async def decide(self, _group, command, *, repeatable):
        assert repeatable
        self.commands.append(command)
        return STATE, 1


def service_with(calls, *, level=CONSUMER_INSTANCES.level):
    metadata = SimpleNamespace(image=SimpleNamespace(feature_level=level))
    return RestConsumerService(
        node_id=1, idle_timeout_ms=60_000, metadata=metadata, calls=calls, bounds=None, reads=None
    )


def test_more_partitions_than_one_command_moves_are_moved_by_several():
    """An instance that begins at the end of very many partitions pins all of them."""
    calls = Calls()
    service = service_with(calls)
    offsets = {("t", partition): 7 for partition in range(2 * MAX_OFFSETS_PER_COMMIT + 1)}
    asyncio.run(service.seek("g", "one", offsets))
    sizes = [len(command.offsets) for command in calls.commands]
    assert sizes == [MAX_OFFSETS_PER_COMMIT, MAX_OFFSETS_PER_COMMIT, 1]
    moved = {(each.topic, each.partition) for each in sum((c.offsets for c in calls.commands), ())}
    assert moved == offsets.keys()


def test_brokers_of_an_older_version_are_not_asked_for_instances():
    calls = Calls()
    service = service_with(calls, level=CONSUMER_INSTANCES.level - 1)
    for ask in (
        service.create("g", "one", SETTINGS),
        service.remove("g", "one"),
        service.describe("g", "one"),
        service.committed("g", "one", [("t", 0)]),
        service.commit("g", "one", None),
        service.read("g", "one", max_bytes=1, timeout_ms=0, render=None),
    ):
        with pytest.raises(UnsupportedFeatureLevelError):
            asyncio.run(ask)
    assert not calls.commands
