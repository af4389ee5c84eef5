"""The Raft node's settings: one frozen object, validated when it is made."""

from dataclasses import dataclass
from typing import Final

MAX_VOTERS: Final = 7
"""More voters make every commit slower and protect little more."""


@dataclass(frozen=True, slots=True)
class RaftConfig:
    """Identity, timing and limits of one voter.

    Args:
        node_id: this voter; positive and among `voters`.
        voters: every voter of the quorum, this one included, in any order.
        election_timeout_min_ms: shortest time without a leader before a follower campaigns. For
            this long after hearing from its leader a voter helps nobody else to power.
        election_timeout_max_ms: longest such time; a leader that has not heard from a quorum for
            this long steps down.
        heartbeat_interval_ms: how often an idle leader shows that it lives.
        max_append_bytes: payload bytes in one append; one entry always goes.
        max_append_entries: entries in one append.
        max_inflight_appends: unanswered appends with entries per follower.
        max_entry_bytes: longest payload that `propose` takes.
        max_snapshot_chunk_bytes: bytes of a snapshot in one message.
        max_snapshot_bytes: longest snapshot that this voter makes or takes.
        retained_entries: entries that a snapshot covers and that stay in the log all the same, so
            that a follower that is a little behind needs no snapshot.
        retained_bytes: their payload bytes; whichever of the two limits is reached first counts.
        max_uncommitted_bytes: payload bytes that a leader holds uncommitted before it refuses more.
        max_pending_reads: reads that wait for their round at once.
        max_read_rounds_in_flight: rounds that may be unanswered before reads share the next one.

    Raises:
        ValueError: a value is out of range; the message names the field and the rule.
    """

    node_id: int
    voters: tuple[int, ...]
    election_timeout_min_ms: int = 500
    election_timeout_max_ms: int = 1_000
    heartbeat_interval_ms: int = 100
    max_append_bytes: int = 1 << 20
    max_append_entries: int = 1_024
    max_inflight_appends: int = 16
    max_entry_bytes: int = 1 << 20
    max_snapshot_chunk_bytes: int = 256 << 10
    max_snapshot_bytes: int = 256 << 20
    retained_entries: int = 1_000
    retained_bytes: int = 1 << 20
    max_uncommitted_bytes: int = 64 << 20
    max_pending_reads: int = 10_000
    max_read_rounds_in_flight: int = 4

    def __post_init__(self) -> None:
        if len(set(self.voters)) != len(self.voters):
            raise ValueError(f"voters must differ from one another, got {self.voters}")
        if not 1 <= len(self.voters) <= MAX_VOTERS:
            raise ValueError(f"voters must be 1 to {MAX_VOTERS}, got {len(self.voters)}")
        if min(self.voters) < 1:
            raise ValueError(f"voters must be positive, got {self.voters}")
        if self.node_id not in self.voters:
            raise ValueError(f"node_id {self.node_id} must be one of the voters {self.voters}")
        if not 0 < self.heartbeat_interval_ms < self.election_timeout_min_ms:
            raise ValueError(
                f"heartbeat_interval_ms must be positive and below election_timeout_min_ms, "
                f"got {self.heartbeat_interval_ms} and {self.election_timeout_min_ms}"
            )
        if self.election_timeout_max_ms <= self.election_timeout_min_ms:
            raise ValueError(
                f"election_timeout_max_ms must be above election_timeout_min_ms, "
                f"got {self.election_timeout_max_ms} and {self.election_timeout_min_ms}"
            )
        for name in (
            "max_append_bytes",
            "max_append_entries",
            "max_inflight_appends",
            "max_entry_bytes",
            "max_snapshot_chunk_bytes",
            "max_snapshot_bytes",
            "max_uncommitted_bytes",
            "max_pending_reads",
            "max_read_rounds_in_flight",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        for name in ("retained_entries", "retained_bytes"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")

    @property
    def peers(self) -> tuple[int, ...]:
        """Every voter but this one, ascending."""
        return tuple(sorted(voter for voter in self.voters if voter != self.node_id))
