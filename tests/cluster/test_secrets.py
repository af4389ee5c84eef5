"""The cluster's secret is told to brokers of the cluster, and to nothing that anybody reads."""

import gzip
import json
import socket
import tarfile

import pytest

from ottla_ops.cli.main import run
from ottla_protocol import routes
from tests.cluster.awaiting import eventually

pytestmark = pytest.mark.cluster

SECRET, WRONG = "canary-of-the-cluster", "canary-of-a-stranger"
WAIT_S = 60
SOCKET_TIMEOUT_S = 10.0


def log_of(broker):
    return broker.log_path.read_text()


def events_in(log):
    """The events of a log, one of JSON lines but for what a dying interpreter says."""
    return [json.loads(line)["event"] for line in log.splitlines() if line.startswith("{")]


def send_malformed(url):
    host, _, port = url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=SOCKET_TIMEOUT_S) as connection:
        head = (
            f"POST {routes.INTERNAL_RAFT} HTTP/1.1\r\nHost: x\r\nOttla-Cluster-Secret: {SECRET}\r\n"
        )
        connection.sendall(head.encode() + b"Content-Length: -1\r\nbroken header\r\n\r\n")
        connection.recv(1 << 16)


def use_all_ways(client):
    """Forwards of writes and reads, groups, and calls that are refused."""
    topic = client.create_topic_led_by(1)
    poll = {"topics": [topic], "max_wait_ms": 100}
    for node_id in client.node_ids:
        url = client.url(node_id)
        for use in (
            lambda node_id=node_id: client.produce(topic, [{"value": 1}], via=node_id),
            lambda node_id=node_id: client.read(topic, via=node_id),
            lambda url=url: client.http.post(f"{url}/v1/groups/g/poll", poll),
        ):
            # What fails for a moment on a busy machine has its line in a log, too.
            eventually(lambda use=use: use().status == 200, WAIT_S)
    internal = client.any_url() + routes.INTERNAL_RAFT
    for secret in (WRONG, SECRET):
        headers = {"Ottla-Cluster-Id": "guarded", "Ottla-Cluster-Secret": secret}
        assert client.http.post(internal, body=b"no message", headers=headers).status >= 400
    send_malformed(client.any_url())


def test_neither_logs_nor_a_debug_bundle_have_it(start_cluster, tmp_path, monkeypatch, capsys):
    settings = {"OTTLA_CLUSTER_SECRET": SECRET, "OTTLA_LOG_LEVEL": "debug"}
    client = start_cluster(brokers=2, settings=settings, cluster_id="guarded")
    use_all_ways(client)
    # A broker that has another secret says so, and not which.
    stranger = client.cluster.broker(2)
    stranger.kill()
    known = len(log_of(stranger))
    stranger.settings |= {"OTTLA_CLUSTER_SECRET": WRONG}
    stranger.start()
    eventually(
        lambda: (
            "CLUSTER_AUTHORIZATION_FAILED" in log_of(stranger)[known:]
            or "raft_peer_refused" in log_of(stranger)[known:]
        ),
        WAIT_S,
    )
    monkeypatch.setenv("OTTLA_CLUSTER_SECRET", SECRET)
    bundle = tmp_path / "bundle.tar.gz"
    run(["debug-bundle", "--output", str(bundle), "--bootstrap", client.any_url()])
    told = capsys.readouterr()
    assert f"{bundle}" in told.out
    with tarfile.open(bundle) as archive:
        contents = [archive.extractfile(each).read() for each in archive.getmembers()]
    assert len(contents) > 10
    logs = [log_of(broker) for broker in client.cluster.brokers]
    for log in logs:
        assert {"listening", "registered"} <= set(events_in(log))
    assert "request_answered" in events_in(logs[0])
    for text in (*logs, told.out, told.err):
        assert SECRET not in text
        assert WRONG not in text
    for content in contents:
        plain = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
        assert SECRET.encode() not in plain
