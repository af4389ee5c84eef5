"""Locust users that write flights over HTTP and read them back.

    locust -f loadtests/locustfile.py --host http://127.0.0.1:7101

Every user has aircraft of its own and one request in flight, so the order per key can be checked.
A user writes single flights and small batches (with an Idempotency-Key), reads what it wrote at its
acknowledged offset, and waits at the end of a partition with a long-poll. A read that does not give
back what was acknowledged is a failed request.
"""

from collections.abc import Sequence
from itertools import count
from pathlib import Path
from random import Random
from typing import IO, Any

import msgspec
from locust import FastHttpUser, constant_pacing, events, task

from loadtests.acknowledgements import write_acknowledged, write_end
from loadtests.flights import SEQUENCE_HEADER, Flight, produce_body, read_flights
from loadtests.history import Acknowledged, fingerprint
from ottla_protocol.models import CreateTopicRequest, ProduceResponse
from ottla_protocol.routes import HEADER_IDEMPOTENCY_KEY

PARTITIONS = 6
FLIGHTS = 5_000
BATCH_RECORDS = (2, 20)
LONG_POLL_MS = 250
SECONDS_BETWEEN_TASKS = 0.05
JSON = {"Content-Type": "application/json"}


class _Record(msgspec.Struct):
    offset: int
    key: str | None
    value: msgspec.Raw
    headers: dict[str, str] = {}


class _Records(msgspec.Struct):
    records: list[_Record]
    next_offset: int


class _Run:
    """What all users of this process share. Greenlets switch only at IO, so no lock is needed."""

    def __init__(self) -> None:
        self.flights = list(read_flights(limit=FLIGHTS))
        self.sequence = count()
        self.users = count()
        self.sent = 0
        self.file: IO[bytes] | None = None

    def next_flight(self, user: int) -> Flight:
        """The next flight of this run, of an aircraft that is this user's alone."""
        self.sent = sequence = next(self.sequence)
        self.sent += 1
        flight = self.flights[sequence % len(self.flights)]
        return Flight(sequence, f"{flight.key}/{user}", flight.value)


RUN = _Run()


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]  # locust's own
def _add_arguments(parser: Any) -> None:
    parser.add_argument("--topic", default="flights-load", help="topic to write and read")
    parser.add_argument("--brokers", default="", help="URLs over which users spread; else --host")
    parser.add_argument("--acknowledged", default="", help="file for what was acknowledged")


@events.test_start.add_listener  # type: ignore[untyped-decorator]  # locust's own
def _open_file(environment: Any, **_: Any) -> None:
    path = environment.parsed_options.acknowledged
    if path:
        RUN.file = Path(path).open("wb")  # noqa: SIM115 - closed by _close_file, at the run's end


@events.test_stop.add_listener  # type: ignore[untyped-decorator]  # locust's own
def _close_file(**_: Any) -> None:
    if RUN.file is not None:
        write_end(RUN.file, RUN.sent)
        RUN.file.close()
        RUN.file = None


class FlightUser(FastHttpUser):
    """One service that writes the flights of its aircraft."""

    wait_time = constant_pacing(SECONDS_BETWEEN_TASKS)
    connection_timeout = 5.0
    network_timeout = 20.0

    def __init__(self, environment: Any) -> None:
        self.number = next(RUN.users)
        options = environment.parsed_options
        brokers = [url for url in options.brokers.split(",") if url]
        if brokers:
            self.host = brokers[self.number % len(brokers)]
        super().__init__(environment)
        self.topic = options.topic
        self.random = Random(self.number)
        self.written: list[Acknowledged] = []

    def on_start(self) -> None:
        """Create the topic, unless another user or run has."""
        request = CreateTopicRequest(self.topic, partitions=PARTITIONS)
        with self.client.post(
            "/v1/topics",
            data=msgspec.json.encode(request).decode(),
            headers=JSON,
            catch_response=True,
        ) as response:
            if response.status_code == 409:
                response.success()

    @task(6)
    def produce_one(self) -> None:
        """One flight."""
        self._produce([RUN.next_flight(self.number)], "POST one record", JSON)

    @task(2)
    def produce_batch(self) -> None:
        """A few flights in one request."""
        flights = [RUN.next_flight(self.number) for _ in range(self.random.randint(*BATCH_RECORDS))]
        key = f"load-{self.number}-{flights[0].sequence}"
        self._produce(flights, "POST a batch", {**JSON, HEADER_IDEMPOTENCY_KEY: key})

    def _produce(self, flights: Sequence[Flight], name: str, headers: dict[str, str]) -> None:
        with self.client.post(
            f"/v1/topics/{self.topic}/records",
            data=produce_body(list(flights)).decode(),
            headers=headers,
            name=name,
            catch_response=True,
        ) as response:
            if response.status_code != 200:
                response.failure(f"{response.status_code} {response.text}")
                return
            answer = msgspec.json.decode(response.content, type=ProduceResponse)
        acknowledged = [
            Acknowledged(
                sequence=flight.sequence,
                key=flight.key,
                fingerprint=fingerprint(bytes(flight.value)),
                partition=position.partition,
                offset=position.offset,
            )
            for flight, position in zip(flights, answer.records, strict=True)
        ]
        self.written = acknowledged
        if RUN.file is not None:
            write_acknowledged(RUN.file, acknowledged)

    @task(3)
    def read_back(self) -> None:
        """What this user wrote last is at its offset."""
        if not self.written:
            return
        wanted = self.random.choice(self.written)
        with self._read(wanted.partition, wanted.offset, "GET written record") as response:
            if response.status_code != 200:
                response.failure(f"{response.status_code} {response.text}")
                return
            page = msgspec.json.decode(response.content, type=_Records)
            if not page.records or not _is_same(page.records[0], wanted):
                response.failure(f"not what was acknowledged at {wanted.partition}@{wanted.offset}")

    @task(1)
    def wait_for_more(self) -> None:
        """A long-poll behind the last own record; there may or may not be another."""
        if not self.written:
            return
        last = self.written[-1]
        with self._read(last.partition, last.offset + 1, "GET long-poll") as response:
            if response.status_code != 200:
                response.failure(f"{response.status_code} {response.text}")
                return
            page = msgspec.json.decode(response.content, type=_Records)
            if any(record.offset <= last.offset for record in page.records):
                response.failure(f"an offset below {last.offset + 1}")

    def _read(self, partition: int, offset: int, name: str) -> Any:
        return self.client.get(
            f"/v1/topics/{self.topic}/partitions/{partition}/records"
            f"?offset={offset}&max_records=100&max_wait_ms={LONG_POLL_MS}&format=json",
            name=name,
            catch_response=True,
        )


def _is_same(record: _Record, wanted: Acknowledged) -> bool:
    return (
        record.offset,
        record.headers.get(SEQUENCE_HEADER),
        record.key,
        fingerprint(bytes(record.value)),
    ) == (wanted.offset, str(wanted.sequence), wanted.key, wanted.fingerprint)
