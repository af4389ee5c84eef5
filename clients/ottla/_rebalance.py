"""What a consumer's group changed, until the application has been told."""

from dataclasses import dataclass, field

from ottla._consumer_types import TopicPartition
from ottla._group_member import MemberChange
from ottla._positions import Positions
from ottla_protocol.errors import OttlaError


@dataclass(slots=True)
class Rebalance:
    """What the group changed and the application was not told yet, in this order."""

    lost: set[TopicPartition] = field(default_factory=set)
    revoked: set[TopicPartition] = field(default_factory=set)
    assigned: set[TopicPartition] = field(default_factory=set)
    error: OttlaError | None = None
    """The membership ended for good; it stays until the next subscription."""

    def __bool__(self) -> bool:
        """Whether there is anything to tell."""
        return bool(self.lost or self.revoked or self.assigned or self.error is not None)

    def adopt(self, change: MemberChange, positions: Positions) -> list[TopicPartition]:
        """Take in a change: first what must not be read any more.

        Returns:
            What was taken before the application knew of it, and is released already.
        """
        released: list[TopicPartition] = []
        for name in change.lost:
            if name in self.assigned:
                self.assigned.discard(name)
            else:
                self.revoked.discard(name)
                self.lost.add(name)
        positions.remove(change.lost)
        for name in change.revoked:
            if name in self.assigned:
                self.assigned.discard(name)
                positions.remove((name,))
                released.append(name)
            else:
                self.revoked.add(name)
                positions.hold((name,))
        positions.add(change.assigned, is_announced=False)
        self.assigned |= change.assigned
        if change.error is not None:
            self.error = change.error
        positions.ticket = None
        return released
