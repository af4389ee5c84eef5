"""Networks that do not carry everything, everywhere, soon or in one piece.

Of each partition a datagram is seen not to arrive that arrived before, and what the cluster must
make of it: whoever cannot be heard loses what it led.
"""

import threading
from concurrent.futures import ThreadPoolExecutor

from ottla_protocol import routes
from tests.chaos.nemesis import Nemesis
from tests.chaos.world import PORT
from tests.cluster.awaiting import eventually

LOSS_SHARES = (0.05, 0.15, 0.3)
RATES = ("1mbit", "4mbit")
CUT_EVERY_S = 0.15
PASSES_WITHIN_S = 5.0
MOVES_BACK_WITHIN_S = 30.0


class NetworkFault(Nemesis):
    """Whatever is done to the network is undone as a whole.

    Attributes:
        silent: pairs of a sender and a receiver between whom nothing may pass.
    """

    def inject(self):
        self.silent = []
        told = self.plan()
        for pair in self.silent:
            eventually(lambda pair=pair: self.world.network.passes(*pair), PASSES_WITHIN_S)
        for sender, receiver in self.silent:
            self.world.network.drop(sender, receiver)
        return told

    def is_felt(self):
        with ThreadPoolExecutor(len(self.silent)) as threads:
            passes = any(threads.map(lambda pair: self.world.network.passes(*pair), self.silent))
        return not passes and self.is_noticed()

    def heal(self):
        self.world.network.heal()

    def separate(self, one_side, other_side):
        """Have nothing pass between them, both ways; 0 is the clients' side."""
        self.silent += [(one, other) for one in one_side for other in other_side]
        self.silent += [(other, one) for one in one_side for other in other_side]

    def plan(self):
        """Fill `silent`; returns whom it strikes, in words."""
        raise NotImplementedError

    def is_noticed(self):
        """Whether the cluster, or its clients, make of it what they must."""
        raise NotImplementedError


class PartitionMinority(NetworkFault):
    """A minority with a leader in it sees nobody; clients see all, or only the majority."""

    def plan(self):
        leader = self.some_leader()
        others = self.numbers.sample(self.world.others(leader), self.world.minority - 1)
        self.minority = [leader, *others]
        self.majority = self.world.others(*self.minority)
        with_clients = self.numbers.random() < 0.5
        far_side = self.majority if with_clients else [0, *self.majority]
        self.separate(self.minority, far_side)
        return f"{self.minority} from {far_side}"

    def is_noticed(self):
        return not self.leads(self.minority, via=self.majority[0])


class PartitionController(NetworkFault):
    """The active controller sees no other broker."""

    def plan(self):
        self.controller = self.world.controller()
        self.far_side = self.world.others(self.controller)
        self.separate([self.controller], self.far_side)
        return f"{self.controller} from {self.far_side}"

    def is_noticed(self):
        told = self.ask(self.far_side[0], routes.CLUSTER).expect(200).document["controller"]
        return told not in (None, self.controller)


class OneWayOut(NetworkFault):
    """Nothing that one leader sends to other brokers arrives; it hears everything."""

    def plan(self):
        self.node = self.some_leader()
        self.silent = [(self.node, other) for other in self.world.others(self.node)]
        return f"what {self.node} sends"

    def is_noticed(self):
        other = self.world.others(self.node)[0]
        return self.world.network.passes(other, self.node) and not self.leads([self.node], other)


class OneWayIn(NetworkFault):
    """Nothing arrives at one leader; everybody hears it."""

    def plan(self):
        self.node = self.some_leader()
        self.silent = [(other, self.node) for other in self.world.others(self.node)]
        return f"what is sent to {self.node}"

    def is_noticed(self):
        other = self.world.others(self.node)[0]
        return self.world.network.passes(self.node, other) and not self.leads([self.node], other)


class Bridge(NetworkFault):
    """Two halves that see only one broker in common."""

    def plan(self):
        nodes = list(self.world.node_ids)
        self.numbers.shuffle(nodes)
        self.middle, *rest = nodes
        half = len(rest) // 2
        sides = rest[:half], rest[half:]
        self.separate(*sides)
        self.parted = parted(self.partitions(self.middle), self.silent)
        return f"{sides[0]} from {sides[1]}, {self.middle} sees all"

    def is_noticed(self):
        """Where a leader has a follower on the other side; there need not be any."""
        return not self.parted or left_isr(self.parted, self.partitions(self.middle))


