"""A collector of our own: what it exports is known before anything is collected."""

from abc import abstractmethod
from collections.abc import Iterable

from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector


class DescribedCollector(Collector):
    """What makes families of metrics when somebody scrapes."""

    @abstractmethod
    def describe(self) -> Iterable[GaugeMetricFamily | HistogramMetricFamily]:
        """The families without their samples: for the reference, and against doubled names."""
