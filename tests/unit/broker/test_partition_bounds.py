"""Where partitions begin and end is asked again while their leaders change."""

import asyncio
from types import SimpleNamespace

import pytest

from ottla_broker.drivers.clock import monotonic_ms
from ottla_broker.drivers.peer_messages import PartitionBounds, PartitionName
from ottla_broker.services.partition_bounds import PartitionBoundsService

TOPIC_ID = "0123456789abcdef0123456789abcdef"
HERE, MOVING = PartitionName(TOPIC_ID, 0), PartitionName(TOPIC_ID, 1)
GONE = PartitionName("f" * 32, 0)
LONG_MS = 60_000


class Metadata:
    """The first partition is led here, and the second by nobody until `elect`."""

    def __init__(self):
        self._changed = asyncio.Event()
        self._show(None)

    def _show(self, leader):
        partitions = (SimpleNamespace(leader=1), SimpleNamespace(leader=leader))
        topics = {TOPIC_ID: SimpleNamespace(partitions=partitions)}
        self.image = SimpleNamespace(topics=topics, brokers={})

    def elect(self):
        self._show(1)
        self._changed.set()

    async def wait_for_change(self, *, timeout_ms):
        del timeout_ms  # Only an election ends the wait, so a test that misses it does not end.
        await self._changed.wait()


class Service(PartitionBoundsService):
    """Notes who is asked what, and leads everything."""

    def __init__(self, metadata):
        super().__init__(node_id=1, metadata=metadata, replicas=None, peers=None)
        self.asked = []
        self.was_asked = asyncio.Event()

    def _note(self, names):
        self.asked.append(list(names))
        self.was_asked.set()

    async def _ask(self, leader, names):
        self._note(names)
        return [PartitionBounds(name.topic_id, name.partition, 2, 9) for name in names]

    async def _ask_timestamp(self, leader, lookup):
        self._note(lookup.partitions)
        return [
            SimpleNamespace(topic_id=TOPIC_ID, partition=p.partition, offset=7)
            for p in lookup.partitions
        ]


@pytest.fixture
def metadata():
    return Metadata()


@pytest.fixture
def service(metadata):
    return Service(metadata)


@pytest.mark.parametrize("look_up", ["bounds", "time"])
async def test_those_that_did_not_tell_are_asked_again_and_no_others(service, metadata, look_up):
    looking = asyncio.create_task(
        service.look_up([HERE, MOVING, GONE], wait_ms=LONG_MS)
        if look_up == "bounds"
        else service.look_up_timestamp([HERE, MOVING, GONE], 5, wait_ms=LONG_MS)
    )
    await service.was_asked.wait()
    assert not looking.done()
    metadata.elect()
    assert set(await looking) == {HERE, MOVING}
    assert service.asked == [[HERE], [MOVING]]


async def test_one_who_does_not_wait_is_told_what_is_known(service):
    assert set(await service.look_up([HERE, MOVING])) == {HERE}
    assert service.asked == [[HERE]]


async def test_what_does_not_exist_is_not_waited_for(service):
    assert set(await service.look_up([HERE, GONE], wait_ms=LONG_MS)) == {HERE}


async def test_the_wait_has_an_end(service, metadata, monkeypatch):
    waited_ms = []

    async def wait_for_change(*, timeout_ms):
        waited_ms.append(timeout_ms)
        await asyncio.sleep(timeout_ms / 1000)

    monkeypatch.setattr(metadata, "wait_for_change", wait_for_change)
    began_ms = monotonic_ms()
    assert set(await service.look_up([HERE, MOVING], wait_ms=70)) == {HERE}
    assert monotonic_ms() - began_ms >= 70
    assert max(waited_ms) == 50
