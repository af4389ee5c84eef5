"""Which files `ops/` holds of what is generated, and what is in each."""

from collections.abc import Mapping
from pathlib import Path

from ottla_ops.generate.container_files import compose, dockerfile, dockerignore
from ottla_ops.generate.dashboards import DASHBOARDS
from ottla_ops.generate.grafana import grafana_dashboard
from ottla_ops.generate.kubernetes_manifests import kubernetes_manifests
from ottla_ops.generate.metrics_reference import metrics_reference
from ottla_ops.generate.prometheus_rules import prometheus_rules
from ottla_ops.generate.systemd_unit import systemd_unit


def generated_files() -> dict[str, str]:
    """The text of every generated file, by its path below `ops/`."""
    return {
        "metrics.md": metrics_reference(),
        "prometheus/ottla.rules.yml": prometheus_rules(),
        "systemd/ottla@.service": systemd_unit(),
        "container/Dockerfile": dockerfile(),
        "container/Dockerfile.dockerignore": dockerignore(),
        "container/compose.yaml": compose(),
        "kubernetes/ottla.yaml": kubernetes_manifests(),
        **{
            f"grafana/{dashboard.uid}.json": grafana_dashboard(dashboard)
            for dashboard in DASHBOARDS
        },
    }


def write_files(files: Mapping[str, str], directory: Path) -> list[Path]:
    """Write files below a directory and make what is missing of it; returns their paths.

    Raises:
        OSError: one cannot be written.
    """
    written = []
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        written.append(path)
    return written
