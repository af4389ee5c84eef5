"""The lags of consumer groups, as their coordinator last measured them."""

from collections.abc import Iterator, Sequence
from operator import attrgetter
from typing import Final

from prometheus_client.core import GaugeMetricFamily

from ottla_broker.described_collector import DescribedCollector
from ottla_cluster.groups.lag import GroupLag

LABELS: Final = ("group",)

GAUGES: Final = (
    ("ottla_group_lag_records",
     "Offsets that a group coordinated here is behind the high watermarks, over its partitions",
     attrgetter("total")),
    ("ottla_group_lag_largest_records",
     "The same in the partition where the group is farthest behind", attrgetter("largest")),
)  # fmt: skip
"""Name, meaning, and where a group's lag has the value."""

UNMEASURED: Final = "ottla_groups_unmeasured"
UNMEASURED_MEANING: Final = (
    "Groups coordinated here that have no lag told: beyond the first 256, or a leader is silent"
)


class GroupLagGauges(DescribedCollector):
    """Tells what it was told last."""

    def __init__(self) -> None:
        self._lags: Sequence[GroupLag] = ()
        self._unmeasured = 0

    def tell(self, lags: Sequence[GroupLag], unmeasured: int) -> None:
        """From now on these; a group that is not among them has no series any more."""
        self._lags = lags
        self._unmeasured = unmeasured

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """The families without their samples."""
        return _families((), 0)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The families as of the last measurement."""
        return _families(self._lags, self._unmeasured)


def _families(lags: Sequence[GroupLag], unmeasured: int) -> Iterator[GaugeMetricFamily]:
    for name, meaning, value in GAUGES:
        family = GaugeMetricFamily(name, meaning, labels=LABELS)
        for lag in lags:
            family.add_metric((lag.group_id,), value(lag))
        yield family
    yield GaugeMetricFamily(UNMEASURED, UNMEASURED_MEANING, value=unmeasured)
