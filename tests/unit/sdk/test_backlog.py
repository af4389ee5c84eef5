"""Batches that cannot be sent yet grow, within every other bound."""

import pytest

from ottla._accumulator import GROWN_SHARE, GROWTH_STEP, MAX_GROWTH, Accumulator

BATCH_SIZE = 1_000
FAR_MS = 60_000
RECORD = (0, b"k" * 10, b"v" * 100, [])


def accumulator(**changes):
    options = {
        "batch_size": BATCH_SIZE,
        "buffer_memory": 10_000_000,
        "max_request_size": 1_000_000,
        "linger_ms": 0,
        "delivery_timeout_ms": FAR_MS,
        **changes,
    }
    return Accumulator(**options)


def fill(buffer, queue, batches):
    """Full batches of a queue; the size of each once it is closed."""
    for _ in range(batches):
        batch = buffer.open_batch(queue, 200, 0)
        while batch.append(batch.count, *RECORD) is not None:
            batch.count += 1
    buffer.close_open(queue)
    return [batch.size_bytes for batch in queue.closed]


def queue_of(buffer, max_batch_bytes=100_000):
    queue = buffer.queue("t", 0)
    queue.max_batch_bytes = max_batch_bytes
    return queue


def test_each_batch_that_fills_up_behind_another_lets_the_next_one_grow():
    buffer = accumulator()
    sizes = fill(buffer, queue_of(buffer), 6)
    wanted = [1, GROWTH_STEP, GROWTH_STEP**2, MAX_GROWTH, MAX_GROWTH, MAX_GROWTH]
    for size, growth in zip(sizes, wanted, strict=True):
        assert BATCH_SIZE * growth - 300 < size <= BATCH_SIZE * growth


def test_a_batch_that_need_not_wait_is_as_large_as_asked():
    buffer = accumulator()
    queue = queue_of(buffer)
    fill(buffer, queue, 4)
    queue.closed.clear()
    assert fill(buffer, queue, 1)[0] <= BATCH_SIZE


def test_a_batch_under_way_makes_the_next_one_grow_as_one_that_waits_does():
    buffer = accumulator()
    queue = queue_of(buffer)
    fill(buffer, queue, 2)
    queue.closed.clear()
    queue.in_flight = True
    assert fill(buffer, queue, 1)[0] > BATCH_SIZE * (GROWTH_STEP - 1)


def test_batches_shrink_where_they_are_not_nearly_filled():
    buffer = accumulator()
    queue = queue_of(buffer)
    fill(buffer, queue, 4)
    grown = queue.growth
    for _ in range(2):
        batch = buffer.open_batch(queue, 200, 0)
        batch.append(0, *RECORD)
        batch.count = 1
        buffer.close_open(queue)
    assert queue.growth == grown // GROWTH_STEP**2


@pytest.mark.parametrize(
    ("changes", "max_batch_bytes", "bound"),
    [
        ({}, 5_000, 5_000),
        ({"max_request_size": 7_000}, 100_000, 7_000),
        ({}, 0, BATCH_SIZE),
        ({}, 500, 500),
        ({"buffer_memory": BATCH_SIZE * 6 * GROWN_SHARE}, 100_000, BATCH_SIZE * 6),
    ],
)
def test_they_never_grow_over_another_bound(changes, max_batch_bytes, bound):
    buffer = accumulator(**changes)
    sizes = fill(buffer, queue_of(buffer, max_batch_bytes), 5)
    assert max(sizes) <= bound
    assert max(sizes) > bound - 300


def test_each_partition_has_its_share_of_the_buffer():
    buffer = accumulator(buffer_memory=BATCH_SIZE * 48)
    queue = queue_of(buffer)
    fill(buffer, queue, 2)
    for others, bound in ((0, 12 * BATCH_SIZE), (1, 6 * BATCH_SIZE), (3, 3 * BATCH_SIZE)):
        for number in range(others):
            other = buffer.queue("t", 1 + number)
            if other.is_empty:
                buffer.open_batch(other, 200, 0)
        queue.growth = MAX_GROWTH
        batch = buffer.open_batch(queue, 200, 0)
        assert batch.reserved_bytes == bound
        batch.append(0, *RECORD)
        batch.count = 1
        buffer.close_open(queue)


def test_partitions_that_have_nothing_any_more_have_no_share():
    buffer = accumulator(buffer_memory=BATCH_SIZE * 48)
    queue = queue_of(buffer)
    for number in range(100):
        other = buffer.queue("t", 1 + number)
        batch = buffer.open_batch(other, 200, 0)
        buffer.close_open(other)
        batch.complete(0, 0)
        buffer.settled(batch)
    fill(buffer, queue, 2)
    queue.growth = MAX_GROWTH
    assert buffer.open_batch(queue, 200, 0).reserved_bytes == 12 * BATCH_SIZE


def test_a_batch_takes_what_is_left_rather_than_wait_for_its_share():
    buffer = accumulator()
    queue = queue_of(buffer)
    fill(buffer, queue, 2)
    buffer.available_bytes = 2 * BATCH_SIZE
    assert buffer.open_batch(queue, 200, 0).reserved_bytes == 2 * BATCH_SIZE
    buffer.close_open(queue)
    buffer.available_bytes = BATCH_SIZE - 1
    assert buffer.open_batch(queue, 200, 0) is None


def test_the_buffer_counts_what_a_grown_batch_may_take():
    buffer = accumulator()
    queue = queue_of(buffer)
    fill(buffer, queue, 2)
    before = buffer.available_bytes
    buffer.open_batch(queue, 200, 0)
    assert before - buffer.available_bytes == BATCH_SIZE * queue.growth > BATCH_SIZE


def test_a_batch_that_has_grown_lingers_no_longer():
    buffer = accumulator(linger_ms=1_000)
    queue = queue_of(buffer)
    queue.in_flight = True
    fill(buffer, queue, 2)
    queue.closed.clear()
    batch = buffer.open_batch(queue, 200, 0)
    assert buffer.ready_at_ms(queue) == 1_000
    assert not buffer.is_open_ready(batch, 0)
    while batch.current_size_bytes < BATCH_SIZE:
        batch.append(batch.count, *RECORD)
        batch.count += 1
    assert buffer.ready_at_ms(queue) == 0
    assert buffer.is_open_ready(batch, 0)
