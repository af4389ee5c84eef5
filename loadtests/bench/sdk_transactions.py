"""One process that produces with and without transactions: records per second, and commits.

`python -m loadtests.bench.sdk_transactions BOOTSTRAP TOPIC …`. Both producers are of one process,
which uses them in turn for a part of the time each: so they meet the same machine, and what one of
them sends by is no better than what the other has. Each part ends with all its records
acknowledged, those of transactions committed. It prints one JSON object.
"""

import argparse
import json
import sys
import time
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from loadtests.bench.sdk_producer import FLUSH_TIMEOUT_S, KEYS, records
from ottla import Producer

PARTS = 4
"""How often each of the two has its turn."""

WARM_UP_TRANSACTIONS = 3
CALL_TIMEOUT_S = 60.0


@dataclass(slots=True)
class Transacted:
    """What one run saw."""

    plain_records: int = 0
    plain_seconds: float = 0.0
    records: int = 0
    seconds: float = 0.0
    commit_seconds: list[float] = field(default_factory=list)
    """From asking for each commit to its answer, with what was still to be acknowledged."""


class _Bench:
    def __init__(self, bootstrap: str, topic: str, transaction_seconds: float) -> None:
        self._topic = topic
        self._transaction_seconds = transaction_seconds
        self._keys, self._values = records()
        self._plain = Producer(bootstrap_servers=bootstrap)
        self._transactional = Producer(
            bootstrap_servers=bootstrap, transactional_id=f"bench-{uuid.uuid4().hex}"
        )
        self.seen = Transacted()

    def run(self, seconds: float) -> None:
        with self._plain, self._transactional:
            self._transactional.init_transactions(CALL_TIMEOUT_S)
            self._send_some(self._plain)
            self._plain.flush(FLUSH_TIMEOUT_S)
            for _ in range(WARM_UP_TRANSACTIONS):
                self._transact()
            self.seen = Transacted()
            for _ in range(PARTS):
                self._part_without(seconds / PARTS)
                self._part_with(seconds / PARTS)

    def _part_without(self, seconds: float) -> None:
        started = time.perf_counter()
        while time.perf_counter() - started < seconds:
            self.seen.plain_records += self._send_some(self._plain)
        self._plain.flush(FLUSH_TIMEOUT_S)
        self.seen.plain_seconds += time.perf_counter() - started

    def _part_with(self, seconds: float) -> None:
        started = time.perf_counter()
        while time.perf_counter() - started < seconds:
            self._transact()
        self.seen.seconds += time.perf_counter() - started

    def _transact(self) -> None:
        self._transactional.begin_transaction()
        began = time.perf_counter()
        while time.perf_counter() - began < self._transaction_seconds:
            self.seen.records += self._send_some(self._transactional)
        ended = time.perf_counter()
        self._transactional.commit_transaction(CALL_TIMEOUT_S)
        self.seen.commit_seconds.append(time.perf_counter() - ended)

    def _send_some(self, producer: Producer) -> int:
        for key, value in zip(self._keys, self._values, strict=True):
            producer.send(self._topic, value, key=key)
        return KEYS


def main(arguments: Sequence[str] | None = None) -> int:
    """Produce, and print what was seen."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.bench.sdk_transactions")
    parser.add_argument("bootstrap")
    parser.add_argument("topic")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each of the two")
    parser.add_argument("--transaction-ms", type=float, default=100.0)
    chosen = parser.parse_args(arguments)
    bench = _Bench(chosen.bootstrap, chosen.topic, chosen.transaction_ms / 1000)
    bench.run(chosen.seconds)
    print(json.dumps(asdict(bench.seen)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
