"""One process with nothing but a node id is a whole cluster, and stops and refuses in order."""

import fcntl
import os
import resource
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from ottla_ops.local_cluster import (
    BROKER_COMMAND,
    HOST,
    CommandProcess,
    LocalBroker,
    environment_for,
    free_ports,
)
from ottla_protocol.models import PartitionToFetch
from tests.cluster.awaiting import eventually
from tests.cluster.http_client import fetched

pytestmark = pytest.mark.cluster

STOP_LIMIT_S = 4.0
EXIT_WRONG_SETTINGS = 2
EXIT_INTERRUPTED = 130


def new_broker(tmp_path, launch):
    """A broker that was told its id, address and directory; not started."""
    [port] = free_ports(1)
    listen = f"{HOST}:{port}"
    return LocalBroker(
        1,
        listen=listen,
        data_dir=tmp_path / "data",
        log_path=tmp_path / "broker.log",
        settings={
            "OTTLA_NODE_ID": "1",
            "OTTLA_LISTEN": listen,
            "OTTLA_DATA_DIR": str(tmp_path / "data"),
            # Variables of clients never stop a broker.
            "OTTLA_BOOTSTRAP": "http://127.0.0.1:1",
        },
        launch=launch,
    )


@pytest.fixture
def by_command(tmp_path):
    """A broker that starts as users start it; not started."""
    broker = new_broker(tmp_path, None)
    yield broker
    broker.kill()


@pytest.fixture
def running(tmp_path, http, launch):
    """A broker, ready, with the topic `t` of one partition."""
    broker = new_broker(tmp_path, launch)
    broker.start()
    try:
        broker.wait_ready()
        http.post(f"{broker.url}/v1/topics", {"name": "t", "partitions": 1}).expect(201)
        yield broker
    finally:
        broker.kill()


def append(http, broker, value):
    answer = http.post(
        f"{broker.url}/v1/topics/t/partitions/0/records", {"records": [{"value": value}]}
    )
    return answer.expect(200).document["results"][0]["base_offset"]


def values(http, broker):
    answer = http.get(f"{broker.url}/v1/topics/t/partitions/0/records", max_wait_ms=0)
    return [record["value"] for record in answer.expect(200).document["records"]]


class TestWholeCluster:
    def test_a_node_id_is_enough(self, running, http):
        cluster = http.get(f"{running.url}/v1/cluster").expect(200).document
        assert cluster["controller"] == 1
        assert [(broker["id"], broker["state"]) for broker in cluster["brokers"]] == [(1, "active")]
        described = http.get(f"{running.url}/v1/topics/t").document
        assert described["partitions"][0] == {
            "partition": 0, "leader": 1, "leader_epoch": 0, "replicas": [1], "isr": [1],
            "adding_replicas": [],
        }  # fmt: skip
        assert append(http, running, "first") == 0
        assert values(http, running) == ["first"]

    @pytest.mark.parametrize("how", ["terminate", "kill"])
    def test_a_restart_finds_everything(self, running, http, how):
        for value in range(5):
            assert append(http, running, value) == value
        topic_id = http.get(f"{running.url}/v1/topics/t").document["topic_id"]
        if how == "kill":
            running.kill()
        else:
            assert running.terminate() == 0
        running.start()
        running.wait_ready()
        assert http.get(f"{running.url}/v1/topics/t").document["topic_id"] == topic_id
        assert eventually(lambda: values(http, running)) == [0, 1, 2, 3, 4]
        assert append(http, running, 5) == 5


