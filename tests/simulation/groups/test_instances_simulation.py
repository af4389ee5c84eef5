"""Seeded lives of consumer instances lose nothing, and planted bugs are caught.

OTTLA_GROUP_SEEDS=500 runs more of them, OTTLA_SIMULATION_FIRST_SEED others.
"""

import os
from collections import Counter

import msgspec
import pytest

from ottla_cluster.groups import handlers, instance_reading
from tests.simulation.groups.instances_simulation import InstancesSimulation

SEEDS = int(os.environ.get("OTTLA_GROUP_SEEDS", "8"))
FIRST_SEED = int(os.environ.get("OTTLA_SIMULATION_FIRST_SEED", "0"))
MUTANT_SEEDS = 20
FAULTY_MS = 15_000


def test_random_lives_of_instances_lose_nothing():
    total = Counter()
    for seed in range(FIRST_SEED, FIRST_SEED + SEEDS):
        simulation = InstancesSimulation(seed)
        try:
            simulation.run(FAULTY_MS)
        except AssertionError as failure:
            raise AssertionError(f"seed {seed}: {failure}") from failure
        total.update(simulation.counts)
    # A simulation in which nothing happens proves nothing.
    assert total["delivered"] > 20 * SEEDS
    assert total["died"] > SEEDS
    assert total["_commit"] > 5 * SEEDS
    assert total["_remove"] > 0


def first_failing_seed():
    for seed in range(MUTANT_SEEDS):
        try:
            InstancesSimulation(seed).run(FAULTY_MS)
        except AssertionError:
            return seed
    return None


def what_is_offered_counts_as_read(monkeypatch):
    real = handlers.offer_records

    def offer_records(image, command, context):
        result = real(image, command, context)
        records = tuple(
            msgspec.structs.replace(each, positions=each.delivery.ends) for each in result.records
        )
        return type(result)(records, result.response)

    monkeypatch.setattr(handlers, "offer_records", offer_records)


def what_was_not_delivered_counts_too(monkeypatch):
    real = handlers.settle_delivery
    monkeypatch.setattr(
        handlers,
        "settle_delivery",
        lambda image, command, context: real(
            image, msgspec.structs.replace(command, is_delivered=True), context
        ),
    )


def a_void_delivery_counts_as_read(monkeypatch):
    def void(changes, instance_id, void_delivery_id):
        progress = changes.group.progress.get(instance_id)
        if progress is None or progress.delivery is None:
            return True
        if progress.delivery.delivery_id != void_delivery_id:
            return False
        ends = progress.delivery.ends
        merged = instance_reading.merged_positions(progress.positions, ends)
        record = instance_reading.progress_record(changes.group, instance_id, merged, None)
        changes.add(record)
        return True

    monkeypatch.setattr(instance_reading, "_void", void)


@pytest.mark.parametrize(
    "plant",
    [
        what_is_offered_counts_as_read,
        what_was_not_delivered_counts_too,
        a_void_delivery_counts_as_read,
    ],
    ids=lambda plant: plant.__name__,
)
def test_a_planted_bug_is_caught(monkeypatch, plant):
    plant(monkeypatch)
    assert first_failing_seed() is not None
