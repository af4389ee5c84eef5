"""The files at the root that a newcomer meets first: Procfile, .env.example, Makefile."""

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ottla_broker.settings import Settings
from ottla_ops.cli.bootstrap import DEFAULT_BOOTSTRAP
from ottla_ops.local_cluster import free_ports

ROOT = Path(__file__).parents[3]
PROCFILE = (ROOT / "Procfile").read_text()


def test_the_procfile_runs_the_brokers_that_the_command_line_looks_for():
    listeners = re.findall(r"--listen (\S+)", PROCFILE)
    assert ",".join(f"http://{listener}" for listener in listeners) == DEFAULT_BOOTSTRAP
    assert f"--bootstrap {DEFAULT_BOOTSTRAP}" in PROCFILE


def test_the_brokers_of_the_procfile_agree_on_the_voters():
    voters = re.findall(r"--voters (\S+)", PROCFILE)
    node_ids = re.findall(r"--node-id (\d)", PROCFILE)
    listeners = re.findall(r"--listen (\S+)", PROCFILE)
    quorum = ",".join(f"{node_id}@{at}" for node_id, at in zip(node_ids, listeners, strict=True))
    assert voters == [quorum] * 3


def test_the_procfiles_flags_are_settings():
    broker_lines = [line for line in PROCFILE.splitlines() if line.startswith("broker")]
    flags = {flag for line in broker_lines for flag in re.findall(r"--([a-z-]+) ", line)}
    assert {flag.replace("-", "_") for flag in flags} <= set(Settings.model_fields)


def test_the_example_environment_names_settings_and_their_defaults():
    text = (ROOT / ".env.example").read_text()
    pairs = dict(re.findall(r"^# (OTTLA_[A-Z_]+)=(.*)$", text, re.MULTILINE))
    assert pairs.pop("OTTLA_BOOTSTRAP") == DEFAULT_BOOTSTRAP
    assert pairs.pop("OTTLA_CONTEXT") == ""
    assert pairs.pop("OTTLA_LOG_FORMAT") == "console"
    assert pairs.pop("OTTLA_DEFAULT_REPLICATION_FACTOR") == "3"
    for name, value in pairs.items():
        field = Settings.model_fields[name.removeprefix("OTTLA_").lower()]
        assert as_written(field.default) == value, name


def as_written(default):
    """A default as the environment has it."""
    if isinstance(default, tuple):
        return ",".join(map(str, default))
    return str(default).lower() if isinstance(default, bool) else str(default)


@pytest.mark.parametrize("target", ["start", "test", "lint", "bench", "demo", "load", "clean"])
def test_every_target_is_explained(target):
    makefile = (ROOT / "Makefile").read_text()
    assert re.search(rf"^{target}:", makefile, re.MULTILINE)
    assert re.search(rf"@echo 'make {target}\b", makefile)


class Honcho:
    """`honcho start` on the Procfile, with fake brokers on free ports."""

    def __init__(self, tmp_path, fake_broker):
        procfile = PROCFILE.replace("python -m ottla_broker", " ".join(fake_broker))
        ports = re.findall(r"--listen 127.0.0.1:(\d+)", PROCFILE)
        for port, free_port in zip(ports, free_ports(len(ports)), strict=True):
            procfile = procfile.replace(f":{port}", f":{free_port}")
        (tmp_path / "Procfile").write_text(procfile)
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "honcho", "start", "--no-colour"],
            cwd=tmp_path,
            env={**os.environ, "PATH": path, "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.lines = []
        self._printed = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self):
        for line in self.process.stdout:
            with self._printed:
                self.lines.append(line)
                self._printed.notify_all()

    def wait_for(self, text, timeout_s=20):
        """The first line with a text."""

        def found():
            return next((line for line in self.lines if text in line), None)

        with self._printed:
            assert self._printed.wait_for(found, timeout_s), "".join(self.lines)
            return found()

    def printed(self):
        """All that was printed, once the process has ended."""
        self._reader.join(10)
        assert not self._reader.is_alive(), "something still writes"
        return "".join(self.lines)

    def close(self):
        """End everything that still runs."""
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(10)
        self._reader.join(10)
        self.process.stdout.close()

    def broker_pid(self, number):
        return int(self.wait_for(f"broker{number}.1 | pid ").split()[-1])


@pytest.fixture
def honcho(tmp_path, fake_broker):
    """The Procfile under honcho."""
    honcho = Honcho(tmp_path, fake_broker)
    yield honcho
    honcho.close()


def test_the_procfile_starts_survives_a_crash_and_stops_in_time(honcho):
    honcho.wait_for("Ottla is ready: 3 of 3 brokers.")
    pids = [honcho.broker_pid(number) for number in (1, 2, 3)]

    os.kill(pids[1], signal.SIGKILL)
    assert "broker2" in honcho.wait_for("was ended by SIGKILL; restart 1 now")

    honcho.process.send_signal(signal.SIGINT)
    honcho.process.wait(20)
    honcho.wait_for("banner.1 stopped (rc=0)")
    # Which honcho says where something does not end in its five seconds.
    assert "sending SIGKILL" not in honcho.printed()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
