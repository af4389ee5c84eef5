"""The SDK's consumers as members of one group that come and go."""

import time
from random import Random
from typing import Any

import gevent
from locust import User, constant_pacing, task

from loadtests.deliveries import follows
from loadtests.scenarios.run_state import RUN, broker_urls, report
from ottla import Consumer
from ottla_protocol.errors import OttlaError

GROUP = "load-sdk"
LIFE_S = (3.0, 8.0)
AWAY_S = (0.2, 2.0)
POLL_S = 0.5
SECONDS_BETWEEN_TASKS = 0.1
SESSION_TIMEOUT_MS = 6_000


class SdkGroupUser(User):
    """A Python service that is started and stopped again and again."""

    weight = 2
    wait_time = constant_pacing(SECONDS_BETWEEN_TASKS)

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        self.topic = environment.parsed_options.topic
        self.random = Random(RUN.new_writer())
        self._brokers = broker_urls(environment)

    @task
    def live(self) -> None:
        """Join, read for some seconds, commit and leave."""
        until_s = time.perf_counter() + self.random.uniform(*LIFE_S)
        started_s = time.perf_counter()
        try:
            with Consumer(
                self.topic,
                bootstrap_servers=self._brokers,
                group_id=GROUP,
                auto_offset_reset="earliest",
                session_timeout_ms=SESSION_TIMEOUT_MS,
                auto_commit_interval_ms=1_000,
            ) as consumer:
                while time.perf_counter() < until_s:
                    self._poll(consumer)
                started_s = time.perf_counter()
        except OttlaError as error:
            failure = f"{error.code}: {error}"
            report(self.environment, "SDK", "SDK member", started_s, failure=failure)
        else:
            report(self.environment, "SDK", "SDK leave", started_s)
        gevent.sleep(self.random.uniform(*AWAY_S))

    def _poll(self, consumer: Consumer) -> None:
        started_s = time.perf_counter()
        batches = consumer.poll(POLL_S)
        failure = None
        size = 0
        for partition, records in batches.items():
            offsets = [record.offset for record in records]
            if not follows(offsets):
                failure = f"offsets of partition {partition.partition} do not follow one another"
            RUN.delivered(GROUP, partition.partition, offsets)
            size += sum(len(record.value) for record in records)
        report(self.environment, "SDK", "SDK poll", started_s, length_bytes=size, failure=failure)
