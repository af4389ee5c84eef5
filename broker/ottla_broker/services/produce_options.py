"""How a produce is to be acknowledged, and until when."""

from dataclasses import dataclass

from ottla_broker.drivers.clock import monotonic_ms
from ottla_cluster.transactions.known_ids import validate_transactional_id
from ottla_protocol.errors import InvalidRequiredAcksError
from ottla_protocol.models import ACKS_ALL

ACKS_LABELS = {0: "0", 1: "1", ACKS_ALL: "all"}
"""Every valid `acks`, with its name for people and metrics."""


@dataclass(frozen=True, slots=True)
class ProduceOptions:
    """`deadline_ms` is of the monotonic clock, and bounds all attempts together.

    `transactional_id` is the one by which a coordinator knows the producer of the transactional
    batches; a transactional batch without it is refused.
    """

    acks: int
    deadline_ms: int
    transactional_id: str | None = None

    @classmethod
    def checked(
        cls, acks: int, timeout_ms: int, transactional_id: str | None = None
    ) -> "ProduceOptions":
        """Options from a request.

        Raises:
            InvalidRequiredAcksError: acks is none of 0, 1 and -1, or less than all in a
                transaction: what is lost after its commit would tear it.
            InvalidRequestError: the transactional id breaks a rule.
        """
        if acks not in ACKS_LABELS:
            raise InvalidRequiredAcksError(f"acks must be 0, 1 or all (-1), not {acks}")
        if transactional_id is not None:
            validate_transactional_id(transactional_id)
            if acks != ACKS_ALL:
                raise InvalidRequiredAcksError(
                    f"acks must be all (-1) in a transaction, not {acks}"
                )
        return cls(acks, monotonic_ms() + timeout_ms, transactional_id)

    @property
    def remaining_ms(self) -> int:
        """Time left; never negative."""
        return max(0, self.deadline_ms - monotonic_ms())
