"""How a follower makes its log equal to its leader's, and what it may tell readers meanwhile.

Every fetch carries the offset it wants and the epoch of the record before it. The leader compares
that pair with its own history (`check_divergence`): when it holds that epoch at least up to that
offset, the two logs are equal below the offset, because one epoch has one leader that appends at
each offset once. Otherwise the answer names the largest epoch that the two may share and its end
at the leader, and the follower truncates to the end of what both have (`truncation_offset`) and
asks again. So reconciliation needs no request of its own and cannot race a leader change: a fetch
of an old leader epoch is fenced as a whole (KIP-101, KIP-279, KIP-320, KIP-595).

A follower never truncates to a high watermark: that one is late, and acknowledged records lie
between it and the log end (KIP-101).
"""

from dataclasses import dataclass

import msgspec

from ottla_cluster.replication.leader_epochs import (
    NO_EPOCH,
    UNKNOWN_EPOCH_END,
    EpochEnd,
    LeaderEpochs,
)


class FetchPosition(msgspec.Struct, frozen=True):
    """What a follower asks for, and by that acknowledges: all below `offset` is durable here."""

    offset: int
    last_fetched_epoch: int
    """The epoch of the record before `offset`; NO_EPOCH when this log holds no record."""
    leader_epoch: int
    """The leadership that the fetch is meant for; any other leader epoch fences it."""


@dataclass(frozen=True, slots=True)
class FollowerOutput:
    """What follows from one input; a field that is None asks for nothing."""

    truncate_to: int | None = None
    """Cut the log to end here (exclusive), durably, then call `log_changed`."""
    restart_at: int | None = None
    """Discard the whole log, begin an empty one at this offset, then call `log_changed`."""
    high_watermark: int | None = None
    """The high watermark moved here: readers of this replica may see all below it."""


NOTHING = FollowerOutput()


def check_divergence(
    leader_epochs: LeaderEpochs,
    leader_log_end_offset: int,
    last_fetched_epoch: int,
    fetch_offset: int,
) -> EpochEnd | None:
    """Where a fetching follower's log may leave the leader's; None when it does not.

    Asked at the leader, for fetches of its own leader epoch. None promises that the follower's
    log equals the leader's below `fetch_offset`. UNKNOWN_EPOCH_END tells that they share nothing
    which the leader still has.
    """
    if last_fetched_epoch == NO_EPOCH:
        # A log without a record cannot differ, but neither can it begin past the leader's end.
        return UNKNOWN_EPOCH_END if fetch_offset > leader_log_end_offset else None
    end = leader_epochs.end_offset_for(last_fetched_epoch, leader_log_end_offset)
    if end.epoch == last_fetched_epoch and fetch_offset <= end.end_offset:
        return None
    return end


def truncation_offset(
    own_epochs: LeaderEpochs, own_log_end_offset: int, diverging: EpochEnd
) -> int:
    """Where the follower cuts its log after the leader answered `diverging` (KIP-279).

    Let e be the follower's largest epoch that is at most `diverging.epoch`. Where they are equal,
    both logs agree up to the smaller of the two ends of e and the follower cuts there. Where e is
    smaller, the leader may miss it too: the follower cuts all above e, and its next fetch asks
    about e. Each round removes at least one record, so the rounds end.

    A result of 0 discards everything, wherever the log starts.
    """
    if diverging == UNKNOWN_EPOCH_END or not own_epochs.entries:
        return 0
    own = own_epochs.end_offset_for(diverging.epoch, own_log_end_offset)
    if own == UNKNOWN_EPOCH_END:
        # All records here are of epochs that the leader does not have; what came before them is
        # gone by retention and was committed, so it agrees.
        return min(own_epochs.entries[0].start_offset, diverging.end_offset)
    return min(own.end_offset, diverging.end_offset, own_log_end_offset)


