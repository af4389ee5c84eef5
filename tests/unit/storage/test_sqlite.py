"""Driver, versions and the settings of a segment file."""

import stat

import pytest

from ottla_broker.storage import sqlite
from ottla_broker.storage.segment_meta import Transaction
from ottla_broker.storage.sqlite import Durability, has_wal_reset_bug
from ottla_broker.storage.stored_batch import DamagedSegmentError
from ottla_protocol.errors import StorageError
from tests.unit.storage.log_harness import append_durably


@pytest.mark.parametrize(
    ("version", "affected"),
    [
        ((3, 6, 23), False),
        ((3, 7, 0), True),
        ((3, 40, 1), True),
        ((3, 44, 5), True),
        ((3, 44, 6), False),
        ((3, 50, 6), True),
        ((3, 50, 7), False),
        ((3, 51, 2), True),
        ((3, 51, 3), False),
        ((3, 53, 4), False),
    ],
)
def test_versions_with_the_wal_reset_bug(version, affected):
    assert has_wal_reset_bug(version) is affected


def test_the_installed_driver_has_no_wal_reset_bug():
    version = tuple(int(part) for part in sqlite.sqlite_version().split("."))
    assert not has_wal_reset_bug(version)


@pytest.mark.parametrize(("durability", "synchronous"), [("fsync", 2), ("os", 1)])
async def test_an_active_segment_has_the_settings_that_durability_rests_on(
    harness, durability, synchronous
):
    log = await harness.open(durability=durability)
    await append_durably(log)

    def settings(connection):
        names = ("page_size", "journal_mode", "synchronous", "locking_mode", "wal_autocheckpoint")
        return [connection.execute(f"PRAGMA {name}").fetchall()[0][0] for name in names]

    async with harness.handles.use(log._files.active) as connection:
        found = await connection.run("settings", settings)
    assert found == [16384, "wal", synchronous, "exclusive", 512]
    assert not list(harness.directory.glob("*-shm"))


async def test_files_are_private(harness):
    log = await harness.open()
    await append_durably(log)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in harness.directory.iterdir()}
    assert set(modes.values()) == {0o600}
    assert stat.S_IMODE(harness.directory.stat().st_mode) == 0o700


async def test_a_driver_error_becomes_a_storage_error_with_its_cause(harness):
    log = await harness.open()

    def fail(connection):
        connection.execute("SELECT * FROM absent")

    async with harness.handles.use(log._files.active) as connection:
        with pytest.raises(StorageError, match="no such table") as raised:
            await connection.run("test", fail)
    assert isinstance(raised.value.__cause__, sqlite.DriverError)
    # Tables are there, or the file is not a segment any more.
    assert isinstance(raised.value, DamagedSegmentError)


async def test_a_failed_write_is_no_damage(harness):
    log = await harness.open()

    def fail(connection):
        connection.execute("PRAGMA query_only=1")
        try:
            connection.execute("DELETE FROM batches")
        finally:
            connection.execute("PRAGMA query_only=0")

    async with harness.handles.use(log._files.active) as connection:
        with pytest.raises(StorageError) as raised:
            await connection.run("test", fail)
    assert not isinstance(raised.value, DamagedSegmentError)


def test_a_file_that_is_no_database_counts_as_damage(tmp_path):
    path = tmp_path / "x.sqlite"
    path.write_bytes(b"no database" * 100)
    with pytest.raises(sqlite.DriverError) as raised:
        sqlite.connect_active(path, Durability.FSYNC)
    assert sqlite.is_damage(raised.value)


async def test_a_file_that_does_not_open_leaves_no_thread_behind(tmp_path, monkeypatch):
    """One that still had something to tell would fail where its event loop is closed by then."""
    stopped, stop = [], sqlite.SegmentConnection.stop
    monkeypatch.setattr(
        sqlite.SegmentConnection, "stop", lambda self: stopped.append(stop(self)) or stopped[-1]
    )
    path = tmp_path / "absent.sqlite"
    with pytest.raises(StorageError, match="open failed"):
        await sqlite.connect(path, lambda: sqlite.connect_active(path, Durability.FSYNC))
    (told,) = stopped
    assert told.done()


def test_a_commit_that_fails_leaves_no_transaction_open(tmp_path):
    connection = sqlite.connect_new(tmp_path / "new.sqlite")
    connection.execute("PRAGMA foreign_keys=ON")
    connection.execute("CREATE TABLE a (id INTEGER PRIMARY KEY)")
    reference = "INTEGER REFERENCES a (id) DEFERRABLE INITIALLY DEFERRED"
    connection.execute(f"CREATE TABLE b (a {reference})")
    with pytest.raises(sqlite.DriverError, match="FOREIGN KEY"), Transaction(connection):
        connection.execute("INSERT INTO b VALUES (7)")
    assert not connection.in_transaction
    with Transaction(connection):
        assert connection.execute("SELECT * FROM b").fetchall() == []
    connection.close()
