"""Single-record JSON POSTs, as curl or a web service sends them.

Requests are made before the clock starts. With "any broker" connection i talks to broker i modulo
three and the record's key decides its partition, so two of three requests are forwarded; with
"leaders" each lane writes to partitions at their leader, and with "forwarded" always at a broker
that does not lead them.
"""

from collections.abc import Sequence
from itertools import cycle, islice
from typing import Literal, TypeAlias

from loadtests.bench.closed_loop import Lane, run_lanes
from loadtests.bench.environment import (
    BenchError,
    Environment,
    TopicLayout,
    create_topic,
    measure_cpu,
)
from loadtests.bench.rows import Row
from loadtests.flights import Flight, produce_body, read_flights
from loadtests.http_connection import HttpConnection
from ottla_ops.local_cluster import LocalCluster
from ottla_protocol.routes import HEADER_IDEMPOTENCY_KEY, JSON

Way: TypeAlias = Literal["any broker", "leaders", "forwarded"]

PARTITIONS = 6
CONNECTIONS = (1, 32, 256)
KEYED_CONNECTIONS = 32
WAYS: tuple[Way, ...] = ("any broker", "leaders", "forwarded")
FLIGHTS = 600
REQUESTS_MAX = 100_000

TOPIC = "bench-json"


async def measure_json(environment: Environment, cluster: LocalCluster) -> list[Row]:
    """A few and many connections, each way to the leaders; and with Idempotency-Keys."""
    flights = [flight for flight in read_flights(limit=FLIGHTS) if flight.key is not None]
    layout = await create_topic(cluster, TOPIC, partitions=PARTITIONS, replication_factor=3)
    rows = []
    for connections in CONNECTIONS:
        for way in WAYS:
            plural = "s" if connections > 1 else ""
            name = f"json post {connections} connection{plural}, {way}"
            environment.say(name)
            rows.append(
                await _measure(environment, cluster, layout, name, flights, connections, way)
            )
    name = f"json post {KEYED_CONNECTIONS} connections, any broker, Idempotency-Key"
    environment.say(name)
    rows.append(
        await _measure(
            environment, cluster, layout, name, flights, KEYED_CONNECTIONS, "any broker", keyed=True
        )
    )
    return rows


async def _measure(
    environment: Environment,
    cluster: LocalCluster,
    layout: TopicLayout,
    name: str,
    flights: Sequence[Flight],
    connections: int,
    way: Way,
    *,
    keyed: bool = False,
) -> Row:
    lanes, opened = [], []
    for number in range(connections):
        lane, lane_connections = (
            _any_broker_lane(cluster.urls, layout.name, flights, number, keyed=keyed)
            if way == "any broker"
            else _partition_lane(_entrances(cluster, layout, way), layout.name, flights, number)
        )
        lanes.append(lane)
        opened += lane_connections
    try:
        await run_lanes(
            lanes,
            seconds_max=environment.bounds.warm_up_seconds,
            requests_max=REQUESTS_MAX,
        )
        with measure_cpu(cluster) as cpu:
            done = await run_lanes(
                lanes, seconds_max=environment.bounds.seconds, requests_max=REQUESTS_MAX
            )
    finally:
        for connection in opened:
            connection.close()
    return Row(
        name,
        {
            "partitions": PARTITIONS,
            "replication_factor": 3,
            "body_bytes": len(produce_body([flights[0]])),
            "requests": done.requests,
        },
        {
            "requests_per_s": done.requests / done.seconds,
            **done.latencies.values(),
            **cpu.per_request(done.requests),
        },
    )


def _any_broker_lane(
    urls: Sequence[str], topic: str, flights: Sequence[Flight], number: int, *, keyed: bool
) -> tuple[Lane, list[HttpConnection]]:
    connection = HttpConnection(urls[number % len(urls)])
    bodies = [produce_body([flight]) for flight in flights]
    # Lanes begin at different flights, so that they do not all write one partition at a time.
    start = number * len(bodies) // 32 % len(bodies)
    turns = islice(cycle(bodies), start, None)
    target = f"/v1/topics/{topic}/records"
    heads = {
        len(body): connection.head("POST", target, len(body), ("Content-Type", JSON))
        for body in bodies
    }
    sent = 0

    async def send() -> None:
        nonlocal sent
        body = next(turns)
        if keyed:
            sent += 1
            key = (HEADER_IDEMPOTENCY_KEY, f"bench-{id(connection)}-{sent}")
            head = connection.head("POST", target, len(body), ("Content-Type", JSON), key)
        else:
            head = heads[len(body)]
        answer = await connection.exchange(head, body, timeout_s=None)
        if answer.status != 200:
            raise BenchError(f"a POST was refused: {answer.status} {answer.body[:300]!r}")

    return send, [connection]


def _entrances(cluster: LocalCluster, layout: TopicLayout, way: Way) -> list[str]:
    """By partition: the broker to which its records are sent."""
    if way == "leaders":
        return list(layout.leader_urls)
    following = {
        url: cycle([other for other in cluster.urls if other != url]) for url in cluster.urls
    }
    return [next(following[leader]) for leader in layout.leader_urls]


def _partition_lane(
    entrances: Sequence[str], topic: str, flights: Sequence[Flight], number: int
) -> tuple[Lane, list[HttpConnection]]:
    """A lane that goes round the partitions, over a connection to each of their entrances."""
    connections = {url: HttpConnection(url) for url in entrances}
    requests = []
    for index, flight in enumerate(flights):
        partition = (number + index) % len(entrances)
        connection = connections[entrances[partition]]
        body = produce_body([flight])
        target = f"/v1/topics/{topic}/partitions/{partition}/records"
        head = connection.head("POST", target, len(body), ("Content-Type", JSON))
        requests.append((connection, head + body))
    turns = cycle(requests)

    async def send() -> None:
        connection, request = next(turns)
        answer = await connection.exchange(request, timeout_s=None)
        if answer.status != 200:
            raise BenchError(f"a POST was refused: {answer.status} {answer.body[:300]!r}")

    return send, list(connections.values())
