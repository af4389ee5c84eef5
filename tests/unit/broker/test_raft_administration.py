"""Requests to the quorum that wait for a commit or for another leader."""

import asyncio

import pytest

from ottla_broker.drivers.raft_administration import RaftAdministration
from ottla_protocol.errors import LeadershipTransferFailedError
from tests.unit.raft.nodes import EXPIRED_MS, make_leader


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


async def test_requests_that_nobody_waits_for_are_forgotten():
    node, _ = make_leader()
    administration = administration_of(node)
    for _ in range(3):
        with pytest.raises(LeadershipTransferFailedError):
            await administration.transfer_leadership(2, timeout_ms=1)
    assert len(administration._transfers) == 1
