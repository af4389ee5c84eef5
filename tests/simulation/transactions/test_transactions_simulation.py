"""Seeded lives of transactions keep T1 to T8, and planted bugs are caught.

OTTLA_TRANSACTION_SEEDS=2000 runs more of them, OTTLA_SIMULATION_FIRST_SEED others.
"""

import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import pytest
from msgspec import structs

from ottla_broker.storage.policy.open_transactions import OpenTransactions
from ottla_broker.storage.policy.producer_state import ProducerStates
from ottla_cluster.state_machine import runtime
from ottla_cluster.transactions import ending, known_ids, marker_work, opening
from ottla_cluster.transactions.active_coordinator import ActiveTransactionCoordinator
from ottla_cluster.transactions.commands import EndTransaction
from ottla_cluster.transactions.marker_work import MarkerWork
from ottla_cluster.transactions.open_times import OpenTimes
from tests.simulation.transactions.simulated_log import SimulatedLog
from tests.simulation.transactions.transactions_simulation import (
    POSITIONS,
    TransactionsSimulation,
)

SEEDS = int(os.environ.get("OTTLA_TRANSACTION_SEEDS", "200"))
FIRST_SEED = int(os.environ.get("OTTLA_SIMULATION_FIRST_SEED", "0"))
MUTANT_SEEDS = 400
FAULTY_MS = 15_000
FEW_EPOCHS = 3


def test_random_lives_keep_the_rules():
    total = Counter()
    for seed in range(FIRST_SEED, FIRST_SEED + SEEDS):
        simulation = TransactionsSimulation(seed)
        try:
            simulation.run(FAULTY_MS)
        except AssertionError as failure:
            raise AssertionError(f"seed {seed}: {failure}") from failure
        total.update(simulation.counts)
    # A simulation in which nothing happens proves nothing.
    assert total["visible"] >= total["committed"] > 10 * SEEDS
    assert total["aborted"] > 2 * SEEDS
    assert total["leaderships"] > 5 * SEEDS
    assert total["failovers"] > 5 * SEEDS
    assert total["PRODUCER_FENCED"] > 5 * SEEDS
    assert total["INVALID_PRODUCER_EPOCH"] > SEEDS // 2
    assert total["CONCURRENT_TRANSACTIONS"] > 0
    assert total["TRANSACTION_ABORTABLE"] > 0
    assert total["late markers"] > 0
    assert total["crashed"] > SEEDS // 2
    assert total["gone on"] > SEEDS // 2


