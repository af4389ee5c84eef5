"""Which batches go to which leader now, and under which numbers.

Pure: `poll(now_ms)` returns what to do, the driver does it and reports each answer back. Both tell
which batches are settled by it, whose futures the driver then announces. What an answer means for
its batches is for `_settlement` to say.

Order and exactly once rest on four rules. The first two are kept here, the others there:

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
from ottla._batch import Batch
from ottla._metadata import Leader, Metadata
from ottla._settlement import Settlement, SettlementOptions
from ottla._verdict import Result
from ottla_protocol.errors import OttlaError
from ottla_protocol.record_batch import NO_PRODUCER_ID, add_sequence

MAX_BATCHES_PER_PARTITION: Final = 5
"""Batches of one partition in one request: what brokers remember of each producer."""

MAX_BATCHES_PER_REQUEST: Final = 5_000
"""Batches of one request, below what brokers refuse."""


class SenderOptions(SettlementOptions, Protocol):
    """The options that matter here and to the settlement; `ProducerConfig` has them."""

    @property
    def max_in_flight(self) -> int: ...
    @property
    def max_request_size(self) -> int: ...
    @property
    def request_timeout_ms(self) -> int: ...


@dataclass(frozen=True, slots=True, eq=False)
class ProduceCall:
    """One request to one leader: its batches in order, those of one partition side by side.

    `leader` is under the first one's epoch; each has its own, `PartitionQueue.sent_epoch`.
    """

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


class Sender:
    """The state machine between an accumulator and the leaders.

    Args:
        options: the producer's.
        accumulator: the batches.
        metadata: who leads what.
        settlement: settles the batches; None makes an ordinary one of the same three.

    Attributes:
        counters: what the sender has done so far.
    """

    def __init__(
        self,
        options: SenderOptions,
        accumulator: Accumulator,
        metadata: Metadata,
        settlement: Settlement | None = None,
    ) -> None:
        self._options = options
        self._accumulator = accumulator
        self._metadata = metadata
        self._settlement = settlement or Settlement(options, accumulator, metadata)
        self._in_flight: dict[int, int] = {}
        self._is_asking_for_id = False
        self._ask_not_before_ms = 0
        self._id_failures = 0
        self.counters = self._settlement.counters

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
        settlement = self._settlement
        for queue in list(self._accumulator.active):
            settlement.give_up_expired(queue, now_ms, settled)
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
                if settlement.producer is None:
                    wants_id = True
                    continue
                queue.producer_id, queue.producer_epoch = settlement.producer
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
        queue.sent_epoch = leader.leader_epoch
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
        self._settlement.producer = (producer_id, producer_epoch)

    def on_producer_id_failed(self, error: OttlaError, now_ms: int) -> list[Batch]:
        """A broker gave us none: try again later, or give up what waits for it.

        Returns:
            The batches that are settled by it.
        """
        self._is_asking_for_id = False
        self._id_failures += 1
        self._ask_not_before_ms = now_ms + self._settlement.backoff_ms(self._id_failures)
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
                    self._settlement.fail(batch, error, settled)
        return settled

    # --- what came back -----------------------------------------------------------------------

    def on_answer(self, call: ProduceCall, results: Sequence[Result], now_ms: int) -> list[Batch]:
        """Take in what a request brought, one result per batch in its order.

        One that failed as a whole brings its error for each; an `outcome` of None is unknown.

        Returns:
            The batches that are settled by it.
        """
        assert len(results) == len(call.batches), "one result per batch"
        self._in_flight[call.leader.node_id] -= 1
        settled: list[Batch] = []
        pairs = zip(call.batches, results, strict=True)
        for queue, group in groupby(pairs, key=lambda pair: pair[0].queue):
            leader = call.leader._replace(leader_epoch=queue.sent_epoch)
            self._settlement.take_results(
                queue,
                list(group),
                leader,
                now_ms,
                settled,
                is_alone=call.batches[0].queue is call.batches[-1].queue,
            )
        return settled

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
            self._settlement.fail(batch, error, settled)
        self._accumulator.active.clear()
        return settled