class PartitionFollower:
    """One partition at a follower, under one leader epoch.

    The driver sends `fetch_position`, hands each answer to `fetch_answered`, carries out what
    comes back, appends the records of an answer that diverged nowhere, and reports every durable
    change of the log with `log_changed`. A new leader epoch is a new PartitionFollower.
    """

    def __init__(
        self,
        *,
        leader_id: int,
        leader_epoch: int,
        epochs: LeaderEpochs,
        log_end_offset: int,
        high_watermark: int,
    ) -> None:
        """Start to follow, from the durable log as it is.

        Args:
            leader_id: the broker to fetch from.
            leader_epoch: its leader epoch, from the metadata.
            epochs: the leader epochs of the local log.
            log_end_offset: the end of the durable local log.
            high_watermark: as this process knows it, or as the last one left it; at most the
                log end.
        """
        assert 0 <= high_watermark <= log_end_offset, (high_watermark, log_end_offset)
        self.leader_id = leader_id
        self.leader_epoch = leader_epoch
        self._epochs = epochs
        self._log_end_offset = log_end_offset
        # Never falls while this process lives, save when the log is cut below it, which only an
        # unclean election can ask for. Never past the log end.
        self._high_watermark = high_watermark
        # The leader's high watermark, from the last answer that diverged nowhere: all below it
        # and below our log end is equal on both sides.
        self._leader_high_watermark = high_watermark

    @property
    def high_watermark(self) -> int:
        """First offset that readers of this replica may not see yet."""
        return self._high_watermark

    @property
    def log_end_offset(self) -> int:
        """End of the durable local log."""
        return self._log_end_offset

    @property
    def fetch_position(self) -> FetchPosition:
        """The next fetch; sending it acknowledges everything below its offset."""
        last_fetched_epoch = self._epochs.epoch_at(self._log_end_offset - 1)
        return FetchPosition(self._log_end_offset, last_fetched_epoch, self.leader_epoch)

    def fetch_answered(
        self,
        position: FetchPosition,
        *,
        diverging: EpochEnd | None,
        leader_log_start_offset: int,
        leader_high_watermark: int,
    ) -> FollowerOutput:
        """Take an answer of the leader, before appending its records.

        Args:
            position: the fetch that this answers. It must be the current `fetch_position`: the
                driver drops answers to any other, records included.
            diverging: the leader's `check_divergence`.
            leader_log_start_offset: a fetch below it cannot be served: the log starts anew there.
            leader_high_watermark: at the time of the answer; counts only if nothing diverges, or
                nothing is left that could.
        """
        assert position == self.fetch_position, (position, self.fetch_position)
        if diverging is not None:
            cut = truncation_offset(self._epochs, self._log_end_offset, diverging)
            assert cut < self._log_end_offset, (diverging, self._log_end_offset)
            if cut >= leader_log_start_offset:
                return FollowerOutput(truncate_to=cut)
        if diverging is not None or position.offset < leader_log_start_offset:
            # What is left of this log is of no use, because the leader cannot add to it. At once,
            # and not by way of an emptied log: its end must not fall below what is committed.
            self._leader_high_watermark = leader_high_watermark
            return FollowerOutput(restart_at=leader_log_start_offset)
        self._leader_high_watermark = leader_high_watermark
        return self._advance_high_watermark()

    def log_changed(self, log_end_offset: int, epochs: LeaderEpochs) -> FollowerOutput:
        """The durable local log was appended to, cut or restarted."""
        self._log_end_offset = log_end_offset
        self._epochs = epochs
        if log_end_offset < self._high_watermark:
            self._high_watermark = log_end_offset
            return FollowerOutput(high_watermark=log_end_offset)
        return self._advance_high_watermark()

    def _advance_high_watermark(self) -> FollowerOutput:
        reached = min(self._leader_high_watermark, self._log_end_offset)
        if reached <= self._high_watermark:
            return NOTHING
        self._high_watermark = reached
        return FollowerOutput(high_watermark=reached)
