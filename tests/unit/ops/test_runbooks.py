"""Every alarm has a runbook; what runbooks and docs tell people to type and to look for exists."""

import os
import re
import shlex
from pathlib import Path

import pytest
import typer

from ottla_broker.settings import CLIENT_VARIABLES, Settings
from ottla_cluster.controller.topic_configs import TOPIC_CONFIGS
from ottla_ops.cli.app import app
from ottla_ops.documentation.references import REFERENCES
from ottla_ops.generate.alerts import ALERTS, RUNBOOK_DIRECTORY
from ottla_ops.generate.metrics_reference import described_metrics
from ottla_protocol import errors, routes

ROOT = Path(__file__).parents[3]
RUNBOOKS = sorted((ROOT / RUNBOOK_DIRECTORY).glob("*.md"))
DOCS = sorted((ROOT / "docs").rglob("*.md"))
WATCHING = ROOT / "docs" / "operations" / "monitoring.md"
SECTIONS = ["What it means", "What to look at", "What to do"]
SOURCES = "\n".join(
    path.read_text() for package in ("broker", "cluster") for path in (ROOT / package).rglob("*.py")
)

each_runbook = pytest.mark.parametrize("runbook", RUNBOOKS, ids=lambda path: path.stem)
each_page = pytest.mark.parametrize(
    "page", [*RUNBOOKS, *DOCS], ids=lambda path: str(path.relative_to(ROOT))
)


def commands_in(text):
    """Every `ottla ...` in code blocks and spans, as a list of words."""
    blocks = "\n".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL)).replace("\\\n", " ")
    spans = re.findall(r"`(ottla\s[^`]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    for line in [*blocks.splitlines(), *spans]:
        # Lines of other commands may end within quotes.
        if re.match(r"ottla\s", line):
            yield shlex.split(line, comments=True)


def anchors(text):
    """What the headings of a page are linked by."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def codes():
    """The code of every error of the protocol."""
    found, rest = set(), [errors.OttlaError]
    while rest:
        each = rest.pop()
        found.add(getattr(each, "code", ""))
        rest += each.__subclasses__()
    return found


def test_each_alarm_names_a_runbook_that_names_it():
    for alert in ALERTS:
        path = ROOT / RUNBOOK_DIRECTORY / f"{alert.runbook}.md"
        assert path.is_file(), alert.name
        assert f"`{alert.name}`" in path.read_text()


def test_there_are_ten_and_each_has_its_alarm():
    assert len(RUNBOOKS) >= 10
    assert {path.stem for path in RUNBOOKS} == {alert.runbook for alert in ALERTS}


def test_the_page_on_watching_has_every_alarm_and_its_runbook():
    told = re.findall(
        r"^\| `(Ottla\w+)` \| (\w+) \| \[([\w-]+)\]\(../../ops/runbooks/([\w-]+)\.md\) \|$",
        WATCHING.read_text(),
        re.MULTILINE,
    )
    assert told == [(each.name, each.severity, each.runbook, each.runbook) for each in ALERTS]


@each_runbook
def test_a_runbook_has_its_alarms_and_its_sections(runbook):
    text = runbook.read_text()
    named = set(re.findall(r"`(Ottla[A-Z]\w+)`", text))
    assert named == {alert.name for alert in ALERTS if alert.runbook == runbook.stem}
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == SECTIONS
    assert text.startswith("# ")


@each_page
def test_its_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        path, _, heading = target.partition("#")
        if path.startswith("http"):
            continue
        linked = page.parent / path if path else page
        if os.path.relpath(linked, ROOT / "docs") in REFERENCES:
            continue  # the site's build makes it, and follows links to its headings
        assert linked.exists(), target
        if heading:
            assert heading in anchors(linked.read_text()), target


@each_page
def test_its_commands_exist(page):
    for words in commands_in(page.read_text()):
        command = typer.main.get_command(app)
        rest = words[1:]
        while rest[0] in ("--context", "--bootstrap"):
            rest = rest[2:]
        while hasattr(command, "commands"):
            if not rest:
                break  # A group of commands is named.
            assert rest[0] in command.commands, words
            command = command.commands[rest.pop(0)]
        known = {name for parameter in command.params for name in parameter.opts}
        for word in rest:
            if word.startswith("--"):
                assert word.split("=")[0] in known, words


@each_page
def test_its_metrics_settings_routes_and_codes_exist(page):
    text = page.read_text()
    samples = {name for metric in described_metrics() for name in metric.sample_names}
    samples |= {metric.name for metric in described_metrics()}
    assert set(re.findall(r"`(ottla_\w+)`", text)) <= samples
    settings = {f"OTTLA_{name.upper()}" for name in Settings.model_fields} | CLIENT_VARIABLES
    assert set(re.findall(r"OTTLA_[A-Z_]+", text)) <= settings
    public = {value for value in vars(routes).values() if isinstance(value, str)}
    assert set(re.findall(r"127\.0\.0\.1:7101(/\w+)(?![/\w])", text)) <= public
    assert set(re.findall(r"`([A-Z]{4,}(?:_[A-Z]+)+)`", text)) <= codes() | settings
    configs = set(re.findall(r"--config ([a-z.]+)=", text))
    assert configs <= TOPIC_CONFIGS.keys()


@pytest.mark.parametrize("page", [*RUNBOOKS, WATCHING], ids=lambda path: path.stem)
def test_its_log_lines_and_reasons_exist(page):
    text = page.read_text()
    for event in re.findall(r"`([a-z]+(?:_[a-z]+)+)`", text):
        if not event.startswith("ottla_") and event != "linger_ms":
            assert f'"{event}"' in SOURCES, event
