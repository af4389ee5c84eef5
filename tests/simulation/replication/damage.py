"""The simulated cluster with disks that lose what they had synced, one at a time.

A dead broker may come back with a shorter log, and a record of a live one may become unreadable.
The witness of its end lags behind, `ReplicaFitness` decides, and the controller takes reports.
No second disk is damaged before the first replica is whole again: then nothing committed may be
lost, nobody may lead without it, and everybody heals.
"""

from random import Random

from ottla_cluster.replication.fitness import ReplicaFitness
from tests.simulation.replication.broker import CONTROLLER, Broker
from tests.simulation.replication.controller import Controller
from tests.simulation.replication.world import InvariantViolationError, Options, World

DAMAGE = 0.3
"""Probability that a fault is one of these."""


class DamagedBroker(Broker):
    """A broker whose disk may lose synced records, and that knows it by its witness."""

    fitness_class = ReplicaFitness

    def __init__(self, world, broker_id):
        # The witness: where the log ended, and whether it is known to be short.
        self.witnessed_end = 0
        self.is_short = False
        self.damaged_at = None
        self.lost_unnoticed = False
        super().__init__(world, broker_id)

    def start(self):
        self.damaged_at = None
        lost = self.has_lost_tail()
        if lost and not self.is_short and not self.lost_unnoticed:
            raise self.world.violated(f"{self.id} calls its log short, and it lost nothing")
        self.is_short = lost
        self.lost_unnoticed = False
        self.fitness = self.fitness_class(self.id, lost_tail=self.is_short)
        super().start()

    def wipe(self):
        super().wipe()
        self.witnessed_end = 0
        self.is_short = False

    def has_lost_tail(self):
        return self.is_short or self.witnessed_end > len(self.log)

    def note_end(self):
        """The witness, behind the log, and silent while something is missing."""
        if not self.fitness.lost_tail:
            self.is_short = False
            self.witnessed_end = self.synced

    # --- damage ---------------------------------------------------------------------------------

    def lose_tail(self, count):
        """A dead broker's disk forgets synced records, back to before the witnessed end."""
        end = max(0, min(self.witnessed_end, len(self.log)) - count)
        if end < self.witnessed_end:
            self.truncate(end)
            self.lost_unnoticed = True

    def damage(self, offset):
        self.damaged_at = offset
        self.fitness.damage_found()

    def cut(self):
        self.is_short = True
        self.fitness.cut()
        self.truncate(self.damaged_at)
        self.damaged_at = None
        self.high_watermark = min(self.high_watermark, len(self.log))
        self.become_follower(self.metadata)

    # --- what the driver does -------------------------------------------------------------------

    def tick(self):
        super().tick()
        if self.broker_epoch is None or self.metadata is None:
            return
        self.note_end()
        if self.damaged_at is not None and self.follower is not None:
            self.resign()
            self.cut()
        if self.fitness.must_report(self.metadata.isr, self.metadata.leader):
            report = (self.broker_epoch, self.fitness.lost_tail, self.fitness.losses)
            self.world.send("unfit", self.id, CONTROLLER, report)

    def on_unfit_answer(self, _src, broker_epoch, in_isr, partition_epoch, losses):
        is_out = broker_epoch == self.broker_epoch and not in_isr
        if is_out and self.fitness.left_isr(partition_epoch, losses):
            self.world.events["refilled"] += 1

    def on_metadata(self, src, metadata):
        is_news = metadata.broker_epochs[self.id] == self.broker_epoch and (
            self.metadata is None or metadata.version > self.metadata.version
        )
        if is_news and self.fitness.observe(metadata.isr, metadata.partition_epoch):
            self.world.events["refilled"] += 1
        super().on_metadata(src, metadata)

    def become_leader(self, metadata):
        if self.fitness.lost_tail:
            self.resign()
            return
        super().become_leader(metadata)

    def on_fetch(self, src, broker_epoch, position):
        if self.damaged_at is not None and position.offset <= self.damaged_at:
            return  # An error is all that the follower gets.
        super().on_fetch(src, broker_epoch, position)

    def on_fetched(self, src, position, diverging, *answer):
        follower = self.follower
        if (
            follower is not None
            and diverging is None
            and self.synced == len(self.log)
            and position == follower.fetch_position
        ):
            self.fitness.leader_answered()
        super().on_fetched(src, position, diverging, *answer)

    def truncate(self, end):
        if self.alive and not self.fitness.lost_tail:
            self.witnessed_end = min(self.witnessed_end, end)
        super().truncate(end)


class ReportedController(Controller):
    """Takes reports as `unfit_replica_handlers` does."""

    def report_unfit(self, broker_id, broker_epoch, *, lost_tail):
        """Whether it is still in the ISR, and the partition epoch; None for a stale report."""
        if self.brokers[broker_id].broker_epoch != broker_epoch:
            return None
        remaining = tuple(member for member in self.isr if member != broker_id)
        if not remaining:
            if self.leader == broker_id and lost_tail:
                self._change(self.isr, None)
            return True, self.partition_epoch
        leader = self.leader
        if leader == broker_id:
            leader = self.elect(remaining)
        if not lost_tail:
            # It has to hear of it before others acknowledge anything without it.
            if leader not in (None, self.leader):
                self._change(self.isr, leader)
            return True, self.partition_epoch
        self._change(remaining, leader)
        return False, self.partition_epoch


