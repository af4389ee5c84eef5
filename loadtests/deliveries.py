"""What the members of one consumer group were given, all of them together.

A group may be given a record twice: when a member went without saying that it was done, the next
one begins at the last commit. It must never be given a later record and not an earlier one: such an
offset was skipped, and the group will never see it.
"""

from collections.abc import Iterable

import msgspec


class GroupDeliveries(msgspec.Struct, frozen=True):
    """The counts of one group: records given, those given again, and offsets that were skipped."""

    delivered: int
    delivered_again: int
    skipped: int


class Deliveries:
    """Collects the deliveries of one group from a topic whose offsets have no gaps.

    The group begins at offset 0 of every partition.
    """

    def __init__(self) -> None:
        # By partition: which offsets were seen, as one byte each.
        self._seen: dict[int, bytearray] = {}
        self._delivered = 0
        self._again = 0

    def deliver(self, partition: int, offsets: Iterable[int]) -> None:
        """Some member was given these offsets."""
        seen = self._seen.setdefault(partition, bytearray())
        for offset in offsets:
            if offset >= len(seen):
                seen.extend(bytes(offset + 1 - len(seen)))
            self._delivered += 1
            self._again += seen[offset]
            seen[offset] = 1

    def counts(self) -> GroupDeliveries:
        """The counts so far."""
        skipped = sum(seen.count(0) for seen in self._seen.values())
        return GroupDeliveries(self._delivered, self._again, skipped)


def follows(offsets: Iterable[int]) -> bool:
    """Whether each offset is one above the offset before it."""
    last: int | None = None
    for offset in offsets:
        if last is not None and offset != last + 1:
            return False
        last = offset
    return True
