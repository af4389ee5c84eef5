"""What the segments of a replica hold, and whether they are sound, wherever the replica is.

Both are answered in parts of a few seconds at most. A verification reads no faster than
VERIFY_BYTES_PER_SECOND, in the log's own small steps, and only a few run on a broker at a time, so
that whoever writes and reads goes on.
"""

import asyncio
from typing import Final, TypeVar

import msgspec

from ottla_broker.drivers.clock import monotonic_ms
from ottla_broker.drivers.metadata import MetadataCache
from ottla_broker.drivers.partition import Partition
from ottla_broker.drivers.peer_client import (
    PeerClient,
    PeerUnavailableError,
    Purpose,
    not_an_answer,
)
from ottla_broker.drivers.peer_messages import SegmentListCall, SegmentVerificationCall, encode
from ottla_broker.drivers.purgatory import Purgatory
from ottla_broker.drivers.racing import Unless
from ottla_broker.drivers.replica_manager import ReplicaManager
from ottla_broker.services.topics import TopicService
from ottla_broker.storage.log_inspection import SegmentContent, VerifiedStep
from ottla_broker.storage.segment_pages import FINDINGS_MAX
from ottla_cluster.controller.image import Partition as PartitionState
from ottla_protocol import routes
from ottla_protocol.errors import (
    InvalidRequestError,
    LeaderNotAvailableError,
    OverloadedError,
    UnavailableError,
    UnknownTopicIdError,
)
from ottla_protocol.models_segments import (
    SegmentDescription,
    SegmentFinding,
    SegmentList,
    SegmentState,
    SegmentVerificationPart,
    VerifiedSegment,
)

PART_MS: Final = 3_000
"""After so long an answer leaves with what it has."""

PEER_TIMEOUT_MS: Final = 30_000
"""How long another broker may take: its disk may be slow, and one segment is counted as a whole."""

VERIFY_BYTES_PER_SECOND: Final = 64 << 20
"""How fast one verification reads: a fraction of what a disk gives."""

VERIFICATIONS_MAX: Final = 2
"""How many run on this broker at a time."""

AnswerT = TypeVar("AnswerT")


class SegmentInspectionService:
    """Serves `…/segments` and `…/segments/verify`."""

    def __init__(
        self,
        *,
        node_id: int,
        metadata: MetadataCache,
        topics: TopicService,
        replicas: ReplicaManager,
        peers: PeerClient,
        purgatory: Purgatory,
    ) -> None:
        self._node_id = node_id
        self._metadata = metadata
        self._topics = topics
        self._replicas = replicas
        self._peers = peers
        self._purgatory = purgatory
        self._verifying = 0

    async def list_segments(
        self, topic: str, partition: int, replica: int | None, *, from_offset: int, limit: int
    ) -> SegmentList:
        """The segments of one replica, from the first that ends above `from_offset` on.

        Args:
            topic: whose.
            partition: its number.
            replica: the broker that has it; the leader where it is None.
            from_offset: what `next_offset` of the part before said; 0 for the first.
            limit: most segments of one answer; there are fewer where it takes long.

        Raises:
            UnknownTopicOrPartitionError: there is no such partition.
            InvalidRequestError: that broker has no replica of it.
            UnavailableError: the replica's broker cannot be asked now.
            StorageError: a file is out of reach.
        """
        state, replica = await self._find(topic, partition, replica)
        call = SegmentListCall(state.topic_id, partition, from_offset, limit)
        if replica == self._node_id:
            return await self.list_here(call)
        return await self._ask(replica, routes.INTERNAL_SEGMENTS, encode(call), SegmentList)

    async def verify(
        self, topic: str, partition: int, replica: int | None, *, offset: int, max_bytes: int
    ) -> SegmentVerificationPart:
        """Verify a part of one replica; arguments and errors as above.

        Raises:
            OverloadedError: VERIFICATIONS_MAX run at that broker already.
        """
        state, replica = await self._find(topic, partition, replica)
        call = SegmentVerificationCall(state.topic_id, partition, offset, max_bytes)
        if replica == self._node_id:
            return await self.verify_here(call)
        path = routes.INTERNAL_VERIFY_SEGMENTS
        return await self._ask(replica, path, encode(call), SegmentVerificationPart)

    async def list_here(self, call: SegmentListCall) -> SegmentList:
        """As `list_segments`, of the replica on this broker."""
        hosted = self._hosted(call)
        inspector = hosted.log.inspector
        started_ms = monotonic_ms()
        found: list[SegmentDescription] = []
        bases = inspector.base_offsets()
        # The segment that holds `from_offset` is the last that does not begin above it.
        first = max((i for i, base in enumerate(bases) if base <= call.from_offset), default=0)
        next_offset = None
        for base_offset in bases[first:]:
            if found and (len(found) >= call.limit or monotonic_ms() - started_ms >= PART_MS):
                next_offset = base_offset
                break
            content = await inspector.describe(base_offset)
            if content is not None:
                found.append(_described(hosted, content))
        if next_offset is None:
            found += await asyncio.to_thread(_put_aside, hosted)
        return SegmentList(
            topic=hosted.state.topic,
            partition=hosted.state.partition,
            replica=self._node_id,
            role="leader" if hosted.leader else "follower" if hosted.follower else "none",
            log_start_offset=hosted.log.log_start_offset,
            log_end_offset=hosted.log.log_end_offset,
            high_watermark=hosted.high_watermark,
            segments=found,
            next_offset=next_offset,
        )

    async def verify_here(self, call: SegmentVerificationCall) -> SegmentVerificationPart:
        """As `verify`, of the replica on this broker."""
        hosted = self._hosted(call)
        if self._verifying >= VERIFICATIONS_MAX:
            raise OverloadedError(
                f"{VERIFICATIONS_MAX} verifications are under way on broker {self._node_id}",
                retry_after_seconds=1,
            )
        self._verifying += 1
        try:
            with self._purgatory.unless_released():
                return await self._verify_part(hosted, call)
        finally:
            self._verifying -= 1

    def _hosted(self, call: SegmentListCall | SegmentVerificationCall) -> Partition:
        try:
            return self._replicas.by_topic_id(call.topic_id, call.partition)
        except UnknownTopicIdError as error:
            raise UnavailableError(
                f"broker {self._node_id} has not opened its replica yet, or no longer has it"
            ) from error

    async def _verify_part(
        self, hosted: Partition, call: SegmentVerificationCall
    ) -> SegmentVerificationPart:
        started_ms = monotonic_ms()
        part = _Part(hosted)
        next_offset: int | None = call.offset
        while next_offset is not None:
            step = await hosted.log.inspector.verify(next_offset)
            next_offset = part.add(step)
            elapsed_ms = monotonic_ms() - started_ms
            if part.read_bytes >= call.max_bytes or elapsed_ms >= PART_MS:
                break
            ahead_ms = part.read_bytes * 1000 // VERIFY_BYTES_PER_SECOND - elapsed_ms
            await asyncio.sleep(max(0, ahead_ms) / 1000)
        return SegmentVerificationPart(
            topic=hosted.state.topic,
            partition=hosted.state.partition,
            replica=self._node_id,
            segments=part.segments,
            verified_bytes=part.read_bytes,
            next_offset=next_offset,
        )

    async def _find(
        self, topic: str, partition: int, replica: int | None
    ) -> tuple[PartitionState, int]:
        """The partition, and which broker to ask."""
        state = await self._topics.find_partition(topic, partition)
        if replica is None:
            replica = state.leader
        if replica is None:
            raise LeaderNotAvailableError(
                f"{topic}-{partition} has no leader at this moment; `replica` names another"
            )
        if replica not in state.replicas:
            raise InvalidRequestError(
                f"broker {replica} has no replica of {topic}-{partition}, but "
                f"{', '.join(map(str, state.replicas))}",
                parameter="replica",
                replicas=list(state.replicas),
            )
        return state, replica

    async def _ask(self, replica: int, path: str, body: bytes, answer: type[AnswerT]) -> AnswerT:
        registration = self._metadata.image.brokers.get(replica)
        if registration is None:
            raise UnavailableError(f"broker {replica} is not registered")
        try:
            with (
                self._purgatory.unless_released(),
                Unless(
                    self._metadata.replacement_of(replica, registration.broker_epoch),
                    UnavailableError(f"broker {replica} is fenced: it does not answer"),
                ),
            ):
                received = await self._peers.post(
                    registration.url,
                    path,
                    body,
                    timeout_ms=PEER_TIMEOUT_MS,
                    purpose=Purpose.PARKED,
                )
        except PeerUnavailableError as error:
            raise UnavailableError(f"broker {replica} cannot be asked: {error.detail}") from error
        try:
            return msgspec.msgpack.decode(received, type=answer)
        except msgspec.MsgspecError as error:
            raise not_an_answer(registration.url, path, error) from error


