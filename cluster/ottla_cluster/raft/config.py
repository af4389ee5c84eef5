"""The Raft node's settings: one frozen object, validated when it is made."""

from dataclasses import dataclass

from ottla_cluster.raft.configuration import MAX_VOTERS, Configuration, bootstrap_configuration


@dataclass(frozen=True, slots=True)
class RaftConfig:
    """Identity, timing and limits of one node.

    Args:
        node_id: this node; positive. One that no configuration names is an observer: it follows the
            log and has no vote.
        voters: who votes while no entry of the log says so, in any order.
        url: where this node is reached; an observer tells it to the voters.
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
        max_observers: observers that a leader keeps at once.
        observer_timeout_ms: a leader forgets an observer that is silent for this long.

    Raises:
        ValueError: a value is out of range; the message names the field and the rule.
    """

    node_id: int
    voters: tuple[int, ...]
    url: str = ""
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
    max_observers: int = 1_000
    observer_timeout_ms: int = 5_000

    def __post_init__(self) -> None:
        if len(set(self.voters)) != len(self.voters):
            raise ValueError(f"voters must differ from one another, got {self.voters}")
        if not 1 <= len(self.voters) <= MAX_VOTERS:
            raise ValueError(f"voters must be 1 to {MAX_VOTERS}, got {len(self.voters)}")
        if min(self.voters) < 1:
            raise ValueError(f"voters must be positive, got {self.voters}")
        if self.node_id < 1:
            raise ValueError(f"node_id must be positive, got {self.node_id}")
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
            "max_observers",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if self.observer_timeout_ms <= self.heartbeat_interval_ms:
            raise ValueError(
                f"observer_timeout_ms must be above heartbeat_interval_ms, "
                f"got {self.observer_timeout_ms} and {self.heartbeat_interval_ms}"
            )
        for name in ("retained_entries", "retained_bytes"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")

    @property
    def is_observer(self) -> bool:
        """Whether this node has no vote while no entry of the log says so."""
        return self.node_id not in self.voters

    @property
    def bootstrap(self) -> Configuration:
        """What counts while no entry of the log names the voters.

        It names no URLs: the log would keep them, and where these voters are reached stays with the
        settings of each process, so that all of them may move at once.
        """
        return bootstrap_configuration(self.voters)
