"""What a broker tells of the quorum's leader once it was asked for another one."""

from types import SimpleNamespace

import msgspec
import pytest

from ottla_broker.services.quorum import QuorumService
from ottla_protocol.errors import LeadershipTransferFailedError, Outcome
from ottla_protocol.models_quorum import QuorumDescription, TransferRequest


def service_led_by(former, successor):
    """At node 1; `former` leads when it is asked, and `successor` afterwards."""
    raft = SimpleNamespace(leader_id=former, url_of=lambda node_id: f"http://{node_id}")

    async def post(url, route, body, *, timeout_ms, purpose):
        if raft.leader_id == former:
            # Its version may know of no successor, and says only that it leads no longer.
            raft.leader_id = successor
            return msgspec.msgpack.encode(None)
        return msgspec.msgpack.encode(QuorumDescription(raft.leader_id, 2, 1, 1, True, [], [], []))

    return QuorumService(
        node_id=1,
        metadata=None,
        raft=raft,
        peers=SimpleNamespace(post=post),
        introductions=None,
    )


@pytest.mark.parametrize("target", [3, None])
async def test_who_was_meant_leads(target):
    found = await service_led_by(2, 3).transfer(TransferRequest(target))
    assert found.leader == 3


async def test_that_another_one_leads_is_a_failure():
    with pytest.raises(LeadershipTransferFailedError, match="node 4 took over") as failed:
        await service_led_by(2, 4).transfer(TransferRequest(3))
    assert failed.value.outcome is Outcome.UNKNOWN
