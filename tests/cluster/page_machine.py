"""A machine that a page has to itself, so that its ports, its processes and its words are as shown.

It is a network namespace and a namespace of process ids, so `make start` finds 7101 to 7103 free,
`pgrep` sees no brokers but the page's, and nothing outlives the page: its shell is process 1, and
the kernel ends the others with it. Needs Linux, and a user who may make namespaces.

These stand for what cannot be had there:

- `git clone` copies a tree whose sources are links to those that are tested, and whose `.venv` has
  what the environment of the tests has. So there is no network, and `make` finds it installed.
- `systemctl` is page_systemctl, for units below a root of its own: `/etc` in a page is there.
- Hosts are addresses of this one machine.
"""

import os
import subprocess
import sys
import sysconfig
from functools import lru_cache
from pathlib import Path
from shlex import quote
from shutil import which

from tests.cluster.page_run import ROOT, beside, own_environment, write_program

PROGRAMS = ("unshare", "ip", "pgrep", "make")
NAMESPACES = ("unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc")
AS_ROOT = ("--user", "--map-root-user")
TRIAL_TIMEOUT_S = 30

FILES = ("Makefile", "Procfile", "Procfile.dedicated", "pyproject.toml", "constraints.txt")
PACKAGES = ("clients", "cluster", "broker", "ops")
SETTINGS = {"OTTLA_OFFSETS_PARTITIONS": "1", "OTTLA_ELECTION_TIMEOUT_MS": "2000"}
"""Sixteen take a busy machine long, for nothing that a page shows. And what a page types once must
not meet an election that a machine which stood still for half a second has made."""

CTRL_C = """\
kill -s INT -- "-$(cat "$HOME/terminal.pid")"
while pgrep -f '^python -m ottla_broker' > "$HOME/left"; do sleep 0.1; done
"""
"""What ends a first terminal, and with it every broker that was started there."""


def in_namespaces(*command):
    """The command that runs another one on a machine of its own, as process 1."""
    options = () if os.geteuid() == 0 else AS_ROOT
    return (NAMESPACES[0], *options, *NAMESPACES[1:], *command)


@lru_cache
def lacks():
    """What is missing for such machines here; empty where nothing is."""
    missing = [program for program in PROGRAMS if which(program) is None]
    if not missing:
        trial = subprocess.run(
            in_namespaces("ip", "link", "set", "lo", "up"),
            capture_output=True,
            text=True,
            timeout=TRIAL_TIMEOUT_S,
            check=False,
        )
        if trial.returncode != 0:
            missing.append(f"namespaces ({' '.join(trial.stderr.split())[:200]})")
    return missing


class Machine:
    """A place for `page_run.run`.

    Args:
        addresses: IP addresses that the machine has besides 127.0.0.1.
        bootstrap: where `ottla` finds brokers when it is not told; on 7101 to 7103 when empty.
        in_clone: whether the page begins in a clone, rather than making one.
    """

    def __init__(self, addresses=(), *, bootstrap="", in_clone=False):
        self._addresses = addresses
        self._bootstrap = bootstrap
        self._in_clone = in_clone
        self._directory = None

    @property
    def root(self):
        """What stands for the root of its files, in so far as a page writes there."""
        return self._directory / "root"

    @property
    def beginning(self):
        """What makes the machine one, before the first block."""
        configured = [f"ip address add {address}/32 dev lo" for address in self._addresses]
        return "\n".join(
            ("ip link set lo up", *configured, *(("cd clone",) if self._in_clone else ()))
        )

    def prepare(self, directory):
        """Make the directory what the page expects; returns the environment."""
        self._directory = directory
        clone, programs = directory / "clone", directory / "programs"
        make_clone(clone)
        write_program(programs / "git", f'[ "$1" = clone ] && cp -RP {quote(str(clone))} "$3"')
        systemctl = f"exec {quote(sys.executable)} {beside('page_systemctl.py')}"
        write_program(programs / "systemctl", f'{systemctl} "$@"')
        for name in ("etc/systemd/system", "etc/ottla", "opt", "run"):
            (self.root / name).mkdir(parents=True)
        (self.root / "opt" / "ottla").symlink_to(clone / ".venv")
        return own_environment(directory) | {
            "PATH": f"{programs}:{clone / '.venv' / 'bin'}:{os.environ['PATH']}",
            # What was installed may be another tree than the one that is tested.
            "PYTHONPATH": os.pathsep.join(str(ROOT / package) for package in PACKAGES),
            "PYTHONPYCACHEPREFIX": str(clone / ".venv" / "bytecode"),
            "SYSTEMD_ROOT": str(self.root),
            **SETTINGS,
            **({"OTTLA_BOOTSTRAP": self._bootstrap} if self._bootstrap else {}),
        }

    def command(self, script):
        """What runs that script there."""
        return in_namespaces("sh", script)

    def as_run(self, text):
        """A block's text as it is run here."""
        return text.replace("<this repository>", "this-repository").replace(
            " /etc/", f" {quote(str(self.root))}/etc/"
        )

    def as_shown(self, text):
        """What a block has printed, as the page shows it."""
        return text


def make_clone(directory):
    """A tree in which `make start` finds everything installed, and nothing to compile again."""
    directory.mkdir()
    for name in (*FILES, *PACKAGES, "loadtests"):
        (directory / name).symlink_to(ROOT / name)
    environment = directory / ".venv"
    # What is installed keeps its path, and with it the bytecode that the tests have.
    site = environment / "lib" / "python{}.{}".format(*sys.version_info) / "site-packages"
    site.mkdir(parents=True)
    installed = sysconfig.get_path("purelib")
    (site / "installed.pth").write_text(f"import site; site.addsitedir({installed!r})\n")
    (environment / "pyvenv.cfg").write_text(f"home = {Path(sys.base_prefix) / 'bin'}\n")
    (environment / "bin").symlink_to(Path(sys.executable).parent)
    bytecode = Path(sys.pycache_prefix or Path(sys.prefix) / "bytecode")
    bytecode.mkdir(exist_ok=True)
    (environment / "bytecode").symlink_to(bytecode)
    # Newer than what it is made from, so make does not make it.
    (environment / "server-installed").touch()
