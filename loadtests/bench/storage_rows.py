"""What much data and many partitions cost a broker: recovery, cold reads, memory, opening.

These rows have one broker of their own, which nobody replicates, so that they measure its storage
alone. They need room: with the figures that are usual, 10 GB, so that they run only when asked for.
Segments are of 16 MB instead of 1 GiB, so that most of the data is sealed; what a recovery has to
look at are the active segments, which are half full at both sizes that it is measured at.
"""

import asyncio
import os
import time
from functools import partial
from pathlib import Path

import msgspec
import psutil  # type: ignore[import-untyped]  # it ships no types

from loadtests.bench.environment import Environment, TopicLayout, call, layout_of, measure_cpu
from loadtests.bench.fetch_rows import PartitionReader, throughput
from loadtests.bench.produce_rows import fill, make_batch
from loadtests.bench.rows import Row, Values
from loadtests.http_connection import HttpConnection
from ottla_ops.local_cluster import LocalBroker, LocalCluster
from ottla_protocol import routes
from ottla_protocol.models import BatchToAppend, BinaryProduceRequest

PARTITIONS = 100
SEGMENT_BYTES = 16_000_000
RECORD_BYTES = 1_000
BATCH_BYTES = 500_000
BATCHES_PER_SEGMENT = SEGMENT_BYTES // BATCH_BYTES
READERS = 4
MANY_PARTITIONS = 2_000
QUICK_SHARE = 20
"""By how much less a smoke test writes, and opens."""

PATIENT = {"OTTLA_SESSION_TIMEOUT_MS": "30000"}
"""A disk that is this busy is no reason to doubt a broker that is alone."""

RECOVERY_TIMEOUT_S = 300.0
REQUEST_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 60.0
PARTITIONS_PER_REQUEST = 100


