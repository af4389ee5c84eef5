"""One producing process: `python -m loadtests.bench.sdk_producer CLIENT BOOTSTRAP TOPIC …`.

A process of its own, so that its processor time and memory are the client's alone. It sends
records of 100 bytes with keys for some seconds, waits for every acknowledgement, and prints one
JSON object.
Clients: `ottla` (send or send_many), and for comparison `confluent` and `aiokafka`, which need a
Kafka of their own to talk to.
"""

import argparse
import asyncio
import json
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import psutil  # type: ignore[import-untyped]  # it ships no types

VALUE_BYTES = 100
KEYS = 1_000
RECORDS_PER_LOOK = 1_000
"""Records between two looks at the clock, and in one send_many."""

RECORDS_MAX = 20_000_000
FLUSH_TIMEOUT_S = 60.0
WARM_UP_RECORDS = 20_000
MEMORY_INTERVAL_S = 0.05

Keys = Sequence[bytes]
Values = Sequence[bytes]
SendSome = Callable[[Keys, Values], None]


@dataclass(frozen=True, slots=True)
class Measured:
    """What one run saw; `rss_growth_mb` is the largest growth since the warm-up began."""

    records: int
    seconds: float
    cpu_seconds: float
    rss_growth_mb: float


class PeakMemory:
    """Looks at this process's resident memory from a thread until it is told to stop."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._first = self.peak = self._process.memory_info().rss
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._ended.wait(MEMORY_INTERVAL_S):
            self.peak = max(self.peak, self._process.memory_info().rss)

    def growth_mb(self) -> float:
        """Stop, and tell the largest growth."""
        self._ended.set()
        self._thread.join()
        return float(self.peak - self._first) / 1e6


def records() -> tuple[Keys, Values]:
    """Keys and values of one round; the values differ, so that compression has work to do."""
    keys = [f"N{number:05d}".encode() for number in range(KEYS)]
    text = '{{"flight":{0},"origin":"JFK","dest":"LAX","delay":{1},"carrier":"AA","x":"'
    values = [text.format(1000 + n * 7, n % 97 - 20).encode() for n in range(KEYS)]
    return keys, [(value + b"abcdefghij" * 10)[:VALUE_BYTES] for value in values]


def measure(send_some: SendSome, flush: Callable[[], None], seconds_max: float) -> Measured:
    """Send in rounds until the time is up, then wait for all acknowledgements."""
    keys, values = records()
    memory = PeakMemory()
    for _ in range(WARM_UP_RECORDS // KEYS):
        send_some(keys, values)
    flush()
    started, cpu_started = time.perf_counter(), time.process_time()
    sent = 0
    while sent < RECORDS_MAX and time.perf_counter() - started < seconds_max:
        send_some(keys, values)
        sent += KEYS
    flush()
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
    return Measured(sent, seconds, cpu_seconds, memory.growth_mb())


def run_ottla(arguments: argparse.Namespace) -> Measured:
    """Our own SDK."""
    from ottla import Producer

    with Producer(
        bootstrap_servers=arguments.bootstrap,
        compression=arguments.compression,
        linger_ms=arguments.linger_ms,
    ) as producer:

        def send(keys: Keys, values: Values) -> None:
            for key, value in zip(keys, values, strict=True):
                producer.send(arguments.topic, value, key=key)

        def send_many(keys: Keys, values: Values) -> None:
            producer.send_many(arguments.topic, values, keys=keys)

        return measure(
            send_many if arguments.many else send,
            lambda: producer.flush(FLUSH_TIMEOUT_S),
            arguments.seconds,
        )


def run_confluent(arguments: argparse.Namespace) -> Measured:
    """confluent-kafka against a Kafka."""
    from confluent_kafka import Producer  # type: ignore[import-not-found,unused-ignore]

    producer = Producer(
        {
            "bootstrap.servers": arguments.bootstrap,
            "enable.idempotence": True,
            "acks": "all",
            "linger.ms": arguments.linger_ms,
            "compression.type": arguments.compression,
            "queue.buffering.max.messages": 1_000_000,
        }
    )

    def send(keys: Keys, values: Values) -> None:
        for key, value in zip(keys, values, strict=True):
            while True:
                try:
                    producer.produce(arguments.topic, value, key)
                    break
                except BufferError:
                    producer.poll(0.01)
        producer.poll(0)

    return measure(send, lambda: producer.flush(FLUSH_TIMEOUT_S), arguments.seconds)


def run_aiokafka(arguments: argparse.Namespace) -> Measured:
    """Aiokafka against a Kafka: its futures are awaited in rounds, as its documentation does."""

    async def run() -> Measured:
        from aiokafka import AIOKafkaProducer

        producer = AIOKafkaProducer(
            bootstrap_servers=arguments.bootstrap,
            enable_idempotence=True,
            acks="all",
            linger_ms=arguments.linger_ms,
            compression_type=None if arguments.compression == "none" else arguments.compression,
        )
        await producer.start()
        keys, values = records()
        memory = PeakMemory()
        started, cpu_started = time.perf_counter(), time.process_time()
        sent = 0
        while time.perf_counter() - started < arguments.seconds:
            futures = [
                await producer.send(arguments.topic, value, key)
                for key, value in zip(keys, values, strict=True)
            ]
            sent += len(futures)
        await producer.flush()
        measured = Measured(
            sent,
            time.perf_counter() - started,
            time.process_time() - cpu_started,
            memory.growth_mb(),
        )
        await producer.stop()
        return measured

    return asyncio.run(run())


CLIENTS = {"ottla": run_ottla, "confluent": run_confluent, "aiokafka": run_aiokafka}


def main(arguments: Sequence[str] | None = None) -> int:
    """Produce, and print what was seen."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.bench.sdk_producer")
    parser.add_argument("client", choices=sorted(CLIENTS))
    parser.add_argument("bootstrap")
    parser.add_argument("topic")
    parser.add_argument("--many", action="store_true", help="send_many instead of send")
    parser.add_argument("--compression", default="none")
    parser.add_argument("--linger-ms", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=4.0)
    chosen = parser.parse_args(arguments)
    print(json.dumps(asdict(CLIENTS[chosen.client](chosen))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
