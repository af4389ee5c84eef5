"""The harness starts, breaks and ends real processes, here of a fake broker."""

import os
import signal
import subprocess
import sys
import textwrap
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from ottla_ops import local_cluster
from ottla_ops.local_cluster import LocalCluster, LocalClusterError, free_ports
from tests.cluster.awaiting import eventually


@pytest.fixture
def cluster(tmp_path, fake_broker):
    """A running cluster of two fake brokers."""
    with LocalCluster(tmp_path / "cluster", brokers=2, command=fake_broker) as cluster:
        yield cluster


def process_exists(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def process_state(pid):
    """The kernel's letter for the state: R, S, T (stopped), Z..."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_entering_waits_until_every_broker_is_ready(tmp_path, fake_broker):
    settings = {"FAKE_READY_AFTER_S": "0.2"}
    with LocalCluster(tmp_path, brokers=2, command=fake_broker, settings=settings) as cluster:
        for url in cluster.urls:
            assert urllib.request.urlopen(f"{url}/readyz").status == 200
        assert cluster.bootstrap == ",".join(cluster.urls)


def test_leaving_ends_every_process_and_keeps_the_files(tmp_path, fake_broker):
    with LocalCluster(tmp_path, brokers=3, command=fake_broker) as cluster:
        pids = [broker.pid for broker in cluster.brokers]
        cluster.broker(2).pause()
        cluster.broker(3).kill()
    assert not any(process_exists(pid) for pid in pids)
    assert "stopped" in cluster.broker(1).log_path.read_text()


def test_leaving_by_an_exception_ends_every_process(tmp_path, fake_broker):
    cluster = LocalCluster(tmp_path, brokers=1, command=fake_broker)
    with pytest.raises(ZeroDivisionError), cluster:
        raise ZeroDivisionError
    assert not process_exists(cluster.broker(1).pid)


def test_brokers_see_only_the_settings_that_they_were_given(tmp_path, fake_broker, monkeypatch):
    monkeypatch.setenv("OTTLA_BOOTSTRAP", "http://nowhere:1")
    with LocalCluster(
        tmp_path, brokers=1, command=fake_broker, settings={"OTTLA_RACK": "a"}
    ) as cluster:
        text = cluster.broker(1).log_path.read_text()
    names = [
        "OTTLA_CLUSTER_ID",
        "OTTLA_DATA_DIR",
        "OTTLA_LISTEN",
        "OTTLA_LOG_FORMAT",
        "OTTLA_NODE_ID",
        "OTTLA_RACK",
        "OTTLA_VOTERS",
    ]
    assert f"settings {names}" in text


def test_every_broker_knows_all_voters_and_its_own_overrides(tmp_path):
    cluster = LocalCluster(tmp_path, brokers=2, broker_settings={2: {"OTTLA_RACK": "b"}})
    first, second = (broker.settings for broker in cluster.brokers)
    voters = f"1@{cluster.broker(1).listen},2@{cluster.broker(2).listen}"
    assert first["OTTLA_VOTERS"] == second["OTTLA_VOTERS"] == voters
    assert "OTTLA_RACK" not in first
    assert second["OTTLA_RACK"] == "b"


def test_dedicated_controllers_vote_in_place_of_the_brokers(tmp_path):
    cluster = LocalCluster(tmp_path, brokers=2, controllers=1)
    assert [broker.node_id for broker in cluster.brokers] == [1, 2]
    assert [controller.node_id for controller in cluster.controllers] == [3]
    assert cluster.voters == f"3@{cluster.broker(3).listen}"
    assert {process.settings["OTTLA_VOTERS"] for process in cluster.processes} == {cluster.voters}
    roles = [process.settings["OTTLA_ROLES"] for process in cluster.processes]
    assert roles == ["broker", "broker", "controller"]
    assert cluster.broker(3).data_dir == tmp_path / "controller-3"
    assert cluster.urls == (cluster.broker(1).url, cluster.broker(2).url)


def test_some_of_the_brokers_may_vote(tmp_path):
    cluster = LocalCluster(tmp_path, brokers=3, voters=1)
    assert cluster.voters == f"1@{cluster.broker(1).listen}"
    roles = [broker.settings.get("OTTLA_ROLES") for broker in cluster.brokers]
    assert roles == [None, "broker", "broker"]


def test_kill_and_restart_keep_the_address(cluster):
    broker = cluster.broker(1)
    url, pid = broker.url, broker.pid
    broker.kill()
    assert not broker.is_running
    assert broker.exit_code == -signal.SIGKILL
    broker.restart()
    broker.wait_ready()
    assert broker.pid != pid
    assert urllib.request.urlopen(f"{url}/readyz").status == 200


def test_terminate_returns_the_exit_code(cluster):
    assert cluster.broker(1).terminate() == 0
    assert not cluster.broker(1).is_running


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_pause_stops_and_resume_continues_the_process(cluster):
    broker = cluster.broker(1)
    broker.pause()
    assert broker.is_paused
    assert process_state(broker.pid) == "T"
    broker.resume()
    broker.wait_ready()
    assert not broker.is_paused


def test_a_paused_broker_obeys_terminate(cluster):
    cluster.broker(1).pause()
    assert cluster.broker(1).terminate() == 0


def test_a_broker_that_ignores_sigterm_is_reported_then_killed(tmp_path, fake_broker):
    cluster = LocalCluster(
        tmp_path, brokers=2, command=fake_broker, broker_settings={1: {"FAKE_MODE": "stubborn"}}
    )
    with cluster:
        with pytest.raises(LocalClusterError, match="ignored SIGTERM"):
            cluster.broker(1).terminate(0.1)
        assert cluster.broker(1).is_running
        # The other one ends in time on a busy machine, too.
        assert cluster.stop(5) == {1: -signal.SIGKILL, 2: 0}
    assert not cluster.broker(1).is_running


def test_a_broker_that_exits_early_fails_the_wait_with_its_log(tmp_path, fake_broker):
    cluster = LocalCluster(
        tmp_path, brokers=2, command=fake_broker, broker_settings={2: {"FAKE_MODE": "exit"}}
    )
    with pytest.raises(LocalClusterError, match=r"(?s)broker 2 exited with 3.*cannot bind"):
        cluster.__enter__()
    assert not cluster.broker(1).is_running


def answers(broker):
    try:
        urllib.request.urlopen(f"{broker.url}/readyz").close()
    except urllib.error.HTTPError as error:
        error.close()
    except urllib.error.URLError:
        return False
    return True


def test_a_broker_that_stays_unready_fails_the_wait_with_its_reason(tmp_path, fake_broker):
    cluster = LocalCluster(
        tmp_path, brokers=1, command=fake_broker, settings={"FAKE_MODE": "unready"}
    )
    cluster.start()
    try:
        eventually(lambda: answers(cluster.broker(1)))
        with pytest.raises(LocalClusterError, match=r"503.*no controller"):
            cluster.wait_ready(2)
    finally:
        cluster.stop()


def test_kill_ends_all_brokers_at_once(cluster):
    cluster.kill()
    assert [broker.exit_code for broker in cluster.brokers] == [-signal.SIGKILL] * 2


def test_an_interpreter_that_exits_takes_its_brokers_along(tmp_path, fake_broker):
    program = f"""
        from pathlib import Path
        from ottla_ops.local_cluster import LocalCluster
        cluster = LocalCluster(Path({str(tmp_path)!r}), brokers=1, command={fake_broker!r})
        cluster.start()
        print(cluster.broker(1).pid)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=True
    )
    assert not process_exists(int(done.stdout))


def test_the_log_tail_is_bounded(cluster):
    broker = cluster.broker(1)
    with broker.log_path.open("a") as log:
        log.write("x" * 10_000)
    assert broker.log_tail(100) == "x" * 100


def test_free_ports_differ_and_stay_out_of_the_ephemeral_range():
    ports = free_ports(20)
    assert len(set(ports)) == 20
    assert max(ports) < local_cluster._ephemeral_port_first()


def test_ports_stay_this_processs_own_when_nobody_listens():
    [port] = free_ports(1)
    choose = "from ottla_ops.local_cluster import _reserve; print(_reserve({}))"
    nobodys = 100_000 + os.getpid()
    for wanted, expected in ((port, "False"), (nobodys, "True")):
        done = subprocess.run(
            [sys.executable, "-c", choose.format(wanted)],
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == expected


def test_free_ports_fall_back_to_the_kernels_choice(monkeypatch):
    monkeypatch.setattr(local_cluster, "_ephemeral_port_first", lambda: 1024)
    assert len(set(free_ports(5))) == 5
