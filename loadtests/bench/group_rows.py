"""Consumer groups: commits, how soon partitions move, and what large groups cost.

The members speak plain HTTP and read nothing, so that the rows tell of the coordinator alone.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from itertools import count

import msgspec

from loadtests.bench.closed_loop import Lane, run_lanes
from loadtests.bench.environment import (
    BenchError,
    Environment,
    call,
    create_topic,
    delete_topic,
    measure_cpu,
)
from loadtests.bench.group_member import GroupMember
from loadtests.bench.rows import Latencies, Row
from loadtests.http_connection import HttpConnection
from ottla_ops.local_cluster import LocalCluster
from ottla_protocol.models_groups import CommittedOffsets, GroupDescription
from ottla_protocol.routes import JSON

TOPIC = "bench-groups"
PARTITIONS = 12
COMMIT_CONNECTIONS = 16
COMMITTED_PARTITIONS = 6
REQUESTS_MAX = 100_000

MEMBERS = 4
SESSION_TIMEOUT_MS = 2_000
MOVE_TIMEOUT_S = 30.0

LARGE_GROUP_MEMBERS = 500
MANY_GROUPS = 1_000
LONG_SESSION_MS = 60_000
JOINS_AT_A_TIME = 32
HEARTBEATS_S = 9.0
"""Three rounds of heartbeats."""


async def measure_groups(environment: Environment, cluster: LocalCluster) -> list[Row]:
    """All rows, on a topic of twelve partitions."""
    await create_topic(cluster, TOPIC, partitions=PARTITIONS, replication_factor=3)
    scale = 1 if environment.bounds.repetitions > 1 else 10
    rows = [
        await _commits(environment, cluster),
        await _move(environment, cluster, "partitions of a member that leaves", killed=False),
        await _move(environment, cluster, "partitions of a member that dies", killed=True),
        await _large(
            environment,
            cluster,
            f"one group of {LARGE_GROUP_MEMBERS} members",
            [f"large-{scale}"] * (LARGE_GROUP_MEMBERS // scale),
        ),
        await _large(
            environment,
            cluster,
            f"{MANY_GROUPS} groups of one member",
            [f"many-{number}" for number in range(MANY_GROUPS // scale)],
        ),
    ]
    await delete_topic(cluster, TOPIC)
    return rows


async def _coordinator_of(cluster: LocalCluster, group: str) -> str:
    """The URL of the broker that coordinates a group that exists."""
    body = await call(cluster.urls[0], "GET", f"/v1/groups/{group}")
    node_id = msgspec.json.decode(body, type=GroupDescription).coordinator
    return cluster.broker(node_id).url


# --- commits ----------------------------------------------------------------------------------


async def _commits(environment: Environment, cluster: LocalCluster) -> Row:
    name = f"offset commits, {COMMIT_CONNECTIONS} connections, one coordinator"
    environment.say(name)
    group = "bench-commits"
    path = f"/v1/groups/{group}/offsets"
    numbers = count()

    def body() -> bytes:
        offset = next(numbers)
        return msgspec.json.encode(
            {
                "offsets": [
                    {"topic": TOPIC, "partition": partition, "offset": offset}
                    for partition in range(COMMITTED_PARTITIONS)
                ]
            }
        )

    await call(cluster.urls[0], "POST", path, msgspec.Raw(body()))
    url = await _coordinator_of(cluster, group)
    connections = [HttpConnection(url) for _ in range(COMMIT_CONNECTIONS)]
    lanes = [_commit_lane(connection, path, body) for connection in connections]
    try:
        await run_lanes(
            lanes, seconds_max=environment.bounds.warm_up_seconds, requests_max=REQUESTS_MAX
        )
        with measure_cpu(cluster) as cpu:
            done = await run_lanes(
                lanes, seconds_max=environment.bounds.seconds, requests_max=REQUESTS_MAX
            )
    finally:
        for connection in connections:
            connection.close()
    committed = msgspec.json.decode(await call(url, "GET", path), type=CommittedOffsets)
    if len(committed.offsets) != COMMITTED_PARTITIONS:
        raise BenchError(f"{group} has committed {len(committed.offsets)} partitions")
    return Row(
        name,
        {"partitions_per_commit": COMMITTED_PARTITIONS, "requests": done.requests},
        {
            "requests_per_s": done.requests / done.seconds,
            **done.latencies.values(),
            **cpu.per_request(done.requests),
        },
    )


def _commit_lane(connection: HttpConnection, path: str, body: Callable[[], bytes]) -> Lane:
    async def send() -> None:
        document = body()
        head = connection.head("POST", path, len(document), ("Content-Type", JSON))
        answer = await connection.exchange(head, document, timeout_s=None)
        if answer.status != 200:
            raise BenchError(f"a commit was refused: {answer.status} {answer.body[:300]!r}")

    return send


# --- how soon partitions move -----------------------------------------------------------------


async def _move(environment: Environment, cluster: LocalCluster, name: str, *, killed: bool) -> Row:
    environment.say(name)
    seconds = [
        await _move_once(cluster, f"bench-move-{killed}-{repetition}", killed=killed)
        for repetition in range(environment.bounds.repetitions)
    ]
    values = {"moved_ms_max": max(seconds) * 1000}
    if killed:
        values["moved_ms_over_session_max"] = values["moved_ms_max"] - SESSION_TIMEOUT_MS
    return Row(
        name,
        {
            "members": MEMBERS,
            "partitions": PARTITIONS,
            "session_timeout_ms": SESSION_TIMEOUT_MS,
            "repetitions": len(seconds),
        },
        values,
    )


async def _move_once(cluster: LocalCluster, group: str, *, killed: bool) -> float:
    """Seconds from one member's end until the others have been assigned every partition."""
    members = [
        GroupMember(
            cluster.urls[number % len(cluster.urls)],
            group,
            [TOPIC],
            session_timeout_ms=SESSION_TIMEOUT_MS,
        )
        for number in range(MEMBERS)
    ]
    for member in members:
        await member.join()
    staying = [asyncio.create_task(member.stay()) for member in members]
    try:
        await _until(lambda: _are_shared(members), staying)
        staying[0].cancel()
        await asyncio.gather(staying[0], return_exceptions=True)
        # One more without a wait, so that the session is known to begin now.
        await members[0].heartbeat()
        started_s = time.perf_counter()
        if killed:
            members[0].close()
        else:
            await members[0].leave()
        await _until(lambda: _are_shared(members[1:]), staying[1:])
        return max(member.assigned_at_s for member in members[1:]) - started_s
    finally:
        for task in staying:
            task.cancel()
        await asyncio.gather(*staying, return_exceptions=True)
        for member in members:
            member.close()


