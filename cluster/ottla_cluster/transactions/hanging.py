"""Which transactions hang in the logs that a broker leads, and how they are to be ended.

A log that has lost its tail may have lost markers with it, and their coordinators write none again:
each was told that its marker is committed. Nobody who reads committed records would get past such a
transaction. So the leader looks for what is open for longer than any transaction may be, and asks
the coordinators of it. Pure.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from ottla_cluster.transactions.known_ids import DECIDED
from ottla_cluster.transactions.records import ProducerIdentity, TransactionalIdChanged


class OpenInPartition(NamedTuple):
    """A transaction that is open in one partition."""

    topic_id: str
    partition: int
    identity: ProducerIdentity
    first_offset: int | None
    """Of its records; None where offsets wait for its end at a group coordinator."""


class OpenForLong:
    """Since when what is open has been open, by this broker's monotonic clock.

    Timestamps of records are their producers', and tell nothing.

    Args:
        limit_ms: longer than any transaction may be open at its coordinator.
    """

    def __init__(self, limit_ms: int) -> None:
        self._limit_ms = limit_ms
        self._since_ms: dict[OpenInPartition, int] = {}

    def follow(self, found: Iterable[OpenInPartition], now_ms: int) -> tuple[OpenInPartition, ...]:
        """What is open now; returns that of it which was so for too long."""
        former = self._since_ms
        self._since_ms = {each: former.get(each, now_ms) for each in found}
        return tuple(
            each for each, since_ms in self._since_ms.items() if now_ms - since_ms >= self._limit_ms
        )


def by_producer_id(
    known: Iterable[TransactionalIdChanged],
) -> Mapping[int, TransactionalIdChanged]:
    """What coordinators know, by the producer ids that are granted and by those that were last."""
    found: dict[int, TransactionalIdChanged] = {}
    for each in known:
        found[each.granted.producer_id] = each
        if each.ended is not None:
            found.setdefault(each.ended.identity.producer_id, each)
    return found


def missing_end(identity: ProducerIdentity, known: TransactionalIdChanged | None) -> bool | None:
    """How a transaction that hangs in a log is to be ended there.

    Args:
        identity: whose it is.
        known: what the coordinators know of the producer id. It must have been asked for after the
            log was looked at: what is in a log was in its transaction before.

    Returns:
        Whether it is committed; as it was decided, as far as that is known, else aborted. None
        where it does not hang: it may go on, or its markers are being written.
    """
    if known is None:
        return False
    if known.granted == identity:
        return None
    ended = known.ended
    if ended is None or ended.identity != identity:
        return False
    return None if known.state in DECIDED else ended.is_committed
