"""Where a consumer is: what was handed out, what is finished with, and what a seek changes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ottla._consumer_record import ConsumerRecord
from ottla._consumer_types import OffsetAndMetadata, TopicPartition
from ottla._errors import NotAssignedError
from ottla._positions import Positions, Start

A = TopicPartition("t", 0)
B = TopicPartition("t", 1)


def records(first, count, *, epoch=3, name=A):
    return [
        ConsumerRecord(name.topic, name.partition, offset, 0, None, b"v", (), epoch)
        for offset in range(first, first + count)
    ]


@pytest.fixture
def positions():
    """Partition A, at offset 10, with ten records."""
    made = Positions()
    made.assign([A])
    load(made)
    return made


def load(positions, name=A, first=10, count=10):
    state = positions.states[name]
    state.move_to(first)
    state.load(records(first, count, name=name), first + count)
    positions.refresh_ready(state)
    return state


def committed(positions):
    return {name: each.offset for name, each in positions.finished().items()}


class TestFinished:
    def test_a_poll_is_finished_with_by_the_next_one(self, positions):
        state = positions.states[A]
        assert committed(positions) == {A: 10}
        positions.hand_out(state, 4)
        assert (state.position, committed(positions)) == (14, {A: 10})
        positions.finish()
        assert committed(positions) == {A: 14}

    def test_of_an_iteration_all_before_the_current_record_is(self, positions):
        state = positions.states[A]
        chunk = state.records[:4]
        positions.hand_out(state, 4)
        positions.begin_iterating(state, 10)
        assert committed(positions) == {A: 10}
        for record in chunk:
            positions.current = record
            assert committed(positions) == {A: record.offset}
            assert positions.position(state) == record.offset + 1
        positions.finish()
        assert committed(positions) == {A: 14}

    def test_what_an_iteration_did_not_give_out_is_handed_out_again(self, positions):
        state = positions.states[A]
        positions.hand_out(state, 4)
        positions.begin_iterating(state, 10)
        positions.current = state.records[1]
        positions.settle_iteration()
        assert positions.is_disturbed
        assert (state.position, state.index, state.finished) == (12, 2, 11)

    def test_an_iteration_that_gave_nothing_out_finished_nothing(self, positions):
        state = positions.states[A]
        positions.hand_out(state, 10)
        positions.begin_iterating(state, 10)
        positions.finish()
        assert (state.position, state.index) == (10, 0)
        assert positions.next_ready() is state

    def test_it_is_kept_while_a_partition_is_given_up(self, positions):
        positions.hand_out(positions.states[A], 4)
        positions.finish()
        positions.hold([A])
        assert committed(positions) == {A: 14}
        assert positions.next_ready() is None
        positions.remove([A])
        assert committed(positions) == {}

    def test_it_is_not_committed_twice(self, positions):
        positions.note_committed({A: OffsetAndMetadata(10)})
        assert committed(positions) == {}

    def test_what_the_application_was_not_told_of_is_not_committed(self):
        positions = Positions()
        positions.add([A], is_announced=False)
        load(positions)
        assert committed(positions) == {}
        assert positions.next_ready() is None

    def test_a_revoked_partition_ends_an_iteration_where_it_was(self, positions):
        state = positions.states[A]
        positions.hand_out(state, 4)
        positions.begin_iterating(state, 10)
        positions.current = state.records[1]
        positions.hold([A])
        positions.finish()
        assert committed(positions) == {A: 12}


class TestSeek:
    def test_within_what_is_there_fetches_nothing(self, positions):
        state = positions.states[A]
        version = state.version
        positions.seek(A, 13)
        assert (state.version, state.index, state.position) == (version, 3, 13)

    def test_elsewhere_drops_what_is_there(self, positions):
        state = positions.states[A]
        version = state.version
        positions.seek(A, 100)
        assert (state.fetch_offset, state.position, state.finished) == (100, 100, 100)
        assert state.version > version
        assert positions.next_ready() is None

    def test_undoes_what_was_handed_out(self, positions):
        positions.hand_out(positions.states[A], 5)
        positions.seek(A, 11)
        positions.finish()
        assert committed(positions) == {A: 11}

    def test_to_an_end_waits_until_it_is_found(self, positions):
        state = positions.states[A]
        positions.seek_to(A, Start.LATEST)
        assert (state.position, state.start) == (None, Start.LATEST)
        old = state.version - 1
        positions.found(state, old, 7)
        assert state.position is None
        positions.found(state, state.version, 7)
        assert (state.position, state.finished, state.start) == (7, 7, None)

    def test_of_another_partition_is_refused(self, positions):
        with pytest.raises(NotAssignedError, match="t-1"):
            positions.seek(B, 0)


class TestAssignment:
    def test_what_stays_goes_on(self, positions):
        positions.hand_out(positions.states[A], 3)
        positions.assign([A, B])
        assert positions.states[A].position == 13
        assert positions.states[B].start is Start.COMMITTED

    def test_what_comes_back_begins_anew(self, positions):
        before = positions.states[A]
        version = before.version
        positions.add([A], is_announced=False)
        assert positions.states[A] is not before
        assert before.version > version

    def test_partitions_take_turns(self, positions):
        positions.assign([A, B])
        load(positions, B)
        state = positions.next_ready()
        positions.hand_out(state, 10)
        assert positions.next_ready().name != state.name

    def test_a_paused_partition_keeps_its_place_and_its_records(self, positions):
        positions.assign([A, B])
        load(positions, B)
        positions.states[A].is_paused = True
        assert positions.next_ready().name == B
        positions.states[A].is_paused = False
        positions.states[B].is_paused = True
        assert positions.next_ready().name == A


def test_a_position_steps_over_a_gap_at_the_end_of_a_batch(positions):
    state = positions.states[A]
    state.load(records(10, 2), 20)
    positions.hand_out(state, 1)
    assert state.position == 11
    positions.hand_out(state, 1)
    assert state.position == 20


def test_consumed_tells_the_epoch_of_the_record_before(positions):
    positions.hand_out(positions.states[A], 2)
    assert positions.consumed() == {A: OffsetAndMetadata(12, "", 3)}


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("poll"), st.integers(1, 12)),
            st.tuples(st.just("iterate"), st.integers(0, 12)),
            st.tuples(st.just("seek"), st.integers(0, 29)),
            st.tuples(st.just("settle"), st.just(0)),
        ),
        max_size=30,
    )
)
def test_whatever_is_done_each_record_comes_once_and_finished_never_runs_ahead(operations):
    positions = Positions()
    positions.assign([A])
    state = positions.states[A]
    due, done = 0, 0

    def fill():
        if state.index == len(state.records):
            state.load(records(state.position, 10), state.position + 10)

    state.move_to(0)
    for kind, number in operations:
        if kind == "seek":
            positions.settle_iteration()
            positions.seek(A, number)
            due = done = number
        elif kind == "settle":
            positions.settle_iteration()
        else:
            positions.finish()
            done = due
            fill()
            part = state.records[state.index : state.index + max(number, 1)]
            positions.hand_out(state, len(part))
            given = part
            if kind == "iterate":
                positions.begin_iterating(state, part[0].offset)
                given = part[:number]
            for record in given:
                assert record.offset == due
                due += 1
                if kind == "iterate":
                    positions.current = record
                    done = record.offset
        found = positions.finished().get(A)
        assert found is None or found.offset == done
        assert positions.consumed()[A].offset == due
