"""What all users of a locust process share: flights, numbers, acknowledgements, what was seen.

Greenlets switch only while they wait for IO, so nothing here takes a lock.
"""

import time
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from itertools import count
from pathlib import Path
from typing import IO, Any

import gevent

from loadtests.acknowledgements import write_acknowledged, write_end
from loadtests.deliveries import Deliveries
from loadtests.flights import Flight, read_flights
from loadtests.history import Acknowledged, fingerprint
from loadtests.load_run import LoadRunRecorder, write_run

FLIGHTS = 20_000
RECENT_RECORDS = 1_000
USERS_INTERVAL_S = 1.0


class RunState:
    """The one run of this process; `RUN` is it."""

    def __init__(self) -> None:
        self.flights = list(read_flights(limit=FLIGHTS))
        self.recorder = LoadRunRecorder(time.time())
        self.recent: deque[Acknowledged] = deque(maxlen=RECENT_RECORDS)
        self.deliveries: dict[str, Deliveries] = {}
        self.run_id = f"{time.time_ns():x}"
        """Makes Idempotency-Keys and member ids this run's own."""
        self._aircraft = _by_aircraft(self.flights)
        self._taken: Counter[int] = Counter()
        self._sequence = count()
        self._sent = 0
        self._writers = count()
        self._file: IO[bytes] | None = None
        self._counting: Any = None

    @property
    def aircraft(self) -> int:
        """How many aircraft there are to choose from, by rank."""
        return len(self._aircraft)

    def begin(self, acknowledged: Path | None) -> None:
        """The run begins now; what is acknowledged is written to that file."""
        self.recorder = LoadRunRecorder(time.time())
        if acknowledged is not None and self._file is None:
            self._file = acknowledged.open("wb")

    def end(self, run_file: Path | None) -> None:
        """The run is over: end the file, and write the other one."""
        if self._file is not None:
            write_end(self._file, self._sent)
            self._file.close()
            self._file = None
        if run_file is not None:
            groups = {group: given.counts() for group, given in self.deliveries.items()}
            write_run(run_file, self.recorder.run(groups))

    def count_users(self, environment: Any) -> None:
        """Note the number of users every second from now on."""
        if self._counting is None:
            self._counting = gevent.spawn(self._count_users, environment)

    def _count_users(self, environment: Any) -> None:
        while True:
            self.recorder.users(time.time(), environment.runner.user_count)
            gevent.sleep(USERS_INTERVAL_S)

    def new_writer(self) -> int:
        """A number that no other user has."""
        return next(self._writers)

    def next_flight(self, writer: int) -> Flight:
        """The next flight of the file, under the next number of the run."""
        sequence = self._next_sequence()
        flight = self.flights[sequence % len(self.flights)]
        return Flight(sequence, flight.key, flight.value, writer)

    def flight_of(self, rank: int, writer: int) -> Flight:
        """The next flight of the aircraft of that rank; rank 0 flies most."""
        flights = self._aircraft[rank]
        flight = flights[self._taken[rank] % len(flights)]
        self._taken[rank] += 1
        return Flight(self._next_sequence(), flight.key, flight.value, writer)

    def acknowledged(
        self, flights: Sequence[Flight], positions: Iterable[tuple[int, int]]
    ) -> list[Acknowledged]:
        """Flights were acknowledged at these positions, (partition, offset) each."""
        records = [
            Acknowledged(
                flight.sequence, flight.key, fingerprint(bytes(flight.value)), partition, offset
            )
            for flight, (partition, offset) in zip(flights, positions, strict=True)
        ]
        if self._file is not None:
            write_acknowledged(self._file, records)
        self.recent.extend(records)
        self.recorder.acknowledged(time.time(), len(records))
        return records

    def delivered(self, group: str, partition: int, offsets: Iterable[int]) -> None:
        """A member of the group was given these."""
        self.deliveries.setdefault(group, Deliveries()).deliver(partition, offsets)

    def _next_sequence(self) -> int:
        sequence = next(self._sequence)
        self._sent = sequence + 1
        return sequence


def _by_aircraft(flights: Iterable[Flight]) -> list[list[Flight]]:
    """The flights of each aircraft, of the one that flies most first."""
    by_key: dict[str, list[Flight]] = {}
    for flight in flights:
        if flight.key is not None:
            by_key.setdefault(flight.key, []).append(flight)
    return sorted(by_key.values(), key=len, reverse=True)


RUN = RunState()


def broker_urls(environment: Any) -> list[str]:
    """All brokers of the run, or the one of `--host`."""
    options = environment.parsed_options
    return [url for url in options.brokers.split(",") if url] or [options.host]


def report(
    environment: Any,
    kind: str,
    name: str,
    started_s: float,
    *,
    length_bytes: int = 0,
    failure: str | None = None,
    duration_ms: float | None = None,
) -> None:
    """Tell locust, and the run's own file, of an operation that has ended.

    Args:
        environment: locust's.
        kind: what locust shows before the name.
        name: the operation.
        started_s: by the performance counter.
        length_bytes: of what came.
        failure: why it failed, or None.
        duration_ms: in place of the time since `started_s`.
    """
    if duration_ms is None:
        duration_ms = (time.perf_counter() - started_s) * 1000
    environment.events.request.fire(
        request_type=kind,
        name=name,
        response_time=duration_ms,
        response_length=length_bytes,
        exception=None if failure is None else RuntimeError(failure),
        context={},
    )
    RUN.recorder.ended(name, time.time(), duration_ms, failure)
