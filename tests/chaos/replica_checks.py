"""L11: what lies on the brokers in the end is one log, whole, and the same on all of them.

Each check takes the `Evidence` and yields what contradicts it. `diverging_replicas` is for a topic
that keeps every record until retention takes it, `diverging_states` for a compacted one, whose
replicas may each have forgotten other records that newer ones replace.
"""

from collections import defaultdict
from itertools import pairwise

from tests.chaos.evidence import Violation
from tests.chaos.history import LEADER


def diverging_replicas(evidence):
    """L11: replicas are equal to the bit, epochs never fall, and an epoch has one leader."""
    yield from _diverging_copies(evidence)
    for partition, broker, batches in _logs(evidence):
        yield from _falling_epochs(partition, broker, batches)
    yield from _diverging_batches(evidence)
    yield from _incomplete_files(evidence)
    leaders = defaultdict(set)
    for told in evidence.succeeded(LEADER):
        if told.leader is not None:
            leaders[told.partition, told.leader_epoch].add(told.leader)
    for (partition, epoch), found in leaders.items():
        if len(found) > 1:
            yield Violation(
                "L11", f"partition {partition} had the leaders {sorted(found)} in epoch {epoch}"
            )


def diverging_states(evidence):
    """L11 of a compacted topic: all replicas have the same newest record of each key."""
    for partition, broker, batches in _logs(evidence):
        yield from _falling_epochs(partition, broker, batches)
    for partition, copies in _by_partition(evidence.copies).items():
        end = min(copy.high_watermark for copy in copies)
        if any(copy.high_watermark != end for copy in copies):
            ends = {copy.broker: copy.high_watermark for copy in copies}
            yield Violation("L11", f"partition {partition} ends at {ends}, by broker")
        told = {}
        for copy in copies:
            told[f"broker {copy.broker}"] = copy.records
            if copy.is_own:
                stored = evidence.batches_of(copy.broker, partition)
                told[f"the files of {copy.broker}"] = [
                    record for batch in stored for record in batch.records
                ]
        yield from _different_states(partition, end, told)


def _different_states(partition, end, told):
    """Hold against one another what was told, by who did."""
    at = {}
    (first, records), *others = told.items()
    reference = _newest(records, end)
    for who, records in told.items():
        for offset, value, _ in records:
            other, seen = at.setdefault(offset, (who, value))
            if seen != value and offset < end:
                yield Violation(
                    "L11", f"partition {partition}: {other} and {who} differ at offset {offset}"
                )
    for who, records in others:
        odd = set(_newest(records, end).items()) ^ set(reference.items())
        different = sorted(odd, key=repr)
        if different:
            yield Violation(
                "L11",
                f"partition {partition}: {first} and {who} keep other records of "
                f"{len({key for key, _ in different})} keys: {different[:2]}",
            )


def _newest(records, end):
    """By key: the offset of its newest record before `end`; a key that is removed is not there."""
    newest = {}
    for offset, (key, value), _ in records:
        if offset < end and offset >= newest.get(key, (0, None))[0]:
            newest[key] = (offset, value)
    return {key: offset for key, (offset, value) in newest.items() if value is not None}


def _diverging_copies(evidence):
    for partition, copies in _by_partition(evidence.copies).items():
        start = max(copy.log_start for copy in copies)
        first = copies[0]
        for copy in copies[1:]:
            ends = (first.high_watermark, copy.high_watermark)
            who = f"partition {partition}: brokers {first.broker} and {copy.broker}"
            if ends[0] != ends[1]:
                yield Violation("L11", f"{who} end at {ends[0]} and {ends[1]}")
            different = _different_offsets(first.records, copy.records, start)
            if different:
                yield Violation("L11", f"{who} differ at {different[:5]}, {len(different)} places")


def _diverging_batches(evidence):
    ends = defaultdict(int)
    for copy in evidence.copies:
        ends[copy.partition] = max(ends[copy.partition], copy.high_watermark)
    logs = defaultdict(dict)
    for partition, broker, batches in _logs(evidence):
        logs[partition][broker] = batches
    for partition, brokers in logs.items():
        # What is before that on another broker is for `_incomplete_files` to miss.
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


def _falling_epochs(partition, broker, batches):
    for earlier, later in pairwise(batches):
        if later.leader_epoch < earlier.leader_epoch:
            yield Violation(
                "L11",
                f"partition {partition} on broker {broker}: epoch {later.leader_epoch} at "
                f"{later.base_offset} after {earlier.leader_epoch}",
            )


def _incomplete_files(evidence):
    """The files of a replica have all that it told, from its log's start to its end."""
    for copy in evidence.copies:
        if not copy.is_own:
            continue
        who = f"partition {copy.partition}: the files of broker {copy.broker}"
        batches = evidence.batches_of(copy.broker, copy.partition)
        for earlier, later in pairwise(batches):
            if later.base_offset != earlier.last_offset + 1:
                yield Violation(
                    "L11", f"{who} go from {earlier.last_offset} on to {later.base_offset}"
                )
        start, end = (batches[0].base_offset, batches[-1].last_offset + 1) if batches else (0, 0)
        bounds = (copy.log_start, copy.high_watermark)
        if bounds[0] < bounds[1] and not (start <= bounds[0] and bounds[1] <= end):
            yield Violation("L11", f"{who} have {start} to {end}, and it told {bounds}")
        stored = [
            record
            for batch in batches
            for record in batch.records
            if record[0] < copy.high_watermark
        ]
        different = _different_offsets(stored, copy.records, copy.log_start)
        if different:
            yield Violation(
                "L11",
                f"{who} differ from what it told at {different[:5]}, {len(different)} places",
            )


def _different_offsets(one, other, start):
    """Where two logs have not the same record, from an offset on."""
    mine, others = (
        {record[0]: record for record in records if record[0] >= start} for records in (one, other)
    )
    return [
        offset
        for offset in sorted(mine.keys() | others.keys())
        if mine.get(offset) != others.get(offset)
    ]


def _logs(evidence):
    """(partition, broker, its batches) of all that have any."""
    return [
        (partition, broker, batches)
        for (broker, partition), batches in evidence.files.items()
        if batches
    ]


def _by_partition(copies):
    found = defaultdict(list)
    for copy in copies:
        found[copy.partition].append(copy)
    return found
