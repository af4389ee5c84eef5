"""Requests that meet a broker at the very moment in which it wakes from a long pause.

They are sent while the process is stopped: the kernel accepts and keeps them, so they are the first
thing that it sees, before any timer, heartbeat or message of a peer can tell it how late it is.
"""

import threading
import time
from dataclasses import dataclass, field

import msgspec
import urllib3

from ottla_protocol.models import BatchToAppend, PartitionToFetch
from tests.cluster.binary_producer import batch_of
from tests.cluster.http_client import fetched, produced

# What a broker forwards it may answer from the new leader; this header keeps it from doing so.
DIRECT = {"Ottla-Forwarded-By": "9"}


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
    """Sends direct requests to one stopped broker, then goes on in a tight loop after it wakes."""

    def __init__(self, client, node_id, topic):
        self.client = client
        self.node_id = node_id
        self.topic = topic
        self.woken = Woken()
        self._lock = threading.Lock()
        self._number = 0

    def run(self, resume, *, for_s):
        """Have requests wait at the broker, call `resume`, and ask on for `for_s` seconds."""
        kinds = [self._write_acks_1, self._write_acks_0, self._latest, self._read, self._fetch]
        stop = threading.Event()
        threads = [
            threading.Thread(target=self._ask, args=(kind, stop), name=kind.__name__)
            for kind in kinds
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

    def _ask(self, kind, stop):
        while not stop.is_set():
            try:
                kind()
            except urllib3.exceptions.HTTPError as error:
                self.woken.refusals.append(type(error).__name__)

    def _next_value(self):
        with self._lock:
            self._number += 1
            return b'"woken-%d"' % self._number

    def _write(self, acks):
        value = self._next_value()
        batch = BatchToAppend(self.topic, 0, memoryview(batch_of(value)))
        answer = self.client.http.binary_produce(
            self.client.url(self.node_id), [batch], acks=acks, timeout_ms=2000
        )
        if answer.status == 200:
            return produced(answer)[0].base_offset, msgspec.json.decode(value)
        self.woken.refusals.append(answer.code)
        return None

    def _write_acks_1(self):
        taken = self._write(1)
        if taken is not None:
            self.woken.appended[taken[0]] = taken[1]

    def _write_acks_0(self):
        if self._write(0) is not None:
            self.woken.refusals.append("TAKEN_WITH_ACKS_0")

    def _latest(self):
        url = f"{self.client.url(self.node_id)}/v1/topics/{self.topic}/partitions/0/offsets"
        answer = self.client.http.get(url, headers=DIRECT, at="latest")
        if answer.status == 200:
            self.woken.latest.append(answer.document["offset"])
        else:
            self.woken.refusals.append(answer.code)

    def _read(self):
        url = f"{self.client.url(self.node_id)}/v1/topics/{self.topic}/partitions/0/records"
        answer = self.client.http.get(url, headers=DIRECT, max_wait_ms=0, max_records=1)
        if answer.status == 200:
            self.woken.high_watermarks.append(answer.document["high_watermark"])
        else:
            self.woken.refusals.append(answer.code)

    def _fetch(self):
        answer = self.client.http.binary_fetch(
            self.client.url(self.node_id),
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
    final = client.values(topic)
    for offset, value in woken.appended.items():
        assert final.get(offset) == value, (offset, value, final.get(offset))
    stale = [offset for offset in woken.latest if offset < acknowledged_before]
    assert not stale, (stale, acknowledged_before)
    stale = [offset for offset in woken.high_watermarks if offset < acknowledged_before]
    assert not stale, (stale, acknowledged_before)
    # The requests did meet it in its old role.
    known = {"LEADER_NOT_AVAILABLE", "NOT_LEADER_OR_FOLLOWER", "TAKEN_WITH_ACKS_0"}
    assert set(woken.refusals) & known, woken.refusals[:20]
