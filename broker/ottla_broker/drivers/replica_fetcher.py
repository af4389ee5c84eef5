"""One loop per leader broker: everything that this broker follows there, in one long-poll.

The order of the steps is the guarantee. A fetch acknowledges all below its offset, so it is sent
only after those batches are committed and fsynced here; and it carries the epoch of the last batch,
so that the leader can tell whether both logs agree before it counts the acknowledgement (KIP-595).
A diverging follower truncates by epoch, never to a high watermark (KIP-101), and asks again.

A commit that takes long (large batches, a disk that is slow at this moment) is no business of the
other partitions that are led there. So after a moment the loop goes on without its partition: it
asks for the others, waits at the leader only briefly, and names the partition again once its commit
has ended (decision 58).

A fetch says only what changed since the one before it, in a fetch session
(`ottla_cluster.replication.fetch_session`). A fetch that fails, or is given up because another
partition is to be followed at once, ends the session: the next one says everything.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

import structlog

from ottla_broker.drivers.clock import monotonic_ms
from ottla_broker.drivers.critical_task import CriticalTask
from ottla_broker.drivers.disk_space import DiskRoom
from ottla_broker.drivers.partition import Partition
from ottla_broker.drivers.peer_client import (
    PeerClient,
    PeerUnavailableError,
    Purpose,
    not_an_answer,
)
from ottla_broker.drivers.peer_messages import (
    FetchResult,
    PartitionFetch,
    ReplicaFetchRequest,
    decode_fetch_answer,
    encode,
)
from ottla_broker.drivers.pinned_answers import unpinned
from ottla_broker.drivers.racing import Unless
from ottla_broker.drivers.replica_commits import PartitionKey, ReplicaCommits
from ottla_broker.storage.disk_full import DiskFullError
from ottla_broker.telemetry import METRICS
from ottla_cluster.controller.topic_names import is_internal
from ottla_cluster.replication.fetch_session import NO_SESSION, FollowerSession, SessionFetch
from ottla_cluster.replication.follower import FetchPosition
from ottla_protocol import routes
from ottla_protocol.errors import (
    CorruptMessageError,
    FetchSessionIdNotFoundError,
    InsufficientStorageError,
    InvalidFetchSessionEpochError,
    LeaderNotAvailableError,
    OttlaError,
    StorageError,
)
from ottla_protocol.record_batch import record_count

MAX_WAIT_MS = 500
"""How long a leader parks a fetch that finds nothing; also how late a quiet high watermark is."""

FETCH_TIMEOUT_MS = 10_000
"""A leader that does not answer a parked fetch for this long counts as gone silent."""

MAX_FETCH_BYTES = 16 << 20
MAX_PARTITION_FETCH_BYTES = 4 << 20
RETRY_BACKOFF_MS = 50
"""After a refused connection or a partition's error: short, because a failover ends it."""

NO_ROOM_BACKOFF_MS = 1_000
"""How long a partition waits whose batches found no room here."""

COMMIT_WAIT_MS = 10
"""How long the commits of an answer are waited for before the next fetch leaves without them."""

COMMITTING_FETCH_MS = 5
"""How long a leader parks a fetch that finds nothing while commits are under way here: how late a
commit that ends meanwhile is acknowledged."""

NO_ROOM_FETCH_BYTES = 1
"""What is asked for without room: as little as a leader can give. What is here is acknowledged all
the same, and high watermarks are heard of."""

log = structlog.get_logger()


class _InterruptedError(Exception):
    """The set of partitions changed."""


@dataclass(slots=True)
class _Followed:
    partition: Partition
    # Monotonic time before which the partition is left out of fetches, after an error.
    not_before_ms: int = 0

    def position(self, max_bytes: int) -> PartitionFetch | None:
        """What to ask for; None while there is no leader to ask."""
        follower = self.partition.follower
        if follower is None:
            return None
        position = follower.fetch_position
        topic_id, number = self.partition.key
        return PartitionFetch(
            topic_id=topic_id,
            partition=number,
            leader_epoch=position.leader_epoch,
            offset=position.offset,
            last_fetched_epoch=position.last_fetched_epoch,
            max_bytes=max_bytes,
        )