class _Part:
    """Gathers steps into an answer: what is read of one segment is one entry."""

    def __init__(self, hosted: Partition) -> None:
        self.segments: list[VerifiedSegment] = []
        self.read_bytes = 0
        self._hosted = hosted

    def add(self, step: VerifiedStep) -> int | None:
        """Take a step; where the next one begins, None when there is none."""
        self.read_bytes += step.read_bytes
        verified = step.segment
        file = _file(self._hosted, verified.path.name)
        findings = [SegmentFinding(file, found.offset, found.reason) for found in verified.findings]
        last = self.segments[-1] if self.segments else None
        if last is not None and last.file == file:
            self.segments.pop()
        else:
            last = None
        findings = (last.findings if last else []) + findings
        gives_up = len(findings) >= FINDINGS_MAX
        self.segments.append(
            VerifiedSegment(
                file=file,
                sealed=verified.sealed,
                base_offset=verified.base_offset,
                from_offset=last.from_offset if last else step.from_offset,
                end_offset=verified.end_offset,
                batches=verified.batches + (last.batches if last else 0),
                records=verified.records + (last.records if last else 0),
                findings=findings,
                is_complete=verified.is_complete and not gives_up,
            )
        )
        if gives_up and step.next_offset is not None:
            return step.segment_end
        return step.next_offset


def _described(hosted: Partition, content: SegmentContent) -> SegmentDescription:
    state: SegmentState = "sealed" if content.sealed else "active"
    return SegmentDescription(
        file=_file(hosted, content.path.name),
        state="unreadable" if content.unreadable else state,
        base_offset=content.base_offset,
        end_offset=content.end_offset,
        size_bytes=content.size_bytes,
        batches=content.batches,
        records=content.records,
        first_timestamp=content.first_timestamp,
        last_timestamp=content.last_timestamp,
        leader_epoch=content.leader_epoch,
        aborted_transactions=content.aborted_transactions,
    )


def _put_aside(hosted: Partition) -> list[SegmentDescription]:
    return [
        SegmentDescription(
            file=_file(hosted, path.name),
            state="put-aside",
            base_offset=base_offset,
            end_offset=None,
            size_bytes=size_bytes,
            batches=0,
            records=0,
            first_timestamp=None,
            last_timestamp=None,
            leader_epoch=None,
        )
        for path, base_offset, size_bytes in hosted.log.inspector.put_aside()
    ]


def _file(hosted: Partition, name: str) -> str:
    return f"{hosted.log.directory.name}/{name}"
