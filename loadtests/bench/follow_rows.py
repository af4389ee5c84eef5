"""Streams out: how fast a backlog leaves as NDJSON, and what a thousand followers cost.

The followers all hang on one broker, which does not lead the partition. One record at a time is
written, when everybody has the one before; a latency is from the start of its request to the moment
at which a follower has it, so the acknowledgement by all replicas is part of it.
"""

import asyncio
import time
from collections.abc import Callable
from typing import cast
from urllib.parse import urlsplit

import msgspec
import psutil  # type: ignore[import-untyped]  # it ships no types

from loadtests.bench.environment import (
    QUICK_BOUNDS,
    BenchError,
    Environment,
    TopicLayout,
    call,
    create_topic,
    delete_topic,
    measure_cpu,
)
from loadtests.bench.produce_rows import fill
from loadtests.bench.rows import Latencies, Row
from loadtests.flights import read_flights
from ottla_ops.local_cluster import LocalBroker, LocalCluster
from ottla_protocol import routes
from ottla_protocol.record_codec import RecordData, encode_batch

FOLLOWERS = 1_000
QUICK_FOLLOWERS = 50
CONNECTS_AT_A_TIME = 50
ROUNDS = 30
QUICK_ROUNDS = 3
STREAM_TIMEOUT_S = 120.0
ROUND_TIMEOUT_S = 30.0
SETTLE_S = 2.0

BACKLOG_RECORDS = 1_000_000
QUICK_BACKLOG_RECORDS = 50_000
RECORDS_PER_BATCH = 2_500
TIMESTAMP_MS = 1_700_000_000_000

_LINE_END = b"}\n"
_DATA = b"data: "


