"""Batches grow while many of their partition wait, within every other bound."""

import pytest

from ottla._accumulator import BACKLOG_BATCHES, BACKLOG_GROWTH, Accumulator

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


def backlog(max_batch_bytes=100_000, **changes):
    buffer = accumulator(**changes)
    queue = buffer.queue("t", 0)
    queue.max_batch_bytes = max_batch_bytes
    return fill(buffer, queue, BACKLOG_BATCHES + 2)


def test_the_first_batches_are_as_large_as_asked_and_those_behind_them_grow():
    sizes = backlog()
    assert all(size <= BATCH_SIZE for size in sizes[:BACKLOG_BATCHES])
    grown = sizes[BACKLOG_BATCHES:]
    assert all(size > BATCH_SIZE * (BACKLOG_GROWTH - 1) for size in grown)
    assert all(size <= BATCH_SIZE * BACKLOG_GROWTH for size in grown)


@pytest.mark.parametrize(
    ("changes", "bound"),
    [
        ({"max_batch_bytes": 5_000}, 5_000),
        ({"max_request_size": 7_000}, 7_000),
        ({"max_batch_bytes": 0}, BATCH_SIZE),
        ({"max_batch_bytes": 500}, 500),
        ({"buffer_memory": 20_000}, BATCH_SIZE),
    ],
)
def test_they_never_grow_over_another_bound(changes, bound):
    sizes = backlog(**changes)
    assert max(sizes) <= bound
    assert max(sizes) > bound - 300


def test_the_buffer_counts_what_a_grown_batch_may_take():
    buffer = accumulator()
    queue = buffer.queue("t", 0)
    queue.max_batch_bytes = 100_000
    fill(buffer, queue, BACKLOG_BATCHES)
    before = buffer.available_bytes
    buffer.open_batch(queue, 200, 0)
    assert before - buffer.available_bytes == BATCH_SIZE * BACKLOG_GROWTH
