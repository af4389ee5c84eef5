"""Where consumers could lose, repeat or wait in vain: each of these was once possible."""

import threading
import time

import pytest

from ottla import (
    CommitQueueFullError,
    ConsumerClosedError,
    ForkedProcessError,
    NoOffsetForPartitionError,
    UnknownTopicOrPartitionError,
)
from ottla._consumer import _close_all
from ottla_protocol.errors import InternalError, OttlaError
from tests.cluster.awaiting import eventually
from tests.unit.sdk.consumer_under_test import WAIT_S, A, B, fetched, fill, offsets, take


def stop(cluster):
    for node_id in (1, 2, 3):
        cluster.stop_broker(node_id)


# --- interceptors -------------------------------------------------------------------------------


class Only:
    """Leaves out records."""

    def __init__(self, wanted):
        self._wanted = wanted
        self.seen = []

    def on_consume(self, records):
        self.seen += [each.offset for part in records.values() for each in part]
        return {
            name: [each for each in part if self._wanted(each)] for name, part in records.items()
        }


def test_an_iteration_goes_on_behind_records_that_interceptors_leave_out(cluster, consume):
    fill(cluster, 6)
    only = Only(lambda record: record.offset in (0, 2, 5))
    consumer = consume(interceptors=[only], max_poll_records=2, consumer_timeout_ms=1_000)
    consumer.assign([A])
    assert offsets(fetched(consumer)) == [0, 2, 5]
    assert only.seen == [0, 1, 2, 3, 4, 5]


def test_what_interceptors_leave_out_is_finished_with(cluster, consume):
    fill(cluster, 4)
    options = {"interceptors": [Only(lambda record: record.offset == 0)], "group_id": "g"}
    consumer = consume(consumer_timeout_ms=500, auto_commit_interval_ms=20, **options)
    consumer.assign([A])
    assert offsets(fetched(consumer)) == [0]
    eventually(lambda: cluster.committed("g").get(A, (0,))[0] == 4, WAIT_S)


@pytest.mark.parametrize("iterates", [True, False])
def test_records_whose_interceptor_failed_come_again(cluster, consume, iterates):
    fill(cluster, 3)

    class Failing:
        is_first = True

        def on_consume(self, records):
            if self.is_first:
                self.is_first = False
                raise ZeroDivisionError
            return records

    consumer = consume(interceptors=[Failing()])
    consumer.assign([A])
    with pytest.raises(ZeroDivisionError):
        _ = next(consumer) if iterates else consumer.poll(WAIT_S)
    assert offsets(take(consumer, 3)) == [0, 1, 2]


def test_records_taken_before_an_interrupt_come_again(cluster, consume):
    fill(cluster, 3)
    fill(cluster, 3, partition=1)
    armed = [True]

    class Interrupted:
        def __init__(self):
            self.calls = 0

        def deserialize(self, topic, data):
            self.calls += 1
            if self.calls == 5 and armed:
                armed.clear()
                raise KeyboardInterrupt
            return data

    consumer = consume(value_deserializer=Interrupted())
    consumer.assign([A, B])
    eventually(lambda: len(consumer._core.positions.ready) == 2)
    with pytest.raises(KeyboardInterrupt):
        consumer.poll(WAIT_S)
    assert sorted(offsets(take(consumer, 6))) == [0, 0, 1, 1, 2, 2]


# --- iterations ---------------------------------------------------------------------------------


@pytest.mark.parametrize("within", ["poll", "next", "iteration"])
def test_what_is_taken_within_an_iteration_does_not_come_again(cluster, consume, within):
    fill(cluster, 10)
    consumer = consume(max_poll_records=4, consumer_timeout_ms=500)
    consumer.assign([A])
    seen = []
    for record in fetched(consumer):
        seen.append(record.offset)
        if record.offset == 1:
            if within == "poll":
                seen += offsets(take(consumer, 1))
            elif within == "next":
                seen.append(next(consumer).offset)
            else:
                for inner in consumer:
                    seen.append(inner.offset)
                    break
    assert seen == list(range(10))


# --- commits ------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_auto", [True, False])
def test_close_waits_for_asynchronous_commits_and_does_not_undo_them(cluster, consume, is_auto):
    fill(cluster, 5)
    cluster.delay_ms = 20
    consumer = consume("t", group_id="g", enable_auto_commit=is_auto)
    assert len(take(consumer, 5)) == 5
    told = []
    consumer.commit_async(callback=lambda error, _: told.append(error))
    consumer.close()
    assert told == [None]
    assert cluster.committed("g")[A].offset == 5


