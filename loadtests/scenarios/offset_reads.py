"""Reading by offset, and checking what comes.

A record is where it was acknowledged, and offsets follow one another.
"""

import msgspec
from locust import task

from loadtests.deliveries import follows
from loadtests.flights import SEQUENCE_HEADER
from loadtests.history import Acknowledged, fingerprint
from loadtests.scenarios.http_user import Answer, Check, OttlaHttpUser
from loadtests.scenarios.run_state import RUN

READ_RECORDS = 200
LONG_POLL_MS = 500


class _Record(msgspec.Struct):
    offset: int
    key: str | None
    value: msgspec.Raw
    headers: dict[str, str] = {}


class _Page(msgspec.Struct):
    records: list[_Record]
    next_offset: int


_page_decoder = msgspec.json.Decoder(_Page)


class OffsetReading(OttlaHttpUser):
    """The ways of reading by offset."""

    abstract = True

    def look_up(self, wanted: Acknowledged) -> None:
        """Read at an acknowledged offset."""

        def check(body: bytes) -> str | None:
            page = _page_decoder.decode(body)
            if page.records and _is_same(page.records[0], wanted):
                return None
            found = f"offset {page.records[0].offset}" if page.records else "an empty page"
            return (
                f"{found}, next {page.next_offset}, and not what was acknowledged at "
                f"{wanted.partition}@{wanted.offset}"
            )

        self._read("read by offset", wanted.partition, wanted.offset, 0, check)

    def wait_behind(self, last: Acknowledged) -> None:
        """A long-poll behind a record; there may or may not be another."""

        def check(body: bytes) -> str | None:
            return _out_of_place(_page_decoder.decode(body), last.offset + 1)

        self._read("long-poll", last.partition, last.offset + 1, LONG_POLL_MS, check)

    def read_on(self, partition: int, offset: int) -> int:
        """Read a page; returns where to go on."""

        def check(body: bytes) -> str | None:
            return _out_of_place(_page_decoder.decode(body), offset)

        answer = self._read("read on", partition, offset, 0, check)
        return offset if answer is None else _page_decoder.decode(answer.body).next_offset

    def _read(
        self, name: str, partition: int, offset: int, wait_ms: int, check: Check
    ) -> Answer | None:
        return self.call(
            name,
            "GET",
            f"/v1/topics/{self.topic}/partitions/{partition}/records"
            f"?offset={offset}&max_records={READ_RECORDS}&max_wait_ms={wait_ms}&format=json",
            check=check,
        )


class OffsetReadUser(OffsetReading):
    """A service that looks records up, and one that reads partitions from their beginning."""

    weight = 3

    def on_start(self) -> None:
        """Begin with nothing read."""
        self._next_offsets: dict[int, int] = {}

    @task(3)
    def look_up_recent(self) -> None:
        """A record that somebody wrote lately is at its offset."""
        if RUN.recent:
            self.look_up(self.random.choice(RUN.recent))

    @task(2)
    def catch_up(self) -> None:
        """The next page of some partition, from offset 0 on."""
        if RUN.recent:
            partition = self.random.choice(RUN.recent).partition
            offset = self._next_offsets.get(partition, 0)
            self._next_offsets[partition] = self.read_on(partition, offset)

    @task(1)
    def wait_for_more(self) -> None:
        """What comes behind the newest record."""
        if RUN.recent:
            self.wait_behind(RUN.recent[-1])


def _is_same(record: _Record, wanted: Acknowledged) -> bool:
    return (
        record.offset,
        record.headers.get(SEQUENCE_HEADER),
        record.key,
        fingerprint(bytes(record.value)),
    ) == (wanted.offset, str(wanted.sequence), wanted.key, wanted.fingerprint)


def _out_of_place(page: _Page, offset: int) -> str | None:
    """What is wrong with a page that was to begin at that offset."""
    offsets = [record.offset for record in page.records]
    if offsets and offsets[0] != offset:
        return f"the first offset is {offsets[0]}, not {offset}"
    if not follows(offsets):
        return f"offsets behind {offset} do not follow one another"
    if page.next_offset != offset + len(offsets):
        return f"next_offset is {page.next_offset} behind {len(offsets)} records from {offset}"
    return None
