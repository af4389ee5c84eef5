"""Requests that meet a broker at the very moment in which it wakes from a long pause.

They are sent while the process is stopped, over connections that it accepted before: the kernel
keeps them, so the process sees them in its first turn, while the news of its peers, which come over
new connections and go through its disk, are still on their way.
"""

import threading
import time
from dataclasses import dataclass, field

import msgspec
import urllib3

from ottla_protocol.models import BatchToAppend, PartitionToFetch
from tests.cluster.awaiting import eventually
from tests.cluster.binary_producer import batch_of
from tests.cluster.http_client import HttpClient, fetched, produced

# What a broker forwards it may answer from the new leader; this keeps it from doing so. It counts
# only from members of the cluster, which know its name.
DIRECT = {"Ottla-Forwarded-By": "9", "Ottla-Cluster-Id": "local"}


@dataclass
class Woken:
    """What a woken broker answered as if it led."""

    appended: dict = field(default_factory=dict)
    """Offset to value, for each write that it acknowledged itself."""
    latest: list = field(default_factory=list)
    """Every `latest` that it told itself."""
    high_watermarks: list = field(default_factory=list)
    """Every high watermark that it told itself as a leader."""
    refusals: list = field(default_factory=list)
    """The codes of what it refused."""


class Wakeup:
    """Sends direct requests to one stopped broker, then goes on in a tight loop after it wakes.

    Make it before the pause: it opens its connections then.
    """

    def __init__(self, client, node_id, topic):
        self.url = client.url(node_id)
        self.topic = topic
        self.woken = Woken()
        self._lock = threading.Lock()
        self._number = 0
        kinds = (self._write_acks_1, self._write_acks_0, self._latest, self._read, self._fetch)
        # A client for each, so that each has a connection of its own, which its first call opens.
        self._kinds = [(kind, HttpClient()) for kind in kinds]
        for _, http in self._kinds:
            http.get(f"{self.url}/livez").expect(200)

    def run(self, resume, *, for_s):
        """Have requests wait at the broker, call `resume`, and ask on for `for_s` seconds."""
        stop = threading.Event()
        threads = [
            threading.Thread(target=self._ask, args=(kind, http, stop), name=kind.__name__)
            for kind, http in self._kinds
        ]
        for thread in threads:
            thread.start()
        time.sleep(0.3)  # Nothing can tell when a stopped process's socket holds the requests.
        resume()
        time.sleep(for_s)
        stop.set()
        for thread in threads:
            thread.join(30)
        assert not any(thread.is_alive() for thread in threads)
        return self.woken

    def _ask(self, kind, http, stop):
        while not stop.is_set():
            try:
                kind(http)
            except urllib3.exceptions.HTTPError as error:
                self.woken.refusals.append(type(error).__name__)
        http.close()

    def _next_value(self):
        with self._lock:
            self._number += 1
            return b'"woken-%d"' % self._number

    def _write(self, http, acks):
        value = self._next_value()
        batch = BatchToAppend(self.topic, 0, memoryview(batch_of(value)))
        answer = http.binary_produce(self.url, [batch], acks=acks, timeout_ms=2000)
        if answer.status == 200:
            return produced(answer)[0].base_offset, msgspec.json.decode(value)
        self.woken.refusals.append(answer.code)
        return None

    def _write_acks_1(self, http):
        taken = self._write(http, 1)
        if taken is not None:
            self.woken.appended[taken[0]] = taken[1]

    def _write_acks_0(self, http):
        if self._write(http, 0) is not None:
            self.woken.refusals.append("TAKEN_WITH_ACKS_0")

    def _latest(self, http):
        url = f"{self.url}/v1/topics/{self.topic}/partitions/0/offsets"
        answer = http.get(url, headers=DIRECT, at="latest")
        if answer.status == 200:
            self.woken.latest.append(answer.document["offset"])
        else:
            self.woken.refusals.append(answer.code)

    def _read(self, http):
        url = f"{self.url}/v1/topics/{self.topic}/partitions/0/records"
        answer = http.get(url, headers=DIRECT, max_wait_ms=0, max_records=1)
        if answer.status == 200:
            self.woken.high_watermarks.append(answer.document["high_watermark"])
        else:
            self.woken.refusals.append(answer.code)

    def _fetch(self, http):
        answer = http.binary_fetch(
            self.url,
            [PartitionToFetch(self.topic, 0, 0, max_bytes=1)],
            max_wait_ms=0,
        )
        if answer.status == 200:
            self.woken.high_watermarks.append(fetched(answer)[0].high_watermark)
        else:
            self.woken.refusals.append(answer.code)


def check_woken(client, topic, woken, *, acknowledged_before):
    """That the woken broker told nothing as a leader that its successor does not stand by.

    Args:
        acknowledged_before: the leader's end before any of the requests was sent. Whoever tells
            `latest` afterwards must cover it (reliability L9), or it told as a leader of the past.
    """

    def committed():
        # It may lead again by the end, and acks=1 tells nothing of when its records are shown.
        final = client.values(topic)
        assert final.keys() >= woken.appended.keys(), (len(final), woken.appended)
        return final

    final = eventually(committed)
    for offset, value in woken.appended.items():
        assert final.get(offset) == value, (offset, value, final.get(offset))
    stale = [offset for offset in woken.latest if offset < acknowledged_before]
    assert not stale, (stale, acknowledged_before)
    stale = [offset for offset in woken.high_watermarks if offset < acknowledged_before]
    assert not stale, (stale, acknowledged_before)
    # The requests did meet it in its old role.
    assert "LEADER_NOT_AVAILABLE" in woken.refusals, woken.refusals[:20]
