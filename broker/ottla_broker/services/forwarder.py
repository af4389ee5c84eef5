"""Forwards record batches to the brokers that lead their partitions.

While a forward to a leader is under way, what comes next for that leader gathers for a moment and
travels in one request. Under load that divides the cost of a forward, and of the leader's commit,
by the number of clients that are served at a time; the first of many is forwarded at once, and so
is every one of a client that is alone. Each caller waits for its own results with its own deadline.
"""

import asyncio
from collections import Counter
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import NamedTuple

from ottla_broker.drivers.clock import within
from ottla_broker.drivers.metadata import MetadataCache
from ottla_broker.drivers.peer_client import PeerClient, PeerUnavailableError, Purpose
from ottla_broker.drivers.peer_messages import encode
from ottla_broker.drivers.racing import Unless
from ottla_broker.request_id import REQUEST_ID, joined
from ottla_broker.services.produce_options import ProduceOptions
from ottla_broker.telemetry import METRICS
from ottla_cluster.controller.image import BrokerRegistration, BrokerState
from ottla_protocol import routes
from ottla_protocol.errors import (
    LeaderNotAvailableError,
    OttlaError,
    Outcome,
    RequestTimedOutError,
    error_from_problem,
)
from ottla_protocol.models import (
    AppendedBatch,
    BatchToAppend,
    BinaryProduceRequest,
    BinaryProduceResponse,
)

FORWARD_GRACE_MS = 1_000
"""How much longer than the leader a forwarder waits, so that the leader's own timeout arrives."""

GATHER_MS = 8
"""How long a forward waits for more to go with it while others are under way."""

GATHER_MS_MAX = 250
"""How long it waits where many are under way: each has one of few places at the leader, and where
replication stands still none comes free before the follower is fenced."""

MAX_BYTES_PER_FORWARD = 8 << 20
MAX_BATCHES_PER_FORWARD = 1_000

Results = list[AppendedBatch | OttlaError]

_SECONDS = METRICS.forward_seconds.labels("produce")


