"""Lives of groups whose members commit offsets with transactions.

The groups, the network, the failovers and the rules are those of `groups_simulation`. The members
work in transactions; the transaction coordinator, which has a simulation of its own, is one that
never fails here: it decides at once, and its markers are sent until one is acknowledged. They are
lost, late and repeated as everything is, and so are the commits, also after the coordinator has
made sure that the partition is in the transaction.

What is checked: each transaction that is committed goes on exactly where the one before it ended
(T8: every input counts once); no offset is taken after the marker of its transaction; whoever asks
for stable offsets is told what was decided, never what is pending or aborted (T2, KIP-447); and in
the end nothing is pending.
"""

from collections import Counter

from ottla_cluster.groups.commands import (
    CommitTransactionOffsets,
    CommitTransactionOffsetsResponse,
    DoneResponse,
    EndTransactionOffsets,
)
from ottla_cluster.groups.transaction_handlers import is_in_transaction
from ottla_protocol.errors import TransactionAbortableError
from tests.simulation.groups.groups_simulation import GroupsSimulation
from tests.simulation.groups.transactional_process import TransactionalProcess

TRANSACTION_TIMEOUT_MS = 2_500
MARKER_RETRY_MS = 250
LATE_MS = 3_000
"""How long a commit may be under way after its partition was found to be in the transaction."""


class Producer:
    """A transactional id, as its coordinator knows it."""

    def __init__(self, producer_id):
        self.producer_id = producer_id
        self.epoch = 0
        self.state = "idle"  # "open", or "ending" while its marker is not acknowledged
        self.is_added = False
        self._timed_out_epoch = None

    def next_epoch(self, epoch):
        """What a process goes on with that was granted `epoch`; None if another one took over."""
        if epoch == self.epoch or (epoch == self._timed_out_epoch and epoch + 1 == self.epoch):
            return self.epoch
        return None

    def ended(self, *, timed_out):
        self._timed_out_epoch = self.epoch if timed_out else None
        self.epoch += 1
        self.state = "ending" if self.is_added else "idle"
        self.is_added = False


