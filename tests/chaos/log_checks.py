"""The invariants of a log, L1 to L12, held against a history and what is stored in the end.

Each check takes the `Evidence` and yields what contradicts its invariant. All are pure, and none
knows how the evidence was made: `test_checker.py` gives each of them histories that it must
refuse. L11 is in `replica_checks.py`.
"""

from bisect import bisect_left
from collections import defaultdict
from itertools import accumulate, pairwise

from tests.chaos.evidence import Violation
from tests.chaos.history import END_OFFSET, FAIL, INFO, OK, SEND, TIME_LOOKUP


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
    """L6: the records of one producer in one partition stand in the order of its sends.

    So do those of which the producer never learned that they are there, where it numbers its sends.
    A client that repeats single requests may find one of them behind what it sent later.
    """
    sends = defaultdict(list)
    for send in evidence.acknowledged:
        sends[send.process, send.partition].append((send.invoked_ns, send.offset, send.value))
    for send in evidence.operations:
        if send.function == SEND and send.outcome == INFO and send.is_ordered:
            # More places than one are for L4 to tell.
            for partition, offset in evidence.places.get(send.value, ())[:1]:
                sends[send.process, partition].append((send.invoked_ns, offset, send.value))
    for (process, partition), mine in sends.items():
        mine.sort()
        for (_, earlier, sent), (_, later, sent_later) in pairwise(mine):
            if later <= earlier:
                yield Violation(
                    "L6",
                    f"{process} sent {sent} before {sent_later} to partition "
                    f"{partition}, and they are at {earlier} and {later}",
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
    """L8: what was once read stays where it was, and so does what was told to be committed.

    A new leader knows its high watermark late, and until then tells whoever reads below it less
    than the last one did (decision 50). So it is held against the last one of the same leadership;
    whoever told it, no end that is asked for later is below it (L9), nor the end in the end.
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
    yield from _ends_past_the_end(evidence)


def _ends_past_the_end(evidence):
    """Nothing was ever told to be committed that is not there in the end."""
    ends = {}
    for copy in evidence.copies:
        ends[copy.partition] = max(copy.high_watermark, ends.get(copy.partition, 0))
    told = [(poll, poll.high_watermark) for poll in evidence.polls if poll.high_watermark]
    told += [(asked, asked.offset) for asked in evidence.told_ends]
    for operation, end in told:
        if end > ends.get(operation.partition, end):
            yield Violation(
                "L8",
                f"{operation.process} was told that partition {operation.partition} is committed "
                f"up to {end}; it ends at {ends[operation.partition]}",
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
        if poll.high_watermark is not None:
            told = (poll.completed_ns, poll.high_watermark, "that high watermark was told")
            known[poll.partition].append(told)
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


def plausible_failures(evidence):
    """L12: no failure tells an offset, and no success tells one that cannot be."""
    for operation in evidence.operations:
        who = f"{operation.function} of {operation.process}"
        if operation.outcome != OK and (operation.offset is not None or operation.records):
            yield Violation("L12", f"{who} did not succeed and told {operation.offset}")
        tells_offset = operation.outcome == OK and operation.function in (SEND, END_OFFSET)
        if tells_offset and (operation.offset is None or operation.offset < 0):
            yield Violation("L12", f"{who} succeeded and told {operation.offset}")


def _place(send):
    return f"partition {send.partition} offset {send.offset}"


def _asked(lookup):
    return f"{lookup.process} asked partition {lookup.partition} for {lookup.timestamp_ms} ms,"
