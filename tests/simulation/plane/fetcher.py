"""What a broker follows at one leader: one fetch at a time, for all partitions together.

The order is the guarantee, as in `replica_fetcher`: a fetch acknowledges all below its offsets, so
it leaves only when what the last one brought is on disk. A fetch says what changed since the one
before it, in a session; whatever may have been lost ends that.
"""

from dataclasses import replace

from ottla_cluster.replication.fetch_session import FollowerSession
from tests.simulation.plane.timing import FETCH_BACKOFF_MS, FETCH_TIMEOUT_MS


class Fetcher:
    session_class = FollowerSession

    def __init__(self, process, leader_id):
        self.process = process
        self.leader_id = leader_id
        self.followed = {}  # key -> time before which it is left out of fetches
        self.session = self.session_class()
        self._request_id = None
        self._sent_ms = 0
        self._taking = 0

    def add(self, key):
        self.followed[key] = 0
        self._interrupt()
        self.poll()

    def remove(self, key):
        if self.followed.pop(key, None) is not None:
            self.session.forget(key)
            self._interrupt()

    def _interrupt(self):
        """What is on its way is of no use any more: nobody knows whether it arrives."""
        if self._request_id is not None:
            self._request_id = None
            self.session.lost()

    def poll(self):
        """Send the next fetch unless one is on its way, or still being taken."""
        process = self.process
        now_ms = process.clock_ms()
        is_waiting = self._request_id is not None and now_ms - self._sent_ms < FETCH_TIMEOUT_MS
        if is_waiting or self._taking or process.broker_epoch is None:
            return
        self._interrupt()
        for key, not_before_ms in self.followed.items():
            follower = process.replicas[key].follower
            if follower is None or not_before_ms > now_ms:
                self.session.forget(key)
            else:
                self.session.want(key, follower.fetch_position)
        if self.session.is_empty:
            return
        self._request_id = process.world.new_token()
        self._sent_ms = now_ms
        process.send(
            self.leader_id,
            "fetch",
            self._request_id,
            process.broker_epoch,
            copy_of(self.session.next_fetch()),
        )

    def refused(self):
        """The leader's process is gone: what was asked is lost."""
        self._interrupt()
        self._hold_back(list(self.followed), FETCH_BACKOFF_MS)

    def _hold_back(self, keys, pause_ms):
        now_ms = self.process.clock_ms()
        for key in keys:
            self.followed[key] = now_ms + pause_ms

    def answered(self, request_id, session_id, results):
        if request_id != self._request_id:
            return
        if session_id is None:
            self._interrupt()
            self.process.after(1, self.poll)
            return
        self._request_id = None
        self.session.answered(session_id)
        taking = []
        for key, error, high_watermark, diverging, records in results:
            position = self.session.said(key)
            if error is not None or diverging is not None:
                self.session.dropped(key)
            if key not in self.followed or position is None:
                continue
            if error is not None:
                self._hold_back([key], FETCH_BACKOFF_MS)
                continue
            if records and self.process.is_full:
                self._hold_back([key], 5 * FETCH_BACKOFF_MS)
                records = ()
            taking.append((key, position, high_watermark, diverging, records))
        self._taking += len(taking)
        for key, *result in taking:
            self.process.replicas[key].take_fetched(*result, self._is_taken)
        if not taking:
            self.poll()

    def _is_taken(self):
        self._taking -= 1
        if not self._taking:
            self.poll()


def copy_of(fetch):
    """As it is when it is sent: the session goes on with its own."""
    return replace(fetch, positions=dict(fetch.positions))
