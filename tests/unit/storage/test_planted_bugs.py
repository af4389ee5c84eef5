"""The model of the log catches what it is there to catch."""

import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from ottla_broker.storage import log_files, segment
from ottla_broker.storage.log_files import LogFiles
from tests.unit.storage.test_log_model import LogAgainstModel

SEARCH = settings(
    max_examples=300,
    stateful_step_count=40,
    deadline=None,
    database=None,
    derandomize=True,
    # Finding a failure is all that is asked.
    phases=(Phase.generate,),
    report_multiple_bugs=False,
)

pytestmark = pytest.mark.timeout(120)


def assert_caught():
    with pytest.raises(AssertionError):
        run_state_machine_as_test(LogAgainstModel, settings=SEARCH)


def test_a_retention_that_takes_the_active_segment(monkeypatch):
    sound = LogFiles.log_start_after_retention

    async def with_the_active(self, limits, *, high_watermark, now_ms):
        start = await sound(self, limits, high_watermark=high_watermark, now_ms=now_ms)
        return high_watermark if start == self.active.base_offset < high_watermark else start

    monkeypatch.setattr(LogFiles, "log_start_after_retention", with_the_active)
    assert_caught()


def test_a_retention_that_takes_what_is_not_committed(monkeypatch):
    sound = log_files.may_go

    def everything_committed(oldest, limits, *, high_watermark, **arguments):
        return sound(oldest, limits, high_watermark=1 << 62, **arguments)

    monkeypatch.setattr(log_files, "may_go", everything_committed)
    assert_caught()


def test_a_segment_whose_age_is_that_of_its_oldest_record(monkeypatch):
    def oldest_timestamp(connection, path):
        [(oldest,)] = connection.execute("SELECT min(max_timestamp) FROM batches").fetchall()
        return oldest or 0

    monkeypatch.setattr(segment, "newest_timestamp", oldest_timestamp)
    assert_caught()


def test_a_time_index_that_takes_timestamps_to_rise(monkeypatch):
    drop, drop_other, create, _ = segment._TIME_INDEX
    every_batch = (
        "INSERT OR IGNORE INTO time_index SELECT max_timestamp, base_offset FROM batches "
        "ORDER BY base_offset"
    )
    monkeypatch.setattr(segment, "_TIME_INDEX", (drop, drop_other, create, every_batch))
    assert_caught()


def test_a_removal_that_takes_one_file_too_many(monkeypatch):
    def forget_one_too_many(self):
        while self._first_has_expired:
            self._expired.append(self._segments.pop(0))
        if self._expired and len(self._segments) > 1:
            self._expired.append(self._segments.pop(0))

    monkeypatch.setattr(LogFiles, "forget_expired", forget_one_too_many)
    assert_caught()
