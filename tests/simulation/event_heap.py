"""Simulated time: one heap of (time, sequence), so that one seed is one order of events."""

from heapq import heappop, heappush


class EventHeap:
    def __init__(self):
        self.now_ms = 0
        self.event_count = 0
        self._heap = []
        self._sequence = 0

    def after(self, delay_ms, action, *arguments):
        self._sequence += 1
        heappush(self._heap, (self.now_ms + delay_ms, self._sequence, action, arguments))

    def run_until(self, end_ms, is_done=None):
        """Play events up to `end_ms`, or until `is_done` is true before the next one."""
        heap = self._heap
        while heap and heap[0][0] <= end_ms and not (is_done is not None and is_done()):
            self.now_ms, _, action, arguments = heappop(heap)
            self.event_count += 1
            action(*arguments)
