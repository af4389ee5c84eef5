"""Reads the partitions of a topic over HTTP, each from where it left off.

`read_until_end` is `cat`: it notes each partition's end first, reads up to there, one
partition after the other, and so prints the same for the same data. `follow` is `tail -f`: one
long-poll per partition at a time, each in its own thread, whatever comes first goes out first. In
both, offsets advance only by what the broker answered, so a failover repeats no record and skips
none.
"""

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from ottla_ops.cli.failures import CommandError, ExitCode
from ottla_ops.cli.http_connection import Answer, HttpConnection, path_of
from ottla_protocol import routes
from ottla_protocol.models import Isolation, OffsetResponse, TopicDescription

READ_BYTES_MAX: Final = 1 << 20
READ_RECORDS_MAX: Final = 5_000
READ_WAIT_MS: Final = 500
FOLLOW_WAIT_MS: Final = 5_000
"""How long a follower's poll stays open at the broker."""

ANSWER_MARGIN_S: Final = 10.0
FOLLOWED_PARTITIONS_MAX: Final = 64
"""A thread and a connection each."""

QUEUED_READS_MAX: Final = 16
"""Answers that followers hold while the reader of our output is slow."""


class PartitionRead(msgspec.Struct, frozen=True):
    """One answer of the broker; records keep their JSON text."""

    partition: int
    records: list[msgspec.Raw]
    next_offset: int
    high_watermark: int


@dataclass(frozen=True, slots=True)
class ReadRequest:
    """What to read.

    Attributes:
        topic: topic name.
        start: offset, `earliest`, `latest`, or minus the number of records before the end of each
            partition.
        where: only records for which this holds, evaluated by the broker: a logical expression of
            RFC 9535, such as `$.origin == "JFK"`; None for all.
        since_ms: begin with each partition's first record at or after this time instead, in ms
            since the epoch, or at its end.
        value_format: how keys and values come back: auto, json, text or base64.
        max_records: stop after so many, over all partitions; None for all.
        timeout_s: how long a retriable failure may last.
        isolation: `read_uncommitted` or `read_committed`, which leaves out what was aborted and
            ends before what is open.
    """

    topic: str
    start: str = "earliest"
    value_format: str = "auto"
    max_records: int | None = None
    timeout_s: float = 30.0
    since_ms: int | None = None
    where: str | None = None
    isolation: Isolation = "read_uncommitted"


