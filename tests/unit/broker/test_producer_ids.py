"""A broker's producer ids: fetched in blocks, in time, and never handed out twice."""

import asyncio

import pytest

from ottla_broker.services.producer_ids import PREFETCH_BELOW, ProducerIds
from ottla_cluster.controller.commands import AllocateProducerIdsResponse
from ottla_protocol.errors import (
    ControllerNotAvailableError,
    StaleBrokerEpochError,
    UnavailableError,
)

BLOCK = 1_000


class Controller:
    """Gives one block after another, while it is there and not held up."""

    def __init__(self):
        self.blocks = 0
        self.commands = []
        self.is_there = True
        self.goes_on = asyncio.Event()
        self.goes_on.set()

    async def decide(self, command, *, repeatable):
        assert repeatable
        self.commands.append(command)
        await self.goes_on.wait()
        if not self.is_there:
            raise ControllerNotAvailableError("nobody leads")
        self.blocks += 1
        return AllocateProducerIdsResponse((self.blocks - 1) * BLOCK, BLOCK)


@pytest.fixture
async def controller():
    return Controller()


@pytest.fixture
async def ids(controller):
    made = ProducerIds(node_id=1, commands=controller, broker_epoch=lambda: 7)
    yield made
    await made.stop()


async def test_ids_run_on_over_the_blocks(ids, controller):
    assert [await ids.next_id() for _ in range(3 * BLOCK)] == list(range(3 * BLOCK))
    assert {(command.node_id, command.broker_epoch) for command in controller.commands} == {(1, 7)}


async def test_callers_at_once_share_a_block_and_no_id(ids, controller):
    controller.goes_on.clear()
    callers = [asyncio.create_task(ids.next_id()) for _ in range(50)]
    await asyncio.sleep(0)
    controller.goes_on.set()
    assert sorted(await asyncio.gather(*callers)) == list(range(50))
    assert controller.blocks == 1


async def test_callers_at_once_may_need_more_than_a_block(ids):
    callers = [ids.next_id() for _ in range(2 * BLOCK + 1)]
    assert sorted(await asyncio.gather(*callers)) == list(range(2 * BLOCK + 1))


async def test_the_next_block_comes_before_the_present_one_is_empty(ids, controller):
    taken = [await ids.next_id() for _ in range(BLOCK - PREFETCH_BELOW + 1)]
    assert len(controller.commands) == 1
    controller.goes_on.clear()
    taken += [await ids.next_id() for _ in range(PREFETCH_BELOW - 1)]
    await asyncio.sleep(0)
    assert len(controller.commands) == 2
    assert taken == list(range(BLOCK))
    controller.goes_on.set()
    assert await ids.next_id() == BLOCK


async def test_a_failed_fetch_is_told_to_who_waits_and_made_up_for(ids, controller):
    controller.is_there = False
    answers = await asyncio.gather(ids.next_id(), ids.next_id(), return_exceptions=True)
    assert [type(answer) for answer in answers] == [ControllerNotAvailableError] * 2
    controller.is_there = True
    assert await ids.next_id() == 0


async def test_an_absence_of_the_controller_goes_unnoticed_while_ids_are_left(ids, controller):
    await ids.next_id()
    controller.is_there = False
    assert [await ids.next_id() for _ in range(BLOCK - 1)] == list(range(1, BLOCK))
    with pytest.raises(ControllerNotAvailableError):
        await ids.next_id()


async def test_a_caller_that_gives_up_does_not_end_the_others_fetch(ids, controller):
    controller.goes_on.clear()
    impatient, patient = (asyncio.create_task(ids.next_id()) for _ in range(2))
    await asyncio.sleep(0)
    impatient.cancel()
    await asyncio.sleep(0)
    controller.goes_on.set()
    assert await patient == 0


async def test_a_broker_that_is_not_registered_asks_nobody(controller):
    ids = ProducerIds(node_id=1, commands=controller, broker_epoch=lambda: -1)
    with pytest.raises(UnavailableError, match="registered"):
        await ids.next_id()
    assert controller.commands == []


async def test_a_broker_that_was_replaced_sends_its_clients_elsewhere():
    class Replaced:
        async def decide(self, command, *, repeatable):
            raise StaleBrokerEpochError("Broker 1 has the epoch 8, not 7.")

    ids = ProducerIds(node_id=1, commands=Replaced(), broker_epoch=lambda: 7)
    with pytest.raises(UnavailableError) as refused:
        await ids.next_id()
    assert refused.value.retriable
