"""Compaction: how many MB a second without a bound, and what it does to the produce p99 with one.

Each on a broker of its own, alone in its cluster. A topic is filled while it is not compacted, then
its config says that it is; the broker's own metrics tell when, and for how long.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from loadtests.bench.closed_loop import LoopResult, run_lanes
from loadtests.bench.environment import BenchError, Environment, call, create_topic
from loadtests.bench.produce_rows import check_count, produce_lane
from loadtests.bench.rows import Row
from ottla_ops.local_cluster import BROKER_COMMAND, LocalCluster
from ottla_protocol.record_codec import RecordData, encode_batch

READY_TIMEOUT_S = 30.0
COMPACTION_TIMEOUT_S = 120.0
POLL_INTERVAL_S = 0.02
FILL_SHARE = 16
"""The log is this part of what a row may write."""

SEGMENTS = 8
RECORDS_PER_BATCH = 500
VALUE_BYTES = 100
KEYS_SHARE = 4
"""Each key is written about this many times."""

KEYED = "keyed"
QUIET = "quiet"
BEGIN_S = 0.1
"""How long after the change of the config the compaction has surely begun."""

CHECK_INTERVAL = {"OTTLA_COMPACTION_CHECK_INTERVAL_MS": "50"}
UNBOUNDED = {"OTTLA_COMPACTION_MAX_BYTES_PER_S": str(1 << 62)}

_FIRST_TIMESTAMP_MS = 1_357_000_000_000


@dataclass(frozen=True, slots=True)
class _Compacted:
    """What the metrics say of compactions so far."""

    count: float
    seconds: float
    read_bytes: float
    bytes_before: float
    bytes_after: float


async def measure_compaction(environment: Environment, _: LocalCluster) -> list[Row]:
    """Three rows: a compaction at full speed, and small writes without and with one going on."""
    rows = []
    name = "compaction of 100 B records, unbounded"
    environment.say(name)
    async with _broker(environment, "compaction", CHECK_INTERVAL | UNBOUNDED) as cluster:
        records = await _fill(environment, cluster)
        done = await _compact(cluster)
        rows.append(
            Row(
                name,
                {"records": records, "value_bytes": VALUE_BYTES, "segments": SEGMENTS},
                {
                    "mb_per_s": done.bytes_before / done.seconds / 1e6,
                    "records_per_s": records / done.seconds,
                    "mb_before": done.bytes_before / 1e6,
                    "mb_after": done.bytes_after / 1e6,
                },
            )
        )
    async with _broker(environment, "compaction-pace", CHECK_INTERVAL) as cluster:
        await _fill(environment, cluster)
        for name, is_compacting in (
            ("produce of one record, no compaction", False),
            ("produce of one record beside a compaction", True),
        ):
            environment.say(name)
            rows.append(await _measure_produce(environment, cluster, name, compact=is_compacting))
    return rows


async def _measure_produce(
    environment: Environment, cluster: LocalCluster, name: str, *, compact: bool
) -> Row:
    """Writes to another topic, one at a time."""
    lane, connection = produce_lane(cluster.urls[0], QUIET, 0, _batch(0, 1, 1))
    compacting = asyncio.create_task(_compact(cluster)) if compact else None
    try:
        if compact:
            # The first check after the change of the config begins it.
            await asyncio.sleep(BEGIN_S)
        done: LoopResult = await run_lanes(
            [lane], seconds_max=environment.bounds.seconds / 2, requests_max=1 << 30
        )
        seconds = 0.0 if compacting is None else (await compacting).seconds
    finally:
        connection.close()
        if compacting is not None:
            compacting.cancel()
    return Row(
        name,
        {"in_flight": 1, "replication_factor": 1, "requests": done.requests},
        {**done.latencies.values(), "compaction_s": seconds, "produce_s": done.seconds},
    )


@asynccontextmanager
async def _broker(
    environment: Environment, name: str, settings: Mapping[str, str]
) -> AsyncIterator[LocalCluster]:
    cluster = LocalCluster(
        environment.directory / name,
        brokers=1,
        settings=settings,
        command=environment.command or BROKER_COMMAND,
    )
    try:
        await asyncio.to_thread(cluster.start)
        await asyncio.to_thread(cluster.wait_ready, READY_TIMEOUT_S)
        await create_topic(cluster, KEYED, partitions=1, replication_factor=1)
        await create_topic(cluster, QUIET, partitions=1, replication_factor=1)
        await check_count(cluster.urls[0], QUIET, 0, _batch(0, 1, 1), 1)
        yield cluster
    finally:
        await asyncio.to_thread(cluster.stop)


def _batch(number: int, records: int, keys: int) -> bytes:
    """A batch of records of random keys, the same for the same number."""
    chosen = random.Random(number)
    value = bytes(VALUE_BYTES)
    return bytes(
        encode_batch(
            [
                RecordData(_FIRST_TIMESTAMP_MS, b"key-%d" % chosen.randrange(keys), value)
                for _ in range(records)
            ]
        )
    )


async def _fill(environment: Environment, cluster: LocalCluster) -> int:
    """Write the keyed topic; returns how many records."""
    size_bytes = len(_batch(0, RECORDS_PER_BATCH, 1_000_000))
    batches = max(SEGMENTS, environment.bounds.bytes_max // FILL_SHARE // size_bytes)
    keys = max(1, batches * RECORDS_PER_BATCH // KEYS_SHARE)
    await _alter(cluster, {"segment.bytes": batches * size_bytes // SEGMENTS})
    for number in range(batches):
        batch = _batch(number, RECORDS_PER_BATCH, keys)
        await check_count(cluster.urls[0], KEYED, 0, batch, RECORDS_PER_BATCH)
    return batches * RECORDS_PER_BATCH


async def _alter(cluster: LocalCluster, configs: Mapping[str, str | int]) -> None:
    await call(cluster.urls[0], "PATCH", f"/v1/topics/{KEYED}/configs", {"configs": configs})


async def _compact(cluster: LocalCluster) -> _Compacted:
    """Have the keyed topic compacted, and wait until it is."""
    await _alter(cluster, {"cleanup.policy": "compact"})
    deadline_s = time.monotonic() + COMPACTION_TIMEOUT_S
    while time.monotonic() < deadline_s:
        found = await _compacted(cluster)
        if found.count:
            return found
        await asyncio.sleep(POLL_INTERVAL_S)
    raise BenchError(f"{KEYED} was not compacted within {COMPACTION_TIMEOUT_S:g} s")


async def _compacted(cluster: LocalCluster) -> _Compacted:
    text = (await call(cluster.urls[0], "GET", "/metrics")).decode()
    samples = dict(line.rsplit(" ", 1) for line in text.splitlines() if line[:1] != "#")
    return _Compacted(
        *(
            float(samples[f"ottla_{name}_total"])
            for name in (
                "compactions",
                "compaction_seconds",
                "compaction_read_bytes",
                "compaction_bytes_before",
                "compaction_bytes_after",
            )
        )
    )
