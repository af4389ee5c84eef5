"""What becomes of batches that were sent, or whose time is over, and of sequences that are lost.

Pure: the sender hands in what a request brought for each partition. A batch is settled by it (it is
acknowledged, or it fails), or goes back to the front of its queue. A batch that fails may leave a
gap in its partition's sequences, at which the leader would refuse all that comes behind: rules 3
and 4 of `_sender` say how the partition goes on.
"""

from dataclasses import dataclass
from typing import Final, Protocol

from ottla._accumulator import Accumulator, PartitionQueue
from ottla._batch import NO_OFFSET, Batch
from ottla._errors import ClusterUnreachableError, DeliveryTimeoutError
from ottla._metadata import Leader, Metadata
from ottla._verdict import (
    SEQUENCE_ERRORS,
    Result,
    Verdict,
    as_told,
    error_in,
    is_success,
    judge_sequence,
    timed_out,
)
from ottla_protocol.errors import (
    InvalidProducerEpochError,
    OttlaError,
    Outcome,
    OutOfOrderSequenceNumberError,
    RoutingError,
)
from ottla_protocol.models import AppendedBatch
from ottla_protocol.record_batch import NO_PRODUCER_ID

MAX_PRODUCER_EPOCH: Final = 2**15 - 1

MAX_BACKOFF_DOUBLINGS: Final = 20


class SettlementOptions(Protocol):
    """The options that matter here; `ProducerConfig` has them."""

    @property
    def acks(self) -> int: ...
    @property
    def enable_idempotence(self) -> bool: ...
    @property
    def retries(self) -> int: ...
    @property
    def retry_backoff_ms(self) -> int: ...
    @property
    def retry_backoff_max_ms(self) -> int: ...


@dataclass(slots=True)
class Counters:
    """What the sender has done so far; batches count once, attempts each time."""

    requests: int = 0
    attempts: int = 0
    retries: int = 0
    records_acknowledged: int = 0
    records_failed: int = 0
    bytes_acknowledged: int = 0
    epoch_bumps: int = 0


