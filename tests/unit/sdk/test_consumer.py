"""The consumer of threads against a cluster in memory: what it hands out, commits and tells."""

import contextlib
import os
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from ottla import (
    ClusterUnreachableError,
    CommitFailedError,
    ConcurrentUseError,
    Consumer,
    ConsumerClosedError,
    ForkedProcessError,
    InvalidRequestError,
    InvalidTopicError,
    NoOffsetForPartitionError,
    NotAssignedError,
    OffsetAndMetadata,
    OffsetOutOfRangeError,
    RebalanceListener,
    RecordDeserializationError,
    SubscriptionError,
    TopicPartition,
    UnknownTopicOrPartitionError,
    WaitTimedOutError,
    WakeupError,
)
from ottla_protocol import routes
from ottla_protocol.errors import UnsupportedAssignorError
from tests.cluster.awaiting import eventually
from tests.unit.sdk.consumer_under_test import WAIT_S, A, B, fetched, fill, offsets, take


class Notes(RebalanceListener):
    """Remembers what it is told."""

    def __init__(self):
        self.told = []

    def on_partitions_assigned(self, partitions):
        self.told.append(("assigned", {each.partition for each in partitions}))

    def on_partitions_revoked(self, partitions):
        self.told.append(("revoked", {each.partition for each in partitions}))

    def on_partitions_lost(self, partitions):
        self.told.append(("lost", {each.partition for each in partitions}))


def join(consumer, topic="t", listener=None, count=2):
    """Subscribe, and poll until `count` partitions are assigned."""
    consumer.subscribe(topic, listener=listener)
    settle(consumer, count)


def settle(consumer, count):
    def assigned():
        consumer.poll(0.02, max_records=1)
        return len(consumer.assignment()) == count

    eventually(assigned, WAIT_S)


# --- records ------------------------------------------------------------------------------------


def test_a_record_comes_whole(cluster, consume):
    with cluster.producer() as producer:
        producer.send("t", b"v", key=b"k", partition=1, headers=[("h", b"x")], timestamp=7)
    consumer = consume()
    consumer.assign([A, B])
    [record] = take(consumer, 1)
    assert (record.topic, record.partition, record.offset, record.timestamp) == ("t", 1, 0, 7)
    assert (record.key, record.value, record.headers) == (b"k", b"v", (("h", b"x"),))
    assert record.leader_epoch == 0


def test_polls_hand_out_by_partition_in_order_and_once(cluster, consume):
    fill(cluster, 700)
    fill(cluster, 300, partition=1)
    consumer = consume()
    consumer.assign([A, B])
    seen = {A: [], B: []}
    for _ in range(100):
        polled = consumer.poll(0.2)
        assert sum(map(len, polled.values())) <= 500
        for name, records in polled.items():
            seen[name] += offsets(records)
        if sum(map(len, seen.values())) == 1_000:
            break
    assert seen == {A: list(range(700)), B: list(range(300))}
    assert consumer.poll(0) == {}


def test_a_poll_that_waits_gets_what_is_written(cluster, consume):
    consumer = consume()
    consumer.assign([A])
    threading.Timer(0.1, fill, (cluster, 1)).start()
    assert offsets(consumer.poll(WAIT_S)[A]) == [0]


def test_iteration_gives_records_one_by_one_until_none_comes(cluster, consume):
    fill(cluster, 1_200)
    consumer = consume(consumer_timeout_ms=300)
    consumer.assign([A])
    assert offsets(fetched(consumer)) == list(range(1_200))
    fill(cluster, 2, first=1_200)
    fetched(consumer)
    assert offsets([next(consumer), next(consumer)]) == [1_200, 1_201]
    with pytest.raises(StopIteration):
        next(consumer)


def test_an_iteration_that_was_left_goes_on_behind_its_record(cluster, consume):
    fill(cluster, 10)
    consumer = consume(consumer_timeout_ms=300)
    consumer.assign([A])
    for record in fetched(consumer):
        if record.offset == 3:
            break
    assert consumer.position(A) == 4
    assert offsets(take(consumer, 6)) == [4, 5, 6, 7, 8, 9]


