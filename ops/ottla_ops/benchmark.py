"""What `ottla bench` measures: one producer and one consumer of the SDK against a real cluster.

It makes a topic of its own and deletes it however it ends. Three steps: single records one after
the other, whose latency nothing hides; records as fast as they are acknowledged, with a bounded
number of them under way; and all of them back. Each step ends by count or by time, whichever is
first. `make bench` measures more, on brokers that it starts itself.
"""

import os
import secrets
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import TYPE_CHECKING, Any, Final, Protocol

from ottla_protocol.errors import OttlaError

if TYPE_CHECKING:
    from ottla import Admin, Consumer, Producer

TOPIC_PREFIX: Final = "ottla-bench-"
RECORDS_MAX: Final = 100_000_000
RECORD_BYTES_MAX: Final = 1_000_000
TOTAL_BYTES_MAX: Final = 64 << 30
SECONDS_MAX: Final = 3_600
SINGLE_RECORDS_MAX: Final = 1_000
"""How many are sent one after the other; 1 in 100 of them is the p99."""

BATCH_RECORDS: Final = 1_000
BATCH_BYTES: Final = 1 << 20
"""What one `send_many` takes: so many records, or fewer if they are large."""

BATCHES_UNDER_WAY: Final = 8
ACKNOWLEDGED_TIMEOUT_S: Final = 60.0
POLL_TIMEOUT_S: Final = 1.0
SILENCE_MAX_S: Final = 30.0
VALUES: Final = 64
"""Different random values: they do not compress, and cost no time to make."""

RETENTION_MS: Final = 3_600_000
"""Of the topic, for a process that dies before it can delete it."""


class Clients(Protocol):
    """Makes the clients; `ottla.testing.FakeCluster` is one."""

    def admin(self) -> "Admin":
        """A client for topics."""

    def producer(self, **options: Any) -> "Producer":
        """A producer with these options."""

    def consumer(self, *topics: str, **options: Any) -> "Consumer":
        """A consumer with these options."""


@dataclass(frozen=True, slots=True)
class BenchmarkPlan:
    """What to measure.

    Attributes:
        records: how many to produce and consume at most.
        seconds: how long each step may take.
        record_bytes: size of a value.
        partitions: of the topic.
        replication_factor: of the topic; None for the cluster's default.
        acks: all or 1.
    """

    records: int = 100_000
    seconds: float = 10.0
    record_bytes: int = 100
    partitions: int = 3
    replication_factor: int | None = None
    acks: str = "all"


@dataclass(frozen=True, slots=True)
class Step:
    """What one step saw; latencies in ms, MB are 10^6 bytes of values."""

    records: int
    seconds: float
    records_per_second: float
    mb_per_second: float
    p50_ms: float | None
    p99_ms: float | None
    max_ms: float | None


@dataclass(frozen=True, slots=True)
class Measured:
    """The three steps.

    Attributes:
        topic: the topic that was made, and is gone.
        single: a record and its acknowledgement, then the next.
        produce: as fast as they are acknowledged; latency of a batch.
        consume: all of them back; latency of a poll.
    """

    topic: str
    single: Step
    produce: Step
    consume: Step


class BenchmarkIncompleteError(OttlaError):
    """Records that were acknowledged did not come back."""

    code = "BENCHMARK_INCOMPLETE"
    status = 500


