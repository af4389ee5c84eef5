"""Commands on offsets that are committed with transactions, and their answers; see `commands`."""

import msgspec

from ottla_cluster.groups.messages import OffsetToCommit
from ottla_cluster.state_machine.messages import CommandMessage, ResponseMessage


class CommitTransactionOffsets(CommandMessage, frozen=True, tag="commit_transaction_offsets"):
    """Has all offsets wait for the end of the producer's transaction, or none of them (KIP-447).

    They become the group's offsets if the transaction commits, and vanish if it aborts. Member and
    generation are as in `CommitOffsets`. May be sent again: within a transaction the highest
    offset of a partition counts.
    """

    group: str
    transactional_id: str
    producer_id: int
    producer_epoch: int
    """Names the transaction; a late one of a transaction that has ended is refused by it."""
    offsets: tuple[OffsetToCommit, ...]
    member_id: str | None = None
    generation: int | None = None


class CommitTransactionOffsetsResponse(
    ResponseMessage, frozen=True, tag="transaction_offsets_pending"
):
    """The offsets wait for the end of the transaction, durably."""


class EndTransactionOffsets(CommandMessage, frozen=True, tag="end_transaction_offsets"):
    """The marker of a transaction: what it has pending here is committed, or vanishes.

    Never crosses the wire by itself: the transaction coordinator's markers do.
    """

    producer_id: int
    producer_epoch: int
    """The marker's: one more than that of the transaction, so that it never ends the next one."""
    is_commit: bool
    coordinator_epoch: int
    """The leader epoch in which the transaction coordinator decided; for the logs."""


class ForgetProducers(CommandMessage, frozen=True, tag="forget_producers"):
    """Nothing of the transactions that these ended can be on its way any more."""

    producers: tuple[tuple[int, int], ...]
    """(producer id, epoch of the marker); one whose marker is another by now is remembered."""


class PendingPartition(msgspec.Struct, frozen=True):
    """One partition's offset that waits for the end of a transaction."""

    topic: str
    partition: int
    offset: int
    leader_epoch: int | None = None
    metadata: str = ""


class PendingTransaction(msgspec.Struct, frozen=True):
    """What a transaction that is not over has pending in one group."""

    producer_id: int
    producer_epoch: int
    offsets: tuple[PendingPartition, ...]
    """By topic and partition."""
