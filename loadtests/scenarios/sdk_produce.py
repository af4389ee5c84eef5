"""The SDK's producer: batches per partition, straight to the leaders, over the binary calls.

It repeats by itself what it may; what it cannot deliver in SETTLE_TIMEOUT_S fails. How often it
repeated, it does not tell.
"""

import time
from random import Random
from typing import Any

from locust import User, constant_pacing, task

from loadtests.scenarios.run_state import RUN, broker_urls, report
from loadtests.settlement import ATTEMPT_TIMEOUT_S, SETTLE_TIMEOUT_S
from ottla import Producer
from ottla_protocol.errors import OttlaError

SECONDS_BETWEEN_TASKS = 0.1
RECORDS = (10, 100)
CLOSE_TIMEOUT_S = 5.0
WAIT_MARGIN_S = 5.0
"""Longer than the producer's own deadline, so that it is the one to speak."""


class SdkProduceUser(User):
    """A Python service with a producer of its own."""

    weight = 2
    wait_time = constant_pacing(SECONDS_BETWEEN_TASKS)

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        self.number = RUN.new_writer()
        self.topic = environment.parsed_options.topic
        self.random = Random(self.number)
        self._brokers = broker_urls(environment)

    def on_start(self) -> None:
        """Open the producer."""
        self._producer = Producer(
            self._brokers,
            delivery_timeout_ms=int(SETTLE_TIMEOUT_S * 1000),
            request_timeout_ms=int(ATTEMPT_TIMEOUT_S * 1000),
            linger_ms=1,
        )

    def on_stop(self) -> None:
        """Close it, with what it still has."""
        self._producer.close(CLOSE_TIMEOUT_S)

    @task
    def send(self) -> None:
        """Send some flights, and wait until all of them are acknowledged."""
        started_s = time.perf_counter()
        failure: str | None = None
        flights = [RUN.next_flight(self.number) for _ in range(self.random.randint(*RECORDS))]
        sent = []
        try:
            for flight in flights:
                key = flight.key.encode() if flight.key is not None else None
                headers = [(name, text.encode()) for name, text in flight.headers().items()]
                future = self._producer.send(
                    self.topic, bytes(flight.value), key=key, headers=headers
                )
                sent.append((flight, future))
        except OttlaError as error:
            failure = f"{error.code}: {error}"
        for flight, future in sent:
            try:
                stored = future.get(SETTLE_TIMEOUT_S + WAIT_MARGIN_S)
            except OttlaError as error:
                failure = f"{error.code}: {error}"
            else:
                RUN.acknowledged([flight], [(stored.partition, stored.offset)])
        size = sum(len(bytes(flight.value)) for flight in flights)
        report(self.environment, "SDK", "SDK send", started_s, length_bytes=size, failure=failure)
