"""Alarms, dashboards and references speak of what there is; the copies in `ops/` are current."""

import json
import re
from pathlib import Path

import pytest
import yaml

from ottla_broker.telemetry import Metrics
from ottla_ops.generate.alerts import ALERT_GROUPS, ALERTS
from ottla_ops.generate.dashboards import DASHBOARDS, SELECTED
from ottla_ops.generate.files import generated_files
from ottla_ops.generate.grafana import WIDTH, grafana_dashboard
from ottla_ops.generate.metrics_reference import described_metrics, metrics_reference
from ottla_ops.generate.prometheus_rules import prometheus_rules

OPS = Path(__file__).parents[3] / "ops"

PROCESS_METRICS = {
    "process_resident_memory_bytes", "process_cpu_seconds_total", "process_open_fds",
    "process_max_fds",
}  # fmt: skip
"""Of the Prometheus client itself; `up` is Prometheus' own."""

TARGET_LABELS = {"job", "instance"}

METRIC = re.compile(r"\b(?:ottla|process|python)_[a-z_]+(?![a-z_.*])")
SELECTOR = re.compile(r"\b((?:ottla|process)_[a-z_]+)\{([^}]*)\}")
LABEL_OF_SELECTOR = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)")
GROUPING = re.compile(r"\b(?:by|on|without)\s*\(([^)]*)\)")

QUERIES = [
    *((alert.name, alert.expression) for alert in ALERTS),
    *(
        (f"{dashboard.title}: {panel.title}", query.expression)
        for dashboard in DASHBOARDS
        for panel in dashboard.panels
        for query in panel.queries
    ),
]

each_query = pytest.mark.parametrize(
    "expression", [q for _, q in QUERIES], ids=[n for n, _ in QUERIES]
)


def labels_by_sample():
    found = dict.fromkeys(PROCESS_METRICS, TARGET_LABELS)
    for metric in described_metrics():
        for sample in metric.sample_names:
            found[sample] = {*metric.labels, *TARGET_LABELS}
            if sample.endswith("_bucket"):
                found[sample] = found[sample] | {"le"}
    return found


LABELS = labels_by_sample()


def test_the_metrics_described_are_those_that_a_broker_exports():
    metrics = Metrics()
    exported = set(re.findall(r"^# TYPE (ottla_\w+) ", metrics.render().decode(), re.MULTILINE))
    described = {
        metric.name + ("_total" if metric.kind == "counter" else "")
        for metric in described_metrics(metrics)
    }
    assert described == exported
    assert "process_open_fds" in metrics.render().decode()


def test_the_reference_has_each_metric_once_with_its_meaning():
    rows = re.findall(
        r"^\| `(\w+)` \| (\w+) \| (.+?) \| (.+) \|$", metrics_reference(), re.MULTILINE
    )
    assert [row[0].removesuffix("_total") for row in rows] == [m.name for m in described_metrics()]
    assert all(row[3].strip() for row in rows)


@each_query
def test_every_metric_and_label_of_a_query_is_exported(expression):
    names = set(METRIC.findall(expression))
    assert names or expression.startswith(("up{", "sum(up{"))
    assert names <= LABELS.keys(), names - LABELS.keys()
    for name, selector in SELECTOR.findall(expression):
        assert set(LABEL_OF_SELECTOR.findall(selector)) <= LABELS[name]
    allowed = set.union(TARGET_LABELS, *(LABELS[name] for name in names))
    for grouping in GROUPING.findall(expression):
        assert {label.strip() for label in grouping.split(",")} <= allowed


@each_query
def test_the_brackets_of_a_query_are_closed(expression):
    text = re.sub(r'"[^"]*"', "", expression)
    closing = {")": "(", "]": "[", "}": "{"}
    open_brackets = []
    for character in text:
        if character in closing.values():
            open_brackets.append(character)
        elif character in closing:
            assert open_brackets, expression
            assert open_brackets.pop() == closing[character]
    assert not open_brackets


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
def test_what_an_alarm_says_uses_labels_that_its_series_have(alert):
    used = set(re.findall(r"\$labels\.(\w+)", alert.summary))
    # `by` drops all other labels; where there are several in an expression, all have the same.
    groupings = re.findall(r"\bby \(([^)]*)\)", alert.expression)
    if groupings:
        kept = {label.strip() for label in groupings[0].split(",")} - {"le"}
        assert used <= kept
    else:
        names = METRIC.findall(alert.expression)
        assert used <= set.union(TARGET_LABELS, *(LABELS[name] for name in names))


def test_the_rules_are_yaml_that_says_what_the_alarms_say():
    document = yaml.safe_load(prometheus_rules("https://runbooks.example/ottla/"))
    assert [group["name"] for group in document["groups"]] == [g.name for g in ALERT_GROUPS]
    rules = [rule for group in document["groups"] for rule in group["rules"]]
    for rule, alert in zip(rules, ALERTS, strict=True):
        assert rule == {
            "alert": alert.name,
            "expr": alert.expression,
            "for": alert.for_duration,
            "labels": {"severity": alert.severity},
            "annotations": {
                "summary": alert.summary,
                "runbook_url": f"https://runbooks.example/ottla/{alert.runbook}.md",
            },
        }
        assert re.fullmatch(r"\d+[smh]", rule["for"])


def test_names_are_unique():
    assert len({alert.name for alert in ALERTS}) == len(ALERTS)
    assert len({dashboard.uid for dashboard in DASHBOARDS}) == len(DASHBOARDS)


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda dashboard: dashboard.uid)
def test_a_dashboard_has_its_panels_beside_and_below_one_another(dashboard):
    document = json.loads(grafana_dashboard(dashboard))
    shown = [panel["title"] for panel in document["panels"]]
    assert sorted(shown) == sorted(panel.title for panel in dashboard.panels)
    taken = set()
    for panel in document["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken
        assert all(x < WIDTH for x, _ in cells)
        taken |= cells
    assert len({panel["id"] for panel in document["panels"]}) == len(document["panels"])


def test_every_graph_is_of_what_is_chosen_on_the_page():
    for dashboard in DASHBOARDS:
        for panel in dashboard.panels:
            for query in panel.queries:
                wanted = 'job="$job"' if panel.is_number else SELECTED
                assert wanted in query.expression, panel.title


@pytest.mark.parametrize("name", generated_files())
def test_the_copy_in_the_repository_is_what_is_generated(name):
    assert (OPS / name).read_text() == generated_files()[name], "ottla generate all ops"


def test_there_is_no_copy_of_what_is_generated_no_more():
    for directory in ("prometheus", "grafana", "systemd", "container", "kubernetes"):
        there = {f"{directory}/{path.name}" for path in (OPS / directory).iterdir()}
        assert there <= generated_files().keys()


def test_the_command_prints_and_writes_them(cli, tmp_path):
    code, out, _ = cli("generate", "prometheus-rules", "--runbooks", "https://x.example")
    assert code == 0
    assert yaml.safe_load(out)["groups"]
    code, out, _ = cli("generate", "grafana", "groups", "--json")
    assert json.loads(json.loads(out)["text"])["uid"] == "ottla-groups"
    assert cli("generate", "metrics-reference")[1] == metrics_reference()
    code, _, err = cli("generate", "grafana", "nothing")
    assert code == 2
    assert "overview, topics" in err
    assert cli("generate", "all", str(tmp_path))[0] == 0
    for name, text in generated_files().items():
        assert (tmp_path / name).read_text() == text
    (tmp_path / "file").write_text("")
    code, _, err = cli("generate", "all", str(tmp_path / "file"))
    assert code == 1
    assert "cannot be written" in err
