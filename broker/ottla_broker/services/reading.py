"""Long-polls over partitions: one way of reading for followers, consumers and plain HTTP.

A poll looks, and when it has found less than it wants it parks until one of its partitions changes
or its time is up, then looks again. It holds no transaction and no connection while it waits.

A new leader has every record that was acknowledged before, but learns only from its followers which
of them are committed. Until then a read of such a record has no answer: "nothing there yet" would
deny what a producer was told. It waits, and is refused when the time is up.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence

from ottla_broker.drivers.clock import monotonic_ms
from ottla_broker.drivers.partition import Partition
from ottla_broker.drivers.purgatory import Purgatory, Watchers
from ottla_broker.drivers.replica_copies import ReplicaCopy
from ottla_broker.services.damaged_reads import answer_to_damage
from ottla_broker.storage.partition_log import StoredBatch
from ottla_broker.storage.stored_batch import DamagedSegmentError
from ottla_protocol.errors import (
    FencedLeaderEpochError,
    NotLeaderOrFollowerError,
    OffsetNotAvailableError,
    OffsetOutOfRangeError,
    OttlaError,
    UnknownLeaderEpochError,
)

WATERMARK_WAIT_MS = 1_000
"""How long a read that waits for no records waits for a new leader to know which are committed. It
is well below what others wait for this broker's answer."""


class PartitionRead(ABC):
    """One partition of a poll: where it reads, how far it may, and what it has found."""

    def __init__(self, partition: Partition, offset: int, max_bytes: int) -> None:
        self.partition = partition
        self.offset = offset
        self.max_bytes = max_bytes
        self.batches: Sequence[StoredBatch] = ()
        self.error: OttlaError | None = None
        self.last_limit = offset
        """What `limit` was when `batches` were read."""
        self.has_more = False
        """Whether there is more to look at at once, though nothing was found yet."""
        self.awaits_watermark = False
        """Whether nothing was found where an acknowledged record may be."""

    @property
    @abstractmethod
    def watchers(self) -> Watchers:
        """What wakes this read."""

    @abstractmethod
    def limit(self) -> int:
        """Offset that the read must not reach.

        Raises:
            OttlaError: this broker may not serve the read (any more).
        """

    @property
    def size_bytes(self) -> int:
        """Bytes found."""
        return sum(len(batch.data) for batch in self.batches)

    async def look(self, budget_bytes: int) -> None:
        """Read what is there now; an error is kept as this partition's result."""
        self.awaits_watermark = False
        try:
            batches = self._find_in_memory(budget_bytes)
            self.batches = await self._find_stored(budget_bytes) if batches is None else batches
        except DamagedSegmentError as error:
            self.batches = ()
            self.error = await answer_to_damage(self.partition, error, self.offset)
        except OttlaError as error:
            self.batches = ()
            self.error = error

    def look_away(self) -> None:
        """Find nothing: others have found enough."""
        self.batches = ()

    def _find_in_memory(self, budget_bytes: int) -> Sequence[StoredBatch] | None:
        """What there is at `offset`; None where that has to be looked for elsewhere."""
        self.last_limit = limit = self.limit()
        self._check_range()
        if self.offset >= limit:
            self.awaits_watermark = self._may_be_acknowledged()
            return ()
        max_bytes = min(self.max_bytes, budget_bytes)
        return self.partition.log.read_tail(self.offset, max_bytes=max_bytes, limit=limit)

    async def _find_stored(self, budget_bytes: int) -> Sequence[StoredBatch]:
        """What there is at `offset`, from the segments."""
        max_bytes = min(self.max_bytes, budget_bytes)
        log = self.partition.log
        batches = await log.read(self.offset, max_bytes=max_bytes, limit=self.last_limit)
        # The role may have changed during the wait for the disk.
        self.limit()
        return batches

    def _may_be_acknowledged(self) -> bool:
        """Whether a record that was acknowledged may be at `offset`, past the limit."""
        return False

    def refuse_unknown(self) -> None:
        """Say so where the poll is over and an acknowledged record may still be at `offset`."""
        if self.awaits_watermark:
            self.error = OffsetNotAvailableError(
                f"the new leader of {self.partition.name} does not know yet whether offset "
                f"{self.offset} is committed"
            )

    def _check_range(self) -> None:
        log = self.partition.log
        if not log.log_start_offset <= self.offset <= log.next_offset:
            raise OffsetOutOfRangeError(
                f"offset {self.offset} of {self.partition.name} is outside "
                f"[{log.log_start_offset}, {log.next_offset}]",
                log_start_offset=log.log_start_offset,
                log_end_offset=log.next_offset,
                high_watermark=self.partition.high_watermark,
            )


