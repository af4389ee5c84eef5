"""The random programs catch what they are there to catch: each bug is found within a few hundred.

Truncation to the high watermark, which no single log can tell from a right one, is planted in the
simulation of replication.
"""

from contextlib import suppress
from dataclasses import replace

import pytest

from ottla_broker.storage import (
    log_cleanup,
    log_compactor,
    log_files,
    log_state,
    segment,
    segment_compaction,
    segment_reader,
)
from ottla_broker.storage.group_commit import Group, GroupCommit
from ottla_broker.storage.log_cleanup import LogCleanup
from ottla_broker.storage.log_files import LogFiles
from ottla_broker.storage.log_state import LogState
from ottla_broker.storage.segment import remove_file
from ottla_protocol.errors import StorageError
from tests.unit.storage.log_programs import WEIGHTS, LogProgram, ProgramFailedError, run_programs

PROGRAMS_MAX = 600

pytestmark = pytest.mark.timeout(120)


APPENDS = {"append", "append_many"}
RETENTION = {"let_go_by_age", "let_go_by_size", "follow_the_leaders_start", "remove_expired"}


def assert_caught(reason, *steps):
    """Within a few hundred programs of appends and of the steps that the bug is in."""
    with pytest.raises(ProgramFailedError, match=reason):
        run_programs(range(PROGRAMS_MAX), only=APPENDS.union(*steps))


def test_a_retention_that_takes_the_active_segment(monkeypatch):
    sound = LogCleanup._log_start_after_retention

    async def with_the_active(self, limits, *, high_watermark, now_ms):
        start = await sound(self, limits, high_watermark=high_watermark, now_ms=now_ms)
        return high_watermark if start == self._files.active.base_offset < high_watermark else start

    monkeypatch.setattr(LogCleanup, "_log_start_after_retention", with_the_active)
    assert_caught("the active segment lost records|young enough went|a batch is cut", RETENTION)


def test_a_retention_that_takes_what_is_not_committed(monkeypatch):
    sound = log_cleanup.may_go

    def everything_committed(oldest, limits, *, high_watermark, **arguments):
        return sound(oldest, limits, high_watermark=1 << 62, **arguments)

    monkeypatch.setattr(log_cleanup, "may_go", everything_committed)
    assert_caught("AssertionError", RETENTION)


def test_a_segment_whose_age_is_that_of_its_oldest_record(monkeypatch):
    def oldest_timestamp(connection, path):
        [(oldest,)] = connection.execute("SELECT min(max_timestamp) FROM batches").fetchall()
        return oldest or 0

    monkeypatch.setattr(segment, "newest_timestamp", oldest_timestamp)
    assert_caught(
        "young enough went|time ", RETENTION, {"find_timestamps"}
    )  # Look-ups go by it too.


def test_a_time_index_that_takes_timestamps_to_rise(monkeypatch):
    drop, drop_other, create, _ = segment._TIME_INDEX
    every_batch = (
        "INSERT OR IGNORE INTO time_index SELECT max_timestamp, base_offset FROM batches "
        "ORDER BY base_offset"
    )
    monkeypatch.setattr(segment, "_TIME_INDEX", (drop, drop_other, create, every_batch))
    assert_caught("time ", {"find_timestamps"})


def test_a_removal_that_takes_one_file_too_many(monkeypatch):
    def forget_one_too_many(self):
        while self._first_has_expired:
            self._expired.append(self._segments.pop(0))
        if self._expired and len(self._segments) > 1:
            self._expired.append(self._segments.pop(0))

    monkeypatch.setattr(LogFiles, "forget_expired", forget_one_too_many)
    assert_caught("while the log begins at", RETENTION)


def test_files_that_go_before_the_log_s_start_moves(monkeypatch):
    sound = LogFiles.advance_log_start

    def files_first(self, offset):
        while len(self._segments) > 1 and self._segments[1].base_offset <= offset:
            remove_file(self._segments.pop(0).path)
        sound(self, offset)

    monkeypatch.setattr(LogFiles, "advance_log_start", files_first)
    assert_caught("while the log begins at", RETENTION)


def test_a_truncation_that_begins_with_the_oldest_file(monkeypatch):
    """Nothing of it is seen after its end: only a crash on the way leaves a hole."""
    sound = LogFiles.truncate_to

    async def oldest_first(self, offset, limits):
        doomed = [each for each in self._segments if each.base_offset > offset]
        for each in doomed:
            await self._remove(each)
        self._segments = [each for each in self._segments if each not in doomed]
        return await sound(self, offset, limits)

    monkeypatch.setattr(LogFiles, "truncate_to", oldest_first)
    assert_caught(r"crash-\d+/.* damaged at offset|after a crash before", {"truncate"})


def test_a_sealing_that_forgets_the_write_ahead_log(monkeypatch):
    """Its batches are lost with the log that the file does not need any more, so it seems."""

    def without_checkpoint(connection, path):
        for sidecar in segment.sqlite.sidecars(path):
            sidecar.unlink(missing_ok=True)

    monkeypatch.setattr(segment.sqlite, "leave_wal", without_checkpoint)
    assert_caught("AssertionError|StorageError|lost", WEIGHTS)


def test_a_compaction_that_drops_the_newest_record_of_a_key(monkeypatch):
    sound = segment_compaction.kept_records

    def one_too_many(records, newest_of, **arguments):
        return sound(records, lambda key: newest_of(key) + 1, **arguments)

    monkeypatch.setattr(segment_compaction, "kept_records", one_too_many)
    assert_caught("is the newest of its key", {"compact"})


