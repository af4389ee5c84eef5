"""The group coordinator's settings: one frozen value, checked once where it is made."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GroupConfig:
    """What a coordinator must be told. All brokers of a cluster should be told the same."""

    default_assignor: str = "sticky"
    """Of a group whose first member names none."""
    default_session_timeout_ms: int = 10_000
    """How long a member may be silent, unless it says otherwise."""
    min_session_timeout_ms: int = 1_000
    max_session_timeout_ms: int = 1_800_000
    default_rebalance_timeout_ms: int = 60_000
    """How long a member may take to give partitions up, unless it says otherwise."""
    min_rebalance_timeout_ms: int = 1_000
    max_rebalance_timeout_ms: int = 3_600_000
    heartbeat_interval_ms: int = 3_000
    """How often members are told to call; at least three times in a session."""
    rebalance_heartbeat_interval_ms: int = 100
    """The same while partitions are on their way to or from the member."""
    offsets_retention_ms: int = 7 * 24 * 3_600_000
    """How long a group without members keeps its offsets after its last member or commit."""
    offsets_expiry_interval_ms: int = 600_000
    """How often old offsets are looked for."""
    offsets_expiry_delay_ms: int = 3_600_000
    """How long offsets must look too old before they go, by the monotonic clock: time to put a wall
    clock right that jumped. Never longer than the retention."""

    def __post_init__(self) -> None:
        assert 0 < self.min_session_timeout_ms <= self.default_session_timeout_ms, self
        assert self.default_session_timeout_ms <= self.max_session_timeout_ms, self
        assert 0 < self.min_rebalance_timeout_ms <= self.default_rebalance_timeout_ms, self
        assert self.default_rebalance_timeout_ms <= self.max_rebalance_timeout_ms, self
        assert 0 < self.rebalance_heartbeat_interval_ms <= self.heartbeat_interval_ms, self
        assert self.offsets_retention_ms > 0, self
        assert self.offsets_expiry_interval_ms > 0, self
        assert self.offsets_expiry_delay_ms >= 0, self
