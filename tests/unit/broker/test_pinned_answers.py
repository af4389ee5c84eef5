"""What a follower caches keeps no fetch answer in memory that is much larger than it."""

import pytest

from ottla_broker.drivers.peer_messages import (
    FetchResult,
    ReplicatedBatch,
    decode_fetch_answer,
    encode_fetch_answer,
)
from ottla_broker.drivers.replica_fetcher import ReplicaFetcher
from ottla_protocol.record_batch import patch_batch
from ottla_protocol.record_codec import RecordData, encode_batch
from tests.unit.broker.disks import DiskOf
from tests.unit.broker.test_partition import LOCAL, OTHER, Hosted, state

TOPIC_ID = "t" * 32


def result(partition, value, *, is_damaged=False):
    data = bytearray(encode_batch([RecordData(timestamp=1, key=None, value=value)]))
    patch_batch(data, base_offset=0, leader_epoch=1)
    data[-1] ^= is_damaged
    return FetchResult(TOPIC_ID, partition, None, 0, 0, None, [ReplicatedBatch(data, None)])


@pytest.mark.parametrize(("other_bytes", "is_copied"), [(1_000_000, True), (10, False)])
async def test_a_batch_is_copied_where_most_of_its_answer_is_not_kept(
    tmp_path, other_bytes, is_copied
):
    hosted = await Hosted().open(tmp_path)
    await hosted.partition.become_follower(state(OTHER, 1))
    fetcher = ReplicaFetcher(
        node_id=LOCAL,
        leader_id=OTHER,
        peers=None,
        leader_url=lambda: None,
        broker_epoch=lambda: 1,
        disk=DiskOf(free_bytes=1 << 40),
        on_refused=pytest.fail,
        on_failure=pytest.fail,
    )
    fetcher.add(hosted.partition)
    fetcher._session.next_fetch()
    # The other partition is refused, or not followed here any more: the next answer has it again.
    parts = encode_fetch_answer(
        [result(1, bytes(other_bytes), is_damaged=True), result(0, b"small")], 7
    )
    answer = b"".join(parts)
    await fetcher._take(decode_fetch_answer(answer)[1], 0)
    assert hosted.partition.log.next_offset == 1
    # A slow commit is not waited for there.
    await hosted.partition.log.wait_durable(1)
    [cached] = hosted.partition.log.read_tail(0, max_bytes=1, limit=1)
    assert (memoryview(cached.data).obj is not answer) is is_copied
    assert bytes(cached.data) == bytes(parts[-1])
    await hosted.partition.close()