def test_a_seek_within_an_iteration_counts_at_once(cluster, consume):
    fill(cluster, 10)
    consumer = consume(consumer_timeout_ms=300)
    consumer.assign([A])
    seen = []
    for record in fetched(consumer):
        seen.append(record.offset)
        if seen == [0, 1]:
            consumer.seek(A, 7)
            fetched(consumer)
    assert seen == [0, 1, 7, 8, 9]


def test_a_record_that_does_not_deserialize_names_itself_and_can_be_skipped(cluster, consume):
    for number, value in enumerate([b"1", b"2", b"no json", b"4"]):
        fill(cluster, 1, first=number, value=value)
    consumer = consume(value_deserializer="json")
    consumer.assign([A])
    assert [record.value for record in take(consumer, 2)] == [1, 2]
    for _ in range(2):
        with pytest.raises(RecordDeserializationError, match="value of t-0 at offset 2") as caught:
            consumer.poll(WAIT_S)
    error = caught.value
    assert (error.topic, error.partition, error.offset) == ("t", 0, 2)
    assert (error.key, error.value) == (None, b"no json")
    assert error.__cause__ is not None
    assert consumer.position(A) == 2
    consumer.seek(A, error.offset + 1)
    assert [record.value for record in take(consumer, 1)] == [4]


def test_a_key_that_does_not_deserialize_is_told_as_one(cluster, consume):
    with cluster.producer() as producer:
        producer.send("t", b"v", key=b"x", partition=0)
    consumer = consume(key_deserializer="int")
    consumer.assign([A])
    with pytest.raises(RecordDeserializationError, match="the key of t-0"):
        consumer.poll(WAIT_S)


# --- where it begins ----------------------------------------------------------------------------


def test_without_a_committed_offset_it_begins_at_the_end(cluster, consume):
    fill(cluster, 3)
    consumer = consume(auto_offset_reset="latest")
    consumer.assign([A])
    assert consumer.position(A, timeout=WAIT_S) == 3
    fill(cluster, 1, first=3)
    assert offsets(take(consumer, 1)) == [3]


def test_without_a_reset_it_says_that_there_is_no_offset(cluster, consume):
    consumer = consume(auto_offset_reset="none", group_id="g")
    consumer.assign([A])
    for _ in range(2):
        with pytest.raises(NoOffsetForPartitionError, match="t-0"):
            consumer.poll(WAIT_S)
    with pytest.raises(NoOffsetForPartitionError):
        consumer.position(A)
    consumer.seek(A, 0)
    assert consumer.poll(0) == {}


def test_out_of_range_without_a_reset_tells_the_bounds(cluster, consume):
    fill(cluster, 3)
    consumer = consume(auto_offset_reset="none")
    consumer.assign([A])
    consumer.seek(A, 99)
    with pytest.raises(OffsetOutOfRangeError) as caught:
        consumer.poll(WAIT_S)
    assert caught.value.members["log_end_offset"] == 3


def test_seeks(cluster, consume):
    fill(cluster, 5)
    consumer = consume()
    consumer.assign([A, B])
    consumer.seek_to_end(A)
    assert consumer.position(A) == 5
    consumer.seek_to_beginning()
    assert (consumer.position(A), consumer.position(B)) == (0, 0)
    consumer.seek(A, 3)
    assert offsets(take(consumer, 2)) == [3, 4]


def test_offsets_of_partitions_that_it_does_not_read(cluster, consume):
    fill(cluster, 5)
    consumer = consume()
    assert consumer.beginning_offsets([A, B]) == {A: 0, B: 0}
    assert consumer.end_offsets([A, B]) == {A: 5, B: 0}
    found = consumer.offsets_for_times({A: 0, B: 0})
    assert (found[A].offset, found[B]) == (0, None)
    assert [each.partition for each in consumer.partitions_for("t")] == [0, 1]
    with pytest.raises(UnknownTopicOrPartitionError):
        consumer.end_offsets([TopicPartition("t", 9)])
    with pytest.raises(UnknownTopicOrPartitionError):
        consumer.partitions_for("nowhere")


