"""What is known of a topic after a run, for the checks; and what they find."""

from collections import defaultdict
from dataclasses import dataclass, field
from functools import cached_property

from tests.chaos.history import END_OFFSET, OK, POLL, SEND


@dataclass(frozen=True)
class Violation:
    """What contradicts an invariant, in words."""

    rule: str
    detail: str

    def __str__(self):
        return f"{self.rule}: {self.detail}"


@dataclass(frozen=True)
class Evidence:
    """All that is known of one topic.

    Attributes:
        operations: the history.
        copies: final reads of every partition through every broker, after everything was healed.
        batches: what lies in the files of all brokers after their stop.
        log_starts: by partition, up to where retention or deletion explain that records are gone.
        brokers: the node ids of all; each has to be read through.
        replicas: by partition, those that have to hold it; each has to be read from itself.
    """

    operations: list
    copies: list = field(default_factory=list)
    batches: list = field(default_factory=list)
    log_starts: dict = field(default_factory=dict)
    brokers: tuple = ()
    replicas: dict = field(default_factory=dict)

    def succeeded(self, function):
        """Operations of this kind that are known to have happened."""
        return [
            operation
            for operation in self.operations
            if operation.function == function and operation.outcome == OK
        ]

    @cached_property
    def acknowledged(self):
        return [send for send in self.succeeded(SEND) if send.offset is not None]

    @cached_property
    def told_ends(self):
        return [asked for asked in self.succeeded(END_OFFSET) if asked.offset is not None]

    @cached_property
    def polls(self):
        return self.succeeded(POLL)

    @cached_property
    def seen(self):
        """By (partition, offset): the values that anybody read there, and who did."""
        found = defaultdict(dict)
        for poll in self.polls:
            for offset, value in poll.records:
                found[poll.partition, offset].setdefault(value, f"a poll of {poll.process}")
        for copy in self.copies:
            for offset, value, _ in copy.records:
                found[copy.partition, offset].setdefault(value, f"broker {copy.broker} in the end")
        return found

    @cached_property
    def places(self):
        """By value: every (partition, offset) where anybody read it."""
        found = defaultdict(list)
        for place, values in self.seen.items():
            for value in values:
                found[value].append(place)
        return found

    @cached_property
    def highest_seen(self):
        """By partition: the highest offset that anybody read."""
        highest = {}
        for partition, offset in self.seen:
            highest[partition] = max(offset, highest.get(partition, -1))
        return highest

    @cached_property
    def stored(self):
        """By (broker, partition): the final copy, value by offset."""
        return {
            (copy.broker, copy.partition): {offset: value for offset, value, _ in copy.records}
            for copy in self.copies
        }

    @cached_property
    def files(self):
        """By (broker, partition): the batches there, in the order of their offsets."""
        found = defaultdict(list)
        for batch in sorted(self.batches, key=lambda batch: batch.base_offset):
            found[batch.broker, batch.partition].append(batch)
        return dict(found)

    def batches_of(self, broker, partition):
        return self.files.get((broker, partition), [])

    def may_be_gone(self, partition, offset):
        return offset < self.log_starts.get(partition, 0)
