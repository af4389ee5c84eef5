"""How much of each named limit is taken: queues, places, connections, bytes.

What finds one of them reached is refused or waits, so an operator wants to see them fill. Looked up
when somebody scrapes.
"""

from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from prometheus_client.core import GaugeMetricFamily

from ottla_broker.described_collector import DescribedCollector

LABELS: Final = ("limit",)

USED: Final = "ottla_limit_used"
USED_MEANING: Final = (
    "What is taken of a limit now, by its name; where each peer or partition has its own, of the "
    "fullest"
)
MAXIMUM: Final = "ottla_limit_max"
MAXIMUM_MEANING: Final = "How much of it there is"


class LimitUse(NamedTuple):
    """How full something is."""

    used: float
    maximum: float


class LimitGauges(DescribedCollector):
    """Tells of the limits that it was given, by names that the code gives them."""

    def __init__(self) -> None:
        self._limits: dict[str, Callable[[], LimitUse]] = {}

    def watch(self, name: str, use: Callable[[], LimitUse]) -> None:
        """Tell of this one whenever somebody scrapes."""
        self._limits[name] = use

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """The families without their samples."""
        return _families({})

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The families of now."""
        return _families({name: use() for name, use in sorted(self._limits.items())})


def _families(uses: dict[str, LimitUse]) -> Iterator[GaugeMetricFamily]:
    used = GaugeMetricFamily(USED, USED_MEANING, labels=LABELS)
    maximum = GaugeMetricFamily(MAXIMUM, MAXIMUM_MEANING, labels=LABELS)
    for name, use in uses.items():
        used.add_metric((name,), use.used)
        maximum.add_metric((name,), use.maximum)
    yield used
    yield maximum
