"""What a leader answers to its followers."""

import asyncio
from collections.abc import Sequence
from random import Random

from ottla_broker.drivers.clock import monotonic_ms
from ottla_broker.drivers.partition import Partition
from ottla_broker.drivers.peer_messages import (
    FetchResult,
    LogEnds,
    PartitionFetch,
    PartitionName,
    ReplicaFetchRequest,
    ReplicaLogEnd,
    ReplicatedBatch,
)
from ottla_broker.drivers.purgatory import Purgatory
from ottla_broker.drivers.replica_copies import ReplicaCopies
from ottla_broker.drivers.replica_manager import ReplicaManager
from ottla_broker.services.reading import ReplicaRead, poll
from ottla_broker.services.replica_sessions import ReplicaSession, SessionKey, SessionRead
from ottla_broker.telemetry import METRICS
from ottla_cluster.replication.fetch_session import (
    MAX_FETCH_SESSIONS,
    NO_SESSION,
    NO_SESSION_EPOCH,
    FetchSessions,
    LeaderSession,
)
from ottla_cluster.replication.follower import check_divergence
from ottla_cluster.replication.leader_epochs import EpochEnd
from ottla_protocol.errors import FetchSessionIdNotFoundError, OttlaError

MAX_FETCH_BYTES = 64 << 20
MAX_WAIT_MS = 5_000

GATHER_MS = 5
"""How long an answer under load waits for more to carry."""

GATHER_PARKED_ACKS = 2
"""From how many requests that wait for an ack a broker is busy: one client alone never waits."""

GATHER_BYTES = 256 << 10
"""An answer this large is worth its round already."""


