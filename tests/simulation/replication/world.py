"""The simulated cluster: network, clock, faults, clients, and what must hold after every step.

One seed is one run: a phase with the faults that the seed picked, then a phase without any, in
which everything must come together again. Everything random comes from the seed's one generator.
"""

from collections import Counter
from dataclasses import dataclass, replace
from random import Random

from tests.simulation.replication.broker import CONTROLLER, SESSION_TIMEOUT_MS, Broker
from tests.simulation.replication.controller import Controller

FAULTY_STEPS = 300
HEAL_ROUNDS_MAX = 120
HEAL_ROUND_MS = 30
MESSAGES_MAX = 60
"""Beyond that many messages in the network, the oldest is lost."""


class InvariantViolationError(AssertionError):
    """A run broke a rule; the text names the seed, the step and the rule."""


@dataclass(frozen=True, slots=True)
class Options:
    """Which faults a run has; probabilities are per step or per message."""

    loss: float = 0.0
    duplication: float = 0.0
    partitions: float = 0.0
    pauses: float = 0.0
    power_losses: float = 0.0
    total_power_losses: float = 0.0
    restarts: float = 0.0
    leader_moves: float = 0.0
    wipes: float = 0.0
    acks_one: float = 0.0
    enforce_lease: bool = True

    @classmethod
    def random(cls, rng: Random) -> "Options":
        """A random subset of the faults, some of them rarely, some often."""

        def maybe(probability: float) -> float:
            return probability * rng.choice((0.0, 0.0, 0.3, 1.0))

        return cls(
            loss=maybe(0.1),
            duplication=maybe(0.15),
            partitions=maybe(0.03),
            pauses=maybe(0.02),
            power_losses=maybe(0.03),
            total_power_losses=maybe(0.004),
            restarts=maybe(0.02),
            leader_moves=maybe(0.02),
            wipes=maybe(0.06),
            acks_one=maybe(0.3),
            enforce_lease=rng.random() < 0.5,
        )


