"""What the doctor makes of what it finds."""

import http.server
import json
import resource
import threading
import time
from contextlib import contextmanager
from email.utils import formatdate
from pathlib import Path

import pytest
import urllib3

from ottla_broker.storage.sqlite_version import SqliteInUse
from ottla_ops import doctor
from ottla_ops.doctor import (
    Status,
    check_broker,
    check_clock,
    check_file_descriptors,
    check_free_space,
    check_sqlite,
    check_writable,
    reserve_bytes_of,
)

AFFECTED = SqliteInUse("3.40.1", "sqlite3", is_affected=True)
SOUND = SqliteInUse("3.53.4", "pysqlite3", is_affected=False)
MEBIBYTE = 1 << 20


def test_an_affected_sqlite_fails_unless_brokers_are_told_to_take_it():
    found = check_sqlite(AFFECTED, {})
    assert found.status is Status.FAILED
    assert "3.40.1, by sqlite3" in found.detail
    assert found.hint
    allowed = check_sqlite(AFFECTED, {"OTTLA_ALLOW_AFFECTED_SQLITE": "true"})
    assert allowed.status is Status.WARNING
    assert check_sqlite(AFFECTED, {"OTTLA_ALLOW_AFFECTED_SQLITE": "false"}) == found
    assert check_sqlite(SOUND, {}).status is Status.OK


@pytest.mark.parametrize(
    ("limit", "status"),
    [
        (255, Status.FAILED),
        (1_024, Status.WARNING),
        (4_096, Status.OK),
        (resource.RLIM_INFINITY, Status.OK),
    ],
)
def test_file_descriptors(limit, status):
    assert check_file_descriptors(limit).status is status


@pytest.mark.parametrize(
    ("free_mebibytes", "status"), [(255, Status.FAILED), (300, Status.WARNING), (400, Status.OK)]
)
def test_free_space_is_held_against_the_reserve(tmp_path, free_mebibytes, status):
    found = check_free_space(tmp_path, free_mebibytes * MEBIBYTE, 256 * MEBIBYTE)
    assert found.status is status
    assert str(tmp_path) in found.check


def test_the_reserve_is_the_one_that_brokers_would_keep():
    assert reserve_bytes_of({}) == 256 * MEBIBYTE
    assert reserve_bytes_of({"OTTLA_DISK_RESERVE_BYTES": "5000000"}) == 5_000_000
    assert reserve_bytes_of({"OTTLA_DISK_RESERVE_BYTES": "many"}) == 256 * MEBIBYTE


def test_a_directory_is_tried_and_left_as_it_was(tmp_path):
    assert check_writable(tmp_path).status is Status.OK
    to_be_made = check_writable(tmp_path / "data" / "broker-1")
    assert to_be_made.status is Status.OK
    assert "will be made" in to_be_made.detail
    assert list(tmp_path.iterdir()) == []


def test_a_relative_directory_that_is_there_is_not_to_be_made(monkeypatch, tmp_path):
    (tmp_path / "broker-1").mkdir()
    monkeypatch.chdir(tmp_path)
    found = check_writable(Path("broker-1"))
    assert (found.status, found.detail) == (Status.OK, "can be written and synced")


def test_a_directory_that_cannot_be_written(monkeypatch, tmp_path):
    def refuse(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(doctor.tempfile, "TemporaryFile", refuse)
    found = check_writable(tmp_path)
    assert (found.status, found.detail) == (Status.FAILED, "cannot be written: Permission denied")


def test_a_clock_that_cannot_be_right():
    assert check_clock(0).status is Status.FAILED
    assert check_clock(time.time()).status is Status.OK


@contextmanager
def broker(*, ready=True, reasons=(), warnings=(), date=None, version=None):
    """A process that answers as a broker does, or not quite."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            document = (
                {"ready": ready, "reasons": list(reasons), "warnings": list(warnings)}
                if self.path == "/readyz"
                else version or {"version": "0.1.0", "python": "3.11.7", "sqlite": "3.53.4"}
            )
            body = json.dumps(document).encode()
            self.send_response_only(200 if ready or self.path != "/readyz" else 503)
            self.send_header("Date", date or formatdate(time.time(), usegmt=True))
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def look_at(**answers):
    with broker(**answers) as url, urllib3.PoolManager(retries=False) as pool:
        return check_broker(url, pool)


def test_a_broker_that_is_well():
    found = look_at()
    assert found.status is Status.OK
    assert "SQLite 3.53.4" in found.detail


def test_a_broker_that_is_not_ready_says_why():
    found = look_at(ready=False, reasons=["no controller is elected"])
    assert found.status is Status.FAILED
    assert "no controller is elected" in found.detail


def test_a_broker_whose_disk_is_full_is_a_warning():
    found = look_at(warnings=["the disk has no room"])
    assert found.status is Status.WARNING
    assert "the disk has no room" in found.detail


def test_a_broker_whose_clock_differs_is_a_warning():
    found = look_at(date=formatdate(time.time() - 3600, usegmt=True))
    assert found.status is Status.WARNING
    assert "behind" in found.detail


def test_a_server_that_is_no_broker():
    assert look_at(version={"server": "another"}).status is Status.FAILED


def test_a_broker_that_is_not_there():
    with broker() as url:
        pass
    with urllib3.PoolManager(retries=False) as pool:
        found = check_broker(url, pool)
    assert found.status is Status.FAILED
    assert "cannot be reached" in found.detail


def test_the_command_names_each_check_and_ends_with_what_it_comes_to(cli, tmp_path):
    with broker() as url:
        code, out, _ = cli("doctor", "--bootstrap", url, "--data-dir", str(tmp_path))
        assert code == 0, out
        for name in ("python", "sqlite", "file descriptors", "clock", str(tmp_path), url):
            assert name in out
        code, out, _ = cli("doctor", "--json", "--bootstrap", url, "--data-dir", str(tmp_path))
    document = json.loads(out)
    assert document["well"] is True
    assert {check["status"] for check in document["checks"]} <= {"ok", "warning"}


def test_brokers_that_cannot_be_reached_are_exit_5_and_what_is_wrong_here_is_1(
    cli, tmp_path, monkeypatch
):
    with broker() as url:
        pass
    arguments = ("doctor", "--bootstrap", url, "--data-dir", str(tmp_path))
    assert cli(*arguments)[0] == 5
    monkeypatch.setattr(doctor, "sqlite_in_use", lambda: AFFECTED)
    assert cli(*arguments)[0] == 1
