"""A disk that hangs: it takes no writes and does not fail them either.

Each broker has an ext4 file system of its own. Freezing it keeps whoever writes in the kernel,
where not even SIGKILL ends him, until it is thawed; the process itself goes on, and could go on
claiming what it led.
"""

import json
import os
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
HANG_TIMEOUT_MS = 1_000
SETTINGS = {
    "OTTLA_DISK_RESERVE_BYTES": str(16 << 20),
    "OTTLA_DISK_HANG_TIMEOUT_MS": str(HANG_TIMEOUT_MS),
    "OTTLA_LOG_FORMAT": "json",
}
TOPIC = "orders"
MOVES_WITHIN_S = 20.0
"""Generous: the time-out, an election and a call, on a machine that does other things, too."""


class Freezable:
    """Three brokers, each on a disk of its own that can be frozen."""

    def __init__(self, directory, stack):
        self.disks = {
            number: stack.enter_context(
                PoweredDisk(directory / f"{number}.img", directory / "data" / str(number))
            )
            for number in (1, 2, 3)
        }
        self.cluster = LocalCluster(
            directory / "logs",
            settings=SETTINGS,
            broker_settings={
                number: {"OTTLA_DATA_DIR": str(disk.path / f"broker-{number}")}
                for number, disk in self.disks.items()
            },
        )
        http = HttpClient()
        stack.callback(http.close)
        stack.enter_context(self.cluster)
        self.client = ClusterClient(self.cluster, http)
        self.client.create_topic(TOPIC, partitions=3, replication_factor=3)
        self.client.wait_isr(TOPIC, 3)

    def leaders(self, via):
        return {state["leader"] for state in self.client.describe(TOPIC, via=via)["partitions"]}

    def controller(self, via):
        return self.client.http.get(self.client.url(via) + "/v1/cluster").document["controller"]

    def give_leaderships_back(self):
        """Until every broker leads something again."""

        def elected():
            url = self.client.any_url()
            self.client.http.post(url + "/v1/elections", {"type": "preferred"})
            return self.leaders(self.client.node_ids[0]) == {1, 2, 3}

        eventually(elected, 40)


@pytest.fixture
def freezable(tmp_path):
    with ExitStack() as stack:
        yield Freezable(tmp_path, stack)


def test_a_broker_whose_disk_hangs_loses_its_leaderships_and_comes_back(freezable):
    """The controller's disk and those of the others; nothing acknowledged is lost either way."""
    client = freezable.client
    rounds = 0
    took_s = []
    ends_s = time.monotonic() + SECONDS
    with Writers(client, TOPIC, partitions=3) as writers:
        while rounds < 2 or time.monotonic() < ends_s:
            controller = client.controller()
            # The controller first, which leads the quorum, too; then one that does not.
            victim = controller if rounds % 2 == 0 else client.others(controller)[0]
            witness = client.others(victim)[0]
            eventually(lambda victim=victim, via=witness: victim in freezable.leaders(via), 30)
            writers.wait_for_more(20, timeout_s=40)
            with freezable.disks[victim].frozen():
                frozen_s = time.monotonic()
                eventually(
                    lambda victim=victim, via=witness: not freezable.leaders(via) & {victim, None},
                    MOVES_WITHIN_S,
                )
                took_s.append(time.monotonic() - frozen_s)
                assert took_s[-1] >= HANG_TIMEOUT_MS / 1000 * 0.5, "something else moved them"
                assert freezable.controller(witness) != victim
                # The others' writers go on: the victim is in no ISR that they wait for.
                writers.wait_for_more(20, timeout_s=40)
                ready = client.http.get(client.url(victim) + "/readyz")
                assert ready.status == 503
                assert "hangs" in json.dumps(ready.document), ready.body
                assert client.metric(victim, "ottla_disk_hung") == 1
            client.wait_isr(TOPIC, 3, timeout_s=40)
            eventually(
                lambda victim=victim: client.http.get(client.url(victim) + "/readyz").status == 200,
                20,
            )
            freezable.give_leaderships_back()
            rounds += 1
    copies = client.wait_replicas_equal(TOPIC, partitions=3, timeout_s=60)
    writers.check(copies)
    assert client.metric(victim, "ottla_disk_hangs_total") >= 1
    print(
        f"\nhung disks, {rounds} rounds: leaderships moved after "
        f"{', '.join(f'{each:.1f}' for each in took_s)} s; acknowledged {writers.count}, found "
        f"{sum(map(len, copies.values()))}, lost 0, duplicated 0, refused {len(writers.refused)}, "
        f"unknown {len(writers.unknown)}"
    )
