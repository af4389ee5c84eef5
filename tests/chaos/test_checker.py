"""The checker against planted histories: clean ones pass, and each lie is found by its rule."""

import os
from collections import Counter
from dataclasses import replace

import pytest

from tests.chaos.checker import CHECKS, LOG_CHECKS, check
from tests.chaos.final_reads import StoredBatch
from tests.chaos.history import (
    END_OFFSET,
    FAIL,
    INFO,
    LEADER,
    OK,
    POLL,
    SEND,
    TIME_LOOKUP,
    HistoryWriter,
    Operation,
    read_history,
)
from tests.chaos.planted_history import BROKERS, Planted


def broken_rules(planted):
    return {rule for rule, find in CHECKS.items() if list(find(planted.evidence()))}


CLEAN, LIES = [], []


def clean(plant):
    CLEAN.append(pytest.param(plant, id=plant.__name__))
    return plant


def lie(rule):
    def add(plant):
        LIES.append(pytest.param(rule, plant, id=f"{rule}-{plant.__name__}"))
        return plant

    return add


@pytest.mark.parametrize("plant", CLEAN)
def test_a_clean_history_passes(plant):
    planted = Planted()
    plant(planted)
    assert broken_rules(planted) == set()


@pytest.mark.parametrize(("rule", "plant"), LIES)
def test_a_lie_is_found(rule, plant):
    planted = Planted()
    plant(planted)
    assert rule in broken_rules(planted)


def test_every_rule_has_two_lies_at_least():
    told = Counter(case.values[0] for case in LIES)
    assert told.keys() == LOG_CHECKS.keys()
    assert min(told.values()) >= 2


# --- clean ones -----------------------------------------------------------------------------------


@clean
def nothing_special(planted):
    pass


@clean
def an_unknown_send_is_stored(planted):
    planted.did(SEND, INFO, "a", value="v5")
    planted.store("v5")


@clean
def an_unknown_send_is_not_stored(planted):
    planted.did(SEND, INFO, "a", value="nowhere")


@clean
def a_refused_send_is_nowhere(planted):
    planted.did(SEND, FAIL, "a", value="nowhere", detail="NOT_ENOUGH_REPLICAS")


@clean
def retention_took_the_first_records(planted):
    planted.log_starts = {0: 2}
    planted.change_copies(log_start=2, records=tuple(planted.log[2:]))


@clean
def one_replica_has_forgotten_more_by_retention(planted):
    planted.log_starts = {0: 2}
    planted.change_copy(3, log_start=2, records=tuple(planted.log[2:]))
    planted.batches[3] = planted.batches[3][2:]


@clean
def another_reading_starts_over(planted):
    planted.poll("reader", [0, 1], session=1, high_watermark=2)


@clean
def a_new_leader_knows_its_high_watermark_late(planted):
    planted.did(POLL, process="reader", high_watermark=4, told_by=1)


@clean
def offsets_of_markers_are_no_records(planted):
    """A gap that nobody ever read a record in is no skip."""
    planted.send("a", "v7", 7)
    planted.store("v7", markers=2)
    planted.poll("reader", [7])


@clean
def an_end_that_was_asked_for_while_a_send_was_under_way(planted):
    planted.operations.append(
        Operation("a", SEND, OK, planted.now_ns + 1, planted.now_ns + 30, 0, "v5", 5)
    )
    planted.did(END_OFFSET, offset=5)
    planted.store("v5")


@clean
def times_that_go_backwards(planted):
    planted.send("a", "v5", 5)
    planted.store("v5", timestamp=900)
    planted.did(TIME_LOOKUP, timestamp_ms=800, offset=0)
    planted.did(TIME_LOOKUP, timestamp_ms=1003, offset=3)
    planted.did(TIME_LOOKUP, timestamp_ms=2000, offset=None)


@clean
def an_uncommitted_end_differs(planted):
    planted.batches[2].append(StoredBatch(2, 0, 5, 5, 3, 7, ((5, "elsewhere", 7),)))


@clean
def leaders_follow_one_another(planted):
    planted.did(LEADER, leader=1, leader_epoch=0)
    planted.did(LEADER, leader=2, leader_epoch=1)
    planted.did(LEADER, leader=None, leader_epoch=2)
    planted.did(LEADER, leader=1, leader_epoch=2)


# --- L1 and L2 ------------------------------------------------------------------------------------


@lie("L1")
def an_acknowledged_record_below_the_end_is_gone(planted):
    planted.operations = [each for each in planted.operations if each.function != POLL]
    planted.change_copies(records=tuple(planted.log[:2] + planted.log[3:]))