class ReplicationService:
    """Serves `/internal/fetch`.

    Args:
        replicas: the hosted replicas.
        purgatory: where fetches wait.
        copies: what is sent to replicas that are being added.
        random: for session ids.
    """

    def __init__(
        self,
        replicas: ReplicaManager,
        purgatory: Purgatory,
        copies: ReplicaCopies,
        random: Random,
    ) -> None:
        self._replicas = replicas
        self._copies = copies
        self._purgatory = purgatory
        self._sessions: FetchSessions[SessionKey, SessionRead] = FetchSessions(random)
        self._open: dict[int, ReplicaSession] = {}

    async def fetch(self, request: ReplicaFetchRequest) -> tuple[int | None, list[FetchResult]]:
        """Acknowledge what the follower holds, then give it what follows, or wait for it.

        Returns:
            The id of the fetch session (NO_SESSION where there is no room for one, None for a
            follower that asks for none), and the results.

        Raises:
            LeaderNotAvailableError: a session's fetch came while this broker may not lead.
            FetchSessionIdNotFoundError, InvalidFetchSessionEpochError: the next must be a full one.
            StaleBrokerEpochError: a newer incarnation of the follower has a session.
        """
        if request.session_epoch == NO_SESSION_EPOCH:
            METRICS.replica_fetches.labels("full").inc()
            return None, await self._fetch_all(request)
        # As for each partition of a full fetch; nothing is learned of the followers meanwhile.
        self._replicas.require_lease()
        session = self._session(request)
        if session is None:
            return NO_SESSION, await self._fetch_all(request)
        return session.session.session_id, await self._fetch_changed(request, session)

    @property
    def session_places(self) -> tuple[int, int]:
        """How many fetch sessions there are, and may be."""
        return len(self._sessions), MAX_FETCH_SESSIONS

    # --- in a session -----------------------------------------------------------------------

    def _session(self, request: ReplicaFetchRequest) -> ReplicaSession | None:
        """The session that the fetch belongs to, or begins; None where there is no room for it."""
        if request.session_id != NO_SESSION:
            METRICS.replica_fetches.labels("incremental").inc()
            known = self._sessions.resume(
                request.session_id,
                request.session_epoch,
                request.replica_id,
                request.broker_epoch,
            )
            return self._open[known.session_id]
        METRICS.replica_fetches.labels("full").inc()
        begun, ended = self._sessions.begin(
            request.replica_id, request.broker_epoch, monotonic_ms()
        )
        for former in ended:
            self._open.pop(former.session_id).close()
        METRICS.fetch_sessions.set(len(self._sessions))
        return None if begun is None else self._opened(begun)

    def _opened(self, begun: LeaderSession[SessionKey, SessionRead]) -> ReplicaSession:
        session = self._open[begun.session_id] = ReplicaSession(begun)
        return session

    async def _fetch_changed(
        self, request: ReplicaFetchRequest, session: ReplicaSession
    ) -> list[FetchResult]:
        session.drop((topic_id, partition) for topic_id, partition in request.forgotten)
        answered: list[FetchResult] = []
        for position in request.positions:
            try:
                begun = self._begin(request, position)
            except OttlaError as error:
                begun = _failed(position.topic_id, position.partition, error)
            if isinstance(begun, FetchResult):
                answered.append(begun)
                session.drop([(begun.topic_id, begun.partition)])
            else:
                session.put(begun)
        session.fetched()
        max_bytes = min(request.max_bytes, MAX_FETCH_BYTES)
        found = await self._wait(
            session, max_bytes, 0 if answered else min(request.max_wait_ms, MAX_WAIT_MS)
        )
        found = await self._gather_in(session, found, max_bytes)
        if session.session.is_over:
            raise FetchSessionIdNotFoundError("the fetch session ended while a fetch waited in it")
        METRICS.fetched_bytes.labels("replica").inc(sum(one.read.size_bytes for one in found))
        answered.extend([self._tell(session, one) for one in found])
        # Taken after those were told, whose news went with them.
        answered.extend([self._tell(session, one) for one in session.take_news()])
        return answered

    async def _wait(
        self, session: ReplicaSession, max_bytes: int, max_wait_ms: int
    ) -> list[SessionRead]:
        """What is found at once, or before the time is up."""
        deadline_ms = monotonic_ms() + max_wait_ms
        while True:
            session.changed.clear()
            found = await session.look(max_bytes)
            remaining_ms = deadline_ms - monotonic_ms()
            if found or remaining_ms <= 0 or session.session.is_over:
                return found
            with self._purgatory.parked_request(for_client=False):
                try:
                    async with asyncio.timeout(remaining_ms / 1000):
                        await session.changed.wait()
                except TimeoutError:
                    return []

    async def _gather_in(
        self, session: ReplicaSession, found: list[SessionRead], max_bytes: int
    ) -> list[SessionRead]:
        if not self._is_worth_gathering(sum(one.read.size_bytes for one in found)):
            return found
        await asyncio.sleep(GATHER_MS / 1000)
        return await session.look(max_bytes)

    def _tell(self, session: ReplicaSession, one: SessionRead) -> FetchResult:
        told = one.state_to_tell
        result = _result(one.read)
        if result.leaves_session(one.read.offset):
            session.drop([one.partition.key])
        else:
            one.told = told
            # Not held on to: the follower may take its time.
            one.read.batches = ()
        return result

    # --- all that is followed here, each time -----------------------------------------------

    async def _fetch_all(self, request: ReplicaFetchRequest) -> list[FetchResult]:
        answered: list[FetchResult] = []
        reads: list[ReplicaRead] = []
        for position in request.positions:
            try:
                read = self._begin(request, position)
            except OttlaError as error:
                answered.append(_failed(position.topic_id, position.partition, error))
                continue
            if isinstance(read, FetchResult):
                answered.append(read)
            else:
                reads.append(read)
        # Whoever must hear something else than records hears it at once.
        max_wait_ms = 0 if answered else min(request.max_wait_ms, MAX_WAIT_MS)
        await poll(
            reads,
            min_bytes=request.min_bytes,
            max_bytes=min(request.max_bytes, MAX_FETCH_BYTES),
            max_wait_ms=max_wait_ms,
            purgatory=self._purgatory,
            for_client=False,
        )
        await self._gather(reads)
        answered.extend(_result(read) for read in reads)
        METRICS.fetched_bytes.labels("replica").inc(sum(read.size_bytes for read in reads))
        return answered

    def log_ends(self, partitions: Sequence[PartitionName]) -> LogEnds:
        """Where those of the partitions that this broker has a replica of end durably."""
        found = []
        for name in partitions:
            hosted = self._replicas.partitions.get((name.topic_id, name.partition))
            if hosted is not None:
                end = hosted.log.log_end_offset
                last_epoch = hosted.log.leader_epochs.epoch_at(end - 1)
                found.append(ReplicaLogEnd(name.topic_id, name.partition, last_epoch, end))
        return LogEnds(self._replicas.broker_epoch, found)

    async def _gather(self, reads: Sequence[ReplicaRead]) -> None:
        """Under load, wait a moment for the appends that come with the first one.

        Each answer costs the follower a round of fetch, commit and acknowledgement, whether it
        holds one small batch or twenty. Where nobody else is waiting, nothing is held back.
        """
        if self._is_worth_gathering(sum(read.size_bytes for read in reads)):
            await asyncio.sleep(GATHER_MS / 1000)
            for read in reads:
                await read.look(read.max_bytes)

    def _is_worth_gathering(self, found_bytes: int) -> bool:
        busy = self._purgatory.parked_acks >= GATHER_PARKED_ACKS
        return busy and 0 < found_bytes < GATHER_BYTES

    def _begin(
        self, request: ReplicaFetchRequest, position: PartitionFetch
    ) -> ReplicaRead | FetchResult:
        partition = self._replicas.by_topic_id(position.topic_id, position.partition)
        read = ReplicaRead(
            partition,
            position.offset,
            position.max_bytes,
            position.leader_epoch,
            self._copies.begin(partition, request.replica_id, position.offset),
        )
        read.limit()
        diverging = check_divergence(
            partition.log.leader_epochs,
            partition.log.next_offset,
            position.last_fetched_epoch,
            position.offset,
        )
        if diverging is not None:
            return _answer(partition, diverging=diverging)
        # Only now does the offset acknowledge anything: both logs agree below it.
        partition.follower_fetched(request.replica_id, request.broker_epoch, position.offset)
        if position.offset < partition.log.log_start_offset:
            return _answer(partition)
        return read


