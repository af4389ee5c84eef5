"""What the bench finds: rows of named numbers, and the targets that some of them have."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

Parameters = Mapping[str, str | int | float]
Values = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Row:
    """One measurement.

    Attributes:
        name: unique in a run and the same in every run, so that runs can be compared.
        parameters: what was done, so that the numbers can be judged.
        values: what was seen, by metric. Names end in their unit; MB is 1,000,000 bytes of record
            values, without headers and framing.
    """

    name: str
    parameters: Parameters
    values: Values


@dataclass(frozen=True, slots=True)
class Target:
    """A bound that a metric must keep; exactly one of the two bounds is set."""

    row: str
    metric: str
    at_least: float | None = None
    at_most: float | None = None

    def is_met(self, value: float) -> bool:
        """Whether `value` keeps the bound."""
        if self.at_least is not None:
            return value >= self.at_least
        assert self.at_most is not None
        return value <= self.at_most

    @property
    def text(self) -> str:
        """The bound in words."""
        if self.at_least is not None:
            return f"{self.metric} >= {self.at_least:g}"
        return f"{self.metric} <= {self.at_most:g}"


TARGETS: tuple[Target, ...] = (
    Target("produce rf3 acks=all 100 B in 1 MB", "mb_per_s", at_least=150),
    Target("json post 32 connections, any broker", "requests_per_s", at_least=1_500),
    Target("json post 32 connections, leaders", "requests_per_s", at_least=2_500),
    Target("json post 32 connections, forwarded", "requests_per_s", at_least=1_500),
    Target("ndjson out, a partition, leader", "records_per_s", at_least=100_000),
    Target("1000 idle SSE followers of one broker", "fan_out_p99_ms", at_most=500),
    Target("ndjson in, 1 stream", "records_per_s", at_least=60_000),
    Target("start of one cold broker", "ready_ms_max", at_most=2_000),
    Target("restart in a running cluster", "ready_ms_max", at_most=2_000),
    Target("memory of an idle broker", "rss_mb_max", at_most=90),
    Target("idle, 2000 partitions rf3", "brokers_cpu_percent", at_most=10),
    Target("import ottla", "import_ms_median", at_most=150),
    Target("ottla send, plain", "records_per_s", at_least=250_000),
    Target("ottla send, plain", "client_rss_growth_mb", at_most=84),
    Target("ottla send_many, plain", "records_per_s", at_least=1_000_000),
    Target("ottla send_many, plain", "client_rss_growth_mb", at_most=84),
    Target("ottla send in transactions of 100 ms", "of_without_percent", at_least=70),
    Target("ottla consumer, poll, 1 partition", "records_per_s", at_least=1_000_000),
    Target("ottla consumer, poll, 6 partitions", "records_per_s", at_least=1_000_000),
    Target("ottla consumer, iteration, 1 partition", "records_per_s", at_least=400_000),
    Target("ottla consumer, iteration, 6 partitions", "records_per_s", at_least=400_000),
    Target("partitions of a member that leaves", "moved_ms_max", at_most=300),
    Target("partitions of a member that dies", "moved_ms_over_session_max", at_most=1_000),
)


def percentile(values: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile: the smallest value that `percent` % are not above.

    Args:
        values: in any order, not empty.
        percent: above 0, at most 100.
    """
    assert values, "a percentile of nothing"
    assert 0 < percent <= 100, percent
    return sorted(values)[math.ceil(len(values) * percent / 100) - 1]


@dataclass(slots=True)
class Latencies:
    """Latencies of one row."""

    seconds: list[float] = field(default_factory=list)

    def values(self) -> dict[str, float]:
        """p50 and p99 in ms; nothing where there were none."""
        if not self.seconds:
            return {}
        return {
            "p50_ms": percentile(self.seconds, 50) * 1000,
            "p99_ms": percentile(self.seconds, 99) * 1000,
        }


def ratios(before: Sequence[Row], now: Sequence[Row]) -> list[Row]:
    """For rows and metrics that both runs have: now divided by before."""
    earlier = {row.name: row.values for row in before}
    compared = []
    for row in now:
        common = {
            metric: value / earlier[row.name][metric]
            for metric, value in row.values.items()
            if row.name in earlier and earlier[row.name].get(metric)
        }
        if common:
            compared.append(Row(row.name, row.parameters, common))
    return compared