async def measure_storage(environment: Environment, _: LocalCluster) -> list[Row]:
    """All of these rows; the brokers that other rows share stand by."""
    share = QUICK_SHARE if environment.bounds.repetitions == 1 else 1
    cluster = environment.cluster("storage", brokers=1, settings=PATIENT)
    try:
        await asyncio.to_thread(_start, cluster.broker(1))
        rows = await _measure_data(environment, cluster, environment.storage_bytes // share)
    finally:
        await asyncio.to_thread(cluster.stop)
        await asyncio.to_thread(environment.discard, "storage")
    many = environment.cluster("many", brokers=1, settings=PATIENT)
    try:
        await asyncio.to_thread(_start, many.broker(1))
        rows += await _measure_many(environment, many, MANY_PARTITIONS // share)
    finally:
        await asyncio.to_thread(many.stop)
        await asyncio.to_thread(environment.discard, "many")
    return rows


# --- much data ----------------------------------------------------------------------------------


async def _measure_data(
    environment: Environment, cluster: LocalCluster, data_bytes: int
) -> list[Row]:
    broker = cluster.broker(1)
    batch, count = make_batch(RECORD_BYTES, BATCH_BYTES)
    # A number of segments and a half, for half of the data and for all of it.
    segments = max(1, data_bytes // PARTITIONS // SEGMENT_BYTES)
    halves = (segments // 2, segments - segments // 2)
    layout = await _create(cluster, "bench-storage", PARTITIONS)
    rows: list[Row] = []
    written = 0
    for size, more in zip(("half of it", "all of it"), halves, strict=True):
        batches = more * BATCHES_PER_SEGMENT + (BATCHES_PER_SEGMENT // 2 if written == 0 else 0)
        environment.say(f"recovery after kill -9, {size}: writing {batches} batches a partition")
        await fill(layout, batch, count, batches)
        written += batches
        rows.append(await _recover(environment, broker, size))
        _tell(environment, rows)
    rows.append(await _read_cold(environment, cluster, layout, written * count))
    _tell(environment, rows)
    rows.append(_memory(broker))
    _tell(environment, rows)
    return rows


def _tell(environment: Environment, rows: list[Row]) -> None:
    """What took minutes is not lost when a later row fails."""
    values = ", ".join(f"{metric} {value:,.0f}" for metric, value in rows[-1].values.items())
    environment.say(f"  {values}")


async def _recover(environment: Environment, broker: LocalBroker, size: str) -> Row:
    name = f"recovery after kill -9, {size}"
    environment.say(name)
    await asyncio.to_thread(broker.kill)
    data_bytes, active_bytes = await asyncio.to_thread(_sizes, broker.data_dir)
    seconds = await asyncio.to_thread(_start, broker)
    return Row(
        name,
        {
            "partitions": PARTITIONS,
            "segment_bytes": SEGMENT_BYTES,
            "data_mb": data_bytes / 1e6,
            "active_mb": active_bytes / 1e6,
        },
        {"ready_ms": seconds * 1000, "active_mb_per_s": active_bytes / seconds / 1e6},
    )


async def _read_cold(
    environment: Environment, cluster: LocalCluster, layout: TopicLayout, records: int
) -> Row:
    name = "cold sequential read"
    environment.say(name)
    broker = cluster.broker(1)
    await asyncio.to_thread(_forget_pages, broker.data_dir)
    readers = [
        PartitionReader(broker.url, layout.name, {partition: records})
        for partition in range(PARTITIONS)
    ]

    async def read_in_turn(own: list[PartitionReader]) -> None:
        for reader in own:
            await reader.run(None)

    with measure_cpu(cluster) as cpu:
        started_s = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for first in range(READERS):
                group.create_task(read_in_turn(readers[first::READERS]))
        seconds = time.perf_counter() - started_s
    return Row(
        name,
        {"partitions": PARTITIONS, "readers": READERS, "record_bytes": RECORD_BYTES},
        {**throughput(readers, RECORD_BYTES, seconds), **cpu.values},
    )


def _memory(broker: LocalBroker) -> Row:
    """What of the broker's memory is its own, and what is files' pages that are mapped."""
    fields = dict(
        line.split(":", 1)
        for line in Path(f"/proc/{broker.pid}/status").read_text().splitlines()
        if ":" in line
    )
    return Row(
        "memory of a broker that has read all of it",
        {"data_mb": sum(_sizes(broker.data_dir)[:1]) / 1e6},
        {
            f"{metric}_mb": int(fields[field].split()[0]) / 1_000
            for metric, field in (
                ("rss", "VmRSS"),
                ("rss_anonymous", "RssAnon"),
                ("rss_files", "RssFile"),
            )
        },
    )


def _sizes(data_dir: Path) -> tuple[int, int]:
    """Bytes of all segments, and of those that are active, with their logs."""
    data_bytes = active_bytes = 0
    for path in data_dir.glob("*-*/*.sqlite*"):
        found = path.stat()
        data_bytes += found.st_size
        if found.st_mode & 0o200:
            active_bytes += found.st_size
    return data_bytes, active_bytes


def _forget_pages(data_dir: Path) -> None:
    """Have the next reads come from the disk."""
    for path in data_dir.glob("*-*/*.sqlite*"):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


# --- many partitions ----------------------------------------------------------------------------


async def _measure_many(
    environment: Environment, cluster: LocalCluster, partitions: int
) -> list[Row]:
    broker = cluster.broker(1)
    name = "creation of many partitions"
    environment.say(name)
    started_s = time.perf_counter()
    layout = await _create(cluster, "bench-many", partitions)
    batch, _ = make_batch(100, 1_000)
    answered_s = time.perf_counter()
    await _append_to_all(broker.url, layout, batch)
    rows = [
        Row(
            name,
            {"partitions": partitions},
            {
                "answer_ms": (answered_s - started_s) * 1000,
                "appended_to_all_ms": (time.perf_counter() - started_s) * 1000,
            },
        )
    ]
    stops = (
        ("after a stop", partial(broker.terminate, STOP_TIMEOUT_S)),
        ("after kill -9", broker.kill),
    )
    for how, stop in stops:
        name = f"open many partitions {how}"
        environment.say(name)
        stopping_s = time.perf_counter()
        await asyncio.to_thread(stop)
        stopped_s = time.perf_counter()
        seconds = await asyncio.to_thread(_start, broker)
        values: Values = {"ready_ms": seconds * 1000, "stop_ms": (stopped_s - stopping_s) * 1000}
        process = psutil.Process(broker.pid)
        memory_mb = process.memory_info().rss / 1e6
        values = {**values, "descriptors": process.num_fds(), "rss_mb": memory_mb}
        rows.append(Row(name, {"partitions": partitions}, values))
        _tell(environment, rows)
        await _append_to_all(broker.url, await layout_of(cluster, layout.name), batch)
    return rows


async def _append_to_all(url: str, layout: TopicLayout, batch: bytes) -> None:
    """One batch to every partition, many partitions in one request; each is waited for."""
    connection = HttpConnection(url)
    try:
        for first in range(0, len(layout.leader_urls), PARTITIONS_PER_REQUEST):
            last = min(first + PARTITIONS_PER_REQUEST, len(layout.leader_urls))
            request = BinaryProduceRequest(
                [BatchToAppend(layout.name, each, memoryview(batch)) for each in range(first, last)]
            )
            await _until_taken(connection, msgspec.msgpack.encode(request))
    finally:
        connection.close()


async def _until_taken(connection: HttpConnection, body: bytes) -> None:
    deadline_s = time.monotonic() + RECOVERY_TIMEOUT_S
    while True:
        answer = await connection.request(
            "POST",
            routes.PRODUCE,
            ("Content-Type", routes.MSGPACK),
            body=body,
            timeout_s=REQUEST_TIMEOUT_S,
        )
        if answer.status == 200 or time.monotonic() > deadline_s:
            break
        await asyncio.sleep(0.05)
    assert answer.status == 200, answer.body[:300]


async def _create(cluster: LocalCluster, name: str, partitions: int) -> TopicLayout:
    request = {
        "name": name,
        "partitions": partitions,
        "replication_factor": 1,
        "configs": {"segment.bytes": SEGMENT_BYTES},
    }
    await call(cluster.urls[0], "POST", "/v1/topics", request)
    return await layout_of(cluster, name)


def _start(broker: LocalBroker) -> float:
    started_s = time.perf_counter()
    broker.start()
    broker.wait_ready(RECOVERY_TIMEOUT_S)
    return time.perf_counter() - started_s
