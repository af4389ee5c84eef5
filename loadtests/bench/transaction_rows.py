"""Transactions of the Python SDK's producer: what they cost, and how long a commit takes."""

import sys

import msgspec

from loadtests.bench.child_process import output_of
from loadtests.bench.environment import Environment, create_topic, delete_topic
from loadtests.bench.rows import Latencies, Row
from loadtests.bench.sdk_producer import VALUE_BYTES
from loadtests.bench.sdk_transactions import Transacted
from ottla_ops.local_cluster import LocalCluster

PARTITIONS = 6
TRANSACTION_MS = 100


async def measure_transactions(environment: Environment, cluster: LocalCluster) -> list[Row]:
    """Records per second in transactions, beside the same producer's without."""
    name = f"ottla send in transactions of {TRANSACTION_MS} ms"
    environment.say(name)
    topic = "bench-transactions"
    await create_topic(cluster, topic, partitions=PARTITIONS, replication_factor=3)
    command = [
        sys.executable,
        "-m",
        "loadtests.bench.sdk_transactions",
        cluster.bootstrap,
        topic,
        "--seconds",
        str(environment.bounds.seconds),
        "--transaction-ms",
        str(TRANSACTION_MS),
    ]
    seen = msgspec.json.decode(await output_of(command), type=Transacted)
    await delete_topic(cluster, topic)
    per_s = seen.records / seen.seconds
    plain_per_s = seen.plain_records / seen.plain_seconds
    commits = Latencies(seen.commit_seconds).values()
    return [
        Row(
            name,
            {
                "partitions": PARTITIONS,
                "record_bytes": VALUE_BYTES,
                "replication_factor": 3,
                "transactions": len(seen.commit_seconds),
            },
            {
                "records_per_s": per_s,
                "without_records_per_s": plain_per_s,
                "of_without_percent": per_s / plain_per_s * 100,
                "commit_p50_ms": commits["p50_ms"],
                "commit_p99_ms": commits["p99_ms"],
            },
        )
    ]