@lie("L1")
def another_value_stands_where_one_was_acknowledged(planted):
    planted.did(SEND, process="c", value="mine", offset=1)


@lie("L1")
def retention_explains_less_than_what_is_gone(planted):
    planted.log_starts = {0: 2}
    planted.operations = [each for each in planted.operations if each.function != POLL]
    planted.change_copies(log_start=2, records=tuple(planted.log[3:]))


@lie("L2")
def the_last_acknowledged_record_is_nowhere(planted):
    planted.did(SEND, process="a", value="v5", offset=5)


@lie("L2")
def one_broker_lacks_an_acknowledged_record(planted):
    planted.change_copy(2, high_watermark=4, records=tuple(planted.log[:4]))


# --- L3 and L4 ------------------------------------------------------------------------------------


@lie("L3")
def two_brokers_have_two_values_at_one_offset(planted):
    planted.change_copy(3, records=(*planted.log[:4], (4, "other", 1004)))


@lie("L3")
def two_sends_were_acknowledged_at_one_offset(planted):
    planted.did(SEND, process="c", value="other", offset=4)


@lie("L3")
def a_poll_read_what_is_not_there_any_more(planted):
    planted.did(POLL, process="other", records=((4, "other"),))


@lie("L4")
def a_retry_stored_a_second_copy(planted):
    planted.store("v4")


@lie("L4")
def a_second_copy_was_seen_for_a_while(planted):
    planted.did(POLL, process="other", records=((5, "v0"),))


@lie("L4")
def a_second_copy_is_in_another_partition(planted):
    planted.did(SEND, process="a", value="v2", offset=9, partition=1)


# --- L5 and L6 ------------------------------------------------------------------------------------


@lie("L5")
def a_refused_send_is_stored(planted):
    planted.did(SEND, FAIL, "a", value="v5")
    planted.store("v5")


@lie("L5")
def a_refused_send_was_polled(planted):
    planted.did(SEND, FAIL, "a", value="v5")
    planted.did(POLL, process="other", records=((5, "v5"),))


@lie("L6")
def two_sends_change_places(planted):
    first = planted.did(SEND, process="a", value="v5", offset=6)
    second = planted.did(SEND, process="a", value="v6", offset=5)
    assert second.offset < first.offset
    planted.store("v6")
    planted.store("v5")


@lie("L6")
def a_send_that_nobody_knew_of_goes_behind_a_later_one(planted):
    planted.did(SEND, INFO, process="a", value="unknown", is_ordered=True)
    planted.did(SEND, process="a", value="later", offset=5)
    planted.store("later")
    planted.store("unknown")


@lie("L6")
def a_send_that_nobody_knew_of_goes_before_an_earlier_one(planted):
    planted.did(SEND, process="a", value="earlier", offset=6)
    planted.did(SEND, INFO, process="a", value="unknown", is_ordered=True)
    planted.store("unknown")
    planted.store("earlier")


@clean
def a_send_that_nobody_knew_of_is_in_its_place(planted):
    planted.did(SEND, INFO, process="a", value="unknown", is_ordered=True)
    planted.did(SEND, INFO, process="a", value="nowhere", is_ordered=True)
    planted.did(SEND, process="a", value="later", offset=6)
    planted.store("unknown")
    planted.store("later")


@clean
def a_request_that_nobody_knew_of_comes_late(planted):
    """Plain requests have a key and no number."""
    planted.did(SEND, INFO, process="a", value="unknown")
    planted.did(SEND, process="a", value="later", offset=5)
    planted.store("later")
    planted.store("unknown")


@lie("L6")
def a_send_goes_before_all_earlier_ones(planted):
    """Sent and acknowledged last, and first in the log."""
    planted.operations.append(replace(planted.operations[1], invoked_ns=9_000, completed_ns=9_010))
    planted.operations.append(replace(planted.operations[3], invoked_ns=8_000, completed_ns=8_010))


# --- L7 and L8 ------------------------------------------------------------------------------------


@lie("L7")
def a_poll_skips_a_record(planted):
    planted.poll("skipper", [0, 1])
    planted.poll("skipper", [3, 4])


@lie("L7")
def a_poll_skips_within_itself(planted):
    planted.poll("skipper", [0, 2])


@lie("L7")
def a_poll_goes_back(planted):
    planted.poll("other", [0, 1, 2])
    planted.poll("other", [2, 3])


