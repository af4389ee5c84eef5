"""A histogram for the hot path: one thread observes it and renders it, so it takes no lock.

The client library's histogram takes two locks and walks its buckets for each observation, which is
several microseconds in a commit or a fetch. This one is a bisection and two additions.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate
from time import perf_counter
from typing import Self

from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import CollectorRegistry
from prometheus_client.utils import INF, floatToGoString

from ottla_broker.described_collector import DescribedCollector


class Observations:
    """What one series has seen."""

    __slots__ = ("_bounds", "_counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.sum = 0.0
        """Of all amounts."""

    def observe(self, amount: float) -> None:
        """Count one amount; it belongs to the first bucket whose bound it does not exceed."""
        self._counts[bisect_left(self._bounds, amount)] += 1
        self.sum += amount

    def time(self) -> "_Timer":
        """Observe how long a `with` block takes, in seconds, however it ends."""
        return _Timer(self)

    def cumulative(self) -> list[tuple[str, float]]:
        """For each bound as Prometheus writes it, how many amounts did not exceed it."""
        bounds = map(floatToGoString, (*self._bounds, INF))
        return list(zip(bounds, map(float, accumulate(self._counts)), strict=True))


class _Timer:
    __slots__ = ("_began", "_observations")

    def __init__(self, observations: Observations) -> None:
        self._observations = observations
        self._began = 0.0

    def __enter__(self) -> Self:
        self._began = perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self._observations.observe(perf_counter() - self._began)


class EventLoopHistogram(DescribedCollector):
    """A histogram that only the event loop's thread uses.

    Args:
        name: without the suffix of its samples.
        meaning: its help text.
        label_names: of its labels; their values are the code's, so that there are few series.
        buckets: upper bounds, rising, without infinity.
        registry: where it is exported.
    """

    def __init__(
        self,
        name: str,
        meaning: str,
        label_names: Sequence[str],
        *,
        buckets: Sequence[float],
        registry: CollectorRegistry,
    ) -> None:
        assert list(buckets) == sorted(set(buckets)), buckets
        self._name = name
        self._meaning = meaning
        self._label_names = tuple(label_names)
        self._buckets = tuple(buckets)
        self._series: dict[tuple[str, ...], Observations] = {}
        if not label_names:
            self.labels()
        registry.register(self)

    def labels(self, *values: str) -> Observations:
        """The series with these values of the labels, in their order; made when first asked for."""
        series = self._series.get(values)
        if series is None:
            assert len(values) == len(self._label_names), (self._name, values)
            series = self._series[values] = Observations(self._buckets)
        return series

    def observe(self, amount: float) -> None:
        """Count one amount in the only series of a histogram without labels."""
        self._series[()].observe(amount)

    def describe(self) -> Iterator[HistogramMetricFamily]:
        """The family without its samples."""
        yield self._family()

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """The family of now."""
        family = self._family()
        for values, series in self._series.items():
            family.add_metric(values, series.cumulative(), series.sum)
        yield family

    def _family(self) -> HistogramMetricFamily:
        return HistogramMetricFamily(self._name, self._meaning, labels=self._label_names)
