"""Renders the alarms as a rules file of Prometheus."""

from collections.abc import Iterable, Iterator
from typing import Final

from ottla_ops.generate.alerts import ALERT_GROUPS, RUNBOOK_DIRECTORY, Alert, AlertGroup
from ottla_ops.generate.yaml_text import quoted_scalar

HEADER: Final = """\
# Alarms of Ottla for Prometheus: `rule_files` in prometheus.yml names this file.
# A scrape job is one cluster, and its name begins with ottla. Made by
# `ottla generate prometheus-rules`; its --runbooks says where the runbooks are served.
"""


def prometheus_rules(
    runbooks: str = RUNBOOK_DIRECTORY, groups: Iterable[AlertGroup] = ALERT_GROUPS
) -> str:
    """The rules file, as YAML.

    Args:
        runbooks: URL or directory that holds the runbooks, for the alarms' `runbook_url`.
        groups: what to render.
    """
    lines = ["groups:"]
    for group in groups:
        lines += [f"  - name: {group.name}", "    rules:"]
        for alert in group.alerts:
            lines += _rule(alert, runbooks.rstrip("/"))
    return HEADER + "\n".join(lines) + "\n"


def _rule(alert: Alert, runbooks: str) -> Iterator[str]:
    yield f"      - alert: {alert.name}"
    yield f"        expr: {quoted_scalar(alert.expression)}"
    yield f"        for: {alert.for_duration}"
    yield "        labels:"
    yield f"          severity: {alert.severity}"
    yield "        annotations:"
    yield f"          summary: {quoted_scalar(alert.summary)}"
    yield f"          runbook_url: {quoted_scalar(f'{runbooks}/{alert.runbook}.md')}"
