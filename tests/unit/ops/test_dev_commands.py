"""`ottla dev`: reset deletes nothing that is in use, and the banner tells the truth."""

import fcntl
import json
import signal
import subprocess
import sys

import pytest

from ottla_broker.storage.log_directory import LOCK_FILE
from ottla_ops import banner
from ottla_ops.cli import confirmation

OTTLA = [sys.executable, "-c", "import sys; from ottla._entry import main; sys.exit(main())"]


@pytest.fixture
def data(tmp_path):
    """A data directory of two brokers, and something that is not theirs."""
    for name in ("broker-1", "broker-2"):
        (tmp_path / "data" / name / "orders-0").mkdir(parents=True)
        (tmp_path / "data" / name / LOCK_FILE).touch()
    (tmp_path / "data" / "notes.txt").write_text("mine")
    return tmp_path / "data"


def test_reset_deletes_the_brokers_directories_and_nothing_else(cli, data):
    code, _, err = cli("dev", "reset", "--data", data, "--yes")
    assert (code, err) == (0, "2 broker directories deleted\n")
    assert [path.name for path in data.iterdir()] == ["notes.txt"]


def test_reset_without_a_terminal_needs_yes(cli, data):
    assert cli("dev", "reset", "--data", data)[0] == 2
    assert (data / "broker-1" / "orders-0").is_dir()


def test_reset_on_a_terminal_asks(cli, data, monkeypatch):
    monkeypatch.setattr(confirmation, "has_terminal", lambda: True)
    monkeypatch.setattr("typer.confirm", lambda *_, **__: False)
    assert cli("dev", "reset", "--data", data)[0] == 1
    assert (data / "broker-1" / "orders-0").is_dir()


def test_reset_is_refused_while_a_broker_runs_and_deletes_nothing(cli, data):
    with (data / "broker-2" / LOCK_FILE).open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        code, _, err = cli("--json", "dev", "reset", "--data", data, "--yes")
    assert code == 4
    assert json.loads(err)["code"] == "BROKER_RUNNING"
    assert (data / "broker-1" / "orders-0").is_dir()


def test_reset_of_a_directory_that_no_broker_locked_yet(cli, data):
    (data / "broker-1" / LOCK_FILE).unlink()
    assert cli("dev", "reset", "--data", data, "--yes")[0] == 0
    assert not (data / "broker-1").exists()


def test_reset_without_data_needs_no_confirmation(cli, tmp_path):
    assert cli("dev", "reset", "--data", tmp_path / "none") == (0, "", "no data here\n")


def test_the_banner_shows_urls_and_lines_to_paste():
    text = banner.banner_text(["http://a:1", "http://b:2"], ["http://b:2"])
    assert "Ottla is ready: 1 of 2 brokers." in text
    assert "http://a:1" in text
    assert "http://b:2/docs" in text
    commands = [line.strip() for line in text.splitlines() if "curl" in line]
    assert len(commands) == 3
    # The create, the write and the read, at a broker that is ready.
    assert all("http://b:2/v1/topics" in command for command in commands)


def test_the_banner_waits_for_all_brokers(three_brokers):
    assert banner.wait_for_majority(three_brokers.urls) == three_brokers.urls


def test_the_banner_does_not_wait_for_ever_for_a_minority(three_brokers, monkeypatch):
    monkeypatch.setattr(banner, "GRACE_S", 0.2)
    three_brokers.stop_broker(2)
    expected = [three_brokers.urls[0], three_brokers.urls[2]]
    assert banner.wait_for_majority(three_brokers.urls) == expected


def test_the_banner_says_whom_it_waits_for(three_brokers, monkeypatch, capsys):
    monkeypatch.setattr(banner, "GRACE_S", 0.2)
    # Told at the first look: on a busy machine the second may be the last.
    monkeypatch.setattr(banner, "PATIENCE_S", 0.0)
    three_brokers.stop_broker(2)
    banner.wait_for_majority(three_brokers.urls)
    assert f"still waiting for {three_brokers.urls[1]}\n" in capsys.readouterr().out


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_the_banner_sleeps_until_it_is_stopped_and_exits_with_0(cluster, signum):
    process = subprocess.Popen(
        [*OTTLA, "dev", "banner", "--bootstrap", cluster.bootstrap],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        for line in process.stdout:
            if "Ctrl-C" in line:
                break
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.2)
        process.send_signal(signum)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.communicate()


def test_the_banner_can_be_stopped_before_the_cluster_is_ready(cluster):
    cluster.refuse(503, "NOT_READY", times=10_000)
    process = subprocess.Popen([*OTTLA, "dev", "banner", "--bootstrap", cluster.bootstrap])
    try:
        with cluster.state.changed:
            assert cluster.state.changed.wait_for(cluster.calls, 20)
        process.terminate()
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
