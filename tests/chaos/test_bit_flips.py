"""Single bits flip in the files of a follower and of a leader: nothing wrong is served, all heal.

In turns: bits of sealed segments flip under running brokers, and bits of any file, the write-ahead
log included, under brokers that were killed. All the while one client writes and one reads what all
brokers have. After each turn every replica is sound again, in the ISR, and equal to the others; and
at the end every acknowledged record is there, at its offset, on every disk.

OTTLA_BIT_FLIPS says how many bits flip; a failure prints the seed of the order.
"""

import os
import random
import threading
import time
from collections import Counter

import pytest
import urllib3

from ottla_broker.storage.segment import is_sealed
from ottla_ops.local_cluster import LocalCluster
from ottla_ops.segments.found_segments import find_replicas
from ottla_ops.segments.verification import verify_replica
from tests.chaos.bit_flips import apply, choose_flip
from tests.cluster.awaiting import eventually
from tests.cluster.cluster_client import ClusterClient, stored_batches
from tests.cluster.http_client import HttpClient

FLIPS = int(os.environ.get("OTTLA_BIT_FLIPS", "8"))
pytestmark = [pytest.mark.cluster, pytest.mark.timeout(120 + 15 * FLIPS)]

SEED = int(os.environ.get("OTTLA_BIT_FLIP_SEED", str(random.SystemRandom().randrange(1 << 32))))
FLIPS_PER_TURN = 4
TOPIC = "orders"
VALUE_BYTES = 1_500
FILLED_RECORDS = 240
HEAL_TIMEOUT_S = 60.0
SETTINGS = {
    # Reads come from the files, and scrubbing finds what nobody reads.
    "OTTLA_TAIL_CACHE_BYTES": str(1 << 20),
    "OTTLA_SCRUB_INTERVAL_MS": "500",
    "OTTLA_SCRUB_BYTES_PER_SECOND": str(64 << 20),
    "OTTLA_SEGMENT_BYTES": str(96 << 10),
}
LOG_EVENTS = ("segment_damaged", "log_damaged", "log_lost_its_end", "replica_refilled")


class Journal:
    """What was acknowledged, and what readers were shown, of the one partition."""

    def __init__(self):
        self.acknowledged = {}
        self.wrong = []
        self.seen = 0
        self.refused = Counter()

    def saw(self, node_id, records):
        for record in records:
            self.seen += 1
            expected = self.acknowledged.get(record["offset"])
            # What is shown before its ack was heard has at least the right number in it.
            if expected is not None and expected != record["value"]:
                self.wrong.append((node_id, record["offset"], record["value"][:40]))


def value(number):
    return f"{number:08d}" + "x" * VALUE_BYTES


class Clients:
    """One writer, and one reader that goes round all brokers' own copies."""

    def __init__(self, client, journal):
        self.client = client
        self.journal = journal
        self.failure = None
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._guarded, args=(work,)) for work in (self.write, self.read)
        ]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _guarded(self, work):
        http = HttpClient()
        try:
            while not self._stop.is_set():
                try:
                    work(ClusterClient(self.client.cluster, http))
                except (urllib3.exceptions.HTTPError, IndexError):
                    self._stop.wait(0.1)  # A broker is down.
        except Exception as error:
            self.failure = error
        finally:
            http.close()

    def write(self, client):
        number = len(self.journal.acknowledged)
        # The key makes a retry harmless: a record is where its first attempt put it.
        answer = client.produce(
            TOPIC,
            [{"value": value(number)}],
            partition=0,
            headers={"Idempotency-Key": f"number-{number}"},
        )
        if answer.status == 200:
            [result] = answer.document["results"]
            assert result["base_offset"] not in self.journal.acknowledged
            self.journal.acknowledged[result["base_offset"]] = value(number)
        self._stop.wait(0.02)

    def read(self, client):
        for node_id in client.live_node_ids:
            offset = 0
            while not self._stop.is_set():
                answer = client.read(
                    TOPIC, via=node_id, offset=offset, replica="local", max_wait_ms=0
                )
                if answer.status != 200:
                    assert answer.document["retriable"], answer.document
                    self.journal.refused[answer.code] += 1
                    break
                self.journal.saw(node_id, answer.document["records"])
                if answer.document["next_offset"] == offset:
                    # The end: of what this broker knows to be committed.
                    assert offset >= answer.document["high_watermark"], answer.document
                    break
                offset = answer.document["next_offset"]


def replica_files(client, node_id):
    return client.cluster.broker(node_id).data_dir / f"{TOPIC}-0"


def sealed_files(client, node_id):
    directory = replica_files(client, node_id)
    return [path for path in sorted(directory.glob("*.sqlite"))[:-1] if is_sealed(path)]


def flip_running(client, node_id, random_numbers):
    """Flip bits of sealed segments while the broker reads them."""
    flips = []
    while len(flips) < FLIPS_PER_TURN:
        path = random_numbers.choice(sealed_files(client, node_id))
        flip = choose_flip(path, random_numbers, random_numbers.choice(["data", "index"]))
        if flip is not None:
            flips.append(flip)
    apply(flips)
    return flips


