"""Who votes, and who leads, as an operator or another voter has it changed.

The part of `RaftNode` that takes such changes while it leads; what may be changed is in
`membership`, and how a leadership is handed over in `transfer`.
"""

from typing import TYPE_CHECKING

from ottla_cluster.raft.membership import with_new_voter, without_voter
from ottla_cluster.raft.node_state import NodeState
from ottla_cluster.raft.ready import Proposed, Ready

if TYPE_CHECKING:
    from ottla_cluster.raft.configuration import Configuration
    from ottla_cluster.raft.leadership import Leadership


class VoterChanges(NodeState):
    """What a leader does about voters, and to be followed by another."""

    def add_voter(self, node_id: int, url: str, now_ms: int) -> Ready:
        """Have a node become a voter: it gets the log, and votes once it has caught up.

        Args:
            node_id: the node.
            url: where the others reach it.
            now_ms: the monotonic clock.

        Raises:
            NotLeaderError: this node does not lead, or has just noticed that it may not.
            DuplicateVoterError: the node is a voter, or on its way.
            VoterChangeInProgressError: another change is not committed yet.
            InvalidVoterChangeError: there are too many.
        """
        leadership = self._require_leadership(now_ms)
        configuration = with_new_voter(self._log.configuration, node_id, url)
        return self._change_configuration(leadership, configuration)

    def remove_voter(self, node_id: int, now_ms: int, *, force: bool = False) -> Ready:
        """Have a node be no voter any more; a leader that removes itself steps down afterwards.

        Args:
            node_id: the voter, or learner.
            now_ms: the monotonic clock.
            force: also where the voters that are left could not commit anything.

        Raises:
            QuorumAtRiskError: without it fewer than a majority answer and have the log.
            NotLeaderError: this node does not lead, or has just noticed that it may not.
            VoterNotFoundError: the node is none, nor on its way.
            VoterChangeInProgressError: another change is not committed yet.
            InvalidVoterChangeError: it is the last one.
        """
        leadership = self._require_leadership(now_ms)
        former = self._log.configuration
        configuration = without_voter(former, node_id)
        has_fewer_voters = len(configuration.voters) < len(former.voters)
        return self._change_configuration(
            leadership, configuration, needs_majority=has_fewer_voters and not force
        )

    def allow_configurations(self, *, allowed: bool) -> None:
        """Whether this node may write configurations by itself: the others must know them."""
        self._writes_configurations = allowed
        if self._leadership is not None:
            self._leadership.writes_configurations = allowed

    def transfer_leadership(self, target_id: int | None, now_ms: int) -> Ready:
        """Hand the leadership over to a voter, or to the one that is furthest (§3.10).

        Whether it succeeds shows by the next leader. Until then, for an election timeout at most,
        proposals are refused. To hand over to the leader itself is done already.

        Raises:
            NotLeaderError: this node does not lead, or has just noticed that it may not.
            VoterNotFoundError: the named node is no voter that this leader has just heard from.
            InvalidVoterChangeError: there is no voter to choose from.
        """
        leadership = self._require_leadership(now_ms)
        if target_id != self._config.node_id:
            leadership.transfer(target_id, self._now_ms)
        return self._ready()

    def _change_configuration(
        self,
        leadership: "Leadership",
        configuration: "Configuration",
        *,
        needs_majority: bool = False,
    ) -> Ready:
        leadership.change_configuration(configuration, self._now_ms, needs_majority=needs_majority)
        index = self._log.last_index
        return self._ready(Proposed(index, index, self._term))
