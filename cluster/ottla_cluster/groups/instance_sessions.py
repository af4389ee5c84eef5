"""Which consumer instances somebody has asked for lately; as `sessions`, for members.

Volatile, too: a new coordinator gives every instance its full time again. An instance with a
request under way is not idle, and its time counts from the end of that.
"""

from collections import Counter
from collections.abc import Iterable

from ottla_cluster.groups.image import Group, GroupsImage
from ottla_cluster.groups.instance_commands import ExpireInstances


class InstanceSessions:
    """When each instance of one coordinator was last asked for."""

    def __init__(self, image: GroupsImage, now_ms: int) -> None:
        self._touched_ms: dict[tuple[str, str], int] = {}
        self._unanswered: Counter[tuple[str, str]] = Counter()
        self._groups: dict[str, Group] = {}
        self._seen: object = None
        self.restart(image, now_ms)

    def touched(self, group_id: str, instance_id: str, now_ms: int) -> None:
        """Somebody has just asked for this instance."""
        self._touched_ms[group_id, instance_id] = now_ms

    def arrived(self, group_id: str, instance_id: str) -> None:
        """A request of this instance is under way; `answered` follows, whatever becomes of it."""
        self._unanswered[group_id, instance_id] += 1

    def answered(self, group_id: str, instance_id: str, now_ms: int) -> None:
        """A request is under way no more."""
        key = group_id, instance_id
        self._unanswered[key] -= 1
        if not self._unanswered[key]:
            del self._unanswered[key]
        if key in self._touched_ms:
            self._touched_ms[key] = now_ms

    def restart(self, image: GroupsImage, now_ms: int) -> None:
        """Gives every instance its full time from now."""
        self._touched_ms = {}
        self._look(image, now_ms)

    def expired(self, image: GroupsImage, now_ms: int) -> tuple[ExpireInstances, ...]:
        """The commands that remove idle instances, one for each group; again until it is done."""
        self._look(image, now_ms)
        commands = []
        for group in self._groups.values():
            idle = self.all_idle(group, group.instances, now_ms)
            if idle:
                commands.append(ExpireInstances(group.group_id, idle))
        return tuple(commands)

    def all_idle(self, group: Group, instance_ids: Iterable[str], now_ms: int) -> tuple[str, ...]:
        """Those of some instances that are to be removed."""
        return tuple(
            instance_id
            for instance_id in instance_ids
            if (group.group_id, instance_id) not in self._unanswered
            and now_ms - self._touched_ms.get((group.group_id, instance_id), now_ms)
            >= group.instances[instance_id].idle_timeout_ms
        )

    def _look(self, image: GroupsImage, now_ms: int) -> None:
        """Sees which instances there are; costs nothing while no group has changed."""
        if image.groups is self._seen:
            for group_id, group in self._groups.items():
                for instance_id in group.instances:
                    self._touched_ms.setdefault((group_id, instance_id), now_ms)
            return
        self._seen = image.groups
        self._groups = {name: group for name, group in image.groups.items() if group.instances}
        self._touched_ms = {
            (group_id, instance_id): self._touched_ms.get((group_id, instance_id), now_ms)
            for group_id, group in self._groups.items()
            for instance_id in group.instances
        }
