"""Both admin clients over real sockets: they send the same and understand the same."""

import inspect
import json
import os
import threading
from contextlib import ExitStack
from time import monotonic

import pytest

from ottla import _admin, _aio_admin
from ottla._errors import ClusterUnreachableError, ConfigError, ForkedProcessError
from ottla._transport import MAX_RESPONSE_BYTES, BrokerUnreachableError
from ottla_ops.local_cluster import free_ports
from ottla_protocol.errors import (
    ControllerNotAvailableError,
    Outcome,
    UnknownTopicOrPartitionError,
)
from tests.unit.sdk.admin_server import AnsweringServer

TOPIC = {"name": "flights", "topic_id": "t", "partitions": [], "configs": {}, "warnings": []}


def good(document, status=200):
    return status, "application/json", json.dumps(document).encode()


def problem(error):
    document = error.problem()
    return (
        document["status"],
        "application/problem+json; charset=utf-8",
        json.dumps(document).encode(),
    )


def closed_port():
    """An address where nothing listens, nor will while this process lives."""
    return f"127.0.0.1:{free_ports(1)[0]}"


class Sync:
    admin = _admin.Admin

    @staticmethod
    async def run(servers, method, *arguments, options=None, **keywords):
        with _admin.Admin(servers, **(options or {})) as admin:
            return getattr(admin, method)(*arguments, **keywords)


class Asyncio:
    admin = _aio_admin.Admin

    @staticmethod
    async def run(servers, method, *arguments, options=None, **keywords):
        async with _aio_admin.Admin(servers, **(options or {})) as admin:
            return await getattr(admin, method)(*arguments, **keywords)


@pytest.fixture(params=[Sync, Asyncio], ids=["sync", "asyncio"])
def shell(request):
    return request.param


@pytest.fixture
def serve():
    with ExitStack() as stack:
        yield lambda answer: stack.enter_context(AnsweringServer(answer))


async def test_a_request_carries_method_path_body_and_who_asks(shell, serve):
    server = serve(lambda *_: good(TOPIC, 201))
    topic = await shell.run(
        server.address, "create_topic", "flights", 6, options={"client_id": "me"}
    )
    [(method, path, body, headers)] = server.seen
    assert topic.name == "flights"
    assert (method, path) == ("POST", "/v1/topics")
    assert json.loads(body)["partitions"] == 6
    assert headers["Content-Type"] == "application/json"
    assert headers["User-Agent"].split()[0] == "me"


async def test_a_request_without_a_body_and_an_answer_without_one(shell, serve):
    server = serve(lambda *_: (204, "application/json", b""))
    assert await shell.run(server.url, "delete_topic", "a/b") is None
    [(method, path, body, _)] = server.seen
    assert (method, path, body) == ("DELETE", "/v1/topics/a%2Fb", b"")


async def test_problems_become_errors(shell, serve):
    server = serve(lambda *_: problem(UnknownTopicOrPartitionError("no topic 'flights'")))
    with pytest.raises(UnknownTopicOrPartitionError, match="no topic 'flights'"):
        await shell.run(server.url, "describe_topic", "flights")
    assert len(server.seen) == 1


async def test_a_status_without_a_problem_is_told_as_it_is(shell, serve):
    server = serve(lambda *_: (418, "text/plain", b"teapot"))
    with pytest.raises(BrokerUnreachableError, match="418"):
        await shell.run(
            server.url, "delete_topic", "flights", options={"default_api_timeout_ms": 500}
        )


async def test_a_broker_that_is_down_is_passed_over(shell, serve):
    server = serve(lambda *_: good({"topics": [TOPIC]}))
    servers = [closed_port(), server.address]
    assert [topic.name for topic in await shell.run(servers, "list_topics")] == ["flights"]


async def test_it_begins_with_the_broker_that_answered_last(serve):
    first = serve(lambda *_: None)
    second = serve(lambda *_: good({"topics": []}))
    with _admin.Admin([first.url, second.url]) as admin:
        admin.list_topics()
        admin.list_topics()
    assert (len(first.seen), len(second.seen)) == (1, 2)


