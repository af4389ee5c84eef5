"""Disks that are full, fail, hang, lie, forget what was not synced, and are lost."""

import shutil
import time
from contextlib import suppress
from dataclasses import replace

from ottla_broker.storage.segment import is_sealed
from ottla_ops.segments.found_segments import find_replicas
from ottla_ops.segments.verification import verify_replica
from ottla_protocol.errors import StorageError
from tests.chaos import bit_flips
from tests.chaos.faulty_disks import failing_calls, fill_up, run
from tests.chaos.nemesis import EXIT_STORAGE, EXIT_TIMEOUT_S, Nemesis
from tests.chaos.world import TOPIC
from tests.cluster.awaiting import eventually

FLIPS = 3
SEALED_TIMEOUT_S = 60.0
OUT_OF_SYNC_TIMEOUT_S = 30.0
ACKNOWLEDGED_TIMEOUT_S = 30.0
RENEWED_TIMEOUT_S = 30.0
UNSYNCED = ".unsynced"
"""A file on a disk that is about to lose its power: what it has is gone, or nothing was lost."""


class FullDisk(Nemesis):
    """No byte is free on the disk of one broker, or of all.

    A broker waits that out; only an fsync that fails for want of room ends it (decision 17).
    """

    may_end_with = frozenset({EXIT_STORAGE})
    needs = frozenset({"disks"})
    settles_s = 60.0  # A disk that fills up again and again counts as full for up to a minute.

    def inject(self):
        self.ballast = []
        is_all = self.numbers.random() < 0.2
        self.nodes = list(self.world.node_ids) if is_all else [self.some_leader()]
        for node in self.nodes:
            self.ballast.append(fill_up(self.world.disks[node].path))
        return f"at {self.nodes}"

    def is_felt(self):
        """Whether they refuse to append anything, or have ended because of it."""
        return all(
            not self.world.broker(node).is_running or self.metric(node, "ottla_disk_full") == 1
            for node in self.nodes
        )

    def heal(self):
        for file in self.ballast:
            file.unlink()


class FailingDisk(Nemesis):
    """System calls of one broker fail; it stops, and is started again on a sound disk."""

    needs = frozenset({"strace"})
    calls = (
        ("fsync,fdatasync", "EIO"),
        ("pwrite64", "EIO"),
        # SQLite's reads of what is not mapped: the active segment's log, when it is sealed.
        ("pread64", "EIO"),
        ("fsync,fdatasync", "ENOSPC"),
    )

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
        if not self.world.broker(self.node).is_running:
            self.world.broker(self.node).start()


class HungDisk(Nemesis):
    """Whatever one broker writes hangs, and goes on after a while; no error is told.

    The broker gives up what it leads, and comes back by itself (decision 24): it never ends.
    """

    needs = frozenset({"disks"})
    lasts_s = (2.0, 15.0)

    def inject(self):
        self.is_frozen = False
        self.node = self.some_leader()
        run("fsfreeze", "--freeze", str(self.world.disks[self.node].path))
        self.is_frozen = True
        return f"at {self.node}"

    def is_felt(self):
        """Whether the broker says so, and others lead what it led."""
        is_told = self.metric(self.node, "ottla_disk_hung") == 1
        return is_told and not self.leads([self.node], via=self.world.others(self.node)[0])

    def heal(self):
        if self.is_frozen:
            run("fsfreeze", "--unfreeze", str(self.world.disks[self.node].path))


class PowerLoss(Nemesis):
    """What no fsync covers is gone, and the process with it."""

    needs = frozenset({"disks"})
    felt_within_s = 0.0  # What is gone shows when the power is back.

    def inject(self):
        self.nodes = self.whom()
        lose_power(self.world, self.nodes)
        return f"at {self.nodes}"

    def heal(self):
        self.fired = return_power(self.world, self.nodes)

    def whom(self):
        return [self.some_leader()]


class PowerLossOfAll(PowerLoss):
    """The same, everywhere at once."""

    def whom(self):
        return list(self.world.node_ids)


