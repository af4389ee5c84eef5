"""What other clients notice of hostile ones: the latency of writes, undisturbed and beside them.

Writes leave on a schedule, as in `latency_rows`, so that a stall counts for all that it holds up.
The hostile clients are a process of their own, with as many idle connections as the system allows
it, 10,000 at most.
"""

import asyncio
import resource
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psutil  # type: ignore[import-untyped]

from loadtests.bench.environment import (
    BenchError,
    Environment,
    TopicLayout,
    create_topic,
    measure_cpu,
)
from loadtests.bench.rows import Latencies, Row
from loadtests.http_connection import HttpConnection
from ottla_ops.local_cluster import LocalCluster
from ottla_protocol.routes import JSON, PARTITION_RECORDS

WRITES_PER_S = 100
CONNECTIONS = 8
PARTITIONS = 3
IDLE_CONNECTIONS_MAX = 10_000
DESCRIPTORS_FOR_OTHERS = 1_000
REQUEST_TIMEOUT_S = 20.0
READY_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 20.0
TOPIC = "bench-hostile"
UNDISTURBED = "writes without hostile clients"
DISTURBED = "writes beside hostile clients"


async def measure_hostile(environment: Environment, cluster: LocalCluster) -> list[Row]:
    """Two rows of the same writes: p99 in the second over that in the first is what they cost."""
    layout = await create_topic(cluster, TOPIC, partitions=PARTITIONS, replication_factor=3)
    # The first writes of a topic open its logs.
    await _write(layout, environment.bounds.warm_up_seconds)
    environment.say(UNDISTURBED)
    undisturbed = await _row(environment, cluster, layout, UNDISTURBED, idle=0)
    environment.say(DISTURBED)
    before_mb = _memory_mb(cluster)
    async with _attacked(cluster) as idle:
        disturbed = await _row(environment, cluster, layout, DISTURBED, idle=idle)
        grown_mb = _memory_mb(cluster) - before_mb
    ratio = disturbed.values["p99_ms"] / undisturbed.values["p99_ms"]
    values = {**disturbed.values, "p99_ratio": ratio, "brokers_rss_growth_mb": grown_mb}
    return [undisturbed, Row(DISTURBED, disturbed.parameters, values)]


async def _row(
    environment: Environment, cluster: LocalCluster, layout: TopicLayout, name: str, *, idle: int
) -> Row:
    with measure_cpu(cluster) as cpu:
        latencies = await _write(layout, environment.bounds.latency_seconds)
    parameters = {"writes_per_s": WRITES_PER_S, "idle_connections": idle}
    return Row(name, parameters, {**latencies.values(), **cpu.values})


async def _write(layout: TopicLayout, seconds: float) -> Latencies:
    """Write for so long, on schedule; how long after its time each write was acknowledged.

    Raises:
        BenchError: a write was refused.
    """
    pool: asyncio.Queue[tuple[HttpConnection, str]] = asyncio.Queue()
    for number in range(CONNECTIONS):
        partition = number % PARTITIONS
        target = PARTITION_RECORDS.format(topic=layout.name, partition=partition)
        pool.put_nowait((HttpConnection(layout.leader_urls[partition]), target))
    latencies = Latencies()

    async def write(due_s: float) -> None:
        connection, target = await pool.get()
        try:
            answer = await connection.request(
                "POST",
                target,
                ("Content-Type", JSON),
                body=b'{"records":[{"value":"on time"}]}',
                timeout_s=REQUEST_TIMEOUT_S,
            )
        finally:
            pool.put_nowait((connection, target))
        if answer.status != 200:
            raise BenchError(f"a write was refused: {answer.status} {answer.body[:300]!r}")
        latencies.seconds.append(time.perf_counter() - due_s)

    started_s = time.perf_counter()
    try:
        async with asyncio.TaskGroup() as group:
            for number in range(max(1, int(seconds * WRITES_PER_S))):
                due_s = started_s + number / WRITES_PER_S
                await asyncio.sleep(max(0.0, due_s - time.perf_counter()))
                group.create_task(write(due_s))
    finally:
        while not pool.empty():
            pool.get_nowait()[0].close()
    return latencies


@asynccontextmanager
async def _attacked(cluster: LocalCluster) -> AsyncIterator[int]:
    """Hostile clients at work; yields how many connections they keep idle.

    Raises:
        BenchError: they could not begin.
    """
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    idle = max(0, min(IDLE_CONNECTIONS_MAX, allowed - DESCRIPTORS_FOR_OTHERS))
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "loadtests.bench.hostile_clients",
        TOPIC,
        str(idle),
        *cluster.urls,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        async with asyncio.timeout(READY_TIMEOUT_S):
            ready = (await process.stdout.readline()).split()
        if len(ready) != 2:
            raise BenchError("the hostile clients did not begin")
        yield int(ready[1])
    finally:
        process.stdin.close()
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


def _memory_mb(cluster: LocalCluster) -> float:
    """Resident memory of the largest broker."""
    resident = [psutil.Process(broker.pid).memory_info().rss for broker in cluster.brokers]
    return float(max(resident)) / 1e6
