"""Which markers leave for which leader, and when again: the writer's part without its IO.

Markers are grouped by the partition that they are for. One call at a time is under way to each
leader, with all that waits for its partitions. So a decision leaves at once where nothing is under
way, and under load many share a round of replication.

A partition whose markers were not taken is tried again, later each time and for ever: nobody else
ends the transactions there. It is tried in a call of its own and its like, so that one that cannot
be written to holds up no other, and at once where it has got another leader.
"""

from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

from ottla_cluster.transactions.marker_work import MarkersToWrite
from ottla_cluster.transactions.records import ProducerIdentity, TransactionPartition

MAX_MARKERS_PER_CALL = 1_000
"""Markers in one call to a leader."""

MAX_FRESH_CALLS_PER_LEADER = 1
"""Calls to one leader at a time, with markers of partitions that are well. Each is a connection
that the cluster sets aside."""

MAX_REPEATED_CALLS_PER_LEADER = 1
"""Calls to one leader at a time, with markers that could not be written before."""

MARKER_CALLS_PER_LEADER = MAX_FRESH_CALLS_PER_LEADER + MAX_REPEATED_CALLS_PER_LEADER

FIRST_RETRY_MS = 50
LAST_RETRY_MS = 1_000
"""How long until a partition is tried again; twice as long each time."""


class CoordinatorEpoch(NamedTuple):
    """One leadership of one partition of the transaction topic."""

    partition: int
    leader_epoch: int


class Marker(NamedTuple):
    """A marker for one partition, and whose it is."""

    coordinator: CoordinatorEpoch
    transactional_id: str
    identity: ProducerIdentity
    """What it carries."""
    is_commit: bool


class Leadership(NamedTuple):
    """Who leads a partition."""

    node_id: int | None
    """None while nobody does."""
    leader_epoch: int


@dataclass(frozen=True, slots=True)
class MarkerCall:
    """One call: markers by partition, in the order of their decisions."""

    node_id: int | None
    """The leader to send them to; None: the partitions are unknown here, and whoever carries the
    call out is to find out whether they are deleted."""
    is_repeated: bool
    markers: Mapping[TransactionPartition, tuple[Marker, ...]]


@dataclass(slots=True)
class _Lane:
    """The markers for one partition, and how it has fared."""

    waiting: dict[Marker, None] = field(default_factory=dict)
    """In the order of their decisions."""
    in_flight: dict[Marker, None] = field(default_factory=dict)
    failures: int = 0
    """In a row."""
    tried: Leadership | None = None
    due_ms: int = 0


