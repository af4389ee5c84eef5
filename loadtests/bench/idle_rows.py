"""What brokers cost while nothing happens, without topics and with many partitions.

A cluster of its own: what other rows leave behind is not idle. CPU is that of all brokers together,
from what the operating system has charged to their processes.
"""

import asyncio
import re
import time
from dataclasses import replace

from loadtests.bench.environment import (
    QUICK_BOUNDS,
    BenchError,
    Environment,
    call,
    create_topic,
    measure_cpu,
)
from loadtests.bench.rows import Row
from ottla_ops.local_cluster import LocalCluster

PARTITIONS = 2_000
QUICK_PARTITIONS = 60
REPLICATION_FACTOR = 3
MEASURED_S = 60.0
QUICK_MEASURED_S = 3.0
SETTLE_S = 10.0
"""From when every replica is open until the measurement: followers have caught up by then."""
QUICK_SETTLE_S = 1.0
OPEN_TIMEOUT_S = 240.0
READY_TIMEOUT_S = 30.0

_HOSTED = re.compile(rb"^ottla_partitions\{[^}]*\} ([0-9.e+]+)$", re.MULTILINE)


async def measure_idle(environment: Environment, cluster: LocalCluster) -> list[Row]:  # noqa: ARG001  has brokers of its own
    """The idle cost without any topic, then with one of many partitions, each on every broker."""
    quick = environment.bounds == QUICK_BOUNDS
    partitions = QUICK_PARTITIONS if quick else PARTITIONS
    idle = environment.cluster("idle")
    try:
        await asyncio.to_thread(idle.start)
        await asyncio.to_thread(idle.wait_ready, READY_TIMEOUT_S)
        rows = [await _row(environment, idle, "idle, no topics", 0, quick=quick)]
        began_s = time.monotonic()
        await create_topic(
            idle, "idle", partitions=partitions, replication_factor=REPLICATION_FACTOR
        )
        await _opened(idle, partitions)
        opened_ms = (time.monotonic() - began_s) * 1000
        name = f"idle, {partitions} partitions rf{REPLICATION_FACTOR}"
        row = await _row(environment, idle, name, partitions, quick=quick)
        began_s = time.monotonic()
        await asyncio.to_thread(idle.stop)
        stopped_ms = (time.monotonic() - began_s) * 1000
        values = {**row.values, "opened_ms": opened_ms, "stopped_ms": stopped_ms}
        return [*rows, replace(row, values=values)]
    finally:
        await asyncio.to_thread(idle.stop)


async def _opened(cluster: LocalCluster, partitions: int) -> None:
    """Wait until every broker has every replica.

    Raises:
        BenchError: some have not after OPEN_TIMEOUT_S.
    """
    deadline_s = time.monotonic() + OPEN_TIMEOUT_S
    for url in cluster.urls:
        while True:
            metrics = await call(url, "GET", "/metrics")
            hosted = sum(float(value) for value in _HOSTED.findall(metrics))
            if hosted >= partitions:
                break
            if time.monotonic() > deadline_s:
                raise BenchError(f"{url} has opened {hosted:.0f} of {partitions} replicas")
            await asyncio.sleep(0.2)


async def _row(
    environment: Environment, cluster: LocalCluster, name: str, partitions: int, *, quick: bool
) -> Row:
    environment.say(name)
    await asyncio.sleep(QUICK_SETTLE_S if quick else SETTLE_S)
    seconds = QUICK_MEASURED_S if quick else MEASURED_S
    with measure_cpu(cluster) as cpu:
        await asyncio.sleep(seconds)
    return Row(
        name,
        {"partitions": partitions, "brokers": len(cluster.brokers), "seconds": seconds},
        {"brokers_cpu_percent": cpu.values["brokers_cpu_percent"]},
    )
