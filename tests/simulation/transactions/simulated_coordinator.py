"""The coordinator of all transactional ids, on a log like any other's, with failovers."""

from ottla_cluster.state_machine.keyed_records import decode_pairs
from ottla_cluster.transactions.active_coordinator import ActiveTransactionCoordinator
from ottla_cluster.transactions.commands import EndTransaction, InitialiseProducer
from ottla_cluster.transactions.config import TransactionConfig
from ottla_cluster.transactions.image import TransactionsImage, replay
from ottla_cluster.transactions.records import decode_record
from ottla_protocol.errors import NotCoordinatorError, OttlaError

COMMIT_MAX_MS = 60
TICK_MS = 40
PRODUCER_IDS_PER_BLOCK = 20
DECIDING = (EndTransaction, InitialiseProducer)
"""Commands that may end a transaction."""


class SimulatedCoordinator:
    """Its decisions are committed late, and may be lost with it before.

    Args:
        events: the event heap.
        random: the run's one generator.
        send_marker: called with (decision, partition, told) for each marker, again and again.
    """

    def __init__(self, events, random, send_marker):
        self.active = None
        self.epoch = 0
        self.leaderships = 0
        self.loss = 0.05  # of coordinators, while they decide
        self._events = events
        self._random = random
        self._send_marker = send_marker
        self._batches = []  # each a decision's records
        self._high_watermark = 0
        self._answers = {}  # by request id
        self._wall_ahead_ms = 0
        self._next_producer_id = 1
        self._load(self.epoch)
        events.after(TICK_MS, self._tick)

    @property
    def wall_ms(self):
        return 10**12 + self._events.now_ms + self._wall_ahead_ms

    def execute(self, command, answer):
        """Have a command decided; `answer` is called with a response or an error, if ever."""
        if self.active is None:
            answer(NotCoordinatorError("loading"))
            return
        self._submit(command, answer)

    def _submit(self, command, answer):
        active, now_ms = self.active, self._events.now_ms
        try:
            submitted = active.submit(command, now_ms, self.wall_ms)
        except OttlaError as error:
            answer(error)
            return
        if submitted.response is not None:
            answer(submitted.response)
        else:
            self._answers[submitted.request_id] = answer
        if submitted.payload is not None:
            if self._random.random() < 0.01:
                refused = NotCoordinatorError("the log has no room")
                self._give(active.append_failed(submitted.request_id, refused, now_ms))
                return
            pairs = decode_pairs(submitted.payload)
            self._batches.append([decode_record(*pair) for pair in pairs])
            active.appended(submitted.request_id, len(self._batches))
            delay_ms = self._random.randint(1, COMMIT_MAX_MS)
            self._events.after(delay_ms, self._commit, self.epoch, len(self._batches))
            if isinstance(command, DECIDING) and self._random.random() < self.loss:
                # The moment at which a decision can be lost that somebody has heard of.
                self._events.after(self._random.randint(1, COMMIT_MAX_MS), self.failover, 50)

    def _commit(self, epoch, offset):
        if epoch != self.epoch or offset <= self._high_watermark:
            return
        self._high_watermark = offset
        if self.active is not None:
            self._give(self.active.committed(offset, self._events.now_ms))

    def _give(self, completed):
        for each in completed:
            answer = self._answers.pop(each.request_id, None)
            if answer is not None:
                answer(each.outcome)

    def _tick(self):
        self._events.after(TICK_MS, self._tick)
        if self.active is None:
            return
        epoch, now_ms = self.epoch, self._events.now_ms
        if self.active.producer_ids_left < PRODUCER_IDS_PER_BLOCK:
            first = self._next_producer_id
            self._next_producer_id += PRODUCER_IDS_PER_BLOCK
            self.active.add_producer_ids(range(first, self._next_producer_id))
        for command in self.active.due(now_ms, self.wall_ms):
            self._submit(command, lambda _: None)
        for decision in self.active.markers_to_write():
            for partition in sorted(decision.partitions):
                self._send_marker(
                    decision,
                    partition,
                    lambda decision=decision, partition=partition: self._written(
                        epoch, decision, partition
                    ),
                )

    def _written(self, epoch, decision, partition):
        if epoch == self.epoch and self.active is not None:
            self.active.marker_written(decision.transactional_id, decision.marker, partition)

    def failover(self, down_ms):
        """The coordinator is gone, and what it had not committed may be; clocks differ."""
        self.epoch += 1
        active, self.active = self.active, None
        if active is not None:
            self._give(active.lost_leadership())
        self._answers.clear()
        del self._batches[self._random.randint(self._high_watermark, len(self._batches)) :]
        self._wall_ahead_ms = self._random.choice((0, 0, -3_600_000, 3_600_000, 500))
        self._events.after(down_ms, self._load, self.epoch)

    def _load(self, epoch):
        if epoch != self.epoch:
            return
        self._high_watermark = len(self._batches)
        image = TransactionsImage()
        records = [record for batch in self._batches for record in batch]
        if records:
            image = replay(image, records, len(self._batches))
        self.leaderships += 1
        self.active = ActiveTransactionCoordinator(
            image, TransactionConfig(), self._events.now_ms, self.wall_ms
        )
