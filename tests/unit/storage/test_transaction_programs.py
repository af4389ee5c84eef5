"""Transactions in a log against a plain list, through random programs; and that they catch bugs."""

from dataclasses import replace

import pytest

from ottla_broker.storage import log_compactor
from ottla_broker.storage.log_cleanup import LogCleanup
from ottla_broker.storage.log_files import LogFiles
from ottla_broker.storage.log_state import LogState
from ottla_broker.storage.policy.open_transactions import OpenTransactions
from ottla_broker.storage.segment_aborts import SegmentAborts
from ottla_broker.storage.segment_compaction import LogCompaction
from tests.unit.storage.log_programs import ProgramFailedError
from tests.unit.storage.transaction_programs import run_transaction_programs

PROGRAMS = 200
GROUPS = 2
LONG_STEPS_MAX = 40
LONG_PROGRAMS = 40
PROGRAMS_MAX = 600

pytestmark = pytest.mark.timeout(400)


@pytest.mark.parametrize("group", range(GROUPS))
def test_random_programs(group):
    programs, crashes = run_transaction_programs(range(group, PROGRAMS, GROUPS))
    assert programs == PROGRAMS // GROUPS
    assert crashes > programs // 16


def test_long_random_programs():
    first = 1_000
    programs, crashes = run_transaction_programs(
        range(first, first + LONG_PROGRAMS), steps_max=LONG_STEPS_MAX
    )
    assert programs == LONG_PROGRAMS
    assert crashes > programs // 8


def assert_caught(reason, *, steps_max=LONG_STEPS_MAX):
    with pytest.raises(ProgramFailedError, match=reason):
        run_transaction_programs(range(PROGRAMS_MAX), steps_max=steps_max)


def test_an_abort_index_that_is_lost_at_truncation(monkeypatch):
    sound = LogFiles.truncate_to

    async def forgetful(self, offset, limits):
        state = await sound(self, offset, limits)
        state.transactions.aborted.forget_below(1 << 62)
        return state

    monkeypatch.setattr(LogFiles, "truncate_to", forgetful)
    assert_caught("aborted from|shown: ")


def test_a_last_stable_offset_that_is_off_by_one(monkeypatch):
    """A marker counts as committed when the high watermark has reached it, not passed it."""
    sound = OpenTransactions.last_stable_offset
    monkeypatch.setattr(
        OpenTransactions,
        "last_stable_offset",
        lambda self, high_watermark: min(high_watermark, sound(self, high_watermark + 1)),
    )
    assert_caught("stable at")


def test_a_marker_of_a_sealed_segment_that_is_forgotten(monkeypatch):
    sound = LogState.snapshot
    monkeypatch.setattr(LogState, "snapshot", lambda self: replace(sound(self), ended=()))
    assert_caught("stable at")


def test_a_look_up_that_ends_with_the_segment_of_the_records(monkeypatch):
    monkeypatch.setattr(SegmentAborts, "reaches_back_below", lambda *_: False)
    assert_caught("aborted from|shown: ")


def test_a_compaction_above_the_last_stable_offset(monkeypatch):
    sound = log_compactor.plan_compaction

    def everything_decided(*arguments, last_stable_offset, **others):
        return sound(*arguments, last_stable_offset=1 << 62, **others)

    monkeypatch.setattr(log_compactor, "plan_compaction", everything_decided)
    assert_caught("AssertionError")


def test_a_compaction_in_which_aborted_records_replace_others(monkeypatch):
    monkeypatch.setattr(LogCompaction, "_is_aborted", lambda *_: False)
    assert_caught("not shown")


def test_a_compaction_that_takes_markers_before_their_records(monkeypatch):
    def without_markers(self, row, batch, header, *, is_last):
        return row if is_last else None

    monkeypatch.setattr(LogCompaction, "_kept_control_row", without_markers)
    assert_caught("open are|stable at|shown: |AssertionError|damaged")


def test_a_retention_that_takes_what_is_not_over(monkeypatch):
    sound = LogCleanup._log_start_after_retention

    async def everything_committed(self, limits, *, high_watermark, now_ms):
        return await sound(
            self, limits, high_watermark=self._files.active.base_offset, now_ms=now_ms
        )

    monkeypatch.setattr(LogCleanup, "_log_start_after_retention", everything_committed)
    assert_caught("retention took what is not over|AssertionError")
