"""Faults that can be put upon a running cluster and taken away again, by name.

A nemesis is made anew for each time: `inject` breaks something and returns in words what, `heal`
puts it right. Whom it strikes is decided in `inject`, from the seeded random numbers that it is
given and from who leads at that moment. `fired` says afterwards whether the fault was really in
effect: one that never was proves nothing, so the checker fails a run that counts on it.

Everything here stays within what a cluster has to bear, or else only takes time: what was
acknowledged must survive in any case.
"""

import itertools
import shutil
import threading
import time
from contextlib import suppress
from pathlib import Path

from ottla_broker.storage.segment import is_sealed
from tests.chaos import bit_flips, shifted_clock
from tests.chaos.faulty_disks import failing_calls, fill_up, run
from tests.chaos.world import PORT, START_TIMEOUT_S, TOPIC
from tests.cluster.awaiting import eventually

EXIT_STORAGE = 74
EXIT_TIMEOUT_S = 30.0
LOSS_SHARES = (0.05, 0.15, 0.3)
RATES = ("1mbit", "4mbit")
CUT_EVERY_S = 0.15
CLOCK_SHIFTS_S = (-7200, 7200, 30 * 24 * 3600, -1, 60)
DRIFT_STEP_S = 2
DESCRIPTORS_LEFT = 2
FLIPS = 3
SEALED_TIMEOUT_S = 60.0


class Nemesis:
    """One fault, once.

    Attributes:
        needs: what of the machine or the world it takes: "disks", "strace".
        settles_s: for how long the fault may go on working after `heal`, beyond what every fault
            is given.
        lingers: whether that may also be during later faults: what it broke is found some time.
        may_end_brokers: whether a broker may rightly give up; its supervisor starts it again.
        lasts_s: between which spans it is chosen for how long it stays; None for the run's own.
    """

    needs = frozenset()
    settles_s = 0.0
    lingers = False
    may_end_brokers = False
    lasts_s = None

    def __init__(self, world, numbers):
        self.world = world
        self.numbers = numbers
        self.fired = False

    def inject(self):
        """Break something; returns what, in words."""
        raise NotImplementedError

    def heal(self):
        """Put it right; what was broken may take its time to recover."""

    def some_leader(self):
        return self.world.leader(self.numbers.randrange(self.world.partitions))

    def some_follower(self):
        return self.numbers.choice(self.world.others(self.some_leader()))

    def some_node(self):
        return self.numbers.choice(self.world.node_ids)


# --- processes ------------------------------------------------------------------------------------


class Kill(Nemesis):
    """SIGKILL one broker; it is started again at the end."""

    def inject(self):
        self.node = self.whom()
        self.world.broker(self.node).kill()
        self.fired = True
        return f"broker {self.node}"

    def heal(self):
        self.world.broker(self.node).start()

    def whom(self):
        raise NotImplementedError


class KillLeader(Kill):
    def whom(self):
        return self.some_leader()


class KillFollower(Kill):
    def whom(self):
        return self.some_follower()


class KillController(Kill):
    def whom(self):
        return self.world.controller()


class KillCoordinator(Kill):
    def whom(self):
        return self.world.coordinator()


class KillClient(Nemesis):
    """SIGKILL one process of clients, amid whatever it does."""

    def inject(self):
        name = self.numbers.choice(sorted(self.world.clients))
        self.world.kill_client(name)
        self.fired = True
        return name


class KillAll(Nemesis):
    """SIGKILL all brokers in one moment."""

    def inject(self):
        self.world.cluster.kill()
        self.fired = True
        return "all brokers"

    def heal(self):
        for broker in self.world.cluster.brokers:
            broker.start()


class Pause(Nemesis):
    """SIGSTOP, then SIGCONT."""

    lasts_s = (1.0, 60.0)

    def inject(self):
        self.nodes = self.whom()
        for node in self.nodes:
            self.world.broker(node).pause()
        self.fired = True
        return f"brokers {self.nodes}"

    def heal(self):
        for node in self.nodes:
            self.world.broker(node).resume()

    def whom(self):
        raise NotImplementedError


class PauseLeader(Pause):
    def whom(self):
        return [self.some_leader()]


class PauseController(Pause):
    def whom(self):
        return [self.world.controller()]


class PauseMinority(Pause):
    def whom(self):
        return self.numbers.sample(self.world.node_ids, self.world.minority)


class PauseAll(Pause):
    """Nobody is there; and all wake at nearly the same moment."""

    lasts_s = (1.0, 8.0)

    def whom(self):
        return list(self.world.node_ids)