class TestStop:
    def test_sigterm_answers_open_polls_and_exits_0_in_time(self, running, http):
        """Polls get what there is, which is nothing, instead of a cut connection."""
        append(http, running, "a")
        records = f"{running.url}/v1/topics/t/partitions/0/records"
        with ThreadPoolExecutor(4) as threads:
            polls = [
                threads.submit(http.get, records, offset=1, max_wait_ms=30_000) for _ in range(3)
            ]
            fetch = threads.submit(
                http.binary_fetch, running.url, [PartitionToFetch("t", 0, 1)], max_wait_ms=30_000
            )
            eventually(lambda: parked_requests(http, running) == 4)
            started_s = time.monotonic()
            assert running.terminate() == 0
            assert time.monotonic() - started_s < STOP_LIMIT_S
            for poll in polls:
                document = poll.result(5).expect(200).document
                assert (document["records"], document["next_offset"]) == ([], 1)
            [partition] = fetched(fetch.result(5).expect(200))
            assert partition.error is None
            assert partition.batches == []

    def test_a_second_sigterm_is_ignored(self, running, http):
        with ThreadPoolExecutor(1) as threads:
            threads.submit(poll_at_end, http, running)
            eventually(lambda: parked_requests(http, running) == 1)
            running.request_stop()
            for _ in range(20):
                if running.is_running:
                    running.request_stop()
            assert running.wait_exit(STOP_LIMIT_S) == 0

    def test_sigint_stops_in_order_and_a_second_one_at_once(self, running, http):
        os.kill(running.pid, signal.SIGINT)
        assert running.wait_exit(STOP_LIMIT_S) == 0
        running.start()
        running.wait_ready()
        running.pause()  # Both signals are there before the process can act on the first.
        os.kill(running.pid, signal.SIGTERM)
        os.kill(running.pid, signal.SIGINT)
        running.resume()
        assert running.wait_exit(STOP_LIMIT_S) in {EXIT_INTERRUPTED, 0}


def poll_at_end(http, broker):
    path = f"{broker.url}/v1/topics/t/partitions/0/records"
    return http.get(path, offset=0, max_wait_ms=30_000)


def parked_requests(http, broker):
    for line in http.get(f"{broker.url}/metrics").text.splitlines():
        if line.startswith("ottla_parked_requests "):
            return float(line.split()[1])
    raise AssertionError("no metric ottla_parked_requests")


@pytest.fixture
def refusal(tmp_path, launch):
    """A function: the one line in which a broker says why it cannot start with these settings."""
    log = tmp_path / "refused.log"

    def refusal(settings):
        process = (launch or partial(CommandProcess.launch, BROKER_COMMAND))(
            environment_for(settings), log
        )
        code = process.wait(20)
        [line] = log.read_text().splitlines()
        assert code == EXIT_WRONG_SETTINGS, (code, line)
        return line

    return refusal


