"""The metadata feature level: what every process of a cluster must understand.

A newer version may write records, send messages and use formats that an older one refuses. It does
so only from the feature level on that names them, and the level rises when an operator says so,
after all processes run a version that supports it. Until then versions N and N-1 run mixed, and a
process may be put back to N-1. The level never falls: what was written at a level stays in the log.

What has a level of its own is a `Feature` here, and whoever uses one asks `is_enabled` or
`require`. A process that reads a level above its own stops and says so.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ottla_protocol.errors import (
    ControllerNotAvailableError,
    InternalError,
    Outcome,
    UnsupportedFeatureLevelError,
)

if TYPE_CHECKING:
    from ottla_cluster.controller.image import MetadataImage

OLDEST_FEATURE_LEVEL: Final = 1
"""The lowest level of a cluster that this version can be a part of."""

LATEST_FEATURE_LEVEL: Final = 6
"""The highest level of a cluster that this version can be a part of."""


class FeatureLevelTooHighError(InternalError):
    """The cluster's feature level is above what this version supports; the process stops."""

    title = "Feature level too high"


@dataclass(frozen=True, slots=True)
class Feature:
    """Something that a cluster may use from a feature level on."""

    name: str
    level: int
    description: str


UNCLEAN_ELECTIONS: Final = Feature(
    "unclean_elections", 2, "An election of a leader that is not in sync"
)

REPLICATION_THROTTLE: Final = Feature("replication_throttle", 2, "A throttle for reassignments")
BROKER_DRAINS: Final = Feature("broker_drains", 2, "Draining and unregistering brokers")
VOTER_CHANGES: Final = Feature(
    "voter_changes", 2, "The metadata log names the quorum's voters, so that they can change"
)
ISR_BATCHES: Final = Feature(
    "isr_batches", 2, "One command for the ISRs of many partitions of a broker"
)
CONSUMER_INSTANCES: Final = Feature(
    "consumer_instances", 3, "Consumer instances of the REST Proxy API"
)
STREAM_KEYS: Final = Feature("stream_keys", 3, "An Idempotency-Key for a stream of records")
CURSOR_EPOCHS: Final = Feature(
    "cursor_epochs", 3, "Leader epochs in cursors, which tell of unclean elections"
)
RESTORES: Final = Feature("restores", 4, "Restoring a topic at its offsets")
BROKER_DIRECTORIES: Final = Feature(
    "broker_directories", 4, "Telling one data directory of a broker from another"
)
TRANSACTIONS: Final = Feature("transactions", 5, "Writing records and offsets in a transaction")
TRIMS: Final = Feature("trims", 6, "Trimming the beginning of a partition at any offset")
PARTITION_COUNTS: Final = Feature(
    "partition_counts", 6, "Batches that are appended only while their topic has so many partitions"
)
NAMED_DELETIONS: Final = Feature("named_deletions", 6, "Deletions that spare a topic's namesake")

FEATURES: Final[tuple[Feature, ...]] = (
    UNCLEAN_ELECTIONS,
    REPLICATION_THROTTLE,
    BROKER_DRAINS,
    VOTER_CHANGES,
    ISR_BATCHES,
    CONSUMER_INSTANCES,
    STREAM_KEYS,
    CURSOR_EPOCHS,
    RESTORES,
    BROKER_DIRECTORIES,
    TRANSACTIONS,
    TRIMS,
    PARTITION_COUNTS,
    NAMED_DELETIONS,
)
"""Everything that came after OLDEST_FEATURE_LEVEL, in the order of the levels."""


def is_enabled(image: "MetadataImage", feature: Feature) -> bool:
    """Whether every process of the cluster understands `feature`."""
    return image.feature_level >= feature.level


def require(image: "MetadataImage", feature: Feature) -> None:
    """Refuse a command that needs `feature`.

    Raises:
        ControllerNotAvailableError: nothing is known of the cluster's level here yet; a process
            that has just started has to hear of it. That is no proof against the feature.
        UnsupportedFeatureLevelError: the cluster is at a lower level.
    """
    if image.feature_level < OLDEST_FEATURE_LEVEL:
        raise ControllerNotAvailableError(
            "the cluster's feature level is not known here yet: this process has not heard of it "
            "since it started",
            outcome=Outcome.NOT_APPLIED,
        )
    if not is_enabled(image, feature):
        raise UnsupportedFeatureLevelError(
            f"{feature.description} needs feature level {feature.level}; the cluster is at "
            f"{image.feature_level}. It rises by `ottla cluster features --upgrade`, once all "
            "processes run a version that supports it."
        )


def check_supported(feature_level: int) -> None:
    """Make sure that this process may go on at the cluster's level.

    Raises:
        FeatureLevelTooHighError: what the cluster writes now, this version does not understand.
    """
    if feature_level > LATEST_FEATURE_LEVEL:
        raise FeatureLevelTooHighError(
            f"The cluster is at feature level {feature_level}; this version of Ottla supports "
            f"{OLDEST_FEATURE_LEVEL} to {LATEST_FEATURE_LEVEL}. Install a newer one."
        )
