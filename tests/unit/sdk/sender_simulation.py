"""A producer's machines against brokers that lose, delay, repeat and move things; all by one seed.

The log is the part that the simulation trusts: it is one list per partition, as if replication were
perfect, judged by the broker's own producer states. Everything around it fails: requests and
answers get lost, a request arrives long after its sender has given it up, leaders move, metadata is
stale, a partition refuses for a while, one batch is refused for good.
"""

import heapq
from itertools import count, groupby
from random import Random

from ottla._accumulator import Accumulator, record_size_bytes
from ottla._config import ProducerConfig
from ottla._metadata import Metadata
from ottla._sender import Sender
from ottla._transport import BrokerUnreachableError
from ottla_broker.storage.policy.producer_state import Duplicate, ProducerAppend, ProducerStates
from ottla_protocol.errors import (
    MessageTooLargeError,
    NotEnoughReplicasAfterAppendError,
    NotEnoughReplicasError,
    NotLeaderOrFollowerError,
    OttlaError,
    Outcome,
)
from ottla_protocol.models import (
    AppendedBatch,
    BrokerDescription,
    MetadataResponse,
    PartitionDescription,
    TopicDescription,
)
from ottla_protocol.record_batch import Compression, validate_batch
from ottla_protocol.record_codec import decode_batch

MAX_BATCH_BYTES = 2_000
"""Of the topic: small, so that batches behind a backlog meet it."""

TOPIC = "flights"
BROKERS = (1, 2, 3)
CALM_MS = 60_000
"""How long the brokers are given to settle everything once nothing fails any more."""


class PartitionModel:
    """One partition: its log, its producer states, its leader."""

    def __init__(self, leader):
        self.leader = leader
        self.leader_epoch = 0
        self.values = []
        self.states = ProducerStates()

    def append(self, data):
        """Append a batch as the leader does; returns (base offset, count)."""
        header = validate_batch(data, on_append=True)
        verdict = self.states.check(header)
        if isinstance(verdict, Duplicate):
            return verdict.base_offset, verdict.last_offset - verdict.base_offset + 1
        base_offset = len(self.values)
        records = decode_batch(data, max_inflated_bytes=1 << 20)
        self.values += [int(record.value) for record in records]
        self.states.append(
            ProducerAppend(
                header.producer_id,
                header.producer_epoch,
                header.base_sequence,
                base_offset,
                len(self.values) - 1,
                header.max_timestamp,
                is_transactional=False,
                is_control=False,
            )
        )
        return base_offset, len(records)


