"""Where each hosted partition begins and ends, for Prometheus.

Looked up when somebody scrapes, so it costs nothing in between and tells of no replica that is
gone. Clients name topics, so there is a bound: led partitions come first, since offsets and lag are
asked of leaders, and how many were left out is told.
"""

from collections.abc import Iterator, Mapping, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Final

from prometheus_client.core import GaugeMetricFamily

from ottla_broker.described_collector import DescribedCollector

if TYPE_CHECKING:
    from ottla_broker.drivers.partition import Partition

PARTITIONS_TOLD_MAX: Final = 256
"""Partitions that one scrape tells of; each is a few series and some microseconds."""

LABELS: Final = ("topic", "partition")

GAUGES: Final = (
    ("ottla_partition_log_start_offset", "First offset that this replica keeps",
     attrgetter("log.log_start_offset")),
    ("ottla_partition_high_watermark", "First offset that is not safe to read yet",
     attrgetter("high_watermark")),
    ("ottla_partition_last_stable_offset", "First offset that is not read with read_committed yet",
     attrgetter("last_stable_offset")),
    ("ottla_partition_log_end_offset", "First offset that is not durable here yet",
     attrgetter("log.log_end_offset")),
    ("ottla_partition_size_bytes", "File bytes of sealed segments and batches of the active one",
     attrgetter("log.size_bytes")),
)  # fmt: skip
"""Name, meaning, and where a replica has the value."""

UNTOLD: Final = "ottla_partitions_untold"
UNTOLD_MEANING: Final = "Hosted replicas beyond the first 256, which have no series of their own"


class PartitionGauges(DescribedCollector):
    """Tells of the replicas that it was given."""

    def __init__(self) -> None:
        self._hosted: Mapping[tuple[str, int], Partition] = {}

    def watch(self, hosted: "Mapping[tuple[str, int], Partition]") -> None:
        """Tell of what is in this mapping whenever somebody scrapes."""
        self._hosted = hosted

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """The families without their samples."""
        return _families((), 0)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The families of now."""
        replicas = sorted(
            self._hosted.values(),
            key=lambda hosted: (hosted.leader is None, hosted.state.topic, hosted.state.partition),
        )
        told = replicas[:PARTITIONS_TOLD_MAX]
        return _families(told, len(replicas) - len(told))


def _families(told: "Sequence[Partition]", untold: int) -> Iterator[GaugeMetricFamily]:
    for name, meaning, value in GAUGES:
        family = GaugeMetricFamily(name, meaning, labels=LABELS)
        for hosted in told:
            family.add_metric((hosted.state.topic, str(hosted.state.partition)), value(hosted))
        yield family
    yield GaugeMetricFamily(UNTOLD, UNTOLD_MEANING, value=untold)
