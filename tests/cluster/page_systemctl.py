"""Stands for systemd on the machine of a page: `systemctl`, with all paths below SYSTEMD_ROOT.

    python page_systemctl.py daemon-reload
    python page_systemctl.py start|stop|restart UNIT...
    python page_systemctl.py enable --now UNIT...

What a unit says about its environment, its command, the directory of its state, its end and its
restarts is done. What it says about users, limits and what the process may not do is left out:
systemd itself is asked about that in test_deployment_schemas.
"""

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(os.environ["SYSTEMD_ROOT"])
UNITS = ROOT / "etc/systemd/system"
POLL_INTERVAL_S = 0.05
START_TIMEOUT_S = 30


def main(verb, *names):
    if verb == "enable":
        assert names[0] == "--now", "nothing here is started by a boot"
        verb, names = "start", names[1:]
    for name in names:
        {"start": start, "stop": stop, "restart": restart, "run": run}[verb](name)
    if verb == "daemon-reload":
        for path in UNITS.iterdir():
            assert "ExecStart" in settings(path.read_text()), path


def start(name):
    """Start a unit; as with Type=exec this returns once its process exists."""
    log = ROOT / "var/log" / name
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        manager = subprocess.Popen(
            [sys.executable, __file__, "run", name],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    until(
        lambda: pid_file(name).exists() or manager.poll() is not None,
        START_TIMEOUT_S,
        f"{name} does not start",
    )


def stop(name):
    """Ask a unit's process to stop, and wait until it has."""
    os.kill(int(pid_file(name).read_text()), signal.SIGTERM)
    timeout_s = int(service(name)["TimeoutStopSec"][0])
    until(lambda: not pid_file(name).exists(), timeout_s, f"{name} would have to be killed")


def restart(name):
    stop(name)
    start(name)


def run(name):
    """Be the unit's manager until it is stopped, or ends in a way that is not mended."""
    unit = service(name)
    command = [below(word) for word in shlex.split(unit["ExecStart"][0])]
    assert unit["Restart"] == ["on-failure"]
    final = {0, *map(int, unit["RestartPreventExitStatus"])}
    stops = False
    child = None

    def ask_to_stop(*_):
        nonlocal stops
        stops = True
        child.send_signal(signal.Signals[unit["KillSignal"][0]])

    while not stops:
        child = subprocess.Popen(command, env=environment(unit))
        signal.signal(signal.SIGTERM, ask_to_stop)
        if not pid_file(name).exists():
            # Whole at once: who stops it may read this file at any moment.
            written = pid_file(name).with_suffix(".new")
            written.write_text(str(os.getpid()))
            written.rename(pid_file(name))
        if child.wait() in final:
            break
        if not stops:
            time.sleep(int(unit["RestartSec"][0]))
    pid_file(name).unlink()


def service(name):
    """What is set for a unit made of a template, with its directory of state there."""
    template, _, instance = name.removesuffix(".service").partition("@")
    unit = settings((UNITS / f"{template}@.service").read_text().replace("%i", instance))
    for directory in unit["StateDirectory"]:
        path = ROOT / "var/lib" / directory
        path.mkdir(int(unit["StateDirectoryMode"][0], 8), parents=True, exist_ok=True)
    return unit


def settings(text):
    """All values by name; which section they stand in does not matter here."""
    found = {}
    for line in text.splitlines():
        if "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


def environment(unit):
    own = {key: value for key, value in os.environ.items() if not key.startswith("OTTLA_")}
    lines = list(unit["Environment"])
    for named in unit["EnvironmentFile"]:
        path = Path(below(named.removeprefix("-")))
        if path.exists() or not named.startswith("-"):
            lines += path.read_text().splitlines()
    return own | dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def below(word):
    """A path as it is below the root; another word as it stands."""
    return str(ROOT / word.lstrip("/")) if word.startswith("/") else word


def pid_file(name):
    return ROOT / "run" / f"{name}.pid"


def until(holds, timeout_s, complaint):
    deadline_s = time.monotonic() + timeout_s
    while not holds():
        if time.monotonic() > deadline_s:
            log = (ROOT / "var/log").joinpath(complaint.split()[0])
            sys.exit(f"{complaint}\n{log.read_text()[-4000:]}")
        time.sleep(POLL_INTERVAL_S)


if __name__ == "__main__":
    main(*sys.argv[1:])