class PauseInShortBursts(Nemesis):
    """One broker that stalls again and again, for less than its session and for more."""

    def inject(self):
        self.node = self.some_leader()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._stutter, name="stutter")
        self._thread.start()
        return f"broker {self.node}"

    def _stutter(self):
        while not self._ended.wait(self.numbers.uniform(0.1, 0.8)):
            self.world.broker(self.node).pause()
            self._ended.wait(self.numbers.uniform(0.2, 2.0))
            self.world.broker(self.node).resume()
            self.fired = True

    def heal(self):
        self._ended.set()
        self._thread.join()


class RollingRestart(Nemesis):
    """SIGTERM and start one broker after the other, each after the last one is in sync again."""

    def inject(self):
        for node in self.world.node_ids:
            exit_code = self.world.broker(node).terminate(EXIT_TIMEOUT_S)
            assert exit_code == 0, f"broker {node} stopped with {exit_code}"
            self.world.broker(node).start()
            self.world.wait_whole(START_TIMEOUT_S)
        self.fired = True
        return "all brokers, one after the other"


# --- network --------------------------------------------------------------------------------------


class NetworkFault(Nemesis):
    """Whatever is done to the network is undone as a whole."""

    def inject(self):
        told = self.break_network()
        self.fired = True
        return told

    def heal(self):
        self.world.network.heal()

    def break_network(self):
        raise NotImplementedError


class PartitionMinority(NetworkFault):
    """A minority with a leader in it sees nobody; clients see all, or only the majority."""

    def break_network(self):
        leader = self.some_leader()
        others = self.numbers.sample(self.world.others(leader), self.world.minority - 1)
        minority = [leader, *others]
        majority = self.world.others(*minority)
        with_clients = self.numbers.random() < 0.5
        if not with_clients:
            majority = [0, *majority]
        self.world.network.partition(minority, majority)
        return f"{minority} from {majority}"


class PartitionController(NetworkFault):
    """The active controller sees no other broker."""

    def break_network(self):
        controller = self.world.controller()
        others = self.world.others(controller)
        self.world.network.partition([controller], others)
        return f"{controller} from {others}"


class OneWayOut(NetworkFault):
    """Nothing that one leader sends to other brokers arrives; it hears everything."""

    def break_network(self):
        node = self.some_leader()
        for other in self.world.others(node):
            self.world.network.drop(node, other)
        return f"what {node} sends"


class OneWayIn(NetworkFault):
    """Nothing arrives at one leader; everybody hears it."""

    def break_network(self):
        node = self.some_leader()
        for other in self.world.others(node):
            self.world.network.drop(other, node)
        return f"what is sent to {node}"


class Bridge(NetworkFault):
    """Two halves that see only one broker in common."""

    def break_network(self):
        nodes = list(self.world.node_ids)
        self.numbers.shuffle(nodes)
        middle, *rest = nodes
        half = len(rest) // 2
        self.world.network.partition(rest[:half], rest[half:])
        return f"{rest[:half]} from {rest[half:]}, {middle} sees all"


class LeaderWithoutFollowers(NetworkFault):
    """A leader reaches the controller and none of the others; nor do they reach it."""

    def break_network(self):
        controller = self.world.controller()
        leader = self.some_leader()
        if leader == controller:
            leader = self.numbers.choice(self.world.others(controller))
        followers = self.world.others(controller, leader)
        self.world.network.partition([leader], followers)
        return f"{leader} from {followers}, controller {controller} sees all"


class ClientsCutOff(NetworkFault):
    """Clients do not reach one broker, which is well otherwise."""

    def break_network(self):
        node = self.some_leader()
        self.world.network.partition([0], [node])
        return f"clients from {node}"


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

    def heal(self):
        for node in self.nodes:
            self.fired = self.fired or self.world.network.lost_packets(node) > 0
            self.world.network.repair_link(node)


class SlowLink(Nemesis):
    """A broker's link takes in and gives out very little."""

    def inject(self):
        self.node, rate = self.some_node(), self.numbers.choice(RATES)
        self.world.network.slow_down(self.node, rate)
        self.fired = True
        return f"{rate} at {self.node}"

    def heal(self):
        self.world.network.repair_link(self.node)


class CutConnections(Nemesis):
    """All connections of one broker after the other are reset, in the middle of what they carry."""

    def inject(self):
        self.cut = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._cut_on, name="cut")
        self._thread.start()
        return "all brokers in turns"

    def _cut_on(self):
        while not self._ended.wait(self.numbers.uniform(0, 2 * CUT_EVERY_S)):
            self.cut += self.world.network.reset_connections(self.some_node(), PORT)

    def heal(self):
        self._ended.set()
        self._thread.join()
        self.fired = self.cut > 0


