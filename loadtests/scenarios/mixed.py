"""What a cluster sees all day: writes and reads mixed, of a few busy keys and many quiet ones.

The aircraft are chosen by Zipf's law, and all users write the same ones: their partitions are
busier than others, and their order is each writer's own.
"""

from random import Random
from typing import Any

from locust import task

from loadtests.flights import Flight
from loadtests.history import Acknowledged
from loadtests.scenarios.offset_reads import OffsetReading
from loadtests.scenarios.run_state import RUN
from loadtests.zipf import ZipfChoice

BATCH_RECORDS = (2, 20)


class MixedUser(OffsetReading):
    """A service that writes the flights of some aircraft, and reads."""

    weight = 6

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        self._ranks = ZipfChoice(RUN.aircraft, Random(self.number))
        self._written: list[Acknowledged] = []

    @task(6)
    def write_one(self) -> None:
        """One flight of a busy aircraft, most of the time."""
        self._written = self.produce("produce one", [self._flight()]) or self._written

    @task(2)
    def write_batch(self) -> None:
        """Some flights, of as many aircraft."""
        flights = [self._flight() for _ in range(self.random.randint(*BATCH_RECORDS))]
        self._written = self.produce("produce a batch", flights) or self._written

    @task(3)
    def read_own(self) -> None:
        """What this user wrote last is at its offset."""
        if self._written:
            self.look_up(self.random.choice(self._written))

    @task(1)
    def wait_for_more(self) -> None:
        """What comes behind it."""
        if self._written:
            self.wait_behind(self._written[-1])

    def _flight(self) -> Flight:
        return RUN.flight_of(self._ranks.next(), self.number)
