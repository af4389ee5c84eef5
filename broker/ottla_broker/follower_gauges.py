"""How far each follower is behind this broker, over all partitions that this one leads.

One series for each follower and not for each partition: what is behind is nearly always a broker.
Brokers are few, and beyond FOLLOWERS_TOLD_MAX of them the worst are told. Looked up when somebody
scrapes.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from operator import attrgetter
from typing import Final

from prometheus_client.core import GaugeMetricFamily

from ottla_broker.described_collector import DescribedCollector
from ottla_cluster.replication.leader import FollowerLag

FOLLOWERS_TOLD_MAX: Final = 64
"""Followers that one scrape tells of."""

LABELS: Final = ("follower",)

GAUGES: Final = (
    ("ottla_follower_partitions", "Partitions led here that the follower has a replica of",
     attrgetter("partitions")),
    ("ottla_follower_partitions_behind", "Those of them whose end here the follower does not have",
     attrgetter("behind")),
    ("ottla_follower_lag_records", "Offsets that the follower lacks, over all partitions led here",
     attrgetter("offsets")),
    ("ottla_follower_lag_seconds",
     "For how long the follower has been behind, in its worst partition", attrgetter("lag_s")),
)  # fmt: skip
"""Name, meaning, and where the sum over a follower's partitions has the value."""


@dataclass(slots=True)
class _Sum:
    partitions: int = 0
    behind: int = 0
    offsets: int = 0
    lag_s: float = 0

    def add(self, lag: FollowerLag) -> None:
        self.partitions += 1
        self.behind += lag.is_behind
        self.offsets += lag.missing_offsets or 0
        self.lag_s = max(self.lag_s, lag.lags_ms / 1000)


class FollowerGauges(DescribedCollector):
    """Tells of the followers that it is given."""

    def __init__(self) -> None:
        self._lags: Callable[[], Iterable[FollowerLag]] = tuple

    def watch(self, lags: Callable[[], Iterable[FollowerLag]]) -> None:
        """Ask this whenever somebody scrapes: the lags of all followers in all led partitions."""
        self._lags = lags

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """The families without their samples."""
        return _families({})

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The families of now."""
        sums: dict[int, _Sum] = {}
        for lag in self._lags():
            followed = sums.get(lag.replica_id)
            if followed is None:
                followed = sums[lag.replica_id] = _Sum()
            followed.add(lag)
        if len(sums) > FOLLOWERS_TOLD_MAX:
            worst = sorted(sums.items(), key=lambda item: (-item[1].lag_s, item[0]))
            sums = dict(worst[:FOLLOWERS_TOLD_MAX])
        return _families(dict(sorted(sums.items())))


def _families(sums: dict[int, _Sum]) -> Iterator[GaugeMetricFamily]:
    for name, meaning, value in GAUGES:
        family = GaugeMetricFamily(name, meaning, labels=LABELS)
        for replica_id, followed in sums.items():
            family.add_metric((str(replica_id),), value(followed))
        yield family
