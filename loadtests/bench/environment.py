"""What every scenario shares: the brokers, the bounds of a run, and CPU accounting."""

import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import psutil  # type: ignore[import-untyped]  # it ships no types

from loadtests.http_connection import HttpConnection
from ottla_ops.local_cluster import LocalCluster
from ottla_protocol.models import CreateTopicRequest, MetadataResponse, VersionResponse

ADMIN_TIMEOUT_S = 20.0
LEADERS_TIMEOUT_S = 15.0
BROKERS = 3
STORAGE_BYTES = 10_000_000_000


class BenchError(Exception):
    """A scenario could not be run; the message says why."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much load a row may be; before it, unmeasured, a tenth as many bytes to warm up."""

    seconds: float
    warm_up_seconds: float
    bytes_max: int
    latency_seconds: float
    repetitions: int


FULL_BOUNDS = Bounds(
    seconds=4.0, warm_up_seconds=0.5, bytes_max=400_000_000, latency_seconds=10.0, repetitions=3
)
QUICK_BOUNDS = Bounds(
    seconds=0.5, warm_up_seconds=0.1, bytes_max=40_000_000, latency_seconds=1.5, repetitions=1
)


@dataclass(frozen=True, slots=True)
class Environment:
    """One run of the bench.

    Attributes:
        directory: for everything that brokers write.
        bounds: of each row.
        say: shows a line of progress.
        command: how a broker is started, None for the usual way.
        storage_bytes: how much the rows of `storage` write.
    """

    directory: Path
    bounds: Bounds
    say: Callable[[str], None]
    command: Sequence[str] | None = None
    storage_bytes: int = STORAGE_BYTES

    def discard(self, name: str) -> None:
        """Remove what the brokers of a stopped cluster have written."""
        shutil.rmtree(self.directory / name, ignore_errors=True)

    def cluster(
        self, name: str, brokers: int = BROKERS, settings: Mapping[str, str] | None = None
    ) -> LocalCluster:
        """A cluster in its own directory; not started."""
        directory = self.directory / name
        if self.command is None:
            return LocalCluster(directory, brokers=brokers, settings=settings)
        return LocalCluster(directory, brokers=brokers, settings=settings, command=self.command)


@dataclass(frozen=True, slots=True)
class TopicLayout:
    """Where a topic's partitions are led: `leader_urls[partition]`."""

    name: str
    leader_urls: tuple[str, ...]


async def call(url: str, method: str, target: str, body: object = None) -> bytes:
    """One administrative request.

    Raises:
        BenchError: it was refused or broke off.
    """
    connection = HttpConnection(url)
    try:
        answer = await connection.request(
            method,
            target,
            ("Content-Type", "application/json"),
            body=b"" if body is None else msgspec.json.encode(body),
            timeout_s=ADMIN_TIMEOUT_S,
        )
    except (OSError, TimeoutError) as error:
        raise BenchError(f"{method} {url}{target}: {error!r}") from error
    finally:
        connection.close()
    if answer.status >= 300:
        raise BenchError(f"{method} {url}{target}: {answer.status} {answer.body[:500].decode()}")
    return answer.body


async def create_topic(
    cluster: LocalCluster, name: str, *, partitions: int, replication_factor: int
) -> TopicLayout:
    """Create a topic and wait until its partitions have leaders."""
    request = CreateTopicRequest(name, partitions=partitions, replication_factor=replication_factor)
    await call(cluster.urls[0], "POST", "/v1/topics", request)
    return await layout_of(cluster, name)


async def layout_of(cluster: LocalCluster, name: str) -> TopicLayout:
    """The leaders of a topic, all of them known.

    Raises:
        BenchError: a partition has no leader for LEADERS_TIMEOUT_S.
    """
    deadline_s = time.monotonic() + LEADERS_TIMEOUT_S
    while True:
        body = await call(cluster.urls[0], "GET", f"/v1/metadata?topics={name}")
        metadata = msgspec.json.decode(body, type=MetadataResponse)
        urls = {broker.id: broker.url for broker in metadata.brokers if broker.state == "active"}
        leaders = [partition.leader for partition in metadata.topics[0].partitions]
        if all(leader in urls for leader in leaders):
            return TopicLayout(name, tuple(urls[leader] for leader in leaders if leader))
        if time.monotonic() >= deadline_s:
            raise BenchError(f"{name} has partitions without a leader: {leaders}")


async def delete_topic(cluster: LocalCluster, name: str) -> None:
    """Delete a topic, so that the next row finds room and quiet."""
    await call(cluster.urls[0], "DELETE", f"/v1/topics/{name}")


class CpuUsage:
    """CPU that brokers and this load generator used, as filled in when `measure_cpu` ends."""

    def __init__(self) -> None:
        self.values: dict[str, float] = {}
        self.brokers_seconds = 0.0

    def per_request(self, requests: int) -> dict[str, float]:
        """`values`, and the brokers' CPU for each request.

        The latter hardly depends on what else the machine does, unlike all rates and latencies.
        """
        return {**self.values, "brokers_cpu_us_per_request": self.brokers_seconds / requests * 1e6}


@contextmanager
def measure_cpu(cluster: LocalCluster) -> Iterator[CpuUsage]:
    """CPU during the block, in percent of one core: all brokers together, and this process."""
    brokers = [psutil.Process(broker.pid) for broker in cluster.brokers]
    itself = psutil.Process()
    usage = CpuUsage()
    started = time.perf_counter()
    brokers_before = sum(_cpu_seconds(process) for process in brokers)
    itself_before = _cpu_seconds(itself)
    yield usage
    seconds = time.perf_counter() - started
    brokers_used = sum(_cpu_seconds(process) for process in brokers) - brokers_before
    usage.brokers_seconds = brokers_used
    usage.values = {
        "brokers_cpu_percent": brokers_used / seconds * 100,
        "client_cpu_percent": (_cpu_seconds(itself) - itself_before) / seconds * 100,
    }


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


async def machine_facts(url: str) -> dict[str, str | int | float]:
    """What the numbers depend on."""
    version = msgspec.json.decode(await call(url, "GET", "/version"), type=VersionResponse)
    return {
        "cores": os.cpu_count() or 0,
        "memory_mb": psutil.virtual_memory().total // 1_000_000,
        "load_average_1m": os.getloadavg()[0],
        "system": platform.platform(),
        "python": version.python,
        "sqlite": version.sqlite,
        "ottla": version.version,
    }
