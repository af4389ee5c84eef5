"""From fetched batches to what poll returns: decoding and handing out, in the caller's thread.

Everything per record happens here and in `_consumer_record`. The lock is taken for a moment before
and after, and what was begun is dropped if the partition has been moved or revoked meanwhile.
"""

from collections.abc import Callable
from copy import copy
from typing import Any, Final

from ottla._consumer_record import ConsumerRecord, decode, deserialize
from ottla._consumer_types import TopicPartition
from ottla._deserializers import Deserializer, deserialize_bytes
from ottla._errors import NoOffsetForPartitionError
from ottla._positions import PartitionState, Positions
from ottla_protocol.errors import (
    CorruptMessageError,
    MessageTooLargeError,
    OffsetOutOfRangeError,
    OttlaError,
)

LASTING_ERRORS: Final = (
    CorruptMessageError,
    MessageTooLargeError,
    NoOffsetForPartitionError,
    OffsetOutOfRangeError,
)
"""Errors that only a seek ends; after any other one, the next poll tries again."""


class Handout:
    """Hands out what was fetched.

    Args:
        positions: the consumer's partitions.
        lock: guards them.
        key_deserializer: called for each key, unless it leaves bytes as they are.
        value_deserializer: as above.
        may_read: whether a partition is certainly nobody else's now.
        wake: has the driver look again; called when a partition has room for another fetch.
        most_buffered_bytes: of one partition; below it another fetch is due.
    """

    def __init__(
        self,
        positions: Positions,
        lock: Any,
        *,
        key_deserializer: Deserializer,
        value_deserializer: Deserializer,
        may_read: Callable[[TopicPartition], bool],
        wake: Callable[[], None],
        most_buffered_bytes: int,
    ) -> None:
        self._positions = positions
        self._lock = lock
        self._key_deserializer = key_deserializer
        self._value_deserializer = value_deserializer
        self._is_plain = (
            key_deserializer is deserialize_bytes and value_deserializer is deserialize_bytes
        )
        self._may_read = may_read
        self._wake = wake
        self._most_buffered_bytes = most_buffered_bytes
        self.records = 0

    def take(self, max_records: int) -> dict[TopicPartition, list[ConsumerRecord]]:
        """Up to `max_records` records that are there, by partition.

        Raises:
            OttlaError: the first in turn cannot be read on, and nothing else was taken.
        """
        taken: dict[TopicPartition, list[ConsumerRecord]] = {}
        left = max_records
        while left > 0:
            try:
                part = self._next_part(left, is_first=not taken, iterates=False)
            except BaseException:
                # An interrupt, for example: what was taken before would reach nobody.
                self.take_back(taken)
                raise
            if part is None:
                break
            first = part[0]
            name = TopicPartition(first.topic, first.partition)
            known = taken.get(name)
            if known is None:
                taken[name] = part
            else:
                known += part
            left -= len(part)
        return taken

    def take_back(self, taken: dict[TopicPartition, list[ConsumerRecord]]) -> None:
        """These were handed out just now, and never reached the application."""
        with self._lock:
            for name, part in taken.items():
                self._positions.take_back(name, part[0].offset)

    def take_to_iterate(self, max_records: int) -> list[ConsumerRecord]:
        """Up to `max_records` records of one partition, to be given out one by one.

        Raises:
            OttlaError: the first in turn cannot be read on.
        """
        return self._next_part(max_records, is_first=True, iterates=True) or []

    def _next_part(
        self, limit: int, *, is_first: bool, iterates: bool
    ) -> list[ConsumerRecord] | None:
        """Records of one partition, one at least; None where there are none."""
        while True:
            batch = part = offset = None
            with self._lock:
                state = self._positions.next_ready()
                if state is None or not self._may_read(state.name):
                    return None
                if state.error is not None:
                    if is_first:
                        raise self._raised(state)
                    return None
                version = state.version
                if state.index == len(state.records):
                    batch, offset = self._next_batch(state), state.position
                else:
                    part = state.records[state.index : state.index + limit]
                    if self._is_plain:
                        return self._given(state, part, iterates=iterates)
            if isinstance(batch, int):
                self._skip(state, version, batch)
                continue
            if batch is not None:
                assert offset is not None, "there are batches only behind a position"
                self._decode(state, version, batch, offset)
                continue
            assert part is not None
            made, failure = deserialize(part, self._key_deserializer, self._value_deserializer)
            with self._lock:
                if state.version != version:
                    continue
                if made:
                    return self._given(state, made, iterates=iterates)
            if not is_first:
                return None
            assert failure is not None, "nothing was made, and nothing failed"
            raise failure

    def _given(
        self, state: PartitionState, part: list[ConsumerRecord], *, iterates: bool
    ) -> list[ConsumerRecord]:
        self._positions.hand_out(state, len(part))
        if iterates:
            self._positions.begin_iterating(state, part[0].offset)
        self.records += len(part)
        return part

    def _next_batch(self, state: PartitionState) -> memoryview | int:
        batch = state.buffered.popleft()
        had_room = state.buffered_bytes < self._most_buffered_bytes
        if not isinstance(batch, int):
            state.buffered_bytes -= len(batch)
        has_room = state.buffered_bytes < self._most_buffered_bytes
        if (has_room and not had_room) or self._positions.lacks_room:
            self._positions.lacks_room = False
            self._wake()
        return batch

    def _skip(self, state: PartitionState, version: int, next_offset: int) -> None:
        """Go on behind what the broker left out."""
        with self._lock:
            if state.version == version:
                state.load([], next_offset)
                self._positions.refresh_ready(state)

    def _decode(self, state: PartitionState, version: int, batch: memoryview, offset: int) -> None:
        topic, partition = state.name
        error: OttlaError | None = None
        decoded = None
        try:
            decoded = decode(topic, partition, batch, offset)
        except (CorruptMessageError, MessageTooLargeError) as failure:
            error = type(failure)(
                f"{topic}-{partition} at offset {offset}: {failure.detail}",
                topic=topic,
                partition=partition,
                offset=offset,
            )
            error.__cause__ = failure
        except BaseException:
            # An interrupt, for example: the next poll must not go on behind this batch.
            with self._lock:
                if state.version == version:
                    state.buffered.appendleft(batch)
                    state.buffered_bytes += len(batch)
            raise
        with self._lock:
            if state.version != version:
                return
            state.error = error
            if decoded is not None:
                state.load(decoded.records, decoded.next_offset)
            self._positions.refresh_ready(state)

    def _raised(self, state: PartitionState) -> OttlaError:
        """The partition's error, to be raised; a copy, so that tracebacks do not pile up."""
        error = state.error
        assert error is not None
        if not isinstance(error, LASTING_ERRORS):
            state.error = None
            self._positions.end_turn(state)
            self._wake()
        raised = copy(error)
        raised.__cause__ = error.__cause__
        return raised
