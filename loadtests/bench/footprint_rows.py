"""What brokers cost before and beside their work: time to ready, memory, bytes on disk."""

import asyncio
import statistics
import time
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # it ships no types

from loadtests.bench.environment import Environment, create_topic, delete_topic
from loadtests.bench.produce_rows import fill, make_batch
from loadtests.bench.rows import Row
from loadtests.flights import produce_body, read_flights
from loadtests.http_connection import HttpConnection
from ottla_ops.local_cluster import LocalBroker, LocalCluster
from ottla_protocol.routes import JSON

READY_TIMEOUT_S = 30.0
IDLE_S = 2.0
DISK_SINGLE_RECORDS = 1_500
DISK_CONNECTIONS = 16
REQUEST_TIMEOUT_S = 20.0
_BLOCK_BYTES = 512


async def measure_cold_starts(environment: Environment) -> list[Row]:
    """One broker alone on an empty directory, several times; then three at once."""
    name = "start of one cold broker"
    environment.say(name)
    seconds = []
    for repetition in range(environment.bounds.repetitions):
        cluster = environment.cluster(f"cold-{repetition}", brokers=1)
        try:
            seconds.append(await asyncio.to_thread(_start, cluster))
        finally:
            await asyncio.to_thread(cluster.stop)
    rows = [_ready_row(name, seconds)]
    name = "start of three cold brokers at once"
    environment.say(name)
    cluster = environment.cluster("cold-three")
    try:
        rows.append(_ready_row(name, [await asyncio.to_thread(_start, cluster)]))
    finally:
        await asyncio.to_thread(cluster.stop)
    return rows


async def measure_restart(environment: Environment, cluster: LocalCluster) -> list[Row]:
    """One broker of a running cluster: SIGKILL, then start until ready."""
    name = "restart in a running cluster"
    environment.say(name)
    seconds = []
    for repetition in range(environment.bounds.repetitions):
        broker = cluster.broker(repetition % len(cluster.brokers) + 1)
        await asyncio.to_thread(broker.kill)
        seconds.append(await asyncio.to_thread(_restart, broker))
    return [_ready_row(name, seconds)]


def _start(cluster: LocalCluster) -> float:
    started_s = time.perf_counter()
    cluster.start()
    cluster.wait_ready(READY_TIMEOUT_S)
    return time.perf_counter() - started_s


def _restart(broker: LocalBroker) -> float:
    started_s = time.perf_counter()
    broker.start()
    broker.wait_ready(READY_TIMEOUT_S)
    return time.perf_counter() - started_s


def _ready_row(name: str, seconds: list[float]) -> Row:
    return Row(
        name,
        {"repetitions": len(seconds)},
        {
            "ready_ms_median": statistics.median(seconds) * 1000,
            "ready_ms_max": max(seconds) * 1000,
        },
    )


async def measure_memory(environment: Environment, cluster: LocalCluster, when: str) -> Row:
    """RSS of the brokers now, after a little rest."""
    name = f"memory of {when} broker"
    environment.say(name)
    await asyncio.sleep(IDLE_S)
    rss_mb = [psutil.Process(broker.pid).memory_info().rss / 1e6 for broker in cluster.brokers]
    return Row(
        name,
        {"brokers": len(rss_mb)},
        {"rss_mb_max": max(rss_mb), "rss_mb_mean": statistics.mean(rss_mb)},
    )


async def measure_disk(environment: Environment, cluster: LocalCluster) -> list[Row]:
    """Bytes on disk per byte of record values, in large batches and in single records."""
    name = "disk, 100 B records in 1 MB batches"
    environment.say(name)
    batch, count = make_batch(100, 1_000_000)
    batches = min(60, environment.bounds.bytes_max // len(batch))
    layout = await create_topic(cluster, "bench-disk-1", partitions=1, replication_factor=3)
    await fill(layout, batch, count, batches)
    rows = [_disk_row(cluster, name, layout.name, batches * count * 100)]
    await delete_topic(cluster, layout.name)

    name = "disk, single flights over JSON"
    environment.say(name)
    layout = await create_topic(cluster, "bench-disk-2", partitions=1, replication_factor=3)
    value_bytes = await _post_flights(layout.leader_urls[0], layout.name)
    rows.append(_disk_row(cluster, name, layout.name, value_bytes))
    await delete_topic(cluster, layout.name)
    return rows


async def _post_flights(url: str, topic: str) -> int:
    """Post single flights over some connections; returns the bytes of their values."""
    flights = list(read_flights(limit=DISK_SINGLE_RECORDS))

    async def post(share: int) -> None:
        connection = HttpConnection(url)
        try:
            for flight in flights[share::DISK_CONNECTIONS]:
                answer = await connection.request(
                    "POST",
                    f"/v1/topics/{topic}/records",
                    ("Content-Type", JSON),
                    body=produce_body([flight]),
                    timeout_s=REQUEST_TIMEOUT_S,
                )
                assert answer.status == 200, answer
        finally:
            connection.close()

    async with asyncio.TaskGroup() as group:
        for share in range(DISK_CONNECTIONS):
            group.create_task(post(share))
    return sum(len(bytes(flight.value)) for flight in flights)


def _disk_row(cluster: LocalCluster, name: str, topic: str, value_bytes: int) -> Row:
    on_disk = [_allocated_bytes(broker.data_dir, topic) for broker in cluster.brokers]
    return Row(
        name,
        {"value_bytes": value_bytes, "replicas": len(on_disk)},
        {"disk_bytes_per_byte": max(on_disk) / value_bytes},
    )


def _allocated_bytes(data_dir: Path, topic: str) -> int:
    """Blocks of all files in the topic's partition folders, WAL included."""
    return sum(
        file.stat().st_blocks * _BLOCK_BYTES
        for folder in data_dir.glob(f"**/{topic}-*")
        for file in folder.iterdir()
        if file.is_file()
    )
