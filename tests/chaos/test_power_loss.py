"""Power that goes while records are written: what was acknowledged is there when it comes back.

The brokers' directories lie on ext4 file systems of their own. Shutting one down without a flush of
its journal loses what no fsync covers, as a power cut does: kill -9 never does, because the kernel
keeps what a process wrote.
"""

import os
import random
import time
from contextlib import ExitStack

import pytest

from ottla_ops.local_cluster import LocalCluster
from tests.chaos.faulty_disks import PoweredDisk, needs
from tests.cluster.awaiting import eventually
from tests.cluster.cluster_client import ClusterClient
from tests.cluster.http_client import HttpClient
from tests.cluster.writers import Writers

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(300 + 2 * float(os.environ.get("OTTLA_SOAK_SECONDS", "0"))),
    needs("losetup", "mkfs.ext4", "mount", "umount", loop_devices=True),
]

SECONDS = float(os.environ.get("OTTLA_SOAK_SECONDS", "0"))
SETTINGS = {"OTTLA_DISK_RESERVE_BYTES": str(16 << 20)}
TOPIC = "orders"
PARTITIONS = 3


class PoweredCluster:
    """Brokers on disks whose power can be cut: one disk for each, or one for all."""

    def __init__(self, directory, stack, *, shared):
        self.disks = [
            stack.enter_context(PoweredDisk(directory / f"{name}.img", directory / "data" / name))
            for name in (["all"] if shared else ["1", "2", "3"])
        ]
        self.cluster = LocalCluster(
            directory / "logs",
            settings=SETTINGS,
            broker_settings={
                number: {"OTTLA_DATA_DIR": str(self._disk_of(number).path / f"broker-{number}")}
                for number in (1, 2, 3)
            },
        )
        http = HttpClient()
        stack.callback(http.close)
        stack.enter_context(self.cluster)
        self.client = ClusterClient(self.cluster, http)
        self.client.create_topic(TOPIC, partitions=PARTITIONS, replication_factor=3)
        self.client.wait_isr(TOPIC, 3)

    def _disk_of(self, number):
        return self.disks[(number - 1) % len(self.disks)]

    def lose_power(self, numbers):
        """Cut the power of these brokers' disks, and end them as the power would.

        They stand still first, as everything does when the power goes. Without that the ioctl
        proves too much: an fsync that is under way while it aborts the journal may return 0
        although what it covers is gone (seen in one of 25 rounds of a program that only syncs).
        """
        for number in numbers:
            self.cluster.broker(number).pause()
        for disk in {id(disk): disk for disk in map(self._disk_of, numbers)}.values():
            disk.cut_power()
        for number in numbers:
            self.cluster.broker(number).kill()

    def return_power(self, numbers):
        """Mount what is left, and start the brokers on it."""
        for disk in {id(disk): disk for disk in map(self._disk_of, numbers)}.values():
            disk.restore_power()
        for number in numbers:
            self.cluster.broker(number).start()
        for number in numbers:
            self.cluster.broker(number).wait_ready()


@pytest.fixture(params=["a disk each", "one disk"])
def powered(request, tmp_path):
    with ExitStack() as stack:
        yield PoweredCluster(tmp_path, stack, shared=request.param == "one disk")


def test_what_was_acknowledged_survives_the_loss_of_power(powered):
    """Of all brokers at once; where each has a disk of its own, of one alone too."""
    chosen = random.Random(seed := random.SystemRandom().getrandbits(32))
    client = powered.client
    together = [[1, 2, 3]] if len(powered.disks) == 1 else [[1], [1, 2, 3], [2], [3], [1, 2]]
    losses = 0
    ends_s = time.monotonic() + SECONDS / 2
    with Writers(client, TOPIC, partitions=PARTITIONS) as writers:
        while losses < min(2, len(together)) or time.monotonic() < ends_s:
            writers.wait_for_more(chosen.randint(20, 100), timeout_s=40)
            numbers = together[losses % len(together)]
            powered.lose_power(numbers)
            if len(numbers) == 1:
                writers.wait_for_more(20, timeout_s=40)
            powered.return_power(numbers)
            losses += 1
            eventually(lambda: client.wait_isr(TOPIC, 3) or True, 40)
    copies = client.wait_replicas_equal(TOPIC, partitions=PARTITIONS, timeout_s=60)
    found = sum(map(len, copies.values()))
    print(
        f"\npower loss, {len(powered.disks)} disks, {losses} losses, seed {seed}: acknowledged "
        f"{writers.count}, found {found}, refused {len(writers.refused)}, "
        f"unknown {len(writers.unknown)}"
    )
    writers.check(copies)
