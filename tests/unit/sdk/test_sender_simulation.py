"""Exactly once and in order, whatever the network does; and the simulation notices when not."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ottla._sender as sender_module
from ottla._sender import Sender
from ottla._settlement import Settlement
from tests.unit.sdk.sender_simulation import SenderSimulation

SEEDS = range(60)
SEEDS_FOR_BUGS = range(150)


@pytest.mark.parametrize("seed", SEEDS)
def test_every_acknowledged_record_is_stored_once_and_in_order(seed):
    assert SenderSimulation(seed).run(), "nothing was acknowledged"


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    partitions=st.integers(1, 5),
    batch_size=st.integers(0, 1_000),
    retry_backoff_ms=st.integers(1, 300),
)
def test_so_it_is_with_other_options(seed, partitions, batch_size, retry_backoff_ms):
    SenderSimulation(
        seed,
        partitions=partitions,
        records=150,
        batch_size=batch_size,
        retry_backoff_ms=retry_backoff_ms,
        retry_backoff_max_ms=retry_backoff_ms,
    ).run()


@pytest.mark.parametrize("seed", range(15))
def test_an_id_whose_epochs_are_used_up_is_replaced(seed):
    simulation = SenderSimulation(seed, first_epoch=2**15 - 2, delivery_timeout_ms=1_500)
    simulation.run()
    if simulation.sender.counters.epoch_bumps > 2 * len(simulation.partitions):
        assert next(simulation.producer_ids) > 8


class ForgetsNumbers(Sender):
    """Sends a batch again under a new sequence."""

    def _take(self, queue, room_bytes, now_ms):
        for batch in queue.closed:
            batch.forget_number()
        return super()._take(queue, room_bytes, now_ms)


class TrustsSilence(Settlement):
    """Takes a lost answer for a lost request."""

    def _judge(self, batch, error, leader, **facts):
        verdict = super()._judge(batch, error, leader, **facts)
        batch.maybe_applied = False
        return verdict


class RetriesBehind(Settlement):
    """Puts a failed batch behind those that wait."""

    def take_results(self, queue, pairs, leader, now_ms, settled, **options):
        waiting = list(queue.closed)
        super().take_results(queue, pairs, leader, now_ms, settled, **options)
        again = [batch for batch in queue.closed if batch not in waiting]
        queue.closed.clear()
        queue.closed.extend([*(each for each in waiting if not each.is_done), *again])


class NeverMutes(Sender):
    """Sends the next batch of a partition while one is out."""

    def _draft(self, queue, leader, drafts, now_ms):
        super()._draft(queue, leader, drafts, now_ms)
        if queue.in_flight and not queue.is_empty:
            self._accumulator.active[queue] = None


class RewindsAlways(Settlement):
    """Uses the sequences of a batch again that perhaps was appended."""

    def _mend(self, queue, lost):
        numbered = [batch for batch in lost if batch.is_numbered]
        if numbered:
            queue.next_sequence = numbered[0].base_sequence
            for batch in queue.closed:
                batch.forget_number()


class BelievesEverything(Sender):
    """Trusts a leader that knows nothing of the producer to notice a gap."""

    def _take(self, queue, room_bytes, now_ms):
        queue.is_established = True
        return super()._take(queue, room_bytes, now_ms)


class RetriesWhatWasOvertaken(Settlement):
    """Sends a batch again although a later one of its request was accepted."""

    def _judge(self, batch, error, leader, *, is_overtaken, is_behind_failure):
        return super()._judge(
            batch, error, leader, is_overtaken=False, is_behind_failure=is_behind_failure
        )


class GivesUpLoudly(Settlement):
    """Says 'not applied' of what perhaps was."""

    def fail(self, batch, error, settled):
        batch.maybe_applied = False
        super().fail(batch, error, settled)


def is_caught(sender_type, settlement_type):
    def make(options, accumulator, metadata):
        settlement = settlement_type(options, accumulator, metadata)
        return sender_type(options, accumulator, metadata, settlement)

    for seed in SEEDS_FOR_BUGS:
        try:
            SenderSimulation(seed, sender_type=make).run()
        except AssertionError:
            return True
    return False


@pytest.mark.parametrize(
    ("sender_type", "settlement_type"),
    [
        (ForgetsNumbers, Settlement),
        (Sender, TrustsSilence),
        (Sender, RetriesBehind),
        (NeverMutes, Settlement),
        (Sender, RewindsAlways),
        (BelievesEverything, RetriesWhatWasOvertaken),
        (Sender, GivesUpLoudly),
    ],
)
def test_a_planted_bug_is_caught(sender_type, settlement_type):
    assert is_caught(sender_type, settlement_type)


def test_more_batches_than_the_leader_remembers_are_caught(monkeypatch):
    monkeypatch.setattr(sender_module, "MAX_BATCHES_PER_PARTITION", 9)
    assert is_caught(Sender, Settlement)
