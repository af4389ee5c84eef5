"""One run of chaos: faults from a seed, clients that write down all they see, and the verdict.

`python -m tests.chaos.chaos_run --seconds 120 --seed 7 --brokers 3` runs it by itself. It ends with
a line for each fault and what the checker says, and exits with 0 only if that is nothing. A run
that fails keeps its directory, with the schedule, the histories, the logs and the data of all
brokers, and prints where it is. The same seed makes the same decisions; what the machine makes of
them is never twice the same.
"""

import argparse
import json
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import urllib3

from ottla_ops.local_cluster import LocalClusterError
from tests.chaos import namespaces, shifted_clock
from tests.chaos.checker import Verdict, check
from tests.chaos.expected_codes import unexplained_errors
from tests.chaos.final_reads import FinalReads, key_and_value
from tests.chaos.history import read_history
from tests.chaos.nemeses import NEMESES
from tests.chaos.world import OFFSETS_REPLICAS, OFFSETS_TOPIC, TOPIC, World

RECOVERY_TIMEOUT_S = 30.0
"""Writes go on within this after a fault is taken away (reliability, section 3)."""
WHOLE_TIMEOUT_S = 120.0
CLIENTS_TIMEOUT_S = 120.0
SNAPSHOT_FAULTS = 10
"""After so many faults the metadata have changed often enough for snapshots of them."""
SNAPSHOTS_MADE = "metadata snapshots made"
SCHEDULE = "schedule.jsonl"
QUIET_SHARE = 0.2
QUIET_S = 3.0
TURNS_MAX = 2
"""How often a fault has its turn until its effect is seen: some of it is chance."""
LOOK_EVERY_S = 0.2
FELT_S = 1.0
"""How long a fault stays at least from when its effect is seen."""


@dataclass
class Plan:
    """What a run shall do.

    Attributes:
        seed: of all that is chosen.
        seconds: how long faults go on; each of `faults` is put upon the cluster once at least.
        at_most_s: no fault begins later than this.
        turns_min: so many of `faults` must have had their turn by then, or the run fails.
        lasts_s: between which spans it is chosen how long a fault stays, where it may choose.
        lasts_max_s: no fault stays longer, but for the time until its effect is seen.
    """

    seed: int
    seconds: float
    faults: tuple = tuple(NEMESES)
    brokers: int = 3
    at_most_s: float = float("inf")
    turns_min: int = 1
    partitions: int = 4
    replication_factor: int = 3
    lasts_s: tuple = (1.0, 6.0)
    lasts_max_s: float = 8.0
    clients: dict | None = None
    ok_min: int = 100

    @property
    def needs(self):
        return frozenset().union(*(NEMESES[name].needs for name in self.faults))


@dataclass
class Outcome:
    """What came of a run.

    Attributes:
        fired: how often each fault was seen to be in effect, of those that had their turn.
        problems: what went wrong beside the invariants: no recovery in time, clients that failed.
        recoveries_s: how long writes took to go on after each fault.
        lingers_s: how much longer that may take by what an earlier fault left behind.
    """

    fired: Counter = field(default_factory=Counter)
    problems: list = field(default_factory=list)
    recoveries_s: list = field(default_factory=list)
    lingers_s: float = 0.0
    verdict: Verdict = field(default_factory=Verdict)

    @property
    def is_clean(self):
        return not self.problems and self.verdict.is_clean

    def __str__(self):
        faults = ", ".join(f"{name} {count}" for name, count in sorted(self.fired.items()))
        slowest_s = max(self.recoveries_s, default=0)
        lines = [f"faults {sum(self.fired.values())}: {faults}"]
        lines.append(f"slowest recovery {slowest_s:.1f} s after a fault was taken away")
        lines.append(str(self.verdict))
        lines += [f"problem: {problem}" for problem in self.problems]
        return "\n".join(lines)


