"""A member of a consumer group over plain HTTP, as the bench needs thousands of.

It reads nothing. It joins, tells with every heartbeat that it owns what it was last assigned, and
so lets go at once of whatever is taken from it.
"""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import msgspec

from loadtests.bench.environment import BenchError
from loadtests.http_connection import HttpConnection
from ottla_protocol.models_groups import MembershipResponse
from ottla_protocol.routes import JSON

CALL_TIMEOUT_S = 60.0
PARKED_MS = 1_000
"""How long a heartbeat waits at the coordinator for news."""

_membership = msgspec.json.Decoder(MembershipResponse)


class GroupMember:
    """One member.

    Attributes:
        latencies_s: of heartbeats that were answered without waiting.
        assigned: what it may read, by the last answer: (topic, partition).
        assigned_at_s: when that changed last, by the performance counter.
    """

    def __init__(self, url: str, group: str, topics: Sequence[str], **settings: Any) -> None:
        self.latencies_s: list[float] = []
        self.assigned: frozenset[tuple[str, int]] = frozenset()
        self.assigned_at_s = 0.0
        self._connection = HttpConnection(url)
        self._path = f"/v1/groups/{group}/members"
        self._join = {"topics": list(topics), **settings}
        self._member: MembershipResponse | None = None

    async def join(self) -> None:
        """Become a member."""
        await self._call(self._path, self._join)

    async def heartbeat(self, max_wait_ms: int = 0) -> None:
        """Say what is owned and hear what is assigned."""
        started_s = time.perf_counter()
        by_topic: dict[str, list[int]] = {}
        for topic, partition in sorted(self.assigned):
            by_topic.setdefault(topic, []).append(partition)
        member = self._member
        assert member is not None, "join comes first"
        await self._call(
            f"{self._path}/{member.member_id}/heartbeat",
            {
                "generation": member.generation,
                "owned": [{"topic": topic, "partitions": own} for topic, own in by_topic.items()],
                "max_wait_ms": max_wait_ms,
            },
        )
        if max_wait_ms == 0:
            self.latencies_s.append(time.perf_counter() - started_s)

    async def stay(self) -> None:
        """Heartbeat until cancelled; each waits for news, so that they are heard at once."""
        while True:
            await self.heartbeat(PARKED_MS)

    async def stay_at_intervals(self, first_s: float, until_s: float) -> None:
        """Heartbeat as often as the coordinator asks, without waiting for news."""
        member = self._member
        assert member is not None, "join comes first"
        due_s = first_s
        while due_s < until_s:
            await asyncio.sleep(max(0.0, due_s - time.perf_counter()))
            await self.heartbeat()
            due_s += member.heartbeat_interval_ms / 1000

    async def leave(self) -> None:
        """Leave the group."""
        assert self._member is not None, "join comes first"
        answer = await self._connection.request(
            "DELETE", f"{self._path}/{self._member.member_id}", timeout_s=CALL_TIMEOUT_S
        )
        if answer.status != 204:
            raise BenchError(f"leaving was refused: {answer.status} {answer.body[:300]!r}")

    def close(self) -> None:
        """Close the connection: to the coordinator, the member falls silent."""
        self._connection.close()

    async def _call(self, path: str, body: object) -> None:
        answer = await self._connection.request(
            "POST",
            path,
            ("Content-Type", JSON),
            body=msgspec.json.encode(body),
            timeout_s=CALL_TIMEOUT_S,
        )
        if answer.status >= 300:
            raise BenchError(f"{path}: {answer.status} {answer.body[:300]!r}")
        self._member = _membership.decode(answer.body)
        if self._member.assignment is not None:
            self.assigned = frozenset(
                (assigned.topic, partition)
                for assigned in self._member.assignment
                for partition in assigned.partitions
            )
            self.assigned_at_s = time.perf_counter()
