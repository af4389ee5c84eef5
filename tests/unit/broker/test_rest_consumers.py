"""What the service of consumer instances asks of their coordinator."""

import asyncio

from ottla_broker.services.rest_consumers import RestConsumerService
from ottla_cluster.groups.instance_commands import InstanceResponse, InstanceSettings
from ottla_cluster.groups.limits import MAX_OFFSETS_PER_COMMIT

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


def test_more_partitions_than_one_command_moves_are_moved_by_several():
    """An instance that begins at the end of very many partitions pins all of them."""
    calls = Calls()
    service = RestConsumerService(
        node_id=1, idle_timeout_ms=60_000, metadata=None, calls=calls, bounds=None, reads=None
    )
    offsets = {("t", partition): 7 for partition in range(2 * MAX_OFFSETS_PER_COMMIT + 1)}
    asyncio.run(service.seek("g", "one", offsets))
    sizes = [len(command.offsets) for command in calls.commands]
    assert sizes == [MAX_OFFSETS_PER_COMMIT, MAX_OFFSETS_PER_COMMIT, 1]
    moved = {(each.topic, each.partition) for each in sum((c.offsets for c in calls.commands), ())}
    assert moved == offsets.keys()
