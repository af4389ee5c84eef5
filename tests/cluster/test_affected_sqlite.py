"""A broker that finds only an affected SQLite, as where pysqlite3 has no wheel."""

import os
import sqlite3

import pytest

from ottla_broker.storage.sqlite import has_wal_reset_bug
from ottla_ops.local_cluster import LocalBroker, free_ports

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(
        not has_wal_reset_bug(sqlite3.sqlite_version_info),
        reason=f"the standard library's SQLite {sqlite3.sqlite_version} is a sound one",
    ),
]


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Starts a broker for which pysqlite3 is not installed."""
    hidden = tmp_path / "hidden" / "pysqlite3"
    hidden.mkdir(parents=True)
    (hidden / "__init__.py").write_text("raise ImportError('hidden')\n")
    path = os.pathsep.join(filter(None, (str(hidden.parent), os.environ.get("PYTHONPATH"))))
    monkeypatch.setenv("PYTHONPATH", path)
    started = []

    def start(**settings):
        listen = f"127.0.0.1:{free_ports(1)[0]}"
        data_dir = tmp_path / "data"
        broker = LocalBroker(
            1,
            listen=listen,
            data_dir=data_dir,
            log_path=tmp_path / "broker.log",
            settings={
                "OTTLA_NODE_ID": "1",
                "OTTLA_LISTEN": listen,
                "OTTLA_DATA_DIR": str(data_dir),
                **settings,
            },
        )
        started.append(broker)
        broker.start()
        return broker

    yield start
    for broker in started:
        broker.kill()


def test_it_does_not_start(start):
    broker = start()
    assert broker.wait_exit(20) == 2
    told = broker.log_tail()
    assert f"SQLite {sqlite3.sqlite_version} (of sqlite3)" in told
    assert "OTTLA_ALLOW_AFFECTED_SQLITE" in told
    assert not broker.data_dir.exists()


def test_it_starts_where_it_is_told_to_and_warns(start):
    broker = start(OTTLA_ALLOW_AFFECTED_SQLITE="true")
    broker.wait_ready()
    assert "affected_sqlite" in broker.log_tail()
