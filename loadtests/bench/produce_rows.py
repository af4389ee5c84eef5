"""Binary produce, straight to the leaders: MB/s and records/s by record and batch size.

Batches and requests are made before the clock starts, so that the rows measure brokers and not the
encoder: a request carries one batch, and each partition has some requests in flight.
"""

import asyncio
import time
from collections.abc import Sequence

import msgspec

from loadtests.bench.closed_loop import Lane, run_lanes
from loadtests.bench.environment import (
    LEADERS_TIMEOUT_S,
    BenchError,
    Environment,
    TopicLayout,
    create_topic,
    delete_topic,
    measure_cpu,
)
from loadtests.bench.rows import Row
from loadtests.http_connection import HttpConnection
from ottla_ops.local_cluster import LocalCluster
from ottla_protocol import routes
from ottla_protocol.models import BatchToAppend, BinaryProduceRequest, BinaryProduceResponse
from ottla_protocol.record_codec import RecordData, encode_batch

PARTITIONS = 6
IN_FLIGHT_PER_PARTITION = 2
BATCH_SIZES = {"16 KiB": 16 << 10, "64 KiB": 64 << 10, "1 MB": 1_000_000}
RECORD_SIZES = {"100 B": 100, "1 KiB": 1024}
REPLICATION_FACTORS = (3, 1)
WARM_UP_SHARE = 10
SETTLE_S = 0.5
RETRY_INTERVAL_S = 0.02

_FIRST_TIMESTAMP_MS = 1_357_000_000_000
_RECORD_OVERHEAD_BYTES_MIN = 6


def make_batch(record_bytes: int, batch_bytes_max: int) -> tuple[bytes, int]:
    """The largest batch of equal records that fits, and how many records are in it.

    Args:
        record_bytes: length of each value; the records have no key and no headers.
        batch_bytes_max: what the encoded batch may have.
    """
    value = bytes(index % 251 for index in range(record_bytes))
    count = batch_bytes_max // (record_bytes + _RECORD_OVERHEAD_BYTES_MIN)
    while True:
        records = [RecordData(_FIRST_TIMESTAMP_MS + i % 1000, None, value) for i in range(count)]
        batch = bytes(encode_batch(records))
        if len(batch) <= batch_bytes_max:
            return batch, count
        # By what it is too long, and at least by one record.
        count -= max(1, (len(batch) - batch_bytes_max) // (record_bytes + 12))


def produce_lane(url: str, topic: str, partition: int, batch: bytes) -> tuple[Lane, HttpConnection]:
    """A lane that appends `batch` to one partition at its leader with acks=all."""
    connection = HttpConnection(url)
    request = BinaryProduceRequest([BatchToAppend(topic, partition, memoryview(batch))])
    body = msgspec.msgpack.encode(request)
    head = connection.head("POST", routes.PRODUCE, len(body), ("Content-Type", routes.MSGPACK))

    async def send() -> None:
        answer = await connection.exchange(head, body, timeout_s=None)
        if answer.status != 200:
            raise BenchError(f"produce was refused: {answer.status} {answer.body[:300]!r}")

    return send, connection


async def check_count(url: str, topic: str, partition: int, batch: bytes, count: int) -> None:
    """Append one batch and see that the broker counts its records as we do.

    A leader that has not opened its replica yet is waited for.
    """
    connection = HttpConnection(url)
    request = BinaryProduceRequest([BatchToAppend(topic, partition, memoryview(batch))])
    body = msgspec.msgpack.encode(request)
    deadline_s = time.monotonic() + LEADERS_TIMEOUT_S
    try:
        while True:
            answer = await connection.request(
                "POST",
                routes.PRODUCE,
                ("Content-Type", routes.MSGPACK),
                body=body,
                timeout_s=LEADERS_TIMEOUT_S,
            )
            if answer.status not in (421, 503) or time.monotonic() >= deadline_s:
                break
            await asyncio.sleep(RETRY_INTERVAL_S)
    finally:
        connection.close()
    if answer.status != 200:
        raise BenchError(f"produce was refused: {answer.status} {answer.body[:300]!r}")
    result = msgspec.msgpack.decode(answer.body, type=BinaryProduceResponse).results[0]
    if result.error is not None or result.count != count:
        raise BenchError(f"the broker appended {result.count} of {count} records: {result.error}")


async def check_counts(layout: TopicLayout, batch: bytes, count: int) -> None:
    """`check_count` for every partition."""
    for partition, url in enumerate(layout.leader_urls):
        await check_count(url, layout.name, partition, batch, count)


async def fill(layout: TopicLayout, batch: bytes, count: int, batches_per_partition: int) -> None:
    """Append `batches_per_partition` batches of `count` records to every partition."""
    await check_counts(layout, batch, count)
    lanes, connections = _lanes(layout, batch, 1)

    async def repeat(lane: Lane) -> None:
        for _ in range(batches_per_partition - 1):
            await lane()

    try:
        async with asyncio.TaskGroup() as group:
            for lane in lanes:
                group.create_task(repeat(lane))
    finally:
        for connection in connections:
            connection.close()


async def measure_produce(environment: Environment, cluster: LocalCluster) -> list[Row]:
    """Every combination of replication factor, record size and batch size."""
    rows: list[Row] = []
    for replication_factor in REPLICATION_FACTORS:
        for record_name, record_bytes in RECORD_SIZES.items():
            for batch_name, batch_bytes in BATCH_SIZES.items():
                name = f"produce rf{replication_factor} acks=all {record_name} in {batch_name}"
                environment.say(name)
                batch, count = make_batch(record_bytes, batch_bytes)
                topic = f"bench-{len(rows)}"
                layout = await create_topic(
                    cluster, topic, partitions=PARTITIONS, replication_factor=replication_factor
                )
                rows.append(
                    await _measure(environment, cluster, layout, name, batch, count, record_bytes)
                )
                await delete_topic(cluster, topic)
                await asyncio.sleep(SETTLE_S)
    return rows


async def _measure(
    environment: Environment,
    cluster: LocalCluster,
    layout: TopicLayout,
    name: str,
    batch: bytes,
    count: int,
    record_bytes: int,
) -> Row:
    await check_counts(layout, batch, count)
    lanes, connections = _lanes(layout, batch, IN_FLIGHT_PER_PARTITION)
    bounds = environment.bounds
    requests_max = bounds.bytes_max // len(batch)
    try:
        await run_lanes(
            lanes, seconds_max=bounds.warm_up_seconds, requests_max=requests_max // WARM_UP_SHARE
        )
        with measure_cpu(cluster) as cpu:
            done = await run_lanes(lanes, seconds_max=bounds.seconds, requests_max=requests_max)
    finally:
        for connection in connections:
            connection.close()
    records = done.requests * count
    return Row(
        name,
        {
            "partitions": len(layout.leader_urls),
            "in_flight": len(lanes),
            "batch_bytes": len(batch),
            "records_per_batch": count,
            "record_bytes": record_bytes,
            "requests": done.requests,
        },
        {
            "mb_per_s": records * record_bytes / done.seconds / 1e6,
            "records_per_s": records / done.seconds,
            **done.latencies.values(),
            **cpu.per_request(done.requests),
        },
    )


def _lanes(
    layout: TopicLayout, batch: bytes, in_flight: int
) -> tuple[Sequence[Lane], Sequence[HttpConnection]]:
    pairs = [
        produce_lane(url, layout.name, partition, batch)
        for _ in range(in_flight)
        for partition, url in enumerate(layout.leader_urls)
    ]
    return [lane for lane, _ in pairs], [connection for _, connection in pairs]
