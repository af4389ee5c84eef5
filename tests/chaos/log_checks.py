"""The invariants of a log, L1 to L12, held against a history and what is stored in the end.

Each check takes the `Evidence` and yields what contradicts its invariant. All are pure, and none
knows how the evidence was made: `test_log_checks.py` gives each of them histories that it must
refuse.
"""

from bisect import bisect_left
from collections import defaultdict
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate, pairwise

from tests.chaos.history import END_OFFSET, FAIL, LEADER, OK, POLL, SEND, TIME_LOOKUP


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
        copies: final reads of every partition on every broker, after everything was healed.
        batches: what lies in the files of all brokers after their stop; may be empty.
        log_starts: by partition, up to where retention or deletion explain that records are gone.
    """

    operations: list
    copies: list = field(default_factory=list)
    batches: list = field(default_factory=list)
    log_starts: dict = field(default_factory=dict)

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

    def may_be_gone(self, partition, offset):
        return offset < self.log_starts.get(partition, 0)


def lost_writes(evidence):
    """L1: an acknowledged record below the highest that was read was read by somebody."""
    for send in evidence.acknowledged:
        if evidence.may_be_gone(send.partition, send.offset):
            continue
        values = evidence.seen.get((send.partition, send.offset), {})
        if send.value not in values and send.offset <= evidence.highest_seen.get(
            send.partition, -1
        ):
            yield Violation("L1", f"{_place(send)} {send.value} of {send.process} is lost")


def unseen_writes(evidence):
    """L2: no acknowledged record is missing from any broker in the end."""
    for send in evidence.acknowledged:
        if evidence.may_be_gone(send.partition, send.offset):
            continue
        for (broker, partition), records in evidence.stored.items():
            if partition == send.partition and records.get(send.offset) != send.value:
                yield Violation("L2", f"broker {broker} has not {_place(send)} {send.value}")


def inconsistent_offsets(evidence):
    """L3: one offset of a partition has one value, for everybody and for ever."""
    told = defaultdict(dict)
    for place, values in evidence.seen.items():
        told[place].update(values)
    for send in evidence.acknowledged:
        place = (send.partition, send.offset)
        told[place].setdefault(send.value, f"the acknowledgement to {send.process}")
    for (partition, offset), values in told.items():
        if len(values) > 1:
            yield Violation("L3", f"partition {partition} offset {offset} has {values}")


def duplicates(evidence):
    """L4: one value has one offset."""
    places = defaultdict(set)
    for place, values in evidence.seen.items():
        for value in values:
            places[value].add(place)
    for send in evidence.acknowledged:
        places[send.value].add((send.partition, send.offset))
    for value, found in places.items():
        if len(found) > 1:
            yield Violation("L4", f"{value} is at {sorted(found)}")


def applied_failures(evidence):
    """L5: what was told to have failed is nowhere."""
    failed = {
        operation.value: operation
        for operation in evidence.operations
        if operation.function == SEND and operation.outcome == FAIL
    }
    for (partition, offset), values in evidence.seen.items():
        for value in values.keys() & failed.keys():
            yield Violation(
                "L5",
                f"{value} was refused ({failed[value].detail}) and is at partition {partition} "
                f"offset {offset}: {values[value]}",
            )


def nonmonotonic_sends(evidence):
    """L6: the records of one producer in one partition stand in the order of its sends."""
    sends = defaultdict(list)
    for send in evidence.acknowledged:
        sends[send.process, send.partition].append(send)
    for (process, partition), mine in sends.items():
        mine.sort(key=lambda send: send.invoked_ns)
        for earlier, later in pairwise(mine):
            if later.offset <= earlier.offset:
                yield Violation(
                    "L6",
                    f"{process} sent {earlier.value} before {later.value} to partition "
                    f"{partition}, and they are at {earlier.offset} and {later.offset}",
                )


def skipping_polls(evidence):
    """L7: a reading goes forward and over no record that is there, inside one poll too."""
    readings = defaultdict(list)
    for poll in evidence.polls:
        readings[poll.process, poll.session, poll.partition].append(poll)
    there = defaultdict(set)
    for partition, offset in evidence.seen:
        there[partition].add(offset)
    there = {partition: sorted(offsets) for partition, offsets in there.items()}
    for (process, session, partition), polls in readings.items():
        polls.sort(key=lambda poll: poll.invoked_ns)
        offsets = [offset for poll in polls for offset, _ in poll.records]
        for earlier, later in pairwise(offsets):
            who = f"{process}, session {session}, partition {partition}"
            if later <= earlier:
                yield Violation("L7", f"{who}: read {later} after {earlier}")
            elif bisect_left(there[partition], later) > bisect_left(there[partition], earlier) + 1:
                yield Violation("L7", f"{who}: read {later} after {earlier}, skipping records")


def changed_prefixes(evidence):
    """L8: what was once read stays where it was, and no broker's high watermark falls.

    A new leader knows its high watermark late, and tells a reader less than the last one did until
    then. What must not fall across leaders is the end (L9).
    """
    for poll in evidence.polls:
        for (broker, partition), records in evidence.stored.items():
            if partition != poll.partition:
                continue
            for offset, value in poll.records:
                if records.get(offset) != value and not evidence.may_be_gone(partition, offset):
                    yield Violation(
                        "L8",
                        f"{poll.process} read {value} at partition {partition} offset {offset}; "
                        f"broker {broker} has {records.get(offset)} there in the end",
                    )
    told = defaultdict(list)
    for poll in evidence.polls:
        if poll.high_watermark is not None:
            told[poll.process, poll.session, poll.told_by, poll.via, poll.partition].append(poll)
    for (process, *_, partition), polls in told.items():
        polls.sort(key=lambda poll: poll.invoked_ns)
        for earlier, later in pairwise(polls):
            if later.high_watermark < earlier.high_watermark:
                yield Violation(
                    "L8",
                    f"{process} was told high watermark {earlier.high_watermark} of partition "
                    f"{partition}, later {later.high_watermark}",
                )


def stale_ends(evidence):
    """L9: an end that is asked for after a record was acknowledged, read or told covers it.

    And a read of its leader there finds it: an empty page would say that it is not there.
    """
    known_before = _known_ends(evidence)
    for asked in evidence.told_ends:
        end, reason = known_before(asked)
        if asked.offset < end:
            yield Violation(
                "L9",
                f"{asked.process} was told that partition {asked.partition} ends at "
                f"{asked.offset}, though it ended at {end}: {reason}",
            )
    for poll in evidence.polls:
        if poll.via is None and not poll.records and poll.next_offset is not None:
            end, reason = known_before(poll)
            if poll.next_offset < end:
                yield Violation(
                    "L9",
                    f"{poll.process} found nothing in partition {poll.partition} at "
                    f"{poll.next_offset}, though it ended at {end}: {reason}",
                )


def _known_ends(evidence):
    """A function of an operation: the highest end known before it began, and of what; else 0."""
    known = defaultdict(list)
    for send in evidence.acknowledged:
        known[send.partition].append((send.completed_ns, send.offset + 1, f"{send.value} is acked"))
    for poll in evidence.polls:
        if poll.records:
            end = max(offset for offset, _ in poll.records) + 1
            known[poll.partition].append((poll.completed_ns, end, f"{poll.process} has polled"))
    for asked in evidence.told_ends:
        known[asked.partition].append((asked.completed_ns, asked.offset, "that end was told"))
    times, highest = {}, {}
    for partition, facts in known.items():
        facts.sort()
        times[partition] = [time_ns for time_ns, _, _ in facts]
        highest[partition] = list(accumulate(facts, lambda a, b: b if b[1] > a[1] else a))

    def known_before(operation):
        before = bisect_left(times.get(operation.partition, ()), operation.invoked_ns)
        return highest[operation.partition][before - 1][1:] if before else (0, "")

    return known_before


def unexplained_log_starts(evidence):
    """L10: a log begins where retention says; a time is looked up as the first that is as late."""
    for copy in evidence.copies:
        explained = evidence.log_starts.get(copy.partition, 0)
        if copy.log_start > explained:
            yield Violation(
                "L10",
                f"partition {copy.partition} begins at {copy.log_start} on broker {copy.broker}, "
                f"and nothing explains more than {explained}",
            )
    timestamps = {}
    for copy in evidence.copies:
        timestamps.setdefault(
            copy.partition, [(offset, timestamp) for offset, _, timestamp in copy.records]
        )
    for lookup in evidence.succeeded(TIME_LOOKUP):
        yield from _wrong_lookup(evidence, lookup, timestamps.get(lookup.partition, []))


def _wrong_lookup(evidence, lookup, timestamps):
    late_enough = [offset for offset, at_ms in timestamps if at_ms >= lookup.timestamp_ms]
    told = lookup.offset
    if told is None:
        acknowledged = {
            send.offset
            for send in evidence.acknowledged
            if send.partition == lookup.partition and send.completed_ns < lookup.invoked_ns
        }
        missed = acknowledged.intersection(late_enough)
        if missed:
            yield Violation("L10", f"{_asked(lookup)} found nothing, {min(missed)} was there")
    elif late_enough and told != late_enough[0]:
        yield Violation("L10", f"{_asked(lookup)} found {told}, the first is {late_enough[0]}")
    elif not late_enough:
        yield Violation("L10", f"{_asked(lookup)} found {told}, and nothing is as late")


def diverging_replicas(evidence):
    """L11: replicas are equal to the bit, epochs never fall, and an epoch has one leader."""
    yield from _diverging_copies(evidence)
    yield from _diverging_batches(evidence)
    leaders = defaultdict(set)
    for told in evidence.succeeded(LEADER):
        if told.leader is not None:
            leaders[told.partition, told.leader_epoch].add(told.leader)
    for (partition, epoch), found in leaders.items():
        if len(found) > 1:
            yield Violation(
                "L11", f"partition {partition} had the leaders {sorted(found)} in epoch {epoch}"
            )


def _diverging_copies(evidence):
    by_partition = defaultdict(list)
    for copy in evidence.copies:
        by_partition[copy.partition].append(copy)
    for partition, copies in by_partition.items():
        start = max(copy.log_start for copy in copies)
        first = copies[0]
        for copy in copies[1:]:
            ends = (first.high_watermark, copy.high_watermark)
            who = f"partition {partition}: brokers {first.broker} and {copy.broker}"
            if ends[0] != ends[1]:
                yield Violation("L11", f"{who} end at {ends[0]} and {ends[1]}")
            mine, others = (
                {record[0]: record for record in each.records if record[0] >= start}
                for each in (first, copy)
            )
            different = [
                offset
                for offset in sorted(mine.keys() | others.keys())
                if mine.get(offset) != others.get(offset)
            ]
            if different:
                yield Violation("L11", f"{who} differ at {different[:5]}, {len(different)} places")


def _diverging_batches(evidence):
    ends = defaultdict(int)
    for copy in evidence.copies:
        ends[copy.partition] = max(ends[copy.partition], copy.high_watermark)
    logs = defaultdict(lambda: defaultdict(list))
    for batch in evidence.batches:
        logs[batch.partition][batch.broker].append(batch)
    for partition, brokers in logs.items():
        for broker, batches in brokers.items():
            batches.sort(key=lambda batch: batch.base_offset)
            for earlier, later in pairwise(batches):
                if later.leader_epoch < earlier.leader_epoch:
                    yield Violation(
                        "L11",
                        f"partition {partition} on broker {broker}: epoch {later.leader_epoch} at "
                        f"{later.base_offset} after {earlier.leader_epoch}",
                    )
        start = max(batches[0].base_offset for batches in brokers.values())
        kept = {
            broker: [
                (batch.base_offset, batch.last_offset, batch.leader_epoch, batch.checksum)
                for batch in batches
                if batch.base_offset >= start and batch.last_offset < ends[partition]
            ]
            for broker, batches in brokers.items()
        }
        (one, reference), *others = kept.items()
        for other, batches in others:
            if batches != reference:
                odd = sorted(set(batches) ^ set(reference))[:2]
                yield Violation(
                    "L11", f"partition {partition}: files of {one} and {other} differ: {odd}"
                )


def plausible_failures(evidence):
    """L12: no failure tells an offset, and no success tells one that cannot be."""
    for operation in evidence.operations:
        who = f"{operation.function} of {operation.process}"
        if operation.outcome != OK and (operation.offset is not None or operation.records):
            yield Violation("L12", f"{who} did not succeed and told {operation.offset}")
        tells_offset = operation.outcome == OK and operation.function in (SEND, END_OFFSET)
        if tells_offset and (operation.offset is None or operation.offset < 0):
            yield Violation("L12", f"{who} succeeded and told {operation.offset}")


CHECKS = {
    "L1": lost_writes,
    "L2": unseen_writes,
    "L3": inconsistent_offsets,
    "L4": duplicates,
    "L5": applied_failures,
    "L6": nonmonotonic_sends,
    "L7": skipping_polls,
    "L8": changed_prefixes,
    "L9": stale_ends,
    "L10": unexplained_log_starts,
    "L11": diverging_replicas,
    "L12": plausible_failures,
}


def _place(send):
    return f"partition {send.partition} offset {send.offset}"


def _asked(lookup):
    return f"{lookup.process} asked partition {lookup.partition} for {lookup.timestamp_ms} ms,"
