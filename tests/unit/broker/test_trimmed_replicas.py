"""Trims among replicas that crash, lose their files and lead in turn; planted bugs are caught."""

import asyncio
import shutil

import pytest

from ottla_broker.drivers.partition import Partition
from ottla_broker.storage.log_files import LogFiles
from tests.unit.broker.trimmed_replicas import TrimmedReplicas
from tests.unit.storage.log_programs import memory_directory, one_thread

PROGRAMS = 60
PROGRAMS_MAX = 200
STEPS = 25

pytestmark = pytest.mark.timeout(120)


def run_programs(seeds):
    directory = memory_directory()
    try:
        with one_thread():
            for seed in seeds:
                root = directory / str(seed)
                try:
                    asyncio.run(TrimmedReplicas(root, seed).run(STEPS))
                except Exception as error:
                    raise AssertionError(f"seed {seed}: {error!r}") from error
                shutil.rmtree(root, ignore_errors=True)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def assert_caught(reason):
    with pytest.raises(AssertionError, match=reason):
        run_programs(range(PROGRAMS_MAX))


def test_no_replica_ever_shows_what_was_trimmed():
    run_programs(range(PROGRAMS))


def test_a_replica_that_forgets_it_in_a_restart(monkeypatch):
    sound = Partition._begin_at_first_offset

    def only_while_it_runs(self):
        if self.follower is not None or self.leader is not None:
            sound(self)

    monkeypatch.setattr(Partition, "_begin_at_first_offset", only_while_it_runs)
    assert_caught("begins at")


def test_a_leader_that_does_not_look_at_the_metadata(monkeypatch):
    monkeypatch.setattr(Partition, "_begin_at_first_offset", lambda _: None)
    assert_caught("begins at")


def test_a_follower_that_cannot_begin_amid_a_batch(monkeypatch):
    async def never(_self, _batch):
        pass

    monkeypatch.setattr(Partition, "begin_with", never)
    assert_caught("a follower refuses what its leader has")


def test_a_new_leader_that_does_not_know_that_what_was_trimmed_was_committed(monkeypatch):
    sound = Partition._require_first_offset

    async def without(self):
        high_watermark = self.high_watermark
        await sound(self)
        self.high_watermark = high_watermark

    monkeypatch.setattr(Partition, "_require_first_offset", without)
    assert_caught("above its high watermark")


def test_files_that_go_with_the_start_within_them(monkeypatch):
    def begins_in_it(self):
        return len(self._segments) > 1 and self._segments[0].base_offset < self._log_start_offset

    monkeypatch.setattr(LogFiles, "_first_has_expired", property(begins_in_it))
    assert_caught("AssertionError|KeyError|damaged")
