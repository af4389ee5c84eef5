"""What a chaos run breaks: a cluster in namespaces, on disks of its own, with its clients."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import urllib3

from ottla_ops.local_cluster import CommandProcess, LocalCluster
from ottla_protocol import routes
from tests.chaos import shifted_clock
from tests.chaos.faulty_disks import MEBIBYTE, PoweredDisk, remove_leftovers
from tests.chaos.history import END_OFFSET, OK, SEND, HistoryWriter, read_history
from tests.chaos.namespaces import Network
from tests.cluster.awaiting import eventually
from tests.cluster.cluster_client import ClusterClient
from tests.cluster.http_client import HttpClient

ROOT = Path(__file__).parents[2]
PORT = 7101
TOPIC = "orders"
GROUP = "shipping"
OFFSETS_TOPIC = "__consumer_offsets"
OFFSETS_REPLICAS = 3
"""What its replication factor is by default, of three brokers or more."""
DISK_BYTES = 768 * MEBIBYTE
CLIENT_STOP_TIMEOUT_S = 60.0
START_TIMEOUT_S = 60.0
BUSY_POLL_S = 0.3

SETTINGS = {
    "OTTLA_CLUSTER_SECRET": "a-secret-of-chaos",
    "OTTLA_INSECURE_LISTEN": "true",
    "OTTLA_DISK_RESERVE_BYTES": str(16 * MEBIBYTE),
    # So short that a fault of a few seconds is long enough for what these limits are for. But a
    # follower is missed no sooner than its lease ends: it may have led until a moment before.
    "OTTLA_REPLICA_LAG_TIME_MAX_MS": "3000",
    "OTTLA_DISK_HANG_TIMEOUT_MS": "1000",
    # Retention looks while a clock is wrong.
    "OTTLA_RETENTION_CHECK_INTERVAL_MS": "500",
    # So few that voters restart from snapshots, and one that was away is sent the leader's.
    "OTTLA_METADATA_SNAPSHOT_ENTRIES": "20",
}

CLIENTS = {"produce": 2, "read": 1, "group": 2}
PAUSE_S = {"produce": 0.1, "read": 0.2, "group": 0.1}


class World:
    """Everything of one run; use it as a context manager.

    Args:
        directory: gets data, logs and histories.
        brokers: how many, all of them voters.
        partitions: of the one topic.
        replication_factor: of that topic; more than half of it is the minimum ISR.
        seed: for what clients choose at random.
        with_disks: whether each broker gets a file system of its own, which costs a second.
        clients: number of processes by kind.
        launch: `ForkServer.launch`, for brokers that start sooner and have the machine's clock.
    """

    def __init__(
        self, directory, *, brokers=3, partitions=4, replication_factor=3, seed=0,
        with_disks=False, clients=None, launch=None,
    ):  # fmt: skip
        self.directory = directory
        self.partitions = partitions
        self.replication_factor = replication_factor
        self.seed = seed
        self.disks = {}
        self.clients = {}
        self._fork = launch
        self._clients_wanted = clients or CLIENTS
        self._with_disks = with_disks
        self._stack = ExitStack()
        self._started = 0
        self._clocked = []  # Every process that was started with a clock of its own.
        self.histories = directory / "histories"
        self.network = Network(brokers)
        self.cluster = None
        self.client = None
        self.prober = None

    def __enter__(self):
        with ExitStack() as stack:
            self._build(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_exception):
        self._stack.close()

    def _build(self, stack):
        self.histories.mkdir(parents=True)
        stack.enter_context(self.network)
        if self._with_disks:
            remove_leftovers()
            for node in self.node_ids:
                disk = PoweredDisk(
                    self.directory / f"disk-{os.getpid()}-{node}.img",
                    self.directory / f"broker-{node}",
                    DISK_BYTES,
                )
                self.disks[node] = stack.enter_context(disk)
                (disk.path / "lost+found").rmdir()
        for node in self.node_ids:
            shifted_clock.set_clock(self.clock(node), 0)
        self.cluster = LocalCluster(
            self.directory,
            brokers=len(self.node_ids),
            settings=SETTINGS,
            addresses=[f"{self.network.address(node)}:{PORT}" for node in self.node_ids],
            launch=self._launch,
        )
        http = HttpClient()
        stack.callback(http.close)
        stack.callback(self._remove_shared_memory)
        stack.enter_context(self.cluster)
        self.client = ClusterClient(self.cluster, http)
        self.client.create_topic(
            TOPIC,
            partitions=self.partitions,
            replication_factor=self.replication_factor,
            configs={
                "min.insync.replicas": self.replication_factor // 2 + 1,
                "segment.bytes": MEBIBYTE,
            },
        )
        self.client.wait_isr(TOPIC, self.replication_factor, timeout_s=START_TIMEOUT_S)
        self.prober = HistoryWriter(self.histories / "prober.jsonl", "prober")
        stack.callback(self.prober.close)
        stack.callback(self.kill_clients)
        for kind, count in self._clients_wanted.items():
            for _ in range(count):
                self.start_client(kind, is_first=True)

    def _launch(self, environment, log_path):
        node = int(environment["OTTLA_NODE_ID"])
        if self._fork is not None:
            namespace = str(self.network.path(node))
            return self._fork(environment, log_path, network_namespace=namespace)
        command = (sys.executable, "-m", "tests.chaos.shifted_clock", str(self.clock(node)))
        paths = [str(ROOT), environment.get("PYTHONPATH", "")]
        clock = shifted_clock.environment(self.clock(node))
        environment = {**environment, "PYTHONPATH": ":".join(filter(None, paths)), **clock}
        process = CommandProcess.launch(self.network.within(node, *command), environment, log_path)
        self._clocked.append(process.pid)
        return process

    def _remove_shared_memory(self):
        for pid in self._clocked:
            shifted_clock.remove_shared_memory(pid)

    # --- what there is ----------------------------------------------------------------------------

    @property
    def node_ids(self):
        return self.network.node_ids

    @property
    def minority(self):
        """How many brokers may be missing."""
        return (len(self.node_ids) - 1) // 2

    def broker(self, node):
        return self.cluster.broker(node)

    def clock(self, node):
        """The file that says how wrong the broker's clock is."""
        return self.directory / f"clock-{node}"

    def others(self, *nodes):
        return [node for node in self.node_ids if node not in nodes]

    def leader(self, partition):
        """Who leads a partition; everything must be well."""
        return self.client.leader(TOPIC, partition)

    def controller(self):
        return self.client.controller()

    def coordinator(self):
        """The coordinator of the group."""

        def told():
            url = f"{self.client.any_url()}/v1/groups/{GROUP}"
            return self.client.http.get(url, timeout_s=5).expect(200).document["coordinator"]

        return eventually(told, 20)

    # --- clients ----------------------------------------------------------------------------------

    def start_client(self, kind, *, is_first=False):
        """Start one more process of clients; returns its name."""
        self._started += 1
        name = f"{kind}{self._started}"
        options = {
            "name": name,
            "urls": self.cluster.urls,
            "topic": TOPIC,
            "group": GROUP,
            "partitions": self.partitions,
            "history": str(self.histories),
            "seed": self.seed,
            "pause_s": PAUSE_S[kind],
            "is_first": is_first,
        }
        with (self.directory / f"{name}.log").open("wb") as log:
            self.clients[name] = subprocess.Popen(
                [sys.executable, "-m", "tests.chaos.client_process", kind, json.dumps(options)],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        return name

    def kill_client(self, name):
        """SIGKILL one process of clients, and start another one in its place."""
        process = self.clients.pop(name)
        process.kill()
        process.wait()
        self.start_client(name.rstrip("0123456789"))

    def dead_clients(self):
        """What clients that ended by themselves had to say; none ever should. Each tells once."""
        dead = [name for name, process in self.clients.items() if process.poll() is not None]
        return [
            f"{name} ended with {self.clients.pop(name).poll()}: {self._log_of(name)}"
            for name in dead
        ]

    def wait_busy(self, sends, timeout_s):
        """Wait until so many sends have succeeded, and somebody has read and asked for an end.

        Processes of clients start at their leisure, and a run must not be over before.
        """
        ends_s = time.monotonic() + timeout_s
        while time.monotonic() < ends_s:
            dead = self.dead_clients()
            assert not dead, dead
            done = [each for each in read_history(self.histories.iterdir()) if each.outcome == OK]
            reads = any(each.records for each in done)
            functions = Counter(each.function for each in done if each.process != "prober")
            if functions[SEND] >= sends and reads and functions[END_OFFSET]:
                return
            time.sleep(BUSY_POLL_S)
        raise AssertionError(f"clients do hardly anything after {timeout_s} s")

    def stop_clients(self):
        """Have all of them end what they began; returns what went wrong."""
        failed = []
        for process in self.clients.values():
            process.terminate()
        ends_s = time.monotonic() + CLIENT_STOP_TIMEOUT_S
        for name, process in self.clients.items():
            try:
                exit_code = process.wait(max(0, ends_s - time.monotonic()))
            except subprocess.TimeoutExpired:
                exit_code = "nothing, it hangs"
            # One that takes SIGTERM for what it is by default has not begun yet.
            if exit_code not in (0, -signal.SIGTERM):
                failed.append(f"{name} ended with {exit_code}: {self._log_of(name)}")
        self.kill_clients()
        return failed

    def kill_clients(self):
        clients, self.clients = self.clients, {}
        for process in clients.values():
            process.kill()
            process.wait()

    def _log_of(self, name):
        return (self.directory / f"{name}.log").read_text()[-1500:]

    def count_snapshots(self):
        """How many snapshots of the metadata were made, and how many came from a leader."""
        logs = [broker.log_path.read_bytes() for broker in self.cluster.brokers]
        return {
            f"metadata snapshots {what}": sum(
                log.count(f"metadata_snapshot_{what}".encode()) for log in logs
            )
            for what in ("made", "installed")
        }

    # --- whether it works -------------------------------------------------------------------------

    def probe(self, timeout_s):
        """Wait until every partition has taken a write; returns how long that took in s.

        Raises:
            AssertionError: one has not in time.
        """
        begun_s = time.monotonic()
        for partition in range(self.partitions):
            left_s = max(1.0, timeout_s - (time.monotonic() - begun_s))
            eventually(lambda partition=partition: self.write(partition), left_s)
        return time.monotonic() - begun_s

    def write(self, partition):
        """Write one record through the first broker that takes it; none that stands still is asked.

        Raises:
            AssertionError: none does.
        """
        value = f"probe-{time.monotonic_ns()}"
        number = self.prober.invoke(SEND, partition=partition, value=value)
        detail = None
        awake = [node for node in self.node_ids if not self.broker(node).is_paused]
        for node in awake:
            try:
                answer = self.client.produce(
                    TOPIC,
                    [{"value": value}],
                    partition=partition,
                    via=node,
                    headers={"Idempotency-Key": value},
                    timeout_ms=3000,
                    timeout_s=4,
                )
            except urllib3.exceptions.HTTPError as error:
                detail = repr(error)
                continue
            if answer.status == 200:
                self.prober.ok(number, offset=answer.document["records"][0]["offset"])
                self._ask_for_end(partition, awake[awake.index(node) - 1])
                return True
            detail = answer.code
        self.prober.info(number, detail=detail)
        raise AssertionError(f"partition {partition} takes no writes: {detail}")

    def _ask_for_end(self, partition, other):
        """An end that is asked for right after a write, of another broker, must cover it."""
        number = self.prober.invoke(END_OFFSET, partition=partition)
        try:
            answer = self.client.offset(TOPIC, partition, via=other)
        except urllib3.exceptions.HTTPError as error:
            self.prober.info(number, detail=repr(error))
            return
        if answer.status == 200:
            self.prober.ok(number, offset=answer.document["offset"])
        else:
            self.prober.fail(number, detail=answer.code)

    def wait_whole(self, timeout_s):
        """Wait until every broker is ready and votes, and every replica is in sync, of offsets too.

        Else the next fault would come on top of this one: without one more, too few may vote.
        """
        self.cluster.wait_ready(timeout_s)
        eventually(self._check_voters, timeout_s)
        self.client.wait_isr(TOPIC, self.replication_factor, timeout_s=timeout_s)
        if self.has_groups():
            self.client.wait_isr(OFFSETS_TOPIC, OFFSETS_REPLICAS, timeout_s=timeout_s)

    def _check_voters(self):
        """A directory that took the place of a lost one is a voter of its own, and later."""
        url = self.client.any_url() + routes.CLUSTER_QUORUM
        quorum = self.client.http.get(url, timeout_s=5).expect(200).document
        assert quorum["configuration_committed"]
        named = {voter["id"]: voter["directory_id"] for voter in quorum["voters"]}
        assert named == {
            broker.node_id: json.loads((broker.data_dir / "directory.json").read_bytes())[
                "directory_id"
            ]
            for broker in self.cluster.brokers
        }

    def has_groups(self):
        """Whether there is the topic in which groups keep their offsets, for there was a group."""

        def told():
            answer = self.client.http.get(
                f"{self.client.any_url()}{routes.TOPICS}/{OFFSETS_TOPIC}", timeout_s=5
            )
            assert answer.status in (200, 404), answer.body
            return (answer.status,)

        return eventually(told, START_TIMEOUT_S) == (200,)

    def heal_damage(self, timeout_s):
        """Have every broker verify its replicas, as its scrubbing does once a day, and heal them.

        What lies damaged where nobody reads is found by nothing else before the end of a run.
        """
        for partition in range(self.partitions):
            for node in self.client.partition(TOPIC, partition)["replicas"]:
                self._verify(node, partition, timeout_s)
        eventually(self._check_fit, timeout_s)
        self.wait_whole(timeout_s)

    def _verify(self, node, partition, timeout_s):
        path = routes.PARTITION_SEGMENTS_VERIFY.format(topic=TOPIC, partition=partition)
        url, offset = self.client.url(node) + path, 0
        while offset is not None:
            body = {"replica": node, "offset": offset}
            # A replica that is being refilled is not there for a moment.
            part = eventually(
                lambda body=body: self.client.http.post(url, body).expect(200).document, timeout_s
            )
            offset = part["next_offset"]

    def _check_fit(self):
        for node in self.node_ids:
            unfit = self.client.metric(node, "ottla_unfit_replicas")
            assert unfit == 0, f"{unfit} replicas on broker {node} are not healed"
