"""What a fault is: made by `inject`, seen by `is_felt`, taken away by `heal`.

A nemesis is made anew for each time. Whom it strikes is decided in `inject`, from the seeded random
numbers that it is given and from who leads at that moment.

That `inject` did what it does proves nothing: a wrong tool, a file that nobody reads any more or an
address that nobody uses would make a run that is clean for want of faults. So `fired` becomes true
only by what is seen of the effect, by another means than it was made with: a process that is gone,
a broker's own metric, a datagram that does not arrive, a time that a broker tells. A run in which a
fault had its turn and was never seen fails.
"""

from ottla_protocol import routes
from tests.chaos.world import TOPIC

EXIT_STORAGE = 74
"""How a broker ends whose storage fails: decision 17."""
EXIT_TIMEOUT_S = 30.0
ANSWER_TIMEOUT_S = 2.0


class Nemesis:
    """One fault, once.

    Attributes:
        needs: what of the machine or the world it takes: "disks", "strace".
        settles_s: for how long the fault may go on working after `heal`, beyond what every fault
            is given.
        lingers: whether that may also be during later faults: what it broke is found some time.
        may_end_with: the exit codes with which a broker may rightly give up; its supervisor starts
            it again. Any other end is a problem.
        lasts_s: between which spans it is chosen for how long it stays; None for the run's own.
        felt_within_s: for how long it stays beyond that to be seen; 0 where only `heal` can tell.
        fired: whether it was seen to work.
    """

    needs = frozenset()
    settles_s = 0.0
    lingers = False
    may_end_with = frozenset()
    lasts_s = None
    felt_within_s = 20.0

    def __init__(self, world, numbers):
        self.world = world
        self.numbers = numbers
        self.fired = False

    def inject(self):
        """Break something; returns what, in words."""
        raise NotImplementedError

    def is_felt(self):
        """Whether its effect is seen now; asked again and again until it is, or time is up.

        It may assert, and ask whom it does not reach: that is a no.
        """
        return self.fired

    def heal(self):
        """Put it right, however far `inject` came; what was broken may take its time to recover."""

    # --- whom to strike, and what is to be seen ---------------------------------------------------

    def some_leader(self):
        return self.world.leader(self.numbers.randrange(self.world.partitions))

    def some_follower(self):
        return self.numbers.choice(self.world.others(self.some_leader()))

    def some_node(self):
        return self.numbers.choice(self.world.node_ids)

    def ask(self, node, path):
        """What one broker answers; soon, or that is an answer, too."""
        url = self.world.client.url(node) + path
        return self.world.client.http.get(url, timeout_s=ANSWER_TIMEOUT_S)

    def partitions(self, via):
        """What that broker knows of the topic's partitions: leaders and ISRs."""
        return self.ask(via, f"{routes.TOPICS}/{TOPIC}").expect(200).document["partitions"]

    def leads(self, nodes, via):
        """Whether one of these brokers leads a partition, as that one knows."""
        return any(state["leader"] in nodes for state in self.partitions(via))

    def metric(self, node, name):
        """A sample of a broker's metrics."""
        for line in self.ask(node, routes.METRICS).expect(200).text.splitlines():
            sample, _, value = line.rpartition(" ")
            if sample == name:
                return float(value)
        raise AssertionError(f"broker {node} has no metric {name}")
