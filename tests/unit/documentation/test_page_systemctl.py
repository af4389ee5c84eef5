"""The stand-in for systemd does what units say about starts, ends and restarts."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.awaiting import eventually

PROGRAM = Path(__file__).parents[2] / "cluster" / "page_systemctl.py"
UNIT = """\
[Service]
EnvironmentFile=-/etc/it/all.env
EnvironmentFile=-/etc/it/%i.env
Environment=COLOUR=red
ExecStart=/bin/sh /bin/it %i
StateDirectory=it/%i
StateDirectoryMode=0700
KillSignal=SIGTERM
TimeoutStopSec=10
Restart=on-failure
RestartPreventExitStatus=2
RestartSec=0
"""


class Systemd:
    def __init__(self, root):
        self.root = root
        for name in ("etc/systemd/system", "etc/it", "bin", "run"):
            (root / name).mkdir(parents=True)
        (root / "bin/sh").symlink_to("/bin/sh")
        (root / "etc/systemd/system/it@.service").write_text(UNIT)

    def program(self, text):
        (self.root / "bin/it").write_text(text)

    def __call__(self, *words):
        subprocess.run(
            [sys.executable, PROGRAM, *words],
            env=os.environ | {"SYSTEMD_ROOT": str(self.root)},
            check=True,
            timeout=60,
        )

    def told(self):
        """What runs of the program have written."""
        path = self.root / "told"
        return path.read_text().splitlines() if path.exists() else []

    def is_running(self):
        return (self.root / "run/it@7.pid").exists()


@pytest.fixture
def systemd(tmp_path):
    made = Systemd(tmp_path)
    yield made
    if made.is_running():
        made("stop", "it@7")


def test_a_unit_that_is_killed_is_started_again_and_one_that_is_stopped_is_not(systemd):
    (systemd.root / "etc/it/all.env").write_text("SIZE=1\nSHAPE=round\n")
    (systemd.root / "etc/it/7.env").write_text("SIZE=7\n")
    told = systemd.root / "told"
    systemd.program(f"echo $$ $1 $COLOUR $SIZE $SHAPE >> {told}\nexec sleep 60\n")
    systemd("daemon-reload")
    systemd("enable", "--now", "it@7")
    eventually(lambda: len(systemd.told()) == 1)
    pid, *settings = systemd.told()[0].split()
    assert settings == ["7", "red", "7", "round"]
    assert (systemd.root / "var/lib/it/7").stat().st_mode & 0o777 == 0o700
    os.kill(int(pid), signal.SIGKILL)
    eventually(lambda: len(systemd.told()) == 2)
    systemd("restart", "it@7")
    eventually(lambda: len(systemd.told()) == 3)
    systemd("stop", "it@7")
    assert not systemd.is_running()
    assert len(systemd.told()) == 3


@pytest.mark.parametrize("exit_code", [0, 2])
def test_a_unit_that_has_ended_for_good_stays_so(systemd, exit_code):
    systemd.program(f"echo done >> {systemd.root}/told\nexit {exit_code}\n")
    systemd("start", "it@7")
    eventually(lambda: not systemd.is_running())
    assert systemd.told() == ["done"]