class TransactionalSimulation(GroupsSimulation):
    groups = ("a", "b")

    def __init__(self, seed):
        self.producers = {}
        self.is_ending = False
        self.marked = Counter()
        """Producer id to the epoch of the last marker that is written."""
        self.progress = {}
        """(group, topic, partition) to [(sequence, offset)], one for each committed transaction."""
        super().__init__(seed)

    def _make_processes(self):
        return [
            TransactionalProcess(
                self, group, f"{group}{number}", is_static=self.random.random() < 0.3
            )
            for group, count in (("a", 3), ("b", 2))
            for number in range(count)
        ]

    def settle(self):
        super().settle()
        self.is_ending = True
        self._run_until(self.now_ms + 3 * TRANSACTION_TIMEOUT_MS)
        image = self.coordinator.committed_image
        assert image.pending_groups == {}, "offsets are pending for ever"
        for (group, topic, partition), history in self.progress.items():
            topic_id = self.views[0].topics[topic].topic_id
            committed = image.groups[group].offsets[topic_id, partition]
            assert committed.offset == history[-1][1], f"{committed} is not {history[-1]}"

    # --- the transaction coordinator ---

    def producer_of(self, name):
        return self.producers.setdefault(name, Producer(len(self.producers) + 1))

    def take_over(self, producer):
        """A process begins: whoever had the transactional id is fenced. None while that ends."""
        if producer.state == "open":
            self._decide_end(producer, is_commit=False)
        if producer.state == "ending":
            return None
        producer.epoch += 1
        return producer.epoch

    def begin(self, producer):
        producer.state = "open"
        epoch = producer.epoch
        self.after(TRANSACTION_TIMEOUT_MS, lambda: self._time_out(producer, epoch))

    def _time_out(self, producer, epoch):
        if producer.state == "open" and producer.epoch == epoch:
            self.counts["timed out"] += 1
            self._decide_end(producer, is_commit=False, timed_out=True)

    def end(self, producer, epoch, *, is_commit, moves):
        """Whether the decision is what the process wants; it counts from now on."""
        if producer.state != "open" or producer.epoch != epoch:
            self.counts["decided too late"] += 1
            return False
        if is_commit:
            for key, (start, end) in moves.items():
                history = self.progress.setdefault(key, [])
                before = history[-1][1] if history else 0
                assert start == before, f"{key} goes on at {start}, and {before} is committed"
                self.sequence += 1
                history.append((self.sequence, end))
        self.counts["committed" if is_commit else "aborted"] += 1
        self._decide_end(producer, is_commit=is_commit)
        return True

    def _decide_end(self, producer, *, is_commit, timed_out=False):
        marker_epoch = producer.epoch + 1
        producer.ended(timed_out=timed_out)
        if producer.state == "ending":
            self._send_marker(producer, marker_epoch, is_commit=is_commit)

    def _send_marker(self, producer, marker_epoch, *, is_commit):
        """Sends the marker again and again, until the groups' coordinator says that it has it."""
        is_done = []

        def send():
            if not is_done:
                marker = EndTransactionOffsets(producer.producer_id, marker_epoch, is_commit, 0)
                self.call(marker, replied)
                self.after(MARKER_RETRY_MS, send)

        def replied(outcome):
            if isinstance(outcome, DoneResponse) and not is_done:
                is_done.append(outcome)
                producer.state = "idle"

        send()

    def _verify(self, command):
        """Has the coordinator's partition in the transaction."""
        (producer,) = (
            each for each in self.producers.values() if each.producer_id == command.producer_id
        )
        if producer.state != "open" or producer.epoch != command.producer_epoch:
            return False
        producer.is_added = True
        return True

    # --- the coordinator of the groups ---

    def _arrived(self, command, on_reply, tenures):
        """As the broker does: what is not known to be in the transaction is added to it first."""
        if not isinstance(command, CommitTransactionOffsets) or self.coordinator is None:
            super()._arrived(command, on_reply, tenures)
            return
        image = self.coordinator.speculative_image
        if is_in_transaction(image, command.producer_id, command.producer_epoch):
            super()._arrived(command, on_reply, tenures)
        elif self._verify(command):
            is_late = self.faulty and self.random.random() < 0.1
            delay_ms = self.random.randint(1, LATE_MS if is_late else 20)
            # By then another leadership of the same broker may have begun.
            self.after(
                delay_ms,
                lambda: super(TransactionalSimulation, self)._arrived(command, on_reply, None),
            )
        else:
            self.counts["not added"] += 1
            self.after(self._delay_ms(), lambda: on_reply(TransactionAbortableError("over")))

    def _decide(self, command, answer):
        if isinstance(command, EndTransactionOffsets):
            self._submit(command, answer)
        else:
            super()._decide(command, answer)

    def _began(self, command, tenures):
        sequence, at_arrival = super()._began(command, tenures)
        if isinstance(command, CommitTransactionOffsets):
            return sequence, self.marked[command.producer_id]
        return sequence, at_arrival

    def _answered(self, command, order, tenures, outcome):
        super()._answered(command, order, tenures, outcome)
        if isinstance(outcome, CommitTransactionOffsetsResponse):
            assert command.producer_epoch >= order[1], f"{command} is accepted after its end"
        if isinstance(command, EndTransactionOffsets) and isinstance(outcome, DoneResponse):
            marked = max(self.marked[command.producer_id], command.producer_epoch)
            self.marked[command.producer_id] = marked

    def _fetched(self, command, fetched, sequence):
        """A stable offset is the last one that was decided; another one may be older."""
        key = (command.group, fetched.topic, fetched.partition)
        history = [(0, None), *self.progress.get(key, ())]
        decided = [offset for at, offset in history if at < sequence]
        if command.require_stable:
            self.counts["stable"] += 1
            assert fetched.offset == decided[-1], f"{fetched} is not {decided[-1]}"
        else:
            assert fetched.offset in decided, f"{fetched} is none of {decided}"
