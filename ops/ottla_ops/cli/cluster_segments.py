"""The segments of a topic's replicas, asked of the cluster: list, verify, dump.

Any broker takes the first two and asks the one that has the replica. A dump fetches whole batches
from that broker itself. A replica that cannot be asked does not hide the others: it is told at the
end, as the command's failure.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import msgspec

from ottla_ops.cli.failures import CommandError, ExitCode
from ottla_ops.cli.http_connection import Answer, HttpConnection, path_of
from ottla_ops.segments.dump import INFLATED_BYTES_MAX, DumpedBatch, marker_of
from ottla_protocol import routes
from ottla_protocol.counted_nouns import counted
from ottla_protocol.errors import error_from_problem
from ottla_protocol.models import (
    BinaryFetchRequest,
    BinaryFetchResponse,
    BrokerList,
    PartitionToFetch,
    TopicDescription,
)
from ottla_protocol.models_segments import SegmentList, SegmentVerificationPart, VerifiedSegment
from ottla_protocol.record_batch import validate_batch
from ottla_protocol.record_codec import decode_validated_batch

T = TypeVar("T")

ANSWER_TIMEOUT_S: Final = 40.0
"""Longer than a broker waits for another one."""

FETCHED_BYTES: Final = 4 << 20


@dataclass(frozen=True, slots=True)
class ReplicaName:
    """A partition and the broker with a copy of it."""

    partition: int
    node_id: int


@dataclass(slots=True)
class ClusterSegments:
    """Replicas of one topic.

    Attributes:
        connection: to the cluster.
        topic: its name.
        timeout_s: how long a retriable failure may last.
        failures: the replicas that could not be asked, with the reason.
    """

    connection: HttpConnection
    topic: str
    timeout_s: float
    failures: list[tuple[ReplicaName, CommandError]] = field(default_factory=list)

    def replicas(
        self, partition: int | None, node_id: int | None, *, leaders_only: bool = False
    ) -> list[ReplicaName]:
        """The replicas that are meant, by partition.

        Args:
            partition: only this one.
            node_id: only those on this broker.
            leaders_only: one of each partition where no broker is named: the leader's, or the
                preferred replica while nobody leads.

        Raises:
            CommandError: there is none.
        """
        path = path_of(routes.TOPIC, topic=self.topic)
        topic = self._ask("GET", path).decoded(TopicDescription)
        found = []
        for each in topic.partitions:
            if partition in (None, each.partition):
                node_ids = each.replicas
                if leaders_only and node_id is None:
                    node_ids = [each.leader or each.replicas[0]]
                found += [ReplicaName(each.partition, n) for n in node_ids if node_id in (None, n)]
        if not found:
            where = "" if node_id is None else f" on broker {node_id}"
            number = "" if partition is None else f"-{partition}"
            raise CommandError(
                f"there is no replica of {self.topic}{number}{where}",
                code="UNKNOWN_TOPIC_OR_PARTITION",
                exit_code=ExitCode.NOT_FOUND,
            )
        return sorted(found, key=lambda name: (name.partition, name.node_id))

    def list_segments(self, name: ReplicaName) -> Iterator[SegmentList]:
        """What one replica holds, in parts; none where it cannot be asked."""
        path = path_of(routes.PARTITION_SEGMENTS, topic=self.topic, partition=name.partition)
        start: int | None = 0
        while start is not None:
            query = {"replica": name.node_id, "from": start, "max_segments": 1_000}
            part = self._part(name, SegmentList, "GET", path, query=query)
            if part is None:
                return
            yield part
            start = part.next_offset

    def verify(self, name: ReplicaName) -> Iterator[VerifiedSegment]:
        """Verify one replica; a segment comes once for each part of it; none where it fails."""
        path = path_of(routes.PARTITION_SEGMENTS_VERIFY, topic=self.topic, partition=name.partition)
        start: int | None = None
        while True:
            body = msgspec.json.encode({"replica": name.node_id, "offset": start})
            part = self._part(name, SegmentVerificationPart, "POST", path, body=body)
            if part is None:
                return
            yield from part.segments
            start = part.next_offset
            if start is None:
                return

    def dump(
        self, name: ReplicaName, first: int | None, last: int | None, *, decode: bool
    ) -> Iterator[DumpedBatch]:
        """The batches of one replica below the high watermark that it knows.

        Args:
            name: the replica.
            first: from the batch with this offset on.
            last: up to the batch with this offset.
            decode: the records of each batch too.

        Raises:
            CommandError: it cannot be asked.
            OttlaError: what it has is damaged.
        """
        path = path_of(routes.PARTITION_SEGMENTS, topic=self.topic, partition=name.partition)
        query = {"replica": name.node_id, "max_segments": 1}
        bounds = self._ask("GET", path, query=query).decoded(SegmentList)
        offset = max(first or 0, bounds.log_start_offset)
        end = bounds.high_watermark if last is None else min(bounds.high_watermark, last + 1)
        direct = HttpConnection(self._url_of(name.node_id))
        try:
            while offset < end:
                batches = self._fetch(direct, name, offset)
                for data in batches:
                    header = validate_batch(data, on_append=False)
                    if header.base_offset >= end:
                        return
                    records = None
                    if decode:
                        records = tuple(
                            decode_validated_batch(
                                data, header, max_inflated_bytes=INFLATED_BYTES_MAX
                            )
                        )
                    yield DumpedBatch(
                        self.topic,
                        name.partition,
                        None,
                        header,
                        marker_of(data, header),
                        None,
                        records,
                    )
                    offset = header.last_offset + 1
                if not batches:
                    # Only offsets that compaction has taken are left.
                    return
        finally:
            direct.close()

    def _part(
        self, name: ReplicaName, kind: type[T], method: str, path: str, **options: Any
    ) -> T | None:
        """An answer about a replica; None, and a failure noted, where there is none."""
        for failed, error in self.failures:
            if failed.node_id == name.node_id and error.retriable:
                # Its broker was tried for long enough.
                self.failures.append((name, error))
                return None
        try:
            return self._ask(method, path, **options).decoded(kind)
        except CommandError as error:
            self.failures.append((name, error))
            return None

    def _fetch(self, direct: HttpConnection, name: ReplicaName, offset: int) -> list[memoryview]:
        wanted = PartitionToFetch(self.topic, name.partition, offset, FETCHED_BYTES)
        request = BinaryFetchRequest([wanted], max_wait_ms=0, min_bytes=0, replica="local")
        answer = self._ask(
            "POST",
            routes.FETCH,
            connection=direct,
            body=msgspec.msgpack.encode(request),
            headers={"Content-Type": routes.MSGPACK},
        )
        [found] = msgspec.msgpack.decode(answer.body, type=BinaryFetchResponse).partitions
        if found.error is not None:
            raise error_from_problem(found.error)
        return found.batches

    def _url_of(self, node_id: int) -> str:
        brokers = self._ask("GET", routes.BROKERS).decoded(BrokerList).brokers
        return next(broker.url for broker in brokers if broker.id == node_id)

    def _ask(
        self, method: str, path: str, *, connection: HttpConnection | None = None, **options: Any
    ) -> Answer:
        asked = connection or self.connection
        return asked.retry(
            lambda: asked.request(
                method, path, answer_timeout_s=ANSWER_TIMEOUT_S, repeatable=True, **options
            ),
            timeout_s=self.timeout_s,
        )

    def raise_failures(self) -> None:
        """Fail where a replica could not be asked.

        Raises:
            CommandError: with the first reason.
        """
        if not self.failures:
            return
        name, error = self.failures[0]
        raise CommandError(
            f"{counted(len(self.failures), 'replica')} could not be looked into; "
            f"{self.topic}-{name.partition} on broker {name.node_id}: {error.message}",
            code=error.code,
            exit_code=error.exit_code,
            retriable=error.retriable,
        )
