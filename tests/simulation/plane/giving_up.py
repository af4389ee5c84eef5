"""How a broker gives up what others can take: when it stops in order, and when its disk hangs.

What `lifecycle.drain` and `hung_disk` do, with events instead of tasks.
"""

from ottla_broker.storage.policy.disk_progress import DiskProgress
from ottla_cluster.controller.commands import FenceBroker
from ottla_protocol.errors import OttlaError, StaleBrokerEpochError
from tests.simulation.plane.timing import (
    DISK_HANG_TIMEOUT_MS,
    DRAIN_TIMEOUT_MS,
    HANDOVER_POLL_MS,
    HANDOVER_TIMEOUT_MS,
    REFUSE_APPENDS_MS,
    RETRY_INTERVAL_MS,
    SURRENDER_TIMEOUT_MS,
)


class GivingUp:
    """The part of a process that leaves its part to others; see `process`."""

    def _begin_giving_up(self):
        self.is_draining = False
        self.gives_up = False
        self.disk_progress = DiskProgress(DISK_HANG_TIMEOUT_MS)
        # A heartbeat that was sent up to then confirms nothing.
        self._lease_from_ms = None
        self._is_fenced_elsewhere = False

    def _others_live(self):
        return any(broker.node_id != self.node_id for broker in self.image.active_brokers())

    # --- a controlled shutdown ------------------------------------------------------------------

    def stop(self):
        """Hand over every leadership, then exit; not for longer than a time."""
        if self.gives_up or not self._others_live():
            self.world.exits(self)
            return
        handed = [
            replica
            for replica in self.replicas.values()
            if replica.leader is not None and self._is_led_by_others(replica.state)
        ]
        for replica in handed:
            replica.begin_handover(REFUSE_APPENDS_MS)
        self._wait_until(
            lambda: all(replica.is_handed_over for replica in handed),
            self.clock_ms() + HANDOVER_TIMEOUT_MS,
            self._drain,
        )

    def _is_led_by_others(self, state):
        return any(n != self.node_id and self.image.is_active(n) for n in state.isr)

    def _drain(self):
        self.is_draining = True
        self._heartbeat_due_ms = 0
        self.after(DRAIN_TIMEOUT_MS, self.world.exits, self)

    def _may_exit(self):
        """Nobody else leads by this broker any more; who waits for an ack may get it yet."""
        if self._is_exiting:
            return
        self._is_exiting = True
        self._wait_until(
            lambda: not any(replica.has_waiting_acks for replica in self.replicas.values()),
            self.clock_ms() + HANDOVER_TIMEOUT_MS,
            lambda: self.world.exits(self),
        )

    def _wait_until(self, condition, deadline_ms, action):
        if condition() or self.clock_ms() >= deadline_ms:
            action()
        else:
            self.after(HANDOVER_POLL_MS, self._wait_until, condition, deadline_ms, action)

    # --- a hung disk ----------------------------------------------------------------------------

    def look_at_the_disk(self, now_ms):
        was_hung = self.disk_progress.is_hung
        is_hung = self.disk_progress.observe(now_ms)
        if is_hung and not self.gives_up and self.broker_epoch is not None and self._others_live():
            self._give_up(now_ms)
        elif was_hung and not is_hung and self.gives_up:
            self._take_part_again(now_ms)

    def _give_up(self, now_ms):
        self.world.events["gave up"] += 1
        self.gives_up = True
        self._is_fenced_elsewhere = False
        self.lease.revoked()
        self._lease_from_ms = now_ms
        self.stand_aside(stands_aside=True)
        others = [n for n in self.world.checker.voter_ids if n != self.node_id]
        self._surrender(others, 0)

    def _surrender(self, others, attempt):
        """Ask one voter after the other: nobody here may know who is the controller."""
        if not self.gives_up or self._is_fenced_elsewhere or not others:
            return

        def answered(outcome):
            if isinstance(outcome, StaleBrokerEpochError):
                return  # Another incarnation is registered.
            if isinstance(outcome, OttlaError):
                self.after(RETRY_INTERVAL_MS, self._surrender, others, attempt + 1)
            else:
                self._is_fenced_elsewhere = True

        command = FenceBroker(self.node_id, self.broker_epoch, "its disk hangs")
        self.call_at(others[attempt % len(others)], command, answered)

    def _take_part_again(self, now_ms):
        self.gives_up = False
        self.lease.revoked()
        # What was asked and not answered may be decided yet.
        self._lease_from_ms = now_ms + (0 if self._is_fenced_elsewhere else SURRENDER_TIMEOUT_MS)
        self.stand_aside(stands_aside=False)
        self._heartbeat_due_ms = 0

    def stand_aside(self, *, stands_aside):
        self.voter.act(lambda node, now_ms: node.stand_aside(now_ms, stands_aside=stands_aside))
