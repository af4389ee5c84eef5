"""The reference of metrics, made from the registry that a broker exports.

Nothing is written down twice: names, kinds, labels and meanings are those of
`ottla_broker.telemetry`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import CollectorRegistry

from ottla_broker.described_collector import DescribedCollector
from ottla_broker.telemetry import Metrics

HEADER: Final = """\
# Metrics

What `GET /metrics` of every broker exports, in Prometheus' text format. Counters only rise and
begin anew with the process; of a histogram there are `_bucket`, `_sum` and `_count`. Made by
`ottla generate metrics-reference`.

| Metric | Kind | Labels | Meaning |
|---|---|---|---|
"""

FOOTER: Final = """
Besides, there is what the Prometheus client tells of every Python process on Linux:
`process_resident_memory_bytes`, `process_cpu_seconds_total`, `process_open_fds`, `process_max_fds`,
`process_start_time_seconds`, `process_virtual_memory_bytes`, `python_info` and `python_gc_*`.
"""

SUFFIXES: Final = {
    "counter": ("_total",),
    "gauge": ("",),
    "histogram": ("_bucket", "_sum", "_count"),
}
"""What stands behind a metric's name in its samples, by kind."""


@dataclass(frozen=True, slots=True)
class MetricDescription:
    """One metric that a broker exports.

    Attributes:
        name: without the suffix of its samples.
        kind: counter, gauge or histogram.
        labels: names of its labels.
        meaning: its help text.
    """

    name: str
    kind: str
    labels: tuple[str, ...]
    meaning: str

    @property
    def sample_names(self) -> tuple[str, ...]:
        """The names that queries use."""
        return tuple(self.name + suffix for suffix in SUFFIXES[self.kind])


def described_metrics(metrics: Metrics | None = None) -> list[MetricDescription]:
    """Every metric of our own, by name."""
    registry = (metrics or Metrics()).registry
    return sorted(_described(registry), key=lambda described: described.name)


def _described(registry: CollectorRegistry) -> Iterable[MetricDescription]:
    for collector in set(registry._collector_to_names):  # noqa: SLF001 - there is no public list
        if isinstance(collector, MetricWrapperBase):
            (family,) = collector.describe()
            yield _description(family, collector._labelnames)  # noqa: SLF001 - nor of the labels
        elif isinstance(collector, DescribedCollector):
            for family in collector.describe():
                yield _description(family, family._labelnames)  # noqa: SLF001


def _description(family: Metric, labels: Iterable[str]) -> MetricDescription:
    return MetricDescription(family.name, family.type, tuple(labels), family.documentation)


def metrics_reference() -> str:
    """The reference, as Markdown."""
    rows = (
        f"| `{metric.name}{'_total' if metric.kind == 'counter' else ''}` | {metric.kind} "
        f"| {', '.join(f'`{label}`' for label in metric.labels) or 'none'} | {metric.meaning} |\n"
        for metric in described_metrics()
    )
    return HEADER + "".join(rows) + FOOTER