def test_auto_commit_does_not_undo_a_commit_on_its_way(cluster, consume):
    fill(cluster, 5)
    consumer = consume("t", group_id="g", auto_commit_interval_ms=60_000)
    assert len(take(consumer, 3, max_records=3)) == 3
    assert len(take(consumer, 2)) == 2
    cluster.delay_ms = 50
    core = consumer._core
    told = []
    consumer.commit_async(callback=lambda error, _: told.append(error))
    with core.lock:
        # Of what is finished with: three records.
        core.io.commit_finished()
    eventually(lambda: consumer.poll(0.02) == {} and core.io.commits.is_idle and told)
    assert cluster.committed("g")[A].offset == 5


def test_a_commit_has_its_own_time_whatever_is_on_its_way(cluster, consume):
    consumer = consume(group_id="g", enable_auto_commit=False)
    consumer.assign([A])
    consumer.seek(A, 0)
    stop(cluster)
    consumer.commit_async({A: 1})
    started_s = time.monotonic()
    with pytest.raises(OttlaError):
        consumer.commit({A: 2}, timeout=0.3)
    consumer.close(timeout=0.3)
    assert time.monotonic() - started_s < 5


def test_a_callback_that_fails_keeps_no_other_from_being_called(cluster, consume):
    consumer = consume(group_id="g", enable_auto_commit=False)
    consumer.assign([A])
    told = []

    def failing(error, offsets):
        raise ZeroDivisionError

    consumer.commit_async({A: 1}, failing)
    consumer.commit_async({A: 2}, lambda error, offsets: told.append(offsets[A].offset))
    eventually(lambda: cluster.committed("g").get(A, (0,))[0] == 2)
    with pytest.raises(ZeroDivisionError):
        consumer.commit({A: 3})
    consumer.poll(0)
    assert told == [2]


def test_asynchronous_commits_that_pile_up_are_refused_and_taken_again(
    cluster, consume, monkeypatch
):
    monkeypatch.setattr("ottla._commit_steps.MAX_COMMITS_TO_TELL", 3)
    consumer = consume(group_id="g", enable_auto_commit=False)
    consumer.assign([A])
    told = []

    def callback(error, offsets):
        told.append((error, offsets[A].offset))

    for offset in (1, 2, 3):
        consumer.commit_async({A: offset}, callback)
    with pytest.raises(CommitQueueFullError):
        consumer.commit_async({A: 4}, callback)
    eventually(lambda: consumer.poll(0.02) == {} and len(told) == 3)
    consumer.commit_async({A: 5}, callback)
    eventually(lambda: consumer.poll(0.02) == {} and len(told) == 4)
    assert told == [(None, 1), (None, 2), (None, 3), (None, 5)]
    assert cluster.committed("g")[A].offset == 5


def test_a_commit_in_the_revoked_listener_need_not_wait_for_itself(cluster, consume):
    fill(cluster, 3)
    cluster.delay_ms = 20

    class Listener:
        def on_partitions_revoked(self, partitions):
            consumer.commit_async({A: 3})

    consumer = consume(group_id="g", enable_auto_commit=False)
    consumer.subscribe("t", listener=Listener())
    assert len(take(consumer, 3)) == 3
    consumer.unsubscribe()
    assert cluster.committed("g")[A].offset == 3


def test_an_assignment_that_is_replaced_is_committed(cluster, consume):
    fill(cluster, 3)
    consumer = consume(group_id="g", enable_auto_commit=True, auto_commit_interval_ms=60_000)
    consumer.assign([A])
    assert len(take(consumer, 3)) == 3
    consumer.poll(0)
    consumer.assign([B])
    eventually(lambda: cluster.committed("g").get(A, (0,))[0] == 3, WAIT_S)


# --- waits --------------------------------------------------------------------------------------


def test_a_topic_that_was_deleted_is_told_at_once(cluster, consume):
    fill(cluster, 1)
    consumer = consume()
    consumer.assign([A])
    assert len(take(consumer, 1)) == 1
    with cluster.admin() as admin:
        admin.delete_topic("t")
    started_s = time.monotonic()
    with pytest.raises(UnknownTopicOrPartitionError):
        consumer.poll(WAIT_S)
    assert time.monotonic() - started_s < WAIT_S / 2


