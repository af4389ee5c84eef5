"""A user that speaks HTTP, and sends again what may be sent again; see `loadtests.settlement`."""

import time
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from random import Random
from typing import Any, NamedTuple

import gevent
import msgspec
from locust import FastHttpUser, constant_pacing

from loadtests.flights import Flight, produce_body
from loadtests.history import Acknowledged
from loadtests.scenarios.run_state import RUN, broker_urls, report
from loadtests.settlement import (
    ACK_TIMEOUT_MS,
    ATTEMPT_TIMEOUT_S,
    SETTLE_TIMEOUT_S,
    backoff_s,
    judge,
)
from ottla_protocol.models import ProduceResponse
from ottla_protocol.routes import HEADER_IDEMPOTENCY_KEY, JSON

SECONDS_BETWEEN_TASKS = 0.1
CONNECT_TIMEOUT_S = 2.0

_produce_decoder = msgspec.json.Decoder(ProduceResponse)


class Answer(NamedTuple):
    """An answer; status 0 where none came, and then the body says why."""

    status: int
    body: bytes
    retry_after: str | None = None


Check = Callable[[bytes], str | None]
"""Says of a settled answer's body what is wrong with it, or None."""


class OttlaHttpUser(FastHttpUser):
    """Base of the users that speak HTTP.

    It stays with one broker for as long as that serves it, and then goes to the next.
    """

    abstract = True
    wait_time = constant_pacing(SECONDS_BETWEEN_TASKS)
    connection_timeout = CONNECT_TIMEOUT_S
    network_timeout = ATTEMPT_TIMEOUT_S

    def __init__(self, environment: Any) -> None:
        self.brokers = broker_urls(environment)
        self.host = self.brokers[0]
        super().__init__(environment)
        self.number = RUN.new_writer()
        self.topic = environment.parsed_options.topic
        self.random = Random(self.number)
        self._turn = self.number

    @property
    def broker(self) -> str:
        """The URL of the broker that is asked now."""
        return self.brokers[self._turn % len(self.brokers)]

    def next_broker(self) -> None:
        """Ask another one from now on."""
        self._turn += 1

    def call(
        self,
        name: str,
        method: str,
        path: str,
        *,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        settles: tuple[int, ...] = (200,),
        observe: Callable[[Answer], None] = lambda _: None,
        check: Check = lambda _: None,
    ) -> Answer | None:
        """Send a request until it is settled, and report it once.

        Args:
            name: of the operation, in the statistics.
            method: as in HTTP.
            path: with the query.
            body: the same bytes each time.
            headers: of each attempt.
            settles: the statuses that settle it.
            observe: is told every answer.
            check: looks at what settled it.

        Returns:
            What settled it, or None when it failed.
        """
        started_s = time.perf_counter()
        failure: str | None = None
        answer = Answer(0, b"")
        for attempt in count():
            answer = self._attempt(method, path, body, headers or {})
            observe(answer)
            judgement = judge(answer.status, answer.body, settles)
            if judgement.step == "settled":
                failure = check(answer.body) if answer.status == 200 else None
                break
            failure = judgement.reason
            if judgement.step == "failed":
                break
            if time.perf_counter() - started_s >= SETTLE_TIMEOUT_S:
                failure = f"not settled within {SETTLE_TIMEOUT_S:.0f} s: {judgement.reason}"
                break
            RUN.recorder.repeated(name, judgement.reason)
            self.next_broker()
            gevent.sleep(backoff_s(attempt, answer.retry_after))
        size = len(answer.body) if answer.status else 0
        report(self.environment, method, name, started_s, length_bytes=size, failure=failure)
        return answer if failure is None else None

    def produce(self, name: str, flights: Sequence[Flight]) -> list[Acknowledged]:
        """Write flights in one request; returns them with their positions, none if it failed."""
        acknowledged: list[Acknowledged] = []

        def observe(answer: Answer) -> None:
            if answer.status not in (200, 207):
                return
            records = _produce_decoder.decode(answer.body).records
            # Of a request that failed in one partition, the others' records are acknowledged.
            stored = [
                (flight, (position.partition, position.offset))
                for flight, position in zip(flights, records, strict=True)
                if position.offset >= 0
            ]
            acknowledged[:] = RUN.acknowledged(
                [flight for flight, _ in stored], [position for _, position in stored]
            )

        settled = self.call(
            name,
            "POST",
            f"/v1/topics/{self.topic}/records?timeout_ms={ACK_TIMEOUT_MS}",
            body=produce_body(list(flights)),
            headers={
                "Content-Type": JSON,
                HEADER_IDEMPOTENCY_KEY: f"load-{RUN.run_id}-{flights[0].sequence}",
            },
            observe=observe,
        )
        return acknowledged if settled is not None else []

    def _attempt(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        # With catch_response locust reports nothing by itself: attempts are not operations.
        response = self.client.request(
            method,
            self.broker + path,
            data=body.decode() or None,
            headers={"Accept-Encoding": "identity", **headers},
            catch_response=True,
        )
        status = response.status_code
        error = response.request_meta["exception"]
        if status == 0 or (status < 400 and error is not None):
            return Answer(0, name_of(error))
        retry_after = response.headers.get("Retry-After") if response.headers else None
        return Answer(
            status,
            bytes(response.content or b""),
            retry_after if isinstance(retry_after, str) else None,
        )


def name_of(error: Any) -> bytes:
    """What happened in place of an answer; the client wraps time-outs in an error of its own."""
    return type(getattr(error, "original", None) or error).__name__.encode()
