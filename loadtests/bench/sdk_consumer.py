"""One consuming process: `python -m loadtests.bench.sdk_consumer BOOTSTRAP TOPIC RECORDS …`.

A process of its own, so that its processor time is the client's alone. It reads a filled topic from
its beginning, again and again until the time is up, and prints one JSON object.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import islice

from ottla import Consumer

RECORDS_PER_LOOK = 1_000
"""Records between two looks at the clock, in an iteration."""

READ_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Consumed:
    """What one run saw."""

    records: int
    seconds: float
    cpu_seconds: float


class NothingReadError(Exception):
    """The topic has fewer records than was said."""


def measure(consumer: Consumer, records: int, seconds_max: float, *, one_by_one: bool) -> Consumed:
    """Read all `records` of the assigned partitions, as often as the time allows."""
    started, cpu_started = time.perf_counter(), time.process_time()
    read = 0
    while time.perf_counter() - started < seconds_max:
        left = records
        while left > 0 and time.perf_counter() - started < seconds_max:
            some = (
                _iterate(consumer, min(left, RECORDS_PER_LOOK)) if one_by_one else _poll(consumer)
            )
            if not some:
                raise NothingReadError(f"{left} of {records} records did not come")
            left -= some
            read += some
        consumer.seek_to_beginning()
    return Consumed(read, time.perf_counter() - started, time.process_time() - cpu_started)


def _poll(consumer: Consumer) -> int:
    return sum(map(len, consumer.poll(READ_TIMEOUT_S).values()))


def _iterate(consumer: Consumer, most: int) -> int:
    """Look at each record's value, as any application would."""
    read = size_bytes = 0
    for record in islice(consumer, most):
        size_bytes += len(record.value)
        read += 1
    return read


def main(arguments: Sequence[str] | None = None) -> int:
    """Consume, and print what was seen."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.bench.sdk_consumer")
    parser.add_argument("bootstrap")
    parser.add_argument("topic")
    parser.add_argument("records", type=int, help="how many the topic has")
    parser.add_argument("--partitions", type=int, default=1)
    parser.add_argument("--iterate", action="store_true", help="one by one instead of by polls")
    parser.add_argument("--seconds", type=float, default=4.0)
    chosen = parser.parse_args(arguments)
    with Consumer(
        bootstrap_servers=chosen.bootstrap,
        auto_offset_reset="earliest",
        consumer_timeout_ms=int(READ_TIMEOUT_S * 1000),
    ) as consumer:
        consumer.assign([(chosen.topic, partition) for partition in range(chosen.partitions)])
        # The first records, before the clock starts: connections and metadata are there then.
        if not consumer.poll(READ_TIMEOUT_S):
            raise NothingReadError(f"nothing came from {chosen.topic}")
        consumer.seek_to_beginning()
        consumed = measure(consumer, chosen.records, chosen.seconds, one_by_one=chosen.iterate)
    print(json.dumps(asdict(consumed)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
