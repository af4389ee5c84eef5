"""Reads that find no free file descriptor: refused for now, and nothing is wrong with the disk."""

import errno
import os

import pytest

from ottla_broker.storage import segment as segments
from ottla_broker.storage import sqlite
from ottla_protocol.errors import OverloadedError, StorageError
from tests.unit.storage.log_harness import UNLIMITED, append_durably, read_all


def fail(error):
    raise OSError(error, os.strerror(error))


def cannot_open(*_):
    # As SQLite says it, whatever the reason.
    raise sqlite.DriverError("unable to open database file")


async def sealed_log(harness):
    log = await harness.open(segment_bytes=1_000)
    while len(log._files) < 3:
        await append_durably(log, value_bytes=300)
    await harness.handles.close_all()
    return log


@pytest.mark.parametrize("error", [errno.EMFILE, errno.ENFILE])
async def test_a_read_without_a_descriptor_may_come_again(harness, monkeypatch, error):
    log = await sealed_log(harness)
    with monkeypatch.context() as patched:
        patched.setattr(segments, "check_header", lambda _: fail(error))
        for read in (
            log.read(0, max_bytes=1, limit=UNLIMITED),
            log.find_timestamp(0, limit=UNLIMITED),
            log.next_readable(0),
        ):
            with pytest.raises(OverloadedError) as refused:
                await read
            assert refused.value.retriable
            assert not isinstance(refused.value, StorageError)
    assert log.failure is None
    assert log.damage.first is None
    assert len(await read_all(log)) == log.next_offset


async def test_sqlite_s_own_failure_to_open_is_looked_into(harness, monkeypatch):
    log = await sealed_log(harness)
    with monkeypatch.context() as patched:
        patched.setattr(sqlite, "_open", cannot_open)
        with pytest.raises(StorageError):
            await log.read(0, max_bytes=1, limit=UNLIMITED)
        patched.setattr(sqlite.os, "open", lambda *_: fail(errno.EMFILE))
        with pytest.raises(OverloadedError):
            await log.read(0, max_bytes=1, limit=UNLIMITED)