class TopicReader:
    """Reads for one `ReadRequest`.

    Args:
        connection: the cluster.
        request: what to read.
    """

    def __init__(self, connection: HttpConnection, request: ReadRequest) -> None:
        self._connection = connection
        self._request = request

    def partitions(self) -> list[int]:
        """The topic's partitions, ascending.

        Raises:
            CommandError: there is no such topic, or nobody to ask.
        """
        path = path_of(routes.TOPIC, topic=self._request.topic)
        answer = self._retry(lambda: self._connection.request("GET", path))
        topic = answer.decoded(TopicDescription)
        return sorted(each.partition for each in topic.partitions)

    def read_until_end(self, partitions: Sequence[int]) -> Iterator[PartitionRead]:
        """Read what is there now, one partition after the other.

        Raises:
            CommandError: a read failed for good.
        """
        ends = {partition: self._end_offset(partition) for partition in partitions}
        reads = (
            read
            for partition in partitions
            for read in self._read_partition_until(ends[partition], partition)
        )
        return _limited(reads, self._request.max_records)

    def follow(self, partitions: Sequence[int]) -> Iterator[PartitionRead]:
        """Read for ever, or up to `max_records`, in the order of arrival.

        Raises:
            CommandError: a read failed for good, or there are too many partitions.
        """
        if len(partitions) > FOLLOWED_PARTITIONS_MAX:
            raise CommandError(
                f"{len(partitions)} partitions are more than can be followed at once "
                f"({FOLLOWED_PARTITIONS_MAX})",
                code="TOO_MANY_PARTITIONS",
                exit_code=ExitCode.USAGE,
                hint="--partition follows one of them",
            )
        reads: queue.Queue[PartitionRead | CommandError] = queue.Queue(QUEUED_READS_MAX)
        for partition in partitions:
            # Daemons: a long-poll that is still open must not hold up the exit.
            threading.Thread(
                target=self._follow_partition, args=(partition, reads), daemon=True
            ).start()
        return _limited(_received(reads), self._request.max_records)

    def _read_partition_until(self, end: int, partition: int) -> Iterator[PartitionRead]:
        # What has come since the end was noted is not asked for.
        position = self._start(partition, before=end)
        progressed_s = time.monotonic()
        # An offset beyond the end is asked for all the same: the broker tells the bounds.
        while position != str(end):
            read = self._read(partition, position, wait_ms=READ_WAIT_MS)
            if read.records:
                yield read
            if read.next_offset >= end:
                return
            if position != str(read.next_offset):
                progressed_s = time.monotonic()
            elif time.monotonic() - progressed_s > self._request.timeout_s:
                # A new leader's high watermark lags at first, but not for so long.
                raise CommandError(
                    f"partition {partition} is stuck at offset {position} of {end}",
                    code="OFFSET_NOT_AVAILABLE",
                    exit_code=ExitCode.UNAVAILABLE,
                    retriable=True,
                )
            position = str(read.next_offset)

    def _follow_partition(
        self, partition: int, reads: queue.Queue[PartitionRead | CommandError]
    ) -> None:
        try:
            position = self._start(partition)
            while True:
                read = self._read(partition, position, wait_ms=FOLLOW_WAIT_MS)
                position = str(read.next_offset)
                if read.records:
                    reads.put(read)
        except CommandError as error:
            reads.put(error)

    def _read(self, partition: int, position: str, *, wait_ms: int) -> PartitionRead:
        path = path_of(routes.PARTITION_RECORDS, topic=self._request.topic, partition=partition)
        query: dict[str, object] = {
            "offset": position,
            "format": self._request.value_format,
            "max_bytes": READ_BYTES_MAX,
            "max_records": min(self._request.max_records or READ_RECORDS_MAX, READ_RECORDS_MAX),
            "max_wait_ms": wait_ms,
            "where": self._request.where,
            "isolation": self._isolation,
        }
        answer = self._retry(
            lambda: self._connection.request(
                "GET", path, query=query, answer_timeout_s=wait_ms / 1000 + ANSWER_MARGIN_S
            )
        )
        return answer.decoded(PartitionRead)

    def _start(self, partition: int, before: int | None = None) -> str:
        since_ms = self._request.since_ms
        if since_ms is None:
            return self._request.start
        found = self._offset(partition, at=since_ms)
        return str(found if before is None else min(found, before))

    def _end_offset(self, partition: int) -> int:
        return self._offset(partition, at="latest")

    def _offset(self, partition: int, *, at: str | int) -> int:
        path = path_of(routes.PARTITION_OFFSETS, topic=self._request.topic, partition=partition)
        query: dict[str, object] = {"at": at, "isolation": self._isolation}
        answer = self._retry(lambda: self._connection.request("GET", path, query=query))
        return answer.decoded(OffsetResponse).offset

    @property
    def _isolation(self) -> Isolation | None:
        """As a parameter; none for what every broker does without."""
        isolation = self._request.isolation
        return None if isolation == "read_uncommitted" else isolation

    def _retry(self, attempt: Callable[[], Answer]) -> Answer:
        return self._connection.retry(attempt, timeout_s=self._request.timeout_s)


def _received(reads: queue.Queue[PartitionRead | CommandError]) -> Iterator[PartitionRead]:
    while True:
        read = reads.get()
        if isinstance(read, CommandError):
            raise read
        yield read


def _limited(reads: Iterable[PartitionRead], max_records: int | None) -> Iterator[PartitionRead]:
    """The reads up to the first `max_records` records, all of them when that is None."""
    if max_records is None:
        yield from reads
        return
    left = max_records
    for read in reads:
        yield msgspec.structs.replace(read, records=read.records[:left])
        left -= len(read.records)
        if left <= 0:
            return
