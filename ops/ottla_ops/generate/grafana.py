"""Renders dashboards as Grafana imports them: numbers in a row on top, two graphs a row below."""

import json
from collections.abc import Sequence
from typing import Any, Final

from ottla_ops.generate.dashboards import Dashboard, Panel

SCHEMA_VERSION: Final = 39
"""Of Grafana 11; later ones bring it up to date when they import it."""

WIDTH: Final = 24
NUMBER_HEIGHT: Final = 4
NUMBERS_PER_ROW: Final = 6
GRAPH_HEIGHT: Final = 8
GRAPHS_PER_ROW: Final = 2

DATA_SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}


def grafana_dashboard(dashboard: Dashboard) -> str:
    """The JSON of one dashboard; it asks for the data source, the cluster and the brokers."""
    return json.dumps(_document(dashboard), indent=2) + "\n"


def _document(dashboard: Dashboard) -> dict[str, Any]:
    return {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "tags": ["ottla"],
        "schemaVersion": SCHEMA_VERSION,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": _variables()},
        "links": [
            {
                "type": "dashboards",
                "title": "Ottla",
                "tags": ["ottla"],
                "asDropdown": False,
                "includeVars": True,
                "keepTime": True,
            }
        ],
        "panels": _laid_out(dashboard.panels),
    }


def _variables() -> list[dict[str, Any]]:
    """What stands at the top of the page; the metric is one that every process has."""
    return [
        {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"},
        {
            "name": "job",
            "label": "Cluster",
            "type": "query",
            "datasource": DATA_SOURCE,
            "query": "label_values(ottla_metadata_version, job)",
            "refresh": 2,
        },
        {
            "name": "instance",
            "label": "Broker",
            "type": "query",
            "datasource": DATA_SOURCE,
            "query": 'label_values(ottla_metadata_version{job="$job"}, instance)',
            "refresh": 2,
            "multi": True,
            "includeAll": True,
            "allValue": ".*",
            "current": {"text": "All", "value": "$__all"},
        },
    ]


def _laid_out(panels: Sequence[Panel]) -> list[dict[str, Any]]:
    numbers = [panel for panel in panels if panel.is_number]
    graphs = [panel for panel in panels if not panel.is_number]
    placed = [
        *_grid(numbers, top=0, per_row=NUMBERS_PER_ROW, height=NUMBER_HEIGHT),
        *_grid(
            graphs,
            top=-(-len(numbers) // NUMBERS_PER_ROW) * NUMBER_HEIGHT,
            per_row=GRAPHS_PER_ROW,
            height=GRAPH_HEIGHT,
        ),
    ]
    return [
        _panel(number, panel, position) for number, (panel, position) in enumerate(placed, start=1)
    ]


def _grid(
    panels: Sequence[Panel], *, top: int, per_row: int, height: int
) -> list[tuple[Panel, dict[str, int]]]:
    width = WIDTH // per_row
    return [
        (
            panel,
            {
                "x": index % per_row * width,
                "y": top + index // per_row * height,
                "w": width,
                "h": height,
            },
        )
        for index, panel in enumerate(panels)
    ]


def _panel(number: int, panel: Panel, position: dict[str, int]) -> dict[str, Any]:
    return {
        "id": number,
        "title": panel.title,
        "type": "stat" if panel.is_number else "timeseries",
        "datasource": DATA_SOURCE,
        "gridPos": position,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": DATA_SOURCE,
                "expr": query.expression,
                "legendFormat": query.legend,
            }
            for index, query in enumerate(panel.queries)
        ],
    }
