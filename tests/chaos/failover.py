"""How long writes stand still when a broker dies: `python -m tests.chaos.failover --kills 50`.

An SDK producer (idempotent, acks=all) writes to every partition of a topic all the time. A broker
gets SIGKILL; the gap of a partition is the time from there to the first acknowledgement of a
record that was sent after it. What was under way at the kill does not count, since its
acknowledgement may have left already. Then the broker comes back, every replica is in sync again,
and the next one goes.

    leader      kills the leader of one partition, and tells the gap of that one
    controller  kills the active controller, and tells the longest gap of all partitions: of those
                that it led, and of those that have to do without its replica

Exits with 1 where a limit is exceeded: median under 500 ms, 99th percentile under 2,000 ms.
"""

import argparse
import math
import statistics
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path

from ottla import Producer
from ottla_ops.local_cluster import LocalCluster
from tests.cluster.awaiting import eventually
from tests.cluster.cluster_client import ClusterClient
from tests.cluster.forked_brokers import ForkServer
from tests.cluster.http_client import HttpClient

TOPIC = "orders"
SEND_EVERY_S = 0.005
WHOLE_TIMEOUT_S = 60.0
GAP_MAX_S = 30.0
MEDIAN_LIMIT_MS = 500
P99_LIMIT_MS = 2_000
ROLES = {"leader": 1, "controller": 3}
"""What is killed, and how many partitions are written to meanwhile."""


class Stream(threading.Thread):
    """Writes to all partitions; knows when records of each were sent and acknowledged.

    Use it as a context manager.
    """

    def __init__(self, bootstrap, partitions):
        super().__init__(name="stream")
        self.failure = None
        # By partition, (when it was sent, when it was acknowledged), in the order of the latter.
        self.acknowledged = [[] for _ in range(partitions)]
        self._servers = bootstrap
        self._ended = threading.Event()

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_exception):
        self._ended.set()
        self.join()

    def run(self):
        try:
            with Producer(bootstrap_servers=self._servers, value_serializer="json") as producer:
                number = 0
                while not self._ended.wait(SEND_EVERY_S):
                    for partition, acknowledged in enumerate(self.acknowledged):
                        self._send(producer, partition, acknowledged, number)
                        number += 1
        except Exception as error:
            self.failure = error

    def _send(self, producer, partition, acknowledged, number):
        sent_s = time.monotonic()

        def told(error, _metadata):
            if error is None:
                acknowledged.append((sent_s, time.monotonic()))
            else:
                self.failure = error

        producer.send(TOPIC, number, partition=partition, on_delivery=told)

    def gap_s(self, partition, since_s):
        """From a moment to the first acknowledgement of what was sent after it; waits for that."""

        def first():
            assert self.failure is None, self.failure
            acknowledged = self.acknowledged[partition]
            return next((told for sent, told in reversed_until(acknowledged, since_s)), 0.0)

        return eventually(first, GAP_MAX_S) - since_s


def reversed_until(acknowledged, since_s):
    """Those that were sent after a moment, in the order of their acknowledgements."""
    start = len(acknowledged)
    while start and acknowledged[start - 1][0] > since_s:
        start -= 1
    return acknowledged[start:]


def measure(directory, launch, role, kills, tell):
    """The gaps of so many kills in ms."""
    partitions = ROLES[role]
    gaps_ms = []
    with ExitStack() as stack:
        http = HttpClient()
        stack.callback(http.close)
        cluster = stack.enter_context(LocalCluster(directory, launch=launch))
        client = ClusterClient(cluster, http)
        client.create_topic(TOPIC, partitions=partitions, replication_factor=3)
        client.wait_isr(TOPIC, 3)
        stream = stack.enter_context(Stream(cluster.urls, partitions))
        for number in range(kills):
            client.wait_isr(TOPIC, 3, timeout_s=WHOLE_TIMEOUT_S)
            for partition in range(partitions):
                stream.gap_s(partition, time.monotonic())
            leader, controller = client.leader(TOPIC), client.controller()
            broker = cluster.broker(leader if role == "leader" else controller)
            killed_s = time.monotonic()
            broker.kill()
            gaps = [stream.gap_s(partition, killed_s) for partition in range(partitions)]
            gaps_ms.append(max(gaps) * 1000)
            roles = "leader and controller" if leader == controller else role
            tell(f"kill {number + 1}: {gaps_ms[-1]:.0f} ms ({roles})")
            broker.start()
            broker.wait_ready(WHOLE_TIMEOUT_S)
        assert stream.failure is None, stream.failure
    return gaps_ms


def percentile(values, share):
    """The smallest value that so many are at most as large as."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=5, help="of each role")
    parser.add_argument("--role", choices=list(ROLES), help="both when not given")
    parser.add_argument("--verbose", action="store_true", help="tell each kill")
    arguments = parser.parse_args()
    missed = False
    with tempfile.TemporaryDirectory(prefix="ottla-failover-") as parent, ForkServer() as server:
        for role in [arguments.role] if arguments.role else ROLES:
            tell = print if arguments.verbose else lambda _line: None
            gaps_ms = measure(Path(parent) / role, server.launch, role, arguments.kills, tell)
            median_ms, p99_ms = statistics.median(gaps_ms), percentile(gaps_ms, 0.99)
            print(
                f"{role}, {len(gaps_ms)} kills: median {median_ms:.0f} ms, p99 {p99_ms:.0f} ms, "
                f"max {max(gaps_ms):.0f} ms",
                flush=True,
            )
            missed = missed or median_ms >= MEDIAN_LIMIT_MS or p99_ms >= P99_LIMIT_MS
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
