"""A transactional producer's machines against brokers that lose, delay, repeat and move things.

The log and the coordinator are trusted, as in `sender_simulation`: the coordinator decides at once
and grants the next identity, a log asks it before the first batch of a transaction, markers come a
while after the decision. Requests of one transaction arrive during, or after, the next ones.
"""

from ottla._transaction_state import Granted, Phase, TransactionState
from ottla._transactional_sender import TransactionalSender
from ottla_broker.storage.policy.producer_state import Duplicate, ProducerAppend
from ottla_protocol.errors import (
    ConcurrentTransactionsError,
    OttlaError,
    Outcome,
    TransactionAbortableError,
)
from ottla_protocol.record_batch import NO_SEQUENCE, validate_batch
from ottla_protocol.record_codec import decode_batch
from tests.unit.sdk.sender_simulation import PartitionModel, SenderSimulation

PRODUCER_ID = 7


class TransactionalPartition(PartitionModel):
    """One partition: `values` are those of committed transactions, in their order in the log."""

    def __init__(self, leader, coordinator):
        super().__init__(leader)
        self.coordinator = coordinator
        self.open = []
        self.end = 0

    def append(self, data):
        header = validate_batch(data, on_append=True)
        assert header.is_transactional, "a batch of no transaction"
        if not self.states.is_in_transaction(header):
            self.coordinator.add(self, header.producer_epoch)
        verdict = self.states.check(header)
        if isinstance(verdict, Duplicate):
            return verdict.base_offset, verdict.last_offset - verdict.base_offset + 1
        records = decode_batch(data, max_inflated_bytes=1 << 20)
        self.open += [int(record.value) for record in records]
        return self._appended(header.producer_epoch, header.base_sequence, len(records)), len(
            records
        )

    def end_transaction(self, marker_epoch, *, is_commit):
        if not self.states.check_marker(PRODUCER_ID, marker_epoch):
            return
        if is_commit:
            self.values += self.open
        self.open = []
        self._appended(marker_epoch, NO_SEQUENCE, 1, is_control=True)

    def _appended(self, epoch, sequence, count, *, is_control=False):
        base_offset, self.end = self.end, self.end + count
        self.states.append(
            ProducerAppend(
                PRODUCER_ID,
                epoch,
                sequence,
                base_offset,
                self.end - 1,
                0,
                is_transactional=True,
                is_control=is_control,
            )
        )
        return base_offset


class Coordinator:
    """Grants identities, knows what is in the open transaction, and has markers written."""

    def __init__(self, simulation):
        self.simulation = simulation
        self.epoch = 0
        self.partitions = set()
        self.lacks_markers = set()
        self.committed = {}  # Epoch -> whether its transaction was committed.

    @property
    def granted(self):
        return Granted(f"{PRODUCER_ID}.{self.epoch}.t", PRODUCER_ID, self.epoch)

    def add(self, partition, epoch):
        if epoch != self.epoch:
            raise TransactionAbortableError("not this transaction", outcome=Outcome.NOT_APPLIED)
        if self.lacks_markers:
            raise ConcurrentTransactionsError("markers", outcome=Outcome.NOT_APPLIED)
        self.partitions.add(partition)

    def end(self, epoch, *, is_commit):
        """Decide, or give the same answer again; None while markers are being written."""
        if epoch != self.epoch:
            assert self.committed[epoch] is is_commit, "decided twice"
            return self.granted
        if self.lacks_markers:
            return None  # In a moment.
        self.committed[epoch] = is_commit
        self.epoch += 1
        self.lacks_markers, self.partitions = self.partitions, set()
        for partition in list(self.lacks_markers):

            def write(partition=partition, marker_epoch=self.epoch):
                partition.end_transaction(marker_epoch, is_commit=is_commit)
                self.lacks_markers.discard(partition)

            self.simulation.at(self.simulation.random.randrange(1, 80), write)
        return self.granted