@lie("L7")
def a_poll_goes_back_within_itself(planted):
    planted.poll("other", [1, 0])


@lie("L8")
def what_was_read_disappears(planted):
    planted.change_copies(high_watermark=4, records=tuple(planted.log[:4]))


@lie("L8")
def what_was_read_changes_on_one_broker(planted):
    planted.change_copy(1, records=((0, "other", 1000), *planted.log[1:]))


@lie("L8")
def a_high_watermark_falls(planted):
    planted.did(POLL, process="reader", high_watermark=4)


@lie("L8")
def a_high_watermark_of_a_follower_falls(planted):
    planted.did(POLL, process="local", via=2, high_watermark=4)
    planted.did(POLL, process="local", via=2, high_watermark=3)


@lie("L8")
def a_high_watermark_was_above_the_end(planted):
    planted.did(POLL, process="ahead", high_watermark=6)


@lie("L8")
def a_followers_high_watermark_was_above_the_end(planted):
    planted.did(POLL, process="local", via=2, high_watermark=6)


@lie("L8")
def an_end_was_told_that_is_none(planted):
    planted.did(END_OFFSET, offset=6)


# --- L9 and L10 -----------------------------------------------------------------------------------


@lie("L9")
def an_end_does_not_cover_what_was_acknowledged(planted):
    planted.did(END_OFFSET, offset=4)


@lie("L9")
def an_end_does_not_cover_what_was_polled(planted):
    planted.operations = [each for each in planted.operations if each.function != SEND]
    planted.did(END_OFFSET, offset=3)


@lie("L9")
def an_end_goes_back(planted):
    planted.did(END_OFFSET, offset=9)
    planted.did(END_OFFSET, offset=8)


@lie("L9")
def an_end_does_not_cover_what_was_committed_for_a_reader(planted):
    planted.did(POLL, process="other", records=((0, "v0"),), high_watermark=9)
    planted.did(END_OFFSET, offset=8)


@lie("L9")
def an_end_does_not_cover_what_a_follower_knew_to_be_committed(planted):
    planted.did(POLL, process="other", via=3, high_watermark=9)
    planted.did(END_OFFSET, offset=8)


@lie("L9")
def a_record_is_denied_that_was_acknowledged(planted):
    planted.poll("http", [], next_offset=4)


@clean
def nothing_is_there_yet(planted):
    planted.poll("http", [], next_offset=5)


@clean
def a_page_ends_before_the_log_does(planted):
    planted.poll("http", [1, 2], next_offset=3)


@clean
def a_copy_lags(planted):
    planted.poll("copies", [], next_offset=2, via=2)


@clean
def a_record_is_acknowledged_while_somebody_reads(planted):
    planted.operations.append(
        Operation("http", POLL, OK, 1, planted.now_ns + 99, partition=0, next_offset=0)
    )


@lie("L10")
def a_log_begins_where_nothing_explains_it(planted):
    planted.change_copies(log_start=2, records=tuple(planted.log[2:]))


@lie("L10")
def a_time_is_looked_up_too_late(planted):
    planted.did(TIME_LOOKUP, timestamp_ms=1001, offset=3)


@lie("L10")
def a_time_is_looked_up_too_early(planted):
    planted.did(TIME_LOOKUP, timestamp_ms=1003, offset=1)


@lie("L10")
def a_time_is_not_found(planted):
    planted.did(TIME_LOOKUP, timestamp_ms=1002, offset=None)


@lie("L10")
def a_time_is_found_that_is_not_there(planted):
    planted.did(TIME_LOOKUP, timestamp_ms=5000, offset=4)


# --- L11 and L12 ----------------------------------------------------------------------------------


@lie("L11")
def a_replica_ends_earlier(planted):
    planted.change_copy(3, high_watermark=4, records=tuple(planted.log[:4]))


@lie("L11")
def a_replica_has_another_timestamp(planted):
    planted.change_copy(3, records=(*planted.log[:4], (4, "v4", 9)))


@lie("L11")
def a_batch_differs_in_the_files(planted):
    planted.batches[2][1] = replace(planted.batches[2][1], checksum=1)


@lie("L11")
def a_batch_is_missing_in_the_files(planted):
    del planted.batches[2][2]


@lie("L11")
def an_epoch_falls(planted):
    for broker in BROKERS:
        planted.batches[broker][4] = replace(planted.batches[broker][4], leader_epoch=0)


@lie("L11")
def two_lead_in_one_epoch(planted):
    planted.did(LEADER, leader=1, leader_epoch=4)
    planted.did(LEADER, leader=2, leader_epoch=4)


