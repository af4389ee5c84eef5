"""Which markers leave, for whom and when: all in the end, and a broken partition's alone."""

from hypothesis import given, settings
from hypothesis import strategies as st

from ottla_cluster.transactions.marker_planner import (
    FIRST_RETRY_MS,
    LAST_RETRY_MS,
    MAX_MARKERS_PER_CALL,
    CoordinatorEpoch,
    Leadership,
    Marker,
    MarkerPlanner,
)
from ottla_cluster.transactions.marker_work import MarkersToWrite
from ottla_cluster.transactions.records import ProducerIdentity, TransactionPartition

COORDINATOR = CoordinatorEpoch(3, 7)


def partition(number):
    return TransactionPartition("orders", "o" * 32, number)


def decision(name, *numbers, epoch=1, is_commit=True):
    return MarkersToWrite(
        name, ProducerIdentity(5, epoch), is_commit, frozenset(map(partition, numbers))
    )


class Planned:
    """A planner, and leaders that the test moves: partition n is led by broker n % 3."""

    def __init__(self):
        self.planner = MarkerPlanner()
        self.now_ms = 0
        self.leaders = {}

    def leadership(self, which):
        default = Leadership(which.partition % 3, 0)
        return self.leaders.get(which.partition, default)

    def decide(self, *arguments, coordinator=COORDINATOR, **options):
        self.planner.decided(coordinator, decision(*arguments, **options))

    def plan(self, after_ms=0):
        self.now_ms += after_ms
        return self.planner.plan(self.leadership, self.now_ms)

    def finish(self, call, *but):
        """The leader has written all but the partitions of these numbers."""
        written = {
            each: markers for each, markers in call.markers.items() if each.partition not in but
        }
        self.planner.finished(call, written, self.now_ms)


def numbers(call):
    return {each.partition for each in call.markers}


def test_a_decision_leaves_at_once_for_each_leader_and_once_only():
    planned = Planned()
    planned.decide("t", 0, 1, 3)
    calls = planned.plan()
    assert {call.node_id: numbers(call) for call in calls} == {0: {0, 3}, 1: {1}}
    assert planned.plan(10_000) == ()
    assert (planned.planner.count, planned.planner.overdue_count) == (3, 0)
    for call in calls:
        planned.finish(call)
    assert planned.planner.is_idle
    assert planned.planner.count == 0


def test_what_is_decided_during_a_call_shares_the_next_one():
    planned = Planned()
    planned.decide("a", 0)
    (first,) = planned.plan()
    planned.decide("b", 0)
    planned.decide("c", 0, 3)
    assert planned.plan() == ()
    planned.finish(first)
    (second,) = planned.plan()
    names = [marker.transactional_id for marker in second.markers[partition(0)]]
    assert (names, numbers(second)) == (["b", "c"], {0, 3})


def test_what_was_not_written_is_tried_again_later_each_time_and_for_ever():
    planned = Planned()
    planned.decide("t", 0)
    waits = []
    (call,) = planned.plan()
    for _ in range(12):
        planned.finish(call, 0)
        waited_ms = 0
        while not (calls := planned.plan(1)):
            waited_ms += 1
            assert waited_ms <= LAST_RETRY_MS
        (call,) = calls
        waits.append(waited_ms + 1)
    assert waits[:3] == [FIRST_RETRY_MS, 2 * FIRST_RETRY_MS, 4 * FIRST_RETRY_MS]
    assert waits[-1] == LAST_RETRY_MS
    assert planned.planner.worst() == (partition(0), 12)
    assert planned.planner.overdue_count == 1
    planned.finish(call)
    assert planned.planner.is_idle


def test_markers_that_come_again_come_before_later_ones():
    planned = Planned()
    planned.decide("a", 0)
    (call,) = planned.plan()
    planned.decide("b", 0)
    planned.finish(call, 0)
    (again,) = planned.plan(FIRST_RETRY_MS)
    assert [each.transactional_id for each in again.markers[partition(0)]] == ["a", "b"]


def test_another_leader_is_tried_at_once():
    planned = Planned()
    planned.decide("t", 0)
    (call,) = planned.plan()
    planned.finish(call, 0)
    assert planned.plan() == ()
    planned.leaders[0] = Leadership(2, 1)
    (call,) = planned.plan()
    assert call.node_id == 2


def test_a_partition_without_a_leader_waits_for_one():
    planned = Planned()
    planned.leaders[0] = Leadership(None, 4)
    planned.decide("t", 0)
    assert planned.plan() == ()
    assert planned.plan(10_000) == ()
    planned.leaders[0] = Leadership(1, 5)
    (call,) = planned.plan()
    assert call.node_id == 1


