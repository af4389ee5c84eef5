"""Where a consumer is on each of its partitions. Pure.

A partition has three offsets. Its `position` is that of the next record to be handed out. Its
`finished` offset is where the application has got to: records are finished with when the next poll
is asked for, or in an iteration the next record. Auto commit takes that one, so it never covers
what is still being worked on. Its `fetch_offset` runs ahead, behind what is already fetched.

`version` tells whether something that was begun is still wanted: it changes whenever the position
is set from outside or the partition must not be read any more, and answers of an older version are
dropped.

Everything here is used under the consumer's lock, save `current`, which an iteration sets for each
record and others only read.
"""

from bisect import bisect_left
from collections import deque
from collections.abc import Container, Iterable
from enum import Enum
from operator import attrgetter
from typing import Final, Protocol

from ottla._consumer_record import ConsumerRecord
from ottla._consumer_types import OffsetAndMetadata, TopicPartition
from ottla._errors import NotAssignedError
from ottla_protocol.errors import OttlaError

_offset_of = attrgetter("offset")


MAX_BACKOFF_DOUBLINGS: Final = 20


class BackoffOptions(Protocol):
    """How long to wait before a retry; `ConsumerConfig` has it."""

    @property
    def retry_backoff_ms(self) -> int: ...
    @property
    def retry_backoff_max_ms(self) -> int: ...


def backoff_ms(failures: int, options: BackoffOptions) -> int:
    """The wait after so many failures, at least one."""
    doublings = min(failures - 1, MAX_BACKOFF_DOUBLINGS)
    longest_ms = max(options.retry_backoff_ms, options.retry_backoff_max_ms)
    return min(options.retry_backoff_ms << doublings, longest_ms)


class Start(Enum):
    """How the position of a partition is found."""

    COMMITTED = "committed"
    EARLIEST = "earliest"
    LATEST = "latest"


class Fetching(Protocol):
    """A fetch of one partition that is out."""

    @property
    def version(self) -> int: ...
    @property
    def leader_epoch(self) -> int: ...