def test_pause_and_resume(cluster, consume):
    fill(cluster, 3)
    fill(cluster, 3, partition=1)
    consumer = consume()
    consumer.assign([A, B])
    consumer.pause(A)
    assert consumer.paused() == {A}
    assert {record.partition for record in take(consumer, 3)} == {1}
    assert consumer.poll(0.05) == {}
    consumer.resume(A)
    assert {record.partition for record in take(consumer, 3)} == {0}
    assert consumer.paused() == set()


def test_lag(cluster, consume):
    fill(cluster, 5)
    consumer = consume()
    consumer.assign([A])
    take(consumer, 2, max_records=2)
    assert consumer.current_lag(A) == 3


# --- commits ------------------------------------------------------------------------------------


def committed(cluster, partition=A):
    found = cluster.committed("g").get(partition)
    return None if found is None else found.offset


def test_auto_commit_covers_what_earlier_polls_handed_out(cluster, consume):
    fill(cluster, 10)
    consumer = consume(group_id="g", auto_commit_interval_ms=20)
    consumer.assign([A])
    assert offsets(take(consumer, 4, max_records=4)) == [0, 1, 2, 3]
    time.sleep(0.1)
    assert committed(cluster) in (None, 0)
    assert offsets(consumer.poll(WAIT_S, max_records=2)[A]) == [4, 5]
    eventually(lambda: committed(cluster) == 4)
    consumer.close()
    assert committed(cluster) == 4


def test_auto_commit_of_an_iteration_covers_what_is_before_the_current_record(cluster, consume):
    fill(cluster, 10)
    consumer = consume(group_id="g", auto_commit_interval_ms=20)
    consumer.assign([A])
    for record in consumer:
        if record.offset == 6:
            eventually(lambda: committed(cluster) == 6)
            break
    consumer.close()
    assert committed(cluster) == 6


def test_close_commits_what_is_finished_with(cluster, consume):
    fill(cluster, 10)
    consumer = consume(group_id="g")
    consumer.assign([A])
    take(consumer, 4, max_records=4)
    consumer.poll(WAIT_S, max_records=1)
    consumer.close()
    assert committed(cluster) == 4


def test_a_block_that_ends_well_is_done_with_what_it_was_given(cluster):
    fill(cluster, 10)
    options = {"group_id": "g", "auto_offset_reset": "earliest"}
    with cluster.consumer(**options) as consumer:
        consumer.assign([A])
        assert next(consumer).offset == 0
    assert committed(cluster) == 1
    with cluster.consumer(**options) as consumer:
        consumer.assign([A])
        assert offsets(consumer.poll(WAIT_S, max_records=3)[A]) == [1, 2, 3]
    assert committed(cluster) == 4


def test_a_block_that_fails_is_not(cluster):
    fill(cluster, 10)

    def fail_at_the_fourth():
        with cluster.consumer(group_id="g", auto_offset_reset="earliest") as consumer:
            consumer.assign([A])
            for record in consumer:
                assert record.offset < 3, "as an application fails"

    with pytest.raises(AssertionError, match="application"):
        fail_at_the_fourth()
    assert committed(cluster) == 3


def test_auto_commit_never_undoes_what_the_application_committed(cluster, consume):
    fill(cluster, 10)
    consumer = consume(group_id="g", auto_commit_interval_ms=20)
    consumer.assign([A])
    taken = consumer.poll(WAIT_S, max_records=4)[A]
    consumer.commit(taken[2])
    time.sleep(0.1)
    consumer.close()
    assert committed(cluster) == 3


def test_auto_commit_never_undoes_the_commit_of_the_current_record(cluster, consume):
    fill(cluster, 10)
    consumer = consume(group_id="g", auto_commit_interval_ms=20)
    consumer.assign([A])
    for record in consumer:
        consumer.commit(record)
        if record.offset == 6:
            time.sleep(0.1)
            break
    consumer.close()
    assert committed(cluster) == 7


