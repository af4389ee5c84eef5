"""Wall clocks that are wrong; what a broker tells as its Date is how that is seen."""

import itertools
import threading
import time
from email.utils import parsedate_to_datetime

from ottla_protocol import routes
from tests.chaos import shifted_clock
from tests.chaos.nemesis import Nemesis

CLOCK_SHIFTS_S = (-7200, 7200, -1, 60)
MONTH_S = 30 * 24 * 3600
DRIFT_STEP_S = 2
DRIFT_EVERY_S = 0.3
JUMP_EVENT = b'"wall_clock_jumped_ahead"'
"""What a broker logs when its retention finds the wall clock far ahead of the monotonic one."""


class ClockFault(Nemesis):
    """Reads brokers' clocks by the Date of their answers."""

    def told_s(self, node):
        """(the right time before, what the broker tells, the right time after), in whole s."""
        before_s = int(time.time())
        date = self.ask(node, routes.LIVENESS).expect(200).headers["Date"]
        return before_s, int(parsedate_to_datetime(date).timestamp()), int(time.time())


class ClockJump(ClockFault):
    """The wall clock of one broker is wrong at a stroke, and right again at another."""

    shifts_s = CLOCK_SHIFTS_S

    def inject(self):
        self.node, self.shift_s = self.some_leader(), self.numbers.choice(self.shifts_s)
        shifted_clock.set_clock(self.world.clock(self.node), self.shift_s)
        return f"by {self.shift_s} s at {self.node}"

    def is_felt(self):
        before_s, told_s, after_s = self.told_s(self.node)
        is_right = before_s <= told_s <= after_s
        return not is_right and before_s <= told_s - self.shift_s <= after_s

    def heal(self):
        shifted_clock.set_clock(self.world.clock(self.node), 0)


class ClockMonthAhead(ClockJump):
    """It is so far ahead that all would be old enough to be deleted, when retention looks."""

    shifts_s = (MONTH_S,)

    def inject(self):
        told = super().inject()
        self._log = self.world.broker(self.node).log_path
        self._told_bytes = self._log.stat().st_size
        return told

    def is_felt(self):
        with self._log.open("rb") as log:
            log.seek(self._told_bytes)
            return JUMP_EVENT in log.read() and super().is_felt()


class ClockDrift(ClockFault):
    """The clocks of all brokers go wrong by steps, each its own way."""

    def inject(self):
        self._wrong = set()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._drift, name="drift")
        self._thread.start()
        return "all brokers"

    def _drift(self):
        for step in itertools.count(1):
            if self._ended.wait(DRIFT_EVERY_S):
                return
            for node in self.world.node_ids:
                shift_s = self._direction(node) * step * DRIFT_STEP_S
                shifted_clock.set_clock(self.world.clock(node), shift_s)

    def _direction(self, node):
        return 1 if node % 2 else -1

    def is_felt(self):
        for node in self.world.node_ids:
            before_s, told_s, after_s = self.told_s(node)
            ahead_s = told_s - after_s if self._direction(node) > 0 else before_s - told_s
            if ahead_s >= DRIFT_STEP_S:
                self._wrong.add(node)
        return self._wrong == set(self.world.node_ids)

    def heal(self):
        self._ended.set()
        self._thread.join()
        for node in self.world.node_ids:
            shifted_clock.set_clock(self.world.clock(node), 0)
