"""Which members the coordinator has heard of lately, and which take long to give partitions up.

Sessions are volatile: they live in the active coordinator's memory and nowhere else. A new
coordinator cannot know what its predecessor heard, so it gives every member a full session, and
full time to give up what it holds, from its own start; expiring a member late delays its
partitions, expiring it early takes them from a process that works on them.

A member that waits for an answer is not silent: it is the coordinator that has the next word. So a
request, parked or waiting for its records to be committed, holds the session open, and the session
counts from its end.

Groups are looked at when they have changed, and when somebody may be overdue: signs of life only
put that off. So a call with nothing to expire costs next to nothing for each group.

Time is the coordinator's monotonic clock; a wall clock may jump.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from ottla_cluster.groups.commands import ExpireMembers, OverdueMember
from ottla_cluster.groups.image import Group, GroupsImage
from ottla_cluster.groups.records import HeldPartition


@dataclass(slots=True)
class _Session:
    touched_ms: int
    revoking_since_ms: dict[HeldPartition, int] = field(default_factory=dict)


@dataclass(slots=True)
class _GroupSessions:
    """The members of one group, as of the image in which the group was last looked at."""

    group: Group
    sessions: dict[str, _Session]
    look_again_ms: int
    """Nobody is overdue before, unless the group changes."""


class MemberSessions:
    """The last sign of life of each member; no larger than the image once `expired` has looked."""

    def __init__(self, image: GroupsImage, now_ms: int) -> None:
        self._groups: dict[str, _GroupSessions] = {}
        self._unanswered: Counter[tuple[str, str]] = Counter()
        self._look(image, now_ms)

    def touched(self, group_id: str, member_id: str, now_ms: int) -> None:
        """This member has just shown that it lives."""
        known = self._groups.get(group_id)
        if known is None:
            # A new group; the next look sees its members.
            known = self._groups[group_id] = _GroupSessions(Group(group_id), {}, now_ms)
        known.sessions.setdefault(member_id, _Session(now_ms)).touched_ms = now_ms

    def arrived(self, group_id: str, member_id: str) -> None:
        """This member waits for an answer; `answered` follows, whatever becomes of the request."""
        self._unanswered[group_id, member_id] += 1

    def answered(self, group_id: str, member_id: str, now_ms: int) -> None:
        """This member has had an answer, or has given up waiting for it."""
        key = group_id, member_id
        self._unanswered[key] -= 1
        if not self._unanswered[key]:
            del self._unanswered[key]
        known = self._groups.get(group_id)
        if known is not None and member_id in known.sessions:
            known.sessions[member_id].touched_ms = now_ms

    def restart(self, image: GroupsImage, now_ms: int) -> None:
        """Gives every member a full session, and full time to give up what it holds, from now."""
        self._groups = {}
        self._look(image, now_ms)

    def expired(self, image: GroupsImage, now_ms: int) -> tuple[ExpireMembers, ...]:
        """The commands that expire every member that is overdue, one for each group.

        They are returned again at each call until the image shows the member gone, so that a
        refused or lost command is not forgotten.
        """
        self._look(image, now_ms)
        commands = []
        for known in self._groups.values():
            if now_ms < known.look_again_ms:
                continue
            overdue = self.all_overdue(known.group, known.group.members, now_ms)
            if overdue:
                commands.append(ExpireMembers(known.group.group_id, overdue))
            else:
                known.look_again_ms = self._soonest_ms(known, now_ms)
        return tuple(commands)

    def all_overdue(
        self, group: Group, member_ids: Iterable[str], now_ms: int
    ) -> tuple[OverdueMember, ...]:
        """Those of some members that are to be expired, and why."""
        return tuple(
            OverdueMember(member_id, reason)
            for member_id in member_ids
            if (reason := self._overdue(group, member_id, now_ms)) is not None
        )

    def _overdue(self, group: Group, member_id: str, now_ms: int) -> str | None:
        """Why the member is to be expired; None if it is not, or has only just been heard of."""
        known = self._groups.get(group.group_id)
        session = None if known is None else known.sessions.get(member_id)
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

    def _soonest_ms(self, known: _GroupSessions, now_ms: int) -> int:
        """Before when nobody of the group can become overdue as it is."""
        soonest_ms = []
        for member_id, session in known.sessions.items():
            if member_id not in known.group.members:
                continue  # Touched since the group was looked at.
            member = known.group.members[member_id]
            is_waiting = (known.group.group_id, member_id) in self._unanswered
            heard_ms = now_ms if is_waiting else session.touched_ms
            soonest_ms.append(heard_ms + member.session_timeout_ms)
            soonest_ms.extend(
                since_ms + member.rebalance_timeout_ms
                for since_ms in session.revoking_since_ms.values()
            )
        return min(soonest_ms, default=now_ms)

    def _look(self, image: GroupsImage, now_ms: int) -> None:
        """Sees who is new, who is gone and who has begun or ended to give partitions up."""
        for group_id, group in image.groups.items():
            known = self._groups.get(group_id)
            if known is None or known.group is not group:
                self._look_at(group, known, now_ms)
        if len(self._groups) > len(image.groups):
            self._groups = {
                group_id: known
                for group_id, known in self._groups.items()
                if group_id in image.groups
            }

    def _look_at(self, group: Group, known: _GroupSessions | None, now_ms: int) -> None:
        if known is not None and (
            known.group.currents is group.currents and known.group.members is group.members
        ):
            # Offsets were committed; the members are the same.
            known.group = group
            return
        former = {} if known is None else known.sessions
        sessions = {}
        for member_id, current in group.currents.items():
            session = former.get(member_id) or _Session(now_ms)
            if current.revoking or session.revoking_since_ms:
                session.revoking_since_ms = {
                    held: session.revoking_since_ms.get(held, now_ms)
                    for held in current.revoking.values()
                }
            sessions[member_id] = session
        self._groups[group.group_id] = _GroupSessions(group, sessions, now_ms)
