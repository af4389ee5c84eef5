"""What a reader of committed records is shown of the batches that were read. Pure.

A log keeps the records of aborted transactions, and the markers that end transactions. Of every
transaction below the last stable offset it is known how it ended. So a batch from there is shown
unless it is a marker, or part of an aborted transaction: a transactional one, whose producer has an
aborted transaction around its offset.
"""

from bisect import bisect_right
from collections.abc import Iterable
from operator import attrgetter
from typing import Final

from ottla_broker.storage.policy.open_transactions import AbortedTransaction
from ottla_broker.storage.stored_batch import StoredBatch
from ottla_protocol.record_batch import (
    ATTRIBUTES_OFFSET,
    CONTROL_BIT,
    TRANSACTIONAL_BIT,
    read_header,
)

_ATTRIBUTE_BYTE: Final = ATTRIBUTES_OFFSET + 1
"""The lower byte of the attributes, which has all bits that there are."""

_first_offset = attrgetter("first_offset")


def has_transactions(batches: Iterable[StoredBatch]) -> bool:
    """Whether any of the batches is of a transaction, or a marker; for most topics none is."""
    attributes = 0
    for batch in batches:
        attributes |= batch.data[_ATTRIBUTE_BYTE]
    return attributes & (TRANSACTIONAL_BIT | CONTROL_BIT) != 0


def committed_batches(
    batches: Iterable[StoredBatch], aborted: Iterable[AbortedTransaction]
) -> list[StoredBatch]:
    """Those of the batches that are to be shown.

    Args:
        batches: in the order of their offsets, all below the last stable offset.
        aborted: the aborted transactions that touch them, and perhaps others, in any order.
    """
    ranges = _by_producer(aborted)
    return [batch for batch in batches if _is_shown(batch, ranges)]


_Ranges = dict[int, list[AbortedTransaction]]
"""Aborted transactions by producer, each producer's in the order of the log."""


def _by_producer(aborted: Iterable[AbortedTransaction]) -> _Ranges:
    ranges: _Ranges = {}
    for each in sorted(aborted, key=_first_offset):
        ranges.setdefault(each.producer_id, []).append(each)
    return ranges


def _is_shown(batch: StoredBatch, aborted: _Ranges) -> bool:
    header = read_header(batch.data)
    if header.is_control:
        return False
    own = aborted.get(header.producer_id) if header.is_transactional else None
    if own is None:
        return True
    # A producer has one transaction at a time: the last that begins here or before is the one.
    index = bisect_right(own, batch.base_offset, key=_first_offset)
    return index == 0 or batch.base_offset > own[index - 1].last_offset