class MarkerPlanner:
    """The markers of all coordinators on one broker that are not known to be written."""

    def __init__(self) -> None:
        self._lanes: dict[TransactionPartition, _Lane] = {}
        # Calls under way, by leader and whether they are repeated.
        self._calls: dict[tuple[int | None, bool], int] = {}

    @property
    def count(self) -> int:
        """How many markers are missing."""
        return sum(len(lane.waiting) + len(lane.in_flight) for lane in self._lanes.values())

    @property
    def overdue_count(self) -> int:
        """How many of them are for partitions that did not take theirs when they were last sent."""
        failing = (lane for lane in self._lanes.values() if lane.failures)
        return sum(len(lane.waiting) + len(lane.in_flight) for lane in failing)

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to write."""
        return not self._lanes

    def decided(self, coordinator: CoordinatorEpoch, decision: MarkersToWrite) -> None:
        """A decision is durable: its markers may leave."""
        marker = Marker(coordinator, decision.transactional_id, decision.marker, decision.is_commit)
        for partition in decision.partitions:
            lane = self._lanes.setdefault(partition, _Lane())
            if marker not in lane.in_flight:
                lane.waiting[marker] = None

    def resigned(self, coordinator: CoordinatorEpoch) -> None:
        """The coordinator is none any more: the next one writes its markers, all of them."""
        for partition, lane in list(self._lanes.items()):
            # What is under way is not taken back; but it is not sent again.
            lane.waiting = _without(lane.waiting, coordinator)
            lane.in_flight = _without(lane.in_flight, coordinator)
            self._forget_if_done(partition)

    def plan(
        self, leadership_of: Callable[[TransactionPartition], Leadership | None], now_ms: int
    ) -> tuple[MarkerCall, ...]:
        """The calls to make now; each must be told to `finished` in the end.

        Args:
            leadership_of: who leads a partition; None where it is unknown.
            now_ms: the monotonic clock.
        """
        ready: dict[tuple[int | None, bool], list[TransactionPartition]] = {}
        for partition, lane in self._lanes.items():
            if lane.in_flight or not lane.waiting:
                continue
            leadership = leadership_of(partition)
            if now_ms < lane.due_ms and leadership == lane.tried:
                continue
            lane.tried = leadership
            if leadership is not None and leadership.node_id is None:
                self._failed(lane, now_ms)
                continue
            node_id = None if leadership is None else leadership.node_id
            ready.setdefault((node_id, lane.failures > 0), []).append(partition)
        calls: list[MarkerCall] = []
        for place, partitions in ready.items():
            calls += self._calls_to(place, partitions)
        return tuple(calls)

    def finished(
        self,
        call: MarkerCall,
        written: Mapping[TransactionPartition, Collection[Marker]],
        now_ms: int,
    ) -> None:
        """A call is over; what of it is not in `written` is tried again."""
        self._calls[call.node_id, call.is_repeated] -= 1
        for partition, markers in call.markers.items():
            lane = self._lanes.get(partition)
            if lane is None:
                continue  # Their coordinators have resigned.
            has = written.get(partition, ())
            missing = [each for each in markers if each in lane.in_flight and each not in has]
            for marker in markers:
                lane.in_flight.pop(marker, None)
            # They were decided before those that wait.
            lane.waiting = dict.fromkeys((*missing, *lane.waiting))
            if missing:
                self._failed(lane, now_ms)
            else:
                lane.failures = lane.due_ms = 0
            self._forget_if_done(partition)

    def worst(self) -> tuple[TransactionPartition, int] | None:
        """The partition that has failed most often in a row, and how often; None if none has."""
        failing = [(lane.failures, each) for each, lane in self._lanes.items() if lane.failures]
        if not failing:
            return None
        failures, partition = max(failing)
        return partition, failures

    def _calls_to(
        self, place: tuple[int | None, bool], partitions: Iterable[TransactionPartition]
    ) -> Iterable[MarkerCall]:
        """As many calls as may be under way at a time; what is left waits for one to end."""
        node_id, is_repeated = place
        most = MAX_REPEATED_CALLS_PER_LEADER if is_repeated else MAX_FRESH_CALLS_PER_LEADER
        left = deque(partitions)
        while left and self._calls.get(place, 0) < most:
            room = MAX_MARKERS_PER_CALL
            markers: dict[TransactionPartition, tuple[Marker, ...]] = {}
            while left and room:
                partition = left.popleft()
                lane = self._lanes[partition]
                taken = tuple(islice(lane.waiting, room))
                for marker in taken:
                    del lane.waiting[marker]
                lane.in_flight = dict.fromkeys(taken)
                markers[partition] = taken
                room -= len(taken)
            self._calls[place] = self._calls.get(place, 0) + 1
            yield MarkerCall(node_id, is_repeated, markers)

    def _failed(self, lane: _Lane, now_ms: int) -> None:
        lane.due_ms = now_ms + min(FIRST_RETRY_MS << min(lane.failures, 16), LAST_RETRY_MS)
        lane.failures += 1

    def _forget_if_done(self, partition: TransactionPartition) -> None:
        lane = self._lanes[partition]
        if not lane.waiting and not lane.in_flight:
            del self._lanes[partition]


def _without(markers: dict[Marker, None], coordinator: CoordinatorEpoch) -> dict[Marker, None]:
    return {each: None for each in markers if each.coordinator != coordinator}
