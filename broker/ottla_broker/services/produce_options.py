"""How a produce is to be acknowledged, and until when."""

from dataclasses import dataclass, replace
from typing import Any, Literal

from ottla_broker.drivers.clock import monotonic_ms
from ottla_cluster.transactions.known_ids import validate_transactional_id
from ottla_protocol.errors import InvalidRequiredAcksError
from ottla_protocol.models import ACKS_ALL
from ottla_protocol.transaction_tokens import TransactionToken, encode_transaction

ACKS_LABELS = {0: "0", 1: "1", ACKS_ALL: "all"}
"""Every valid `acks`, with its name for people and metrics."""


@dataclass(frozen=True, slots=True)
class ProduceOptions:
    """`deadline_ms` is of the monotonic clock, and bounds all attempts together.

    `transactional_id` is the one by which a coordinator knows the producer of the transactional
    batches; a transactional batch without it is refused. `transaction` is the one that plain
    records are made into batches of. `is_gathered` says that they have waited for company already,
    and that whoever produces them is parked.
    """

    acks: int
    deadline_ms: int
    transactional_id: str | None = None
    transaction: TransactionToken | None = None
    is_gathered: bool = False

    @classmethod
    def of_records(
        cls, acks: int, timeout_ms: int, transaction: TransactionToken | None
    ) -> "ProduceOptions":
        """Options of a request whose records are yet to be made into batches.

        Raises:
            InvalidRequiredAcksError, InvalidRequestError: as `checked`.
        """
        if transaction is None:
            return cls.checked(acks, timeout_ms)
        options = cls.checked(acks, timeout_ms, transaction.transactional_id, acks_are="parameter")
        return replace(options, transaction=transaction)

    @classmethod
    def checked(
        cls,
        acks: int,
        timeout_ms: int,
        transactional_id: str | None = None,
        *,
        acks_are: Literal["field", "parameter"] = "field",
    ) -> "ProduceOptions":
        """Options from a request.

        Args:
            acks: as the wire has them.
            timeout_ms: how long all attempts may take together.
            transactional_id: of the transaction that the batches belong to.
            acks_are: where they were told, a field of the body or a parameter of the query.

        Raises:
            InvalidRequiredAcksError: acks is none of 0, 1 and -1, or less than all in a
                transaction: what is lost after its commit would tear it.
            InvalidRequestError: the transactional id breaks a rule.
        """
        where: dict[str, Any] = {acks_are: "acks"}
        if acks not in ACKS_LABELS:
            raise InvalidRequiredAcksError(f"acks must be 0, 1 or all (-1), not {acks}", **where)
        if transactional_id is not None:
            validate_transactional_id(transactional_id)
            if acks != ACKS_ALL:
                raise InvalidRequiredAcksError(
                    f"acks must be all (-1) in a transaction, not {acks}", **where
                )
        return cls(acks, monotonic_ms() + timeout_ms, transactional_id)

    @property
    def token(self) -> str | None:
        """The token of the transaction; None outside of any."""
        return None if self.transaction is None else encode_transaction(self.transaction)

    @property
    def remaining_ms(self) -> int:
        """Time left; never negative."""
        return max(0, self.deadline_ms - monotonic_ms())
