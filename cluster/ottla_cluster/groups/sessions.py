"""Which members the coordinator has heard of lately, and which take long to give partitions up.

Sessions are volatile: they live in the active coordinator's memory and nowhere else. A new
coordinator cannot know what its predecessor heard, so it gives every member a full session, and
full time to give up what it holds, from its own start; expiring a member late delays its
partitions, expiring it early takes them from a process that works on them.

A member that waits for an answer is not silent: it is the coordinator that has the next word. So a
request, parked or waiting for its records to be committed, holds the session open, and the session
counts from its end.

Time is the coordinator's monotonic clock; a wall clock may jump.
"""

from collections import Counter
from dataclasses import dataclass, field

from ottla_cluster.groups.commands import ExpireMember
from ottla_cluster.groups.image import Group, GroupsImage
from ottla_cluster.groups.records import HeldPartition


@dataclass(slots=True)
class _Session:
    touched_ms: int
    revoking_since_ms: dict[HeldPartition, int] = field(default_factory=dict)


class MemberSessions:
    """The last sign of life of each member; no larger than the image once `expired` has looked."""

    def __init__(self, image: GroupsImage, now_ms: int) -> None:
        self._sessions: dict[tuple[str, str], _Session] = {}
        self._unanswered: Counter[tuple[str, str]] = Counter()
        self._look(image, now_ms)

    def touched(self, group_id: str, member_id: str, now_ms: int) -> None:
        """This member has just shown that it lives."""
        self._sessions.setdefault((group_id, member_id), _Session(now_ms)).touched_ms = now_ms

    def arrived(self, group_id: str, member_id: str) -> None:
        """This member waits for an answer; `answered` follows, whatever becomes of the request."""
        self._unanswered[group_id, member_id] += 1

    def answered(self, group_id: str, member_id: str, now_ms: int) -> None:
        """This member has had an answer, or has given up waiting for it."""
        key = group_id, member_id
        self._unanswered[key] -= 1
        if not self._unanswered[key]:
            del self._unanswered[key]
        session = self._sessions.get(key)
        if session is not None:
            session.touched_ms = now_ms

    def restart(self, image: GroupsImage, now_ms: int) -> None:
        """Gives every member a full session, and full time to give up what it holds, from now."""
        self._sessions = {}
        self._look(image, now_ms)

    def expired(self, image: GroupsImage, now_ms: int) -> tuple[ExpireMember, ...]:
        """The commands that expire every member that is overdue, in the order of the image.

        They are returned again at each call until the image shows the member gone, so that a
        refused or lost command is not forgotten.
        """
        self._look(image, now_ms)
        return tuple(
            ExpireMember(group.group_id, member_id, reason)
            for group in image.groups.values()
            for member_id in group.members
            if (reason := self.overdue(group, member_id, now_ms)) is not None
        )

    def overdue(self, group: Group, member_id: str, now_ms: int) -> str | None:
        """Why the member is to be expired; None if it is not, or has only just been heard of."""
        session = self._sessions.get((group.group_id, member_id))
        if session is None:
            return None
        member = group.members[member_id]
        is_silent = (group.group_id, member_id) not in self._unanswered
        if is_silent and now_ms - session.touched_ms >= member.session_timeout_ms:
            return f"no heartbeat for {member.session_timeout_ms} ms"
        since_ms = [
            session.revoking_since_ms.get(held, now_ms)
            for held in group.currents[member_id].revoking.values()
        ]
        if since_ms and now_ms - min(since_ms) >= member.rebalance_timeout_ms:
            return f"partitions not given up for {member.rebalance_timeout_ms} ms"
        return None

    def _look(self, image: GroupsImage, now_ms: int) -> None:
        """Sees who is new, who is gone and who has begun or ended to give partitions up."""
        former, self._sessions = self._sessions, {}
        for group in image.groups.values():
            for member_id, current in group.currents.items():
                key = group.group_id, member_id
                session = former.get(key) or _Session(now_ms)
                session.revoking_since_ms = {
                    held: session.revoking_since_ms.get(held, now_ms)
                    for held in current.revoking.values()
                }
                self._sessions[key] = session