def _are_shared(members: Sequence[GroupMember]) -> bool:
    """Whether these members have every partition, each of them about as many."""
    owned = [len(member.assigned) for member in members]
    return sum(owned) == PARTITIONS and max(owned) - min(owned) <= 1


async def _until(reached: Callable[[], bool], working: Sequence["asyncio.Task[None]"]) -> None:
    async with asyncio.timeout(MOVE_TIMEOUT_S):
        while not reached():
            for task in working:
                if task.done():
                    task.result()
            await asyncio.sleep(0.002)


# --- large groups -----------------------------------------------------------------------------


async def _large(
    environment: Environment, cluster: LocalCluster, name: str, groups: Sequence[str]
) -> Row:
    """Everybody joins, then heartbeats go on for a while, spread over their interval."""
    environment.say(name)
    members = [
        GroupMember(
            cluster.urls[number % len(cluster.urls)],
            group,
            [TOPIC],
            session_timeout_ms=LONG_SESSION_MS,
        )
        for number, group in enumerate(groups)
    ]
    try:
        joins_started_s = time.perf_counter()
        await _at_a_time(members)
        joined_s = time.perf_counter() - joins_started_s
        # Two rounds, so that what moves has moved before the clock starts.
        for _ in range(2):
            await asyncio.gather(*(member.heartbeat() for member in members))
        for member in members:
            member.latencies_s.clear()
        started_s = time.perf_counter()
        until_s = started_s + min(HEARTBEATS_S, environment.bounds.seconds * 3)
        with measure_cpu(cluster) as cpu:
            async with asyncio.TaskGroup() as tasks:
                for number, member in enumerate(members):
                    first_s = started_s + number / len(members) * 3
                    tasks.create_task(member.stay_at_intervals(first_s, until_s))
        for member in members:
            await member.leave()
    finally:
        for member in members:
            member.close()
    latencies = [latency for member in members for latency in member.latencies_s]
    return Row(
        name,
        {"groups": len(set(groups)), "members": len(members), "heartbeats": len(latencies)},
        {
            "joined_s": joined_s,
            **Latencies(latencies).values(),
            **cpu.per_request(len(latencies)),
        },
    )


async def _at_a_time(members: Sequence[GroupMember]) -> None:
    waiting = iter(members)

    async def join_some() -> None:
        for member in waiting:
            await member.join()

    async with asyncio.TaskGroup() as tasks:
        for _ in range(JOINS_AT_A_TIME):
            tasks.create_task(join_some())
