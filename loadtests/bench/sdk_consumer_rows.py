"""The Python SDK's consumer: records per second handed to one process, by polls and one by one.

Each row is a process of its own (`sdk_consumer`). The topics are filled beforehand with batches of
64 KiB, as producers under load make them.
"""

import sys

import msgspec

from loadtests.bench.child_process import output_of
from loadtests.bench.environment import Environment, create_topic, delete_topic, measure_cpu
from loadtests.bench.produce_rows import fill, make_batch
from loadtests.bench.rows import Row
from loadtests.bench.sdk_consumer import Consumed
from ottla_ops.local_cluster import LocalCluster

RECORD_BYTES = 100
BATCH_BYTES = 64 << 10
PARTITION_COUNTS = (1, 6)


async def measure_consumer(environment: Environment, cluster: LocalCluster) -> list[Row]:
    """By polls and by iteration, from one and from six partitions."""
    batch, count = make_batch(RECORD_BYTES, BATCH_BYTES)
    batches = environment.bounds.bytes_max // 4 // BATCH_BYTES
    rows = []
    for partitions in PARTITION_COUNTS:
        topic = f"bench-consumer-{partitions}"
        layout = await create_topic(cluster, topic, partitions=partitions, replication_factor=3)
        await fill(layout, batch, count, batches // partitions)
        for one_by_one in (False, True):
            records = batches // partitions * count * partitions
            rows.append(
                await _measure(
                    environment, cluster, topic, partitions, records, one_by_one=one_by_one
                )
            )
        await delete_topic(cluster, topic)
    return rows


async def _measure(
    environment: Environment,
    cluster: LocalCluster,
    topic: str,
    partitions: int,
    records: int,
    *,
    one_by_one: bool,
) -> Row:
    how = "iteration" if one_by_one else "poll"
    name = f"ottla consumer, {how}, {partitions} partition{'s' if partitions > 1 else ''}"
    environment.say(name)
    command = [
        sys.executable,
        "-m",
        "loadtests.bench.sdk_consumer",
        cluster.bootstrap,
        topic,
        str(records),
        "--partitions",
        str(partitions),
        "--seconds",
        str(environment.bounds.seconds),
        *(("--iterate",) if one_by_one else ()),
    ]
    with measure_cpu(cluster) as cpu:
        seen = msgspec.json.decode(await output_of(command), type=Consumed)
    return Row(
        name,
        {"record_bytes": RECORD_BYTES, "batch_bytes": BATCH_BYTES, "records": seen.records},
        {
            "records_per_s": seen.records / seen.seconds,
            "mb_per_s": seen.records * RECORD_BYTES / seen.seconds / 1e6,
            "client_cpu_us_per_record": seen.cpu_seconds / seen.records * 1e6,
            "brokers_cpu_percent": cpu.values["brokers_cpu_percent"],
        },
    )