def _result(read: ReplicaRead) -> FetchResult:
    partition = read.partition
    try:
        # Once more: the role may have changed while another partition's read waited for the disk.
        read.limit()
    except OttlaError as error:
        return _failed(*partition.key, error)
    if read.error is not None:
        return _failed(*partition.key, read.error)
    if read.copy is not None:
        read.copy.sent(read.size_bytes)
    batches = [ReplicatedBatch(batch.data, batch.idempotency) for batch in read.batches]
    return _answer(partition, batches=batches)


def _answer(
    partition: Partition,
    *,
    diverging: EpochEnd | None = None,
    batches: Sequence[ReplicatedBatch] = (),
) -> FetchResult:
    """With neither a divergence nor batches: the follower begins anew, or has everything."""
    return FetchResult(
        topic_id=partition.state.topic_id,
        partition=partition.state.partition,
        error_code=None,
        high_watermark=partition.high_watermark,
        log_start_offset=partition.log.log_start_offset,
        diverging=None if diverging is None else (diverging.epoch, diverging.end_offset),
        batches=list(batches),
    )


def _failed(topic_id: str, partition: int, error: OttlaError) -> FetchResult:
    return FetchResult(
        topic_id=topic_id,
        partition=partition,
        error_code=error.code,
        high_watermark=-1,
        log_start_offset=-1,
        diverging=None,
        batches=[],
    )
