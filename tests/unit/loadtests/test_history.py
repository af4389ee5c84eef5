"""The check that decides the demo and the load run, on histories with planted faults."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtests.history import Acknowledged, HistoryCheck, StoredRecord, Verdict, fingerprint

BROKERS = (1, 2, 3)
Logs = dict[int, list[StoredRecord]]


def acknowledged(sequence, offset, *, partition=0, key="a"):
    return Acknowledged(sequence, key, fingerprint(b"%d" % sequence), partition, offset)


def stored(sequence, offset, *, key="a"):
    return StoredRecord(offset, sequence, key, fingerprint(b"%d" % sequence))


def verdict_of(acks, copies, *, sent=10) -> Verdict:
    """`copies` is by partition: the log of every broker, or by broker."""
    check = HistoryCheck(sent)
    for ack in acks:
        check.acknowledge(ack)
    for partition, logs in copies.items():
        by_broker = logs if isinstance(logs, dict) else dict.fromkeys(BROKERS, logs)
        check.check_partition(partition, by_broker)
    return check.verdict()


def counts(verdict):
    return (
        verdict.lost,
        verdict.duplicated,
        verdict.out_of_order,
        verdict.divergent,
        verdict.foreign,
    )


CLEAN = (0, 0, 0, 0, 0)


def test_a_history_without_faults_is_clean():
    log = [stored(0, 0), stored(1, 1, key="b"), stored(2, 2)]
    verdict = verdict_of([acknowledged(0, 0), acknowledged(2, 2)], {0: log})
    assert counts(verdict) == CLEAN
    assert verdict.is_clean
    assert (verdict.acknowledged, verdict.read) == (2, {1: 3, 2: 3, 3: 3})
    assert verdict.examples == ()


def test_a_record_that_was_never_acknowledged_may_be_missing_or_there_once():
    assert counts(verdict_of([acknowledged(0, 0)], {0: [stored(0, 0)]})) == CLEAN
    assert counts(verdict_of([acknowledged(0, 0)], {0: [stored(0, 0), stored(5, 1)]})) == CLEAN


def test_a_record_missing_everywhere_is_lost_and_nowhere_divergent():
    verdict = verdict_of([acknowledged(0, 0), acknowledged(1, 1)], {0: [stored(0, 0)]})
    assert counts(verdict) == (1, 0, 0, 0, 0)
    assert not verdict.is_clean
    assert "record 1 at 0@1" in verdict.examples[0]


def test_a_record_missing_on_one_broker_is_lost_and_divergent():
    log = [stored(0, 0), stored(1, 1)]
    copies = {1: log, 2: log[:1], 3: log}
    verdict = verdict_of([acknowledged(0, 0), acknowledged(1, 1)], {0: copies})
    assert counts(verdict) == (1, 0, 0, 1, 0)
    assert "missing on [2]" in verdict.examples[-1]


def test_an_unacknowledged_record_missing_on_one_broker_is_divergent_only():
    copies = {1: [stored(0, 0)], 2: [], 3: [stored(0, 0)]}
    assert counts(verdict_of([], {0: copies})) == (0, 0, 0, 1, 0)


def test_a_record_at_another_offset_than_acknowledged_is_lost():
    verdict = verdict_of([acknowledged(0, 0)], {0: [stored(5, 0, key="b"), stored(0, 1)]})
    assert counts(verdict) == (1, 0, 0, 0, 0)


@pytest.mark.parametrize(
    "changed",
    [
        StoredRecord(0, 0, "a", fingerprint(b"other")),
        StoredRecord(0, 0, "b", fingerprint(b"0")),
        StoredRecord(0, 0, None, fingerprint(b"0")),
    ],
    ids=["value", "key", "no key"],
)
def test_a_changed_record_is_lost_and_where_one_broker_differs_divergent(changed):
    everywhere = verdict_of([acknowledged(0, 0)], {0: [changed]})
    assert counts(everywhere) == (1, 0, 0, 0, 0)
    good = [stored(0, 0)]
    on_one = verdict_of([acknowledged(0, 0)], {0: {1: good, 2: good, 3: [changed]}})
    assert (on_one.lost, on_one.divergent) == (1, 1)


def test_a_partition_that_was_not_read_is_lost():
    verdict = verdict_of([acknowledged(0, 0), acknowledged(1, 0, partition=1)], {0: [stored(0, 0)]})
    assert counts(verdict) == (1, 0, 0, 0, 0)


def test_a_partition_without_any_copy_is_lost():
    assert counts(verdict_of([acknowledged(0, 0)], {0: {}})) == (1, 0, 0, 0, 0)


def test_a_second_copy_is_a_duplicate_once_and_not_out_of_order_too():
    log = [stored(0, 0), stored(1, 1), stored(0, 2)]
    verdict = verdict_of([acknowledged(0, 0), acknowledged(1, 1)], {0: log})
    assert counts(verdict) == (0, 1, 0, 0, 0)


def test_every_further_copy_counts():
    log = [stored(0, 0), stored(0, 1), stored(0, 2)]
    assert counts(verdict_of([acknowledged(0, 0)], {0: log})) == (0, 2, 0, 0, 0)


def test_a_copy_in_another_partition_is_a_duplicate():
    verdict = verdict_of([acknowledged(0, 0)], {0: [stored(0, 0)], 1: [stored(0, 0)]})
    assert counts(verdict) == (0, 1, 0, 0, 0)


def test_an_unacknowledged_record_that_is_there_twice_is_a_duplicate():
    assert counts(verdict_of([], {0: [stored(0, 0), stored(0, 1)]})) == (0, 1, 0, 0, 0)


def test_acknowledgements_at_two_positions_are_a_duplicate():
    log = [stored(0, 0)]
    assert counts(verdict_of([acknowledged(0, 0), acknowledged(0, 0)], {0: log})) == CLEAN
    assert counts(verdict_of([acknowledged(0, 0), acknowledged(0, 1)], {0: log})) == (0, 1, 0, 0, 0)


def test_a_later_record_of_the_key_before_an_earlier_one_is_out_of_order():
    log = [stored(1, 0), stored(0, 1), stored(2, 2)]
    assert counts(verdict_of([], {0: log})) == (0, 0, 1, 0, 0)


def test_every_record_after_a_later_one_counts():
    log = [stored(9, 0), stored(1, 1), stored(2, 2)]
    assert counts(verdict_of([], {0: log})) == (0, 0, 2, 0, 0)


def test_other_keys_and_records_without_a_key_have_no_order():
    log = [stored(3, 0), stored(2, 1, key="b"), stored(1, 2, key=None), stored(0, 3, key=None)]
    assert counts(verdict_of([], {0: log})) == CLEAN


def test_a_key_in_two_partitions_is_out_of_order():
    assert counts(verdict_of([], {0: [stored(0, 0)], 1: [stored(1, 0)]})) == (0, 0, 1, 0, 0)


@pytest.mark.parametrize("sequence", [None, 10, -1])
def test_a_record_that_nobody_sent_is_foreign(sequence):
    alien = StoredRecord(0, sequence, "a", fingerprint(b"x"))
    assert counts(verdict_of([], {0: [alien]})) == (0, 0, 0, 0, 1)


def test_examples_are_bounded_and_counts_are_not():
    log = [stored(0, offset) for offset in range(101)]
    verdict = verdict_of([], {0: log})
    assert verdict.duplicated == 100
    assert len(verdict.examples) == 20


def test_end_offsets_follow_the_last_acknowledged_offset():
    check = HistoryCheck(10)
    check.acknowledge(acknowledged(0, 7))
    check.acknowledge(acknowledged(1, 3))
    check.acknowledge(acknowledged(2, 0, partition=2))
    assert check.end_offsets() == {0: 8, 2: 1}


def _clean_history(seed: int) -> tuple[list[Acknowledged], dict[int, Logs]]:
    """Records of a few keys in two partitions, the same log on every broker."""
    rng = random.Random(seed)
    partition_of = {key: rng.randrange(2) for key in "abc"}
    logs: dict[int, list[StoredRecord]] = {0: [], 1: []}
    acks = []
    for sequence in range(rng.randrange(4, 30)):
        key = rng.choice("abc")
        log = logs[partition_of[key]]
        log.append(stored(sequence, len(log), key=key))
        ack = acknowledged(sequence, len(log) - 1, partition=partition_of[key], key=key)
        acks.append(ack)
    return acks, {p: {b: list(log) for b in BROKERS} for p, log in logs.items()}


@given(seed=st.integers(0, 10_000), fault=st.sampled_from(["none", "drop", "swap", "repeat"]))
def test_every_planted_fault_is_found_and_nothing_else(seed, fault):
    """A fault on one broker always shows, as what it is."""
    acks, copies = _clean_history(seed)
    rng = random.Random(seed + 1)
    partition = max(copies, key=lambda p: len(copies[p][1]))
    log = copies[partition][2]
    if fault == "drop":
        del log[rng.randrange(len(log))]
    elif fault == "repeat":
        last = log[-1]
        log.append(StoredRecord(len(log), last.sequence, last.key, last.fingerprint))
    elif fault == "swap":
        i, j = sorted(rng.sample(range(len(log)), 2))
        log[i], log[j] = (
            StoredRecord(log[i].offset, log[j].sequence, log[j].key, log[j].fingerprint),
            StoredRecord(log[j].offset, log[i].sequence, log[i].key, log[i].fingerprint),
        )
    verdict = verdict_of(acks, copies, sent=30)
    found = {
        "none": verdict.is_clean,
        "drop": (verdict.lost, verdict.divergent, verdict.duplicated) == (1, 1, 0),
        "repeat": (verdict.lost, verdict.divergent, verdict.duplicated) == (0, 1, 1),
        "swap": (verdict.lost, verdict.divergent, verdict.duplicated) == (2, 2, 0),
    }
    assert found[fault], (fault, verdict)


def test_writers_of_one_key_have_an_order_each():
    def by(writer, sequence, offset):
        return StoredRecord(offset, sequence, "a", fingerprint(b"%d" % sequence), writer)

    assert counts(verdict_of([], {0: [by(1, 5, 0), by(2, 3, 1), by(1, 6, 2)]})) == CLEAN
    assert counts(verdict_of([], {0: [by(1, 5, 0), by(2, 3, 1), by(1, 4, 2)]})) == (0, 0, 1, 0, 0)
