"""A decision on one group while it is made: what it has come to so far, and by which records.

A decision has stages that build on one another: a member joins, so there is a new target, so the
member is given partitions. Each stage sees the group with the records of the stages before it, made
by the same `replay` that makes it true once the records are committed.
"""

from ottla_cluster.groups.image import Group, replay_group
from ottla_cluster.groups.records import (
    GroupChanged,
    RecordKey,
    RecordOfGroup,
    SubscribedTopic,
    key_of,
)


class GroupChanges:
    """Records of one group, and the group with them."""

    def __init__(self, group: Group) -> None:
        self._group = group
        self._records: dict[RecordKey, RecordOfGroup] = {}

    @property
    def group(self) -> Group:
        """The group with all records so far."""
        return self._group

    @property
    def records(self) -> tuple[RecordOfGroup, ...]:
        """The newest record of each key, in the order in which they were added."""
        return tuple(self._records.values())

    def add(self, *records: RecordOfGroup) -> None:
        """Adds one stage's records; none of them removes the group."""
        changed = replay_group(self._group, records)
        if changed is not None:
            self._group = changed
        for record in records:
            key = key_of(record)
            self._records.pop(key, None)
            self._records[key] = record

    def change_group(
        self,
        *,
        generation: int,
        assignor: str | None = None,
        topics: tuple[SubscribedTopic, ...] | None = None,
        metadata_version: int | None = None,
        empty_since_ms: int | None,
    ) -> None:
        """Adds a GroupChanged; what is None stays, but for `empty_since_ms`."""
        group = self._group
        self.add(
            GroupChanged(
                group=group.group_id,
                generation=generation,
                assignor=group.assignor if assignor is None else assignor,
                topics=tuple(group.topics.values()) if topics is None else topics,
                metadata_version=(
                    group.metadata_version if metadata_version is None else metadata_version
                ),
                empty_since_ms=empty_since_ms,
            )
        )
