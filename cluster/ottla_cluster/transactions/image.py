"""The transactions image: what one partition of the transaction topic says, as one immutable value.

`replay` is the only code that makes a new image out of an old one. Each record says all about its
transactional id, so a log from which compaction has dropped replaced records gives the same image.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from ottla_cluster.transactions.records import (
    TransactionalIdChanged,
    TransactionRecord,
)


@dataclass(frozen=True, slots=True)
class TransactionsImage:
    """All transactional ids of one coordinator up to `version`. Never changed, only replaced."""

    version: int = 0
    """The partition's log end offset after the last applied batch."""
    transactions: Mapping[str, TransactionalIdChanged] = field(default_factory=dict)
    """By transactional id."""


def replay(
    image: TransactionsImage, records: Sequence[TransactionRecord], version: int
) -> TransactionsImage:
    """The image after more of the log.

    Args:
        image: the image before; it stays as it is.
        records: the records of one batch or, when a log is loaded, of many.
        version: the log end offset after them, above the image's version.
    """
    assert version > image.version, (version, image.version)
    if not records:
        return replace(image, version=version)
    transactions = dict(image.transactions)
    for record in records:
        if isinstance(record, TransactionalIdChanged):
            transactions[record.transactional_id] = record
        else:
            transactions.pop(record.transactional_id, None)
    return TransactionsImage(version, transactions)