class CutSlowConnections(CutConnections):
    """The same on links so slow that large bodies are under way when it happens."""

    def inject(self):
        for node in self.world.node_ids:
            self.world.network.slow_down(node, "8mbit")
        return super().inject() + ", at 8 Mbit/s"

    def heal(self):
        super().heal()
        for node in self.world.node_ids:
            self.world.network.repair_link(node)


# --- clocks and descriptors -----------------------------------------------------------------------


class ClockJump(Nemesis):
    """The wall clock of one broker is wrong at a stroke, and right again at another."""

    def inject(self):
        self.node, shift_s = self.some_leader(), self.numbers.choice(CLOCK_SHIFTS_S)
        shifted_clock.set_clock(self.world.clock(self.node), shift_s)
        self.fired = True
        return f"by {shift_s} s at {self.node}"

    def heal(self):
        shifted_clock.set_clock(self.world.clock(self.node), 0)


class ClockDrift(Nemesis):
    """The clocks of all brokers go wrong by steps, each its own way."""

    def inject(self):
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._drift, name="drift")
        self._thread.start()
        return "all brokers"

    def _drift(self):
        for step in itertools.count(1):
            if self._ended.wait(0.3):
                return
            for node in self.world.node_ids:
                direction = 1 if node % 2 else -1
                shifted_clock.set_clock(self.world.clock(node), direction * step * DRIFT_STEP_S)
            self.fired = True

    def heal(self):
        self._ended.set()
        self._thread.join()
        for node in self.world.node_ids:
            shifted_clock.set_clock(self.world.clock(node), 0)


class FewDescriptors(Nemesis):
    """One broker may open hardly any file or connection more."""

    may_end_brokers = True

    def inject(self):
        self.node = self.some_leader()
        pid = self.world.broker(self.node).pid
        self._before = run("prlimit", f"--pid={pid}", "--nofile", "--output=SOFT", "--noheadings")
        held = len(list(Path(f"/proc/{pid}/fd").iterdir()))
        run("prlimit", f"--pid={pid}", f"--nofile={held + DESCRIPTORS_LEFT}:")
        self.fired = True
        return f"{held + DESCRIPTORS_LEFT} at {self.node}"

    def heal(self):
        broker = self.world.broker(self.node)
        if broker.is_running:
            run("prlimit", f"--pid={broker.pid}", f"--nofile={self._before.strip()}:")


# --- disks ----------------------------------------------------------------------------------------


class FullDisk(Nemesis):
    """No byte is free on the disk of one broker, or of all."""

    may_end_brokers = True
    needs = frozenset({"disks"})
    settles_s = 60.0  # A disk that fills up again and again counts as full for up to a minute.

    def inject(self):
        nodes = list(self.world.node_ids) if self.numbers.random() < 0.2 else [self.some_leader()]
        self.ballast = [fill_up(self.world.disks[node].path) for node in nodes]
        self.fired = True
        return f"at {nodes}"

    def heal(self):
        for file in self.ballast:
            file.unlink()


class FailingDisk(Nemesis):
    """System calls of one broker fail; it stops, and is started again on a sound disk."""

    needs = frozenset({"strace"})
    calls = (("fsync,fdatasync", "EIO"), ("pwrite64", "EIO"), ("fsync,fdatasync", "ENOSPC"))

    def inject(self):
        self.node = self.some_leader()
        calls, error = self.numbers.choice(self.calls)
        broker = self.world.broker(self.node)
        with failing_calls(broker.pid, calls, error):
            exit_code = broker.wait_exit(EXIT_TIMEOUT_S)
        assert exit_code == EXIT_STORAGE, f"broker {self.node} ended with {exit_code}"
        self.fired = True
        return f"{error} of {calls} at {self.node}"

    def heal(self):
        self.world.broker(self.node).start()


class HungDisk(Nemesis):
    """Whatever one broker writes hangs, and goes on after a while; no error is told."""

    may_end_brokers = True
    needs = frozenset({"disks"})

    def inject(self):
        self.node = self.some_leader()
        run("fsfreeze", "--freeze", str(self.world.disks[self.node].path))
        self.fired = True
        return f"at {self.node}"

    def heal(self):
        run("fsfreeze", "--unfreeze", str(self.world.disks[self.node].path))


class PowerLoss(Nemesis):
    """What no fsync covers is gone, and the process with it."""

    needs = frozenset({"disks"})

    def inject(self):
        self.nodes = self.whom()
        lose_power(self.world, self.nodes)
        self.fired = True
        return f"at {self.nodes}"

    def heal(self):
        return_power(self.world, self.nodes)

    def whom(self):
        return [self.some_leader()]


class PowerLossOfAll(PowerLoss):
    """The same, everywhere at once."""

    def whom(self):
        return list(self.world.node_ids)


