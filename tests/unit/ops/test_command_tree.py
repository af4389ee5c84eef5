"""The commands that there are, and those that README tells of; completion in three shells."""

import re
from pathlib import Path

import pytest
import typer.main

from ottla_ops.cli.app import app
from ottla_ops.cli.main import OPTIONS_ANYWHERE

README = (Path(__file__).parents[3] / "README.md").read_text()
TREE = typer.main.get_command(app)
EXAMPLES = [
    example.partition(" #")[0]
    for example in re.findall(r"(?:\.venv/bin/|`)ottla ([^`\n]+)", README)
]


def subcommands(command):
    return getattr(command, "commands", {})


def words_of(example):
    """What follows `ottla` up to the first word that cannot be a command's, options left out."""
    words = iter(example.split())
    found = []
    for word in words:
        if word in OPTIONS_ANYWHERE:
            next(words, None)
        elif not word.startswith("-"):
            found.append(word)
    return found


def test_every_command_that_readme_tells_of_exists():
    assert len(EXAMPLES) > 30
    for example in EXAMPLES:
        command = TREE
        for word in words_of(example):
            if not subcommands(command):
                break
            # `topic list|create` and the like name several.
            for name in word.split("|"):
                assert name in subcommands(command), f"ottla {example}"
            command = subcommands(command)[word.split("|")[0]]


def test_every_option_that_readme_tells_of_exists():
    for example in EXAMPLES:
        command, options = TREE, set()
        for word in words_of(example):
            options |= options_of(command)
            command = subcommands(command).get(word.split("|")[0], command)
        options |= options_of(command)
        named = set(re.findall(r"(?<=\s)(--[a-z][a-z-]*)", f" {example}"))
        assert named <= options, f"ottla {example}"


def options_of(command):
    return {name for parameter in command.params for name in (*parameter.opts, "--help")}


def test_readme_tells_of_every_first_word():
    told = {word for example in EXAMPLES for word in words_of(example)[:1]}
    # `dev` is for the Procfile and make.
    assert set(TREE.commands) - told <= {"dev"}


def test_every_command_says_what_it_does():
    def walk(command, path):
        assert (command.help or "").strip(), path
        for name, each in subcommands(command).items():
            walk(each, f"{path} {name}")

    walk(TREE, "ottla")


@pytest.mark.parametrize(
    ("shell", "environment"),
    [
        ("bash", {"COMP_WORDS": "ottla con", "COMP_CWORD": "1"}),
        ("zsh", {"_TYPER_COMPLETE_ARGS": "ottla con"}),
        ("fish", {"_TYPER_COMPLETE_ARGS": "ottla con", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}),
    ],
)
def test_the_shell_completes_commands(cli, capsysbinary, monkeypatch, shell, environment):
    monkeypatch.setenv("_OTTLA_COMPLETE", f"complete_{shell}")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as ended:
        cli()
    assert ended.value.code == 0
    out = capsysbinary.readouterr().out.decode()
    assert "consume" in out
    assert "context" in out
    assert "produce" not in out
