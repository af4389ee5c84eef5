"""The controller's settings: one frozen value, checked once where it is made."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ottla_cluster.controller.features import LATEST_FEATURE_LEVEL, OLDEST_FEATURE_LEVEL
from ottla_cluster.controller.limits import MAX_NAME_LENGTH, MAX_PARTITIONS_PER_TOPIC
from ottla_cluster.controller.topic_configs import ConfigValue, parse_configs


@dataclass(frozen=True, slots=True)
class ControllerConfig:
    """What a controller must be told. All controllers of a cluster should be told the same."""

    cluster_id: str
    """The cluster to form, or that the log must belong to."""
    default_partitions: int = 3
    """Partitions of a topic that names no number."""
    default_replication_factor: int = 3
    """Replicas of a topic that names no number."""
    default_min_insync_replicas: int = 2
    """`min.insync.replicas` of a topic that sets none; written into the topic when it is created,
    so that every broker reads the same value whatever its own settings are."""
    default_topic_configs: Mapping[str, ConfigValue] = field(default_factory=dict)
    """Values, as parsed, of what a topic does not set itself, where they are not the built-in
    ones; written into the topic as the former is. The brokers' own topics do not get them."""
    initial_feature_level: int = LATEST_FEATURE_LEVEL
    """Of the cluster, if this controller is the one that forms it."""
    session_timeout_ms: int = 3_000
    """A broker whose last heartbeat is older is fenced."""
    preferred_election_interval_ms: int = 10_000
    """How often leadership returns to the preferred leaders."""

    def __post_init__(self) -> None:
        assert 0 < len(self.cluster_id) <= MAX_NAME_LENGTH, self.cluster_id
        assert 1 <= self.default_partitions <= MAX_PARTITIONS_PER_TOPIC, self.default_partitions
        assert self.default_replication_factor >= 1, self.default_replication_factor
        assert self.default_min_insync_replicas >= 1, self.default_min_insync_replicas
        assert parse_configs(self.default_topic_configs) == self.default_topic_configs
        level = self.initial_feature_level
        assert OLDEST_FEATURE_LEVEL <= level <= LATEST_FEATURE_LEVEL, level
        assert self.session_timeout_ms > 0, self.session_timeout_ms
        assert self.preferred_election_interval_ms > 0, self.preferred_election_interval_ms