async def test_all_down_names_each_url_with_its_reason(shell, serve):
    hangs_up = serve(lambda *_: None)
    down = closed_port()
    with pytest.raises(ClusterUnreachableError) as caught:
        await shell.run([down, hangs_up.url], "cluster")
    assert set(caught.value.reasons) == {f"http://{down}", hangs_up.url}
    assert caught.value.reasons[f"http://{down}"] == "connection refused"
    assert hangs_up.url in str(caught.value)


async def test_a_write_that_hangs_has_an_unknown_outcome(shell, serve):
    release = threading.Event()
    server = serve(lambda *_: release.wait(10) and None)
    try:
        with pytest.raises(BrokerUnreachableError, match="within 100 ms") as caught:
            await shell.run(
                server.url, "delete_topic", "flights", options={"request_timeout_ms": 100}
            )
    finally:
        release.set()
    assert caught.value.outcome is Outcome.UNKNOWN


async def test_a_write_that_was_cut_off_is_sent_once(shell, serve):
    server = serve(lambda *_: None)
    with pytest.raises(BrokerUnreachableError) as caught:
        await shell.run([server.url, closed_port()], "create_topic", "flights")
    assert caught.value.outcome is Outcome.UNKNOWN
    assert len(server.seen) == 1


async def test_what_may_pass_is_asked_again(shell, serve):
    answers = iter([problem(ControllerNotAvailableError("no controller")), good({"topics": []})])
    server = serve(lambda *_: next(answers))
    options = {"retry_backoff_ms": 1}
    assert await shell.run(server.url, "list_topics", options=options) == []
    assert len(server.seen) == 2


async def test_an_answer_over_the_limit_is_not_taken(shell, serve, monkeypatch):
    monkeypatch.setattr("ottla._admin.MAX_RESPONSE_BYTES", 100)
    monkeypatch.setattr("ottla._transport.MAX_RESPONSE_BYTES", 100)
    assert MAX_RESPONSE_BYTES > 100
    server = serve(lambda *_: (200, "application/json", b" " * 101))
    with pytest.raises(ClusterUnreachableError, match="limit of 100"):
        await shell.run(server.url, "list_topics")


def test_an_answer_that_drips_is_bounded_as_a_whole():
    """Each read of a socket is in time, but the answer is not."""

    class Dripping:
        def stream(self, _size):
            while True:
                yield b" "

    transport = _admin.Urllib3Transport(client_id="me")
    with pytest.raises(BrokerUnreachableError, match="no whole answer within 10 ms"):
        transport._read(Dripping(), "http://a:1", monotonic() + 0.01, 10)


async def test_a_redirect_is_not_followed(shell, serve):
    server = serve(lambda *_: (302, "text/plain", b""))
    with pytest.raises(BrokerUnreachableError, match="302"):
        await shell.run(server.url, "delete_topic", "flights")


async def test_kafkas_spelling(shell, serve):
    server = serve(lambda *_: good({"topics": []}))
    admin = shell.admin.from_config({"bootstrap.servers": server.address, "client.id": "me"})
    found = admin.list_topics()
    assert (await found if inspect.isawaitable(found) else found) == []
    closing = admin.close()
    if inspect.isawaitable(closing):
        await closing
    assert server.seen[0][3]["User-Agent"].split()[0] == "me"


async def test_options_are_checked_when_it_is_made(shell):
    with pytest.raises(ConfigError, match="did you mean 'client_id'"):
        shell.admin("127.0.0.1:7101", client_idd="me")
    with pytest.raises(ConfigError, match="bootstrap_servers"):
        shell.admin()


async def test_in_a_forked_child_it_says_so(shell, monkeypatch):
    admin = shell.admin("127.0.0.1:7101")
    process_id = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: process_id + 1)

    async def use():
        found = admin.list_topics()
        await found

    with pytest.raises(ForkedProcessError, match="fork"):
        await use()


def test_both_have_the_same_calls():
    def public(cls):
        return {
            name: list(inspect.signature(member).parameters.values())
            for name, member in vars(cls).items()
            if inspect.isfunction(member) and not name.startswith("_")
        }

    def without_annotations(parameters):
        return [(each.name, each.default, each.kind) for each in parameters]

    sync, asynchronous = public(_admin.Admin), public(_aio_admin.Admin)
    assert sync.keys() == asynchronous.keys()
    for name, parameters in sync.items():
        assert without_annotations(parameters) == without_annotations(asynchronous[name]), name
