"""What the other tests rely on: a forked broker is a process like one started by its command."""

import os
import signal
from pathlib import Path

import pytest

from ottla_ops.local_cluster import CommandProcess, LocalCluster
from tests.cluster.awaiting import eventually
from tests.cluster.forked_brokers import ForkedProcess, ForkServer

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif("sys.platform != 'linux'", reason="needs Linux"),
]


@pytest.fixture(scope="module")
def server():
    with ForkServer() as server:
        yield server


def state_of(pid):
    """The kernel's letter for the state: R, S, T (stopped), Z...; None if there is no process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return None


def test_it_has_its_own_settings_directory_session_and_log(tmp_path, launch, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = {"OTTLA_DATA_DIR": "data", "OTTLA_LOG_FORMAT": "console"}
    cluster = LocalCluster(tmp_path / "cluster", brokers=1, settings=settings, launch=launch)
    with cluster:
        broker = cluster.broker(1)
        assert (tmp_path / "data").is_dir()
        assert os.getsid(broker.pid) == broker.pid
        assert Path(f"/proc/{broker.pid}/cwd").readlink() == tmp_path
        assert "listening" in broker.log_tail()
        assert not broker.log_tail().startswith("{")


def test_it_can_be_paused_killed_terminated_and_started_again(tmp_path, launch):
    with LocalCluster(tmp_path, brokers=1, launch=launch) as cluster:
        broker = cluster.broker(1)
        broker.pause()
        assert state_of(broker.pid) == "T"
        broker.resume()
        broker.wait_ready()
        first = broker.pid
        broker.restart()
        assert state_of(first) is None
        broker.wait_ready()
        assert broker.terminate() == 0
        assert broker.exit_code == 0
        broker.start()
        broker.wait_ready()
        broker.kill()
        assert broker.exit_code == -signal.SIGKILL


def test_none_outlives_the_tests(tmp_path, server):
    with LocalCluster(tmp_path, brokers=1, launch=server.launch) as cluster:
        pid = cluster.broker(1).pid
        server.stop()  # As when the process that runs the tests is killed: its stdin ends.
        eventually(lambda: state_of(pid) is None)


def test_what_acts_on_the_start_of_an_interpreter_is_obeyed(tmp_path, server):
    log = tmp_path / "broker.log"
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    forked = server.launch(environment | {"OTTLA_NODE_ID": "none"}, log)
    assert isinstance(forked, ForkedProcess)
    assert forked.wait(60) == 2
    started = server.launch(environment | {"PYTHONOPTIMIZE": "1", "OTTLA_NODE_ID": "none"}, log)
    assert isinstance(started, CommandProcess)
    assert started.wait(60) == 2
    assert log.read_text().count("OTTLA_NODE_ID") == 2
