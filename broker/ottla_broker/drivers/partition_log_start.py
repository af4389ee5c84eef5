"""Where the log of a hosted replica begins: at the first offset that its partition keeps.

The metadata has that offset (decision 51), wherever this log begins and ends. A log that reaches it
hides what it has below; one that ends below begins anew there before it leads. A log begins with a
whole batch: one that is filled from amid a batch has all of it, and hides its first records.
"""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import TypeAlias

from ottla_broker.drivers.partition_role import PartitionRole
from ottla_protocol.record_batch import read_header, validate_batch

Truncating: TypeAlias = Callable[[PartitionRole, int | None], AbstractAsyncContextManager[None]]
"""Entered with a replica while its log is truncated, and with the end that it will have; None where
it begins anew."""


class PartitionLogStart(PartitionRole):
    """The beginning of a replica's log, whatever its role."""

    _truncating: Truncating | None

    def _begin_at_first_offset(self) -> None:
        """Let nobody read what was trimmed (decision 51), as far as this log goes.

        Acks are not told: whether this log has what the leader committed there is not known yet.
        """
        offset = min(self.state.first_offset, self.log.log_end_offset)
        if offset > self.log.log_start_offset:
            self.log.cleanup.advance_log_start(offset)
            self._activity.log_start_moved.add(self.key)
            self.news_watchers.wake()

    async def _require_first_offset(self) -> None:
        """Before it leads, a log begins at the first offset, where all below is committed.

        One that ends below comes from outside the ISR, or from a disk that was lost: it begins
        anew, and no offset that was given is given again.
        """
        if self.log.log_end_offset < self.state.first_offset:
            await self._begin_anew_at(self.state.first_offset)
        self._begin_at_first_offset()
        self.high_watermark = max(self.high_watermark, self.log.log_start_offset)

    async def begin_with(self, batch: bytes | bytearray | memoryview) -> None:
        """Have an empty log begin where its first batch does, if its start is amid that batch.

        A trim may end anywhere; a log begins with a batch that is whole. What this cannot take is
        left to the append to refuse.
        """
        start = self.log.log_start_offset
        if start != self.log.next_offset or read_header(batch).base_offset >= start:
            return
        header = validate_batch(batch, on_append=False)
        if start <= header.last_offset:
            await self._begin_anew_at(header.base_offset)

    async def _begin_anew_at(self, offset: int) -> None:
        """Drop all that the log has, and have its next batch at `offset`."""
        async with self._truncation(None):
            await self.log.reset_to(offset)

    def _truncation(self, offset: int | None) -> AbstractAsyncContextManager[None]:
        """Entered while the log is truncated to `offset`, or begins anew (None)."""
        return nullcontext() if self._truncating is None else self._truncating(self, offset)
