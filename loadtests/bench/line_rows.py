"""NDJSON streamed in through one connection, with an answer for each line, to one of three brokers.

Blocks of lines are made before the clock starts. The stream is as fast as the broker takes it: it
reads no more than it stores, and the clock stops at the last answer.
"""

import asyncio
import time
from itertools import cycle, islice
from urllib.parse import urlsplit

import msgspec

from loadtests.bench.environment import BenchError, Environment, create_topic, measure_cpu
from loadtests.bench.rows import Row
from loadtests.flights import read_flights
from ottla_ops.local_cluster import LocalCluster
from ottla_protocol.routes import HEADER_IDEMPOTENCY_KEY, NDJSON

TOPIC = "bench-lines"
PARTITIONS = 6
FLIGHTS = 2_000
VALUE_FIELDS = ("carrier", "flight", "origin", "dest")
READ_BYTES = 256 << 10
STREAM_TIMEOUT_S = 60.0
ROW = "ndjson in, 1 stream"

_ANSWER = b'"offset":'
_ERROR = b'"error":'


async def measure_lines(environment: Environment, cluster: LocalCluster) -> list[Row]:
    """One stream of keyed records, without and with an Idempotency-Key."""
    await create_topic(cluster, TOPIC, partitions=PARTITIONS, replication_factor=3)
    block = _block()
    rows = []
    for key in (None, "bench"):
        name = ROW if key is None else f"{ROW}, Idempotency-Key"
        environment.say(name)
        warm_up = None if key is None else f"{key}-warm-up"
        await _stream(cluster.urls[0], block, warm_up, environment.bounds.warm_up_seconds)
        with measure_cpu(cluster) as cpu:
            records, seconds = await _stream(
                cluster.urls[0], block, key, environment.bounds.seconds
            )
        rows.append(
            Row(
                name,
                {
                    "partitions": PARTITIONS,
                    "replication_factor": 3,
                    "line_bytes": len(block) // FLIGHTS,
                    "records": records,
                },
                {"records_per_s": records / seconds, **cpu.per_request(records)},
            )
        )
    return rows


def _block() -> bytes:
    """FLIGHTS lines of about 100 bytes."""
    lines = []
    flights = [flight for flight in read_flights(limit=FLIGHTS) if flight.key is not None]
    for flight in islice(cycle(flights), FLIGHTS):
        whole = msgspec.json.decode(flight.value)
        value = {name: whole[name] for name in VALUE_FIELDS if name in whole}
        lines.append(msgspec.json.encode({"key": flight.key, "value": value}) + b"\n")
    return b"".join(lines)


async def _stream(url: str, block: bytes, key: str | None, seconds: float) -> tuple[int, float]:
    """Stream blocks for so long; returns the lines that were answered, and until when.

    Raises:
        BenchError: a line failed, or the stream broke off.
    """
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    head = (
        f"POST /v1/topics/{TOPIC}/records HTTP/1.1\r\nHost: {parts.netloc}\r\n"
        f"Content-Type: {NDJSON}\r\nTransfer-Encoding: chunked\r\n"
    )
    if key is not None:
        head += f"{HEADER_IDEMPOTENCY_KEY}: {key}\r\n"
    chunk = b"%x\r\n%b\r\n" % (len(block), block)
    started_s = time.perf_counter()
    sent_blocks = 0

    async def send() -> None:
        nonlocal sent_blocks
        writer.write(f"{head}\r\n".encode())
        while time.perf_counter() - started_s < seconds:
            writer.write(chunk)
            await writer.drain()
            sent_blocks += 1
        writer.write(b"0\r\n\r\n")
        await writer.drain()

    try:
        async with asyncio.timeout(seconds + STREAM_TIMEOUT_S):
            sending = asyncio.create_task(send())
            answered = await _count_answers(reader)
            await sending
    except (OSError, TimeoutError) as error:
        raise BenchError(f"the stream to {url} broke off: {error!r}") from error
    finally:
        writer.close()
    if answered != sent_blocks * FLIGHTS:
        raise BenchError(f"{answered} answers to {sent_blocks * FLIGHTS} lines")
    return answered, time.perf_counter() - started_s


async def _count_answers(reader: asyncio.StreamReader) -> int:
    answered, rest = 0, b""
    while data := await reader.read(READ_BYTES):
        data = rest + data
        if _ERROR in data:
            raise BenchError(f"a line was refused: {data[data.index(_ERROR) :][:300]!r}")
        answered += data.count(_ANSWER)
        # Too short for an answer, and long enough for one that is cut.
        rest = data[-(len(_ANSWER) - 1) :]
    return answered