class Stream(asyncio.Protocol):
    """One endless answer; tells how often a mark has come in it.

    Args:
        head: the request.
        mark: what is counted: it may come in two parts.
        on_marks: called with how many more have come.
    """

    def __init__(self, head: bytes, mark: bytes, on_marks: Callable[[int], None]) -> None:
        self._head = head
        self._mark = mark
        self._on_marks = on_marks
        self._tail = b""
        self.begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.transport: asyncio.Transport | None = None
        self.is_closed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Part of asyncio.Protocol."""
        self.transport = cast(asyncio.Transport, transport)
        self.transport.write(self._head)

    def data_received(self, data: bytes) -> None:
        """Part of asyncio.Protocol."""
        if not self.begun.done():
            if not data.startswith(b"HTTP/1.1 200"):
                self.begun.set_exception(BenchError(f"a stream was refused: {data[:300]!r}"))
                return
            self.begun.set_result(None)
        marks = data.count(self._mark) + (self._tail + data[: len(self._mark) - 1]).count(
            self._mark
        )
        self._tail = data[1 - len(self._mark) :]
        if marks:
            self._on_marks(marks)

    def connection_lost(self, exc: Exception | None) -> None:
        """Part of asyncio.Protocol."""
        self.is_closed = True
        if not self.begun.done():
            self.begun.set_exception(BenchError(f"a stream ended before it began: {exc}"))


async def open_stream(
    url: str, target: str, accept: str, mark: bytes, on_marks: Callable[[int], None]
) -> Stream:
    """Follow until the transport is closed.

    Raises:
        BenchError: it was refused.
    """
    parts = urlsplit(url)
    assert parts.hostname is not None, url
    assert parts.port is not None, url
    head = f"GET {target} HTTP/1.1\r\nHost: {parts.netloc}\r\nAccept: {accept}\r\n\r\n".encode()
    _, stream = await asyncio.get_running_loop().create_connection(
        lambda: Stream(head, mark, on_marks), parts.hostname, parts.port
    )
    async with asyncio.timeout(ROUND_TIMEOUT_S):
        await stream.begun
    return stream


async def measure_follow(environment: Environment, cluster: LocalCluster) -> list[Row]:
    """The followers; then NDJSON from the leader and through another broker."""
    quick = environment.bounds == QUICK_BOUNDS
    followers = QUICK_FOLLOWERS if quick else FOLLOWERS
    records = QUICK_BACKLOG_RECORDS if quick else BACKLOG_RECORDS
    # First: memory that a backlog has used is not used again before it is.
    rows = [await _followers(environment, cluster, followers, QUICK_ROUNDS if quick else ROUNDS)]
    layout = await _backlog(cluster, records)
    [leader_url] = layout.leader_urls
    other_url = next(url for url in cluster.urls if url != leader_url)
    partition = routes.PARTITION_RECORDS.format(topic=layout.name, partition=0)
    topic = routes.TOPIC_RECORDS.format(topic=layout.name)
    for name, url, path in (
        ("ndjson out, a partition, leader", leader_url, partition),
        ("ndjson out, a partition, other broker", other_url, partition),
        ("ndjson out, a topic, leader", leader_url, topic),
    ):
        environment.say(name)
        rows.append(await _stream_out(cluster, name, url, path, records))
    await delete_topic(cluster, layout.name)
    return rows


def flights_batch() -> bytes:
    """One record batch of RECORDS_PER_BATCH flights."""
    return bytes(
        encode_batch(
            [
                RecordData(TIMESTAMP_MS, (flight.key or "").encode(), bytes(flight.value))
                for flight in read_flights(limit=RECORDS_PER_BATCH)
            ]
        )
    )


async def _backlog(cluster: LocalCluster, records: int) -> TopicLayout:
    layout = await create_topic(cluster, "bench-out", partitions=1, replication_factor=3)
    await fill(layout, flights_batch(), RECORDS_PER_BATCH, records // RECORDS_PER_BATCH)
    return layout


async def _stream_out(cluster: LocalCluster, name: str, url: str, path: str, records: int) -> Row:
    done = asyncio.get_running_loop().create_future()
    seen = 0

    def count(marks: int) -> None:
        nonlocal seen
        seen += marks
        if seen >= records and not done.done():
            done.set_result(None)

    with measure_cpu(cluster) as cpu:
        started_s = time.perf_counter()
        stream = await open_stream(
            url, f"{path}?offset=earliest&follow=true", routes.NDJSON, _LINE_END, count
        )
        try:
            async with asyncio.timeout(STREAM_TIMEOUT_S):
                await done
            seconds = time.perf_counter() - started_s
        finally:
            assert stream.transport is not None
            stream.transport.abort()
    if seen != records:
        raise BenchError(f"{seen} lines for {records} records")
    return Row(
        name,
        {"records": records},
        {
            "records_per_s": records / seconds,
            **cpu.values,
            "brokers_cpu_us_per_record": cpu.brokers_seconds / records * 1e6,
        },
    )


async def _followers(
    environment: Environment, cluster: LocalCluster, followers: int, rounds: int
) -> Row:
    name = f"{followers} idle SSE followers of one broker"
    environment.say(name)
    layout = await create_topic(cluster, "bench-followers", partitions=1, replication_factor=3)
    [leader_url] = layout.leader_urls
    broker = next(each for each in cluster.brokers if each.url != leader_url)
    process = psutil.Process(broker.pid)
    before_bytes = process.memory_info().rss
    arrivals: list[float] = []
    arrived = asyncio.Event()

    def note(marks: int) -> None:
        now_s = time.perf_counter()
        arrivals.extend([now_s] * marks)
        if len(arrivals) >= followers:
            arrived.set()

    target = f"{routes.TOPIC_RECORDS.format(topic=layout.name)}?offset=latest"
    streams: list[Stream] = []
    try:
        while len(streams) < followers:
            wanted = min(CONNECTS_AT_A_TIME, followers - len(streams))
            streams += await asyncio.gather(
                *(
                    open_stream(broker.url, target, routes.EVENT_STREAM, _DATA, note)
                    for _ in range(wanted)
                )
            )
        await asyncio.sleep(SETTLE_S)
        each_kb = (process.memory_info().rss - before_bytes) / followers / 1000
        idle_percent = await _idle_cpu(broker, SETTLE_S)
        seconds, slowest_s = await _rounds(layout, rounds, arrivals, arrived)
        if any(stream.is_closed for stream in streams):
            raise BenchError("a follower was sent away")
    finally:
        for stream in streams:
            if stream.transport is not None:
                stream.transport.abort()
    await delete_topic(cluster, layout.name)
    latencies = Latencies(seconds).values()
    return Row(
        name,
        {"followers": followers, "records": rounds},
        {
            "memory_kb_each": each_kb,
            "idle_cpu_percent": idle_percent,
            "fan_out_p50_ms": latencies["p50_ms"],
            "fan_out_p99_ms": latencies["p99_ms"],
            "fan_out_ms_max": slowest_s * 1000,
        },
    )


async def _idle_cpu(broker: LocalBroker, seconds: float) -> float:
    process = psutil.Process(broker.pid)
    process.cpu_percent()
    await asyncio.sleep(seconds)
    return float(process.cpu_percent())


async def _rounds(
    layout: TopicLayout,
    rounds: int,
    arrivals: list[float],
    arrived: asyncio.Event,
) -> tuple[list[float], float]:
    """Write one record after the other; when each follower had each, and the slowest of all."""
    [leader_url] = layout.leader_urls
    path = routes.TOPIC_RECORDS.format(topic=layout.name)
    seconds: list[float] = []
    for number in range(rounds):
        arrivals.clear()
        arrived.clear()
        began_s = time.perf_counter()
        await call(leader_url, "POST", path, {"records": [{"value": msgspec.Raw(b"%d" % number)}]})
        async with asyncio.timeout(ROUND_TIMEOUT_S):
            await arrived.wait()
        seconds += [each - began_s for each in arrivals]
    return seconds, max(seconds)
