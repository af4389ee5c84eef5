"""The metadata log is compacted; a voter that was away comes back by a snapshot, and can lead."""

import contextlib
import itertools
import json
import sqlite3
import threading
from contextlib import closing

import pytest
import urllib3

from ottla_protocol import routes
from tests.cluster.awaiting import eventually

pytestmark = pytest.mark.cluster

SNAPSHOT_ENTRIES = 20
SETTINGS = {
    "OTTLA_METADATA_SNAPSHOT_ENTRIES": str(SNAPSHOT_ENTRIES),
    "OTTLA_SESSION_TIMEOUT_MS": "1500",
}
ELECTIONS_MAX = 12
"""Either survivor of a crash may win; that one of them loses so often is a matter of luck."""

KILLS = 3
WAIT_S = 30

FILE_BYTES_MAX = 24 << 20
"""Far more than two snapshots and what lies between them, write-ahead log included."""


def events(client, node_id, name):
    lines = client.cluster.broker(node_id).log_path.read_text().splitlines()
    return [line for line in map(json.loads, lines) if line["event"] == name]


def raft_file_bytes(client, node_id):
    directory = client.cluster.broker(node_id).data_dir
    return sum(path.stat().st_size for path in directory.glob("raft.sqlite*"))


def change_metadata(client, count, *, via):
    """So many entries of the log that leave nothing behind but a higher version."""
    url = client.url(via) + routes.TOPICS
    for number in range(count // 2):
        client.create_topic(f"passing-{number}", via=via, partitions=1, replication_factor=1)
        client.http.delete(f"{url}/passing-{number}").expect(204)


def topics_of(client, node_id):
    return client.http.get(client.url(node_id) + routes.TOPICS).expect(200).document


def metric(client, node_id, name):
    text = client.http.get(client.url(node_id) + "/metrics").expect(200).text
    lines = [line for line in text.splitlines() if line.startswith(name)]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


def persisted_log(client, node_id):
    """(index of the snapshot, first and last index of the entries) of a stopped broker's file."""
    path = client.cluster.broker(node_id).data_dir / "raft.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        ((snapshot_index,),) = connection.execute('SELECT "index" FROM snapshot').fetchall()
        return (
            snapshot_index,
            *connection.execute('SELECT min("index"), max("index") FROM entries').fetchone(),
        )


def test_a_voter_returns_behind_the_compacted_log_and_leads(start_cluster):
    client = start_cluster(settings=SETTINGS)
    kept = client.create_topic("kept", partitions=2, replication_factor=3)
    client.wait_led("kept", partitions=2)
    absent = client.others(client.controller())[0]
    others = client.others(absent)
    # It stands still: what it wakes to is a jump of the image that it is using.
    client.cluster.broker(absent).pause()
    change_metadata(client, 5 * SNAPSHOT_ENTRIES, via=others[0])
    made = [events(client, node, "metadata_snapshot_made")[-1] for node in others]
    present = client.controller()
    # What waits at a leader that stands still has an outcome that nobody knows.
    eventually(lambda: client.partition("kept", via=present)["leader"] in others)
    client.append("kept", "while a voter was away", partition=0, via=present)

    client.cluster.broker(absent).resume()
    installed = eventually(lambda: events(client, absent, "metadata_snapshot_installed"), WAIT_S)
    assert installed[-1]["version"] >= made[0]["version"] - SNAPSHOT_ENTRIES
    assert metric(client, absent, 'ottla_metadata_snapshots_total{event="installed"}')
    assert sum(metric(client, n, 'ottla_metadata_snapshots_total{event="sent"}') for n in others)
    eventually(lambda: topics_of(client, absent) == topics_of(client, present))
    assert client.describe("kept", via=absent)["topic_id"] == kept["topic_id"]
    client.wait_isr("kept", 3)

    make_controller(client, absent)
    client.create_topic("decided-by-it", via=absent, partitions=1, replication_factor=3)
    for node_id in client.node_ids:
        assert client.describe("kept", via=node_id)["topic_id"] == kept["topic_id"]
        assert client.describe("decided-by-it", via=node_id)["partitions"]
    assert list(client.values("kept").values()) == ["while a voter was away"]


def make_controller(client, node_id):
    """Kill the other voters in turn until this one leads the quorum."""
    for _ in range(ELECTIONS_MAX):
        victim = client.controller()
        if victim == node_id:
            return
        client.cluster.broker(victim).kill()
        eventually(lambda victim=victim: client.controller() != victim, WAIT_S)
        client.cluster.broker(victim).start()
        client.cluster.wait_ready()
    raise AssertionError(f"node {node_id} did not win one of {ELECTIONS_MAX} elections")


class TopicMaker:
    """Creates topics without a pause, and deletes most of them; knows which were acknowledged."""

    def __init__(self, client):
        self.acknowledged = {}
        self._client = client
        self._is_stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *exception):
        self._is_stopping.set()
        self._thread.join()

    def wait_for_more(self, count):
        reached = len(self.acknowledged) + count
        eventually(lambda: len(self.acknowledged) >= reached, WAIT_S)

    def _run(self):
        for number in itertools.count():
            if self._is_stopping.is_set():
                return
            with contextlib.suppress(urllib3.exceptions.HTTPError, AssertionError):
                self._make(number)

    def _make(self, number):
        fields = {"partitions": 1, "replication_factor": 1}
        made = self._client.create_topic(f"made-{number}", via=1, **fields)
        if number % 4 == 0:
            self.acknowledged[made["name"]] = made["topic_id"]
        else:
            self._client.http.delete(f"{self._client.url(1)}{routes.TOPICS}/{made['name']}")


def test_kills_amid_snapshots_lose_nothing_and_the_file_stays_bounded(start_cluster):
    """A single voter that takes a snapshot every ten entries is killed at any moment."""
    client = start_cluster(brokers=1, settings=SETTINGS | {"OTTLA_METADATA_SNAPSHOT_ENTRIES": "10"})
    sizes = []
    with TopicMaker(client) as maker:
        for _ in range(KILLS):
            maker.wait_for_more(6)
            client.cluster.broker(1).kill()
            sizes.append(raft_file_bytes(client, 1))
            client.cluster.broker(1).start()
            client.cluster.wait_ready()
    found = {topic["name"]: topic["topic_id"] for topic in topics_of(client, 1)["topics"]}
    assert found.items() >= maker.acknowledged.items()
    assert len(events(client, 1, "metadata_snapshot_restored")) == KILLS
    assert len(events(client, 1, "metadata_snapshot_made")) > 10
    assert max(sizes) < FILE_BYTES_MAX, sizes
    assert client.cluster.stop() == {1: 0}
    snapshot_index, first, last = persisted_log(client, 1)
    assert first == snapshot_index, "one of ten entries stays behind the snapshot"
    assert last - first <= 10
    assert last > 100