@dataclass(slots=True)
class Benchmark:
    """One run.

    Attributes:
        clients: makes the clients.
        plan: what to measure.
        on_progress: told the step and how many records it is further.
        clock: seconds.
    """

    clients: Clients
    plan: BenchmarkPlan
    on_progress: Callable[[str, int], None] = lambda _step, _records: None
    clock: Callable[[], float] = time.perf_counter
    topic: str = field(default_factory=lambda: TOPIC_PREFIX + secrets.token_hex(6))

    def run(self) -> Measured:
        """Measure, and delete the topic.

        Raises:
            OttlaError: the cluster refuses or cannot be reached.
            BenchmarkIncompleteError: acknowledged records did not come back.
        """
        plan = self.plan
        values = [os.urandom(plan.record_bytes) for _ in range(VALUES)]
        with self.clients.admin() as admin:
            admin.create_topic(
                self.topic,
                plan.partitions,
                plan.replication_factor,
                {"retention.ms": RETENTION_MS},
            )
            try:
                with self.clients.producer(acks=plan.acks) as producer:
                    single = self._single(producer, values)
                    produced = self._produce(producer, values)
                consumed = self._consume(single.records + produced.records)
            finally:
                admin.delete_topic(self.topic)
        return Measured(self.topic, single, produced, consumed)

    def _single(self, producer: "Producer", values: Sequence[bytes]) -> Step:
        # The first learns of the topic and connects.
        producer.send(self.topic, values[0]).get(ACKNOWLEDGED_TIMEOUT_S)
        latencies: list[float] = []
        started = self.clock()
        most = min(self.plan.records, SINGLE_RECORDS_MAX)
        while len(latencies) < most and self.clock() - started < self.plan.seconds:
            sent = self.clock()
            value = values[len(latencies) % VALUES]
            producer.send(self.topic, value).get(ACKNOWLEDGED_TIMEOUT_S)
            latencies.append(self.clock() - sent)
            self.on_progress("single", 1)
        return self._step(len(latencies), self.clock() - started, latencies)

    def _produce(self, producer: "Producer", values: Sequence[bytes]) -> Step:
        batch_records = max(1, min(BATCH_RECORDS, BATCH_BYTES // max(1, self.plan.record_bytes)))
        batch = [values[number % VALUES] for number in range(batch_records)]
        under_way: deque[tuple[float, int, Any]] = deque()
        latencies: list[float] = []
        sent = acknowledged = 0
        started = self.clock()

        def await_oldest() -> int:
            began, count, future = under_way.popleft()
            future.get(ACKNOWLEDGED_TIMEOUT_S)
            latencies.append(self.clock() - began)
            self.on_progress("produce", count)
            return count

        while sent < self.plan.records and self.clock() - started < self.plan.seconds:
            some = batch[: self.plan.records - sent]
            under_way.append((self.clock(), len(some), producer.send_many(self.topic, some)))
            sent += len(some)
            if len(under_way) >= BATCHES_UNDER_WAY:
                acknowledged += await_oldest()
        while under_way:
            acknowledged += await_oldest()
        return self._step(acknowledged, self.clock() - started, latencies)

    def _consume(self, records: int) -> Step:
        """Read until `records` came or the time is up."""
        latencies: list[float] = []
        read = 0
        with self.clients.consumer(auto_offset_reset="earliest") as consumer:
            consumer.assign([(self.topic, number) for number in range(self.plan.partitions)])
            started = heard = self.clock()
            while read < records and self.clock() - started < self.plan.seconds:
                asked = self.clock()
                some = sum(map(len, consumer.poll(POLL_TIMEOUT_S).values()))
                if some:
                    heard = self.clock()
                    latencies.append(heard - asked)
                    self.on_progress("consume", some)
                elif self.clock() - heard > SILENCE_MAX_S:
                    raise BenchmarkIncompleteError(f"{read} of {records} records came back")
                read += some
            return self._step(read, self.clock() - started, latencies)

    def _step(self, records: int, seconds: float, latencies_s: Sequence[float]) -> Step:
        per_second = records / seconds if seconds > 0 else 0.0
        ascending = sorted(latency * 1000 for latency in latencies_s)
        return Step(
            records=records,
            seconds=seconds,
            records_per_second=per_second,
            mb_per_second=per_second * self.plan.record_bytes / 1e6,
            p50_ms=percentile(ascending, 50),
            p99_ms=percentile(ascending, 99),
            max_ms=ascending[-1] if ascending else None,
        )


def percentile(ascending: Sequence[float], percent: float) -> float | None:
    """The nearest-rank percentile: the smallest value that `percent` of them do not exceed."""
    if not ascending:
        return None
    return ascending[max(0, ceil(percent / 100 * len(ascending)) - 1)]