def test_auto_commit_follows_a_seek_backwards(cluster, consume):
    fill(cluster, 10)
    consumer = consume(group_id="g")
    consumer.assign([A])
    take(consumer, 8, max_records=8)
    consumer.commit()
    consumer.seek(A, 2)
    consumer.close()
    assert committed(cluster) == 2


def test_without_auto_commit_nothing_is_committed(cluster, consume):
    fill(cluster, 4)
    consumer = consume(group_id="g", enable_auto_commit=False, auto_commit_interval_ms=1)
    consumer.assign([A])
    take(consumer, 4)
    consumer.poll(0.05)
    consumer.close()
    assert committed(cluster) is None


def test_a_commit_is_of_positions_or_records_or_offsets(cluster, consume):
    fill(cluster, 10)
    consumer = consume(group_id="g", enable_auto_commit=False)
    consumer.assign([A])
    records = take(consumer, 4, max_records=4)
    consumer.commit(records[1])
    assert committed(cluster) == 2
    consumer.commit()
    assert committed(cluster) == 4
    consumer.commit({A: 1, B: OffsetAndMetadata(7, "mine")})
    assert consumer.committed(A, B) == {A: (1, "", None), B: (7, "mine", None)}
    assert consumer.committed(TopicPartition("wide", 0)) == {TopicPartition("wide", 0): None}


def test_a_commit_in_an_iteration_covers_the_current_record(cluster, consume):
    fill(cluster, 5)
    consumer = consume(group_id="g", enable_auto_commit=False)
    consumer.assign([A])
    seen = []
    for record in consumer:
        seen.append(record.offset)
        consumer.commit()
        assert committed(cluster) == record.offset + 1
        if record.offset == 4:
            break
    assert seen == [0, 1, 2, 3, 4]


def test_asynchronous_commits_are_told_in_order_within_polls(cluster, consume):
    fill(cluster, 3)
    consumer = consume(group_id="g", enable_auto_commit=False)
    consumer.assign([A])
    told = []

    def callback(error, offsets):
        told.append((error, offsets[A].offset, threading.current_thread()))

    for offset in (1, 2, 3):
        consumer.commit_async({A: offset}, callback)

    def all_told():
        consumer.poll(0.02)
        return len(told) == 3

    eventually(all_told)
    assert told == [(None, offset, threading.current_thread()) for offset in (1, 2, 3)]
    assert committed(cluster) == 3


def test_a_restarted_consumer_goes_on_from_the_committed_offset(cluster, consume):
    fill(cluster, 10)
    first = consume(group_id="g", enable_auto_commit=False)
    first.assign([A])
    take(first, 4, max_records=4)
    first.commit()
    first.close()
    second = consume(group_id="g")
    second.assign([A])
    assert offsets(take(second, 6)) == [4, 5, 6, 7, 8, 9]


# --- groups -------------------------------------------------------------------------------------


def test_consumers_of_a_group_share_and_take_over(cluster, consume):
    notes = Notes(), Notes()
    first = consume(group_id="g")
    join(first, "wide", notes[0], 6)
    assert notes[0].told == [("assigned", set(range(6)))]
    second = consume(group_id="g")
    second.subscribe("wide", listener=notes[1])

    def shared():
        first.poll(0.02)
        second.poll(0.02)
        return len(first.assignment()) == 3 == len(second.assignment())

    eventually(shared, WAIT_S)
    moved = {each.partition for each in second.assignment()}
    assert notes[0].told[1:] == [("revoked", moved)]
    assert notes[1].told == [("assigned", moved)]
    first.close()
    settle(second, 6)
    assert notes[0].told[2:] == [("revoked", set(range(6)) - moved)]


