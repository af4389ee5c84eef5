"""How a produce is to be acknowledged, and until when."""

from dataclasses import dataclass

from ottla_broker.drivers.clock import monotonic_ms
from ottla_protocol.errors import InvalidRequiredAcksError
from ottla_protocol.models import ACKS_ALL

ACKS_LABELS = {0: "0", 1: "1", ACKS_ALL: "all"}
"""Every valid `acks`, with its name for people and metrics."""


@dataclass(frozen=True, slots=True)
class ProduceOptions:
    """`deadline_ms` is of the monotonic clock, and bounds all attempts together."""

    acks: int
    deadline_ms: int

    @classmethod
    def checked(cls, acks: int, timeout_ms: int) -> "ProduceOptions":
        """Options from a request.

        Raises:
            InvalidRequiredAcksError: acks is none of 0, 1 and -1.
        """
        if acks not in ACKS_LABELS:
            raise InvalidRequiredAcksError(f"acks must be 0, 1 or all (-1), not {acks}")
        return cls(acks, monotonic_ms() + timeout_ms)

    @property
    def remaining_ms(self) -> int:
        """Time left; never negative."""
        return max(0, self.deadline_ms - monotonic_ms())