def test_a_partition_that_is_not_known_is_looked_for():
    planned = Planned()
    planned.leaders[0] = None
    planned.decide("t", 0)
    (call,) = planned.plan()
    assert call.node_id is None
    planned.finish(call)
    assert planned.planner.is_idle


def test_a_partition_that_fails_holds_up_no_other():
    planned = Planned()
    planned.decide("broken", 0, 3)
    (call,) = planned.plan()
    planned.finish(call, 0)
    (stuck,) = planned.plan(FIRST_RETRY_MS)
    assert numbers(stuck) == {0}
    planned.decide("sound", 3, 6)
    (sound,) = planned.plan()
    assert numbers(sound) == {3, 6}


def test_a_call_is_bounded_and_the_rest_is_not_forgotten():
    planned = Planned()
    for number in range(MAX_MARKERS_PER_CALL + 5):
        planned.decide(f"t-{number}", 0, 3)
    sent = 0
    while calls := planned.plan():
        (call,) = calls
        size = sum(map(len, call.markers.values()))
        assert size <= MAX_MARKERS_PER_CALL
        sent += size
        planned.finish(call)
    assert sent == 2 * (MAX_MARKERS_PER_CALL + 5)


def test_what_a_coordinator_leaves_is_not_sent_again():
    planned = Planned()
    other = CoordinatorEpoch(4, 1)
    planned.decide("a", 0)
    planned.decide("b", 0, coordinator=other)
    (call,) = planned.plan()
    planned.decide("c", 0, 1)
    planned.planner.resigned(COORDINATOR)
    assert planned.planner.count == 1
    planned.finish(call, 0)
    (again,) = planned.plan(FIRST_RETRY_MS)
    assert [each.transactional_id for each in again.markers[partition(0)]] == ["b"]
    planned.planner.resigned(other)
    assert planned.planner.is_idle
    planned.finish(again)
    assert planned.planner.is_idle


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("decided"), st.sets(st.integers(0, 5), min_size=1), st.integers(0, 1)),
        st.tuples(st.just("finished"), st.integers(0, 9), st.sets(st.integers(0, 5))),
        st.tuples(st.just("leads"), st.integers(0, 5), st.none() | st.integers(0, 2)),
        st.tuples(st.just("forgotten"), st.integers(0, 5)),
        st.tuples(st.just("resigned"), st.integers(0, 1)),
        st.tuples(st.just("waited"), st.integers(0, 200)),
    ),
    max_size=60,
)


class Written(Planned):
    """Notes what is decided and not known to be written."""

    def __init__(self):
        super().__init__()
        self.under_way = []
        self.missing = set()
        self.names = 0
        self.epoch = 0

    def step(self, name, *arguments):
        getattr(self, name)(*arguments)
        self.under_way += self.plan()
        places = [(call.node_id, call.is_repeated) for call in self.under_way]
        assert len(places) == len(set(places)), "one call at a time of each kind"
        assert all(call.markers for call in self.under_way)
        assert self.planner.count >= len(self.missing)

    def take(self, call, but=()):
        for which, markers in call.markers.items():
            if which.partition not in but:
                self.missing.difference_update((which, marker) for marker in markers)
        self.finish(call, *but)

    def decided(self, partitions, number):
        self.names += 1
        coordinator, made = CoordinatorEpoch(number, 1), decision(f"t-{self.names}", *partitions)
        self.planner.decided(coordinator, made)
        marker = Marker(coordinator, made.transactional_id, made.marker, made.is_commit)
        self.missing |= {(each, marker) for each in made.partitions}

    def finished(self, number, but):
        if self.under_way:
            self.take(self.under_way.pop(number % len(self.under_way)), but)

    def leads(self, number, node_id):
        self.epoch += 1
        self.leaders[number] = Leadership(node_id, self.epoch)

    def forgotten(self, number):
        self.leaders[number] = None

    def resigned(self, number):
        coordinator = CoordinatorEpoch(number, 1)
        self.planner.resigned(coordinator)
        self.missing = {each for each in self.missing if each[1].coordinator != coordinator}

    def waited(self, time_ms):
        self.now_ms += time_ms


@settings(max_examples=100, deadline=None)
@given(STEPS)
def test_every_marker_of_a_coordinator_that_stays_is_written_in_the_end(steps):
    written = Written()
    for step in steps:
        written.step(*step)
    written.leaders.clear()
    for _ in range(30):
        for call in written.under_way:
            written.take(call)
        written.under_way = list(written.plan(LAST_RETRY_MS))
    assert not written.missing
    assert written.planner.is_idle
