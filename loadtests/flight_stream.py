"""Streams flights into a topic over HTTP, as a careful client without an SDK would.

Several producers run at a time. All flights of an aircraft belong to one producer, which has one
request in flight, so the order per key is kept. Every request carries an Idempotency-Key; after a
retriable answer, a timeout or a broken connection the same bytes go to the next broker with the
same key, until they are acknowledged or the time is up.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import msgspec

from loadtests.flights import Flight, produce_body
from loadtests.history import Acknowledged, HistoryCheck, fingerprint
from loadtests.http_connection import Answer, HttpConnection
from ottla_protocol.models import ProduceResponse
from ottla_protocol.partitioning import partition_for_key
from ottla_protocol.routes import HEADER_IDEMPOTENCY_KEY

ACK_TIMEOUT_MS = 5_000
REQUEST_TIMEOUT_S = 8.0
"""A little longer than the broker's own, so that its answer arrives."""

RETRY_BACKOFF_FIRST_S = 0.01
RETRY_BACKOFF_MAX_S = 0.25


class StreamError(Exception):
    """A request was refused for good or not acknowledged in time."""


@dataclass(slots=True)
class PartitionGap:
    """How long one partition took no writes after its leader was killed.

    It lasts from just before SIGKILL to the first acknowledgement of records of that partition that
    answers a request *sent* after the killed process was gone: a first attempt, or the repetition
    of one that was in flight. Acknowledgements that were on their way at the kill do not end it.
    """

    partition: int
    killed_s: float
    gone_s: float
    ended_s: float | None = None

    def observe(self, *, sent_s: float, answered_s: float) -> None:
        """Take in an acknowledgement for this partition."""
        if sent_s >= self.gone_s and (self.ended_s is None or answered_s < self.ended_s):
            self.ended_s = answered_s

    @property
    def gap_ms(self) -> float | None:
        """The gap, None while nothing was acknowledged again."""
        return None if self.ended_s is None else (self.ended_s - self.killed_s) * 1000


class _Problem(msgspec.Struct):
    """What decides whether a refused request goes out again."""

    code: str = "none"
    detail: str = ""
    retriable: bool = False


@dataclass(slots=True)
class StreamProgress:
    """What the producers have done so far.

    Attributes:
        acknowledged_by_partition: records, without those of duplicate answers.
        retries: repeated requests, by what the attempt before met.
        duplicate_answers: results by partition that named an earlier append.
        gap: observed while it is set.
    """

    acknowledged_by_partition: Counter[int] = field(default_factory=Counter)
    retries: Counter[str] = field(default_factory=Counter)
    duplicate_answers: int = 0
    gap: PartitionGap | None = None


