"""Requests to the quorum that wait for a commit or for another leader."""

import asyncio

import pytest

from ottla_broker.drivers.raft_administration import RaftAdministration
from ottla_protocol.errors import LeadershipTransferFailedError
from tests.unit.raft.nodes import EXPIRED_MS, accepted, make_leader


def administration_of(node):
    """Whose requests the node takes at once, at the time at which it began to lead."""

    def put(request):
        act = request.act
        request.act = lambda to, _: act(to, EXPIRED_MS)
        asyncio.get_running_loop().call_soon(lambda: made.take(request, node))

    made = RaftAdministration(put)
    return made


async def test_who_leads_already_need_not_take_over():
    node, _ = make_leader()
    await administration_of(node).transfer_leadership(1, timeout_ms=5_000)
    assert node.role == "leader"


@pytest.mark.parametrize(("wanted", "taken_by"), [(2, 2), (None, 2), (None, 3)])
async def test_a_transfer_is_over_when_the_one_that_was_meant_leads(wanted, taken_by):
    node, _ = make_leader()
    for peer in (2, 3):
        node.step(accepted(node, peer), EXPIRED_MS)
    administration = administration_of(node)
    transfer = asyncio.create_task(administration.transfer_leadership(wanted, timeout_ms=5_000))
    await asyncio.sleep(0.01)
    for leader_id in (1, None):
        administration.led_by(leader_id)
        await asyncio.sleep(0)
        assert not transfer.done()
    administration.led_by(taken_by)
    await transfer
    assert administration._transfers == []


async def test_a_transfer_to_which_another_election_came_first_has_failed():
    node, _ = make_leader()
    administration = administration_of(node)
    transfer = asyncio.create_task(administration.transfer_leadership(2, timeout_ms=5_000))
    await asyncio.sleep(0.01)
    administration.led_by(3)
    with pytest.raises(LeadershipTransferFailedError, match="node 3 took over, not node 2"):
        await transfer
    assert administration._transfers == []


async def test_requests_that_nobody_waits_for_are_forgotten():
    node, _ = make_leader()
    administration = administration_of(node)
    for _ in range(3):
        with pytest.raises(LeadershipTransferFailedError):
            await administration.transfer_leadership(2, timeout_ms=1)
    assert len(administration._transfers) == 1
