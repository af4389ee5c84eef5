"""What a coordinator makes of what was decided before an unclean election of its partition.

Such an election may have taken decisions away. The replica that leads now knows a transactional id
as it was then; later identities may have been granted since, and have written to partitions, whose
logs remember it. Were the next one counted from what is known, an identity would be granted a
second time: a log would take the first batch of its new holder for a repetition of the former
one's, and acknowledge what it never stored.

So whatever stands in the log from before the election is read as if the identity had been taken
back: the last epoch of the producer id is granted, which was granted to nobody before, and what
comes after it is a new producer id (`known_ids.next_identity`). Only who repeats the last decision
or take-over that is known is told of it, as the one producer that these were granted to. What was
open is aborted, for it may have ended; its producer hears that an operator did so, and goes on.

Nothing is written for that. It is a function of the log and of the metadata, so each coordinator
after the election reads the same, until the id is decided upon again, which is a record of a later
epoch.
"""

from msgspec.structs import replace

from ottla_cluster.transactions.limits import MAX_GRANTED_PRODUCER_EPOCH
from ottla_cluster.transactions.records import (
    EndedBy,
    EndedTransaction,
    ProducerIdentity,
    TransactionalIdChanged,
    TransactionRecord,
    TransactionState,
)


def as_revoked(record: TransactionRecord) -> TransactionRecord:
    """The record, of before the last unclean election, as coordinators after it read it."""
    if not isinstance(record, TransactionalIdChanged):
        return record
    held = record.granted
    if held.producer_epoch >= MAX_GRANTED_PRODUCER_EPOCH:
        # What comes next is a new producer id anyway.
        return record
    granted = ProducerIdentity(held.producer_id, MAX_GRANTED_PRODUCER_EPOCH)
    if record.state is not TransactionState.ONGOING:
        return replace(record, granted=granted)
    return replace(
        record,
        granted=granted,
        state=TransactionState.PREPARE_ABORT,
        ended=EndedTransaction(held, is_committed=False, by=EndedBy.OPERATOR),
    )