def test_nobody_is_fenced_by_repetitions_of_its_own_calls():
    total = Counter()
    for seed in range(FIRST_SEED, FIRST_SEED + SEEDS // 4):
        simulation = TransactionsSimulation(seed, workers_per_id=1)
        simulation.run(FAULTY_MS)
        assert simulation.counts["PRODUCER_FENCED"] == 0, f"seed {seed}"
        total.update(simulation.counts)
    assert total["taken over"] > SEEDS
    assert total["gone on"] > SEEDS // 8


def test_the_rules_hold_where_epochs_run_out(monkeypatch):
    monkeypatch.setattr(known_ids, "MAX_GRANTED_PRODUCER_EPOCH", FEW_EPOCHS)
    for seed in range(FIRST_SEED, FIRST_SEED + SEEDS // 4):
        simulation = TransactionsSimulation(seed)
        simulation.run(FAULTY_MS)
        found = simulation.coordinator.active.committed_image.transactions.values()
        assert all(each.granted.producer_epoch <= FEW_EPOCHS for each in found)
        assert any(each.granted.producer_id > len(found) for each in found)


def test_a_seed_is_a_life():
    first, second = TransactionsSimulation(42), TransactionsSimulation(42)
    first.run(FAULTY_MS)
    second.run(FAULTY_MS)
    assert first.counts == second.counts
    assert [log.entries for log in first.logs] == [log.entries for log in second.logs]


def test_a_seed_is_the_same_life_in_every_process():
    """Which hash texts have differs between processes, and with it the order of a set of them."""
    program = (
        "from tests.simulation.transactions.transactions_simulation import TransactionsSimulation; "
        f"life = TransactionsSimulation(1); life.run({FAULTY_MS}); "
        "print(sorted(life.counts.items()))"
    )
    told = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in "123"
    }
    assert len(told) == 1
    assert "leaderships" in told.pop()


# --- planted bugs ---------------------------------------------------------------------------


def first_failing_seed():
    for seed in range(MUTANT_SEEDS):
        try:
            TransactionsSimulation(seed).run(FAULTY_MS)
        except AssertionError:
            return seed
    return None


def markers_leave_before_the_decision_is_durable(monkeypatch):
    real = MarkerWork.follow
    follow = ActiveTransactionCoordinator._follow

    def follow_all(self, now_ms):
        names = list(self._undecided)
        follow(self, now_ms)
        for name in names:
            real(self._markers, name, self.speculative_image.transactions.get(name))

    monkeypatch.setattr(ActiveTransactionCoordinator, "_follow", follow_all)


def the_last_stable_offset_is_one_too_high(monkeypatch):
    real = OpenTransactions.last_stable_offset
    monkeypatch.setattr(
        OpenTransactions,
        "last_stable_offset",
        lambda self, high_watermark: min(real(self, high_watermark) + 1, high_watermark),
    )


def a_marker_above_the_high_watermark_ends_a_transaction(monkeypatch):
    real = OpenTransactions.append_marker

    def append_marker(self, producer_id, offset, *, is_commit):
        aborted = real(self, producer_id, offset, is_commit=is_commit)
        self._ended.clear()
        return aborted

    monkeypatch.setattr(OpenTransactions, "append_marker", append_marker)


def the_epoch_is_not_bumped(monkeypatch):
    monkeypatch.setattr(
        ending,
        "next_identity",
        lambda identity, context: identity,
    )
    monkeypatch.setattr(marker_work, "marker_identity", lambda ended: ended.identity)
    monkeypatch.setattr(ending, "marker_identity", lambda ended: ended.identity)
    monkeypatch.setattr(ProducerStates, "check_marker", lambda self, *_: True)


def a_predecessor_is_not_fenced(monkeypatch):
    monkeypatch.setattr(
        opening,
        "next_identity",
        lambda identity, context: (
            identity if identity is not None else known_ids.next_identity(identity, context)
        ),
    )


def a_marker_that_comes_late_is_taken(monkeypatch):
    monkeypatch.setattr(ProducerStates, "check_marker", lambda self, *_: True)


def the_aborted_are_forgotten_at_truncation(monkeypatch):
    real = SimulatedLog.rebuild

    def rebuild(self):
        real(self)
        self.aborted = []

    monkeypatch.setattr(SimulatedLog, "rebuild", rebuild)


def positions_are_committed_on_abort(monkeypatch):
    real = SimulatedLog.write_marker

    def write_marker(self, marker, is_commit, told):
        real(self, marker, is_commit or self.number == POSITIONS, told)

    monkeypatch.setattr(SimulatedLog, "write_marker", write_marker)


def a_leader_does_not_ask_the_coordinator(monkeypatch):
    monkeypatch.setattr(SimulatedLog, "is_in_transaction", lambda self, header: True)


def an_answer_leaves_before_the_commit(monkeypatch):
    real = runtime.SpeculativeRuntime.submit

    def submit(self, command, now_ms):
        submitted = real(self, command, now_ms)
        if not isinstance(command, EndTransaction) or submitted.payload is None:
            return submitted
        return replace(submitted, response=self._waiting[-1].outcome)

    monkeypatch.setattr(runtime.SpeculativeRuntime, "submit", submit)


def no_transaction_times_out(monkeypatch):
    monkeypatch.setattr(OpenTimes, "overdue", lambda self, now_ms: ())


def an_aborted_transaction_may_be_committed(monkeypatch):
    real = ending._answer_again

    def answer_again(transaction, command):
        ended = transaction.ended
        if ended is not None and ended.identity == command.identity:
            return ending.EndTransactionResponse(transaction.granted)
        return real(transaction, command)

    monkeypatch.setattr(ending, "_answer_again", answer_again)


def the_next_transaction_begins_before_the_markers_are_written(monkeypatch):
    monkeypatch.setattr(opening, "DECIDED", frozenset())


PLANTED = (
    markers_leave_before_the_decision_is_durable,
    the_last_stable_offset_is_one_too_high,
    a_marker_above_the_high_watermark_ends_a_transaction,
    the_epoch_is_not_bumped,
    a_predecessor_is_not_fenced,
    a_marker_that_comes_late_is_taken,
    the_aborted_are_forgotten_at_truncation,
    positions_are_committed_on_abort,
    a_leader_does_not_ask_the_coordinator,
    an_answer_leaves_before_the_commit,
    no_transaction_times_out,
    an_aborted_transaction_may_be_committed,
    the_next_transaction_begins_before_the_markers_are_written,
)


@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
def test_planted_bugs_are_caught(plant, monkeypatch):
    plant(monkeypatch)
    assert first_failing_seed() is not None


def a_take_over_that_comes_again_grants_anew(monkeypatch):
    monkeypatch.setattr(opening, "_takeovers", lambda attempt, former: ())


def going_on_counts_once(monkeypatch):
    real = opening._go_on

    def go_on(found, identity, timeout_ms, context):
        result = real(found, identity, timeout_ms, context)
        if result.response.granted is None:
            return result
        changed = result.records[0] if result.records else found
        granted = known_ids.next_identity(changed.granted, context)
        changed = structs.replace(changed, granted=granted, state="Empty", ended=None)
        return replace(result, records=(changed,), response=type(result.response)(granted))

    monkeypatch.setattr(opening, "_go_on", go_on)


REPETITIONS = (
    a_take_over_that_comes_again_grants_anew,
    going_on_counts_once,
)


@pytest.mark.parametrize("plant", REPETITIONS, ids=lambda plant: plant.__name__)
def test_repetitions_that_fence_are_caught(plant, monkeypatch):
    plant(monkeypatch)
    for seed in range(MUTANT_SEEDS):
        simulation = TransactionsSimulation(seed, workers_per_id=1)
        simulation.run(FAULTY_MS)
        if simulation.counts["PRODUCER_FENCED"]:
            return
    pytest.fail("nobody was fenced")