def flip_stopped(client, node_id, random_numbers):
    """Kill the broker, flip bits of its newest segment and of its write-ahead log, start it."""
    client.cluster.broker(node_id).kill()
    flips = []
    while len(flips) < FLIPS_PER_TURN:
        path = max(replica_files(client, node_id).glob("*.sqlite"))
        kind = random_numbers.choice(["data", "index", "wal", "wal"])
        if kind == "wal":
            path = path.with_name(path.name + "-wal")
            if not path.exists() or not path.stat().st_size:
                path, kind = path.with_name(path.name.removesuffix("-wal")), "data"
        flip = choose_flip(path, random_numbers, kind)
        flip = flip or choose_flip(path, random_numbers, "index")
        if flip is not None:
            flips.append(flip)
    apply(flips)
    client.cluster.broker(node_id).start()
    client.cluster.broker(node_id).wait_ready()
    return flips


def findings(client, node_id):
    """What is wrong in the files of a broker, told by `ottla segment verify`'s own checks."""
    found = []
    for replica in find_replicas(client.cluster.broker(node_id).data_dir):
        if replica.topic == TOPIC:
            for segment in verify_replica(replica):
                found += [str(finding) for finding in segment.findings]
    return found


def wait_healed(client, node_id):
    """Wait until the broker's replica is sound, nothing is unfit, and all are in sync."""

    def healed():
        for each in client.node_ids:
            assert client.metric(each, "ottla_unfit_replicas") == 0, f"broker {each}"
        # A pass of scrubbing has been over all of it since the bits flipped.
        assert client.metric(node_id, "ottla_scrub_passes_total") >= passes + 2
        assert client.metric(node_id, "ottla_unfit_replicas") == 0
        document = client.describe(TOPIC)
        assert len(document["partitions"][0]["isr"]) == 3, document
        return True

    passes = client.metric(node_id, "ottla_scrub_passes_total")
    eventually(healed, HEAL_TIMEOUT_S)
    client.wait_isr(TOPIC, 3, timeout_s=HEAL_TIMEOUT_S)


def log_events(client):
    """How often the brokers said so."""
    counts = Counter()
    for broker in client.cluster.brokers:
        text = broker.log_path.read_text(errors="replace")
        for event in LOG_EVENTS:
            counts[event] += text.count(f'"event": "{event}"')
        assert '"event": "fail_stop"' not in text, broker.log_path
    return counts


def test_flipped_bits_are_never_served_and_all_replicas_heal(tmp_path, launch):
    random_numbers = random.Random(SEED)
    print(f"seed {SEED}: OTTLA_BIT_FLIP_SEED={SEED} repeats the order")
    http, journal, flipped, hit = HttpClient(), Journal(), Counter(), Counter()
    begun = time.monotonic()
    with LocalCluster(tmp_path / "cluster", settings=SETTINGS, launch=launch) as cluster:
        client = ClusterClient(cluster, http)
        client.create_topic(TOPIC, partitions=1, replication_factor=3)
        client.wait_led(TOPIC)
        for number in range(FILLED_RECORDS):
            journal.acknowledged[client.append(TOPIC, value(number))] = value(number)
        # A segment is sealed a moment after the next one is begun.
        eventually(lambda: len(sealed_files(client, 1)) > 2)
        with Clients(client, journal) as clients:
            for turn in range(-(-FLIPS // FLIPS_PER_TURN)):
                leader = client.leader(TOPIC)
                # An ex-leader is one that led when its bits flipped.
                victim, role = random_numbers.choice(
                    [(leader, "leader"), (client.others(leader)[turn % 2], "follower")]
                )
                how = flip_stopped if turn % 2 else flip_running
                flips = how(client, victim, random_numbers)
                for flip in flips:
                    flipped[flip.kind] += 1
                    print(f"turn {turn}: {how.__name__} {role} {victim}: {flip}")
                hit[role] += len(flips)
                wait_healed(client, victim)
                assert clients.failure is None
                assert not journal.wrong, journal.wrong[:5]
        [found] = client.wait_replicas_equal(TOPIC, timeout_s=HEAL_TIMEOUT_S).values()
        events = log_events(client)
        cluster.stop()
        assert not [finding for node in client.node_ids for finding in findings(client, node)]
        copies = [stored_batches(cluster, node_id, TOPIC) for node_id in client.node_ids]
    http.close()
    assert copies[0] == copies[1] == copies[2]
    assert len(found) >= len(journal.acknowledged)
    stored = {batch[0] for batch in copies[0]}
    assert stored >= set(journal.acknowledged)
    print(
        f"{sum(flipped.values())} bits flipped in {time.monotonic() - begun:.0f} s: "
        f"{dict(flipped)}, of {dict(hit)}; {len(journal.acknowledged)} records acknowledged, "
        f"{journal.seen} shown to readers, {len(journal.wrong)} of them wrong; "
        f"refused meanwhile: {dict(journal.refused)}; in the logs: {dict(events)}"
    )
