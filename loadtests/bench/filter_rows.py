"""Reads with a filter, over real flights: how many records a broker looks at in a second.

Each row reads the whole partition at its leader, one request after the other, as a client does that
goes on while `next_offset` is below the high watermark.
"""

import time
from urllib.parse import urlencode

import msgspec

from loadtests.bench.environment import (
    QUICK_BOUNDS,
    BenchError,
    Environment,
    create_topic,
    delete_topic,
    measure_cpu,
)
from loadtests.bench.follow_rows import RECORDS_PER_BATCH, flights_batch
from loadtests.bench.produce_rows import fill
from loadtests.bench.rows import Row
from loadtests.http_connection import HttpConnection
from ottla_ops.local_cluster import LocalCluster
from ottla_protocol import routes

RECORDS = 500_000
QUICK_RECORDS = 25_000
REQUEST_TIMEOUT_S = 60.0

FILTERS = {
    "one of 25": {"where": '$.origin == "JFK" && $.dep_delay > 60'},
    "no string to look for": {"where": "$.dep_delay > 200 || $.distance < 100"},
    "one aircraft, by value": {"where": '$.tailnum == "N14228"'},
    "one aircraft, by key": {"key": "N14228"},
}


class _Answer(msgspec.Struct):
    records: list[msgspec.Raw]
    next_offset: int
    high_watermark: int


async def measure_filter(environment: Environment, cluster: LocalCluster) -> list[Row]:
    """A filter that decodes each value, ones that hardly decode any, and one of keys alone."""
    records = QUICK_RECORDS if environment.bounds == QUICK_BOUNDS else RECORDS
    layout = await create_topic(cluster, "bench-filter", partitions=1, replication_factor=3)
    await fill(layout, flights_batch(), RECORDS_PER_BATCH, records // RECORDS_PER_BATCH)
    [leader_url] = layout.leader_urls
    path = routes.PARTITION_RECORDS.format(topic=layout.name, partition=0)
    rows = []
    for kind, parameters in FILTERS.items():
        name = f"filtered read, {kind}"
        environment.say(name)
        with measure_cpu(cluster) as cpu:
            started_s = time.perf_counter()
            found, requests = await _read_all(leader_url, path, parameters, records)
            seconds = time.perf_counter() - started_s
        rows.append(
            Row(
                name,
                {"records": records, "found": found, "requests": requests, **parameters},
                {
                    "records_per_s": records / seconds,
                    **cpu.values,
                    "brokers_cpu_us_per_record": cpu.brokers_seconds / records * 1e6,
                },
            )
        )
    await delete_topic(cluster, layout.name)
    return rows


async def _read_all(
    url: str, path: str, parameters: dict[str, str], records: int
) -> tuple[int, int]:
    """How many records were found, and by how many requests."""
    connection = HttpConnection(url)
    offset = found = requests = 0
    try:
        while offset < records:
            query = urlencode({"offset": offset, "max_wait_ms": 0, **parameters})
            answer = await connection.request("GET", f"{path}?{query}", timeout_s=REQUEST_TIMEOUT_S)
            if answer.status != 200:
                raise BenchError(f"a filtered read: {answer.status} {answer.body[:300]!r}")
            page = msgspec.json.decode(answer.body, type=_Answer)
            if page.next_offset <= offset:
                raise BenchError(f"a filtered read stands still at {offset} of {records}")
            offset, found, requests = page.next_offset, found + len(page.records), requests + 1
    finally:
        connection.close()
    return found, requests
