"""Reads many partitions at once for a client of this broker, each at its leader, wherever it is."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from random import Random
from typing import Any

import msgspec

from ottla_broker.drivers.metadata import MetadataCache
from ottla_broker.drivers.peer_client import PeerClient, Purpose, not_an_answer
from ottla_broker.drivers.purgatory import Purgatory
from ottla_broker.drivers.racing import Unless
from ottla_broker.services.batch_fetch import BatchFetchService
from ottla_broker.telemetry import METRICS
from ottla_cluster.controller.features import CURSOR_EPOCHS, is_enabled
from ottla_protocol import routes
from ottla_protocol.errors import (
    LeaderNotAvailableError,
    OttlaError,
    UnknownTopicOrPartitionError,
    error_from_problem,
)
from ottla_protocol.models import (
    BinaryFetchRequest,
    BinaryFetchResponse,
    FetchedPartition,
    Isolation,
    PartitionToFetch,
)
from ottla_protocol.record_batch import NO_LEADER_EPOCH

TopicPartition = tuple[str, int]
"""A topic's name and a partition's number."""

READ_BYTES = 4 << 20
"""What one leader may answer at a time, save that one batch is always answered."""

ANSWER_TIMEOUT_MS = 2_000
"""How much longer than it may wait a leader may take to answer."""

STRAGGLER_WAIT_MS = 100
"""How long records that are there wait for those of slower leaders."""

PARTITIONS_PER_REQUEST = 1_000
"""A request with so many fits the bound of `/v1/fetch`, however long their topics' names are."""

ASK_AGAIN_INTERVAL_MS = 1_000
"""How often a leader is asked at which nobody may wait any more."""

Results = dict[TopicPartition, FetchedPartition | OttlaError]


