"""The last stable offset and the aborted transactions, against a slow and simple model."""

from hypothesis import given
from hypothesis import strategies as st

from ottla_broker.storage.policy.open_transactions import AbortedTransaction, OpenTransactions

STEPS = st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["records", "commit", "abort"])))


def build(steps):
    """One entry of the log for each step; also what it says was aborted."""
    transactions, aborted = OpenTransactions(), []
    for offset, (producer_id, kind) in enumerate(steps):
        if kind == "records":
            transactions.append_records(producer_id, offset)
        else:
            found = transactions.append_marker(producer_id, offset, is_commit=kind == "commit")
            if found is not None:
                aborted.append(found)
    return transactions, aborted


def undecided(steps, high_watermark):
    """Offsets below the high watermark whose marker is not below it."""
    for offset, (producer_id, kind) in enumerate(steps[:high_watermark]):
        is_over = any(
            other == producer_id and later != "records"
            for other, later in steps[offset + 1 : high_watermark]
        )
        if kind == "records" and not is_over:
            yield offset


@given(STEPS, st.lists(st.integers(0, 60)))
def test_everything_below_the_last_stable_offset_is_decided(steps, watermarks):
    transactions, _ = build(steps)
    for high_watermark in sorted(min(each, len(steps)) for each in watermarks):
        first = min(undecided(steps, high_watermark), default=high_watermark)
        assert transactions.last_stable_offset(high_watermark) == first


@given(STEPS, st.integers(0, 60), st.integers(0, 60))
def test_the_aborted_of_a_range_hide_what_was_aborted_and_nothing_else(steps, start, length):
    transactions, aborted = build(steps)
    end = min(start + length, transactions.last_stable_offset(len(steps)))
    touching = [each for each in aborted if each.touches(start, end)]
    for offset, (producer_id, kind) in enumerate(steps[:end]):
        if kind != "records" or offset < start:
            continue
        later = (kind for other, kind in steps[offset + 1 :] if other == producer_id)
        marker = next(kind for kind in later if kind != "records")
        hidden = any(
            each.producer_id == producer_id and each.first_offset <= offset < each.last_offset
            for each in touching
        )
        assert hidden == (marker == "abort")


def test_a_marker_of_a_partition_without_records_aborts_nothing():
    transactions = OpenTransactions()
    assert transactions.append_marker(1, 0, is_commit=False) is None
    assert transactions.last_stable_offset(1) == 1


def test_the_open_ones_are_told_oldest_first():
    transactions, aborted = build([(2, "records"), (1, "records"), (2, "records"), (0, "abort")])
    assert transactions.open_since() == ((2, 0), (1, 1))
    assert transactions.append_marker(2, 4, is_commit=False) == AbortedTransaction(2, 0, 4)
    assert aborted == []
