"""A leader hands its leadership over (dissertation §3.10).

The leader takes no proposals meanwhile, brings the chosen voter's log up to its own, and tells it
to campaign at once. The voter's vote requests say so, and others do not hold them off for the sake
of a leader that lives. If no other leader has come within an election timeout, this one goes on:
all that was lost is the time.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ottla_cluster.raft.messages import TimeoutNow
from ottla_protocol.errors import InvalidVoterChangeError, Outcome, VoterNotFoundError

if TYPE_CHECKING:
    from ottla_cluster.raft.membership import Membership
    from ottla_cluster.raft.progress import Progress


@dataclass(slots=True)
class Transfer:
    """One attempt; `deadline_ms` is when the leader goes on."""

    target_id: int
    deadline_ms: int
    is_told: bool = False

    def message(
        self, progress: "Progress | None", last_index: int, *, term: int, sender: int
    ) -> TimeoutNow | None:
        """What to tell the target now: once, when its log is the leader's."""
        if self.is_told or progress is None or progress.match_index < last_index:
            return None
        self.is_told = True
        return TimeoutNow(term=term, sender=sender, receiver=self.target_id)


def chosen_target(members: "Membership", target_id: int | None, now_ms: int) -> int:
    """The voter to hand over to: the named one, or the one that is furthest.

    Raises:
        VoterNotFoundError: the named node is no voter that could take over.
        InvalidVoterChangeError: there is nobody to choose from.
    """
    able = members.heard_voters(now_ms)
    if target_id is not None:
        if target_id in able:
            return target_id
        raise VoterNotFoundError(
            f"node {target_id} is no other voter that the leader has just heard from",
            outcome=Outcome.NOT_APPLIED,
        )
    if not able:
        raise InvalidVoterChangeError(
            "the leader has just heard from no other voter", outcome=Outcome.NOT_APPLIED
        )
    return max(able, key=lambda node_id: (able[node_id].match_index, -node_id))
