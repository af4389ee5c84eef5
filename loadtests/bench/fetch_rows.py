"""Binary fetch: MB/s out of the tail cache, and out of the segment files after a restart.

One connection for each broker reads all partitions that it leads, as an SDK's consumer does. The
batches are counted and not decoded. After the restart the brokers' memory is empty, but the
operating system's page cache is not: the row measures the way through SQLite, not the disk.
"""

import asyncio
import time
from collections.abc import Sequence
from struct import Struct

import msgspec

from loadtests.bench.environment import (
    BenchError,
    Environment,
    TopicLayout,
    create_topic,
    delete_topic,
    layout_of,
    measure_cpu,
)
from loadtests.bench.produce_rows import fill, make_batch
from loadtests.bench.rows import Row, Values
from loadtests.http_connection import HttpConnection
from ottla_ops.local_cluster import LocalCluster
from ottla_protocol import routes
from ottla_protocol.models import BinaryFetchRequest, BinaryFetchResponse, PartitionToFetch

PARTITIONS = 6
RECORD_BYTES = 100
BATCH_BYTES = 1_000_000
TAIL_BATCHES_PER_PARTITION = 6
"""36 MB in all: every broker's tail cache (64 MiB) holds its copy of all partitions."""

PARTITION_FETCH_BYTES = 4 << 20
FETCH_BYTES = 16 << 20
REQUEST_TIMEOUT_S = 30.0
RESTART_TIMEOUT_S = 30.0

_BASE_OFFSET = Struct(">q")
_LAST_OFFSET_DELTA = Struct(">i")
_LAST_OFFSET_DELTA_AT = 23
_RECORD_COUNT_AT = 57

_decoder = msgspec.msgpack.Decoder(BinaryFetchResponse)


class PartitionReader:
    """Reads some partitions of one leader from their beginning, once or until the time is up."""

    def __init__(self, url: str, topic: str, ends: dict[int, int]) -> None:
        self._connection = HttpConnection(url)
        self._topic = topic
        self._ends = ends
        self.records = 0
        self.requests = 0

    async def run(self, end_s: float | None) -> None:
        """One pass, or passes until `end_s` of the performance counter."""
        try:
            while True:
                await self._pass(end_s)
                if end_s is None or time.perf_counter() >= end_s:
                    return
        finally:
            self._connection.close()

    async def _pass(self, end_s: float | None) -> None:
        positions = dict.fromkeys(self._ends, 0)
        while positions and (end_s is None or time.perf_counter() < end_s):
            request = BinaryFetchRequest(
                [
                    PartitionToFetch(self._topic, partition, offset, PARTITION_FETCH_BYTES)
                    for partition, offset in positions.items()
                ],
                max_bytes=FETCH_BYTES,
            )
            answer = await self._connection.request(
                "POST",
                routes.FETCH,
                ("Content-Type", routes.MSGPACK),
                body=msgspec.msgpack.encode(request),
                timeout_s=REQUEST_TIMEOUT_S,
            )
            if answer.status != 200:
                raise BenchError(f"a fetch was refused: {answer.status} {answer.body[:300]!r}")
            self.requests += 1
            for fetched in _decoder.decode(answer.body).partitions:
                for batch in fetched.batches:
                    self.records += _LAST_OFFSET_DELTA.unpack_from(batch, _RECORD_COUNT_AT)[0]
                    positions[fetched.partition] = _next_offset(batch)
            positions = {
                partition: offset
                for partition, offset in positions.items()
                if offset < self._ends[partition]
            }


def _next_offset(batch: memoryview) -> int:
    base_offset: int = _BASE_OFFSET.unpack_from(batch)[0]
    delta: int = _LAST_OFFSET_DELTA.unpack_from(batch, _LAST_OFFSET_DELTA_AT)[0]
    return base_offset + delta + 1


async def measure_fetch(environment: Environment, cluster: LocalCluster) -> list[Row]:
    """The tail cache row, then the row after a restart of all brokers."""
    batch, count = make_batch(RECORD_BYTES, BATCH_BYTES)
    return [
        await _from_tail_cache(environment, cluster, batch, count),
        await _from_files(environment, cluster, batch, count),
    ]


async def _from_tail_cache(
    environment: Environment, cluster: LocalCluster, batch: bytes, count: int
) -> Row:
    name = "fetch from the tail cache"
    environment.say(name)
    layout = await create_topic(
        cluster, "bench-fetch-tail", partitions=PARTITIONS, replication_factor=3
    )
    await fill(layout, batch, count, TAIL_BATCHES_PER_PARTITION)
    with measure_cpu(cluster) as cpu:
        row = await _read(
            name,
            layout,
            TAIL_BATCHES_PER_PARTITION * count,
            environment.bounds.seconds,
        )
    await delete_topic(cluster, layout.name)
    return Row(row.name, row.parameters, {**row.values, **cpu.values})


async def _from_files(
    environment: Environment, cluster: LocalCluster, batch: bytes, count: int
) -> Row:
    name = "fetch from files after a restart"
    environment.say(name)
    batches = environment.bounds.bytes_max // PARTITIONS // len(batch)
    layout = await create_topic(
        cluster, "bench-fetch-files", partitions=PARTITIONS, replication_factor=3
    )
    await fill(layout, batch, count, batches)
    await asyncio.to_thread(cluster.stop)
    await asyncio.to_thread(cluster.start)
    await asyncio.to_thread(cluster.wait_ready, RESTART_TIMEOUT_S)
    layout = await layout_of(cluster, layout.name)
    with measure_cpu(cluster) as cpu:
        row = await _read(name, layout, batches * count, None)
    await delete_topic(cluster, layout.name)
    return Row(row.name, row.parameters, {**row.values, **cpu.values})


async def _read(
    name: str, layout: TopicLayout, records_per_partition: int, seconds: float | None
) -> Row:
    ends: dict[str, dict[int, int]] = {}
    for partition, url in enumerate(layout.leader_urls):
        ends.setdefault(url, {})[partition] = records_per_partition
    readers = [PartitionReader(url, layout.name, partitions) for url, partitions in ends.items()]
    started_s = time.perf_counter()
    end_s = None if seconds is None else started_s + seconds
    async with asyncio.TaskGroup() as group:
        for reader in readers:
            group.create_task(reader.run(end_s))
    values = throughput(readers, RECORD_BYTES, time.perf_counter() - started_s)
    parameters = {
        "partitions": PARTITIONS,
        "readers": len(readers),
        "record_bytes": RECORD_BYTES,
        "partition_fetch_bytes": PARTITION_FETCH_BYTES,
        "requests": sum(reader.requests for reader in readers),
    }
    return Row(name, parameters, values)


def throughput(readers: Sequence[PartitionReader], record_bytes: int, seconds: float) -> Values:
    """What readers took in, all together; `record_bytes` is the length of each value."""
    records = sum(reader.records for reader in readers)
    return {
        "mb_per_s": records * record_bytes / seconds / 1e6,
        "records_per_s": records / seconds,
    }
