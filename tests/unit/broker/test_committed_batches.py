"""What is shown to readers of committed records, against a slow and simple model of a log."""

from hypothesis import given
from hypothesis import strategies as st

from ottla_broker.services.committed_batches import committed_batches, has_transactions
from tests.unit.broker.transactional_log import STEPS, TransactionalLog, shown


@given(STEPS, st.integers(0, 40), st.integers(0, 40), st.randoms(use_true_random=False))
def test_what_is_committed_is_shown_and_nothing_else(steps, start, length, random):
    log = TransactionalLog()
    for step in steps:
        log.step(*step)
    window = log.stable()[start : start + length]
    batches = tuple(each.batch for each in window)
    aborted = []
    if batches:
        end = batches[-1].last_offset + 1
        aborted = [each for each in log.aborted if each.touches(batches[0].base_offset, end)]
    random.shuffle(aborted)
    assert committed_batches(batches, aborted) == shown(window)
    # Whether the list is of the window alone makes no difference.
    assert committed_batches(batches, log.aborted) == shown(window)


@given(STEPS)
def test_only_batches_of_transactions_and_markers_have_to_be_looked_at(steps):
    log = TransactionalLog()
    for step in steps:
        log.step(*step)
    batches = [each.batch for each in log.entries]
    assert has_transactions(batches) == any(each.kind != "plain" for each in log.entries)
    assert not has_transactions([each.batch for each in log.entries if each.kind == "plain"])


def test_a_producer_is_shown_between_two_of_its_aborted_transactions():
    log = TransactionalLog()
    for kind in ("records", "abort", "records", "commit", "plain", "records", "abort"):
        log.step(7, kind)
    batches = tuple(each.batch for each in log.entries)
    assert committed_batches(batches, log.aborted) == [batches[2], batches[4]]
