"""For how long each open transaction may go on, by the clock of this coordinator.

The wall clock may jump, and a transaction that stays open keeps every reader of committed records
waiting. So a coordinator counts by its monotonic clock from when it first saw the transaction: its
beginning, or the end of the loading after a failover. Then the wall clock tells how old it is, and
is believed only as far as it shortens the wait: no transaction is open for longer than its time-out
under any one coordinator.
"""

from dataclasses import dataclass
from typing import TypeGuard

from ottla_cluster.transactions.image import TransactionsImage
from ottla_cluster.transactions.records import (
    ProducerIdentity,
    TransactionalIdChanged,
    TransactionState,
)


@dataclass(frozen=True, slots=True)
class _Open:
    """An open transaction, and when its time is up by the monotonic clock."""

    identity: ProducerIdentity
    deadline_ms: int


class OpenTimes:
    """The deadlines of one coordinator's open transactions.

    Args:
        image: what is open when this coordinator begins.
        now_ms: the monotonic clock.
        timestamp_ms: the wall clock.
    """

    def __init__(self, image: TransactionsImage, now_ms: int, timestamp_ms: int) -> None:
        # By transactional id. A decision that is not durable ends none: the log may yet refuse it.
        self._open: dict[str, _Open] = {}
        for name, transaction in image.transactions.items():
            if transaction.state is TransactionState.ONGOING:
                started_ms = transaction.started_timestamp_ms
                age_ms = 0 if started_ms is None else max(timestamp_ms - started_ms, 0)
                left_ms = max(transaction.timeout_ms - age_ms, 0)
                self._open[name] = _Open(transaction.granted, now_ms + left_ms)

    def follow(
        self,
        name: str,
        committed: TransactionalIdChanged | None,
        speculative: TransactionalIdChanged | None,
        now_ms: int,
    ) -> None:
        """What is durable of a transactional id, or what is to be, has changed."""
        known = self._open.get(name)
        if _is_open(speculative) and (known is None or known.identity != speculative.granted):
            self._open[name] = _Open(speculative.granted, now_ms + speculative.timeout_ms)
        elif known is not None and not any(
            _is_open(each) and each.granted == known.identity for each in (committed, speculative)
        ):
            del self._open[name]

    def overdue(self, now_ms: int) -> tuple[tuple[str, ProducerIdentity], ...]:
        """The transactions whose time is up."""
        return tuple(
            (name, each.identity) for name, each in self._open.items() if each.deadline_ms <= now_ms
        )


def _is_open(transaction: TransactionalIdChanged | None) -> TypeGuard[TransactionalIdChanged]:
    return transaction is not None and transaction.state is TransactionState.ONGOING
