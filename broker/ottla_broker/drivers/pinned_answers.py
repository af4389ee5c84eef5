"""What a follower keeps of an answer that it does not keep whole."""

from dataclasses import replace

from ottla_broker.drivers.peer_messages import FetchResult

PINNED_ANSWER_FACTOR = 4
"""Batches of one partition may keep an answer of this many times their size in memory, instead of
being copied."""


def unpinned(result: FetchResult) -> FetchResult:
    """The result with batches that keep no answer in memory that is much larger than they are.

    Batches are views of the whole answer, and the newest stay cached. Where what another partition
    was sent is refused, or finds no room, again and again, each answer would stay for a few bytes.
    """
    size_bytes = sum(len(batch.data) for batch in result.batches)
    if not result.batches:
        return result
    answer = memoryview(result.batches[0].data).obj
    if size_bytes * PINNED_ANSWER_FACTOR >= memoryview(answer).nbytes:
        return result
    copies = [batch._replace(data=bytearray(batch.data)) for batch in result.batches]
    return replace(result, batches=copies)
