import pytest

from ottla_broker.storage.sqlite_version import (
    AffectedSqliteError,
    SqliteInUse,
    refuse_affected,
    sqlite_in_use,
)


def test_an_affected_version_is_refused_naming_it_and_the_way_out():
    affected = SqliteInUse("3.40.1", "sqlite3", is_affected=True)
    with pytest.raises(AffectedSqliteError, match=r"3\.40\.1 .*sqlite3.*ALLOW_AFFECTED_SQLITE"):
        refuse_affected(affected, allowed=False)
    refuse_affected(affected, allowed=True)


def test_a_sound_version_is_taken():
    refuse_affected(SqliteInUse("3.53.4", "pysqlite3", is_affected=False), allowed=False)


def test_what_is_in_use_is_named():
    in_use = sqlite_in_use()
    assert in_use.driver in {"pysqlite3", "sqlite3"}
    assert in_use.version.startswith("3.")