class ReplicaRead(PartitionRead):
    """A follower's fetch in one leader epoch, up to the end of the log.

    It reaches past the high watermark, and past what is durable here: replicating while the leader
    commits makes an ack wait for the slower of the two, not for their sum.
    """

    def __init__(
        self,
        partition: Partition,
        offset: int,
        max_bytes: int,
        leader_epoch: int,
        copy: ReplicaCopy | None = None,
    ) -> None:
        super().__init__(partition, offset, max_bytes)
        self.leader_epoch = leader_epoch
        self.copy = copy
        """Where the follower is being added: how much it may have."""

    async def look(self, budget_bytes: int) -> None:
        """As every read, but no faster than the throttle allows to a replica being added."""
        allowance_bytes = None if self.copy is None else self.copy.allowance_bytes()
        if allowance_bytes is None:
            await super().look(budget_bytes)
        elif allowance_bytes == 0:
            self.look_away()
        else:
            await super().look(min(budget_bytes, allowance_bytes))
        if self.copy is not None:
            self.copy.charge(self.size_bytes)

    @property
    def watchers(self) -> Watchers:
        """Every append, and the role."""
        return self.partition.append_watchers

    def limit(self) -> int:
        """The log's end, while this broker leads the epoch that the follower names."""
        leader = self.partition.leader
        state = self.partition.state
        if self.leader_epoch > state.leader_epoch:
            raise UnknownLeaderEpochError(
                f"leader epoch {self.leader_epoch} of {self.partition.name} is not known here yet"
            )
        if self.leader_epoch < state.leader_epoch:
            raise FencedLeaderEpochError(
                f"{self.partition.name} is in leader epoch {state.leader_epoch}",
                leader_epoch=state.leader_epoch,
            )
        if leader is None:
            raise NotLeaderOrFollowerError(
                f"this broker does not lead {self.partition.name}", leader=state.leader
            )
        return self.partition.log.next_offset


async def poll(
    reads: Sequence[PartitionRead],
    *,
    min_bytes: int,
    max_bytes: int,
    max_wait_ms: int,
    purgatory: Purgatory,
    for_client: bool = True,
) -> None:
    """Fill each read's `batches` or `error`.

    Returns as soon as `min_bytes` are found in all, any read has an error or has passed over as
    much as it may, `max_wait_ms` have passed, or, if `for_client`, the purgatory releases the
    polls. `max_bytes` bounds the total, save that the first partition that has data always gives at
    least one batch.

    Without any data, a poll that does not wait waits up to WATERMARK_WAIT_MS for a new leader that
    does not know yet what is committed; what is still not known when a poll returns is the error
    (OffsetNotAvailableError) of its partition.

    Raises:
        OverloadedError: the purgatory is full, `for_client`.
    """
    deadline_ms = monotonic_ms() + max_wait_ms
    found_bytes = await _look_at_all(reads, max_bytes)
    if found_bytes < min_bytes and max_wait_ms > 0:
        await _wait(reads, min_bytes, max_bytes, deadline_ms, purgatory, for_client=for_client)
    elif not found_bytes and any(read.awaits_watermark for read in reads):
        deadline_ms = monotonic_ms() + WATERMARK_WAIT_MS
        await _wait(reads, 1, max_bytes, deadline_ms, purgatory, for_client=for_client)
    for read in reads:
        if read.awaits_watermark:
            read.refuse_unknown()


async def _wait(
    reads: Sequence[PartitionRead],
    min_bytes: int,
    max_bytes: int,
    deadline_ms: int,
    purgatory: Purgatory,
    *,
    for_client: bool,
) -> None:
    """Park, and look again at each change, until `min_bytes` are found or there is an error."""
    changed = asyncio.Event()
    for read in reads:
        read.watchers.add(changed)
    try:
        with (
            purgatory.parked_request(for_client=for_client),
            purgatory.released_into(changed),
        ):
            # Looked at again after watching began: a change in between wakes nobody.
            while await _look_at_all(reads, max_bytes) < min_bytes:
                if for_client and purgatory.is_released:
                    return
                remaining_ms = deadline_ms - monotonic_ms()
                if remaining_ms <= 0:
                    return
                try:
                    async with asyncio.timeout(remaining_ms / 1000):
                        await changed.wait()
                except TimeoutError:
                    return
                changed.clear()
    finally:
        for read in reads:
            read.watchers.remove(changed)


async def watermark_known(partition: Partition, purgatory: Purgatory) -> None:
    """Wait up to WATERMARK_WAIT_MS for a new leader to know the end of what is committed.

    Whether it does, or leads at all, the caller finds out by asking for that end.

    Raises:
        OverloadedError: the purgatory is full.
    """
    if _is_end_known(partition):
        return
    changed = asyncio.Event()
    partition.watermark_watchers.add(changed)
    try:
        with purgatory.parked_request(), purgatory.released_into(changed):
            async with asyncio.timeout(WATERMARK_WAIT_MS / 1000):
                while not (_is_end_known(partition) or purgatory.is_released):
                    await changed.wait()
                    changed.clear()
    except TimeoutError:
        return
    finally:
        partition.watermark_watchers.remove(changed)


def _is_end_known(partition: Partition) -> bool:
    leader = partition.leader
    return leader is None or leader.latest_offset_available


async def _look_at_all(reads: Sequence[PartitionRead], max_bytes: int) -> float:
    """Bytes found in all; infinite when a read has something to tell at once."""
    total = 0
    is_urgent = False
    for read in reads:
        if total >= max_bytes:
            read.look_away()
            continue
        await read.look(max_bytes - total)
        # The others are read all the same: a follower asks again and again for one that is damaged.
        is_urgent = is_urgent or read.error is not None or read.has_more
        total += read.size_bytes
    return float("inf") if is_urgent else total
