"""The gauges of partitions that are not as they should be, by the active controller's view.

One broker tells them, so their sum over all brokers is the cluster's. A look at an image that did
not change costs nothing, and of one that did only the topics that changed are counted.
"""

from ottla_broker.drivers.metadata import MetadataCache
from ottla_broker.telemetry import METRICS
from ottla_cluster.controller.image import MetadataImage
from ottla_cluster.controller.partition_conditions import ConditionCensus, ConditionCounts


class HealthGauges:
    """Sets the gauges when it is told to look.

    Args:
        metadata: the newest image.
    """

    def __init__(self, metadata: MetadataCache) -> None:
        self._metadata = metadata
        self._census = ConditionCensus()
        self._counted: MetadataImage | None = None
        """The image that the gauges show; None while they show that this is no controller."""

    def measure(self, *, is_controller: bool) -> None:
        """Look at the image of now."""
        image = self._metadata.image if is_controller else None
        if image is self._counted:
            return
        counts = ConditionCounts() if image is None else self._census.count(image)
        METRICS.under_replicated.set(counts.under_replicated)
        METRICS.under_min_isr.set(counts.under_min_isr)
        METRICS.offline.set(counts.offline)
        self._counted = image
