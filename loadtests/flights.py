"""Flights as records: what the demo and the load run write.

A flight's key is its aircraft (`tailnum`), so the flights of one aircraft stay in order; cancelled
flights without an aircraft have no key. The value is the line of the file as it is. A header says
which one in the run it is, so that a copy can be told from an equal flight.
"""

import gzip
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path

import msgspec

from loadtests.data.make_sample import SAMPLE_PATH

SEQUENCE_HEADER = "sequence"
WRITER_HEADER = "writer"


class Flight(msgspec.Struct, frozen=True, gc=False):
    """One record to write.

    Attributes:
        sequence: its number in the run, from 0.
        key: the aircraft, or None.
        value: the flight as JSON.
        writer: who writes it, where several write flights of one aircraft; None where nobody does.
    """

    sequence: int
    key: str | None
    value: msgspec.Raw
    writer: int | None = None

    def headers(self) -> dict[str, str]:
        """The headers of its record."""
        headers = {SEQUENCE_HEADER: str(self.sequence)}
        if self.writer is not None:
            headers[WRITER_HEADER] = str(self.writer)
        return headers


class _Aircraft(msgspec.Struct):
    tailnum: str | None


_aircraft_decoder = msgspec.json.Decoder(_Aircraft)


def read_flights(path: Path = SAMPLE_PATH, limit: int | None = None) -> Iterator[Flight]:
    """The flights of a gzipped NDJSON file, at most `limit`, numbered from 0.

    Raises:
        OSError: the file is missing or not gzip.
        msgspec.DecodeError: a line is no flight.
    """
    with gzip.open(path) as lines:
        for sequence, line in enumerate(islice(lines, limit)):
            text = line.rstrip(b"\n")
            yield Flight(sequence, _aircraft_decoder.decode(text).tailnum, msgspec.Raw(text))


class _Record(msgspec.Struct):
    key: str | None
    value: msgspec.Raw
    headers: dict[str, str]


class _Records(msgspec.Struct):
    records: list[_Record]


def repeat_flights(flights: list[Flight], count: int) -> list[Flight]:
    """`count` flights: `flights` again and again, numbered on."""
    assert flights, "nothing to repeat"
    return [
        Flight(sequence, flight.key, flight.value)
        for sequence, flight in enumerate(islice(cycle(flights), count))
    ]


def produce_body(flights: list[Flight]) -> bytes:
    """The flights as the body of a JSON produce."""
    return msgspec.json.encode(
        _Records([_Record(flight.key, flight.value, flight.headers()) for flight in flights])
    )
