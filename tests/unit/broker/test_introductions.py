"""Nobody is told the cluster's secret who cannot show to know it."""

import asyncio

import msgspec
import pytest

from ottla_broker.drivers.peer_messages import Introduction, IntroductionRequest, encode
from ottla_broker.services import introductions
from ottla_broker.services.introductions import IntroductionService
from ottla_protocol import routes
from ottla_protocol.errors import (
    ClusterAuthorizationFailedError,
    InvalidVoterChangeError,
    NotFoundError,
)

SECRET = "the secret of the cluster"
AT = "http://node-4:7101"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(introductions, "SCRYPT_N", 2)


class Network:
    """Passes each question to the node that is at its URL, or to whoever took that place."""

    def __init__(self):
        self.nodes = {}
        self.sent = []

    async def ask_stranger(self, url, path, body, *, timeout_ms):
        assert (path, timeout_ms > 0) == (routes.INTERNAL_INTRODUCTION, True)
        self.sent.append(body)
        request = msgspec.msgpack.decode(body, type=IntroductionRequest)
        return encode(await self.nodes[url.rstrip("/")].answer(request))


def node(network, node_id, secret=SECRET, url=None, cluster_id="c"):
    made = IntroductionService(
        node_id=node_id,
        is_controller=True,
        url=url or f"http://node-{node_id}:7101",
        cluster_id=cluster_id,
        cluster_secret=secret,
        peers=network,
    )
    network.nodes[url or f"http://node-{node_id}:7101"] = made
    return made


@pytest.mark.parametrize("secret", [SECRET, None])
async def test_a_node_of_the_cluster_says_who_it_is(secret):
    network = Network()
    asking = node(network, 1, secret)
    node(network, 4, secret)
    found = await asking.ask(AT + "/")
    assert (found.node_id, found.is_controller) == (4, True)
    assert (found.proof is None) == (secret is None)
    assert SECRET.encode() not in b"".join(network.sent)


async def test_a_stranger_is_not_answered():
    network = Network()
    asking = node(network, 1, "a guess")
    node(network, 4)
    with pytest.raises(ClusterAuthorizationFailedError):
        await asking.ask(AT)


async def test_strangers_have_the_key_made_once_however_many_ask_and_leave(monkeypatch):
    made = []
    derive = introductions._key_of

    def counted(*args):
        made.append(args)
        return derive(*args)

    monkeypatch.setattr(introductions, "_key_of", counted)
    asked = node(Network(), 4)
    request = IntroductionRequest(AT, b"nonce", None)
    for _ in range(20):
        asking = asyncio.create_task(asked.answer(request))
        await asyncio.sleep(0)
        asking.cancel()
    answers = await asyncio.gather(
        *(asked.answer(request) for _ in range(20)), return_exceptions=True
    )
    assert {type(answer) for answer in answers} == {ClusterAuthorizationFailedError}
    assert len(made) == 1


class Stranger:
    """Answers as it likes."""

    def __init__(self, answer):
        self._answer = answer

    async def answer(self, request):
        return await self._answer(request)


async def test_whoever_does_not_know_the_secret_is_no_node():
    network = Network()
    asking = node(network, 1)

    async def echo(request):
        return Introduction(4, is_controller=True, proof=request.proof)

    async def silence(_):
        return Introduction(4, is_controller=True, proof=None)

    for answer in (echo, silence):
        network.nodes[AT] = Stranger(answer)
        with pytest.raises(InvalidVoterChangeError, match="does not know"):
            await asking.ask(AT)


async def test_the_answer_of_another_node_cannot_be_passed_on():
    """The question names the URL at which it is asked, and a node answers for its own."""
    network = Network()
    asking = node(network, 1)
    fourth = node(network, 4)
    trap = "http://trap:7101"
    network.nodes[trap] = fourth
    with pytest.raises(InvalidVoterChangeError, match="node 4 is known at http://node-4:7101"):
        await asking.ask(trap)

    async def as_if_asked_itself(request):
        return await fourth.answer(msgspec.structs.replace(request, url=AT))

    network.nodes[trap] = Stranger(as_if_asked_itself)
    with pytest.raises(ClusterAuthorizationFailedError):
        await asking.ask(trap)


async def test_an_answer_counts_for_its_question_and_node_alone():
    network = Network()
    asking = node(network, 1)
    fourth = node(network, 4)
    answers = []

    async def keep(request):
        answers.append(await fourth.answer(request))
        return msgspec.structs.replace(answers[0], node_id=answers[0].node_id + len(answers) - 1)

    network.nodes[AT] = Stranger(keep)
    assert (await asking.ask(AT)).node_id == 4
    with pytest.raises(InvalidVoterChangeError):
        await asking.ask(AT)


async def test_a_node_of_another_cluster_with_the_same_secret_is_none():
    network = Network()
    asking = node(network, 1)
    node(network, 4, cluster_id="another")
    with pytest.raises(ClusterAuthorizationFailedError):
        await asking.ask(AT)


async def test_an_older_version_is_named_as_such():
    network = Network()
    asking = node(network, 1)

    async def unknown(_):
        raise NotFoundError("no such path")

    network.nodes[AT] = Stranger(unknown)
    with pytest.raises(InvalidVoterChangeError, match="older version"):
        await asking.ask(AT)
