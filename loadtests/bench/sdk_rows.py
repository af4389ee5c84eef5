"""The Python SDK's producer: records per second from one process, and what a record costs there.

Each row is a process of its own (`sdk_producer`), so that processor time and memory are the
client's. The same rows of confluent-kafka and aiokafka are measured against a Kafka where one is
named in OTTLA_BENCH_KAFKA (host:port) and the client is installed.
"""

import importlib.util
import os
import statistics
import sys

import msgspec

from loadtests.bench.child_process import output_of
from loadtests.bench.environment import Environment, create_topic, delete_topic
from loadtests.bench.rows import Row
from loadtests.bench.sdk_producer import VALUE_BYTES, Measured
from ottla_ops.local_cluster import LocalCluster

PARTITIONS = 6
COMPRESSIONS = ("none", "lz4", "zstd")
IMPORT_REPETITIONS = 5
KAFKA_VARIABLE = "OTTLA_BENCH_KAFKA"
KAFKA_CLIENTS = {"confluent": "confluent_kafka", "aiokafka": "aiokafka"}

_TIME_IMPORT = (
    "import time; began = time.perf_counter(); {}; print((time.perf_counter() - began) * 1000)"
)


async def measure_sdk(environment: Environment, cluster: LocalCluster) -> list[Row]:
    """The import, `send` and `send_many` plain and compressed, and Kafka's clients if asked for."""
    rows = [
        await _measure_import(environment, statement)
        for statement in ("import ottla", "from ottla import Producer")
    ]
    topic = "bench-sdk"
    for many in (False, True):
        for compression in COMPRESSIONS:
            await create_topic(cluster, topic, partitions=PARTITIONS, replication_factor=3)
            rows.append(
                await _measure(
                    environment, "ottla", cluster.bootstrap, topic, compression, many=many
                )
            )
            await delete_topic(cluster, topic)
    kafka = os.environ.get(KAFKA_VARIABLE)
    for client, module in KAFKA_CLIENTS.items():
        if kafka and importlib.util.find_spec(module) is not None:
            rows += [
                await _measure(environment, client, kafka, topic, compression, many=False)
                for compression in COMPRESSIONS
            ]
    return rows


async def _measure(
    environment: Environment,
    client: str,
    bootstrap: str,
    topic: str,
    compression: str,
    *,
    many: bool,
) -> Row:
    call = "send_many" if many else "send"
    name = f"{client} {call}, {'plain' if compression == 'none' else compression}"
    environment.say(name)
    command = [
        sys.executable,
        "-m",
        "loadtests.bench.sdk_producer",
        client,
        bootstrap,
        topic,
        "--compression",
        compression,
        "--seconds",
        str(environment.bounds.seconds),
        *(("--many",) if many else ()),
    ]
    seen = msgspec.json.decode(await output_of(command), type=Measured)
    return Row(
        name,
        {
            "partitions": PARTITIONS,
            "record_bytes": VALUE_BYTES,
            "replication_factor": 3,
            "acks": "all",
            "records": seen.records,
        },
        {
            "records_per_s": seen.records / seen.seconds,
            "mb_per_s": seen.records * VALUE_BYTES / seen.seconds / 1e6,
            "client_cpu_us_per_record": seen.cpu_seconds / seen.records * 1e6,
            "client_rss_growth_mb": seen.rss_growth_mb,
        },
    )


async def _measure_import(environment: Environment, statement: str) -> Row:
    environment.say(statement)
    milliseconds = [
        float(await output_of([sys.executable, "-c", _TIME_IMPORT.format(statement)]))
        for _ in range(IMPORT_REPETITIONS)
    ]
    return Row(
        statement,
        {"repetitions": IMPORT_REPETITIONS},
        {"import_ms_median": statistics.median(milliseconds), "import_ms_max": max(milliseconds)},
    )
