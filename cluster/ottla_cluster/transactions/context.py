"""What a decision depends on beside the image and the command."""

from dataclasses import dataclass

from ottla_cluster.transactions.config import TransactionConfig


@dataclass(frozen=True, slots=True)
class TransactionContext:
    """The surroundings of one decision."""

    config: TransactionConfig
    timestamp_ms: int
    """Wall clock: only for what is kept and told, never for time-outs."""
    fresh_producer_id: int | None
    """One that nobody has, for a transactional id that has none or none with epochs left; None
    while this broker has none to give."""
