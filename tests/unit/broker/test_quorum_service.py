"""What a broker tells of the quorum's leader once it was asked for another one."""

from types import SimpleNamespace

import msgspec
import pytest

from ottla_broker.services import quorum
from ottla_broker.services.quorum import QuorumService
from ottla_protocol.errors import (
    ControllerNotAvailableError,
    LeadershipTransferFailedError,
    NotControllerError,
    Outcome,
)
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


@pytest.mark.parametrize(
    "refusal",
    [
        lambda: NotControllerError("no leader is known", outcome=Outcome.NOT_APPLIED),
        lambda: ControllerNotAvailableError("nobody is elected", outcome=Outcome.NOT_APPLIED),
    ],
)
async def test_a_change_waits_through_an_election(refusal):
    service = service_led_by(2, 3)
    asked = service._peers.post
    refusals = [refusal(), refusal()]

    async def post(*arguments, **options):
        if refusals:
            raise refusals.pop()
        return await asked(*arguments, **options)

    service._peers.post = post
    found = await service.remove_voter(2, force=False)
    assert (found.leader, refusals) == (3, [])


async def test_a_change_that_may_be_made_is_not_made_again():
    service = service_led_by(2, 3)
    calls = []

    async def post(*_arguments, **_options):
        calls.append(1)
        raise NotControllerError("deposed while it was committed", outcome=Outcome.UNKNOWN)

    service._peers.post = post
    with pytest.raises(NotControllerError):
        await service.remove_voter(2, force=False)
    assert len(calls) == 1


async def test_a_change_does_not_wait_for_ever(monkeypatch):
    monkeypatch.setattr(quorum, "ELECTION_PATIENCE_MS", 0)
    service = service_led_by(None, None)
    with pytest.raises(ControllerNotAvailableError):
        await service.remove_voter(2, force=False)
