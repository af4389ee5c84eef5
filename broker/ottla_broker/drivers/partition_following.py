"""What a follower takes from its leader: batches, cuts, a high watermark, and another beginning."""

from ottla_broker.drivers.partition_acks import PartitionAcks
from ottla_broker.drivers.partition_log_start import PartitionLogStart
from ottla_broker.drivers.peer_messages import FetchResult
from ottla_cluster.controller.image import Partition as PartitionState
from ottla_cluster.replication.follower import FetchPosition, FollowerOutput, PartitionFollower
from ottla_cluster.replication.leader_epochs import EpochEnd


class PartitionFollowing(PartitionLogStart, PartitionAcks):
    """The fetches of a replica that follows.

    A former leader's acks wait on here: what is cut fails them, and the next leader's high
    watermark resolves them.
    """

    def _follow_anew(self, state: PartitionState) -> None:
        if state.leader is not None:
            self.follower = PartitionFollower(
                leader_id=state.leader,
                leader_epoch=state.leader_epoch,
                epochs=self.log.leader_epochs,
                log_end_offset=self.log.log_end_offset,
                high_watermark=self.high_watermark,
            )

    async def take_fetched(self, position: FetchPosition, result: FetchResult) -> int | None:
        """Take a leader's answer to the fetch at `position`: truncate, or append its batches.

        A log that ends below the leader's start begins anew there: what is between is gone.

        Returns:
            The end of the log after a truncation or a new beginning, else None.

        Raises:
            CorruptMessageError: a batch is damaged; nothing of it or after it was appended.
        """
        follower = self.follower
        if follower is None or position != follower.fetch_position:
            return None
        output = follower.fetch_answered(
            position,
            diverging=None if result.diverging is None else EpochEnd(*result.diverging),
            leader_log_start_offset=result.log_start_offset,
            leader_high_watermark=result.high_watermark,
        )
        if result.diverging is None:
            self.fitness.leader_answered()
        self._follow(output)
        restart_at = output.restart_at
        if output.truncate_to is not None and await self._cut_loses_keys(output.truncate_to):
            restart_at = result.log_start_offset
        if restart_at is not None:
            self._fail_acks(self.state)
            await self._begin_anew_at(restart_at)
            self.follower_log_changed()
            return self.log.log_end_offset
        if output.truncate_to is not None:
            self._fail_acks(self.state, above=output.truncate_to)
            async with self._truncation(output.truncate_to):
                await self.log.truncate_to(output.truncate_to)
            self.follower_log_changed()
            return self.log.log_end_offset
        # Never past what is committed here: the leader is ahead of this log.
        if result.log_start_offset > self.log.log_start_offset:
            self.log.cleanup.advance_log_start(min(result.log_start_offset, self.high_watermark))
            self._activity.log_start_moved.add(self.key)
        if result.batches:
            await self.begin_with(result.batches[0].data)
            self._activity.appended.add(self.key)
            self._forget_committed_markers()
            self.log.append_as_follower(result.batches)
        return None

    async def _cut_loses_keys(self, offset: int) -> bool:
        """Whether records below `offset` may have been compacted away for newer ones above it.

        Only an unclean election cuts committed records. The leader still has the older record of
        such a key, and this log would never get it again. A member of the ISR is cut above all
        that is committed, and so above all that is compacted.
        """
        return (
            self._node_id not in self.state.isr
            and offset < await self.log.cleanup.compacted_at_most_to()
        )

    def follower_log_changed(self) -> None:
        """The durable end moved: only now may the next fetch acknowledge it."""
        if self.follower is not None:
            self._follow(self.follower.log_changed(self.log.log_end_offset, self.log.leader_epochs))
            self._begin_at_first_offset()

    def follow_again(self) -> None:
        """Ask the same leader from where the log ends: it could not be changed as an answer wants.

        What that answer has told of the high watermark is for the log that was wanted.
        """
        if self.follower is not None:
            self.high_watermark = min(self.high_watermark, self.log.log_end_offset)
            self._activity.watermarks_moved = True
            self._follow_anew(self.state)

    def _follow(self, output: FollowerOutput) -> None:
        if output.high_watermark is not None:
            self.high_watermark = output.high_watermark
            self._activity.watermarks_moved = True
            self._ack_waiters.reached(output.high_watermark)
            self.watermark_watchers.wake()
