"""The records of one poll: a fair share of each partition, in order, within the bounds."""

import msgspec
import pytest

from ottla_broker.services import polled_records
from ottla_broker.services.polled_records import take_records
from ottla_protocol.errors import LeaderNotAvailableError
from ottla_protocol.models import FetchedPartition
from ottla_protocol.record_batch import patch_batch
from ottla_protocol.record_codec import RecordData, encode_batch


def fetched(count, *, base_offset=0, is_control=False, value_bytes=1):
    batch = encode_batch(
        [RecordData(1, None, b"v" * value_bytes) for _ in range(count)], is_control=is_control
    )
    patch_batch(batch, base_offset=base_offset, leader_epoch=0)
    return FetchedPartition("t", 0, [memoryview(batch)], 1_000, 0)


def shares(found):
    return {each.key[1]: len(each.records) for each in found}


async def take(counts, max_records):
    results = {("t", number): fetched(count) for number, count in enumerate(counts)}
    return await take_records(results, dict.fromkeys(results, 0), max_records=max_records)


@pytest.mark.parametrize(
    ("counts", "max_records", "expected"),
    [
        ((100, 100, 100), 30, {0: 10, 1: 10, 2: 10}),
        ((100, 1, 100), 30, {0: 10, 1: 1, 2: 19}),
        ((3, 3), 100, {0: 3, 1: 3}),
        ((100, 100, 100), 2, {0: 1, 1: 1}),
        ((100,), 7, {0: 7}),
    ],
)
async def test_partitions_share_the_room(counts, max_records, expected):
    found = await take(counts, max_records)
    assert shares(found) == expected
    assert all(each.next_offset == len(each.records) for each in found)


async def test_a_read_goes_on_within_a_batch():
    results = {("t", 0): fetched(10, base_offset=20)}
    [found] = await take_records(results, {("t", 0): 25}, max_records=3)
    assert [record.offset for record in found.records] == [25, 26, 27]
    assert found.next_offset == 28


async def test_control_batches_are_stepped_over_without_records():
    results = {("t", 0): fetched(1, base_offset=5, is_control=True)}
    [found] = await take_records(results, {("t", 0): 5}, max_records=3)
    assert (list(found.records), found.next_offset) == ([], 6)


async def test_what_could_not_be_read_or_is_empty_is_left_out():
    results = {
        ("t", 0): LeaderNotAvailableError("none"),
        ("t", 1): FetchedPartition("t", 1, [], 0, 0),
        ("t", 2): fetched(2),
    }
    found = await take_records(results, dict.fromkeys(results, 0), max_records=10)
    assert shares(found) == {2: 2}


async def test_many_bytes_end_a_poll_early(monkeypatch):
    monkeypatch.setattr(polled_records, "MAX_POLL_BYTES", 100)
    results = {("t", number): fetched(1, value_bytes=60) for number in range(4)}
    found = await take_records(results, dict.fromkeys(results, 0), max_records=10)
    assert shares(found) == {0: 1, 1: 1}


async def test_what_was_passed_over_is_told_though_there_are_no_records():
    moved = FetchedPartition("t", 0, [], 1_000, 0, next_offset=40)
    unmoved = FetchedPartition("t", 1, [], 1_000, 0, next_offset=20)
    results = {("t", 0): moved, ("t", 1): unmoved}
    [found] = await take_records(results, dict.fromkeys(results, 20), max_records=3)
    assert (found.key, found.records, found.next_offset) == (("t", 0), [], 40)


async def test_the_next_offset_is_behind_what_was_passed_over_once_all_is_taken():
    whole = msgspec.structs.replace(fetched(5, base_offset=20), next_offset=40)
    for room, next_offset in ((5, 40), (4, 24)):
        [found] = await take_records({("t", 0): whole}, {("t", 0): 20}, max_records=room)
        assert (len(found.records), found.next_offset) == (room, next_offset)