def test_a_compaction_above_the_high_watermark(monkeypatch):
    sound = log_compactor.plan_compaction

    def everything_committed(*arguments, last_stable_offset, **others):
        return sound(*arguments, last_stable_offset=1 << 62, **others)

    monkeypatch.setattr(log_compactor, "plan_compaction", everything_committed)
    # A record goes that is not committed itself, or whose newer one is not.
    assert_caught("is not committed|is the newest of its key", {"compact"})


def test_a_tombstone_that_goes_at_once(monkeypatch):
    sound = segment_compaction.kept_records

    def no_patience(records, newest_of, **arguments):
        return sound(records, newest_of, **{**arguments, "drop_tombstones": True})

    monkeypatch.setattr(segment_compaction, "kept_records", no_patience)
    assert_caught("went too early", {"compact"})


def test_a_compaction_that_makes_room_before_the_new_file_counts(monkeypatch):
    """Only a crash on the way tells: the records of the files that went are nowhere."""

    def removes_first(compacting, replaced, end_offset):
        for path in replaced[1:]:
            remove_file(path)
        segment.publish_file(compacting, replaced[0])

    monkeypatch.setattr(log_files, "replace_segments", removes_first)
    assert_caught(r"crash-\d+/.* damaged at offset|after a crash before|lost", {"compact"})


SENDS = ("append_sequenced", "append_request", "retry_sequenced", "retry_request")


def assert_resend_caught(reason, *steps):
    """Within a few hundred programs of what is sent, sent again, and steps that are as likely."""
    weights = dict.fromkeys((*SENDS, *steps), 1)
    with pytest.raises(ProgramFailedError, match=reason):
        run_programs(range(PROGRAMS_MAX), weights=weights)


@pytest.mark.parametrize("forgotten", ["producers", "requests"])
def test_a_segment_that_begins_without_what_was_sent(monkeypatch, forgotten):
    """A roll forgets nothing by itself: only who opens the log again reads the snapshot."""
    sound = LogState.snapshot
    monkeypatch.setattr(LogState, "snapshot", lambda self: replace(sound(self), **{forgotten: ()}))
    assert_resend_caught("is stored again|is forgotten", "restart", "crash")


def test_a_state_that_is_not_rebuilt_from_the_rows(monkeypatch):
    def snapshot_alone(connection, snapshot, limits):
        producers, requests = log_state._empty_memory(limits)
        producers.load(snapshot.producers, limits.monotonic_ms)
        requests.load(snapshot.requests, limits.monotonic_ms)
        return producers, requests, log_state.LogTransactions(snapshot)

    monkeypatch.setattr(log_state, "_replay_rows", snapshot_alone)
    assert_resend_caught("is stored again|is forgotten", "restart", "crash")


def test_a_retention_that_forgets_who_sent_what_goes(monkeypatch):
    """The retry of a batch comes when the batch is gone, and is no new one."""
    sound = LogCleanup._log_start_after_retention

    async def forgetful(self, limits, *, high_watermark, now_ms):
        start = await sound(self, limits, high_watermark=high_watermark, now_ms=now_ms)
        producers = self._appender.state.producers
        producers.load(
            (producer_id, producer)
            for producer_id, producer in producers.entries()
            if producer.batches[-1].last_offset >= start
        )
        return start

    monkeypatch.setattr(LogCleanup, "_log_start_after_retention", forgetful)
    assert_resend_caught("is stored again", "let_go_by_age")


def test_a_sync_whose_failure_is_ignored(monkeypatch):
    sound = LogFiles.commit

    async def hopeful(self, group):
        with suppress(StorageError):
            await sound(self, group)

    monkeypatch.setattr(LogFiles, "commit", hopeful)
    assert_caught("a commit that failed counts as durable", {"fail_to_sync"})


def test_a_commit_that_counts_before_it_is_synced(monkeypatch):
    sound = GroupCommit._write_or_hold

    async def hasty(self, item):
        if isinstance(item, Group) and item.end_offset is not None:
            self.durable_end = item.end_offset
        return await sound(self, item)

    monkeypatch.setattr(GroupCommit, "_write_or_hold", hasty)
    assert_caught("a commit that failed counts as durable", {"fail_to_sync"})


TRIMS = {"trim", "remove_expired", "restart", "crash"}


def test_a_trim_that_takes_the_segment_that_the_log_begins_in(monkeypatch):
    def begins_in_it(self):
        return len(self._segments) > 1 and self._segments[0].base_offset < self._log_start_offset

    monkeypatch.setattr(LogFiles, "_first_has_expired", property(begins_in_it))
    assert_caught("while the log begins at", TRIMS)


def test_a_look_up_by_time_behind_the_batch_that_the_log_begins_in(monkeypatch):
    sound = log_files.find_timestamp

    def whole_batches(connection, timestamp, offset, **arguments):
        found, then = sound(connection, timestamp, offset, **arguments)
        if found is None or found >= offset:
            return found, then
        behind = segment_reader.next_base_offset(connection, found)
        return (None, None) if behind is None else sound(connection, timestamp, behind, **arguments)

    monkeypatch.setattr(log_files, "find_timestamp", whole_batches)
    assert_caught("time ", TRIMS, {"find_timestamps"})


def test_a_trim_that_only_files_remember(monkeypatch):
    """As with retention: after a restart the log may begin lower."""

    async def forgotten(_self, log):
        return log

    monkeypatch.setattr(LogProgram, "trimmed", forgotten)
    assert_caught("what was trimmed is back", TRIMS)
