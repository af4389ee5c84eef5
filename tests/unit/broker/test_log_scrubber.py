"""What scrubbing makes of files that it cannot read."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from ottla_broker.drivers.log_scrubber import LogScrubber
from ottla_broker.storage import sqlite
from ottla_broker.storage.disk_full import is_disk_failure
from ottla_protocol.errors import StorageError

IOERR, IOERR_READ, IOERR_SHORT_READ, CANTOPEN, FULL = 10, 266, 522, 14, 13


def driver_error(code):
    error = sqlite.DriverError("told by the driver")
    error.sqlite_errorcode = code
    return error


def replica_that_fails(cause, asked):
    async def verify(offset, *, found_by):
        asked.append(offset)
        raise sqlite.storage_error(Path("a.sqlite"), "verify", cause) from cause

    inspector = SimpleNamespace(verify=verify)
    log = SimpleNamespace(log_start_offset=0, inspector=inspector, failure=None)
    return SimpleNamespace(name="orders-0", log=log, is_only_replica=False)


def scrubber(replica):
    return LogScrubber(
        replicas=SimpleNamespace(partitions={"orders-0": replica}),
        interval_ms=1,
        bytes_per_second=1,
        on_failure=lambda _: None,
    )


@pytest.mark.parametrize("code", [IOERR, IOERR_READ])
async def test_a_disk_that_does_not_read_ends_the_broker(code):
    asked = []
    with pytest.raises(StorageError):
        await scrubber(replica_that_fails(driver_error(code), asked)).scrub()
    assert asked == [0]


@pytest.mark.parametrize("code", [CANTOPEN, FULL, IOERR_SHORT_READ])
async def test_what_may_pass_is_left_for_the_next_pass(code):
    asked = []
    await scrubber(replica_that_fails(driver_error(code), asked)).scrub()
    assert asked == [0]


def test_a_failure_of_the_disk_is_told_from_damage_and_from_others():
    assert is_disk_failure(OSError(5, "EIO"))
    assert not is_disk_failure(OSError(24, "EMFILE"))
    assert is_disk_failure(driver_error(FULL))
    assert not is_disk_failure(driver_error(IOERR_SHORT_READ))
    assert not is_disk_failure(None)