class ReplicaFetcher:
    """Fetches from one leader broker.

    Args:
        leader_id: the broker that leads everything followed here.
        leader_url: current URL of that broker, or None when it is not registered.
        broker_epoch: this broker's present epoch.
        disk: the room for what is fetched.
        on_refused: called when the leader's connection is refused: its process is gone.
        on_failure: a log or this loop failed; the process must stop.
    """

    def __init__(
        self,
        *,
        node_id: int,
        leader_id: int,
        peers: PeerClient,
        leader_url: Callable[[], str | None],
        broker_epoch: Callable[[], int],
        disk: DiskRoom,
        on_refused: Callable[[int], None],
        on_failure: Callable[[OttlaError], None],
    ) -> None:
        self.leader_id = leader_id
        self._node_id = node_id
        self._peers = peers
        self._leader_url = leader_url
        self._broker_epoch = broker_epoch
        self._disk = disk
        self._on_refused = on_refused
        self._on_failure = on_failure
        self._followed: dict[PartitionKey, _Followed] = {}
        self._session: FollowerSession[PartitionKey, PartitionFetch] = FollowerSession()
        # Those that wait out an error.
        self._held_back: set[PartitionKey] = set()
        # Nothing is asked for the partitions in here.
        self._commits = ReplicaCommits()
        self._max_bytes = MAX_PARTITION_FETCH_BYTES
        # Held while an answer is taken into the logs, so that nobody changes a role under it.
        self._processing = asyncio.Lock()
        self._changed = asyncio.Event()
        self._task: CriticalTask | None = None
        # Set while a fetch is parked at the leader: ends it.
        self._interruption: asyncio.Future[None] | None = None
        self._turn = 0

    def start(self) -> None:
        """Begin the loop."""
        self._task = CriticalTask(
            self._run(), name=f"replica-fetcher-{self.leader_id}", on_failure=self._on_failure
        )

    async def stop(self) -> None:
        """End the loop; what was fetched already is committed first."""
        async with self._processing:
            for key in tuple(self._followed):
                await self._finish_commit(key)
            self._followed.clear()
            self._held_back.clear()
        if self._task is not None:
            await self._task.stop()

    def add(self, partition: Partition, *, is_urgent: bool = True) -> None:
        """Follow `partition` here from now on.

        Args:
            partition: a follower, of this fetcher's leader.
            is_urgent: give a parked fetch up for it, which ends the session. Else the next fetch
                names it, MAX_WAIT_MS later at most, and costs the others nothing.
        """
        self._followed[partition.key] = _Followed(partition)
        self._held_back.discard(partition.key)
        self._ask(partition.key)
        if is_urgent:
            self._interrupt()
        else:
            self._changed.set()

    async def remove(self, key: PartitionKey) -> None:
        """Stop following; on return nothing more will be appended for it from here.

        What was taken for it is committed by then, or given up for want of room.
        """
        async with self._processing:
            await self._finish_commit(key)
            self._followed.pop(key, None)
            self._held_back.discard(key)
            # A fetch that is under way goes on: what it brings for this partition is dropped.
            self._session.forget(key)

    def follows(self, key: PartitionKey) -> bool:
        """Whether the partition is followed here."""
        return key in self._followed

    @property
    def is_idle(self) -> bool:
        """Whether nothing is followed here."""
        return not self._followed

    async def _run(self) -> None:
        while True:
            self._changed.clear()
            self._ask_again()
            await self._end_commits()
            if self._waits_for_commits:
                continue
            url = self._leader_url()
            if self._session.is_empty or url is None:
                await self._pause(RETRY_BACKOFF_MS if self._followed else None)
                continue
            fetch = self._session.next_fetch()
            asked_ms = monotonic_ms()
            try:
                answer = await self._poll(url, self._request(fetch))
            except PeerUnavailableError as error:
                self._session.lost()
                if error.refused:
                    self._on_refused(self.leader_id)
                await self._pause(RETRY_BACKOFF_MS)
                continue
            except LeaderNotAvailableError:
                # Said before anything of the fetch was taken. It ends with the leader's lease.
                self._session.refused()
                await self._pause(RETRY_BACKOFF_MS)
                continue
            except OttlaError as error:
                self._session.lost()
                await self._refused(fetch, error)
                continue
            if answer is None:
                self._session.lost()
                continue
            session_id, results = answer
            answered_ms = monotonic_ms()
            METRICS.replica_fetch_seconds.observe((answered_ms - asked_ms) / 1000)
            async with self._processing:
                await self._take(results, answered_ms)
                self._session.answered(session_id)

    async def _refused(
        self, fetch: SessionFetch[PartitionKey, PartitionFetch], error: OttlaError
    ) -> None:
        session_ended = isinstance(
            error, (FetchSessionIdNotFoundError, InvalidFetchSessionEpochError)
        )
        if session_ended and fetch.session_id != NO_SESSION:
            # The leader was restarted, or has given the place away: begin again at once.
            return
        log.warning("replica_fetch_refused", leader=self.leader_id, code=error.code)
        await self._pause(RETRY_BACKOFF_MS)

    async def _pause(self, pause_ms: int | None) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(None if pause_ms is None else pause_ms / 1000):
                await self._changed.wait()

    def _ask(self, key: PartitionKey) -> None:
        """Have the next fetch ask for a partition from where its log ends now."""
        followed = self._followed.get(key)
        position = None if followed is None else followed.position(self._max_bytes)
        if position is None or key in self._held_back or key in self._commits:
            self._session.forget(key)
        else:
            self._session.want(key, position)

    def _ask_again(self) -> None:
        """Take up those that have waited out their errors; ask for as much as there is room for."""
        now_ms = monotonic_ms()
        for key in tuple(self._held_back):
            if self._followed[key].not_before_ms <= now_ms:
                self._held_back.discard(key)
                self._ask(key)
        max_bytes = NO_ROOM_FETCH_BYTES if self._disk.is_full else MAX_PARTITION_FETCH_BYTES
        if max_bytes != self._max_bytes:
            self._max_bytes = max_bytes
            for key in self._followed:
                self._ask(key)

    def _request(self, fetch: SessionFetch[PartitionKey, PartitionFetch]) -> ReplicaFetchRequest:
        positions = list(fetch.positions.values())
        if fetch.session_id == NO_SESSION and positions:
            # Without a session the leader fills MAX_FETCH_BYTES in this order: each partition comes
            # first in its turn.
            self._turn = (self._turn + 1) % len(positions)
            positions = positions[self._turn :] + positions[: self._turn]
        max_wait_ms = MAX_WAIT_MS
        if self._commits:
            max_wait_ms = COMMITTING_FETCH_MS
        elif self._held_back:
            # A partition that waits out an error must not wait for the others' long-poll.
            max_wait_ms = RETRY_BACKOFF_MS
        return ReplicaFetchRequest(
            replica_id=self._node_id,
            broker_epoch=self._broker_epoch(),
            max_wait_ms=max_wait_ms,
            min_bytes=1,
            max_bytes=MAX_FETCH_BYTES,
            positions=positions,
            session_id=fetch.session_id,
            session_epoch=fetch.epoch,
            forgotten=list(fetch.forgotten),
        )

    async def _poll(
        self, url: str, request: ReplicaFetchRequest
    ) -> tuple[int, list[FetchResult]] | None:
        """The leader's session and answer; None when another partition is to be followed."""
        self._interruption = asyncio.get_running_loop().create_future()
        try:
            with Unless(self._interruption, _InterruptedError()):
                body = await self._peers.post(
                    url,
                    routes.INTERNAL_FETCH,
                    encode(request),
                    timeout_ms=FETCH_TIMEOUT_MS,
                    purpose=Purpose.CLUSTER,
                )
        except _InterruptedError:
            return None
        finally:
            self._interruption = None
        try:
            return decode_fetch_answer(body)
        except ValueError as error:
            raise not_an_answer(url, routes.INTERNAL_FETCH, error) from error

    def _interrupt(self) -> None:
        """Have the loop ask for a partition that was added, also from within a long-poll."""
        self._changed.set()
        if self._interruption is not None and not self._interruption.done():
            self._interruption.set_result(None)

    async def _take(self, results: Sequence[FetchResult], answered_ms: int) -> None:
        """Append everything first, so that the partitions' commits run at the same time.

        Commits that take long are left to `_end_commits`.
        """
        appended: list[_Followed] = []
        for result in results:
            key = (result.topic_id, result.partition)
            followed, said = self._followed.get(key), self._session.said(key)
            if said is not None and result.leaves_session(said.offset):
                self._session.dropped(key)
            if followed is None or said is None:
                continue
            if result.error_code is not None:
                METRICS.replication_errors.labels(result.error_code).inc()
                self._hold_back(followed, RETRY_BACKOFF_MS)
                continue
            position = FetchPosition(said.offset, said.last_fetched_epoch, said.leader_epoch)
            try:
                changed = await self._take_result(
                    followed.partition, position, self._as_far_as_fits(followed, result)
                )
            except CorruptMessageError as error:
                # Damaged in transit or at the leader; what came before it is good. Ask again.
                METRICS.replication_errors.labels(error.code).inc()
                log.warning(
                    "replicated_batch_corrupt",
                    partition=followed.partition.name,
                    leader=self.leader_id,
                    detail=error.detail,
                )
                self._hold_back(followed, RETRY_BACKOFF_MS)
            except DiskFullError:
                # No room to shorten the log: the leader is asked again where it ends.
                followed.partition.follow_again()
                self._no_room(followed)
                continue
            else:
                if not changed and not result.leaves_session(said.offset):
                    # Only a high watermark or a log start: it asks on from where it was.
                    continue
            appended.append(followed)
        await self._commit(appended, answered_ms)

    # --- commits ------------------------------------------------------------------------------

    async def _commit(self, appended: Sequence[_Followed], answered_ms: int) -> None:
        """Have the changed logs of an answer on disk, or leave them to it after COMMIT_WAIT_MS."""
        logs = [followed.partition.log for followed in appended]
        with contextlib.suppress(TimeoutError, DiskFullError):
            async with asyncio.timeout(COMMIT_WAIT_MS / 1000):
                for each in logs:
                    await each.wait_durable(each.next_offset)
        are_durable = True
        for followed, each in zip(appended, logs, strict=True):
            if each.log_end_offset < each.next_offset and each.held is None:
                self._commits.begin(followed.partition.key, each, answered_ms)
                self._ask(followed.partition.key)
                are_durable = False
            else:
                await self._committed(followed, each.wait_durable(each.next_offset))
        if are_durable:
            METRICS.replication_seconds.observe((monotonic_ms() - answered_ms) / 1000)

    @property
    def _waits_for_commits(self) -> bool:
        """Whether there is nothing else to ask for, or no room for more, before one ends."""
        return len(self._commits) > 0 and (self._session.is_empty or self._commits.is_full)

    async def _end_commits(self) -> None:
        """Ask again for the partitions whose commits have ended."""
        if self._waits_for_commits:
            await self._commits.wait_for_one(RETRY_BACKOFF_MS)
        if self._commits.ended():
            async with self._processing:
                for key in self._commits.ended():
                    await self._end_commit(key)

    async def _end_commit(self, key: PartitionKey) -> None:
        commit = self._commits.find(key)
        if commit is not None:
            # Whoever gives up this wait leaves the commit to others.
            await asyncio.wait((commit.durable,))
            self._commits.remove(key)
            await self._committed(self._followed[key], commit.durable)
            METRICS.replication_seconds.observe((monotonic_ms() - commit.answered_ms) / 1000)

    async def _finish_commit(self, key: PartitionKey) -> None:
        """Have a partition's commit ended, for somebody who does not fail with its log."""
        try:
            await self._end_commit(key)
        except StorageError as error:
            self._on_failure(error)

    async def _committed(self, followed: _Followed, durable: Awaitable[None]) -> None:
        """Wait for a commit, or give up what finds no room, and ask on from where the log ends."""
        partition = followed.partition
        try:
            await durable
        except DiskFullError:
            # The leader has it: it is fetched again when there is room.
            await partition.log.abandon_held()
            self._no_room(followed)
        partition.follower_log_changed()
        if self._followed.get(partition.key) is followed:
            self._ask(partition.key)

    def _as_far_as_fits(self, followed: _Followed, result: FetchResult) -> FetchResult:
        """What was fetched, counted against the disk's room; without its batches if that is full.

        The position stays then: they are asked for again, and the leader sees the lag.
        """
        size_bytes = sum(len(batch.data) for batch in result.batches)
        if size_bytes == 0:
            return result
        topic = followed.partition.state.topic
        if self._disk.has_room(size_bytes, is_internal=is_internal(topic)):
            self._disk.take(size_bytes)
            return result
        self._disk.found_full()
        self._no_room(followed)
        return replace(result, batches=[])

    async def _take_result(
        self, partition: Partition, position: FetchPosition, result: FetchResult
    ) -> bool:
        """Whether the log is another than before."""
        truncated_to = await partition.take_fetched(position, unpinned(result))
        if truncated_to is not None:
            log.info(
                "replica_truncated" if truncated_to < position.offset else "replica_begun_anew",
                partition=partition.name,
                before=position.offset,
                after=truncated_to,
                leader=self.leader_id,
                leader_epoch=position.leader_epoch,
            )
        if result.batches:
            METRICS.replicated_batches.inc(len(result.batches))
            METRICS.replicated_records.inc(sum(record_count(each.data) for each in result.batches))
            METRICS.replicated_bytes.inc(sum(len(each.data) for each in result.batches))
        return truncated_to is not None or len(result.batches) > 0

    def _no_room(self, followed: _Followed) -> None:
        METRICS.replication_errors.labels(InsufficientStorageError.code).inc()
        self._hold_back(followed, NO_ROOM_BACKOFF_MS)

    def _hold_back(self, followed: _Followed, pause_ms: int) -> None:
        """Leave a partition out of fetches for a while."""
        key = followed.partition.key
        followed.not_before_ms = monotonic_ms() + pause_ms
        if self._followed.get(key) is followed:
            self._held_back.add(key)
            self._ask(key)