def refusal_of_command(settings, *arguments):
    """The same from the command that users type, which says it on stderr."""
    finished = subprocess.run(
        [sys.executable, "-m", "ottla_broker", *arguments],
        env=environment_for(settings),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    [line] = finished.stderr.splitlines()
    assert (finished.returncode, finished.stdout) == (EXIT_WRONG_SETTINGS, ""), line
    return line


class TestRefusedSettings:
    @pytest.mark.parametrize(
        ("settings", "told"),
        [
            ({"OTTLA_NODE_ID": "one"}, ["NODE_ID", "integer"]),
            (
                {"OTTLA_SESION_TIMEOUT_MS": "3000"},
                ["OTTLA_SESION_TIMEOUT_MS", "OTTLA_SESSION_TIMEOUT_MS"],
            ),
            ({"OTTLA_SESSION_TIMEOUT_MS": "1"}, ["OTTLA_SESSION_TIMEOUT_MS", "500"]),
            ({"OTTLA_VOTERS": "1:7101"}, ["OTTLA_VOTERS", "id@host:port"]),
            ({"OTTLA_LISTEN": "7101"}, ["OTTLA_LISTEN", "host:port"]),
            ({"OTTLA_LISTEN": "0.0.0.0:7101"}, ["0.0.0.0:7101", "OTTLA_INSECURE_LISTEN"]),
            ({"OTTLA_LISTEN": "[::]:7101"}, ["[::]:7101", "OTTLA_INSECURE_LISTEN"]),
            ({"OTTLA_ADVERTISED_URL": "ftp://x"}, ["OTTLA_ADVERTISED_URL", "http://"]),
        ],
        ids=lambda value: next(iter(value.items()), None) if isinstance(value, dict) else "",
    )
    def test_a_wrong_setting_is_named_in_one_line(self, tmp_path, refusal, settings, told):
        line = refusal({"OTTLA_NODE_ID": "1", "OTTLA_DATA_DIR": str(tmp_path / "d"), **settings})
        for part in told:
            assert part in line
        assert not (tmp_path / "d").exists()

    def test_no_node_id_at_all(self):
        assert "NODE_ID" in refusal_of_command({})

    def test_an_unknown_flag(self):
        assert "--nope" in refusal_of_command({"OTTLA_NODE_ID": "1"}, "--nope", "1")


class TestRefusedDataDirectory:
    def settings(self, path, **settings):
        [port] = free_ports(1)
        return {
            "OTTLA_NODE_ID": "1",
            "OTTLA_LISTEN": f"{HOST}:{port}",
            "OTTLA_DATA_DIR": str(path),
            **settings,
        }

    def test_a_file_in_its_place(self, tmp_path):
        (tmp_path / "data").write_text("not a directory")
        assert str(tmp_path / "data") in refusal_of_command(self.settings(tmp_path / "data"))

    def test_a_file_in_place_of_its_parent(self, tmp_path, refusal):
        (tmp_path / "file").write_text("")
        assert str(tmp_path / "file") in refusal(self.settings(tmp_path / "file" / "data"))

    def test_held_by_another_process(self, running, refusal):
        line = refusal(self.settings(running.data_dir))
        assert str(running.data_dir) in line
        assert "another process" in line

    def test_a_stale_lock_file_of_a_dead_process_is_no_obstacle(self, running):
        running.kill()
        assert (running.data_dir / ".lock").exists()
        with (running.data_dir / ".lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        running.start()
        running.wait_ready()

    def test_of_another_node(self, running, refusal):
        running.kill()
        line = refusal(self.settings(running.data_dir, OTTLA_NODE_ID="2"))
        assert "belongs to node 1" in line

    def test_of_another_cluster(self, running, refusal):
        running.kill()
        line = refusal(self.settings(running.data_dir, OTTLA_CLUSTER_ID="elsewhere"))
        assert "'local'" in line
        assert "'elsewhere'" in line


def test_a_port_in_use_is_told_in_one_line_and_leaves_the_data_alone(running, refusal, tmp_path):
    line = refusal(
        {
            "OTTLA_NODE_ID": "1",
            "OTTLA_LISTEN": running.listen,
            "OTTLA_DATA_DIR": str(tmp_path / "other"),
        }
    )
    assert running.listen in line


def test_beyond_loopback_when_told_so(tmp_path, http):
    [port] = free_ports(1)
    broker = LocalBroker(
        1,
        listen=f"{HOST}:{port}",
        data_dir=tmp_path / "data",
        log_path=tmp_path / "broker.log",
        settings={
            "OTTLA_NODE_ID": "1",
            "OTTLA_LISTEN": f"0.0.0.0:{port}",
            "OTTLA_ADVERTISED_URL": f"http://{HOST}:{port}",
            "OTTLA_DATA_DIR": str(tmp_path / "data"),
            "OTTLA_INSECURE_LISTEN": "true",
        },
    )
    broker.start()
    try:
        broker.wait_ready()
        brokers = http.get(f"{broker.url}/v1/brokers").document["brokers"]
        assert [found["url"] for found in brokers] == [broker.url]
    finally:
        broker.kill()


def test_it_takes_all_the_file_descriptors_that_it_may_have(by_command):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(512, soft), hard))
    try:
        by_command.start()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    by_command.wait_ready()
    assert resource.prlimit(by_command.pid, resource.RLIMIT_NOFILE) == (hard, hard)
    assert by_command.terminate() == 0