def run_plan(plan, directory, tell=print, launch=None):
    """Run it in that directory, which must not exist yet; `launch` as `World` takes it.

    Returns:
        What came of it; also written to `outcome.txt` there.
    """
    outcome = Outcome()
    directory.mkdir(parents=True)
    (directory / "plan.json").write_text(json.dumps(vars(plan), indent=1))
    world = World(
        directory,
        brokers=plan.brokers,
        partitions=plan.partitions,
        replication_factor=plan.replication_factor,
        seed=plan.seed,
        with_disks="disks" in plan.needs,
        clients=plan.clients,
        launch=launch,
    )
    with world, _kept(world, outcome):
        _make_trouble(world, plan, outcome, tell)
        outcome.problems += world.stop_clients()
        if "bit flips" in outcome.fired:
            _heal_damage(world, outcome)
        reads = FinalReads(world.client, TOPIC, plan.replication_factor)
        groups = FinalReads(world.client, OFFSETS_TOPIC, OFFSETS_REPLICAS, key_and_value)
        _read_all(reads, outcome)
        has_groups = world.has_groups()
        if has_groups:
            _read_all(groups, outcome)
        exit_codes = world.cluster.stop()
        if set(exit_codes.values()) != {0}:
            outcome.problems.append(f"brokers stopped with {exit_codes}")
        evidence = reads.evidence(read_history(world.histories.iterdir()))
        offsets = groups.evidence() if has_groups else None
        outcome.problems += reads.problems + groups.problems
        lines = (directory / SCHEDULE).read_text().splitlines()
        outcome.problems += unexplained_errors(evidence.operations, map(json.loads, lines))
        wanted = tuple(name for name in plan.faults if name in outcome.fired)
        outcome.verdict = check(
            evidence, faults=outcome.fired, wanted=wanted, offsets=offsets, ok_min=plan.ok_min
        )
        if len(wanted) < plan.turns_min:
            outcome.problems.append(
                f"only {len(wanted)} faults had their turn, of {plan.turns_min} at least"
            )
        outcome.verdict.counts |= world.count_snapshots()
        if len(wanted) >= SNAPSHOT_FAULTS and not outcome.verdict.counts[SNAPSHOTS_MADE]:
            outcome.problems.append("no voter made a snapshot of the metadata")
    (directory / "outcome.txt").write_text(f"{outcome}\n")
    return outcome


def _make_trouble(world, plan, outcome, tell):
    """Every fault once, in an order from the seed, then at random until the time is up."""
    numbers = random.Random(plan.seed)
    first = list(plan.faults)
    numbers.shuffle(first)
    turns = Counter()
    begun_s = time.monotonic()
    ends_s, last_s = begun_s + plan.seconds, begun_s + plan.at_most_s
    world.wait_busy(plan.ok_min, CLIENTS_TIMEOUT_S)
    with (world.directory / SCHEDULE).open("w", buffering=1) as schedule:
        while (first or time.monotonic() < ends_s) and time.monotonic() < last_s:
            if numbers.random() < QUIET_SHARE:
                time.sleep(numbers.uniform(0, QUIET_S))
            name = first.pop() if first else numbers.choice(plan.faults)
            known = len(outcome.problems)
            turns[name] += 1
            _one_fault(world, plan, name, numbers, outcome, schedule, tell)
            if not outcome.fired[name] and turns[name] < TURNS_MAX:
                # Last, when others have had theirs.
                first.insert(0, name)
            for problem in outcome.problems[known:]:
                # Now: the run may yet break off.
                tell(problem)
            if len(outcome.problems) > 3:
                return