class BitFlips(Nemesis):
    """Bits turn in the segments of a minority, while the brokers run."""

    may_end_with = frozenset({EXIT_STORAGE})
    needs = frozenset({"disks"})
    # A partition with damage in two of three replicas takes no writes until one is fetched anew.
    settles_s = 60.0
    lingers = True
    felt_within_s = 0.0  # Looked for at once, before a broker finds and heals it.

    def inject(self):
        self.nodes = self.numbers.sample(self.world.node_ids, self.world.minority)
        flips = []
        for node in self.nodes:
            flips += eventually(lambda node=node: self._choose(node), SEALED_TIMEOUT_S)
        bit_flips.apply(flips)
        self.flipped = [flip.path for flip in flips]
        self.fired = any(is_damaged(path) for path in self.flipped)
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
    felt_within_s = 0.0

    def inject(self):
        world = self.world
        self.dark = []
        partition = self.numbers.randrange(world.partitions)
        state = self.partitions(world.node_ids[0])[partition]
        lagging = self._choose_lagging(state)
        for node in lagging:
            world.broker(node).pause()
        up_to_date = world.others(*lagging)
        # Until then all of them would have to acknowledge, and nothing does.
        eventually(
            lambda: not set(lagging) & set(self.partitions(up_to_date[0])[partition]["isr"]),
            OUT_OF_SYNC_TIMEOUT_S,
        )
        eventually(lambda: world.write(partition), ACKNOWLEDGED_TIMEOUT_S)
        time.sleep(self.numbers.uniform(0.0, 2.0))
        forgetting = self.numbers.choice([node for node in state["replicas"] if node in up_to_date])
        self.dark = [forgetting]
        lose_power(world, self.dark)
        for node in lagging:
            world.broker(node).resume()
        rest = [node for node in up_to_date if node != forgetting]
        for node in rest:
            world.broker(node).pause()
        self.fired = self._return_power()
        return f"{lagging} lagged, {forgetting} lost power, {rest} stand still"

    def _choose_lagging(self, state):
        """A minority without which the others may still acknowledge for this partition."""
        least = self.world.replication_factor // 2 + 1
        others = self.world.others(state["leader"])
        self.numbers.shuffle(others)
        lagging = []
        for node in others:
            left = set(state["replicas"]) - {*lagging, node}
            if len(lagging) < self.world.minority and len(left) >= least:
                lagging.append(node)
        return lagging

    def _return_power(self):
        dark, self.dark = self.dark, []
        return return_power(self.world, dark)

    def heal(self):
        if self.dark:
            self._return_power()
        for broker in self.world.cluster.brokers:
            if broker.is_paused:
                broker.resume()


class LostDataDirectory(Nemesis):
    """One broker's disk is replaced by an empty one: its log, and what it voted for, are gone."""

    settles_s = 60.0
    felt_within_s = 0.0  # The directory that takes its place has an id of its own.

    def inject(self):
        self.node = self.some_leader()
        self.broker = self.world.broker(self.node)
        self.broker.kill()
        self._lost_id = self._directory_id()
        for path in self.broker.data_dir.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        return f"of broker {self.node}"

    def _directory_id(self):
        path = self.broker.data_dir / "directory.json"
        return path.read_bytes() if path.exists() else None

    def heal(self):
        self.broker.start()
        found = eventually(self._directory_id, RENEWED_TIMEOUT_S)
        self.fired = self._lost_id not in (None, found)


def lose_power(world, nodes):
    """Cut the power of brokers' disks, and end them as the power would.

    They stand still first: an fsync that is under way while the journal is aborted may return 0.
    """
    for node in nodes:
        world.broker(node).pause()
    for node in nodes:
        (world.disks[node].path / UNSYNCED).write_text("no fsync covers this")
        world.disks[node].cut_power()
    for node in nodes:
        world.broker(node).kill()


def return_power(world, nodes):
    """Mount what is left, and start the brokers on it; whether what was not synced is gone."""
    is_gone = True
    for node in nodes:
        disk = world.disks[node]
        eventually(lambda disk=disk: _remounted(disk), EXIT_TIMEOUT_S)
        unsynced = disk.path / UNSYNCED
        is_gone = is_gone and not (unsynced.exists() and unsynced.read_text())
        unsynced.unlink(missing_ok=True)
        world.broker(node).start()
    return is_gone


def _remounted(disk):
    disk.restore_power()
    return True


def is_damaged(path):
    """Whether the checks of `ottla segment verify` find this segment damaged.

    Where it is gone, its broker was quicker to find that, and has put it aside.
    """
    found = []
    with suppress(FileNotFoundError, StorageError):
        [replica] = find_replicas(path.parent)
        found = list(verify_replica(replace(replica, segments=(path,))))
    return any(segment.findings for segment in found) or not path.exists()
