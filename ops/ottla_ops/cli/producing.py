"""Sends batches to a topic and keeps the promise of `ottla produce`: all of it, once, in order.

Every request carries an Idempotency-Key, so sending it again after a timeout or a lost connection
can never store it twice; the broker answers a repetition with the offsets of the first time. One
request is in flight at a time, because two could arrive in either order; who does not mind asks for
`unordered`.
"""

import itertools
import time
import uuid
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

from ottla_ops.cli.failures import CommandError, error_from_answer
from ottla_ops.cli.http_connection import Answer, HttpConnection, path_of
from ottla_ops.cli.record_input import Batch
from ottla_protocol import routes
from ottla_protocol.models import ProduceResponse

UNORDERED_REQUESTS_MAX: Final = 4
"""Requests in flight when order does not matter."""

ATTEMPT_TIMEOUT_S: Final = 10.0
"""How long a broker may wait for the replicas before an attempt counts as failed."""

ANSWER_MARGIN_S: Final = 2.0
"""How much longer we wait for the answer than the broker for its replicas."""

OVERLOADED_STATUS: Final = 503


@dataclass(frozen=True, slots=True)
class ProduceTarget:
    """Where and how batches are written.

    Attributes:
        topic: topic name.
        partition: fixed partition, or None to let the broker choose by key.
        acks: 0, 1 or all.
        idempotency: send an Idempotency-Key, and retry whatever may work later.
        unordered: keep several requests in flight.
        timeout_s: how long one batch may take, all its attempts together.
    """

    topic: str
    partition: int | None = None
    acks: str = "all"
    idempotency: bool = True
    unordered: bool = False
    timeout_s: float = 30.0


def send_batches(
    connection: HttpConnection, target: ProduceTarget, batches: Iterable[Batch]
) -> Iterator[tuple[Batch, ProduceResponse]]:
    """Send batches and yield each with its answer, in the order of the input.

    Raises:
        CommandError: a batch failed for good; those yielded before it are stored.
    """
    if not target.unordered:
        for batch in batches:
            yield batch, send_batch(connection, target, batch)
        return
    remaining = iter(batches)
    in_flight: deque[tuple[Batch, Future[ProduceResponse]]] = deque()
    executor = ThreadPoolExecutor(UNORDERED_REQUESTS_MAX, thread_name_prefix="produce")
    try:
        while True:
            for batch in itertools.islice(remaining, UNORDERED_REQUESTS_MAX - len(in_flight)):
                in_flight.append((batch, executor.submit(send_batch, connection, target, batch)))
            if not in_flight:
                return
            oldest, future = in_flight.popleft()
            yield oldest, future.result()
    finally:
        executor.shutdown(wait=False, cancel_futures=True)


def send_batch(connection: HttpConnection, target: ProduceTarget, batch: Batch) -> ProduceResponse:
    """Send one batch, again and again while that is safe and may help.

    Raises:
        CommandError: it failed for good or did not succeed within the target's timeout.
    """
    headers = {routes.HEADER_IDEMPOTENCY_KEY: str(uuid.uuid4())} if target.idempotency else {}
    path = (
        path_of(routes.TOPIC_RECORDS, topic=target.topic)
        if target.partition is None
        else path_of(routes.PARTITION_RECORDS, topic=target.topic, partition=target.partition)
    )
    deadline_s = time.monotonic() + target.timeout_s

    def attempt() -> ProduceResponse:
        left_s = max(0.1, min(ATTEMPT_TIMEOUT_S, deadline_s - time.monotonic()))
        try:
            answer = connection.request(
                "POST",
                path,
                query={"acks": target.acks, "timeout_ms": int(left_s * 1000)},
                body=batch.body,
                headers=headers,
                answer_timeout_s=left_s + ANSWER_MARGIN_S,
                repeatable=target.idempotency,
            )
            return _response(answer)
        except CommandError as error:
            # Without a key, only what certainly was not written may be written again.
            error.retriable = error.retriable and (target.idempotency or error.not_applied)
            raise

    return connection.retry(attempt, timeout_s=target.timeout_s)


def _response(answer: Answer) -> ProduceResponse:
    """Read the answer.

    Raises:
        CommandError: it is malformed, or a part of the batch failed (207).
    """
    response = answer.decoded(ProduceResponse)
    failed: list[dict[str, Any]] = [result.error for result in response.results if result.error]
    if failed:
        # A problem that cannot be retried decides, else the first one.
        decisive = min(failed, key=lambda problem: bool(problem.get("retriable")))
        raise error_from_answer(int(decisive.get("status", OVERLOADED_STATUS)), decisive)
    return response