def gather_ms(under_way: int) -> int:
    """How long a forward waits for more to go with it, given how many are under way."""
    if not under_way:
        return 0
    return min(GATHER_MS * max(1, under_way // 4) ** 2, max(GATHER_MS, GATHER_MS_MAX))


@dataclass(slots=True)
class _Waiting:
    batches: list[BatchToAppend]
    options: ProduceOptions
    results: asyncio.Future[Results]
    request_id: str | None

    @property
    def size_bytes(self) -> int:
        return sum(len(batch.batch) for batch in self.batches)


class _Route(NamedTuple):
    """What may travel in one request: the rest of it is the same for all its batches."""

    leader: int
    acks: int
    transactional_id: str | None


@dataclass(slots=True)
class _Gathering:
    waiting: list[_Waiting] = field(default_factory=list)
    timer: asyncio.TimerHandle | None = None


class ProduceForwarder:
    """Gathers forwards per leader, `acks` and transactional id."""

    def __init__(self, *, metadata: MetadataCache, peers: PeerClient) -> None:
        self._metadata = metadata
        self._peers = peers
        self._gathering: dict[_Route, _Gathering] = {}
        # Requests that have not been answered yet; no route without any.
        self._under_way: Counter[_Route] = Counter()
        # Strong references: the event loop keeps only weak ones to its tasks.
        self._sending: set[asyncio.Task[None]] = set()

    def gather_ms_towards(self, leader: int, acks: int) -> int:
        """How long what is to be forwarded now may wait for company."""
        return gather_ms(self._under_way[_Route(leader, acks, None)])

    async def forward(
        self, leader: int, batches: list[BatchToAppend], options: ProduceOptions
    ) -> Results:
        """Have `leader` append the batches; results in their order, each with its outcome."""
        loop = asyncio.get_running_loop()
        waiting = _Waiting(batches, options, loop.create_future(), REQUEST_ID.get())
        route = _Route(leader, options.acks, options.transactional_id)
        gathering = self._gathering.setdefault(route, _Gathering())
        gathering.waiting.append(waiting)
        if gathering.timer is None:
            delay_ms = 0 if options.is_gathered else gather_ms(self._under_way[route])
            gathering.timer = loop.call_later(delay_ms / 1000, self._send_gathered, route)
        try:
            return await within(options.remaining_ms + FORWARD_GRACE_MS, waiting.results)
        except TimeoutError:
            return [
                RequestTimedOutError(
                    f"broker {leader} did not answer in time", outcome=Outcome.UNKNOWN
                )
                for _ in batches
            ]

    def _send_gathered(self, route: _Route) -> None:
        gathering = self._gathering.pop(route, None)
        if gathering is None:
            return
        assert gathering.timer is not None
        gathering.timer.cancel()
        group: list[_Waiting] = []
        size_bytes = batches = 0
        for waiting in gathering.waiting:
            if waiting.results.done():
                continue
            if waiting.options.remaining_ms <= 0:
                # Too late to be answered: what was appended then could only be UNKNOWN.
                waiting.results.set_result(_too_late(waiting.batches))
                continue
            size_bytes += waiting.size_bytes
            batches += len(waiting.batches)
            too_large = size_bytes > MAX_BYTES_PER_FORWARD or batches > MAX_BATCHES_PER_FORWARD
            if group and too_large:
                self._start(route, group)
                group, size_bytes, batches = [], waiting.size_bytes, len(waiting.batches)
            group.append(waiting)
        if group:
            self._start(route, group)

    def _start(self, route: _Route, group: list[_Waiting]) -> None:
        self._under_way[route] += 1
        task = asyncio.create_task(self._send(route, group))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def _send(self, route: _Route, group: list[_Waiting]) -> None:
        # This task is no request's own: it began with whichever came first, or last.
        REQUEST_ID.set(joined(waiting.request_id for waiting in group))
        batches = [batch for waiting in group for batch in waiting.batches]
        remaining_ms = max(waiting.options.remaining_ms for waiting in group)
        request = BinaryProduceRequest(batches, route.acks, remaining_ms, route.transactional_id)
        try:
            results = await self._call(route.leader, request)
        finally:
            self._under_way[route] -= 1
            if not self._under_way[route]:
                # There are as many transactional ids as clients please.
                del self._under_way[route]
                # Nobody else is on the way, so there is nothing to wait for.
                self._send_gathered(route)
        position = 0
        for waiting in group:
            end = position + len(waiting.batches)
            if not waiting.results.done():
                waiting.results.set_result(results[position:end])
            position = end

    async def _call(self, leader: int, request: BinaryProduceRequest) -> Results:
        try:
            registration = self._registration_of(leader)
            with (
                _SECONDS.time(),
                Unless(
                    self._metadata.replacement_of(leader, registration.broker_epoch),
                    PeerUnavailableError(
                        f"broker {leader} was fenced before it answered",
                        refused=False,
                        outcome=Outcome.UNKNOWN,
                    ),
                ),
            ):
                answer = await self._peers.call(
                    registration.url,
                    routes.INTERNAL_PRODUCE,
                    encode(request),
                    timeout_ms=request.timeout_ms + FORWARD_GRACE_MS,
                    answer=BinaryProduceResponse,
                    purpose=Purpose.PRODUCE,
                )
        except OttlaError as error:
            outcome = error.with_outcome(Outcome.UNKNOWN).outcome
            METRICS.forwarded_requests.labels("produce", outcome).inc()
            return [_for_batch(error, batch) for batch in request.batches]
        METRICS.forwarded_requests.labels("produce", "ok").inc()
        return [
            result if result.error is None else error_from_problem(result.error)
            for result in answer.results
        ]

    def _registration_of(self, leader: int) -> BrokerRegistration:
        registration = self._metadata.image.brokers.get(leader)
        if registration is None or registration.state is BrokerState.FENCED:
            raise LeaderNotAvailableError(
                f"broker {leader} is not there now", outcome=Outcome.NOT_APPLIED
            )
        return registration


def _for_batch(error: OttlaError, batch: BatchToAppend) -> OttlaError:
    """The failed forward as this batch's own error: what a peer does must not pass for a 421.

    Its own, because whoever renders or retries an error may add to it.
    """
    if isinstance(error, PeerUnavailableError):
        return LeaderNotAvailableError(
            f"the leader of {batch.topic}-{batch.partition} did not answer: {error.detail}",
            outcome=error.outcome,
        )
    return copy(error)


def _too_late(batches: Sequence[BatchToAppend]) -> Results:
    return [
        RequestTimedOutError(
            f"no time was left to reach the leader of {batch.topic}-{batch.partition}",
            outcome=Outcome.NOT_APPLIED,
        )
        for batch in batches
    ]