class PartitionState:
    """One partition that the consumer reads.

    Attributes:
        name: the partition.
        position: next record to be handed out; None until it is found.
        finished: where the application has got to; None until there is a position.
        committed: what was committed last, so that it is not committed again.
        start: how to find the position; None when it is there.
        leader_epoch: of the record before `position`, if known.
        topic_id: the topic that the position is in, once something was fetched there: the topic may
            be deleted, and its name given to another one.
        version: see this module's description.
        is_paused: the application wants nothing of it for now.
        is_announced: the application knows that it has it.
        is_held: it is being given up, and must not be read.
        error: to be raised by the next poll.
        fetch_offset: where the next fetch begins.
        served: when it was last fetched, by number; the others come first.
        fetching: the fetch that is out, None if none is; the answers of others are dropped.
        finding: the version of the look-up that is out, None if none is.
        retry_at_ms: nothing is asked for before.
        failures: of the latest requests, without a success.
        buffered, buffered_bytes: fetched batches that are not decoded yet. An int is where to go on
            behind what the broker left out.
        records, index: the decoded batch, and how many of it were handed out.
        next_offset: where reading goes on after `records`.
        readable_end: what the leader lets this reader see ends there: at the high watermark, or at
            the last stable offset; as last heard of.
        log_start_offset: likewise.
    """

    __slots__ = (
        "buffered",
        "buffered_bytes",
        "committed",
        "error",
        "failures",
        "fetch_offset",
        "fetching",
        "finding",
        "finished",
        "index",
        "is_announced",
        "is_held",
        "is_paused",
        "leader_epoch",
        "log_start_offset",
        "name",
        "next_offset",
        "position",
        "readable_end",
        "records",
        "retry_at_ms",
        "served",
        "start",
        "topic_id",
        "version",
    )

    def __init__(self, name: TopicPartition, *, is_announced: bool) -> None:
        self.name = name
        self.position: int | None = None
        self.finished: int | None = None
        self.committed: int | None = None
        self.start: Start | None = Start.COMMITTED
        self.leader_epoch: int | None = None
        self.topic_id: str | None = None
        self.version = 0
        self.is_paused = False
        self.is_announced = is_announced
        self.is_held = False
        self.error: OttlaError | None = None
        self.fetch_offset = 0
        self.fetching: Fetching | None = None
        self.finding: int | None = None
        self.retry_at_ms = 0
        self.served = 0
        self.failures = 0
        self.buffered: deque[memoryview | int] = deque()
        self.buffered_bytes = 0
        self.records: list[ConsumerRecord] = []
        self.index = 0
        self.next_offset = 0
        self.readable_end: int | None = None
        self.log_start_offset: int | None = None

    @property
    def has_records(self) -> bool:
        """Whether something fetched waits to be handed out."""
        return self.index < len(self.records) or bool(self.buffered)

    @property
    def is_readable(self) -> bool:
        """Whether its records may be handed out now."""
        return self.is_announced and not self.is_held and not self.is_paused

    def move_to(self, offset: int) -> None:
        """Go on from `offset`, and forget what was fetched for another place."""
        self.start = None
        self.position = self.finished = self.fetch_offset = offset
        self.leader_epoch = None
        self.topic_id = None
        self.drop_fetched()

    def find(self, start: Start) -> None:
        """Have the position found anew."""
        self.start = start
        self.position = self.finished = None
        self.leader_epoch = None
        self.topic_id = None
        self.drop_fetched()

    def back_off(self, now_ms: int, options: "BackoffOptions") -> None:
        """Ask for nothing for a while, which doubles from failure to failure."""
        self.failures += 1
        self.retry_at_ms = now_ms + backoff_ms(self.failures, options)

    def drop_fetched(self) -> None:
        """Forget what was fetched, what is being fetched, and errors."""
        self.version += 1
        self.error = None
        self.retry_at_ms = 0
        self.buffered.clear()
        self.buffered_bytes = 0
        self.records = []
        self.index = 0

    def drop_batches(self) -> None:
        """Forget what is not decoded yet; it is fetched again when it is wanted."""
        self.version += 1
        self.buffered.clear()
        self.buffered_bytes = 0
        if self.index < len(self.records):
            self.fetch_offset = self.next_offset
        elif self.position is not None:
            self.fetch_offset = self.position

    def load(self, records: list[ConsumerRecord], next_offset: int) -> None:
        """Make these the decoded batch; `next_offset` follows it."""
        self.records = records
        self.index = 0
        self.next_offset = next_offset
        if not records:
            if self.finished == self.position:
                # Nothing is being worked on, so there is nothing to wait for.
                self.finished = next_offset
            self.position = next_offset

    def hand_out(self, count: int) -> None:
        """The next `count` records of the decoded batch go to the application."""
        self.index += count
        last = self.records[self.index - 1]
        is_end = self.index == len(self.records)
        self.position = self.next_offset if is_end else last.offset + 1
        self.leader_epoch = last.leader_epoch

    def go_back_to(self, offset: int) -> None:
        """Records from `offset` on, of those handed out last, were not looked at after all."""
        if self.records:
            self.index = bisect_left(self.records, offset, key=_offset_of)
            if self.index == len(self.records):
                return
        self.position = offset

    def go_back_behind_batches(self, offset: int) -> None:
        """As `go_back_to`, also before the decoded batch; `finished` stays."""
        records = self.records
        if records and records[0].offset <= offset <= records[-1].offset:
            self.index = bisect_left(records, offset, key=_offset_of)
            self.position = offset
        else:
            finished = self.finished
            self.move_to(offset)
            self.finished = finished