def _one_fault(world, plan, name, numbers, outcome, schedule, tell):
    lasts_s = NEMESES[name].lasts_s or plan.lasts_s
    # Drawn in any case, so that a seed means the same whatever comes of a fault.
    stays_s = min(numbers.uniform(*lasts_s), plan.lasts_max_s)
    nemesis = NEMESES[name](world, random.Random(numbers.getrandbits(64)))
    begun_ns = time.monotonic_ns()
    told = "nothing"
    try:
        told = nemesis.inject()
        _stay(nemesis, stays_s)
    except Exception as error:
        outcome.problems.append(f"{name}: {error!r}\n{traceback.format_exc()}")
    except BaseException:
        # Told to end: what is frozen can be neither stopped nor unmounted.
        with suppress(Exception):
            nemesis.heal()
        raise
    healed_ns = time.monotonic_ns()
    try:
        nemesis.heal()
    except Exception as error:
        outcome.problems.append(f"{name}, healing: {error!r}\n{traceback.format_exc()}")
    outcome.fired[name] += nemesis.fired
    _start_ended(world, outcome, name, nemesis)
    if nemesis.lingers:
        outcome.lingers_s = max(outcome.lingers_s, nemesis.settles_s)
    settles_s = max(nemesis.settles_s, outcome.lingers_s)
    recovered_s = _wait_recovered(world, outcome, name, nemesis, settles_s)
    line = {
        "fault": name,
        "what": told,
        "fired": nemesis.fired,
        "from_ns": begun_ns,
        "to_ns": healed_ns,
        "recovered_s": recovered_s,
    }
    schedule.write(json.dumps(line) + "\n")
    unseen = "" if nemesis.fired else ", its effect was NOT seen"
    tell(
        f"  {name}: {told}, {(healed_ns - begun_ns) / 1e9:.1f} s{unseen}, "
        f"recovered in {recovered_s:.1f} s"
    )


def _stay(nemesis, stays_s):
    """Let a fault work for so long, and until its effect has been seen, within its bound."""
    begun_s = time.monotonic()
    while not nemesis.fired and time.monotonic() - begun_s < nemesis.felt_within_s:
        with suppress(AssertionError, OSError, urllib3.exceptions.HTTPError):
            nemesis.fired = nemesis.is_felt()
        if not nemesis.fired:
            time.sleep(LOOK_EVERY_S)
    time.sleep(max(FELT_S, begun_s + stays_s - time.monotonic()))


def _start_ended(world, outcome, name, nemesis):
    """Start every broker that has ended; whether one had."""
    ended = [broker for broker in world.cluster.brokers if not broker.is_running]
    for broker in ended:
        if broker.exit_code not in nemesis.may_end_with:
            outcome.problems.append(
                f"{name}: broker {broker.node_id} ended with {broker.exit_code}: "
                f"{broker.log_tail(1000)}"
            )
        broker.start()
    return bool(ended)


def _wait_recovered(world, outcome, name, nemesis, settles_s):
    try:
        recovered_s = world.probe(RECOVERY_TIMEOUT_S + settles_s)
        outcome.recoveries_s.append(recovered_s)
        try:
            world.wait_whole(WHOLE_TIMEOUT_S)
        except LocalClusterError:
            # One may have been about to end when the fault was taken away.
            if not _start_ended(world, outcome, name, nemesis):
                raise
            world.wait_whole(WHOLE_TIMEOUT_S)
    except Exception as error:
        outcome.problems.append(f"no recovery from {name}: {error}")
        recovered_s = float("nan")
    outcome.problems += world.dead_clients()
    return recovered_s


def _heal_damage(world, outcome):
    try:
        world.heal_damage(WHOLE_TIMEOUT_S)
    except Exception as error:
        outcome.problems.append(f"flipped bits do not heal: {error}")


def _read_all(reads, outcome):
    """Read a topic; whatever keeps it from being read, there is a verdict on the rest."""
    try:
        reads.read()
    except Exception as error:
        outcome.problems.append(f"a topic cannot be read in the end: {error!r}")


@contextmanager
def _kept(world, outcome):
    """Keep what lies on the disks of a run that failed, even where it breaks off."""
    try:
        yield
    except Exception as error:
        outcome.problems.append(f"the run broke off: {error!r}\n{traceback.format_exc()}")
    if not outcome.is_clean:
        try:
            _keep_disks(world)
        except Exception as error:
            outcome.problems.append(f"not all of the disks is kept: {error!r}")