class SenderSimulation:
    """One producer, three brokers, and what can go wrong between them."""

    def __init__(
        self, seed, *, sender_type=Sender, partitions=3, records=300, first_epoch=0, **options
    ):
        self.random = Random(seed)
        self.partitions = [PartitionModel(self.random.choice(BROKERS)) for _ in range(partitions)]
        self.records = records
        config = ProducerConfig.from_options(
            {
                "bootstrap_servers": "http://b:1,http://b:2,http://b:3",
                "batch_size": 200,
                "buffer_memory": 20_000,
                "linger_ms": self.random.choice((0, 5)),
                "request_timeout_ms": 1_000,
                "delivery_timeout_ms": self.random.choice((1_500, 5_000, 60_000)),
                "max_in_flight": self.random.choice((1, 2, 5)),
                **options,
            }
        )
        self.config = config
        self.accumulator = Accumulator(
            batch_size=config.batch_size,
            buffer_memory=config.buffer_memory,
            max_request_size=config.max_request_size,
            linger_ms=config.linger_ms,
            delivery_timeout_ms=config.delivery_timeout_ms,
        )
        self.metadata = Metadata(
            config.bootstrap_servers,
            max_age_ms=config.metadata_max_age_ms,
            retry_backoff_ms=config.retry_backoff_ms,
        )
        self.metadata.watch(TOPIC)
        self.sender = sender_type(config, self.accumulator, self.metadata)
        self.now_ms = 0
        self.is_calm = False
        self.first_epoch = first_epoch
        self.producer_ids = count(7)
        self.placed = {}  # value -> (batch, index)
        self.sent = [[] for _ in self.partitions]
        self.out = dict.fromkeys(range(partitions), 0)
        self.failures_to_come = {}
        self.settled_at = {}
        self._events = []
        self._order = count()
        self._values = count()
        self._old_answers = [self._describe()]

    # --- time -----------------------------------------------------------------------------------

    def at(self, delay_ms, action):
        heapq.heappush(self._events, (self.now_ms + delay_ms, next(self._order), action))

    def run(self):
        """Send every record under faults, then calm down and let everything settle."""
        for index in range(self.records):
            self.at(index * 7, self._send_record)
        for index in range(self.records // 20):
            self.at(self.random.randrange(self.records * 7), self._move_leader)
            self.at(self.random.randrange(self.records * 7), self._refuse_for_a_while)
            self.at(index * 100, self._remember_metadata)
        self.at(self.records * 7 + 2_000, self._calm_down)
        end_ms = self.records * 7 + 2_000 + CALM_MS
        self._poll()
        while self._events and self.now_ms < end_ms:
            self.now_ms, _, action = heapq.heappop(self._events)
            action()
            self._poll()
            if self.is_calm and not self.accumulator.unsettled:
                break
        return self.check()

    def _calm_down(self):
        self.is_calm = True
        self.failures_to_come.clear()

    def _chance(self, probability):
        return not self.is_calm and self.random.random() < probability

    # --- the producer ---------------------------------------------------------------------------

    def _send_record(self):
        partition = self.random.randrange(len(self.partitions))
        value = next(self._values)
        data = (self.now_ms, None, b"%d" % value, [])
        queue = self.accumulator.queue(TOPIC, partition)
        queue.max_batch_bytes = MAX_BATCH_BYTES
        batch = queue.open
        if batch is None or batch.append(batch.count, *data) is None:
            batch = self.accumulator.open_batch(
                queue, record_size_bytes(None, data[2], []), self.now_ms
            )
            if batch is None:
                return  # The buffer is full; a real caller waits.
            batch.append(0, *data)
        self.placed[value] = (batch, batch.count)
        batch.count += 1
        batch.max_timestamp = self.now_ms
        self.sent[partition].append(value)

    def _poll(self):
        actions = self.sender.poll(self.now_ms)
        self._settle(actions.settled)
        for call in actions.calls:
            self._carry(call)
        if actions.wants_producer_id:
            self.at(self.random.randrange(1, 30), self._give_id)
        fetch = self.metadata.next_fetch(self.now_ms)
        if fetch is not None:
            self.at(self.random.randrange(1, 30), lambda: self._answer_metadata(fetch))
        times = (actions.next_poll_ms, self.metadata.next_fetch_ms(self.now_ms))
        due = [each for each in times if each is not None]
        if due:
            self.at(max(1, min(due) - self.now_ms), lambda: None)

    def _settle(self, batches):
        for batch in batches:
            assert batch.is_done
            batch.announce()
            self.settled_at[batch] = self.now_ms

    def _give_id(self):
        if self._chance(0.2):
            error = BrokerUnreachableError("no answer", outcome=Outcome.UNKNOWN)
            self._settle(self.sender.on_producer_id_failed(error, self.now_ms))
        else:
            self.sender.on_producer_id(next(self.producer_ids), self.first_epoch)

    # --- the network ----------------------------------------------------------------------------

    def _carry(self, call):
        """Take one request to its broker, or not; and its answer back, or not."""
        for queue, batches in groupby(call.batches, key=lambda batch: batch.queue):
            # The first rule of the sender, checked from the outside.
            self.out[queue.partition] += 1
            assert self.out[queue.partition] == 1, "two requests of one partition are out"
            assert len(list(batches)) <= 5
        sent = [
            (batch.queue.partition, bytes(batch.encode(Compression.NONE)), batch.count)
            for batch in call.batches
        ]
        broker = call.leader.node_id
        there_ms, back_ms = self.random.randrange(1, 60), self.random.randrange(1, 60)
        if self._chance(0.05):
            self._fail_later(call, there_ms, Outcome.NOT_APPLIED)
        elif self._chance(0.05):
            self._fail_later(call, there_ms, Outcome.UNKNOWN)
        elif self._chance(0.08):
            # Given up by the sender, and still on its way.
            self._fail_later(call, there_ms, Outcome.UNKNOWN)
            self.at(self.random.randrange(1, 2_500), lambda: self._serve(broker, sent))
        else:
            loses_answer, comes_twice = self._chance(0.1), self._chance(0.05)

            def arrive():
                results = self._serve(broker, sent)
                # A copy of what was answered with 'not applied' would make that a lie, which no
                # producer can help.
                if comes_twice and not any(isinstance(each, OttlaError) for each in results):
                    self.at(self.random.randrange(1, 500), lambda: self._serve(broker, sent))
                if loses_answer:
                    self._fail_later(call, back_ms, Outcome.UNKNOWN)
                else:
                    self.at(back_ms, lambda: self._report(call, results))

            self.at(there_ms, arrive)

    def _fail_later(self, call, delay_ms, outcome):
        error = BrokerUnreachableError("lost", outcome=outcome)
        self.at(delay_ms, lambda: self._report(call, [error] * len(call.batches)))

    def _report(self, call, results):
        for queue, _ in groupby(call.batches, key=lambda batch: batch.queue):
            self.out[queue.partition] -= 1
        self._settle(self.sender.on_answer(call, results, self.now_ms))

    # --- the brokers ----------------------------------------------------------------------------

    def _serve(self, broker, sent):
        return [self._append(broker, *each) for each in sent]

    def _append(self, broker, partition, data, records):
        model = self.partitions[partition]
        try:
            if model.leader != broker:
                raise NotLeaderOrFollowerError(
                    "not here",
                    outcome=Outcome.NOT_APPLIED,
                    leader=model.leader,
                    leader_url=f"http://b:{model.leader}",
                    leader_epoch=model.leader_epoch,
                )
            if self.failures_to_come.get(partition, 0) > 0:
                self.failures_to_come[partition] -= 1
                raise NotEnoughReplicasError("too few", outcome=Outcome.NOT_APPLIED)
            if self._chance(0.02):
                raise MessageTooLargeError("too large", outcome=Outcome.NOT_APPLIED)
            base_offset, appended = model.append(data)
            assert appended == records
            if self._chance(0.03):
                raise NotEnoughReplicasAfterAppendError("shrunk", outcome=Outcome.UNKNOWN)
        except OttlaError as error:
            return error
        return AppendedBatch(TOPIC, partition, base_offset, records, -1)

    def _move_leader(self):
        model = self.random.choice(self.partitions)
        model.leader = self.random.choice(BROKERS)
        model.leader_epoch += 1

    def _refuse_for_a_while(self):
        if not self.is_calm:
            partition = self.random.randrange(len(self.partitions))
            self.failures_to_come[partition] = self.random.randrange(1, 4)

    def _remember_metadata(self):
        self._old_answers.append(self._describe())

    def _describe(self):
        return MetadataResponse(
            "cluster",
            1,
            0,
            [BrokerDescription(each, f"http://b:{each}", "", "active", 1) for each in BROKERS],
            [
                TopicDescription(
                    TOPIC,
                    "id",
                    [
                        PartitionDescription(index, model.leader, model.leader_epoch, [1], [1])
                        for index, model in enumerate(self.partitions)
                    ],
                    {},
                )
            ],
        )

    def _answer_metadata(self, fetch):
        if self._chance(0.2):
            error = BrokerUnreachableError("no answer", outcome=Outcome.UNKNOWN)
            self.metadata.on_failure(fetch, error, self.now_ms)
            return
        stale = self._chance(0.3)
        answer = self.random.choice(self._old_answers) if stale else self._describe()
        self.sender.on_new_leaders(self.metadata.on_answer(fetch, answer, self.now_ms))

    # --- what must hold -------------------------------------------------------------------------

    def check(self):
        """Exactly once, in order, nothing that was denied, nothing forgotten.

        Returns how many records were acknowledged.
        """
        assert not self.accumulator.unsettled, "records were never settled"
        assert self.accumulator.available_bytes == self.config.buffer_memory, "memory leaked"
        acknowledged = 0
        for partition, model in enumerate(self.partitions):
            values = model.values
            assert len(set(values)) == len(values), "stored twice"
            assert values == sorted(values), "stored out of order"
            stored = set(values)
            for value in self.sent[partition]:
                batch, index = self.placed[value]
                limit_ms = batch.deadline_ms + self.config.request_timeout_ms
                assert self.settled_at[batch] <= limit_ms, "settled too late"
                if batch.error is None:
                    acknowledged += 1
                    assert batch.base_offset >= 0, "acknowledged without an offset"
                    assert values[batch.base_offset + index] == value, "not where it was said"
                elif batch.error.outcome is Outcome.NOT_APPLIED:
                    assert value not in stored, "stored although denied"
        return acknowledged