class FlightStream:
    """Producers that write flights to one topic.

    Args:
        urls: base URLs of all brokers.
        topic: where to.
        check: is told every acknowledgement.
        run_id: makes the Idempotency-Keys of this run its own.
        producers: how many at a time.
        records_per_request: at most.
        deadline_s: of the monotonic clock, for everything.
        on_acknowledged: called with the number of records after each request.
    """

    def __init__(
        self,
        urls: Sequence[str],
        topic: str,
        check: HistoryCheck,
        *,
        run_id: str,
        producers: int,
        records_per_request: int,
        deadline_s: float,
        on_acknowledged: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._urls = list(urls)
        self._target = f"/v1/topics/{topic}/records?timeout_ms={ACK_TIMEOUT_MS}"
        self._check = check
        self._run_id = run_id
        self._producers = producers
        self._records_per_request = records_per_request
        self._deadline_s = deadline_s
        self._on_acknowledged = on_acknowledged
        self.progress = StreamProgress()

    async def run(self, flights: Iterable[Flight]) -> None:
        """Write all flights.

        Raises:
            StreamError: a request was refused for good, or not acknowledged before the deadline.
        """
        shares = split_by_key(flights, self._producers)
        try:
            async with asyncio.TaskGroup() as group:
                for number, share in enumerate(shares):
                    group.create_task(self._produce(number, share))
        except ExceptionGroup as failures:
            for failure in failures.exceptions:
                if isinstance(failure, StreamError):
                    raise failure from None
            raise

    async def _produce(self, number: int, flights: Sequence[Flight]) -> None:
        connections = [HttpConnection(url) for url in self._urls]
        turn = number  # Producers begin at different brokers.
        try:
            for count, request in enumerate(_chunks(flights, self._records_per_request)):
                key = f"{self._run_id}-{number}-{count}"
                turn = await self._deliver(connections, turn, key, request)
        finally:
            for connection in connections:
                connection.close()

    async def _deliver(
        self, connections: Sequence[HttpConnection], turn: int, key: str, flights: list[Flight]
    ) -> int:
        """Send one request until it is acknowledged; returns whose turn is next."""
        body = produce_body(flights)
        fields = (("Content-Type", "application/json"), (HEADER_IDEMPOTENCY_KEY, key))
        backoff_s = RETRY_BACKOFF_FIRST_S
        while True:
            connection = connections[turn % len(connections)]
            turn += 1
            sent_s = time.monotonic()
            try:
                answer = await connection.request(
                    "POST", self._target, *fields, body=body, timeout_s=REQUEST_TIMEOUT_S
                )
            except (OSError, TimeoutError) as error:
                reason = type(error).__name__
            else:
                if answer.status in (200, 207):
                    self._acknowledged(flights, answer, sent_s)
                if answer.status == 200:
                    self._on_acknowledged(len(flights))
                    return turn
                reason = _refusal(answer)
            if time.monotonic() >= self._deadline_s:
                raise StreamError(f"request {key} was not acknowledged in time: {reason}")
            self.progress.retries[reason] += 1
            await asyncio.sleep(backoff_s)
            backoff_s = min(backoff_s * 2, RETRY_BACKOFF_MAX_S)

    def _acknowledged(self, flights: list[Flight], answer: Answer, sent_s: float) -> None:
        answered_s = time.monotonic()
        response = msgspec.json.decode(answer.body, type=ProduceResponse)
        for flight, position in zip(flights, response.records, strict=True):
            if position.offset >= 0:  # -1 where its partition failed; the repetition brings it.
                self._check.acknowledge(
                    Acknowledged(
                        sequence=flight.sequence,
                        key=flight.key,
                        fingerprint=fingerprint(bytes(flight.value)),
                        partition=position.partition,
                        offset=position.offset,
                    )
                )
        for result in response.results:
            if result.error is not None:
                continue
            if result.duplicate:
                self.progress.duplicate_answers += 1
            else:
                self.progress.acknowledged_by_partition[result.partition] += result.count
            gap = self.progress.gap
            if gap is not None and gap.partition == result.partition:
                gap.observe(sent_s=sent_s, answered_s=answered_s)


def split_by_key(flights: Iterable[Flight], shares: int) -> list[list[Flight]]:
    """The flights in `shares` lists, each in order, all flights of a key in one of them."""
    split: list[list[Flight]] = [[] for _ in range(shares)]
    share_of_key: dict[str | None, int] = {}
    for flight in flights:
        share = share_of_key.get(flight.key)
        if share is None:
            # Another hash than the topic's, else a producer would only ever write some partitions.
            text = (flight.key or "") + "#"
            share = share_of_key[flight.key] = partition_for_key(text.encode(), shares)
        split[share].append(flight)
    return split


def _chunks(flights: Sequence[Flight], size: int) -> Iterator[list[Flight]]:
    for start in range(0, len(flights), size):
        yield list(flights[start : start + size])


def _refusal(answer: Answer) -> str:
    """The code of a refusal that may be tried again.

    Raises:
        StreamError: it may not.
    """
    if answer.status == 207:
        return "PARTLY_FAILED"
    try:
        problem = msgspec.json.decode(answer.body, type=_Problem)
    except msgspec.DecodeError:
        problem = _Problem(detail=answer.body[:200].decode(errors="replace"))
    if not problem.retriable:
        raise StreamError(f"refused with {answer.status} {problem.code}: {problem.detail}")
    return problem.code
