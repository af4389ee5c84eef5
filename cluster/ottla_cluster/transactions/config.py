"""The transaction coordinator's settings: one frozen value, checked once where it is made."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TransactionConfig:
    """What a coordinator must be told. All brokers of a cluster should be told the same."""

    default_timeout_ms: int = 60_000
    """How long a transaction may be open, unless its producer says otherwise."""
    max_timeout_ms: int = 900_000
    """The longest that a producer may say: no reader of committed records waits longer."""
    transactional_id_expiration_ms: int = 7 * 24 * 3_600_000
    """How long a transactional id that nobody uses is remembered."""
    expiry_interval_ms: int = 600_000
    """How often such ids are looked for."""
    expiry_delay_ms: int = 3_600_000
    """For how long of the monotonic clock an id must go on looking unused before it is forgotten,
    `transactional_id_expiration_ms` at most: the wall clock, by which it is unused, may jump."""

    def __post_init__(self) -> None:
        assert 0 < self.default_timeout_ms <= self.max_timeout_ms, self
        assert self.transactional_id_expiration_ms > self.max_timeout_ms, self
        assert self.expiry_interval_ms > 0, self
        assert self.expiry_delay_ms >= 0, self