class World:
    """One cluster with one partition."""

    def __init__(
        self,
        seed: int = 0,
        *,
        broker_count: int = 3,
        options: Options | None = None,
        broker_class: type[Broker] = Broker,
        controller_class: type[Controller] = Controller,
    ) -> None:
        self.seed = seed
        self.rng = Random(seed)
        self.options = Options.random(self.rng) if options is None else options
        self.now_ms = 0
        self.step_count = 0
        self.replicas = tuple(range(1, broker_count + 1))
        self.min_isr = broker_count // 2 + 1
        self.network: list[tuple[str, int, int, tuple]] = []
        self.blocked: set[tuple[int, int]] = set()
        self.next_value = 0
        # What anybody was ever shown, by offset: it never changes and never goes away.
        self.committed: list[tuple[int, int]] = []
        self.acknowledged: list[int] = []
        self.leader_of_epoch: dict[int, tuple[int, int]] = {}
        # What happened how often, to tell a run that tested something from one that did not.
        self.events: Counter[str] = Counter()
        self.controller = controller_class(self.replicas, SESSION_TIMEOUT_MS)
        self.brokers = {broker_id: broker_class(self, broker_id) for broker_id in self.replicas}
        self.broker_list = list(self.brokers.values())
        for broker in self.broker_list:
            broker.broker_epoch = self.controller.brokers[broker.id].broker_epoch
            broker.lease.confirmed(0)
            broker.on_metadata(CONTROLLER, self.controller.metadata)

    # --- what must hold -------------------------------------------------------------------------

    def violated(self, rule: str) -> InvariantViolationError:
        return InvariantViolationError(
            f"seed {self.seed}, {len(self.replicas)} brokers, step {self.step_count}: {rule}"
            f" ({self.options})"
        )

    def check(self) -> None:
        """After every step: each electable replica durably holds all that is committed."""
        isr = self.controller.isr
        if not isr:
            raise self.violated("the ISR is empty")
        end = len(self.committed)
        if not end:
            return
        last = self.committed[end - 1]
        for broker_id in isr:
            broker = self.brokers[broker_id]
            if broker.synced < end or broker.log[end - 1] != last:
                raise self.violated(f"ISR member {broker_id} lacks a committed record")

    def exposes(self, broker: Broker, high_watermark: int) -> None:
        """A replica shows its log up to here: to clients, and for ever."""
        before = broker.high_watermark
        if high_watermark <= before:
            raise self.violated(f"the high watermark of {broker.id} fell")
        if high_watermark > broker.synced:
            raise self.violated(f"the high watermark of {broker.id} passes what it holds durably")
        committed = self.committed
        known = len(committed)
        shown = broker.log[before:high_watermark]
        if shown[: max(known - before, 0)] != committed[before:high_watermark]:
            raise self.violated(f"two values at one offset, the second shown by {broker.id}")
        broker.high_watermark = high_watermark
        if high_watermark > known:
            committed.extend(broker.log[known:high_watermark])
            self._check_copies(high_watermark)

    def _check_copies(self, end: int) -> None:
        """A record is committed only when at least min ISR disks have it."""
        last = self.committed[end - 1]
        copies = sum(b.synced >= end and b.log[end - 1] == last for b in self.broker_list)
        if copies < self.min_isr:
            raise self.violated(f"offset {end - 1} was committed with {copies} copies")

    def acknowledges(self, broker: Broker, offset: int) -> None:
        if offset >= len(self.committed) or self.committed[offset] != broker.log[offset]:
            raise self.violated(f"offset {offset} was acknowledged but is not committed")
        self.acknowledged.append(offset)

    def truncates(self, broker: Broker, end: int) -> None:
        if end < broker.high_watermark:
            raise self.violated(f"{broker.id} cut its log below its high watermark")
        self.events["truncation"] += 1

    def leads(self, broker: Broker, leader_epoch: int) -> None:
        claim = (broker.id, broker.incarnation)
        if self.leader_of_epoch.setdefault(leader_epoch, claim) != claim:
            raise self.violated(f"two leaders of epoch {leader_epoch}")

    def read_latest(self, broker: Broker) -> None:
        """A leader that holds its lease denies nothing that was acknowledged.

        It neither gives a `latest` below it nor reads there as if nothing were.
        """
        leader = broker.leader
        if leader is None or not broker.lease.valid(self.now_ms):
            return
        end = max(self.acknowledged, default=-1) + 1
        if leader.latest_offset_available and leader.high_watermark < end:
            raise self.violated(f"{broker.id} gave a stale latest offset")
        if leader.high_watermark < end and not leader.may_be_acknowledged(end - 1):
            raise self.violated(f"{broker.id} has nothing at {end - 1}, which was acknowledged")
        self.events["latest read"] += 1

    # --- network --------------------------------------------------------------------------------

    def send(self, kind: str, src: int, dst: int, payload: tuple) -> None:
        if len(self.network) >= MESSAGES_MAX:
            self.network.pop(0)
        self.network.append((kind, src, dst, payload))

    def deliver(self, index: int) -> None:
        """Deliver one message, unless its link is cut; a stopped receiver leaves it waiting."""
        message = self.network[index]
        kind, src, dst, payload = message
        if dst != CONTROLLER:
            broker = self.brokers[dst]
            if broker.paused_until_ms > self.now_ms:
                return
            del self.network[index]
            if broker.alive and (src, dst) not in self.blocked:
                getattr(broker, "on_" + kind)(src, *payload)
            return
        del self.network[index]
        if (src, dst) not in self.blocked:
            self.at_controller(kind, src, payload)

    def at_controller(self, kind: str, src: int, payload: tuple) -> None:
        controller = self.controller
        before = controller.version
        if kind == "heartbeat":
            broker_epoch, version, sent_at_ms = payload
            unfenced = controller.heartbeat(src, broker_epoch, version, self.now_ms)
            answer = (broker_epoch, sent_at_ms, unfenced, controller.metadata)
            self.send("heartbeat_answer", CONTROLLER, src, answer)
        elif kind == "alter":
            broker_epoch, proposal = payload
            members = len(controller.isr)
            partition_epoch = controller.alter_isr(src, broker_epoch, proposal)
            self.events[_outcome(members, proposal, partition_epoch)] += 1
            self.send("altered", CONTROLLER, src, (proposal, partition_epoch))
        else:
            (incarnation,) = payload
            broker_epoch = controller.register(src, incarnation, self.now_ms)
            self.send("registered", CONTROLLER, src, (incarnation, broker_epoch))
        if controller.version != before:
            self.publish()

    def publish(self) -> None:
        metadata = self.controller.metadata
        for broker_id in self.replicas:
            self.send("metadata", CONTROLLER, broker_id, (metadata,))

    def controller_tick(self) -> None:
        before = self.controller.version
        self.controller.tick(self.now_ms)
        if self.controller.version != before:
            self.publish()

    # --- the phase with faults ------------------------------------------------------------------

    def run(self) -> None:
        for _ in range(FAULTY_STEPS):
            self.step()
            self.check()
        self.heal()

    def step(self) -> None:
        rng = self.rng
        random = rng.random
        self.step_count += 1
        self.now_ms += int(random() * 12)
        choice = random()
        if choice < 0.56:
            self.deliver_any()
        elif choice < 0.72:
            broker = self.broker_list[int(random() * len(self.broker_list))]
            if broker.alive and broker.paused_until_ms <= self.now_ms:
                broker.tick()
        elif choice < 0.82:
            for broker in self.broker_list:
                if broker.synced < len(broker.log) and broker.paused_until_ms <= self.now_ms:
                    broker.sync()
                    break
        elif choice < 0.92:
            self.client()
        elif choice < 0.95:
            self.controller_tick()
        else:
            self.fault()

    def deliver_any(self) -> None:
        if not self.network:
            return
        random = self.rng.random
        # Mostly the oldest ones: a network delays more often than it reorders.
        index = int(random() * random() * len(self.network))
        options = self.options
        if options.loss and random() < options.loss:
            del self.network[index]
            return
        # A proposal is one attempt over one connection, which TCP does not repeat.
        once = self.network[index][0] == "alter"
        if options.duplication and random() < options.duplication and not once:
            self.network.append(self.network[index])
        self.deliver(index)

    def client(self) -> None:
        random = self.rng.random
        leading = [b for b in self.broker_list if b.leader is not None]
        if not leading:
            return
        broker = leading[int(random() * len(leading))]
        if broker.paused_until_ms > self.now_ms:
            return
        if self.options.enforce_lease and not self.options.leader_moves:
            self.read_latest(broker)
        self.produce(broker, acks_all=random() >= self.options.acks_one)

    def produce(self, broker: Broker, *, acks_all: bool = True) -> bool:
        self.next_value += 1
        return broker.produce(self.next_value, acks_all=acks_all)

    def fault(self) -> None:
        """One fault, or the end of one; probabilities are scaled to this branch of a step."""
        rng = self.rng
        options = self.options
        broker = rng.choice(self.broker_list)
        scale = 1 / 0.05
        if not broker.alive and rng.random() < 0.6:
            self.restart(broker)
        elif self.blocked and rng.random() < 0.4:
            self.blocked.clear()
        elif rng.random() < options.partitions * scale:
            self.events["partition"] += 1
            self.partition(broker)
        elif rng.random() < options.pauses * scale:
            self.events["pause"] += 1
            broker.paused_until_ms = self.now_ms + rng.randrange(100, 900)
        elif rng.random() < options.power_losses * scale:
            self.events["power loss"] += 1
            self.lose_power(broker)
        elif rng.random() < options.total_power_losses * scale:
            self.events["total power loss"] += 1
            for other in self.broker_list:
                self.lose_power(other)
        elif rng.random() < options.restarts * scale:
            if broker.alive:
                self.events["clean restart"] += 1
                broker.sync()
                self.lose_power(broker)
                self.restart(broker)
        elif rng.random() < options.leader_moves * scale:
            self.events["leader move"] += 1
            self.controller.move_leader(broker.id)
            self.publish()
        elif rng.random() < options.wipes * scale:
            self.replace_disk(broker)

    def partition(self, broker: Broker) -> None:
        """Cut a broker off: from everybody, from its peers or from the controller, or one way."""
        rng = self.rng
        peers = [CONTROLLER, *self.replicas]
        others = rng.choice([peers, self.replicas, [CONTROLLER], [rng.choice(peers)]])
        directions = rng.choice([(True, True), (True, False), (False, True)])
        for other in others:
            if directions[0]:
                self.blocked.add((broker.id, other))
            if directions[1]:
                self.blocked.add((other, broker.id))

    def lose_power(self, broker: Broker) -> None:
        if not broker.alive:
            return
        unsynced = len(broker.log) - broker.synced
        broker.stop(self.rng.randint(0, unsynced))
        if self.rng.random() < 0.5:
            broker.checkpointed_high_watermark = broker.high_watermark

    def restart(self, broker: Broker) -> None:
        broker.start()

    def replace_disk(self, broker: Broker) -> None:
        """A dead broker outside the ISR comes back empty, and its new incarnation is known."""
        if broker.alive or broker.id in self.controller.isr:
            return
        self.events["replaced disk"] += 1
        broker.wipe()
        broker.start()
        epoch = self.controller.register(broker.id, broker.incarnation, self.now_ms)
        broker.on_registered(CONTROLLER, broker.incarnation, epoch)
        self.publish()

    # --- the phase without faults ---------------------------------------------------------------

    def heal(self) -> None:
        """Without faults all replicas become equal and in sync, and new records commit."""
        self.options = replace(self.options, loss=0.0, duplication=0.0)
        self.blocked.clear()
        for broker in self.broker_list:
            broker.paused_until_ms = 0
            if not broker.alive:
                broker.start()
        self._until(self.converged, "the replicas did not converge")
        last = len(self.acknowledged)
        if not self.produce(self.brokers[self.controller.leader]):
            raise self.violated("the leader of a healed cluster refuses a record")
        self._until(
            lambda: len(self.acknowledged) > last and self.converged(), "a new record was not acked"
        )
        log = self.brokers[self.controller.leader].log
        if log[: len(self.committed)] != self.committed:
            raise self.violated("a committed record is lost or moved")

    def _until(self, condition, complaint: str) -> None:
        for _ in range(HEAL_ROUNDS_MAX):
            if condition():
                return
            self.round()
        raise self.violated(complaint)

    def round(self) -> None:
        """Everybody acts once, and all messages arrive in order."""
        self.step_count += 1
        self.now_ms += HEAL_ROUND_MS
        self.controller_tick()
        for broker in self.broker_list:
            broker.tick()
        self.settle()

    def settle(self) -> None:
        """Deliver and sync until the network is silent."""
        while self.network:
            self.deliver(0)
            self.check()
            for broker in self.broker_list:
                if broker.synced < len(broker.log):
                    broker.sync()
                    self.check()

    def converged(self) -> bool:
        controller = self.controller
        if controller.leader is None or len(controller.isr) < len(self.replicas):
            return False
        leading = self.brokers[controller.leader]
        if leading.leader is None or leading.leader.leader_epoch != controller.leader_epoch:
            return False
        if set(leading.leader.isr) != set(controller.isr):
            return False  # It has not heard yet whom the controller has let in.
        if not leading.lease.valid(self.now_ms + SESSION_TIMEOUT_MS // 2):
            return False  # It may still lose its leadership to the faults of before.
        log = leading.log
        return all(
            b.log == log and b.synced == b.high_watermark == len(log) for b in self.broker_list
        )


def _outcome(members: int, proposal, partition_epoch: int | None) -> str:
    if partition_epoch is None:
        return "ISR refused"
    if len(proposal.isr) == members:
        return "ISR confirmed"
    return "ISR expanded" if len(proposal.isr) > members else "ISR shrunk"