class Settlement:
    """Settles batches, sends others back to their queues, and keeps sequences without gaps.

    What is settled is added to the list `settled` that each call is given, in that order.

    Args:
        options, accumulator, metadata: those of the sender.

    Attributes:
        producer: the producer id and epoch with which a partition begins; None until a broker has
            given one, and again when a partition has used up its epochs.
        counters: what the sender has done so far.
    """

    def __init__(
        self, options: SettlementOptions, accumulator: Accumulator, metadata: Metadata
    ) -> None:
        self._options = options
        self._accumulator = accumulator
        self._metadata = metadata
        self.producer: tuple[int, int] | None = None
        self.counters = Counters()

    # --- what came back -----------------------------------------------------------------------

    def take_results(
        self,
        queue: PartitionQueue,
        pairs: list[tuple[Batch, Result]],
        leader: Leader,
        now_ms: int,
        settled: list[Batch],
        *,
        is_alone: bool,
    ) -> None:
        """Decide about every batch of one partition of one request.

        Args:
            queue: the partition.
            pairs: its batches, with what became of each.
            leader: who was asked, under this partition's epoch.
            now_ms: the time.
            settled: see above.
            is_alone: the request had no other partition, so that an error of the whole request
                is this one's, with the leader that it names.
        """
        queue.in_flight = False
        successes = [index for index, (_, result) in enumerate(pairs) if is_success(result)]
        last_success = successes[-1] if successes else -1
        again: list[Batch] = []
        lost: list[Batch] = []
        restart = False
        for index, (batch, result) in enumerate(pairs):
            verdict = (
                Verdict.COMPLETE
                if isinstance(result, AppendedBatch) and result.error is None
                else self._judge(
                    batch,
                    error_in(result),
                    leader,
                    is_overtaken=index < last_success,
                    is_behind_failure=bool(again or lost),
                )
            )
            if verdict is Verdict.COMPLETE:
                self._complete(batch, result, settled)
            elif verdict is Verdict.FAIL:
                self.fail(batch, error_in(result), settled)
                if error_in(result).refresh_metadata:
                    self._metadata.expire(queue.topic)
                if index > last_success:
                    lost.append(batch)
            else:
                restart |= verdict is Verdict.RENUMBER
                again.append(batch)
        if successes:
            self._succeeded(queue, pairs[last_success][0])
        queue.closed.extendleft(reversed(again))
        if again:
            self._take_hint(queue, pairs[-1][1], is_alone=is_alone)
            self._back_off(queue, error_in(pairs[-1][1]), leader, now_ms)
        if self._options.enable_idempotence:
            if restart:
                self._restart(queue, leader, [error_in(result) for _, result in pairs], settled)
            elif lost:
                self._mend(queue, lost)
        if not queue.is_empty:
            self._accumulator.active[queue] = None

    def _succeeded(self, queue: PartitionQueue, batch: Batch) -> None:
        if (batch.producer_id, batch.producer_epoch) == (queue.producer_id, queue.producer_epoch):
            queue.is_established = True
        queue.failures = 0
        queue.retry_at_ms = 0
        self._metadata.trust(queue.topic, queue.partition)

    def _judge(
        self,
        batch: Batch,
        error: OttlaError,
        leader: Leader,
        *,
        is_overtaken: bool,
        is_behind_failure: bool,
    ) -> Verdict:
        """What an error means for one batch.

        Args:
            batch: the batch, with what earlier attempts left uncertain.
            error: what this attempt brought.
            leader: who was asked.
            is_overtaken: a later batch of the same request was accepted.
            is_behind_failure: an earlier batch of the same request was not.
        """
        batch.attempts += 1
        batch.last_error = error
        was_uncertain, uncertain_leaders = batch.maybe_applied, batch.uncertain_leaders
        is_definite = error.outcome is Outcome.NOT_APPLIED
        if not is_definite:
            batch.maybe_applied = True
            batch.uncertain_leaders |= {leader.node_id}
            if self._options.acks == 0:
                # It was sent, and nobody asked for more.
                return Verdict.COMPLETE
        if isinstance(error, SEQUENCE_ERRORS) and batch.is_numbered:
            if isinstance(error, OutOfOrderSequenceNumberError) and is_behind_failure:
                return self._retry_or_fail(batch, is_retriable=True)
            return judge_sequence(
                batch,
                error,
                was_uncertain=was_uncertain,
                is_same=leader.node_id in uncertain_leaders,
            )
        if is_overtaken and is_definite:
            # To send it now would put it behind a later one.
            return Verdict.FAIL
        return self._retry_or_fail(batch, is_retriable=error.retriable)

    def _retry_or_fail(self, batch: Batch, *, is_retriable: bool) -> Verdict:
        if not is_retriable or batch.attempts > self._options.retries:
            return Verdict.FAIL
        self.counters.retries += 1
        # If its time is over, the next poll gives it up and tells that reason.
        return Verdict.RETRY

    def _complete(self, batch: Batch, result: Result, settled: list[Batch]) -> None:
        if isinstance(result, AppendedBatch) and self._options.acks != 0:
            batch.complete(result.base_offset, result.timestamp)
        else:
            batch.complete(NO_OFFSET, batch.max_timestamp)
        self.counters.records_acknowledged += batch.count
        self.counters.bytes_acknowledged += batch.size_bytes
        self._accumulator.settled(batch)
        settled.append(batch)

    def fail(self, batch: Batch, error: OttlaError, settled: list[Batch]) -> None:
        """Give the batch up; its error tells what is certain after all its attempts."""
        batch.fail(as_told(batch, error))
        self.counters.records_failed += batch.count
        self._accumulator.settled(batch)
        settled.append(batch)

    def _back_off(
        self, queue: PartitionQueue, error: OttlaError, leader: Leader, now_ms: int
    ) -> None:
        """Let the partition wait, unless somebody else leads it by now."""
        queue.failures += 1
        queue.retry_at_ms = now_ms + self.backoff_ms(queue.failures)
        if error.refresh_metadata or error.outcome is not Outcome.NOT_APPLIED:
            self._metadata.suspect(queue.topic, queue.partition, leader.leader_epoch)
        known = self._metadata.leader(queue.topic, queue.partition)
        if known is not None and known.leader_epoch > leader.leader_epoch:
            queue.retry_at_ms = 0

    def _take_hint(self, queue: PartitionQueue, result: Result, *, is_alone: bool) -> None:
        """Who leads the partition, if its error tells that."""
        if not is_alone and isinstance(result, OttlaError):
            # Of several partitions together: it names the leader of one, and its epoch.
            return
        error = error_in(result)
        members = error.members
        if isinstance(error, RoutingError) and "leader_url" in members:
            self._metadata.hint(
                queue.topic,
                queue.partition,
                int(members["leader"]),
                str(members["leader_url"]),
                int(members.get("leader_epoch", -1)),
            )

    def backoff_ms(self, failures: int) -> int:
        """How long to wait after so many failures in a row."""
        doublings = min(failures - 1, MAX_BACKOFF_DOUBLINGS)
        longest_ms = max(self._options.retry_backoff_ms, self._options.retry_backoff_max_ms)
        return min(self._options.retry_backoff_ms << doublings, longest_ms)

    # --- what has no time left ----------------------------------------------------------------

    def give_up_expired(self, queue: PartitionQueue, now_ms: int, settled: list[Batch]) -> None:
        """Fail what has no time left, or no topic."""
        gone = self._metadata.gone(queue.topic)
        lost: list[Batch] = []
        while (oldest := queue.oldest) is not None:
            if gone is None and now_ms < oldest.deadline_ms:
                break
            if not queue.closed:
                self._accumulator.close_open(queue)
            lost.append(queue.closed.popleft())
            self.fail(oldest, gone or self._timed_out(oldest), settled)
        if lost and self._options.enable_idempotence:
            self._mend(queue, lost)
        if queue.is_empty:
            self._metadata.trust(queue.topic, queue.partition)

    def _timed_out(self, batch: Batch) -> DeliveryTimeoutError:
        cause: Exception | None = batch.last_error
        if cause is None and self._metadata.reasons:
            cause = ClusterUnreachableError.after(
                batch.deadline_ms - batch.opened_ms, self._metadata.reasons
            )
        return timed_out(batch, cause)

    # --- sequences that are lost --------------------------------------------------------------

    def _mend(self, queue: PartitionQueue, lost: list[Batch]) -> None:
        """Close the gap that batches given up leave in the sequences; see rules 3 and 4."""
        first = next((batch for batch in lost if batch.is_numbered), None)
        if first is None:
            return
        behind = [
            batch for batch in queue.closed if batch.is_numbered and batch.order > first.order
        ]
        is_current = (first.producer_id, first.producer_epoch) == (
            queue.producer_id,
            queue.producer_epoch,
        )
        if is_current and not any(batch.maybe_applied for batch in (*lost, *behind)):
            queue.next_sequence = first.base_sequence
        elif is_current:
            self._bump_epoch(queue)
        for batch in behind:
            if not batch.maybe_applied:
                batch.forget_number()

    def _restart(
        self,
        queue: PartitionQueue,
        leader: Leader,
        errors: list[OttlaError],
        settled: list[Batch],
    ) -> None:
        """The leader does not know the sequences before ours: begin again under a new epoch."""
        for error in errors:
            if isinstance(error, InvalidProducerEpochError):
                seen = error.members.get("producer_epoch")
                if isinstance(seen, int):
                    queue.producer_epoch = min(max(queue.producer_epoch, seen), MAX_PRODUCER_EPOCH)
        self._bump_epoch(queue)
        for batch in [batch for batch in queue.closed if batch.is_numbered]:
            if batch.maybe_applied and leader.node_id in batch.uncertain_leaders:
                # That attempt may still arrive there, so a copy under another number might be a
                # second one.
                queue.closed.remove(batch)
                assert batch.last_error is not None, "uncertain without an attempt"
                self.fail(batch, batch.last_error, settled)
            else:
                batch.forget_number()

    def _bump_epoch(self, queue: PartitionQueue) -> None:
        """Begin again at sequence 0 under the next epoch; see rule 4."""
        self.counters.epoch_bumps += 1
        queue.next_sequence = 0
        queue.is_established = False
        if queue.producer_epoch < MAX_PRODUCER_EPOCH:
            queue.producer_epoch += 1
            return
        # The epochs of this id are used up here. Other partitions may go on with it.
        if self.producer is not None and self.producer[0] == queue.producer_id:
            self.producer = None
        queue.producer_id = NO_PRODUCER_ID
