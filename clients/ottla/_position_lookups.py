"""Finding the positions to begin from: what the group has committed, else a partition's end. Pure.

`next_lookups(now_ms)` returns requests; each ends with one `on_answer` or `on_failure`. Committed
offsets are asked for once for all partitions that need one; ends are asked for one by one.

Nothing is asked for before the application knows that it has a partition. It may have lost it and
got it back while it is at work on its records, and a commit of those, also one with a transaction,
is good: what was committed before that would be read again.
"""

from dataclasses import dataclass
from typing import Final, Protocol
from urllib.parse import quote

import msgspec

from ottla._consumer_types import TopicPartition
from ottla._errors import NoOffsetForPartitionError
from ottla._group_calls import committed_call, committed_in
from ottla._positions import BackoffOptions, PartitionState, Positions, Start
from ottla._transport import BrokerUnreachableError
from ottla_protocol import routes
from ottla_protocol.errors import OttlaError, UnknownTopicOrPartitionError
from ottla_protocol.models import OffsetResponse

MAX_LOOKUPS: Final = 8
"""Requests for offsets that are out at the same time."""


class LookupOptions(BackoffOptions, Protocol):
    """The options that matter here; `ConsumerConfig` has them."""

    @property
    def group_id(self) -> str | None: ...
    @property
    def auto_offset_reset(self) -> str: ...
    @property
    def request_timeout_ms(self) -> int: ...
    @property
    def reads_committed(self) -> bool: ...


@dataclass(frozen=True, slots=True, eq=False)
class Lookup:
    """One request.

    Attributes:
        path: with its query.
        wanted: the partitions that wait for it, and under which version.
        partition: the one whose end is asked for; None asks for what the group has committed.
    """

    path: str
    wanted: tuple[tuple[PartitionState, int], ...]
    partition: TopicPartition | None


class PositionLookups:
    """Finds positions.

    Args:
        options: the consumer's.
        positions: its partitions.

    Attributes:
        tells_unknown: as the fetcher's.
    """

    def __init__(self, options: LookupOptions, positions: Positions) -> None:
        self._options = options
        self._positions = positions
        self._out = 0
        self.tells_unknown = True

    def next_lookups(self, now_ms: int) -> list[Lookup]:
        """What to ask now."""
        lookups: list[Lookup] = []
        committed: list[tuple[PartitionState, int]] = []
        for state in self._positions.states.values():
            if not _wants(state) or state.retry_at_ms > now_ms:
                continue
            if state.start is Start.COMMITTED and self._options.group_id is None:
                self._reset(state)
                if state.error is not None:
                    continue
            if state.start is Start.COMMITTED:
                state.finding = state.version
                committed.append((state, state.version))
            elif self._out + len(lookups) < MAX_LOOKUPS:
                state.finding = state.version
                lookups.append(self._end_lookup(state))
        if committed:
            assert self._options.group_id is not None
            call = committed_call(
                self._options.group_id,
                timeout_ms=self._options.request_timeout_ms,
                requires_stable=self._options.reads_committed,
            )
            lookups.append(Lookup(call.path, tuple(committed), None))
        self._out += len(lookups)
        return lookups

    def next_lookup_ms(self, now_ms: int) -> int | None:
        """When `next_lookups` may have something although nothing happens; None is never."""
        times = [
            state.retry_at_ms
            for state in self._positions.states.values()
            if _wants(state) and state.retry_at_ms > now_ms
        ]
        return min(times, default=None)

    def on_answer(self, lookup: Lookup, body: bytes, now_ms: int) -> None:
        """Take in a good answer.

        Raises:
            BrokerUnreachableError: it is none; nothing was taken in.
        """
        if lookup.partition is None:
            found = committed_in(body)
            self._end(lookup)
            for state, version in lookup.wanted:
                offset = found.get(state.name)
                if offset is not None:
                    self._positions.found(state, version, offset.offset)
                elif state.version == version:
                    self._reset(state)
                    state.retry_at_ms = now_ms
            return
        offset_there = decode_offset(body).offset
        self._end(lookup)
        for state, version in lookup.wanted:
            self._positions.found(state, version, offset_there)

    def on_failure(self, lookup: Lookup, error: OttlaError, now_ms: int) -> None:
        """Take in that there was no good answer."""
        self._end(lookup)
        passes = error.retriable
        if isinstance(error, UnknownTopicOrPartitionError):
            passes = not self.tells_unknown
        for state, version in lookup.wanted:
            if state.version != version:
                continue
            state.back_off(now_ms, self._options)
            if not passes:
                state.error = error
                self._positions.refresh_ready(state)

    def _end_lookup(self, state: PartitionState) -> Lookup:
        at = "earliest" if state.start is Start.EARLIEST else "latest"
        path = offset_path(state.name, at, is_committed=self._options.reads_committed)
        return Lookup(path, ((state, state.version),), state.name)

    def _end(self, lookup: Lookup) -> None:
        self._out -= 1
        for state, version in lookup.wanted:
            if state.finding == version:
                state.finding = None

    def _reset(self, state: PartitionState) -> None:
        """There is no committed offset: begin where `auto_offset_reset` says."""
        reset = self._options.auto_offset_reset
        if reset == "none":
            topic, partition = state.name
            state.error = NoOffsetForPartitionError(
                f"there is no committed offset for {topic}-{partition}, and auto_offset_reset is "
                "none",
                topic=topic,
                partition=partition,
            )
            self._positions.refresh_ready(state)
        else:
            state.start = Start.EARLIEST if reset == "earliest" else Start.LATEST


def offset_path(partition: TopicPartition, at: str | int, *, is_committed: bool) -> str:
    """The question where a partition begins, ends, or has its first record of a time.

    With `is_committed` it ends where readers of committed records do.
    """
    topic, number = partition
    path = routes.PARTITION_OFFSETS.format(topic=quote(topic, safe=""), partition=number)
    isolation = "&isolation=read_committed" if is_committed and at != "earliest" else ""
    return f"{path}?at={at}{isolation}"


def decode_offset(body: bytes) -> OffsetResponse:
    """The answer about one partition's offset.

    Raises:
        BrokerUnreachableError: it is none.
    """
    try:
        return msgspec.json.decode(body, type=OffsetResponse)
    except msgspec.MsgspecError as error:
        raise BrokerUnreachableError(f"not an answer of a broker: {error}") from error


def _wants(state: PartitionState) -> bool:
    return (
        state.start is not None
        and state.finding != state.version
        and state.error is None
        and state.is_announced
        and not state.is_held
    )