def test_a_revoked_partition_is_committed_and_only_then_given_up(cluster, consume):
    first, second = consume(group_id="g"), consume(group_id="g")
    events = []

    class Listener(RebalanceListener):
        def on_partitions_revoked(self, partitions):
            offsets = {cluster.committed("g")[each].offset for each in partitions}
            held = {each for held in cluster.assignment("g").values() for each in held}
            events.append((offsets, partitions & held, partitions))

    join(first, "wide", Listener(), 6)
    for partition in range(6):
        fill(cluster, 1, topic="wide", partition=partition)
    take(first, 6)
    second.subscribe("wide")

    def moved():
        first.poll(0.02)
        second.poll(0.02)
        return len(second.assignment()) == 3

    eventually(moved, WAIT_S)
    assert events == [({1}, set(), second.assignment())]


def test_a_member_that_was_expired_is_told_that_it_lost_everything(cluster, consume):
    notes = Notes()
    consumer = consume(group_id="g", session_timeout_ms=6_000)
    join(consumer, "t", notes)
    [member_id] = cluster.assignment("g")
    cluster.expire_member("g", member_id)

    def came_back():
        consumer.poll(0.02)
        return notes.told[1:] == [("lost", {0, 1}), ("assigned", {0, 1})]

    eventually(came_back, WAIT_S)
    assert consumer.assignment() == {A, B}


def test_a_commit_after_the_partitions_were_lost_is_refused(cluster, consume):
    fill(cluster, 3)
    consumer = consume(group_id="g", enable_auto_commit=False)
    join(consumer)
    consumer.seek_to_beginning()
    [*_, last] = take(consumer, 3)
    [member_id] = cluster.assignment("g")
    cluster.expire_member("g", member_id)
    with pytest.raises(CommitFailedError):
        consumer.commit(last)
    assert committed(cluster) is None