class Positions:
    """The partitions that a consumer reads, by name.

    Attributes:
        states: by partition.
        ready: those that have records or an error; the first in turn is handed out first.
        current: the record that an iteration has given out, None outside of iterations.
        ticket: of the latest look for records; None once an iteration has to look again before its
            next record. An iteration whose ticket is another one is over.
        lacks_room: something was not fetched because all partitions together have too much.
    """

    def __init__(self) -> None:
        self.states: dict[TopicPartition, PartitionState] = {}
        self.ready: dict[TopicPartition, PartitionState] = {}
        self.current: ConsumerRecord | None = None
        self.ticket: object = None
        self.lacks_room = False
        self._iterating: PartitionState | None = None
        self._iterating_from = 0
        self._iterating_last: ConsumerRecord | None = None
        self._handed_out: dict[TopicPartition, PartitionState] = {}

    @property
    def is_disturbed(self) -> bool:
        """Whether an iteration has to look again before its next record."""
        return self.ticket is None

    def state(self, name: TopicPartition) -> PartitionState:
        """The state of a partition.

        Raises:
            NotAssignedError: the consumer does not read it, or has to give it up.
        """
        state = self.states.get(name)
        if state is None or state.is_held:
            raise NotAssignedError(f"{name[0]}-{name[1]} is not assigned to this consumer")
        return state

    # --- which partitions -----------------------------------------------------------------------

    def assign(self, names: Iterable[TopicPartition]) -> None:
        """Read exactly these; what was read before goes on where it is."""
        wanted = dict.fromkeys(names)
        self.remove([name for name in self.states if name not in wanted])
        self.add([name for name in wanted if name not in self.states], is_announced=True)

    def add(self, names: Iterable[TopicPartition], *, is_announced: bool) -> None:
        """Read these too, from where the group is; those that are read already begin anew."""
        self.ticket = None
        for name in names:
            self._forget(name)
            self.states[name] = PartitionState(name, is_announced=is_announced)

    def remove(self, names: Iterable[TopicPartition]) -> None:
        """Read these no more."""
        self.ticket = None
        for name in names:
            self._forget(name)

    def hold(self, names: Iterable[TopicPartition]) -> None:
        """Hand out nothing more of these: they are being given up."""
        self.ticket = None
        for name in names:
            state = self.states.get(name)
            if state is not None:
                state.is_held = True
                state.drop_fetched()
                self.ready.pop(name, None)

    def _forget(self, name: TopicPartition) -> None:
        state = self.states.pop(name, None)
        if state is not None:
            state.drop_fetched()
            self.ready.pop(name, None)
            self._handed_out.pop(name, None)
            if self._iterating is state:
                self._iterating = self.current = None

    # --- handing out ----------------------------------------------------------------------------

    def next_ready(self) -> PartitionState | None:
        """The partition whose turn it is to be handed out."""
        for state in self.ready.values():
            if state.is_readable:
                return state
        return None

    def refresh_ready(self, state: PartitionState) -> None:
        """Put a partition among those that are ready, or take it out."""
        if state.has_records or state.error is not None:
            self.ready.setdefault(state.name, state)
        else:
            self.ready.pop(state.name, None)

    def end_turn(self, state: PartitionState) -> None:
        """The others come first now."""
        if self.ready.pop(state.name, None) is not None:
            self.refresh_ready(state)

    def hand_out(self, state: PartitionState, count: int) -> None:
        """`count` records of the decoded batch go to the application."""
        state.hand_out(count)
        self._handed_out[state.name] = state
        if state.index == len(state.records):
            self.end_turn(state)

    def begin_iterating(self, state: PartitionState, first_offset: int) -> None:
        """What was handed out last is looked at record by record, beginning with this offset."""
        self._iterating = state
        self._iterating_from = first_offset
        self._iterating_last = None
        self.current = None

    def iterate_to(self, last: ConsumerRecord | None) -> None:
        """With this record all that was handed out last is given out; with None it is already."""
        if last is None:
            self._iterating = self.current = None
        self._iterating_last = last

    def take_back(self, name: TopicPartition, offset: int) -> None:
        """Records from `offset` on, handed out just now, never reached the application."""
        state = self.states.get(name)
        if state is None or state.position is None or state.position <= offset:
            return
        self._handed_out.pop(name, None)
        if self._iterating is state:
            self._iterating = self.current = None
        state.go_back_behind_batches(offset)
        if not state.is_held:
            self.refresh_ready(state)

    def is_iterating(self, state: PartitionState) -> bool:
        """Whether an iteration is in the middle of this partition's records."""
        return self._iterating is state

    def settle_iteration(self) -> None:
        """An iteration is left, or looks again: what it has not given out yet was not handed out.

        Its last record counts as handed out, and not as finished with.
        """
        state = self._iterating
        if state is None:
            return
        given = self.current
        if given is None or given is not self._iterating_last:
            state.go_back_to(self._iterating_from if given is None else given.offset + 1)
        if given is not None:
            state.leader_epoch = given.leader_epoch
            state.finished = given.offset
        self._iterating = self.current = None
        self.ticket = None
        if self.states.get(state.name) is state and not state.is_held:
            self.refresh_ready(state)

    def finish(self) -> None:
        """The application asks for more: it is done with everything that it has."""
        self.settle_iteration()
        for state in self._handed_out.values():
            state.finished = state.position
        self._handed_out.clear()

    # --- offsets --------------------------------------------------------------------------------

    def seek(self, name: TopicPartition, offset: int) -> None:
        """Go on from `offset`.

        Raises:
            NotAssignedError: the consumer does not read the partition.
        """
        state = self.state(name)
        records = state.records
        if state.error is None and records and records[0].offset <= offset <= records[-1].offset:
            # It lies in what is there, so nothing has to be fetched again.
            state.index = bisect_left(records, offset, key=_offset_of)
            state.position = state.finished = offset
            state.leader_epoch = None
        else:
            state.move_to(offset)
        self._after_move(state)

    def seek_to(self, name: TopicPartition, start: Start) -> None:
        """Go on from where `start` finds.

        Raises:
            NotAssignedError: the consumer does not read the partition.
        """
        state = self.state(name)
        state.find(start)
        self._after_move(state)

    def found(self, state: PartitionState, version: int, offset: int) -> None:
        """A look-up that was begun under `version` found the position."""
        if state.finding == version:
            state.finding = None
        if state.version == version and state.start is not None:
            is_committed = state.start is Start.COMMITTED
            state.failures = 0
            state.move_to(offset)
            if is_committed:
                state.committed = offset

    def _after_move(self, state: PartitionState) -> None:
        self._handed_out.pop(state.name, None)
        self.refresh_ready(state)

    def position(self, state: PartitionState) -> int | None:
        """The next record to be handed out; None until it is known."""
        if state is not self._iterating:
            return state.position
        given = self.current
        return self._iterating_from if given is None else given.offset + 1

    def consumed(self) -> dict[TopicPartition, OffsetAndMetadata]:
        """What a commit without offsets commits: the position of everything that has one."""
        offsets: dict[TopicPartition, OffsetAndMetadata] = {}
        for name, state in self.states.items():
            position = self.position(state)
            if position is not None and state.is_announced:
                offsets[name] = OffsetAndMetadata(position, "", state.leader_epoch)
        return offsets

    def finished(
        self,
        names: Iterable[TopicPartition] | None = None,
        *,
        without: Container[TopicPartition] = (),
    ) -> dict[TopicPartition, OffsetAndMetadata]:
        """What auto commit commits: what is finished with and not committed yet.

        Args:
            names: only of these; None is all.
            without: not of these: a commit of them is on its way, and must not be undone.
        """
        offsets: dict[TopicPartition, OffsetAndMetadata] = {}
        for name in self.states if names is None else names:
            state = self.states.get(name)
            if state is None or not state.is_announced or name in without:
                continue
            offset = state.finished
            if state is self._iterating:
                given = self.current
                offset = self._iterating_from if given is None else given.offset
            if offset is not None and not self._is_committed(state, offset):
                offsets[name] = OffsetAndMetadata(offset)
        return offsets

    def _is_committed(self, state: PartitionState, offset: int) -> bool:
        """Whether this is committed, or more by the application itself of what it has."""
        committed, position = state.committed, self.position(state)
        if committed is None or position is None:
            return False
        return offset == committed or offset < committed <= position

    def note_committed(self, offsets: dict[TopicPartition, OffsetAndMetadata]) -> None:
        """These are committed."""
        for name, committed in offsets.items():
            state = self.states.get(name)
            if state is not None:
                state.committed = committed.offset
