"""What a node holds, and what its driver may ask of it.

`elections` and `voter_changes` are parts of `RaftNode` that share all of this with it; what follows
from their decisions is the node's.
"""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from ottla_cluster.raft.configuration import UNKNOWN_DIRECTORY

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ottla_cluster.raft.campaign import Campaign
    from ottla_cluster.raft.config import RaftConfig
    from ottla_cluster.raft.configuration import Configuration
    from ottla_cluster.raft.election_timer import ElectionTimer
    from ottla_cluster.raft.leadership import Leadership
    from ottla_cluster.raft.log import RaftLog
    from ottla_cluster.raft.messages import Origin
    from ottla_cluster.raft.observers import ObserverTimer
    from ottla_cluster.raft.progress import Progress
    from ottla_cluster.raft.ready import Outputs, Proposed, Ready, Role
    from ottla_cluster.raft.starts import Standing


class NodeState(ABC):
    """The state of a node; `RaftNode` makes what is named here."""

    _config: "RaftConfig"
    _log: "RaftLog"
    _outputs: "Outputs"
    _timer: "ElectionTimer | ObserverTimer"
    _now_ms: int
    _origin: "Origin | None"
    # What the sender of the present message is worth.
    _standing: "Standing"
    _role: "Role"
    _stands_aside: bool
    # The term never falls. Per term this voter votes at most once, and _voted_for tells for whom;
    # both are on disk before any message of the term leaves (Raft figure 2).
    _term: int
    _voted_for: int | None
    # The leader of _term, when known. None while this node campaigns.
    _leader_id: int | None
    # Present exactly while _role is LEADER.
    _leadership: "Leadership | None"
    # Answers to its own campaign; present exactly while it is a candidate of either kind.
    _campaign: "Campaign | None"
    _writes_configurations: bool

    @abstractmethod
    def _become_follower(self, term: int, leader_id: int | None) -> None:
        """Follow `leader_id` (None: whoever wins) in `term`, which never falls."""

    @abstractmethod
    def _become_leader(self) -> None:
        """Lead the present term, which was won."""

    @abstractmethod
    def _require_leadership(self, now_ms: int) -> "Leadership":
        """Take the time; raises NotLeaderError unless this node leads after that."""

    @abstractmethod
    def _ready(self, proposed: "Proposed | None" = None) -> "Ready":
        """What the input asks of the driver."""

    # --- what the driver may ask ----------------------------------------------------------------

    @property
    def term(self) -> int:
        """The current term."""
        return self._term

    @property
    def role(self) -> "Role":
        """The current role."""
        return self._role

    @property
    def leader_id(self) -> int | None:
        """The leader of this term, itself included; None while unknown."""
        return self._leader_id

    @property
    def commit_index(self) -> int:
        """How far the log is known to be committed."""
        return self._log.commit_index

    @property
    def last_index(self) -> int:
        """Index of the last entry; 0 when there is none."""
        return self._log.last_index

    @property
    def applied_index(self) -> int:
        """How far the state machine is, once the last Ready is carried out."""
        return self._log.applied_index

    @property
    def snapshot_index(self) -> int:
        """Index of the last entry that the snapshot covers; 0 while there is none."""
        return self._log.snapshot_index

    @property
    def observer_ids(self) -> tuple[int, ...]:
        """The observers that this node, as leader, sends to, ascending; empty otherwise."""
        return () if self._leadership is None else self._leadership.observer_ids

    def followers(self) -> "Sequence[Progress]":
        """What this node, as leader, knows of the others; empty otherwise. To be read only."""
        return () if self._leadership is None else self._leadership.followers()

    @property
    def origin(self) -> "Origin | None":
        """This node's data directory and start."""
        return self._origin

    @property
    def configuration(self) -> "Configuration":
        """Who votes, as the last configuration in the log has it, committed or not."""
        return self._log.configuration

    @property
    def is_configuration_committed(self) -> bool:
        """Whether that configuration is known to be committed."""
        return self._log.configuration_index <= self._log.commit_index

    @property
    def is_handing_over(self) -> bool:
        """Whether this node leads and waits for another voter to take over."""
        return self._leadership is not None and self._leadership.is_handing_over

    def next_deadline_ms(self) -> int:
        """When `tick` must be called next at the latest, on the clock of `now_ms`."""
        if self._outputs.pending:
            return self._now_ms
        if self._leadership is not None:
            return self._leadership.heartbeat_due_ms
        return self._timer.deadline_ms

    @property
    def is_voter(self) -> bool:
        """Whether the last configuration in the log names this node with this data directory."""
        return self._log.configuration.is_voter(self._config.node_id, self._directory_id)

    @property
    def _directory_id(self) -> str:
        return self._origin.directory_id if self._origin else UNKNOWN_DIRECTORY