class TransactionalSimulation(SenderSimulation):
    """One producer that commits most of its transactions, and gives some of them up."""

    def __init__(self, seed, *, sender_type=TransactionalSender, **options):
        self.state = TransactionState("t")

        def make(config, accumulator, metadata):
            return sender_type(config, accumulator, metadata, self.state)

        often = {"records": 1_000, "retry_backoff_ms": 10, "retry_backoff_max_ms": 50}
        super().__init__(seed, sender_type=make, transactional_id="t", **often | options)
        self.coordinator = Coordinator(self)
        self.partitions = [
            TransactionalPartition(each.leader, self.coordinator) for each in self.partitions
        ]
        self.accumulator._is_transactional = True
        self.state.begin_initialise()
        self.state.initialised(self.coordinator.granted)
        self.sender.use(self.coordinator.granted)
        self.transactions = {}  # Number -> by partition, the values taken.
        self.decided = {}  # Number -> epoch
        self.is_asking = False

    # --- the application ------------------------------------------------------------------------

    def _send_record(self):
        if self.state.phase is Phase.READY:
            self.state.begin()
            self.transactions[self.state.number] = [[] for _ in self.partitions]
        if self.state.phase is not Phase.OPEN:
            self._abort_or_wait()
            return
        before = [len(each) for each in self.sent]
        super()._send_record()
        for partition, values in enumerate(self.sent):
            taken = self.transactions[self.state.number][partition]
            taken += values[before[partition] :]
        choice = self.random.random()
        if choice < 0.05:
            self._abort()
        elif choice < 0.2:
            self.state.begin_commit()
            self.accumulator.close_all_open()

    def _poll(self):
        super()._poll()
        if self.state.phase is Phase.COMMITTING and not self.accumulator.unsettled:
            self._commit()
        elif self.is_calm:
            self._abort_or_wait()

    def _abort_or_wait(self):
        if self.state.phase is Phase.ABORTABLE:
            self._abort()
        elif self.is_calm and self.state.phase is Phase.OPEN:
            self.state.begin_commit()
            self.accumulator.close_all_open()
            self.at(1, lambda: None)

    def _abort(self):
        granted = self.state.begin_abort()
        self._settle(self.sender.give_up_transaction(OttlaError("aborted")))
        self._end(granted, is_commit=False)

    def _commit(self):
        if self.is_asking:
            return
        if not self.state.has_begun:
            self._end(None, is_commit=True)
            return
        self._end(self.state.decide_commit(), is_commit=True)

    def _end(self, granted, *, is_commit):
        if not self.state.has_begun:
            self.sender.use(self.state.end_of_nothing())
            return
        self.decided[self.state.number] = granted.producer_epoch
        self.is_asking = True

        def ask():
            granted_next = self.coordinator.end(granted.producer_epoch, is_commit=is_commit)
            if granted_next is None or self._chance(0.1):
                self.at(self.random.randrange(1, 60), ask)
                return
            self.at(self.random.randrange(1, 30), lambda: answer(granted_next))

        def answer(granted_next):
            self.is_asking = False
            self.state.ended(granted_next)
            self.sender.use(granted_next)

        self.at(self.random.randrange(1, 30), ask)

    # --- the network ----------------------------------------------------------------------------

    def _report(self, call, results):
        # What was given up is not waited for, so rule 1 holds within a transaction only.
        if call.batches[0].is_done:
            self.sender.on_answer(call, results, self.now_ms)
            return
        super()._report(call, results)

    def _settle(self, batches):
        super()._settle(batches)
        if any(batch.error is not None for batch in batches):
            self.out = dict.fromkeys(self.out, 0)

    # --- what must hold -------------------------------------------------------------------------

    def check(self):
        """A committed transaction is there, whole, once, in order; of others there is nothing."""
        assert not self.accumulator.unsettled, "records were never settled"
        assert self.accumulator.available_bytes == self.config.buffer_memory, "memory leaked"
        committed = 0
        wanted = [[] for _ in self.partitions]
        for number, taken in self.transactions.items():
            if self.coordinator.committed.get(self.decided.get(number)) is True:
                committed += 1
                for partition, values in enumerate(taken):
                    wanted[partition] += values
        for partition, model in enumerate(self.partitions):
            if self.coordinator.lacks_markers:
                break  # The run ended with the decision.
            assert model.values == wanted[partition], "torn, out of order, or of another one"
        return committed
