"""The checks of what lies on the brokers in the end, against planted logs."""

from dataclasses import replace

import pytest

from tests.chaos.evidence import Evidence
from tests.chaos.final_reads import FinalRead, StoredBatch
from tests.chaos.planted_history import BROKERS, Planted
from tests.chaos.replica_checks import diverging_replicas, diverging_states


def told(planted):
    return [violation.detail for violation in diverging_replicas(planted.evidence())]


# --- files that lack what was told ----------------------------------------------------------------


def test_a_broker_that_only_passes_reads_on_needs_no_files():
    planted = Planted()
    planted.copies[4] = replace(planted.copies[1], broker=4, is_own=False)
    assert told(planted) == []


def test_a_replica_without_any_file_is_found():
    planted = Planted()
    planted.batches[2] = []
    assert told(planted)[0] == (
        "partition 0: the files of broker 2 have 0 to 0, and it told (0, 5)"
    )


def test_a_replica_without_its_first_segment_is_found():
    planted = Planted()
    del planted.batches[3][:2]
    assert told(planted)[0] == (
        "partition 0: the files of broker 3 have 2 to 5, and it told (0, 5)"
    )


def test_a_beginning_that_no_replica_has_any_more_is_found():
    planted = Planted()
    for broker in BROKERS:
        del planted.batches[broker][:2]
    assert "partition 0: the files of broker 1 have 2 to 5, and it told (0, 5)" in told(planted)


def test_an_end_that_no_file_has_is_found():
    planted = Planted()
    for broker in BROKERS:
        planted.batches[broker].pop()
    assert "partition 0: the files of broker 1 have 0 to 4, and it told (0, 5)" in told(planted)


def test_a_gap_in_the_files_of_all_is_found():
    planted = Planted()
    for broker in BROKERS:
        del planted.batches[broker][2]
    assert "partition 0: the files of broker 1 go from 1 on to 3" in told(planted)


def test_a_batch_that_is_stored_twice_is_found():
    planted = Planted()
    planted.batches[1].insert(2, planted.batches[1][1])
    assert "partition 0: the files of broker 1 go from 1 on to 1" in told(planted)


def test_records_that_were_told_otherwise_than_they_are_stored_are_found():
    """Out of what a broker keeps in memory, say."""
    planted = Planted()
    for broker in BROKERS:
        batch = planted.batches[broker][3]
        planted.batches[broker][3] = replace(batch, records=((3, "other", 1003),))
    assert told(planted) == [
        f"partition 0: the files of broker {broker} differ from what it told at [3], 1 places"
        for broker in BROKERS
    ]


# --- compacted topics -----------------------------------------------------------------------------


class Compacted:
    """Three replicas of one partition in which two keys are written again and again."""

    def __init__(self):
        log = [("a", "1"), ("b", "1"), ("a", "2"), ("c", "1"), ("c", None), ("b", "2")]
        self.records = {
            broker: [(offset, record, 1000 + offset) for offset, record in enumerate(log)]
            for broker in BROKERS
        }
        self.stored = {broker: list(records) for broker, records in self.records.items()}
        self.ends = dict.fromkeys(BROKERS, len(log))
        self.epochs = [offset // 2 for offset in range(len(log))]

    def forget(self, broker, *offsets):
        """Compaction at one of them."""
        for records in (self.records, self.stored):
            records[broker] = [record for record in records[broker] if record[0] not in offsets]

    def told(self):
        copies = [
            FinalRead(broker, 0, 0, self.ends[broker], tuple(records))
            for broker, records in self.records.items()
        ]
        batches = [
            StoredBatch(broker, 0, record[0], record[0], self.epochs[record[0]], 1, (record,))
            for broker, records in self.stored.items()
            for record in records
        ]
        evidence = Evidence([], copies, batches, brokers=BROKERS, replicas={0: BROKERS})
        return [violation.detail for violation in diverging_states(evidence)]


def test_replicas_of_a_compacted_topic_that_forgot_different_records_are_equal():
    compacted = Compacted()
    compacted.forget(2, 0, 1)
    compacted.forget(3, 0, 1, 3, 4)
    assert compacted.told() == []


def test_what_is_not_committed_may_differ_on_a_compacted_topic():
    compacted = Compacted()
    compacted.stored[1].append((6, ("a", "mine"), 9))
    compacted.epochs.append(3)
    assert compacted.told() == []


@pytest.mark.parametrize("broker", BROKERS)
def test_a_replica_that_lost_the_newest_record_of_a_key_is_found(broker):
    compacted = Compacted()
    compacted.forget(broker, 5)
    assert any("keep other records of 1 keys" in each for each in compacted.told())


def test_a_removed_key_that_comes_back_is_found():
    compacted = Compacted()
    compacted.forget(2, 4)
    assert any("broker 1 and broker 2 keep other records" in each for each in compacted.told())


def test_files_of_a_compacted_topic_that_lack_what_was_told_are_found():
    compacted = Compacted()
    compacted.stored[3] = []
    assert any("the files of 3 keep other records of 2 keys" in each for each in compacted.told())


def test_two_records_at_one_offset_of_a_compacted_topic_are_found():
    compacted = Compacted()
    for records in (compacted.records, compacted.stored):
        records[2][0] = (0, ("a", "other"), 1000)
    assert any("differ at offset 0" in each for each in compacted.told())


def test_replicas_of_a_compacted_topic_that_end_elsewhere_are_found():
    compacted = Compacted()
    compacted.ends[2] = 5
    assert compacted.told() == ["partition 0 ends at {1: 6, 2: 5, 3: 6}, by broker"]


def test_an_epoch_that_falls_on_a_compacted_topic_is_found():
    compacted = Compacted()
    compacted.epochs[5] = 0
    assert len([each for each in compacted.told() if "epoch 0 at 5 after 2" in each]) == 3