def test_an_error_that_comes_up_without_an_answer_ends_the_poll(consume):
    consumer = consume(fetch_max_wait_ms=60_000)
    consumer.assign([A])
    core = consumer._core

    def fail():
        with core.lock:
            state = core.positions.states[A]
            state.error = UnknownTopicOrPartitionError("gone")
            core.positions.refresh_ready(state)
        core._wake()

    eventually(lambda: consumer.position(A) == 0)
    threading.Timer(0.2, fail).start()
    started_s = time.monotonic()
    with pytest.raises(UnknownTopicOrPartitionError):
        consumer.poll(WAIT_S)
    assert time.monotonic() - started_s < WAIT_S / 2


async def test_a_listener_that_closes_ends_the_poll(aio_consume):
    consumer = aio_consume(group_id="g")

    class Listener:
        async def on_partitions_assigned(self, partitions):
            await consumer.close()

    consumer.subscribe("t", listener=Listener())
    started_s = time.monotonic()
    with pytest.raises(ConsumerClosedError):
        await consumer.poll(WAIT_S)
    assert time.monotonic() - started_s < WAIT_S / 2


def test_close_after_a_defect_ends(cluster, consume, monkeypatch):
    fill(cluster, 2)
    consumer = consume("t", group_id="g")
    assert len(take(consumer, 2)) == 2
    consumer._core.finish()

    def broken(*_):
        raise ZeroDivisionError

    monkeypatch.setattr(consumer._core.io.fetcher, "next_calls", broken)
    consumer._core._wake()
    with pytest.raises(InternalError):
        consumer.poll(WAIT_S)
    closing = threading.Thread(target=consumer.close, daemon=True)
    closing.start()
    closing.join(WAIT_S / 2)
    assert not closing.is_alive()


def test_wakeup_from_a_signal_handler_that_interrupts_a_wait(consume):
    consumer = consume()
    consumer.assign([A])

    def handled():
        # As a handler that runs on the thread that holds the event's lock.
        with consumer._news._cond:
            consumer.wakeup()

    waking = threading.Thread(target=handled, daemon=True)
    waking.start()
    waking.join(WAIT_S / 4)
    assert not waking.is_alive()


# --- ends ---------------------------------------------------------------------------------------


def test_a_listener_that_fails_does_not_keep_from_unsubscribing(cluster, consume):
    class Failing:
        def on_partitions_revoked(self, partitions):
            raise ZeroDivisionError

    consumer = consume(group_id="g")
    consumer.subscribe("t", listener=Failing())
    eventually(lambda: consumer.poll(0.02) == {} and len(consumer.assignment()) == 2, WAIT_S)
    with pytest.raises(ZeroDivisionError):
        consumer.unsubscribe()
    assert consumer.subscription() is None
    assert not cluster.assignment("g")
    consumer.assign([A])


def test_at_exit_a_listener_that_fails_keeps_no_other_from_leaving(cluster, consume):
    class Failing:
        def on_partitions_revoked(self, partitions):
            raise ZeroDivisionError

    made = [consume(group_id=f"g{each}") for each in range(3)]
    for consumer in made:
        consumer.subscribe("t", listener=Failing())
        eventually(lambda each=consumer: each.poll(0.02) == {} and each.assignment(), WAIT_S)
    with pytest.raises(ZeroDivisionError):
        _close_all()
    assert not any(cluster.assignment(f"g{each}") for each in range(3))


def test_a_child_process_is_told_what_it_has(consume):
    consumer = consume()
    consumer.assign([A])
    consumer._core.io.monitor.is_forked = True
    with pytest.raises(ForkedProcessError, match="this consumer"):
        consumer.poll(0)
    consumer._core.io.monitor.is_forked = False


def test_an_error_of_a_paused_partition_waits(cluster, consume):
    fill(cluster, 2, partition=1)
    consumer = consume(auto_offset_reset="none", group_id="g", enable_auto_commit=False)
    consumer.commit({B: 0})
    consumer.assign([A, B])
    consumer.pause(A)
    assert len(take(consumer, 2)) == 2
    consumer.resume(A)
    with pytest.raises(NoOffsetForPartitionError):
        consumer.poll(WAIT_S)


def test_a_subscription_to_a_topic_that_is_not_there_says_so_once(cluster, consume, caplog):
    consumer = consume("t", "misspelt", group_id="g")

    def warnings():
        return [entry.getMessage() for entry in caplog.records if "misspelt" in entry.getMessage()]

    with caplog.at_level("WARNING", logger="ottla.consumer"):
        eventually(lambda: consumer.poll(0.01) or warnings())
        consumer.poll(0.2)
    assert len(warnings()) == 1
    assert "there is no topic 'misspelt' yet" in warnings()[0]
    cluster.create_topic("misspelt", partitions=1)
    eventually(lambda: consumer.poll(0.05) or ("misspelt", 0) in consumer.assignment())
