"""Forwards record batches to the brokers that lead their partitions.

While a forward to a leader is under way, what comes next for that leader gathers for a moment and
travels in one request. Under load that divides the cost of a forward, and of the leader's commit,
by the number of clients that are served at a time; the first of many is forwarded at once, and so
is every one of a client that is alone. Each caller waits for its own results with its own deadline.
"""

import asyncio
from collections import Counter
from dataclasses import dataclass

from ottla_broker.drivers.clock import within
from ottla_broker.drivers.metadata import MetadataCache
from ottla_broker.drivers.peer_client import PeerClient, PeerUnavailableError
from ottla_broker.drivers.peer_messages import encode
from ottla_broker.drivers.racing import Unless
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

MAX_BYTES_PER_FORWARD = 8 << 20
MAX_BATCHES_PER_FORWARD = 1_000

Results = list[AppendedBatch | OttlaError]


@dataclass(slots=True)
class _Waiting:
    batches: list[BatchToAppend]
    options: ProduceOptions
    results: asyncio.Future[Results]

    @property
    def size_bytes(self) -> int:
        return sum(len(batch.batch) for batch in self.batches)


class ProduceForwarder:
    """Gathers forwards per leader and `acks`."""

    def __init__(self, *, metadata: MetadataCache, peers: PeerClient) -> None:
        self._metadata = metadata
        self._peers = peers
        self._gathering: dict[tuple[int, int], list[_Waiting]] = {}
        # Requests that have not been answered yet; keys as above.
        self._under_way: Counter[tuple[int, int]] = Counter()
        # Strong references: the event loop keeps only weak ones to its tasks.
        self._sending: set[asyncio.Task[None]] = set()

    async def forward(
        self, leader: int, batches: list[BatchToAppend], options: ProduceOptions
    ) -> Results:
        """Have `leader` append the batches; results in their order, each with its outcome."""
        loop = asyncio.get_running_loop()
        waiting = _Waiting(batches, options, loop.create_future())
        key = (leader, options.acks)
        gathering = self._gathering.setdefault(key, [])
        gathering.append(waiting)
        if len(gathering) == 1:
            if self._under_way[key]:
                loop.call_later(GATHER_MS / 1000, self._send_gathered, key)
            else:
                loop.call_soon(self._send_gathered, key)
        try:
            return await within(options.remaining_ms + FORWARD_GRACE_MS, waiting.results)
        except TimeoutError:
            error = RequestTimedOutError(
                f"broker {leader} did not answer in time", outcome=Outcome.UNKNOWN
            )
            return [error for _ in batches]

    def _send_gathered(self, key: tuple[int, int]) -> None:
        leader, acks = key
        group: list[_Waiting] = []
        size_bytes = batches = 0
        for waiting in self._gathering.pop(key):
            size_bytes += waiting.size_bytes
            batches += len(waiting.batches)
            too_large = size_bytes > MAX_BYTES_PER_FORWARD or batches > MAX_BATCHES_PER_FORWARD
            if group and too_large:
                self._start(leader, acks, group)
                group, size_bytes, batches = [], waiting.size_bytes, len(waiting.batches)
            group.append(waiting)
        self._start(leader, acks, group)

    def _start(self, leader: int, acks: int, group: list[_Waiting]) -> None:
        task = asyncio.create_task(self._send(leader, acks, group))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def _send(self, leader: int, acks: int, group: list[_Waiting]) -> None:
        batches = [batch for waiting in group for batch in waiting.batches]
        remaining_ms = max(waiting.options.remaining_ms for waiting in group)
        self._under_way[leader, acks] += 1
        try:
            results = await self._call(leader, BinaryProduceRequest(batches, acks, remaining_ms))
        finally:
            self._under_way[leader, acks] -= 1
        position = 0
        for waiting in group:
            end = position + len(waiting.batches)
            if not waiting.results.done():
                waiting.results.set_result(results[position:end])
            position = end

    async def _call(self, leader: int, request: BinaryProduceRequest) -> Results:
        try:
            registration = self._registration_of(leader)
            with Unless(
                self._metadata.replacement_of(leader, registration.broker_epoch),
                PeerUnavailableError(
                    f"broker {leader} was fenced before it answered",
                    refused=False,
                    outcome=Outcome.UNKNOWN,
                ),
            ):
                answer = await self._peers.call(
                    registration.url,
                    routes.INTERNAL_PRODUCE,
                    encode(request),
                    timeout_ms=request.timeout_ms + FORWARD_GRACE_MS,
                    answer=BinaryProduceResponse,
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
    """The failed forward as this batch's own error: what a peer does must not pass for a 421."""
    if isinstance(error, PeerUnavailableError):
        return LeaderNotAvailableError(
            f"the leader of {batch.topic}-{batch.partition} did not answer: {error.detail}",
            outcome=error.outcome,
        )
    return error
