"""End to end: from the moment a record should be sent until a long-polling reader has it.

An open loop: records leave on schedule whether or not earlier ones were answered, and the clock
starts at the schedule, so that a stall of the brokers counts for every record that it holds up.
"""

import asyncio
import time
from collections.abc import Sequence

import msgspec

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
from ottla_protocol.routes import JSON

RECORDS_PER_S = 200
PARTITIONS = 3
CONNECTIONS_PER_PARTITION = 8
LONG_POLL_MS = 1_000
DRAIN_TIMEOUT_S = 10.0
REQUEST_TIMEOUT_S = 10.0
TOPIC = "bench-latency"


class _Record(msgspec.Struct):
    value: int


class _Page(msgspec.Struct):
    records: list[_Record]
    next_offset: int


_page_decoder = msgspec.json.Decoder(_Page)


async def measure_latency(environment: Environment, cluster: LocalCluster) -> list[Row]:
    """One row: 200 records/s, acks=all, one JSON POST each, one reader on each partition."""
    name = f"end to end at {RECORDS_PER_S} records/s"
    environment.say(name)
    layout = await create_topic(cluster, TOPIC, partitions=PARTITIONS, replication_factor=3)
    count = int(environment.bounds.latency_seconds * RECORDS_PER_S)
    run = _Run(layout, count)
    with measure_cpu(cluster) as cpu:
        await run.run()
    return [
        Row(
            name,
            {
                "partitions": PARTITIONS,
                "replication_factor": 3,
                "records": count,
                "long_poll_ms": LONG_POLL_MS,
            },
            {**Latencies(run.latencies_s).values(), **cpu.values},
        )
    ]


class _Run:
    def __init__(self, layout: TopicLayout, count: int) -> None:
        self._layout = layout
        self._count = count
        self._due_s: list[float] = []
        self.latencies_s: list[float] = []

    async def run(self) -> None:
        readers = [
            asyncio.create_task(self._read(partition))
            for partition in range(len(self._layout.leader_urls))
        ]
        try:
            await self._send_all()
            async with asyncio.timeout(DRAIN_TIMEOUT_S):
                while len(self.latencies_s) < self._count:
                    for reader in readers:
                        if reader.done():
                            reader.result()
                    await asyncio.sleep(0.01)
        finally:
            for reader in readers:
                reader.cancel()
            await asyncio.gather(*readers, return_exceptions=True)

    async def _send_all(self) -> None:
        pools: list[asyncio.Queue[HttpConnection]] = []
        for url in self._layout.leader_urls:
            pool: asyncio.Queue[HttpConnection] = asyncio.Queue()
            for _ in range(CONNECTIONS_PER_PARTITION):
                pool.put_nowait(HttpConnection(url))
            pools.append(pool)
        started_s = time.perf_counter()
        try:
            async with asyncio.TaskGroup() as group:
                for number in range(self._count):
                    due_s = started_s + number / RECORDS_PER_S
                    self._due_s.append(due_s)
                    await asyncio.sleep(max(0.0, due_s - time.perf_counter()))
                    partition = number % len(pools)
                    group.create_task(self._send(pools[partition], partition, number))
        finally:
            for pool in pools:
                while not pool.empty():
                    pool.get_nowait().close()

    async def _send(
        self, pool: "asyncio.Queue[HttpConnection]", partition: int, number: int
    ) -> None:
        connection = await pool.get()
        try:
            answer = await connection.request(
                "POST",
                f"/v1/topics/{self._layout.name}/partitions/{partition}/records",
                ("Content-Type", JSON),
                body=b'{"records":[{"value":%d}]}' % number,
                timeout_s=REQUEST_TIMEOUT_S,
            )
        finally:
            pool.put_nowait(connection)
        if answer.status != 200:
            raise BenchError(f"a POST was refused: {answer.status} {answer.body[:300]!r}")

    async def _read(self, partition: int) -> None:
        connection = HttpConnection(self._layout.leader_urls[partition])
        target = f"/v1/topics/{self._layout.name}/partitions/{partition}/records"
        offset = 0
        try:
            while True:
                answer = await connection.request(
                    "GET",
                    f"{target}?offset={offset}&max_wait_ms={LONG_POLL_MS}&min_bytes=1",
                    timeout_s=REQUEST_TIMEOUT_S,
                )
                now_s = time.perf_counter()
                if answer.status != 200:
                    raise BenchError(f"a read was refused: {answer.body[:300]!r}")
                page = _page_decoder.decode(answer.body)
                self._arrived(page.records, now_s)
                offset = page.next_offset
        finally:
            connection.close()

    def _arrived(self, records: Sequence[_Record], now_s: float) -> None:
        self.latencies_s += [now_s - self._due_s[record.value] for record in records]