class LeaderWithoutFollowers(NetworkFault):
    """A leader reaches the controller and none of the others; nor do they reach it."""

    lasts_s = (2.0, 15.0)

    def plan(self):
        self.controller, leader = eventually(self._choose, MOVES_BACK_WITHIN_S)
        followers = self.world.others(self.controller, leader)
        self.separate([leader], followers)
        self.parted = [
            (partition, leader_of, follower)
            for partition, leader_of, follower in parted(
                self.partitions(self.controller), self.silent
            )
            if leader_of == leader
        ]
        return f"{leader} from {followers}, controller {self.controller} sees all"

    def _choose(self):
        """Whoever leads something without being the controller; after a while somebody does."""
        controller = self.world.controller()
        led = {state["leader"] for state in self.partitions(controller)} - {None, controller}
        if not led:
            self.world.client.http.post(self.world.client.any_url() + "/v1/elections", {})
            return False
        return controller, self.numbers.choice(sorted(led))

    def is_noticed(self):
        return left_isr(self.parted, self.partitions(self.controller))


class ClientsCutOff(NetworkFault):
    """Clients do not reach one broker, which is well otherwise."""

    def plan(self):
        self.node = self.some_leader()
        self.separate([0], [self.node])
        return f"clients from {self.node}"

    def is_noticed(self):
        return not self.world.client.answers_quickly(self.node)


class PacketLoss(Nemesis):
    """A share of the packets from and to some brokers is lost."""

    def inject(self):
        self.nodes = self.numbers.sample(
            self.world.node_ids, self.numbers.randint(1, len(self.world.node_ids))
        )
        share = self.numbers.choice(LOSS_SHARES)
        for node in self.nodes:
            self.world.network.lose(node, share)
        return f"{share:.0%} at {self.nodes}"

    def is_felt(self):
        return all(self.world.network.lost_packets(node) > 0 for node in self.nodes)

    def heal(self):
        for node in self.nodes:
            self.world.network.repair_link(node)


class SlowLink(Nemesis):
    """A broker's link takes in and gives out very little."""

    def inject(self):
        self.node, rate = self.some_node(), self.numbers.choice(RATES)
        self.world.network.slow_down(self.node, rate)
        return f"{rate} at {self.node}"

    def is_felt(self):
        """Whether packets had to wait."""
        return self.world.network.delayed_packets(self.node) > 0

    def heal(self):
        self.world.network.repair_link(self.node)


class CutConnections(Nemesis):
    """All connections of one broker after the other are reset, in the middle of what they carry."""

    def inject(self):
        self.cut = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._cut_on, name="cut")
        self._thread.start()
        return "all brokers in turns"

    def _cut_on(self):
        while not self._ended.wait(self.numbers.uniform(0, 2 * CUT_EVERY_S)):
            self.cut += self.world.network.reset_connections(self.some_node(), PORT)

    def is_felt(self):
        return bool(self.cut)

    def heal(self):
        self._ended.set()
        self._thread.join()


class CutSlowConnections(CutConnections):
    """The same on links so slow that large bodies are under way when it happens."""

    def inject(self):
        for node in self.world.node_ids:
            self.world.network.slow_down(node, "8mbit")
        return super().inject() + ", at 8 Mbit/s"

    def is_felt(self):
        """Whether a connection was cut with bytes in it that nobody had taken yet."""
        return any(bytes_under_way > 0 for bytes_under_way in self.cut)

    def heal(self):
        super().heal()
        for node in self.world.node_ids:
            self.world.network.repair_link(node)


def parted(states, silent):
    """(partition, leader, follower) of all in sync between whom nothing passes."""
    return [
        (state["partition"], state["leader"], follower)
        for state in states
        for follower in state["isr"]
        if (follower, state["leader"]) in silent
    ]


def left_isr(pairs, states):
    """Whether one of these followers is out of its leader's ISR, or has another leader."""
    now = {state["partition"]: state for state in states}
    return any(
        now[partition]["leader"] != leader or follower not in now[partition]["isr"]
        for partition, leader, follower in pairs
    )