def test_who_does_not_poll_in_time_gives_up_its_partitions(cluster, consume, caplog):
    notes = Notes()
    consumer = consume(group_id="g", max_poll_interval_ms=300)
    join(consumer, "t", notes)
    eventually(lambda: not cluster.assignment("g"), WAIT_S)
    assert "max_poll_interval_ms (300)" in caplog.text
    assert consumer.assignment() == set()
    with pytest.raises(CommitFailedError):
        consumer.commit({A: 1})
    settle(consumer, 2)
    # A machine that stands still may have it lose them once more.
    assigned, lost = ("assigned", {0, 1}), ("lost", {0, 1})
    assert len(notes.told) >= 3
    assert notes.told == [assigned, *[lost, assigned] * (len(notes.told) // 2)]


def test_each_record_of_an_iteration_is_as_good_as_a_poll(cluster, consume):
    fill(cluster, 8)
    consumer = consume("t", group_id="g", max_poll_interval_ms=3_000, consumer_timeout_ms=10_000)
    for record in consumer:
        time.sleep(0.4)  # The application's work: all of it takes longer than the interval.
        assert consumer.assignment() == {A, B}
        if record.offset == 7:
            break


def test_a_pattern_takes_in_topics_that_come_later(cluster, consume):
    consumer = consume(group_id="g", metadata_max_age_ms=100)
    consumer.subscribe(pattern="t|later-.*")
    settle(consumer, 2)
    assert consumer.subscription() is None
    cluster.create_topic("later-1", partitions=1)
    settle(consumer, 3)


def test_a_new_subscription_takes_the_place_of_the_former(cluster, consume):
    consumer = consume(group_id="g")
    join(consumer, "t")
    assert consumer.subscription() == {"t"}
    consumer.subscribe(["wide"])
    settle(consumer, 6)
    assert {each.topic for each in consumer.assignment()} == {"wide"}


def test_unsubscribe_leaves_and_frees_for_assign(cluster, consume):
    notes = Notes()
    consumer = consume(group_id="g")
    join(consumer, "t", notes)
    consumer.unsubscribe()
    assert cluster.assignment("g") == {}
    assert notes.told[-1] == ("revoked", {0, 1})
    assert (consumer.assignment(), consumer.subscription()) == (set(), None)
    with pytest.raises(SubscriptionError, match="nothing to read"):
        consumer.poll(0)
    fill(cluster, 1)
    consumer.assign([A])
    assert offsets(take(consumer, 1)) == [0]


def test_close_leaves_at_once(cluster, consume):
    consumer = consume(group_id="g")
    join(consumer)
    consumer.close()
    assert cluster.assignment("g") == {}


@pytest.mark.parametrize(("leave", "stays"), [(None, True), (False, True), (True, False)])
def test_a_static_member_leaves_only_when_it_is_told(cluster, consume, leave, stays):
    consumer = consume(group_id="g", group_instance_id="one")
    join(consumer)
    consumer.close(leave=leave)
    assert bool(cluster.assignment("g")) is stays


def test_a_listener_may_seek_and_its_failure_is_the_poll_s(cluster, consume):
    fill(cluster, 5)
    consumer = consume(group_id="g")

    class Listener:
        def on_partitions_assigned(self, partitions):
            consumer.seek(A, 3)

        def on_partitions_revoked(self, partitions):
            raise RuntimeError("mine")

    consumer.subscribe("t", listener=Listener())
    assert offsets(take(consumer, 2)) == [3, 4]
    with pytest.raises(RuntimeError, match="mine"):
        consumer.unsubscribe()
    assert cluster.assignment("g") == {}


# --- what is refused ----------------------------------------------------------------------------


def test_subscribe_needs_a_group_and_says_why(cluster):
    with pytest.raises(SubscriptionError, match="needs a group_id") as caught:
        cluster.consumer("t")
    assert "assign()" in caught.value.hint


def test_what_excludes_one_another(consume):
    consumer = consume(group_id="g")
    with pytest.raises(SubscriptionError, match="nothing to read"):
        consumer.poll(0)
    with pytest.raises(SubscriptionError, match="topics or a pattern"):
        consumer.subscribe("t", pattern="t")
    with pytest.raises(SubscriptionError, match="topics or a pattern"):
        consumer.subscribe()
    with pytest.raises(InvalidTopicError):
        consumer.subscribe("a/b")
    consumer.subscribe("t")
    with pytest.raises(SubscriptionError, match="is subscribed"):
        consumer.assign([A])
    other = consume(group_id="g")
    other.assign([A])
    with pytest.raises(SubscriptionError, match="assigned by hand"):
        other.subscribe("t")


def test_commits_without_a_group(consume):
    consumer = consume()
    consumer.assign([A])
    for call in (consumer.commit, consumer.commit_async, consumer.committed):
        with pytest.raises(SubscriptionError, match="needs a group_id"):
            call()


def test_wrong_arguments(consume):
    consumer = consume(group_id="g")
    for wrong in ([("t", -1)], [("t", "0")], ["t"], [5]):
        with pytest.raises(InvalidRequestError, match="TopicPartition"):
            consumer.assign(wrong)
    consumer.assign([A])
    for offset in (-1, 1.5, 2**63, True):
        with pytest.raises(InvalidRequestError, match="offset"):
            consumer.seek(A, offset)
        with pytest.raises(InvalidRequestError, match="offset"):
            consumer.commit({A: offset})
    with pytest.raises(InvalidRequestError, match="commit takes"):
        consumer.commit(5)
    with pytest.raises(InvalidRequestError, match="max_records"):
        consumer.poll(0, max_records=0)
    with pytest.raises(InvalidRequestError, match="timeout"):
        consumer.poll(-1)
    with pytest.raises(InvalidRequestError, match="timestamps"):
        consumer.offsets_for_times({A: -1})
    for call in (consumer.seek_to_end, consumer.pause, consumer.position):
        with pytest.raises(NotAssignedError, match="t-1"):
            call(B)


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda consumer: consumer.assign(5), "partitions must be several"),
        (lambda consumer: consumer.assign(None), "partitions must be several"),
        (lambda consumer: consumer.assign("t"), "partitions must be several"),
        (lambda consumer: consumer.assign(A), "partitions must be several"),
        (lambda consumer: consumer.beginning_offsets(A), "partitions must be several"),
        (lambda consumer: consumer.end_offsets(5), "partitions must be several"),
        (lambda consumer: consumer.offsets_for_times(5), "timestamps must be a mapping"),
        (lambda consumer: consumer.offsets_for_times([A]), "timestamps must be a mapping"),
        (lambda consumer: consumer.subscribe(5), "topics must be a name or several"),
        (lambda consumer: consumer.subscribe(b"t"), "topics must be a name or several"),
        (lambda consumer: consumer.subscribe(pattern=5), "pattern must be a regular expression"),
        (lambda consumer: consumer.subscribe(pattern=b"t"), "pattern must be a regular expression"),
    ],
)
async def test_arguments_of_another_shape_are_told_the_rule(consume, aio_consume, call, told):
    with pytest.raises(InvalidRequestError, match=told) as caught:
        call(consume(group_id="g"))
    assert caught.value.members["field"] == told.split()[0]

    async def awaited():
        answer = call(aio_consume(group_id="g"))
        if answer is not None:
            await answer

    with pytest.raises(InvalidRequestError, match=told):
        await awaited()


