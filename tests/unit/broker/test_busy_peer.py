"""What a client is told, and how soon, where too many wait already at the broker that decides."""

import asyncio
from types import SimpleNamespace

import pytest

from ottla_broker.drivers.clock import monotonic_ms
from ottla_broker.drivers.peer_client import PeerBusyError, Purpose
from ottla_broker.drivers.purgatory import Purgatory
from ottla_broker.services.controller_commands import ControllerCommands
from ottla_broker.services.idempotency import IdempotencyService
from ottla_broker.services.produce import ProduceService
from ottla_broker.services.produce_options import ProduceOptions
from ottla_protocol.errors import (
    FencedLeaderEpochError,
    InvalidRequestError,
    LeaderNotAvailableError,
    Outcome,
    RequestTimedOutError,
    UnknownTopicIdError,
)
from ottla_protocol.idempotency import Idempotency
from ottla_protocol.models import ACKS_ALL, BatchToAppend

LONG_MS = 60_000


class Peer:
    """A peer at which everything fails with the same error, and which ends the test at last."""

    def __init__(self, error):
        self.error = error
        self.attempts = 0
        self.purposes = []

    def fail(self):
        self.attempts += 1
        if self.attempts > 3:
            raise AssertionError("tried again and again")
        return self.error

    async def forward(self, leader, batches, options):
        return [self.fail() for _ in batches]

    async def execute(self, command, *, timeout_ms, purpose):
        self.purposes.append(purpose)
        raise self.fail()

    async def call(self, url, path, body, *, timeout_ms, answer, purpose):
        self.purposes.append(purpose)
        raise self.fail()


@pytest.fixture
def metadata():
    async def wait_for_change(*, timeout_ms):
        await asyncio.sleep(0)

    partition = SimpleNamespace(leader=2)
    return SimpleNamespace(
        image=SimpleNamespace(
            topics={"id": object()},
            brokers={2: SimpleNamespace(url="http://leader", broker_epoch=5)},
            partition_by_id=lambda *_: partition,
        ),
        wait_for_change=wait_for_change,
        replacement_of=lambda *_: asyncio.get_running_loop().create_future(),
    )


def options():
    return ProduceOptions(ACKS_ALL, monotonic_ms() + LONG_MS)


async def produce(metadata, peer):
    service = ProduceService(
        node_id=1,
        metadata=metadata,
        replicas=None,
        forwarder=peer,
        purgatory=None,
        coordinator=None,
    )
    batch = BatchToAppend("t", 0, memoryview(b"x"), topic_id="id")
    [result] = await service.deliver([batch], options())
    return result


async def command(metadata, peer):
    with pytest.raises(PeerBusyError) as caught:
        await ControllerCommands(metadata=metadata, controller=peer).decide(object())
    return caught.value


async def look_up(metadata, peer):
    service = IdempotencyService(node_id=1, metadata=metadata, replicas=None, peers=peer)
    topic = SimpleNamespace(topic_id="id", name="t")
    with pytest.raises(PeerBusyError) as caught:
        await service.look_up(topic, [0], Idempotency(b"k" * 16, b"b" * 16), options())
    return caught.value


@pytest.mark.parametrize("ask", [produce, command, look_up])
async def test_a_client_is_told_at_once_that_too_many_wait_there(metadata, ask):
    peer = Peer(PeerBusyError("full"))
    error = await ask(metadata, peer)
    assert error is peer.error
    assert error.outcome is Outcome.NOT_APPLIED
    assert peer.attempts == 1
    assert set(peer.purposes) <= {Purpose.CLIENT}


@pytest.mark.parametrize(
    "refusal",
    [
        PeerBusyError("full"),
        FencedLeaderEpochError("moved", outcome=Outcome.NOT_APPLIED),
        InvalidRequestError("no", outcome=Outcome.NOT_APPLIED),
    ],
)
async def test_a_refusal_after_a_lost_answer_does_not_say_that_nothing_was_done(metadata, refusal):
    answers = [RequestTimedOutError("no answer", outcome=Outcome.UNKNOWN), refusal]

    async def execute(_command, **_options):
        raise answers.pop(0)

    commands = ControllerCommands(metadata=metadata, controller=SimpleNamespace(execute=execute))
    with pytest.raises(type(refusal)) as caught:
        await commands.decide(object(), repeatable=True)
    assert caught.value.outcome is Outcome.UNKNOWN


@pytest.mark.parametrize("error", [FencedLeaderEpochError("moved"), UnknownTopicIdError("gone")])
async def test_what_names_something_that_is_no_more_is_refused_once(metadata, error):
    error.outcome = Outcome.NOT_APPLIED
    assert error.retriable
    peer = Peer(error)
    with pytest.raises(type(error)):
        await ControllerCommands(metadata=metadata, controller=peer).decide(object())
    assert peer.attempts == 1


async def test_what_may_pass_is_tried_again(metadata):
    peer = Peer(LeaderNotAvailableError("moving", outcome=Outcome.NOT_APPLIED))
    with pytest.raises(AssertionError, match="again and again"):
        await produce(metadata, peer)


def test_a_followers_fetch_may_wait_where_clients_have_taken_every_place():
    purgatory = Purgatory(limit=1)
    with purgatory.parked_request(), purgatory.parked_request(for_client=False):
        assert purgatory.parked == 2
