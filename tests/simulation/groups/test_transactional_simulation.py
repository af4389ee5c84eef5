"""Seeded lives of groups with transactions keep the rules, and planted bugs are caught.

OTTLA_GROUP_SEEDS=500 runs more of them, OTTLA_SIMULATION_FIRST_SEED others.
"""

import os
from collections import Counter
from dataclasses import replace

import msgspec
import pytest

from ottla_cluster.groups import handlers, offset_handlers, transaction_handlers
from ottla_cluster.groups.commands import CommitOffsets
from ottla_cluster.groups.records import PendingOffsetsRemoved, ProducerEnded
from ottla_cluster.state_machine.result import Result
from ottla_protocol.errors import OttlaError
from tests.simulation.groups import groups_simulation
from tests.simulation.groups.transactional_simulation import TransactionalSimulation

SEEDS = int(os.environ.get("OTTLA_GROUP_SEEDS", "20"))
FIRST_SEED = int(os.environ.get("OTTLA_SIMULATION_FIRST_SEED", "0"))
MUTANT_SEEDS = 40
FAULTY_MS = 15_000


def test_random_transactions_keep_the_rules():
    total = Counter()
    for seed in range(FIRST_SEED, FIRST_SEED + SEEDS):
        simulation = TransactionalSimulation(seed)
        try:
            simulation.run(FAULTY_MS)
        except AssertionError as failure:
            raise AssertionError(f"seed {seed}: {failure}") from failure
        total.update(simulation.counts)
    # A simulation in which nothing happens proves nothing.
    assert total["committed"] > 50 * SEEDS
    assert total["aborted"] > 10 * SEEDS
    assert total["stable"] > 40 * SEEDS
    assert total["UNSTABLE_OFFSET_COMMIT"] > SEEDS
    assert total["not added"] > SEEDS
    assert total["leaderships"] > 2 * SEEDS
    assert total["expired"] > SEEDS
    assert total["TRANSACTION_ABORTABLE"] > 0
    assert total["timed out"] > 0
    assert total["decided too late"] > 0


def test_a_seed_is_a_life():
    first, second = TransactionalSimulation(42), TransactionalSimulation(42)
    first.run(FAULTY_MS)
    second.run(FAULTY_MS)
    assert first.log == second.log
    assert first.counts == second.counts


# --- planted bugs ---------------------------------------------------------------------------


def first_failing_seed():
    for seed in range(MUTANT_SEEDS):
        try:
            TransactionalSimulation(seed).run(FAULTY_MS)
        except AssertionError:
            return seed
    return None


def replace_end(monkeypatch, changed):
    """Has `changed(image, command, real result)` decide what a marker does."""
    real = handlers.end_transaction_offsets

    def end(image, command, context):
        return changed(image, command, lambda other: real(image, other, context))

    monkeypatch.setattr(handlers, "end_transaction_offsets", end)


def offsets_are_committed_on_abort(monkeypatch):
    replace_end(
        monkeypatch,
        lambda _, command, real: real(msgspec.structs.replace(command, is_commit=True)),
    )


def offsets_vanish_on_commit(monkeypatch):
    replace_end(
        monkeypatch,
        lambda _, command, real: real(msgspec.structs.replace(command, is_commit=False)),
    )


def pending_offsets_are_lost_at_failover(monkeypatch):
    real = groups_simulation.ActiveCoordinator

    def forgetful(image, *rest):
        groups = {name: replace(group, pending={}) for name, group in image.groups.items()}
        return real(replace(image, groups=groups, pending_groups={}), *rest)

    monkeypatch.setattr(groups_simulation, "ActiveCoordinator", forgetful)


def what_has_ended_is_lost_at_failover(monkeypatch):
    real = groups_simulation.ActiveCoordinator
    monkeypatch.setattr(
        groups_simulation,
        "ActiveCoordinator",
        lambda image, *rest: real(replace(image, ended={}), *rest),
    )


def a_late_commit_is_accepted_after_the_end(monkeypatch):
    monkeypatch.setattr(transaction_handlers, "_refuse_late", lambda *_: None)


def the_end_is_not_remembered(monkeypatch):
    def without_memory(_, command, real):
        result = real(command)
        kept = tuple(r for r in result.records if not isinstance(r, ProducerEnded))
        return Result(kept, result.response)

    replace_end(monkeypatch, without_memory)


def only_ends_with_something_pending_are_remembered(monkeypatch):
    def with_pending(_, command, real):
        result = real(command)
        had_any = any(isinstance(record, PendingOffsetsRemoved) for record in result.records)
        return result if had_any else Result((), result.response)

    replace_end(monkeypatch, with_pending)


def a_late_marker_ends_the_next_transaction(monkeypatch):
    def any_epoch(image, command, real):
        epochs = [
            image.groups[name].pending[command.producer_id].producer_epoch
            for name in image.pending_groups.get(command.producer_id, ())
        ]
        highest = max(epochs, default=command.producer_epoch - 1)
        return real(msgspec.structs.replace(command, producer_epoch=highest + 1))

    replace_end(monkeypatch, any_epoch)


def pending_offsets_are_no_reason_to_wait(monkeypatch):
    monkeypatch.setattr(offset_handlers, "refuse_pending", lambda *_: None)


def pending_offsets_are_committed_at_once(monkeypatch):
    def commit(image, command, context):
        at_once = CommitOffsets(
            command.group, command.offsets, command.member_id, command.generation
        )
        return handlers.commit_offsets(image, at_once, context)

    monkeypatch.setattr(handlers, "commit_transaction_offsets", commit)


def the_generation_of_a_commit_is_unchecked(monkeypatch):
    real = transaction_handlers.topic_ids_to_commit

    def topic_ids(image, command, context):
        try:
            return real(image, command, context)
        except OttlaError:
            group = image.groups[command.group]
            return group, [group.topics[entry.topic].topic_id for entry in command.offsets]

    monkeypatch.setattr(transaction_handlers, "topic_ids_to_commit", topic_ids)


def a_second_commit_replaces_the_first(monkeypatch):
    real = transaction_handlers.commit_transaction_offsets

    def commit(image, command, context):
        result = real(image, command, context)
        named = {(entry.topic, entry.partition) for entry in command.offsets}
        records = tuple(
            msgspec.structs.replace(
                record,
                offsets=tuple(o for o in record.offsets if (o.topic, o.partition) in named),
            )
            for record in result.records
        )
        return Result(records, result.response)

    monkeypatch.setattr(handlers, "commit_transaction_offsets", commit)


@pytest.mark.parametrize(
    "plant",
    [
        offsets_are_committed_on_abort,
        offsets_vanish_on_commit,
        pending_offsets_are_lost_at_failover,
        what_has_ended_is_lost_at_failover,
        a_late_commit_is_accepted_after_the_end,
        the_end_is_not_remembered,
        only_ends_with_something_pending_are_remembered,
        a_late_marker_ends_the_next_transaction,
        pending_offsets_are_no_reason_to_wait,
        pending_offsets_are_committed_at_once,
        the_generation_of_a_commit_is_unchecked,
        a_second_commit_replaces_the_first,
    ],
    ids=lambda plant: plant.__name__,
)
def test_a_planted_bug_is_caught(monkeypatch, plant):
    plant(monkeypatch)
    assert first_failing_seed() is not None