def test_a_topic_that_does_not_exist(cluster, consume):
    consumer = consume()
    consumer.assign([TopicPartition("nowhere", 0)])
    for _ in range(2):
        with pytest.raises(UnknownTopicOrPartitionError, match="nowhere"):
            consumer.poll(WAIT_S)
    cluster.create_topic("nowhere", partitions=1)
    fill(cluster, 1, topic="nowhere")

    def found():
        try:
            return consumer.poll(0.1)
        except UnknownTopicOrPartitionError:
            return False

    assert eventually(found)


# --- threads, processes and the end -------------------------------------------------------------


def test_wakeup_ends_a_poll_of_another_thread(consume):
    consumer = consume()
    consumer.assign([A])
    threading.Timer(0.1, consumer.wakeup).start()
    started_s = time.monotonic()
    with pytest.raises(WakeupError):
        consumer.poll(WAIT_S)
    assert time.monotonic() - started_s < WAIT_S / 2
    assert consumer.poll(0) == {}


def test_wakeup_ends_an_iteration_that_has_records(cluster, consume):
    fill(cluster, 3)
    consumer = consume()
    consumer.assign([A])
    assert next(consumer).offset == 0
    consumer.wakeup()
    with pytest.raises(WakeupError):
        next(consumer)
    assert next(consumer).offset == 1


def test_a_second_thread_is_refused(consume):
    consumer = consume()
    consumer.assign([A])

    def poll():
        with pytest.raises(WakeupError):
            consumer.poll(WAIT_S)

    polling = threading.Thread(target=poll)
    polling.start()
    eventually(lambda: consumer.metrics()["polls"] == 1)
    for call in (lambda: consumer.poll(0), lambda: consumer.seek(A, 0), consumer.close):
        with pytest.raises(ConcurrentUseError, match="another thread"):
            call()
    consumer.wakeup()
    polling.join()
    assert consumer.poll(0) == {}


def test_a_listener_must_not_poll(consume):
    consumer = consume(group_id="g")

    class Listener:
        def on_partitions_assigned(self, partitions):
            consumer.poll(0)

    consumer.subscribe("t", listener=Listener())
    with pytest.raises(ConcurrentUseError, match="must not poll"):
        consumer.poll(WAIT_S)


def test_a_closed_consumer_says_so(consume):
    consumer = consume(group_id="g")
    consumer.assign([A])
    consumer.close()
    consumer.close()
    for call in (lambda: consumer.poll(0), consumer.commit, lambda: consumer.position(A)):
        with pytest.raises(ConsumerClosedError):
            call()


