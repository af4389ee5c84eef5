"""What the coordinator does by itself for its groups, a few of them at a time.

When topics change, each group is compared with them; now and then, each is looked through for
offsets that nobody needs any more. A coordinator has thousands of groups and others wait while it
decides, so a round goes on over many calls, each of which does a bounded amount of work.

Retention is a matter of years and of the wall clock, which may jump. So what looks too old must go
on looking so for a while of the monotonic clock before it is removed.
"""

from collections import deque
from collections.abc import Mapping

from ottla_cluster.groups.cluster_view import TopicView
from ottla_cluster.groups.commands import Command, ExpireOffsets, RefreshTopics
from ottla_cluster.groups.config import GroupConfig
from ottla_cluster.groups.context import GroupContext
from ottla_cluster.groups.image import Group, GroupsImage
from ottla_cluster.groups.membership_handlers import topics_differ
from ottla_cluster.groups.offset_handlers import expire_offsets

WORK_PER_CALL = 2_000
"""Members and offsets of the groups that one call looks at, and the groups themselves."""


class Housekeeping:
    """Rounds over all groups of one coordinator.

    Args:
        config: retention, and how often to look for old offsets.
        now_ms: the monotonic clock.
    """

    def __init__(self, config: GroupConfig, now_ms: int) -> None:
        self._interval_ms = config.offsets_expiry_interval_ms
        self._delay_ms = min(config.offsets_expiry_delay_ms, config.offsets_retention_ms)
        self._compared_topics: Mapping[str, TopicView] | None = None
        self._compares_topics: Mapping[str, TopicView] | None = None
        self._next_round_ms = now_ms + self._interval_ms
        # The groups that the round has still to look at.
        self._pending: deque[str] = deque()
        self._is_in_round = False
        # Since when a group has had offsets that look too old.
        self._old_since_ms: dict[str, int] = {}

    def due(self, image: GroupsImage, now_ms: int, context: GroupContext) -> tuple[Command, ...]:
        """Commands for some groups; a group that needs one is looked at again later.

        Args:
            image: all groups.
            now_ms: the monotonic clock.
            context: of the decisions.
        """
        if not self._is_in_round:
            topics = context.view.topics
            if topics is self._compared_topics and now_ms < self._next_round_ms:
                return ()
            self._is_in_round = True
            self._compares_topics = topics
            self._pending.extend(image.groups)
        commands: list[Command] = []
        again: list[str] = []
        work_left = WORK_PER_CALL
        while self._pending and work_left > 0:
            group = image.groups.get(self._pending.popleft())
            if group is None:
                continue
            work_left -= 1 + len(group.members) + len(group.offsets)
            wanted = self._wanted(image, group, now_ms, context)
            commands.extend(wanted)
            if wanted or context.view.version < group.metadata_version:
                again.append(group.group_id)
        self._pending.extend(again)
        if not self._pending:
            self._finish(image, now_ms)
        return tuple(commands)

    def _wanted(
        self, image: GroupsImage, group: Group, now_ms: int, context: GroupContext
    ) -> list[Command]:
        wanted: list[Command] = []
        if topics_differ(group, context.view):
            wanted.append(RefreshTopics(group.group_id))
        removal = self._removal(image, group.group_id, now_ms, context)
        if removal is not None:
            wanted.append(removal)
        return wanted

    def _removal(
        self, image: GroupsImage, group_id: str, now_ms: int, context: GroupContext
    ) -> ExpireOffsets | None:
        """The removal of the group's offsets that nobody needs any more, if it has some."""
        everything = ExpireOffsets(group_id, retention_is_over=True)
        removed = len(expire_offsets(image, everything, context).records)
        deleted = ExpireOffsets(group_id)
        removed_now = len(expire_offsets(image, deleted, context).records) if removed else 0
        if removed == removed_now:
            self._old_since_ms.pop(group_id, None)
        elif now_ms - self._old_since_ms.setdefault(group_id, now_ms) >= self._delay_ms:
            return everything
        return deleted if removed_now else None

    def _finish(self, image: GroupsImage, now_ms: int) -> None:
        self._is_in_round = False
        self._compared_topics = self._compares_topics
        self._next_round_ms = now_ms + self._interval_ms
        self._old_since_ms = {
            name: since_ms for name, since_ms in self._old_since_ms.items() if name in image.groups
        }
        if self._old_since_ms:
            soonest_ms = min(self._old_since_ms.values()) + self._delay_ms
            self._next_round_ms = min(self._next_round_ms, max(soonest_ms, now_ms + 1))
