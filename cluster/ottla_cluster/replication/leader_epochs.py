"""Which leader epoch wrote which offsets: the only truth by which replicas reconcile their logs.

A high watermark reaches followers late, so truncating to it loses acknowledged records, and two
replicas can hold different records at one offset (KIP-101). What cannot lie is the leader epoch
that every record batch carries: one epoch has one leader, and a leader appends at each offset once,
so two records of the same epoch and offset are the same record. Two logs therefore agree up to the
end of the largest epoch that both of them have, and differ after it. Because both sides may miss
epochs of the other, the answer to "where does epoch e end?" names the epoch it speaks of (KIP-279).

`LeaderEpochs` is that history of one log, as immutable values; storage keeps it beside the batches.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import msgspec

from ottla_protocol.errors import CorruptMessageError, StorageError

NO_EPOCH = -1
"""The leader epoch of a log that holds no record; below every real epoch."""

NO_OFFSET = -1
"""The end offset that goes with NO_EPOCH; below every real offset."""


class EpochStart(msgspec.Struct, frozen=True):
    """The first offset at which a leader epoch appended, or may append."""

    epoch: int
    start_offset: int


class EpochEnd(msgspec.Struct, frozen=True):
    """One past the last offset of a leader epoch, in the log of the replica that answers."""

    epoch: int
    end_offset: int


UNKNOWN_EPOCH_END = EpochEnd(NO_EPOCH, NO_OFFSET)
"""The answer of a log that has no epoch as old as the requested one."""


@dataclass(frozen=True, slots=True)
class LeaderEpochs:
    """The leader epochs of one log, oldest first.

    Invariant: `entries` rise strictly in epoch and in start offset. An epoch that appended nothing
    therefore disappears as soon as a later one starts at the same offset: it tells nothing about
    the log.
    """

    entries: tuple[EpochStart, ...] = ()

    def __post_init__(self) -> None:
        previous = EpochStart(NO_EPOCH, NO_OFFSET)
        for entry in self.entries:
            if entry.epoch <= previous.epoch or entry.start_offset <= previous.start_offset:
                raise StorageError(f"leader epochs out of order: {entry} follows {previous}")
            previous = entry

    @classmethod
    def empty(cls) -> Self:
        """The epochs of a log that never held a record."""
        return cls()

    @classmethod
    def of(cls, epoch_and_start_offset: Iterable[tuple[int, int]]) -> Self:
        """The epochs read from storage, oldest first.

        Raises:
            StorageError: they do not rise strictly in epoch and in start offset.
        """
        return cls(tuple(EpochStart(epoch, offset) for epoch, offset in epoch_and_start_offset))

    @property
    def latest_epoch(self) -> int:
        """The newest epoch, with or without records; NO_EPOCH when there is none."""
        return self.entries[-1].epoch if self.entries else NO_EPOCH

    def assign(self, epoch: int, start_offset: int) -> Self:
        """The epochs after `epoch` starts at `start_offset`.

        A new leader assigns its epoch at its log end; every append, at a leader or a follower,
        assigns the batch's epoch at its base offset. The latest epoch again changes nothing.
        Epochs that started at or after `start_offset` hold no record and are replaced, also by an
        older one: a leader that appended nothing may have to follow a log of older records.

        Raises:
            CorruptMessageError: `epoch` is older than that of the record before `start_offset`;
                epochs never fall in a log.
        """
        assert epoch >= 0, epoch
        assert start_offset >= 0, start_offset
        if epoch == self.latest_epoch and start_offset >= self.entries[-1].start_offset:
            return self
        kept = self.truncate_to(start_offset)
        if epoch < kept.latest_epoch:
            raise CorruptMessageError(
                f"leader epoch {epoch} at offset {start_offset} is older than the log's"
                f" {kept.latest_epoch}"
            )
        if epoch == kept.latest_epoch:
            return kept
        return type(self)((*kept.entries, EpochStart(epoch, start_offset)))

    def end_offset_for(self, requested_epoch: int, log_end_offset: int) -> EpochEnd:
        """Where this log leaves the largest of its epochs that is at most `requested_epoch`.

        That epoch's end is the start of the next one, or `log_end_offset` when it is the latest
        (KIP-101); the answer names the epoch, because it may be an older one (KIP-279). A log with
        no such epoch answers UNKNOWN_EPOCH_END: it shares nothing with the requester.
        """
        index = bisect_right(self.entries, requested_epoch, key=_epoch_of)
        if index == 0:
            return UNKNOWN_EPOCH_END
        is_latest = index == len(self.entries)
        end_offset = log_end_offset if is_latest else self.entries[index].start_offset
        return EpochEnd(self.entries[index - 1].epoch, end_offset)

    def common_end_for(self, leader_epoch: int, log_end_offset: int) -> int:
        """Up to where what a leader of that epoch had committed is in this log, exclusive.

        That is where the first later epoch began, at its leader's log end, or `log_end_offset`
        where there is none. Unlike `end_offset_for` it does without an epoch that retention has
        taken out of this log: a reader's offset is not one that it appended.
        """
        index = bisect_right(self.entries, leader_epoch, key=_epoch_of)
        return log_end_offset if index == len(self.entries) else self.entries[index].start_offset

    def epoch_at(self, offset: int) -> int:
        """The epoch that wrote `offset`; NO_EPOCH before the first known epoch."""
        index = bisect_right(self.entries, offset, key=_start_offset_of)
        return self.entries[index - 1].epoch if index else NO_EPOCH

    def truncate_to(self, offset: int) -> Self:
        """The epochs of the log that ends at `offset`, exclusive."""
        kept = bisect_left(self.entries, offset, key=_start_offset_of)
        return self if kept == len(self.entries) else type(self)(self.entries[:kept])

    def truncate_before(self, log_start_offset: int) -> Self:
        """The epochs of the log that starts at `log_start_offset`.

        The epoch that covers the new start begins there now, so that every retained offset, and
        the end of a log that retention has emptied, keeps its epoch.
        """
        covering = bisect_right(self.entries, log_start_offset, key=_start_offset_of) - 1
        if covering < 0 or (covering == 0 and self.entries[0].start_offset == log_start_offset):
            return self
        first = EpochStart(self.entries[covering].epoch, log_start_offset)
        return type(self)((first, *self.entries[covering + 1 :]))


def _epoch_of(entry: EpochStart) -> int:
    return entry.epoch


def _start_offset_of(entry: EpochStart) -> int:
    return entry.start_offset
