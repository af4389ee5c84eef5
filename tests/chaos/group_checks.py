"""C3: where a group goes on is what it committed last.

The committed offset of a partition is a register: commits write it, and whoever asks reads it, as
does a member that a partition is assigned to. What is read must have been written, and not have
been replaced for certain before it was asked for. A commit that nobody knew the end of may be taken
at any time, and so may one that was slow: the consumer had tried it again, perhaps, and a copy of
it is still on its way.
"""

from bisect import bisect_left, bisect_right
from collections import defaultdict
from itertools import accumulate

from tests.chaos.evidence import Violation
from tests.chaos.history import COMMIT, COMMITTED, OK, START

TRIED_ONCE_NS = 1_000_000_000
"""A commit that took longer was perhaps sent more than once."""
NEVER_NS = float("inf")


def misplaced_groups(evidence):
    """C3: a group goes on where it committed last, whoever coordinates it."""
    by_partition = defaultdict(list)
    for operation in evidence.operations:
        if operation.function == COMMIT:
            by_partition[operation.partition].append(operation)
    commits = defaultdict(lambda: Commits([]))
    commits |= {partition: Commits(found) for partition, found in by_partition.items()}
    for asked in evidence.succeeded(COMMITTED):
        if not commits[asked.partition].explain(asked, asked.next_offset):
            yield Violation(
                "C3",
                f"{asked.process} was told that the group goes on at {asked.next_offset} in "
                f"partition {asked.partition}; {commits[asked.partition].told(asked)}",
            )
    there = defaultdict(list)
    for partition, offset in sorted(evidence.seen):
        there[partition].append(offset)
    for start in evidence.succeeded(START):
        if not commits[start.partition].explain_start(start, there[start.partition]):
            yield Violation(
                "C3",
                f"{start.process} began at {start.offset} in session {start.session} of partition "
                f"{start.partition}; {commits[start.partition].told(start)}",
            )


class Commits:
    """The commits of one partition of a group, `COMMIT` operations."""

    def __init__(self, commits):
        self._by_offset = defaultdict(list)
        for commit in commits:
            self._by_offset[commit.next_offset].append(commit)
        self._offsets = sorted(self._by_offset)
        accepted = sorted(
            (commit.completed_ns, commit.invoked_ns, commit.next_offset)
            for commit in commits
            if commit.outcome == OK
        )
        self._completed_ns = [completed_ns for completed_ns, _, _ in accepted]
        facts = [(invoked_ns, offset) for _, invoked_ns, offset in accepted]
        self._newest = list(accumulate(facts, max))

    def explain(self, asked, offset):
        """Whether an operation may have found this offset; None for no commit at all."""
        newest = self._newest_before(asked)
        if offset is None:
            return newest is None
        # What certainly was over before the newest one began had been replaced by it.
        replaced_ns = -1 if newest is None else newest[0]
        return any(
            commit.invoked_ns < asked.completed_ns and _ends_ns(commit) >= replaced_ns
            for commit in self._by_offset.get(offset, ())
        )

    def explain_start(self, start, there):
        """Whether a reading may have begun there, given the offsets of all records."""
        place = bisect_left(there, start.offset)
        before = there[place - 1] if place else -1
        if place == 0 and self.explain(start, None):
            return True
        # Any commit behind the record before goes on with this one.
        first, last = (bisect_right(self._offsets, offset) for offset in (before, start.offset))
        return any(self.explain(start, offset) for offset in self._offsets[first:last])

    def told(self, asked):
        """What certainly was committed before, in words."""
        newest = self._newest_before(asked)
        return "nothing was committed" if newest is None else f"{newest[1]} was committed before"

    def _newest_before(self, asked):
        """(when it began, its offset) of the last accepted commit; None where there is none."""
        known = bisect_left(self._completed_ns, asked.invoked_ns)
        return self._newest[known - 1] if known else None


def _ends_ns(commit):
    """When it certainly is over."""
    if commit.outcome != OK or commit.completed_ns - commit.invoked_ns > TRIED_ONCE_NS:
        return NEVER_NS
    return commit.completed_ns
