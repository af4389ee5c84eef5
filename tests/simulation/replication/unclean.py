"""The simulated cluster whose topic allows unclean elections, and what may be lost then.

When nobody in the ISR is there, a replica from outside leads. What it does not hold of the
committed records is lost, and nothing else, ever:

- no such election while the topic forbids it, or while a member of the ISR is there;
- all that the elected replica holds of the committed records stays, as before;
- records of older epochs that somebody commits who has not heard of the election yet belong to what
  was given up; everything of the new epoch and later ones is held to every rule of `World`.
"""

from dataclasses import replace
from random import Random

from ottla_cluster.replication.leader_epochs import NO_EPOCH
from tests.simulation.replication.broker import SESSION_TIMEOUT_MS, Broker
from tests.simulation.replication.controller import Controller
from tests.simulation.replication.world import Options, World

PATIENCE_MS = SESSION_TIMEOUT_MS


class UncleanController(Controller):
    """Elects any unfenced replica, the longest log first, if nobody in the ISR comes back."""

    allowed = True

    def __init__(self, replicas, session_timeout_ms):
        super().__init__(replicas, session_timeout_ms)
        self.leaderless_since_ms = None
        self.unclean_epoch = -1
        # What the brokers would answer: (last epoch, end) of each log, and who is told.
        self.log_end_of = dict
        self.elected_uncleanly = lambda leader, isr: None

    def tick(self, now_ms):
        super().tick(now_ms)
        if self.leader is not None:
            self.leaderless_since_ms = None
        elif self.leaderless_since_ms is None:
            self.leaderless_since_ms = now_ms
        if self.leader is None and now_ms - self.leaderless_since_ms >= PATIENCE_MS:
            self.elect_uncleanly()

    def elect_uncleanly(self):
        ends = self.log_end_of()
        candidates = [b for b in self.replicas if not self.brokers[b].fenced and b in ends]
        if not self.allowed or not candidates:
            return
        leader = max(candidates, key=ends.__getitem__)
        isr = self.isr
        self._change((leader,), leader)
        self.unclean_epoch = self.leader_epoch
        self.elected_uncleanly(leader, isr)


class UncleanWorld(World):
    """A world that knows what an unclean election gives up.

    Args:
        allowed: whether the topic allows it.
    """

    def __init__(
        self,
        seed=0,
        *,
        allowed=True,
        broker_class=Broker,
        controller_class=UncleanController,
    ):
        # Whole groups of brokers go at once, so that the last member goes after the others.
        options = replace(Options.random(Random(seed)), power_losses=0.05, partitions=0.01)
        super().__init__(
            seed, options=options, broker_class=broker_class, controller_class=controller_class
        )
        self.allowed = allowed
        self.controller.allowed = allowed
        self.controller.log_end_of = self.log_ends
        self.controller.elected_uncleanly = self.gives_up

    def log_ends(self):
        """What the brokers that are there tell of their logs."""
        return {
            broker.id: (broker.log[-1][0] if broker.synced else NO_EPOCH, broker.synced)
            for broker in self.broker_list
            if broker.alive and broker.paused_until_ms <= self.now_ms
        }

    def gives_up(self, leader, isr):
        """An unclean election: what the leader lacks is not committed any more."""
        self.events["unclean election"] += 1
        if not self.allowed:
            raise self.violated("an unclean election that the topic forbids")
        if any(not self.controller.brokers[member].fenced for member in isr):
            raise self.violated("an unclean election beside a member of the ISR")
        log = self.brokers[leader].log[: self.brokers[leader].synced]
        kept = 0
        while kept < min(len(log), len(self.committed)) and log[kept] == self.committed[kept]:
            kept += 1
        if kept < len(self.committed):
            self.events["committed records lost"] += len(self.committed) - kept
        del self.committed[kept:]
        self.acknowledged = [offset for offset in self.acknowledged if offset < kept]

    def is_of_the_past(self, broker):
        """Whether the broker's role is of an epoch before the last unclean election."""
        role = broker.leader or broker.follower
        return role is None or role.leader_epoch < self.controller.unclean_epoch

    def exposes(self, broker, high_watermark):
        if self.is_of_the_past(broker):
            self.events["shown of the past"] += 1
            broker.high_watermark = high_watermark
            return
        if high_watermark <= broker.high_watermark:
            if broker.leader is not None or high_watermark != len(broker.log):
                raise self.violated(f"the high watermark of {broker.id} fell, and nothing was cut")
            self.events["shown records cut"] += 1
            broker.high_watermark = high_watermark
            return
        super().exposes(broker, high_watermark)
        end = min(high_watermark, len(self.committed))
        if broker.log[:end] != self.committed[:end]:
            raise self.violated(f"{broker.id} shows what was given up")

    def acknowledges(self, broker, offset):
        if not self.is_of_the_past(broker):
            super().acknowledges(broker, offset)

    def truncates(self, broker, end):
        """Whatever it has shown: only records that are not committed (any more) are cut."""
        self.events["truncation"] += 1
        if self.is_of_the_past(broker):
            return
        if end < len(self.committed) and broker.log[end] == self.committed[end]:
            raise self.violated(f"{broker.id} cut a committed record")


# --- planted bugs ---------------------------------------------------------------------------------


class AsksNoTopic(UncleanController):
    """Elects whatever the topic says."""

    @property
    def allowed(self):
        return True

    @allowed.setter
    def allowed(self, allowed):
        pass


class DoesNotWaitForTheIsr(UncleanController):
    """The longest log that is there leads, in sync or not."""

    def fence(self, broker_id):
        super().fence(broker_id)
        ends = {b: e for b, e in self.log_end_of().items() if not self.brokers[b].fenced}
        if ends and self.leader is not None:
            self.elect_uncleanly()


class LeavesItsEpochBehind(Broker):
    """Compares offsets and no epochs, as if no history could end."""

    check_divergence = staticmethod(lambda *_: None)


MUTANTS = {
    "asks_no_topic": {"controller_class": AsksNoTopic, "allowed": False},
    "does_not_wait_for_the_isr": {"controller_class": DoesNotWaitForTheIsr},
    "leaves_its_epoch_behind": {"broker_class": LeavesItsEpochBehind},
}
