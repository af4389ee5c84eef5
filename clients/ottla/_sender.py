"""Which batches go to which leader now, and what every answer means for them.

Pure: `poll(now_ms)` returns what to do, the driver does it and reports each answer back. Both tell
which batches are settled by it, whose futures the driver then announces.

Order and exactly once rest on four rules:

1. A partition has at most one request out. What comes back from it is decided before anything else
   of that partition is sent, so a failed batch never lets a later one pass.
2. A request carries at most five batches of one partition, counted from the oldest that is not
   settled, because that is what the broker remembers of a producer: a repeated request gets the
   first offsets again. Until the leader has
   accepted a batch under this producer id and epoch, it carries one: a leader that knows nothing of
   a producer takes any sequence for the first.
3. A batch that perhaps was appended is not sent under another number. A batch that certainly was
   not may be: when a batch before it is given up, its sequences are free again.
4. Where sequences are lost (given up without knowing whether they were appended), the partition
   goes on under the next producer epoch, from sequence 0, which also fences what is still on its
   way.

Without idempotence there are no numbers: a batch that perhaps was appended is sent again and may be
stored twice, as in Kafka, but rule 1 keeps the order.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
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
from ottla_protocol.record_batch import NO_PRODUCER_ID, add_sequence

MAX_BATCHES_PER_PARTITION: Final = 5
"""Batches of one partition in one request: what brokers remember of each producer."""

MAX_BATCHES_PER_REQUEST: Final = 5_000
"""Batches of one request, below what brokers refuse."""

MAX_PRODUCER_EPOCH: Final = 2**15 - 1

MAX_BACKOFF_DOUBLINGS: Final = 20


class SenderOptions(Protocol):
    """The options that matter here; `ProducerConfig` has them."""

    @property
    def acks(self) -> int: ...
    @property
    def enable_idempotence(self) -> bool: ...
    @property
    def max_in_flight(self) -> int: ...
    @property
    def max_request_size(self) -> int: ...
    @property
    def retries(self) -> int: ...
    @property
    def retry_backoff_ms(self) -> int: ...
    @property
    def retry_backoff_max_ms(self) -> int: ...
    @property
    def request_timeout_ms(self) -> int: ...


@dataclass(frozen=True, slots=True, eq=False)
class ProduceCall:
    """One request to one leader: its batches in order, those of one partition side by side."""

    leader: Leader
    batches: tuple[Batch, ...]
    timeout_ms: int


@dataclass(frozen=True, slots=True)
class Actions:
    """What the driver has to do.

    Attributes:
        calls: requests to send now.
        settled: batches that are done, to be announced.
        wants_producer_id: ask a broker for a producer id; report it before the next poll that may
            ask again.
        next_poll_ms: when to poll again although nothing happens; None is never.
    """

    calls: tuple[ProduceCall, ...]
    settled: tuple[Batch, ...]
    wants_producer_id: bool
    next_poll_ms: int | None


@dataclass(slots=True)
class _Draft:
    leader: Leader
    batches: list[Batch] = field(default_factory=list)
    size_bytes: int = 0


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


class Sender:
    """The state machine between an accumulator and the leaders."""

    def __init__(
        self, options: SenderOptions, accumulator: Accumulator, metadata: Metadata
    ) -> None:
        self._options = options
        self._accumulator = accumulator
        self._metadata = metadata
        self._in_flight: dict[int, int] = {}
        self._producer: tuple[int, int] | None = None
        self._is_asking_for_id = False
        self._ask_not_before_ms = 0
        self._id_failures = 0
        self.counters = Counters()

    @property
    def requests_in_flight(self) -> int:
        """Requests that are out at this moment."""
        return sum(self._in_flight.values())

    # --- what to do now -----------------------------------------------------------------------

    def poll(self, now_ms: int) -> Actions:
        """Take whatever may be sent now out of the queues."""
        settled: list[Batch] = []
        drafts: dict[int, list[_Draft]] = {}
        next_ms: list[int] = []
        wants_id = False
        for queue in list(self._accumulator.active):
            self._give_up(queue, now_ms, settled)
            if queue.is_empty:
                del self._accumulator.active[queue]
                continue
            oldest = queue.oldest
            assert oldest is not None, "empty"
            next_ms.append(oldest.deadline_ms)
            ready_ms = self._accumulator.ready_at_ms(queue)
            if ready_ms > now_ms:
                next_ms.append(ready_ms)
                continue
            leader = self._metadata.leader(queue.topic, queue.partition)
            if leader is None:
                self._metadata.suspect(queue.topic, queue.partition, self._known_epoch(queue))
                continue
            if self._options.enable_idempotence and queue.producer_id == NO_PRODUCER_ID:
                if self._producer is None:
                    wants_id = True
                    continue
                queue.producer_id, queue.producer_epoch = self._producer
            self._draft(queue, leader, drafts.setdefault(leader.node_id, []), now_ms)
        calls = [self._call(draft, now_ms) for each in drafts.values() for draft in each]
        if wants_id and not self._is_asking_for_id and self._ask_not_before_ms > now_ms:
            next_ms.append(self._ask_not_before_ms)
        may_ask = wants_id and not self._is_asking_for_id and self._ask_not_before_ms <= now_ms
        self._is_asking_for_id |= may_ask
        return Actions(tuple(calls), tuple(settled), may_ask, min(next_ms, default=None))

    def _known_epoch(self, queue: PartitionQueue) -> int:
        topic = self._metadata.topic(queue.topic)
        if topic is None or queue.partition >= len(topic.partitions):
            return -1
        return topic.partitions[queue.partition].leader_epoch

    def _draft(
        self, queue: PartitionQueue, leader: Leader, drafts: list[_Draft], now_ms: int
    ) -> None:
        """Move what may go of this queue into the leader's last request, or into a new one."""
        oldest = queue.oldest
        assert oldest is not None, "empty"
        limit_bytes = self._options.max_request_size
        is_full = not drafts or (
            drafts[-1].size_bytes + oldest.current_size_bytes > limit_bytes
            or len(drafts[-1].batches) >= MAX_BATCHES_PER_REQUEST
        )
        if is_full:
            out = self._in_flight.get(leader.node_id, 0) + len(drafts)
            if out >= self._options.max_in_flight:
                # An open batch is left open: it may grow until its turn comes.
                return
            drafts.append(_Draft(leader))
        if not queue.closed:
            self._accumulator.close_open(queue)
        draft = drafts[-1]
        batches = self._take(queue, limit_bytes - draft.size_bytes, now_ms)
        draft.batches += batches
        draft.size_bytes += sum(batch.size_bytes for batch in batches)
        queue.in_flight = True
        del self._accumulator.active[queue]

    def _take(self, queue: PartitionQueue, room_bytes: int, now_ms: int) -> list[Batch]:
        """The batches of one partition for one request, numbered; at least one."""
        batches: list[Batch] = []
        is_idempotent = self._options.enable_idempotence
        most = MAX_BATCHES_PER_PARTITION if is_idempotent and queue.is_established else 1
        while len(batches) < most:
            if not queue.closed:
                if queue.open is None or not self._accumulator.is_open_ready(queue.open, now_ms):
                    break
                self._accumulator.close_open(queue)
            batch = queue.closed[0]
            if batches and (
                batch.size_bytes > room_bytes
                # Behind one that comes again there are some that need not: they count too.
                or batch.order - batches[0].order >= most
            ):
                break
            if is_idempotent and not batch.is_numbered:
                if batches and batches[0].producer_epoch != queue.producer_epoch:
                    break
                batch.number(queue.producer_id, queue.producer_epoch, queue.next_sequence)
                queue.next_sequence = add_sequence(queue.next_sequence, batch.count)
            elif batches and batches[0].producer_epoch != batch.producer_epoch:
                break
            room_bytes -= batch.size_bytes
            batches.append(queue.closed.popleft())
        return batches

    def _call(self, draft: _Draft, now_ms: int) -> ProduceCall:
        node_id = draft.leader.node_id
        self._in_flight[node_id] = self._in_flight.get(node_id, 0) + 1
        self.counters.requests += 1
        self.counters.attempts += len(draft.batches)
        remaining_ms = min(batch.deadline_ms for batch in draft.batches) - now_ms
        timeout_ms = max(1, min(self._options.request_timeout_ms, remaining_ms))
        return ProduceCall(draft.leader, tuple(draft.batches), timeout_ms)

    # --- producer ids -------------------------------------------------------------------------

    def on_producer_id(self, producer_id: int, producer_epoch: int) -> None:
        """A broker gave us an id."""
        self._is_asking_for_id = False
        self._id_failures = 0
        self._producer = (producer_id, producer_epoch)

    def on_producer_id_failed(self, error: OttlaError, now_ms: int) -> list[Batch]:
        """A broker gave us none: try again later, or give up what waits for it.

        Returns:
            The batches that are settled by it.
        """
        self._is_asking_for_id = False
        self._id_failures += 1
        self._ask_not_before_ms = now_ms + self._backoff_ms(self._id_failures)
        settled: list[Batch] = []
        for queue in list(self._accumulator.active):
            if queue.producer_id != NO_PRODUCER_ID:
                continue
            if queue.open is not None:
                self._accumulator.close_open(queue)
            for batch in list(queue.closed):
                batch.last_error = error
                if not error.retriable:
                    queue.closed.remove(batch)
                    self._fail(batch, error, settled)
        return settled

    def _bump_epoch(self, queue: PartitionQueue) -> None:
        """Begin again at sequence 0 under the next epoch; see rule 4."""
        self.counters.epoch_bumps += 1
        queue.next_sequence = 0
        queue.is_established = False
        if queue.producer_epoch < MAX_PRODUCER_EPOCH:
            queue.producer_epoch += 1
            return
        # The epochs of this id are used up here. Other partitions may go on with it.
        if self._producer is not None and self._producer[0] == queue.producer_id:
            self._producer = None
        queue.producer_id = NO_PRODUCER_ID

    # --- what came back -----------------------------------------------------------------------

    def on_answer(self, call: ProduceCall, results: Sequence[Result], now_ms: int) -> list[Batch]:
        """Take in what a request brought, one result per batch in its order.

        Returns:
            The batches that are settled by it.
        """
        assert len(results) == len(call.batches), "one result per batch"
        self._in_flight[call.leader.node_id] -= 1
        settled: list[Batch] = []
        pairs = zip(call.batches, results, strict=True)
        for queue, group in groupby(pairs, key=lambda pair: pair[0].queue):
            self._take_results(queue, list(group), call.leader, now_ms, settled)
        return settled

    def on_failure(self, call: ProduceCall, error: OttlaError, now_ms: int) -> list[Batch]:
        """Take in that a request failed as a whole; `error.outcome` None counts as unknown."""
        return self.on_answer(call, [error] * len(call.batches), now_ms)

    def on_new_leaders(self, partitions: Iterable[tuple[str, int]]) -> None:
        """These partitions have a newer leader epoch: what waits for a retry need not wait."""
        for topic, partition in partitions:
            self._accumulator.queue(topic, partition).retry_at_ms = 0

    def abort(self, error: OttlaError) -> list[Batch]:
        """Give up everything, what is in flight too; nothing is sent or reported afterwards."""
        settled: list[Batch] = []
        for batch in list(self._accumulator.unsettled):
            queue = batch.queue
            if queue.in_flight and batch is not queue.open and batch not in queue.closed:
                batch.maybe_applied = True
            if batch is queue.open:
                self._accumulator.close_open(queue)
            self._fail(batch, error, settled)
        self._accumulator.active.clear()
        return settled

    def _take_results(
        self,
        queue: PartitionQueue,
        pairs: list[tuple[Batch, Result]],
        leader: Leader,
        now_ms: int,
        settled: list[Batch],
    ) -> None:
        """Decide about every batch of one partition of one request."""
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
                self._fail(batch, error_in(result), settled)
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

    def _fail(self, batch: Batch, error: OttlaError, settled: list[Batch]) -> None:
        batch.fail(as_told(batch, error))
        self.counters.records_failed += batch.count
        self._accumulator.settled(batch)
        settled.append(batch)

    def _back_off(
        self, queue: PartitionQueue, error: OttlaError, leader: Leader, now_ms: int
    ) -> None:
        """Let the partition wait, unless somebody else leads it by now."""
        queue.failures += 1
        queue.retry_at_ms = now_ms + self._backoff_ms(queue.failures)
        members = error.members
        if isinstance(error, RoutingError) and "leader_url" in members:
            self._metadata.hint(
                queue.topic,
                queue.partition,
                int(members["leader"]),
                str(members["leader_url"]),
                int(members.get("leader_epoch", -1)),
            )
        if error.refresh_metadata or error.outcome is not Outcome.NOT_APPLIED:
            self._metadata.suspect(queue.topic, queue.partition, leader.leader_epoch)
        known = self._metadata.leader(queue.topic, queue.partition)
        if known is not None and known.leader_epoch > leader.leader_epoch:
            queue.retry_at_ms = 0

    def _backoff_ms(self, failures: int) -> int:
        doublings = min(failures - 1, MAX_BACKOFF_DOUBLINGS)
        longest_ms = max(self._options.retry_backoff_ms, self._options.retry_backoff_max_ms)
        return min(self._options.retry_backoff_ms << doublings, longest_ms)

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
                self._fail(batch, batch.last_error, settled)
            else:
                batch.forget_number()

    def _give_up(self, queue: PartitionQueue, now_ms: int, settled: list[Batch]) -> None:
        """Fail what has no time left, or no topic."""
        gone = self._metadata.gone(queue.topic)
        lost: list[Batch] = []
        while (oldest := queue.oldest) is not None:
            if gone is None and now_ms < oldest.deadline_ms:
                break
            if not queue.closed:
                self._accumulator.close_open(queue)
            lost.append(queue.closed.popleft())
            self._fail(oldest, gone or self._timed_out(oldest), settled)
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
