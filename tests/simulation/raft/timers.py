"""The timer of each simulated voter: armed for what its node says is due next."""

from tests.simulation.event_heap import EventHeap


class HostTimers(EventHeap):
    """An event heap whose `host_clock_ms` tells a host's clock."""

    def __init__(self):
        super().__init__()
        self._timers_at_ms = {}

    def wake(self, host):
        """Arm the timer; one that fires early only arms itself again."""
        if host.node is None:
            return
        wait_ms = max(0, host.node.next_deadline_ms() - self.host_clock_ms(host))
        at_ms = self.now_ms + wait_ms
        key = (host.node_id, host.incarnation)
        armed_ms = self._timers_at_ms.get(key)
        if armed_ms is None or at_ms < armed_ms:
            self._timers_at_ms[key] = at_ms
            self.after(wait_ms, self._timer, host, host.incarnation, at_ms)

    def _timer(self, host, incarnation, at_ms):
        key = (host.node_id, incarnation)
        if host.node is None or incarnation != host.incarnation:
            return
        if self._timers_at_ms.get(key) != at_ms:
            return
        del self._timers_at_ms[key]
        if self.host_clock_ms(host) >= host.node.next_deadline_ms():
            host.tick()
            if host.is_writing or host.is_paused:
                return  # finishing the write, or resuming, arms the timer again
        self.wake(host)