@lie("L12")
def a_failure_tells_an_offset(planted):
    planted.did(SEND, FAIL, "a", value="nowhere", offset=0)


@lie("L12")
def an_unknown_end_tells_an_offset(planted):
    planted.did(END_OFFSET, INFO, offset=-1)


@lie("L12")
def a_success_tells_minus_one(planted):
    planted.did(SEND, process="a", value="v5", offset=-1)


@lie("L12")
def a_success_tells_no_offset(planted):
    planted.did(END_OFFSET, offset=None)


# --- runs that prove nothing ----------------------------------------------------------------------


def verdict_of(planted, faults, **limits):
    return check(
        planted.evidence(), faults=Counter(faults), wanted=("kill",), **{"ok_min": 5} | limits
    )


def test_a_run_with_faults_and_acknowledged_records_is_clean():
    verdict = verdict_of(Planted(), {"kill": 3})
    assert verdict.is_clean, verdict
    assert verdict.counts["acknowledged"] == 5
    assert verdict.counts["lost"] == verdict.counts["duplicated"] == 0
    assert verdict.counts["divergent"] == 0


def test_a_run_whose_fault_never_fired_proves_nothing():
    assert verdict_of(Planted(), {"pause": 3}).trivial == ["kill never fired"]


def test_a_run_in_which_hardly_anything_succeeded_proves_nothing():
    assert verdict_of(Planted(), {"kill": 1}, ok_min=6).trivial
    planted = Planted()
    for number in range(30):
        planted.send("a", f"refused-{number}", None, FAIL)
    assert verdict_of(planted, {"kill": 1}).trivial


@pytest.mark.parametrize("function", [POLL, END_OFFSET])
def test_a_run_in_which_nobody_read_proves_nothing(function):
    planted = Planted()
    planted.operations = [each for each in planted.operations if each.function != function]
    assert verdict_of(planted, {"kill": 1}).trivial


def test_a_run_without_final_reads_proves_nothing():
    planted = Planted()
    planted.copies.clear()
    assert verdict_of(planted, {"kill": 1}).trivial


def test_a_verdict_names_what_is_broken():
    planted = Planted()
    planted.did(SEND, process="a", value="v5", offset=5)
    verdict = verdict_of(planted, {"kill": 1})
    assert not verdict.is_clean
    assert verdict.counts["lost"] == len(BROKERS)
    assert "broker 2 has not partition 0 offset 5 v5" in str(verdict)


# --- what clients write down ----------------------------------------------------------------------


def test_a_history_is_read_as_it_was_written(tmp_path):
    writer = HistoryWriter(tmp_path / "a.jsonl", "a")
    first = writer.invoke(SEND, partition=0, value="x")
    second = writer.invoke(POLL, partition=0, session=2)
    writer.ok(second, records=[(4, "y")], high_watermark=5)
    writer.ok(first, offset=7)
    writer.fail(writer.invoke(SEND, partition=0, value="z"), detail="THROTTLED")
    writer.info(writer.invoke(SEND, partition=0, value="w"), detail="reset")
    writer.close()
    sent, polled, failed, unknown = read_history([tmp_path / "a.jsonl"])
    assert (sent.outcome, sent.offset, sent.process) == (OK, 7, "a")
    assert sent.invoked_ns < polled.invoked_ns < polled.completed_ns < sent.completed_ns
    assert (polled.records, polled.session, polled.high_watermark) == (((4, "y"),), 2, 5)
    assert (failed.outcome, failed.detail) == (FAIL, "THROTTLED")
    assert unknown.outcome == INFO


def test_what_a_killed_client_left_open_may_have_happened(tmp_path):
    path = tmp_path / "a.jsonl"
    writer = HistoryWriter(path, "a")
    writer.ok(writer.invoke(SEND, partition=0, value="x"), offset=0)
    writer.invoke(SEND, partition=0, value="y")
    writer.ok(writer.invoke(SEND, partition=0, value="z"), offset=2)
    writer.close()
    os.truncate(path, path.stat().st_size - 4)
    assert [each.outcome for each in read_history([path])] == [OK, INFO, INFO]


def test_an_end_without_a_beginning_is_refused(tmp_path):
    writer = HistoryWriter(tmp_path / "a.jsonl", "a")
    writer.ok(9, offset=1)
    writer.close()
    with pytest.raises(ValueError, match="no beginning"):
        read_history([tmp_path / "a.jsonl"])