class BitFlips(Nemesis):
    """Bits turn in the segments of a minority, while the brokers run."""

    may_end_brokers = True
    needs = frozenset({"disks"})
    # A partition with damage in two of three replicas takes no writes until one is fetched anew.
    settles_s = 60.0
    lingers = True

    def inject(self):
        self.nodes = self.numbers.sample(self.world.node_ids, self.world.minority)
        flips = []
        for node in self.nodes:
            flips += eventually(lambda node=node: self._choose(node), SEALED_TIMEOUT_S)
        bit_flips.apply(flips)
        self.fired = True
        return f"at {self.nodes}: {'; '.join(map(str, flips))}"

    def _choose(self, node):
        """Bits of some sealed segments; there may be none yet."""
        pattern = f"{TOPIC}-*/*.sqlite"
        sealed = sorted(filter(is_sealed, self.world.broker(node).data_dir.glob(pattern)))
        chosen = []
        for path in self.numbers.sample(sealed, min(FLIPS, len(sealed))):
            with suppress(FileNotFoundError):
                kind = self.numbers.choice(("data", "data", "index"))
                chosen.append(bit_flips.choose_flip(path, self.numbers, kind))
        return [flip for flip in chosen if flip is not None]


class PowerLossAmongTheLagging(Nemesis):
    """What NATS lost records by: acknowledged by two, of whom one forgets and one is not asked.

    A minority stands still while the others acknowledge; then one of these loses its power, those
    that lag wake, and the rest that knows it all stands still. Whoever is there now must not make
    up a history without it.
    """

    needs = frozenset({"disks"})
    lasts_s = (4.0, 10.0)

    def inject(self):
        world = self.world
        leader = self.some_leader()
        self.lagging = self.numbers.sample(world.others(leader), world.minority)
        for node in self.lagging:
            world.broker(node).pause()
        time.sleep(self.numbers.uniform(1.0, 6.0))
        up_to_date = world.others(*self.lagging)
        self.forgetting = self.numbers.choice(up_to_date)
        lose_power(world, [self.forgetting])
        for node in self.lagging:
            world.broker(node).resume()
        self.rest = [node for node in up_to_date if node != self.forgetting]
        for node in self.rest:
            world.broker(node).pause()
        return_power(world, [self.forgetting])
        self.fired = True
        return f"{self.lagging} lagged, {self.forgetting} lost power, {self.rest} stand still"

    def heal(self):
        for node in self.rest:
            self.world.broker(node).resume()


class LostDataDirectory(Nemesis):
    """One broker's disk is replaced by an empty one: its log, and what it voted for, are gone."""

    settles_s = 60.0

    def inject(self):
        self.node = self.some_leader()
        broker = self.world.broker(self.node)
        broker.kill()
        for path in broker.data_dir.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        self.fired = True
        return f"of broker {self.node}"

    def heal(self):
        self.world.broker(self.node).start()


def lose_power(world, nodes):
    """Cut the power of brokers' disks, and end them as the power would.

    They stand still first: an fsync that is under way while the journal is aborted may return 0.
    """
    for node in nodes:
        world.broker(node).pause()
    for node in nodes:
        world.disks[node].cut_power()
    for node in nodes:
        world.broker(node).kill()


def return_power(world, nodes):
    """Mount what is left, and start the brokers on it."""
    for node in nodes:
        eventually(lambda node=node: _remounted(world.disks[node]), EXIT_TIMEOUT_S)
        world.broker(node).start()


def _remounted(disk):
    disk.restore_power()
    return True


NEMESES = {
    "kill leader": KillLeader,
    "kill follower": KillFollower,
    "kill controller": KillController,
    "kill coordinator": KillCoordinator,
    "kill client": KillClient,
    "kill all": KillAll,
    "pause leader": PauseLeader,
    "pause controller": PauseController,
    "pause minority": PauseMinority,
    "pause all": PauseAll,
    "stutter": PauseInShortBursts,
    "rolling restart": RollingRestart,
    "partition minority": PartitionMinority,
    "partition controller": PartitionController,
    "one way out": OneWayOut,
    "one way in": OneWayIn,
    "bridge": Bridge,
    "leader without followers": LeaderWithoutFollowers,
    "clients cut off": ClientsCutOff,
    "packet loss": PacketLoss,
    "slow link": SlowLink,
    "cut connections": CutConnections,
    "cut bodies": CutSlowConnections,
    "clock jump": ClockJump,
    "clock drift": ClockDrift,
    "few descriptors": FewDescriptors,
    "full disk": FullDisk,
    "failing disk": FailingDisk,
    "hung disk": HungDisk,
    "power loss": PowerLoss,
    "power loss of all": PowerLossOfAll,
    "bit flips": BitFlips,
    "power loss among the lagging": PowerLossAmongTheLagging,
    "lost data directory": LostDataDirectory,
}
