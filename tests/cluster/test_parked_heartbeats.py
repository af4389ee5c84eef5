"""Heartbeats that wait for news, on real brokers: who is told, how soon, and who is let go."""

import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest

from ottla_ops.local_cluster import LocalCluster
from ottla_protocol import routes
from tests.cluster.awaiting import eventually
from tests.cluster.cluster_client import ClusterClient
from tests.cluster.group_member import GroupMember

pytestmark = pytest.mark.cluster

WAIT_MS = 9_000
SOON_S = 6.0
"""News are with those who wait for them long before their wait is over."""

FAILOVER_LIMIT_S = 12.0

SESSION_S = 6
"""Long enough that whoever hears of its end with a stall does so before two of them."""


@pytest.fixture(scope="module")
def client(tmp_path_factory, http, launch):
    with LocalCluster(tmp_path_factory.mktemp("parked"), launch=launch) as cluster:
        yield ClusterClient(cluster, http)


@pytest.fixture
def group(request):
    return request.node.name.replace("[", "-").replace("]", "")


@pytest.fixture
def orders(client, group):
    name = f"orders-{group}"[:200]
    client.create_topic(name, partitions=3)
    client.wait_led(name, partitions=3)
    return name


@pytest.fixture
def threads():
    with ThreadPoolExecutor(8) as executor:
        yield executor


def settled(members):
    """Heartbeat until nobody is told anything new."""

    def quiet():
        answers = [member.try_heartbeat().expect(200).document for member in members]
        return all(answer["assignment"] is None for answer in answers)

    eventually(quiet)


def park(threads, member, max_wait_ms=WAIT_MS):
    return threads.submit(member.try_heartbeat, max_wait_ms=max_wait_ms)


def heartbeats(client):
    """How many have come to their coordinators."""
    return sum(
        client.metric(node_id, "ottla_group_heartbeats_total") for node_id in client.live_node_ids
    )


@pytest.mark.parametrize("others_via", [1, 2, 3])
def test_a_clean_leave_reaches_the_others_at_once(client, group, orders, threads, others_via):
    leaver = GroupMember(client, group, [orders], via=1)
    stayer = GroupMember(client, group, [orders], via=others_via)
    settled([leaver, stayer])
    before = heartbeats(client)
    parked = park(threads, stayer)
    eventually(lambda: heartbeats(client) > before)
    taken_s = time.monotonic()
    leaver.leave()
    parked.result().expect(200)
    assert time.monotonic() - taken_s < SOON_S
    assert len(stayer.partitions) == 3


def test_a_join_is_told_to_those_who_must_give_something_up(client, group, orders, threads):
    first = GroupMember(client, group, [orders], via=1)
    settled([first])
    before = heartbeats(client)
    parked = park(threads, first)
    eventually(lambda: heartbeats(client) > before)
    second = GroupMember(client, group, [orders], via=2)
    parked.result().expect(200)
    assert len(first.partitions) == 2, "it is told to give one up"
    parked = park(threads, second)
    first.heartbeat()
    parked.result().expect(200)
    assert len(second.partitions) == 1


@pytest.mark.parametrize("via", [1, 2, 3])
def test_a_wait_is_over_when_it_is_over(client, group, orders, via):
    member = GroupMember(client, group, [orders], via=via)
    settled([member])
    start_s = time.monotonic()
    answer = member.try_heartbeat(max_wait_ms=400).expect(200).document
    assert answer["assignment"] is None
    # Brokers count in whole milliseconds.
    assert 0.38 <= time.monotonic() - start_s < 8.0


@pytest.mark.parametrize("later_wait_ms", [0, 1])
@pytest.mark.parametrize("later_via", [1, 2, 3])
def test_a_later_heartbeat_ends_the_wait_of_the_former(
    client, group, orders, threads, later_via, later_wait_ms
):
    member = GroupMember(client, group, [orders], via=1)
    settled([member])
    former = park(threads, member)
    # It is not known when the former has arrived, so the latter may have to be repeated.
    member.via = later_via
    eventually(
        lambda: member.try_heartbeat(max_wait_ms=later_wait_ms).expect(200) and former.done(),
        timeout_s=SOON_S,
    )
    assert former.result().expect(200).document["assignment"] is None


def test_a_member_that_waits_longer_than_its_session_elsewhere_is_refused(client, group, orders):
    member = GroupMember(client, group, [orders], session_timeout_ms=2_000)
    refused = member.try_heartbeat(max_wait_ms=2_001).expect(422)
    assert "max_wait_ms must be 0 to 2000" in refused.document["detail"]
    refused = member.try_heartbeat(max_wait_ms=30_001).expect(422)
    assert "max_wait_ms" in refused.document["detail"]


def test_who_goes_away_while_waiting_is_missed_after_its_session(client, group, orders):
    """Not after the wait and the session: the broken connection frees the wait at once."""
    member = GroupMember(client, group, [orders], via=1, session_timeout_ms=SESSION_S * 1_000)
    stayer = GroupMember(client, group, [orders], via=2)
    settled([member, stayer])
    owned = [{"topic": orders, "partitions": sorted(number for _, number in member.partitions)}]
    body = json.dumps(
        {"generation": member.generation, "owned": owned, "max_wait_ms": SESSION_S * 1_000}
    ).encode()
    path = routes.GROUP_HEARTBEAT.format(group=group, member=member.member_id)
    for via in (1, 2, 3):
        url = urlsplit(client.url(via))
        with socket.create_connection((url.hostname, url.port)) as connection:
            head = f"POST {path} HTTP/1.1\r\nHost: {url.netloc}\r\nContent-Length: {len(body)}\r\n"
            connection.sendall(head.encode() + b"\r\n" + body)
    gone_s = time.monotonic()
    eventually(
        lambda: stayer.try_heartbeat().expect(200) and len(stayer.partitions) == 3, 2 * SESSION_S
    )
    assert time.monotonic() - gone_s < 2 * SESSION_S - 1


def test_waiting_members_survive_their_coordinator(start_cluster, threads):
    client = start_cluster()
    client.create_topic("orders", partitions=3)
    client.wait_led("orders", partitions=3)
    members = [GroupMember(client, "billing", ["orders"], via=via) for via in (1, 2, 3)]
    settled(members)
    coordinator = (
        client.http.get(client.any_url() + routes.GROUP.format(group="billing"))
        .expect(200)
        .document["coordinator"]
    )
    others = [member for member in members if member.via != coordinator]
    before = heartbeats(client)
    parked = [park(threads, member, max_wait_ms=2_000) for member in others]
    (own,) = (member for member in members if member.via == coordinator)
    let_go = park(threads, own)
    # One that comes when the broker has stopped listening is answered by nobody.
    eventually(lambda: heartbeats(client) >= before + len(members))
    start_s = time.monotonic()
    assert client.cluster.broker(coordinator).terminate() == 0
    assert time.monotonic() - start_s < WAIT_MS / 1000 / 2, "it waits for no parked heartbeat"
    # It is sent elsewhere; whether it had news for its member just before does not matter.
    assert let_go.result().status in (200, 503)
    for waiting in parked:
        waiting.result(FAILOVER_LIMIT_S).expect(200)
    leaver, stayer = others
    parked_stayer = park(threads, stayer)
    leaver.leave()
    parked_stayer.result(FAILOVER_LIMIT_S).expect(200)
    assert len(stayer.partitions) >= 1
