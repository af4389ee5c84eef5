"""Who waits for a batch to be safe, and what becomes of their waits.

A wait outlives the leadership for a while: a batch that is still in this log when the next leader's
high watermark passes it is in that leader's log too. What ends a wait otherwise leaves the outcome
unknown.
"""

import asyncio
from dataclasses import dataclass

from ottla_broker.drivers.clock import monotonic_ms, within
from ottla_broker.drivers.partition_role import PartitionRole
from ottla_broker.storage.disk_full import DiskFullError
from ottla_broker.storage.partition_log import AppendInfo
from ottla_cluster.controller.image import Partition as PartitionState
from ottla_protocol.errors import (
    InsufficientStorageError,
    NotEnoughReplicasAfterAppendError,
    NotLeaderOrFollowerError,
    OttlaError,
    Outcome,
    RequestTimedOutError,
)


@dataclass(frozen=True, slots=True)
class Appended:
    """An append, with the leadership under which its offsets were given."""

    info: AppendInfo
    leader_epoch: int


class PartitionAcks(PartitionRole):
    """The waits for acks of a replica that leads, or has led."""

    async def committed(self, appended: Appended, *, deadline_ms: int) -> None:
        """Wait until the high watermark has passed the appended batch (acks=all).

        That of this leader epoch or a later one, whoever leads it: a batch that is still in this
        log when the next leader's high watermark passes it is in that leader's log too.

        Raises:
            InsufficientStorageError: the disk has no room for it; the outcome is unknown.
            NotLeaderOrFollowerError: leadership moved first, and the batch was cut, or nobody has
                committed it in time; the outcome is unknown.
            NotEnoughReplicasAfterAppendError, RequestTimedOutError: the deadline passed first; the
                outcome is unknown.
        """
        self._require_leadership_of(appended)
        next_offset = appended.info.next_offset
        if self.high_watermark >= next_offset:
            return
        if self.log.held is not None:
            raise self._held_commit()
        waiting = self._ack_waiters.wait_for(next_offset)
        try:
            await within(deadline_ms - monotonic_ms(), waiting)
        except TimeoutError:
            raise self._late_ack() from None

    async def durable(self, appended: Appended, *, deadline_ms: int) -> None:
        """Wait for the local commit alone (acks=1).

        Raises:
            InsufficientStorageError: the disk has no room for it; the outcome is unknown.
            NotLeaderOrFollowerError: leadership moved meanwhile; the outcome is unknown.
            RequestTimedOutError: the deadline passed first; the outcome is unknown.
            StorageError: the log failed.
        """
        try:
            async with asyncio.timeout(max(0, deadline_ms - monotonic_ms()) / 1000):
                await self.log.wait_durable(appended.info.next_offset)
        except DiskFullError:
            raise self._held_commit() from None
        except TimeoutError:
            raise RequestTimedOutError(
                f"the disk did not take the records of {self.name} in time",
                outcome=Outcome.UNKNOWN,
            ) from None
        self._require_leadership_of(appended)
        try:
            self.leading()
        except OttlaError as error:
            raise error.with_outcome(Outcome.UNKNOWN) from None

    def _require_leadership_of(self, appended: Appended) -> None:
        """Offsets mean what they meant only while the leadership lasts that gave them.

        When leadership has moved in the meantime the batch may have been truncated and its offsets
        given to others: a high watermark beyond them then says nothing about it.
        """
        if self.leader is None or self.leader.leader_epoch != appended.leader_epoch:
            raise NotLeaderOrFollowerError(
                f"{self.name} left leader epoch {appended.leader_epoch} before the ack",
                outcome=Outcome.UNKNOWN,
                leader=self.state.leader,
                leader_epoch=self.state.leader_epoch,
            )

    def commit_held(self) -> None:
        """The log found no room for what it was to commit: whoever waits for that hears so.

        It may yet become durable, here or at a follower that leads next.
        """
        self._ack_waiters.fail(self._held_commit())

    def _held_commit(self) -> InsufficientStorageError:
        return InsufficientStorageError(
            f"the disk had no room for records of {self.name} that were taken already",
            outcome=Outcome.UNKNOWN,
        )

    def _late_ack(self) -> OttlaError:
        if self.leader is not None and self.leader.is_under_min_isr:
            return NotEnoughReplicasAfterAppendError(
                f"the ISR of {self.name} shrank below min.insync.replicas after the append",
                outcome=Outcome.UNKNOWN,
            )
        return RequestTimedOutError(
            f"{self.name} did not replicate the records in time", outcome=Outcome.UNKNOWN
        )

    @property
    def has_waiting_acks(self) -> bool:
        """Whether anybody waits for a batch to be committed."""
        return self._ack_waiters.has_waiting

    def _end_handover(self, state: PartitionState) -> None:
        if self.leader is None:
            self._fail_acks(state)

    def _fail_acks(self, state: PartitionState, *, above: int = -1) -> None:
        """Whoever waits for an ack past `above` learns that its outcome is unknown."""
        self._ack_waiters.fail(
            NotLeaderOrFollowerError(
                f"{self.name} moved to leader epoch {state.leader_epoch} before the ack",
                outcome=Outcome.UNKNOWN,
                leader=state.leader,
                leader_epoch=state.leader_epoch,
            ),
            above=above,
        )
