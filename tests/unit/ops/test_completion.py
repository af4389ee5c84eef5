"""Completion as shells do it: their own scripts, run by them."""

import os
import shutil
import subprocess
import sys

import pytest

LIMIT_S = 60
PROGRAM = """\
#!{python} -S
import sys
sys.path[:] = {path!r}
sys.argv[0] = "ottla"
from ottla._entry import main
sys.exit(main())
"""


@pytest.fixture
def environment(tmp_path):
    """Of a shell that finds `ottla` in its path, and whose user has it completed."""
    programs = tmp_path / "bin"
    programs.mkdir()
    program = programs / "ottla"
    program.write_text(PROGRAM.format(python=sys.executable, path=sys.path))
    program.chmod(0o755)
    return {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "TERM": "dumb",
    }


def script_for(shell, environment):
    """What `ottla generate completion` prints."""
    return subprocess.run(
        ["ottla", "generate", "completion", shell],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=LIMIT_S,
    ).stdout


ASK_BASH = """
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
_ottla_completion "$1"
printf '%s\\n' "${COMPREPLY[@]}"
complete -p ottla
"""


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash here")
def test_bash_completes(environment):
    script = script_for("bash", environment)

    def completions(*words):
        done = subprocess.run(
            ["bash", "--norc", "-c", script + ASK_BASH, "bash", *words],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
            timeout=LIMIT_S,
        )
        *found, registered = done.stdout.split("\n")[:-1]
        assert registered == "complete -o default -F _ottla_completion ottla"
        return found

    assert completions("ottla", "con") == ["consume", "context"]
    assert completions("ottla", "cluster", "quorum", "add") == ["add-voter"]
    assert completions("ottla", "topic", "create", "--repl") == ["--replication-factor"]
    assert completions("ottla", "consume", "t", "--format", "") == ["value", "key-value", "json"]


@pytest.mark.skipif(shutil.which("zsh") is None, reason="there is no zsh here")
def test_zsh_takes_the_script(environment):
    script = "autoload -U compinit; compinit -u\n" + script_for("zsh", environment)
    subprocess.run(
        ["zsh", "-f", "-c", script + "\n[[ -n ${_comps[ottla]} ]]"],
        env=environment,
        check=True,
        timeout=LIMIT_S,
    )


@pytest.mark.skipif(shutil.which("fish") is None, reason="there is no fish here")
def test_fish_completes(environment):
    script = script_for("fish", environment)
    done = subprocess.run(
        ["fish", "--no-config", "-c", script + "\ncomplete -C 'ottla con'"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=LIMIT_S,
    )
    assert [line.split("\t")[0] for line in done.stdout.splitlines()] == ["consume", "context"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_there_is_a_script_for_each_shell(cli, shell):
    code, out, err = cli("generate", "completion", shell)
    assert (code, err) == (0, "")
    assert f"complete_{shell}" in out
