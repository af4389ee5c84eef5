from contextlib import suppress

import pytest

from ottla_broker.storage.disk_ballast import DiskBallast
from ottla_broker.storage.policy.disk_space import RESUME_AFTER_MS
from ottla_protocol.errors import InsufficientStorageError, Outcome, StorageError
from tests.unit.broker.disks import RESERVE_BYTES, DiskOf


async def test_an_append_that_would_eat_into_the_reserve_is_refused_and_not_applied():
    disk = DiskOf(3000)
    disk.require(1000, "orders-0", is_internal=False)
    with pytest.raises(InsufficientStorageError, match=r"orders-0.*3000.*1000") as caught:
        disk.require(1001, "orders-0", is_internal=False)
    assert caught.value.status == 507
    assert caught.value.retriable
    assert caught.value.outcome is Outcome.NOT_APPLIED
    # Whoever was refused waits for room, and the controller hears of it.
    assert disk.is_full
    assert disk.changes == [True]


async def test_what_was_taken_since_the_last_look_counts_twice_over():
    disk = DiskOf(3000)
    disk.take(600)
    assert disk.available_bytes == 1800
    assert disk.has_room(400)
    assert not disk.has_room(401)


async def test_a_look_forgets_what_was_taken_before_it_but_not_what_is_queued():
    disk = DiskOf(3000)
    disk.take(600)
    disk.queued_bytes = 100
    await disk.sample()
    assert disk.available_bytes == 2800


async def test_what_is_taken_during_a_look_still_counts():
    disk = DiskOf(3000)
    answer = disk.answer

    def take_meanwhile(path):
        disk.take(100)
        return answer(path)

    disk._look = take_meanwhile
    await disk.sample()
    assert disk.available_bytes == 2800


async def test_a_full_disk_has_room_again_only_after_a_while_and_with_a_margin():
    disk = DiskOf(RESERVE_BYTES - 1)
    await disk.sample()
    assert disk.is_full
    disk.free_bytes = RESERVE_BYTES + 1
    for _ in range(10):
        disk.now_ms += RESUME_AFTER_MS
        await disk.sample()
        assert disk.is_full
    disk.free_bytes = 2 * RESERVE_BYTES
    await disk.sample()
    assert disk.is_full
    disk.now_ms += RESUME_AFTER_MS
    await disk.sample()
    assert not disk.is_full
    assert disk.changes == [True, False]


async def test_whoever_asks_meanwhile_does_not_put_the_end_off():
    disk = DiskOf(RESERVE_BYTES - 1)
    await disk.sample()
    disk.free_bytes = 10 * RESERVE_BYTES
    await disk.sample()
    disk.now_ms += RESUME_AFTER_MS
    with pytest.raises(InsufficientStorageError):
        disk.require(1, "orders-0", is_internal=False)
    await disk.sample()
    assert not disk.is_full


async def test_groups_may_take_the_reserve_down_to_a_half():
    disk = DiskOf(RESERVE_BYTES)
    disk.found_full()
    assert disk.has_room(RESERVE_BYTES // 4, is_internal=True)
    assert not disk.has_room(RESERVE_BYTES // 4 + 1, is_internal=True)
    assert not disk.has_room(0)


async def test_a_disk_that_does_not_answer_is_a_failure():
    disk = DiskOf()

    def fail(path):
        raise OSError(5, "Input/output error")

    disk._look = fail
    with pytest.raises(StorageError, match="Input/output error"):
        await disk.sample()


async def test_the_ballast_is_kept_where_there_is_room_and_given_up_where_there_is_none():
    disk = DiskOf(2 * RESERVE_BYTES)
    await disk.sample()
    assert disk._ballast.is_kept
    disk.free_bytes = RESERVE_BYTES // 2
    await disk.sample()
    assert disk._ballast.is_kept
    disk.free_bytes = RESERVE_BYTES // 4 - 1
    await disk.sample()
    assert not disk._ballast.is_kept
    disk.free_bytes = 2 * RESERVE_BYTES
    await disk.sample()
    assert not disk._ballast.is_kept
    disk.now_ms += RESUME_AFTER_MS
    await disk.sample()
    await disk.sample()
    assert disk._ballast.is_kept


def test_the_ballast_takes_its_room_and_gives_it_back(tmp_path):
    ballast = DiskBallast(tmp_path, 100_000)
    ballast.keep()
    ballast.keep()
    file = tmp_path / ".ballast"
    assert file.stat().st_blocks * 512 >= 100_000
    ballast.release()
    assert not file.exists()
    ballast.release()


def test_a_ballast_that_finds_no_room_takes_none(tmp_path):
    ballast = DiskBallast(tmp_path, 1 << 60)
    with suppress(StorageError):
        # Larger than any file may be, where it is not larger than the disk.
        ballast.keep()
    assert not ballast._is_kept


def test_a_ballast_that_a_crash_left_is_taken_over(tmp_path):
    DiskBallast(tmp_path, 100_000).keep()
    ballast = DiskBallast(tmp_path, 100_000)
    ballast.keep()
    ballast.release()
    assert not (tmp_path / ".ballast").exists()