def test_nobody_answers(cluster):
    for node_id in (1, 2, 3):
        cluster.stop_broker(node_id)
    with cluster.consumer() as consumer:
        consumer.assign([A])
        # Calls tell of it once every broker has failed.
        eventually(lambda: len(consumer._core.io.reach.reasons) == 3)
        with pytest.raises(ClusterUnreachableError, match="fake-broker-1"):
            consumer.poll(0.3)
        with pytest.raises(ClusterUnreachableError, match="fake-broker-2"):
            consumer.end_offsets([A], timeout=0.3)
        with pytest.raises((ClusterUnreachableError, WaitTimedOutError)):
            consumer.position(A, timeout=0.1)


def test_nobody_answers_a_member(cluster):
    for node_id in (1, 2, 3):
        cluster.stop_broker(node_id)
    with cluster.consumer("t", group_id="g") as consumer:
        eventually(lambda: len(consumer._core.io.reach.reasons) == 3)
        with pytest.raises(ClusterUnreachableError, match="fake-broker-3"):
            consumer.poll(1)
        cluster.start_broker(1)

        def came():
            with contextlib.suppress(ClusterUnreachableError):
                consumer.poll(0.05)
            return len(consumer.assignment()) == 2

        eventually(came, WAIT_S)


def test_what_the_group_refuses_is_told_by_every_poll_until_the_next_subscription(cluster, consume):
    cluster.fail(UnsupportedAssignorError("not here"), path="/v1/groups/g/members")
    consumer = consume("t", group_id="g")
    for _ in range(2):
        with pytest.raises(UnsupportedAssignorError):
            consumer.poll(WAIT_S)
    join(consumer)


def test_it_goes_on_when_its_leader_dies(cluster, consume):
    fill(cluster, 5)
    consumer = consume(retry_backoff_ms=10)
    consumer.assign([A])
    assert offsets(take(consumer, 5)) == [0, 1, 2, 3, 4]
    cluster.stop_broker(cluster._brokers.partitions("t")[0].leader)
    fill(cluster, 5, first=5)
    assert offsets(take(consumer, 5)) == [5, 6, 7, 8, 9]


def test_it_follows_a_leader_that_moves(cluster, consume):
    consumer = consume()
    consumer.assign([A])
    for node_id in (1, 2, 3, 1):
        cluster.move_leader("t", 0, node_id)
        fill(cluster, 1)
        assert len(take(consumer, 1)) == 1


def test_fetches_that_fail_are_repeated(cluster, consume):
    fill(cluster, 5)
    cluster.fail(path=routes.FETCH, times=3)
    consumer = consume(retry_backoff_ms=10)
    consumer.assign([A])
    assert offsets(take(consumer, 5)) == [0, 1, 2, 3, 4]


def test_a_consumer_that_was_dropped_warns_and_ends_its_thread(cluster):
    consumers = [cluster.consumer()]
    consumers[0].assign([A])
    ended = consumers[0]._background.ended
    with pytest.warns(ResourceWarning, match="without close"):
        consumers.clear()
    assert ended.wait(WAIT_S)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_process_is_told_to_make_its_own(consume):
    consumer = consume(group_id="g")
    consumer.assign([A])
    consumer.poll(0)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            consumer.poll(0)
        except ForkedProcessError:
            consumer.close()
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert consumer.poll(0) == {}


def test_a_program_that_forgot_to_close_leaves_its_group():
    program = """
        from ottla.testing import FakeCluster
        import atexit
        cluster = FakeCluster()
        cluster.create_topic("t", partitions=1)
        consumer = cluster.consumer("t", group_id="g")
        while not consumer.assignment():
            consumer.poll(0.1)
        atexit.register(lambda: print(dict(cluster.assignment("g"))))
    """
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(program)],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert ran.stdout.strip() == "{}"


def test_from_config_takes_kafka_s_spelling(cluster):
    config = {
        "bootstrap.servers": ",".join(cluster.bootstrap_servers),
        "group.id": "g",
        "auto.offset.reset": "earliest",
        "enable.auto.commit": "false",
    }
    fill(cluster, 1)
    with Consumer.from_config(config, "t", transport=cluster.transport()) as consumer:
        assert len(take(consumer, 1)) == 1
    assert committed(cluster) is None
