"""The commands that there are, and those that pages tell of; help and completion."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main

from ottla_ops.cli import root_help
from ottla_ops.cli.app import app
from ottla_ops.cli.command_table import COMMANDS
from ottla_ops.cli.main import OPTIONS_ANYWHERE

ROOT = Path(__file__).parents[3]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TREE = typer.main.get_command(app)
EXAMPLES = [
    example.partition(" #")[0]
    for page in PAGES
    for example in re.findall(r"(?m)(?:\.venv/bin/|`|^)ottla ([^`\n]+)", page.read_text())
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


def test_every_command_that_pages_tell_of_exists():
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


def test_every_option_that_pages_tell_of_exists():
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


def test_pages_tell_of_every_first_word():
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


def test_the_page_of_the_root_is_what_typer_would_print(cli, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = cli("--help")
    # Without arguments it is typer that prints the page, as a usage error.
    _, _, by_typer = cli()
    assert code == 0
    # Typer keeps two blanks before the variable.
    assert [" ".join(line.split()) for line in out.splitlines()] == [
        " ".join(line.split()) for line in by_typer.splitlines()
    ]


@pytest.mark.parametrize("columns", [1, 60, 80, 200])
def test_no_line_of_the_page_is_longer_than_the_terminal(columns):
    lines = root_help.render(columns).splitlines()
    assert max(map(len, lines)) <= max(min(columns, 80), 52)


def test_lines_of_the_root_are_whole_sentences_that_fit():
    for name, entry in COMMANDS.items():
        assert entry.help.endswith("."), name
        assert len(entry.help) <= 62, name
        assert not TREE.commands[name].get_short_help_str(62).endswith("..."), name


LOADED = (
    "import sys; sys.argv = ['ottla', *sys.argv[1:]]\n"
    "from ottla._entry import main\n"
    "main()\n"
    "print(*sorted(sys.modules), file=sys.stderr)"
)


def loaded_by(*arguments, **environment):
    done = subprocess.run(
        [sys.executable, "-c", LOADED, *arguments],
        capture_output=True,
        text=True,
        check=True,
        env={**environment, "PYTHONPATH": ":".join(sys.path)},
    )
    return set(done.stderr.split())


def test_the_page_of_the_root_needs_no_command_and_no_option_parser():
    loaded = loaded_by("--help")
    assert "ottla_ops.cli.root_help" in loaded
    assert not loaded & {"typer", "rich", "pydantic", "msgspec", "urllib3", "aiohttp", "aiokafka"}
    assert not {name for name in loaded if name.endswith(("_command", "_commands"))}


@pytest.mark.parametrize("arguments", [("topic", "--help"), ("topic", "create", "--help")])
def test_the_page_of_a_command_needs_its_own_module_only(arguments):
    loaded = loaded_by(*arguments)
    assert not loaded & {"rich", "pydantic", "msgspec", "urllib3", "aiohttp", "aiokafka"}
    assert {name for name in loaded if name.endswith(("_command", "_commands"))} == {
        "ottla_ops.cli.topic_commands"
    }