class DamagedWorld(World):
    """One cluster, on whose disks damage happens."""

    def __init__(
        self,
        seed,
        *,
        broker_class=DamagedBroker,
        controller_class=ReportedController,
        options=None,
    ):
        # As many other faults as leave room for this one.
        chosen = options or Options.random(Random(seed))
        super().__init__(
            seed, options=chosen, broker_class=broker_class, controller_class=controller_class
        )

    def at_controller(self, kind, src, payload):
        if kind != "unfit":
            super().at_controller(kind, src, payload)
            return
        broker_epoch, lost_tail, losses = payload
        before = self.controller.version
        answer = self.controller.report_unfit(src, broker_epoch, lost_tail=lost_tail)
        if answer is not None:
            self.events["reported"] += 1
            self.send("unfit_answer", CONTROLLER, src, (broker_epoch, *answer, losses))
        if self.controller.version != before:
            self.publish()

    def fault(self):
        if self.rng.random() < DAMAGE:
            self.damage()
        else:
            super().fault()

    def damage(self):
        """Damage a disk, if all others are sound, and some of them in sync."""
        victim = self.rng.choice(self.broker_list)
        if any(map(self.lacks_something, self.broker_list)) or self.controller.isr == (victim.id,):
            return
        if not victim.alive:
            victim.lose_tail(self.rng.randint(1, 4))
            self.events["lost tail"] += victim.lost_unnoticed
        elif victim.synced and victim.metadata is not None:
            victim.damage(self.rng.randrange(victim.synced))
            self.events["damage"] += 1

    def lacks_something(self, broker):
        return broker.lost_unnoticed or not broker.fitness.is_whole or broker.lacks_committed()

    def check(self):
        """Each ISR member holds all that is committed, or knows that it does not."""
        if not self.controller.isr:
            raise self.violated("the ISR is empty")
        for broker_id in self.controller.isr:
            broker = self.brokers[broker_id]
            known = broker.lost_unnoticed or broker.fitness.lost_tail
            if broker.lacks_committed() and not known:
                raise self.violated(f"ISR member {broker_id} lacks a record and does not know it")

    def leads(self, broker, leader_epoch):
        super().leads(broker, leader_epoch)
        if broker.lacks_committed():
            raise self.violated(f"{broker.id} leads without a committed record")

    def _check_copies(self, end):
        """Copies may be lost after they were acknowledged; `check` looks at who knows."""

    def heal(self):
        try:
            super().heal()
        except InvariantViolationError:
            isr = self.controller.isr
            if len(isr) > 1 or self.brokers[isr[0]].fitness.is_whole:
                raise
            # Nobody else is known to hold everything, so that an operator has to decide.
            self.events["left to an operator"] += 1

    def converged(self):
        return super().converged() and all(b.fitness.is_whole for b in self.broker_list)


def lacks_committed(broker):
    """Whether the broker's disk misses a committed record, or has another in its place."""
    committed = broker.world.committed
    end = len(committed)
    return bool(end) and (broker.synced < end or broker.log[end - 1] != committed[end - 1])


DamagedBroker.lacks_committed = lacks_committed


# --- planted bugs ---------------------------------------------------------------------------------


class IgnoresTheWitness(DamagedBroker):
    """A log is as long as it is."""

    def has_lost_tail(self):
        return False


class ForgetsThatItWasShort(DamagedBroker):
    """A restart in the middle of a refill makes a short log look like any other."""

    def has_lost_tail(self):
        return self.witnessed_end > len(self.log)


class WitnessAhead(DamagedBroker):
    """The end is written down before the log is synced up to it."""

    def note_end(self):
        if not self.fitness.lost_tail:
            self.is_short = False
            self.witnessed_end = len(self.log)

    def append(self, record):
        super().append(record)
        self.note_end()


class StaysInTheIsr(ReplicaFitness):
    """Nobody is told; whoever is in the ISR counts as whole."""

    def must_report(self, isr, leader):
        return False

    def observe(self, isr, partition_epoch):
        if self._lost_tail and self._node_id in isr:
            self._lost_tail = False
            return True
        return False


class ReportsBeforeTheLeaderKnows(ReplicaFitness):
    """The leader may let the replica in on the word of its last fetch."""

    def cut(self):
        super().cut()
        self._leader_knows = True


class TakesDamageForTheEnd(DamagedBroker):
    """A leader's log ends where it cannot be read, and it goes on leading."""

    def damage(self, offset):
        if self.leader is None:
            super().damage(offset)
            return
        self.truncate(offset)
        self.high_watermark = min(self.high_watermark, offset)
        self.become_leader(self.metadata)


class LeadsWithAShortLog(DamagedBroker):
    """Whoever is elected leads, and the others cut what it has lost."""

    def become_leader(self, metadata):
        Broker.become_leader(self, metadata)


def with_fitness(fitness_class):
    return type(fitness_class.__name__, (DamagedBroker,), {"fitness_class": fitness_class})


MUTANTS = {
    "ignores_the_witness": IgnoresTheWitness,
    "forgets_that_it_was_short": ForgetsThatItWasShort,
    "witness_ahead": WitnessAhead,
    "stays_in_the_isr": with_fitness(StaysInTheIsr),
    "reports_before_the_leader_knows": with_fitness(ReportsBeforeTheLeaderKnows),
    "takes_damage_for_the_end": TakesDamageForTheEnd,
    "leads_with_a_short_log": LeadsWithAShortLog,
}
