"""Whole transactions or nothing of them, whatever the network does; and what notices when not."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ottla._sender import Sender
from ottla._transactional_sender import TransactionalSender
from tests.unit.sdk.transactional_sender_simulation import TransactionalSimulation

SEEDS = range(40)
SEEDS_FOR_BUGS = range(150)

COMMITTED_MIN = 4
"""Transactions that each run commits; a run with these faults commits a dozen."""


@pytest.mark.parametrize("seed", SEEDS)
def test_committed_transactions_are_there_whole_and_once(seed):
    assert TransactionalSimulation(seed).run() >= COMMITTED_MIN, "hardly anything was committed"


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32), partitions=st.integers(1, 5), batch_size=st.integers(0, 1_000))
def test_so_it_is_with_other_options(seed, partitions, batch_size):
    TransactionalSimulation(seed, partitions=partitions, records=150, batch_size=batch_size).run()


class KeepsCounting(TransactionalSender):
    """Goes on with the sequences of the transaction before."""

    def use(self, granted):
        before = {queue: queue.next_sequence for queue in self._accumulator.queues}
        super().use(granted)
        for queue, sequence in before.items():
            queue.next_sequence = sequence


class KeepsItsIdentity(TransactionalSender):
    """Numbers the next transaction's batches by the former identity."""

    def use(self, granted):
        is_first = self._settlement.producer is None
        super().use(granted if is_first else granted._replace(producer_epoch=0))


class GivesUpOneRecord(TransactionalSender):
    """Takes a failed record for its own affair."""

    def _given_up(self):
        self._transaction_settlement.failure = None
        return []


class SendsOn(TransactionalSender):
    """Leaves what was given up in its queues."""

    def give_up_transaction(self, error):
        kept = {queue: list(queue.closed) for queue in self._accumulator.queues}
        settled = super().give_up_transaction(error)
        for queue, batches in kept.items():
            queue.closed.extend(batches)
        return settled


class BelievesLateAnswers(TransactionalSender):
    """Takes the answer about a former transaction for one about this."""

    on_answer = Sender.on_answer


def is_caught(sender_type):
    for seed in SEEDS_FOR_BUGS:
        try:
            if TransactionalSimulation(seed, sender_type=sender_type).run() < COMMITTED_MIN:
                return True
        except (AssertionError, IndexError, KeyError):
            return True
    return False


@pytest.mark.parametrize(
    "sender_type",
    [
        KeepsCounting,
        KeepsItsIdentity,
        GivesUpOneRecord,
        SendsOn,
        BelievesLateAnswers,
    ],
)
def test_a_planted_bug_is_caught(sender_type):
    assert is_caught(sender_type)
