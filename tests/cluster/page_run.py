"""A page of documentation, run as a reader would paste it: in order, in one shell.

Only the brokers' addresses differ from the page, both ways. The shell's directory looks like a
clone after `make start`: `.venv/bin`, `data` with the brokers' files, and sources.
"""

import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from shlex import quote

from tests.cluster.page_blocks import ENDLESS, FAILS
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


def run(blocks, cluster, directory):
    """Run the blocks against that cluster, in an empty directory of their own.

    Returns:
        What each printed.

    Raises:
        AssertionError: a block failed, or printed something else than the page shows.
    """
    environment = prepare(cluster, directory)
    (directory / "page.sh").write_text(script(blocks, cluster, directory))
    printed, complaints = directory / "page.stdout", directory / "page.stderr"
    with printed.open("w") as stdout, complaints.open("w") as stderr:
        process = subprocess.Popen(
            ["sh", "page.sh"],
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
    outputs = separator.split(shown_addresses(printed.read_text(), cluster))[1:]
    if exit_code != 0:
        failed = blocks[len(outputs) - 1]
        raise AssertionError(
            f"line {failed.line}: exit code {exit_code}\n{failed.text}\n"
            f"{outputs[-1]}\n{complaints.read_text()}"
        )
    for block, output in zip(blocks, outputs, strict=True):
        if block.output:
            wrong = difference(block.output.text, output, block.output.language)
            assert wrong is None, f"line {block.output.line}: {wrong}\n{output}"
    return outputs


def prepare(cluster, directory):
    """Make the directory look like a clone; returns the environment."""
    programs = directory / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name, text in COMMANDS.items():
        program = programs / name
        program.write_text("#!/bin/sh\n" + text.format(python=quote(sys.executable)) + "\n")
        program.chmod(0o755)
    (directory / "data").symlink_to(cluster.cluster.directory)
    for name in ("clients", "loadtests", "ops"):
        (directory / name).symlink_to(ROOT / name)
    own = {name: text for name, text in os.environ.items() if not name.startswith("OTTLA_")}
    return own | {
        "HOME": str(directory),
        "OTTLA_BOOTSTRAP": cluster.cluster.bootstrap,
        "PATH": f"{programs}:{os.environ['PATH']}",
        "XDG_CONFIG_HOME": str(directory / "config"),
    }


def script(blocks, cluster, directory):
    (directory / "prelude.sh").write_text(PRELUDE)
    # Exported, so that a block that runs in a shell of its own has the variables too.
    parts = ["set -a", PRELUDE]
    for number, block in enumerate(blocks):
        parts.append(f"echo '{SEPARATOR}{number}'")
        parts.append(as_shell(block, number, real_addresses(block.text, cluster), directory))
        # What has no line break at its end gets one.
        parts.append("echo")
    return "\n".join(parts) + "\n"


def as_shell(block, number, text, directory):
    if block.language == "python":
        for impatient, patient in PATIENCE.items():
            text = text.replace(impatient, patient)
        (directory / f"block-{number}.py").write_text(text)
        return f"python -W error block-{number}.py"
    if block.mark == FAILS:
        return f"if ({text}); then echo 'it does not fail' >&2; exit 1; fi"
    if block.mark == ENDLESS:
        (directory / f"block-{number}.sh").write_text(PRELUDE + text)
        count = len(lines(block.output.text)) if block.output else 1
        until = quote(str(Path(__file__).with_name("page_until.py")))
        return f"python {until} {count} block-{number}.sh"
    return text


def real_addresses(text, cluster):
    for node_id in cluster.node_ids:
        address = cluster.url(node_id).removeprefix("http://")
        text = text.replace(f"127.0.0.1:710{node_id}", address)
    assert "127.0.0.1:710" not in text, text
    return text


def shown_addresses(text, cluster):
    for node_id in cluster.node_ids:
        address = cluster.url(node_id).removeprefix("http://")
        text = text.replace(address, f"127.0.0.1:710{node_id}")
    return text


def end_group(process):
    """End the shell and what it left running, which has the shell's process group."""
    process.kill()
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
