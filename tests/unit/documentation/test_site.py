"""The site builds from what is there, without a network; references and code agree, both ways."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import typer.main

from ottla_broker.http.openapi import openapi_document
from ottla_broker.http.operation_tables import OPERATIONS
from ottla_broker.settings import Settings
from ottla_cluster.controller.topic_configs import TOPIC_CONFIGS
from ottla_ops.cli.app import app
from ottla_ops.cli.exit_codes import MEANINGS, ExitCode
from ottla_ops.documentation.pages import BrokenLinkError, collect
from ottla_ops.documentation.references import REFERENCES
from ottla_ops.generate.metrics_reference import described_metrics
from ottla_protocol import errors

ROOT = Path(__file__).parents[3]
ELSEWHERE = re.compile(
    r"""<(?:script|img|iframe)[^>]* src="?https?:|<link[^>]* href="?https?:[^>]*"""
)
UNREACHABLE = {"HTTP_PROXY": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9"}


@pytest.fixture(scope="module")
def pages():
    """The references, by name."""
    return {Path(path).stem: render() for path, render in REFERENCES.items()}


def first_cells(text):
    """What stands as code in the first column of the tables of a page, in order."""
    return re.findall(r"^\| `([^`]+)`", text, re.MULTILINE)


@pytest.mark.timeout(600)
def test_the_site_builds_and_loads_nothing_from_elsewhere(tmp_path, monkeypatch):
    for name, proxy in UNREACHABLE.items():
        monkeypatch.setenv(name, proxy)
    command = [sys.executable, "-m", "ottla_ops.documentation.build", str(ROOT), str(tmp_path)]
    built = subprocess.run(command, capture_output=True, text=True, timeout=580)
    assert built.returncode == 0, built.stdout + built.stderr
    html = {path: path.read_text() for path in (tmp_path / "html").rglob("*.html")}
    assert {path.removesuffix(".md") + ".html" for path in [*REFERENCES, "tutorial.md"]} <= {
        path.relative_to(tmp_path / "html").as_posix() for path in html
    }
    for path, text in html.items():
        assert not ELSEWHERE.findall(re.sub(r'<link rel="?canonical[^>]*>', "", text)), path


def test_the_navigation_has_every_page_once():
    def paths(entry):
        if isinstance(entry, str):
            return [entry]
        return [path for each in entry.values() for path in within(each)]

    def within(entries):
        return (
            [p for each in entries for p in paths(each)] if isinstance(entries, list) else [entries]
        )

    navigation = tomllib.loads((ROOT / "docs" / "zensical.toml").read_text())["project"]["nav"]
    written = [path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")]
    assert sorted(within(navigation)) == sorted([*written, *REFERENCES])


def test_links_that_leave_docs_lead_to_copies(tmp_path):
    (tmp_path / "docs/deep").mkdir(parents=True)
    (tmp_path / "docs/deep/a.md").write_text("[x](../../B.md#c) [d](../../d) [r](../made.md)\n")
    (tmp_path / "B.md").write_text("[a](docs/deep/a.md)\n")
    (tmp_path / "d").mkdir()
    (tmp_path / "d/e.md").write_text("# Title\n```sh\n[not](a-link)\n```\n")
    files = collect(tmp_path, {"made.md": "made"})
    assert {path: text.decode() for path, text in files.items()} == {
        "made.md": "made",
        "deep/a.md": "[x](../repository/B.md#c) [d](../repository/d/index.md) [r](../made.md)\n",
        "repository/B.md": "[a](../deep/a.md)\n",
        "repository/d/index.md": "# d\n\n- [Title](e.md)\n",
        "repository/d/e.md": "# Title\n```sh\n[not](a-link)\n```\n",
    }


def test_a_link_that_leads_nowhere_is_refused(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/a.md").write_text("[x](../B.md)\n")
    with pytest.raises(BrokenLinkError, match=r"docs/a\.md links to \.\./B\.md"):
        collect(tmp_path, {})


def test_every_setting_and_config_is_told_and_exists(pages):
    settings = [f"OTTLA_{name.upper()}" for name in sorted(Settings.model_fields)]
    assert first_cells(pages["settings"]) == [*settings, *TOPIC_CONFIGS]
    for row in re.findall(r"^\| `.*$", pages["settings"], re.MULTILINE):
        assert row.rstrip(" |").rpartition(" | ")[2].strip(), row


def test_a_setting_has_its_default_unit_and_limits(pages):
    for row in (
        "| `OTTLA_NODE_ID` | `--node-id` | required |  | from 1 |",
        "| `OTTLA_SESSION_TIMEOUT_MS` | `--session-timeout-ms` | `3000` | milliseconds | 500 ",
        "| `OTTLA_SCRUB_BYTES_PER_SECOND` | `--scrub-bytes-per-second` | `8388608` | bytes ",
        "| `OTTLA_LOG_FORMAT` | `--log-format` |  |  | `console`, `json` |",
        "| `OTTLA_ROLES` | `--roles` | `broker,controller` |  | `broker`, `controller` |",
    ):
        assert row in pages["settings"]


def test_every_metric_is_told_and_exists(pages):
    counter = {"counter": "_total"}
    assert first_cells(pages["metrics"]) == [
        metric.name + counter.get(metric.kind, "") for metric in described_metrics()
    ]


def test_every_command_is_told_and_exists(pages):
    told = re.findall(r"^## (ottla .*)$", pages["command-line"], re.MULTILINE)

    def leaves(words, command):
        below = getattr(command, "commands", {})
        found = (
            [words] if not below or (command.invoke_without_command and words != "ottla") else []
        )
        return found + [path for name in below for path in leaves(f"{words} {name}", below[name])]

    assert sorted(told) == sorted(leaves("ottla", typer.main.get_command(app)))
    assert len(told) == len(set(told)) > 40


def test_every_option_of_a_command_is_told(pages):
    section = pages["command-line"].partition("## ottla consume\n")[2].partition("\n## ")[0]
    assert {"`TOPIC`", "`--from` `START`", "`--follow`, `-f`"} <= set(
        re.findall(r"^\| (.*?) \|", section, re.MULTILINE)
    )


def test_every_exit_code_is_told_and_exists(pages):
    section = pages["command-line"].partition("## Exit codes\n")[2].partition("\n## ")[0]
    told = re.findall(r"^\| (\d+) \| (.+) \|$", section.replace(r"\|", "|"), re.MULTILINE)
    assert told == [(str(each.value), MEANINGS[each]) for each in ExitCode]


def test_every_error_code_is_told_and_exists(pages):
    def below(error):
        direct = [each for each in error.__subclasses__() if each.__module__ == errors.__name__]
        return {each.code for each in direct}.union(*map(below, direct))

    told = first_cells(pages["errors"])
    assert told == sorted(below(errors.OttlaError))
    assert "| `NOT_CONTROLLER` | 421 | yes |" in pages["errors"]


def test_every_operation_is_told_and_exists(pages):
    document = openapi_document(OPERATIONS, version="1")
    described = [
        f"{method.upper()} {path}" for path, each in document["paths"].items() for method in each
    ]
    told = re.findall(r"^### ([A-Z]+ /.*)$", pages["http"], re.MULTILINE)
    assert sorted(told) == sorted(described)


def test_every_name_of_the_sdk_is_told_once(pages):
    import ottla
    import ottla.aio
    import ottla.testing

    told = re.findall(r"^### (ottla[\w.]*)$", pages["sdk"], re.MULTILINE)
    objects = [id(eval(name, {"ottla": ottla})) for name in told]
    assert len(objects) == len(set(objects))
    for module in (ottla, ottla.aio, ottla.testing):
        assert {id(getattr(module, name)) for name in module.__all__} <= set(objects)
    assert "#### Producer.send(" in pages["sdk"]
