"""A page of documentation, run as a reader would paste it: in order, in one shell.

Where that is, is a place: brokers that are there (`BrokersAtHand`), or a machine that the page has
to itself (`page_machine.Machine`).
"""

import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from shlex import quote

from tests.cluster.page_blocks import ENDLESS, FAILS, GOES_ON
from tests.cluster.page_output import difference, lines

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 300
SEPARATOR = "=== block "

COMMANDS = {
    "python": 'exec {python} "$@"',
    "ottla": 'exec {python} -c \'import sys; from ottla._entry import main; sys.argv[0] = "ottla"; '
    'sys.exit(main())\' "$@"',
}

PRELUDE = """\
set -e
curl() { command curl --fail-with-body "$@"; }
"""
"""An error status is an error here: curl alone would only print it."""

PATIENCE = {
    f"consumer_timeout_ms={short}": "consumer_timeout_ms=6_000" for short in ("2_000", "5_000")
}
"""How long the end is waited for, which is too short for a busy machine."""


class BrokersAtHand:
    """A place beside brokers that are there already, at whatever addresses.

    Only these differ from the page, both ways. The shell's directory looks like a clone after `make
    start`: `.venv/bin`, `data` with the brokers' files, and sources.
    """

    beginning = ""

    def __init__(self, cluster):
        self.cluster = cluster

    def prepare(self, directory):
        """Make the directory what the page expects; returns the environment."""
        programs = directory / ".venv" / "bin"
        for name, text in COMMANDS.items():
            write_program(programs / name, text.format(python=quote(sys.executable)))
        (directory / "data").symlink_to(self.cluster.cluster.directory)
        for name in ("clients", "loadtests", "ops"):
            (directory / name).symlink_to(ROOT / name)
        return own_environment(directory) | {
            "OTTLA_BOOTSTRAP": self.cluster.cluster.bootstrap,
            "PATH": f"{programs}:{os.environ['PATH']}",
        }

    def command(self, script):
        """What runs that script there."""
        return ("sh", script)

    def as_run(self, text):
        """A block's text as it is run here."""
        for node_id in self.cluster.node_ids:
            text = text.replace(f"127.0.0.1:710{node_id}", self._address(node_id))
        assert "127.0.0.1:710" not in text, text
        return text

    def as_shown(self, text):
        """What a block has printed, as the page shows it."""
        for node_id in self.cluster.node_ids:
            text = text.replace(self._address(node_id), f"127.0.0.1:710{node_id}")
        return text

    def _address(self, node_id):
        return self.cluster.url(node_id).removeprefix("http://")


def own_environment(directory):
    """This process's environment, without what would tell commands of it or of other clusters."""
    own = {
        name: text
        for name, text in os.environ.items()
        if not name.startswith(("OTTLA_", "MAKE", "MFLAGS"))
    }
    return own | {"HOME": str(directory), "XDG_CONFIG_HOME": str(directory / "config")}


def write_program(path, text):
    """A program of sh."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def run(blocks, place, directory):
    """Run the blocks at that place, in an empty directory of their own.

    Returns:
        What each printed.

    Raises:
        AssertionError: a block failed, or printed something else than the page shows.
    """
    environment = place.prepare(directory)
    (directory / "page.sh").write_text(script(blocks, place, directory))
    printed, complaints = directory / "page.stdout", directory / "page.stderr"
    with printed.open("w") as stdout, complaints.open("w") as stderr:
        process = subprocess.Popen(
            place.command("page.sh"),
            cwd=directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
        )
    try:
        exit_code = process.wait(TIMEOUT_S)
    except subprocess.TimeoutExpired:
        exit_code = f"none, it is not done after {TIMEOUT_S} s"
    finally:
        end_group(process)
    separator = re.compile(rf"^{SEPARATOR}\d+\n", re.MULTILINE)
    outputs = separator.split(place.as_shown(printed.read_text()))[1:]
    if exit_code != 0:
        failed = blocks[max(0, len(outputs) - 1)]
        raise AssertionError(
            f"line {failed.line}: exit code {exit_code}\n{failed.text}\n"
            f"{outputs[-1] if outputs else ''}\n{complaints.read_text()}"
        )
    for block, output in zip(blocks, outputs, strict=True):
        if block.output:
            wrong = difference(block.output.text, output, block.output.language)
            assert wrong is None, f"line {block.output.line}: {wrong}\n{output}"
    return outputs


def script(blocks, place, directory):
    (directory / "prelude.sh").write_text(PRELUDE)
    # Exported, so that a block that runs in a shell of its own has the variables too.
    parts = ["set -a", PRELUDE, place.beginning]
    for number, block in enumerate(blocks):
        parts.append(f"echo '{SEPARATOR}{number}'")
        parts.append(as_shell(block, directory / f"block-{number}", place.as_run(block.text)))
        # What has no line break at its end gets one.
        parts.append("echo")
    return "\n".join(parts) + "\n"


def as_shell(block, path, text):
    """What runs a block of this text; `path` is that of its file, without a suffix."""
    if block.language == "python":
        for impatient, patient in PATIENCE.items():
            text = text.replace(impatient, patient)
        path.with_suffix(".py").write_text(text)
        return f"python -W error {quote(str(path))}.py"
    if block.mark == FAILS:
        return f"if ({text}); then echo 'it does not fail' >&2; exit 1; fi"
    path.with_suffix(".sh").write_text(PRELUDE + text)
    if block.mark == ENDLESS:
        count = len(lines(block.output.text)) if block.output else 1
        return f"python {beside('page_until.py')} {count} {quote(str(path))}.sh"
    if block.mark == GOES_ON:
        started = f"python {beside('page_terminal.py')} {quote(str(path))}.sh"
        # Who opens a second terminal goes to where the first one is.
        return f'{started} "$HOME/terminal" "$HOME/terminal.pid"\n[ ! -d ottla ] || cd ottla'
    return text


def beside(name):
    return quote(str(Path(__file__).with_name(name)))


def end_group(process):
    """End the shell and what it left running: it has the shell's process group, or dies with it."""
    process.kill()
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
