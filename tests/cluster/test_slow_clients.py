"""Clients that announce, drip or stall: they cost themselves, and nobody else."""

import socket
import time
from contextlib import ExitStack, closing

import pytest

from ottla_protocol import routes
from tests.cluster.awaiting import eventually

pytestmark = pytest.mark.cluster

BODY_IDLE_LIMIT_S = 15.0
SOCKET_TIMEOUT_S = 30.0
BEGUN = b'{"records":['


def begin_produce(client, topic, *, announced_bytes, binary=False):
    """Begin a request whose body does not end; returns the connection."""
    host, port = client.any_url().removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), SOCKET_TIMEOUT_S)
    path = routes.PRODUCE if binary else f"/v1/topics/{topic}/records"
    connection.sendall(
        f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Content-Length: {announced_bytes}\r\n\r\n".encode()
        + BEGUN
    )
    return connection


def test_what_is_only_announced_keeps_nobody_out(shared, topic):
    """These requests announce more than what all produce bodies together may take, to the brim."""
    sizes = [60 << 20] * 6 + [7 << 20] * 8 + [1 << 20] * 12 + [100_000] * 12
    with ExitStack() as stack:
        for size in [*sizes, *[10_000] * 12, *[1_000] * 12]:
            connection = begin_produce(shared, topic, announced_bytes=size, binary=size > (8 << 20))
            stack.enter_context(closing(connection))
        held = "ottla_inflight_produce_bytes"
        eventually(lambda: shared.metric(shared.live_node_ids[0], held) >= len(sizes) * len(BEGUN))
        started_s = time.monotonic()
        for _ in range(5):
            shared.append(topic, "x" * 1000)
        assert time.monotonic() - started_s < BODY_IDLE_LIMIT_S - 5


def test_a_stalled_body_is_given_up_and_nothing_of_it_applied(shared, topic):
    with closing(begin_produce(shared, topic, announced_bytes=100)) as connection:
        started_s = time.monotonic()
        received = b""
        while b"outcome" not in received:
            part = connection.recv(65536)
            assert part, received
            received += part
        took_s = time.monotonic() - started_s
    assert BODY_IDLE_LIMIT_S - 1 < took_s < BODY_IDLE_LIMIT_S + 5
    assert b"REQUEST_NOT_RECEIVED" in received
    assert b'"outcome":"not_applied"' in received
    assert shared.append(topic, "after") == 0
