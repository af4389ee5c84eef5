"""A leader's entries on their way into this voter's log (Raft §5.3), and what it answers."""

from typing import TYPE_CHECKING

from ottla_cluster.raft.messages import AppendRequest, AppendResponse
from ottla_cluster.raft.reads import answered_round

if TYPE_CHECKING:
    from ottla_cluster.raft.config import RaftConfig
    from ottla_cluster.raft.log import RaftLog


class AppendReceiver:
    """The follower's side of an append.

    Args:
        config: the node's settings.
        log: the node's log.
    """

    __slots__ = ("_config", "_log")

    def __init__(self, config: "RaftConfig", log: "RaftLog") -> None:
        self._config = config
        self._log = log

    def receive(self, request: AppendRequest) -> AppendResponse:
        """Take over the entries of the leader of the present term, if the log agrees before them.

        Raises:
            RaftInvariantError: they contradict what is committed here.
        """
        log = self._log
        if not log.matches(request.prev_index, request.prev_term):
            return self.refusal(request, request.term)
        log.merge(request.entries)
        # Past these entries the log may still differ from the leader's. What is compacted away is
        # committed, so it does not, even if all of these lie there.
        last_agreed_index = max(request.prev_index + len(request.entries), log.compacted_index)
        log.commit_to(min(request.commit_index, last_agreed_index))
        return AppendResponse(
            term=request.term,
            sender=self._config.node_id,
            receiver=request.sender,
            accepted=True,
            index=last_agreed_index,
            hint_index=0,
            hint_term=0,
            read_sequence=request.read_sequence,
        )

    def refusal(self, request: AppendRequest, term: int) -> AppendResponse:
        """The log does not agree, or the sender's leadership is over: `term` is a newer one.

        Then the hint is the end of the log. The sender may lead again, in the newer term, and would
        take a hint below what it knows of this log for a loss.
        """
        log = self._log
        if request.term == term:
            hint_index, hint_term = log.last_at_or_below(request.prev_index, request.prev_term)
        else:
            hint_index, hint_term = log.last_index, log.last_term
        return AppendResponse(
            term=term,
            sender=self._config.node_id,
            receiver=request.sender,
            accepted=False,
            index=request.prev_index,
            hint_index=hint_index,
            hint_term=hint_term,
            read_sequence=answered_round(request, term),
        )
