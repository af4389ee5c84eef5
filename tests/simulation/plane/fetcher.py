"""What a broker follows at one leader: one fetch at a time, for all partitions together.

The order is the guarantee, as in `replica_fetcher`: a fetch acknowledges all below its offsets, so
it leaves only when what the last one brought is on disk.
"""

from tests.simulation.plane.timing import FETCH_BACKOFF_MS, FETCH_TIMEOUT_MS


class Fetcher:
    def __init__(self, process, leader_id):
        self.process = process
        self.leader_id = leader_id
        self.followed = {}  # key -> time before which it is left out of fetches
        self._request_id = None
        self._positions = {}
        self._sent_ms = 0
        self._taking = 0

    def add(self, key):
        self.followed[key] = 0
        self._request_id = None  # As an interrupted long-poll: its answer counts no more.
        self.poll()

    def remove(self, key):
        if self.followed.pop(key, None) is not None:
            self._request_id = None

    def poll(self):
        """Send the next fetch unless one is on its way, or still being taken."""
        process = self.process
        now_ms = process.clock_ms()
        is_waiting = self._request_id is not None and now_ms - self._sent_ms < FETCH_TIMEOUT_MS
        if is_waiting or self._taking or process.broker_epoch is None:
            return
        positions = {
            key: process.replicas[key].follower.fetch_position
            for key, not_before_ms in self.followed.items()
            if not_before_ms <= now_ms and process.replicas[key].follower is not None
        }
        if not positions:
            return
        self._request_id = process.world.new_token()
        self._positions = positions
        self._sent_ms = now_ms
        process.send(
            self.leader_id,
            "fetch",
            self._request_id,
            process.broker_epoch,
            tuple(positions.items()),
        )

    def refused(self):
        """The leader's process is gone: what was asked is lost."""
        self._request_id = None
        now_ms = self.process.clock_ms()
        for key in self.followed:
            self.followed[key] = now_ms + FETCH_BACKOFF_MS

    def answered(self, request_id, results):
        if request_id != self._request_id:
            return
        self._request_id = None
        now_ms = self.process.clock_ms()
        taking = []
        for key, error, high_watermark, diverging, records in results:
            if key not in self.followed:
                continue
            if error is not None:
                self.followed[key] = now_ms + FETCH_BACKOFF_MS
                continue
            if records and self.process.is_full:
                self.followed[key] = now_ms + 5 * FETCH_BACKOFF_MS
                records = ()
            taking.append((key, high_watermark, diverging, records))
        self._taking += len(taking)
        for key, *result in taking:
            self.process.replicas[key].take_fetched(self._positions[key], *result, self._is_taken)
        if not taking:
            self.poll()

    def _is_taken(self):
        self._taking -= 1
        if not self._taking:
            self.poll()
