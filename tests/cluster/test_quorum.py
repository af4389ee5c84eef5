"""Voters come, go, hand over and lose their directories, on real processes."""

import asyncio
import shutil
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from ottla_broker.drivers.raft_store import RaftStore
from ottla_protocol import routes
from tests.cluster.awaiting import eventually

pytestmark = pytest.mark.cluster

WAIT_S = 45
SECRET = "a-secret-that-stays-here"


@contextmanager
def listening():
    """A URL at which somebody listens, and all that he hears."""
    heard = []

    class Stranger(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            heard.append(f"{self.path}\n{self.headers}\n{body!r}")
            self.send_response(404)
            self.send_header("Content-Type", "application/problem+json")
            answer = b'{"code": "NOT_FOUND", "detail": "what?"}'
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Stranger) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", heard
        finally:
            server.shutdown()
            thread.join()


def quorum(client, *, via=None):
    url = client.url(via) if via is not None else client.any_url()
    return client.http.get(url + routes.CLUSTER_QUORUM).expect(200).document


def voters(client):
    """Directory by node id, once the log names all of them and that is committed; else empty."""
    found = quorum(client)
    known = {voter["id"]: voter["directory_id"] for voter in found["voters"]}
    return known if found["configuration_committed"] and all(known.values()) else {}


def test_a_voter_that_lost_its_directory_votes_again_and_the_cluster_survives_another(
    start_cluster,
):
    client = start_cluster()
    before = eventually(
        lambda: (
            quorum(client)["configuration_committed"]
            and len(set((voters(client) or {}).values())) == 3
            and voters(client)
        ),
        WAIT_S,
    )
    client.create_topic("before", partitions=1, replication_factor=1)
    lost = next(node_id for node_id in client.node_ids if node_id != client.controller())
    broker = client.cluster.broker(lost)
    broker.terminate()
    shutil.rmtree(broker.data_dir)
    broker.restart()

    def returned():
        now = voters(client)
        return sorted(now) == [1, 2, 3] and now[lost] != before[lost]

    eventually(returned, WAIT_S)
    # Its vote counts again: without it there is no majority when another one dies.
    other = next(node_id for node_id in client.node_ids if node_id != lost)
    client.cluster.broker(other).kill()

    def goes_on():
        answer = client.http.post(
            client.url(lost) + routes.TOPICS,
            {"name": "after", "partitions": 1, "replication_factor": 1},
        )
        return answer.status in (201, 409)

    eventually(goes_on, WAIT_S)


def test_a_voter_is_added_leads_and_is_removed(start_cluster):
    client = start_cluster(brokers=4, voters=3, settings={"OTTLA_CLUSTER_SECRET": SECRET})
    path = client.any_url() + routes.CLUSTER_QUORUM_VOTERS
    with listening() as (stranger_url, heard):
        lured = client.http.post(path, {"node_id": 4, "url": stranger_url})
        assert lured.code == "INVALID_VOTER_CHANGE"
    assert heard
    assert SECRET not in "".join(heard)
    eventually(lambda: voters(client), WAIT_S)
    eventually(lambda: [each["id"] for each in quorum(client)["observers"]] == [4], WAIT_S)
    refused = client.http.post(path, {"node_id": 4})
    assert (refused.code, "OTTLA_ROLES" in refused.document["detail"]) == (
        "INVALID_VOTER_CHANGE",
        True,
    )
    fourth = client.cluster.broker(4)
    fourth.terminate()
    fourth.settings |= {"OTTLA_ROLES": "broker,controller", "OTTLA_JOIN_QUORUM": "true"}
    fourth.restart()
    fourth.wait_ready()
    eventually(lambda: [each["id"] for each in quorum(client)["observers"]] == [4], WAIT_S)
    other = {"node_id": 9, "url": fourth.url}
    assert client.http.post(path, other).code == "INVALID_VOTER_CHANGE"
    added = client.http.post(path, {"node_id": 4}).expect(202).document
    assert 4 in [each["id"] for each in added["learners"] + added["voters"]]
    eventually(lambda: sorted(voters(client)) == [1, 2, 3, 4], WAIT_S)
    assert client.http.post(path, {"node_id": 4}).code == "DUPLICATE_VOTER"

    def handed_over():
        url = client.any_url() + routes.CLUSTER_QUORUM_TRANSFER
        return client.http.post(url, {"target": 4}).status == 200

    eventually(handed_over, WAIT_S)
    eventually(lambda: quorum(client)["leader"] == 4, WAIT_S)
    client.create_topic("by-the-new-one", partitions=1, replication_factor=1)

    def removed():
        answer = client.http.call("DELETE", f"{path}/4")
        return answer.status != 421 and answer

    # The leader removes itself, and another one takes over; who is asked may know none just then.
    assert eventually(removed, WAIT_S).expect(200).document["leader"] != 4
    assert sorted(eventually(lambda: voters(client), WAIT_S)) == [1, 2, 3]
    assert eventually(removed, WAIT_S).code == "VOTER_NOT_FOUND"
    # It follows the log as before.
    client.create_topic("after", partitions=1, replication_factor=1)
    eventually(lambda: client.describe("after", via=4), WAIT_S)


async def start_unheard(data_dir):
    """What a process leaves that starts and reaches nobody."""
    store = RaftStore(data_dir / "raft.sqlite")
    await store.load("unheard")
    await store.close()


def lead_anew(client, controller):
    """Have the controller lead again in a new process, which knows its followers from disk only."""
    client.cluster.broker(controller).kill()
    client.cluster.broker(controller).restart()
    client.cluster.broker(controller).wait_ready()

    def leads():
        url = client.any_url() + routes.CLUSTER_QUORUM_TRANSFER
        client.http.post(url, {"target": controller})
        return quorum(client)["leader"] == controller

    eventually(leads, WAIT_S)


@pytest.mark.parametrize("unheard_count", [0, 2])
def test_a_directory_that_was_put_back_sets_its_raft_state_aside(
    start_cluster, tmp_path, unheard_count
):
    client = start_cluster()
    before = eventually(lambda: voters(client), WAIT_S)
    controller = client.controller()
    stale = next(node_id for node_id in client.node_ids if node_id != controller)
    broker = client.cluster.broker(stale)
    broker.terminate()
    shutil.copytree(broker.data_dir, tmp_path / "copy")
    # The next start is heard of by the others, and the copy knows nothing of it.
    broker.restart()
    broker.wait_ready()
    broker.terminate()
    shutil.rmtree(broker.data_dir)
    shutil.copytree(tmp_path / "copy", broker.data_dir)
    if unheard_count:
        # The copy's starts outnumber the one that was heard.
        for _ in range(unheard_count):
            asyncio.run(start_unheard(broker.data_dir))
        lead_anew(client, controller)
    broker.restart()
    assert broker.wait_exit(WAIT_S) == 1
    assert (broker.data_dir / "raft.set-aside").exists()
    broker.restart()

    def returned():
        now = voters(client)
        return sorted(now) == [1, 2, 3] and now[stale] != before[stale]

    eventually(returned, WAIT_S)
