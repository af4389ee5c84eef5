"""The shared budget of newest batches."""

from ottla_broker.storage.stored_batch import StoredBatch
from ottla_broker.storage.tail_cache import TailCache


def batch(base_offset, records=1, size_bytes=10):
    return StoredBatch(base_offset, base_offset + records - 1, 0, bytes(size_bytes))


def offsets(batches):
    return [found.base_offset for found in batches]


def filled(limit_bytes=1_000, count=5):
    cache = TailCache(limit_bytes)
    tail = cache.partition()
    for number in range(count):
        tail.append(batch(number * 2, records=2))
    return cache, tail


def test_a_read_begins_with_the_batch_that_holds_the_offset():
    _, tail = filled()
    assert offsets(tail.read(3, max_bytes=20, limit=99)) == [2, 4]


def test_a_read_returns_at_least_one_batch_and_stops_below_the_limit():
    _, tail = filled()
    assert offsets(tail.read(0, max_bytes=0, limit=99)) == [0]
    assert offsets(tail.read(0, max_bytes=99, limit=4)) == [0, 2]
    assert offsets(tail.read(0, max_bytes=99, limit=3)) == [0]
    assert offsets(tail.read(10, max_bytes=99, limit=99)) == []


def test_a_read_over_a_gap_goes_on_above_it():
    tail = TailCache(1_000).partition()
    tail.append(batch(0))
    tail.append(batch(7))
    assert offsets(tail.read(3, max_bytes=99, limit=99)) == [7]


def test_the_oldest_batch_of_all_partitions_goes_first():
    cache = TailCache(30)
    first, second = cache.partition(), cache.partition()
    first.append(batch(0))
    second.append(batch(0))
    first.append(batch(1))
    second.append(batch(1))
    assert cache.size_bytes == 30
    assert first.read(0, max_bytes=99, limit=99) is None
    assert offsets(first.read(1, max_bytes=99, limit=99)) == [1]
    assert offsets(second.read(0, max_bytes=99, limit=99)) == [0, 1]


def test_a_batch_over_the_whole_budget_is_not_kept_and_reads_go_to_disk():
    cache = TailCache(5)
    tail = cache.partition()
    tail.append(batch(0))
    assert cache.size_bytes == 0
    assert tail.read(0, max_bytes=99, limit=99) is None
    assert tail.read(1, max_bytes=99, limit=99) == ()


def test_truncation_drops_every_batch_that_reaches_the_offset():
    cache, tail = filled()
    tail.truncate_to(5)
    assert cache.size_bytes == 20
    assert offsets(tail.read(0, max_bytes=99, limit=99)) == [0, 2]
    tail.append(batch(4, records=3))
    assert offsets(tail.read(0, max_bytes=99, limit=99)) == [0, 2, 4]


def test_truncation_below_the_cached_part_leaves_an_empty_tail_at_the_offset():
    cache, tail = filled(limit_bytes=20)
    tail.truncate_to(2)
    assert cache.size_bytes == 0
    assert tail.read(1, max_bytes=99, limit=99) is None
    tail.append(batch(2))
    assert offsets(tail.read(2, max_bytes=99, limit=99)) == [2]


def test_reset_starts_anew_above_or_below():
    cache, tail = filled()
    tail.reset(500)
    assert cache.size_bytes == 0
    assert tail.read(9, max_bytes=99, limit=99) is None
    assert tail.read(500, max_bytes=99, limit=99) == ()


def test_long_use_keeps_the_budget_and_the_newest_batches():
    cache = TailCache(100)
    tails = [cache.partition() for _ in range(3)]
    for number in range(3_000):
        tails[number % 3].append(batch(number // 3))
    assert cache.size_bytes == 100
    assert offsets(tails[2].read(999, max_bytes=99, limit=9_999)) == [999]