def _keep_disks(world):
    """Copy what lies on file systems that are about to go."""
    for node, disk in world.disks.items():
        kept = world.directory / f"broker-{node}.kept"
        shutil.copytree(disk.path, kept, ignore=shutil.ignore_patterns(".ballast"))


def missing(plan):
    """What this machine lacks for a plan; empty where it lacks nothing."""
    lacks = list(namespaces.lacks())
    if "strace" in plan.needs and shutil.which("strace") is None:
        lacks.append("strace")
    if "disks" in plan.needs:
        lacks += [
            program
            for program in ("losetup", "mkfs.ext4", "mount", "fsfreeze")
            if shutil.which(program) is None
        ]
        if not Path("/dev/loop-control").exists():
            lacks.append("loop devices")
    return lacks


def main():
    arguments = _arguments()
    # So that what is mounted and started goes with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    seed = arguments.seed if arguments.seed is not None else random.SystemRandom().getrandbits(32)
    faults = tuple(arguments.faults.split(",")) if arguments.faults else tuple(NEMESES)
    if arguments.choose:
        faults = tuple(random.Random(seed).sample(faults, arguments.choose))
    plan = Plan(
        seed=seed,
        seconds=arguments.seconds,
        at_most_s=arguments.at_most_s,
        turns_min=arguments.at_least,
        faults=faults,
        brokers=arguments.brokers,
        replication_factor=arguments.replication_factor,
        lasts_max_s=arguments.longest_s,
    )
    lacks = missing(plan)
    if lacks:
        print(f"chaos needs {', '.join(lacks)}", file=sys.stderr)
        return 2
    place = Path(arguments.directory or tempfile.mkdtemp(prefix="ottla-chaos-"))
    directory = place / f"{seed}"
    clock = shifted_clock.LIBRARY or "Python's own functions, libfaketime is not installed"
    print(f"seed {seed}, {plan.brokers} brokers, clocks by {clock}, in {directory}", flush=True)
    try:
        outcome = run_plan(plan, directory, tell=lambda line: print(line, flush=True))
    except BaseException as error:
        print(f"the run broke off; what there is: {directory}", flush=True)
        if isinstance(error, KeyboardInterrupt):
            return 128 + signal.SIGINT
        raise
    print(outcome)
    if arguments.report:
        _report(Path(arguments.report), plan, outcome)
    if outcome.is_clean:
        if not arguments.keep:
            shutil.rmtree(directory if arguments.directory else place)
        print("clean")
        return 0
    print(f"FAILED: seed {seed}; schedule, histories, logs and data are in {directory}")
    return 1


def _report(path, plan, outcome):
    """Add a line of JSON for this run."""
    line = {
        "seed": plan.seed,
        "brokers": plan.brokers,
        "replication_factor": plan.replication_factor,
        "is_clean": outcome.is_clean,
        "faults": outcome.fired,
        "counts": outcome.verdict.counts,
        "slowest_recovery_s": max(outcome.recoveries_s, default=0),
    }
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")


def _arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--seconds", type=float, default=0.0, help="go on at random until then, after one of each"
    )
    parser.add_argument("--seed", type=int, help="of all decisions; at random when not given")
    parser.add_argument("--brokers", type=int, default=3)
    parser.add_argument("--replication-factor", type=int, default=3)
    parser.add_argument("--faults", help="names, comma-separated; all of them when not given")
    parser.add_argument("--choose", type=int, help="so many of the faults, by the seed")
    parser.add_argument(
        "--at-most-s", type=float, default=float("inf"), help="no fault begins later"
    )
    parser.add_argument(
        "--at-least", type=int, default=1, help="so many faults must have their turn by then"
    )
    parser.add_argument("--longest-s", type=float, default=8.0, help="no fault stays longer")
    parser.add_argument("--directory", help="for data, logs and histories")
    parser.add_argument("--report", help="a file that gets a line of JSON")
    parser.add_argument("--keep", action="store_true", help="keep the directory of a clean run")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