class LeaderReads:
    """The way to the leaders of many partitions.

    Args:
        node_id: this broker.
        random: in which order partitions are read, so that none is always the last.
    """

    def __init__(
        self,
        *,
        node_id: int,
        metadata: MetadataCache,
        peers: PeerClient,
        batch_fetch: BatchFetchService,
        purgatory: Purgatory,
        random: Random,
    ) -> None:
        self._node_id = node_id
        self._metadata = metadata
        self._peers = peers
        self._batch_fetch = batch_fetch
        self._purgatory = purgatory
        self._random = random

    async def read(
        self,
        positions: Mapping[TopicPartition, int],
        *,
        max_wait_ms: int,
        topic_ids: Mapping[str, str],
        max_bytes: int = READ_BYTES,
        epochs: Mapping[TopicPartition, int] | None = None,
        isolation: Isolation = "read_uncommitted",
    ) -> Results:
        """What follows at each position, or why it cannot be read.

        With a wait it returns as soon as one leader has something to tell, and leaves out the
        partitions of the others; without one it waits a moment for slower leaders.

        Args:
            positions: where to read, by partition.
            max_wait_ms: how long to wait where there is nothing.
            max_bytes: what one leader may answer, READ_BYTES at most and shared by its partitions,
                save that each may answer one batch until it is reached.
            topic_ids: which topics are meant, by name: leaders are asked by name, and one that
                knows a later topic of that name already would tell the records of that.
            epochs: in which leader epoch each position was reached, where that is known; a leader
                that was elected without all that is before it tells so (LogTruncatedError).
            isolation: with `read_committed` a result may have no batches, and a `next_offset`
                behind its position all the same.
        """
        results: Results = {}
        epochs = {} if epochs is None or not self._has_epochs else epochs
        max_bytes = min(max_bytes, READ_BYTES)
        asked: set[asyncio.Task[Results]] = set()
        by_leader = self._by_leader(positions, epochs, results)
        if results:
            max_wait_ms = 0
        for leader, partitions in by_leader.items():
            for start in range(0, len(partitions), PARTITIONS_PER_REQUEST):
                some = partitions[start : start + PARTITIONS_PER_REQUEST]
                request = _request(some, max_wait_ms, max_bytes, isolation)
                asked.add(asyncio.create_task(self._ask(leader, request, topic_ids)))
        try:
            timeout_s: float | None = None
            while asked:
                done, asked = await asyncio.wait(
                    asked, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED
                )
                for task in done:
                    results.update(task.result())
                if not done or (max_wait_ms > 0 and _is_worth_telling(results, positions)):
                    break
                if _has_records(results):
                    timeout_s = STRAGGLER_WAIT_MS / 1000
        finally:
            await cancel_all(asked)
        return results

    @property
    def _has_epochs(self) -> bool:
        """Whether all leaders take epochs; without, positions are kept without them, too."""
        return is_enabled(self._metadata.image, CURSOR_EPOCHS)

    def _by_leader(
        self,
        positions: Mapping[TopicPartition, int],
        epochs: Mapping[TopicPartition, int],
        results: Results,
    ) -> dict[int, list[PartitionToFetch]]:
        """The positions in random order by leader; those without one have their result now."""
        image = self._metadata.image
        by_leader: dict[int, list[PartitionToFetch]] = {}
        order = list(positions.items())
        self._random.shuffle(order)
        for (topic, number), offset in order:
            try:
                leader = image.partition(topic, number).leader
            except UnknownTopicOrPartitionError as error:
                results[topic, number] = error
                continue
            if leader is None or leader not in image.brokers:
                results[topic, number] = LeaderNotAvailableError(
                    f"{topic}-{number} has no leader at this moment"
                )
            else:
                epoch = epochs.get((topic, number), NO_LEADER_EPOCH)
                wanted = PartitionToFetch(
                    topic,
                    number,
                    offset,
                    last_fetched_epoch=None if epoch == NO_LEADER_EPOCH else epoch,
                )
                by_leader.setdefault(leader, []).append(wanted)
        return by_leader

    async def _ask(
        self,
        leader: int,
        request: BinaryFetchRequest,
        topic_ids: Mapping[str, str],
    ) -> Results:
        answers: Sequence[FetchedPartition | OttlaError]
        try:
            if leader == self._node_id:
                answers = await self._batch_fetch.fetch(request)
            else:
                answers = await self._ask_peer(leader, request)
        except OttlaError as error:
            answers = [error] * len(request.partitions)
        has_epochs = self._has_epochs
        return {
            (asked.topic, asked.partition): _as_told(
                answer, topic_ids[asked.topic], has_epochs=has_epochs
            )
            for asked, answer in zip(request.partitions, answers, strict=True)
        }

    async def _ask_peer(
        self, leader: int, request: BinaryFetchRequest
    ) -> list[FetchedPartition | OttlaError]:
        registration = self._metadata.image.brokers.get(leader)
        if registration is None:
            raise LeaderNotAvailableError(f"broker {leader} is not registered any more")
        url = registration.url
        if request.max_wait_ms and not self._peers.may_park(url):
            await asyncio.sleep(min(request.max_wait_ms, ASK_AGAIN_INTERVAL_MS) / 1000)
            request = msgspec.structs.replace(request, max_wait_ms=0)
        purpose = Purpose.PARKED if request.max_wait_ms > 0 else Purpose.CLIENT
        kind = "parked" if purpose is Purpose.PARKED else "read"
        try:
            with (
                METRICS.forward_seconds.labels(kind).time(),
                self._purgatory.unless_released(),
                Unless(
                    self._metadata.replacement_of(leader, registration.broker_epoch),
                    LeaderNotAvailableError(f"broker {leader} was fenced before it answered"),
                ),
            ):
                body = await self._peers.post(
                    url,
                    routes.FETCH,
                    msgspec.msgpack.encode(request),
                    timeout_ms=request.max_wait_ms + ANSWER_TIMEOUT_MS,
                    purpose=purpose,
                )
        except OttlaError as error:
            METRICS.forwarded_requests.labels("read", error.code).inc()
            raise
        METRICS.forwarded_requests.labels("read", "ok").inc()
        try:
            partitions = msgspec.msgpack.decode(body, type=BinaryFetchResponse).partitions
        except msgspec.MsgspecError as error:
            raise not_an_answer(url, routes.FETCH, error) from error
        return [
            found if found.error is None else error_from_problem(found.error)
            for found in partitions
        ]


def _request(
    partitions: Sequence[PartitionToFetch], max_wait_ms: int, max_bytes: int, isolation: Isolation
) -> BinaryFetchRequest:
    share_bytes = -(-max_bytes // len(partitions))
    return BinaryFetchRequest(
        [msgspec.structs.replace(each, max_bytes=share_bytes) for each in partitions],
        max_wait_ms=max_wait_ms,
        max_bytes=max_bytes,
        isolation=isolation,
    )


def _as_told(
    answer: FetchedPartition | OttlaError, topic_id: str, *, has_epochs: bool
) -> FetchedPartition | OttlaError:
    """The answer, if it is of that topic; without an epoch that others would not understand."""
    if isinstance(answer, OttlaError):
        return answer
    if answer.topic_id in {None, topic_id}:
        return answer if has_epochs else msgspec.structs.replace(answer, leader_epoch=None)
    return UnknownTopicOrPartitionError(
        f"the topic '{answer.topic}' is not the one that is read: one of them was deleted, and its "
        "name given to the other"
    )


def _is_worth_telling(results: Results, positions: Mapping[TopicPartition, int]) -> bool:
    return any(
        isinstance(found, OttlaError)
        or found.batches
        or (found.next_offset is not None and found.next_offset > positions[key])
        for key, found in results.items()
    )


def _has_records(results: Results) -> bool:
    return any(not isinstance(found, OttlaError) and found.batches for found in results.values())


async def cancel_all(tasks: "Iterable[asyncio.Task[Any]]") -> None:
    """End tasks whose results nobody wants any more."""
    ended = tuple(tasks)
    for task in ended:
        task.cancel()
    await asyncio.gather(*ended, return_exceptions=True)
