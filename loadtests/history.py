"""What was acknowledged against what every broker holds: the part of a run that decides.

Pure. A run hands in every acknowledgement and then, partition by partition, each broker's own copy
of the log; the verdict counts what must never happen:

- lost: an acknowledged record that some broker does not hold, unchanged, at its acknowledged
  offset.
- duplicated: further copies of a record in one broker's log, and acknowledgements of one record at
  two positions.
- out of order: a record that stands after a later one of the same key and writer, and one whose key
  is in another partition too. Further copies are not counted here again.
- divergent: a position at which the brokers do not all hold the same record.
- foreign: a record in a log that this run never sent.

Records that were sent and never acknowledged may be there once or not at all.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

EXAMPLES_MAX = 20
"""How many findings are kept as text; all are counted."""


class Acknowledged(msgspec.Struct, frozen=True, gc=False):
    """A record that a broker acknowledged, and where."""

    sequence: int
    key: str | None
    fingerprint: bytes
    partition: int
    offset: int


class StoredRecord(msgspec.Struct, frozen=True, gc=False):
    """A record in one broker's copy of a partition; what it does not name is None."""

    offset: int
    sequence: int | None
    key: str | None
    fingerprint: bytes
    writer: int | None = None


def fingerprint(value: bytes) -> bytes:
    """Eight bytes that stand for a value, so that a run need not keep every value."""
    return hashlib.blake2b(value, digest_size=8).digest()


@dataclass(frozen=True, slots=True)
class Verdict:
    """Counts of one run; `read` is by broker, `examples` tells the first findings in words."""

    acknowledged: int
    read: Mapping[int, int]
    lost: int
    duplicated: int
    out_of_order: int
    divergent: int
    foreign: int
    examples: tuple[str, ...]

    @property
    def is_clean(self) -> bool:
        """Whether nothing happened that must never happen."""
        return not (
            self.lost or self.duplicated or self.out_of_order or self.divergent or self.foreign
        )


class HistoryCheck:
    """Compares one run's acknowledgements with the brokers' logs.

    Args:
        sent: how many records the run numbered, from 0, whether acknowledged or not.
    """

    def __init__(self, sent: int) -> None:
        self.sent = sent
        self._acknowledged: dict[int, Acknowledged] = {}
        self._by_partition: dict[int, list[Acknowledged]] = {}
        self._read: dict[int, int] = {}
        # By broker: the partition in which a record, and a key, was first seen.
        self._partition_of_sequence: dict[int, dict[int, int]] = {}
        self._partition_of_key: dict[int, dict[str, int]] = {}
        # Records and positions, not findings: three brokers with one fault count it once.
        self._lost: set[int] = set()
        self._duplicates: set[tuple[int, int]] = set()
        self._out_of_order: set[tuple[int, int]] = set()
        self._divergent: set[tuple[int, int]] = set()
        self._foreign: set[tuple[int, int]] = set()
        self._examples: list[str] = []

    def acknowledgements(self) -> list[Acknowledged]:
        """All that were taken in, each record once."""
        return list(self._acknowledged.values())

    @property
    def acknowledged(self) -> int:
        """Records acknowledged so far."""
        return len(self._acknowledged)

    def acknowledge(self, record: Acknowledged) -> None:
        """Take in an acknowledgement; a repeated one must name the same position."""
        assert 0 <= record.sequence < self.sent, record
        known = self._acknowledged.get(record.sequence)
        if known is None:
            self._acknowledged[record.sequence] = record
            self._by_partition.setdefault(record.partition, []).append(record)
        elif (known.partition, known.offset) != (record.partition, record.offset):
            self._duplicates.add((record.partition, record.offset))
            self._example(f"{_name(record)} was acknowledged before at {_name(known)}")

    def end_offsets(self) -> dict[int, int]:
        """By partition: one above the last acknowledged offset."""
        return {
            partition: max(record.offset for record in records) + 1
            for partition, records in self._by_partition.items()
        }

    def check_partition(self, partition: int, copies: Mapping[int, Sequence[StoredRecord]]) -> None:
        """Compare one partition's copies, by broker, each in the order in which it was read.

        Each partition is checked once, after the last acknowledgement.
        """
        for broker, copy in copies.items():
            self._read[broker] = self._read.get(broker, 0) + len(copy)
            self._check_copy(broker, partition, copy)
        self._check_divergence(partition, copies)

    def verdict(self) -> Verdict:
        """The counts so far; records of partitions that were never checked are lost."""
        lost = len(self._lost) + sum(len(records) for records in self._by_partition.values())
        return Verdict(
            acknowledged=len(self._acknowledged),
            read=dict(self._read),
            lost=lost,
            duplicated=len(self._duplicates),
            out_of_order=len(self._out_of_order),
            divergent=len(self._divergent),
            foreign=len(self._foreign),
            examples=tuple(self._examples),
        )

    def _check_copy(self, broker: int, partition: int, copy: Sequence[StoredRecord]) -> None:
        seen = self._partition_of_sequence.setdefault(broker, {})
        partition_of_key = self._partition_of_key.setdefault(broker, {})
        # Writers of one key do not wait for one another: order is each writer's own.
        last_by_key: dict[tuple[str, int | None], int] = {}
        for record in copy:
            sequence, position = record.sequence, (partition, record.offset)
            where = f"broker {broker}, {partition}@{record.offset}"
            if sequence is None or not 0 <= sequence < self.sent:
                self._foreign.add(position)
                self._example(f"{where}: a record that was never sent ({sequence})")
                continue
            if sequence in seen:
                self._duplicates.add(position)
                self._example(
                    f"{where}: record {sequence} again, it is in partition {seen[sequence]}"
                )
                continue
            seen[sequence] = partition
            if record.key is None:
                continue
            if partition_of_key.setdefault(record.key, partition) != partition:
                self._out_of_order.add(position)
                self._example(f"{where}: key {record.key} is in another partition too")
            last = last_by_key.get((record.key, record.writer), -1)
            if sequence < last:
                self._out_of_order.add(position)
                self._example(f"{where}: record {sequence} of {record.key} after {last}")
            last_by_key[record.key, record.writer] = max(last, sequence)

    def _check_divergence(
        self, partition: int, copies: Mapping[int, Sequence[StoredRecord]]
    ) -> None:
        by_offset = {
            broker: {record.offset: record for record in copy} for broker, copy in copies.items()
        }
        for acknowledged in self._by_partition.pop(partition, []):
            for broker, copy in by_offset.items():
                if not _is_held(acknowledged, copy.get(acknowledged.offset)):
                    self._lost.add(acknowledged.sequence)
                    self._example(f"broker {broker}: {_name(acknowledged)} is not there")
            if not by_offset:
                self._lost.add(acknowledged.sequence)
        for offset in sorted({offset for copy in by_offset.values() for offset in copy}):
            held = [copy.get(offset) for copy in by_offset.values()]
            if any(record != held[0] for record in held):
                self._divergent.add((partition, offset))
                missing = [broker for broker, copy in by_offset.items() if offset not in copy]
                what = f"missing on {missing}" if missing else "not the same record"
                self._example(f"{partition}@{offset}: {what}")

    def _example(self, text: str) -> None:
        if len(self._examples) < EXAMPLES_MAX:
            self._examples.append(text)


def _is_held(acknowledged: Acknowledged, stored: StoredRecord | None) -> bool:
    return stored is not None and (stored.sequence, stored.key, stored.fingerprint) == (
        acknowledged.sequence,
        acknowledged.key,
        acknowledged.fingerprint,
    )


def _name(record: Acknowledged) -> str:
    return f"record {record.sequence} at {record.partition}@{record.offset}"
