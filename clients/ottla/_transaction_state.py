"""What a transactional producer may do now, and why not; the rules of KIP-98 as one machine.

Pure: no clock, no IO. The driver asks it before each step and reports what came of it; the intake
asks it before a record is taken. All of that happens under the producer's lock.

    UNINITIALISED --initialise--> INITIALISING --granted--> READY --begin--> OPEN
    OPEN --commit--> COMMITTING --granted--> READY
    OPEN | ABORTABLE | COMMITTING (undecided) --abort--> ABORTING --granted--> READY
    OPEN | COMMITTING (undecided) --a record or offsets failed--> ABORTABLE
    OPEN --a record was not taken--> ABORTABLE
    any --the transactional id is lost--> FATAL

A commit or an abort whose answer does not come leaves the machine where it is: either may be asked
for again, and the coordinator gives the same answer again. Only a commit that may have been decided
can no longer be aborted.

Each decision grants the next identity (KIP-890). A transaction's batches carry the identity that it
began with, so nothing of it can enter the next one.
"""

from copy import copy
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from ottla._errors import InvalidRecordError, SerializationError, TransactionStateError
from ottla_protocol.errors import (
    InvalidTransactionStateError,
    OttlaError,
    Outcome,
    ProducerFencedError,
    TransactionAbortableError,
    TransactionalIdNotFoundError,
)

FATAL_ERRORS = (ProducerFencedError, TransactionalIdNotFoundError)
"""How a broker says that the transactional id is somebody else's, or nobody's any more."""

NO_RECORD_ERRORS = (SerializationError, InvalidRecordError, TransactionStateError)
"""What `send` raises of a value that makes no record. Nothing is missing then, and a program may
send something else in its place, as with Kafka's clients."""


class Granted(NamedTuple):
    """What a producer holds its transactional id by.

    Attributes:
        token: how control calls name the transaction.
        producer_id, producer_epoch: what its batches carry.
    """

    token: str
    producer_id: int
    producer_epoch: int


@dataclass(slots=True)
class TransactionCounters:
    """What became of a producer's transactions; one that was lost with the id is in `begun` only.

    Attributes:
        begun: by `begin_transaction`.
        committed, aborted: ended by this producer; empty ones too.
        fenced: 1 once another producer has taken the transactional id over.
    """

    begun: int = 0
    committed: int = 0
    aborted: int = 0
    fenced: int = 0


class Phase(Enum):
    """Where the producer is; see the module."""

    UNINITIALISED = "not initialised"
    INITIALISING = "being initialised"
    READY = "outside of a transaction"
    OPEN = "in a transaction"
    COMMITTING = "committing"
    ABORTING = "aborting"
    ABORTABLE = "in a transaction that has failed"
    FATAL = "of no use any more"


class TransactionState:
    """The transactions of one producer.

    Args:
        transactional_id: whose they are.

    Attributes:
        phase: where it is.
        granted: the identity of this transaction, or of the next; None before the first.
        number: counts transactions, so that a record never enters another one than it was meant
            for.
        has_begun: something of this transaction may have reached a broker.
        is_decision_sent: its commit may have been decided.
        failure: why the transaction has failed, or the producer.
        counters: since the producer was made.
    """

    def __init__(self, transactional_id: str) -> None:
        self.transactional_id = transactional_id
        self.phase = Phase.UNINITIALISED
        self.granted: Granted | None = None
        self.number = 0
        self.has_begun = False
        self.is_decision_sent = False
        self.failure: OttlaError | None = None
        self.counters = TransactionCounters()

    # --- the producer's calls -------------------------------------------------------------------

    def begin_initialise(self) -> None:
        """Before the id is taken over.

        Raises:
            TransactionStateError: that was done.
            OttlaError: the id is lost.
        """
        self._refuse_lost()
        if self.granted is not None:
            raise TransactionStateError(
                "init_transactions was called before, and is called once",
                hint="go on with begin_transaction()",
            )
        self._require("init_transactions", Phase.UNINITIALISED, Phase.INITIALISING)
        self.phase = Phase.INITIALISING

    def begin(self) -> None:
        """Begin a transaction; no broker is asked.

        Raises:
            TransactionStateError: there is one, or init_transactions was not called.
            OttlaError: the id is lost.
        """
        self._require("begin_transaction", Phase.READY)
        self.phase = Phase.OPEN
        self.number += 1
        self.counters.begun += 1
        self.has_begun = self.is_decision_sent = False
        self.failure = None

    def check_taking(self, number: int) -> None:
        """Before a record is taken that was meant for the transaction of that number.

        Raises:
            TransactionStateError: there is no transaction, or another one.
            TransactionAbortableError: it has failed.
            OttlaError: the id is lost.
        """
        self._refuse_failed()
        self._require("send", Phase.OPEN)
        if number != self.number:
            raise TransactionStateError("the transaction that the record was meant for is over")

    def begin_offsets(self) -> Granted:
        """Before offsets are sent; returns the identity to send them by.

        Raises:
            OttlaError: as `check_taking`.
        """
        self._refuse_failed()
        self._require("send_offsets_to_transaction", Phase.OPEN)
        assert self.granted is not None, "open without an identity"
        self.has_begun = True
        return self.granted

    def begin_commit(self) -> None:
        """From now on no record is taken; those that were taken are sent first.

        Raises:
            OttlaError: as `check_taking`.
        """
        self._refuse_failed()
        self._require("commit_transaction", Phase.OPEN, Phase.COMMITTING)
        self.phase = Phase.COMMITTING

    def decide_commit(self) -> Granted:
        """Every record is acknowledged: the coordinator may be asked, by this identity.

        Raises:
            TransactionAbortableError: a record has failed meanwhile.
            OttlaError: the id is lost.
        """
        self._refuse_failed()
        assert self.phase is Phase.COMMITTING, self.phase
        assert self.granted is not None, "open without an identity"
        self.is_decision_sent = True
        return self.granted

    def begin_abort(self) -> Granted:
        """From now on everything of the transaction is given up; returns its identity.

        Raises:
            TransactionStateError: there is no transaction, or it may be committed.
            OttlaError: the id is lost.
        """
        phases = (Phase.OPEN, Phase.ABORTABLE, Phase.COMMITTING, Phase.ABORTING)
        self._require("abort_transaction", *phases)
        if self.is_decision_sent and self.phase is Phase.COMMITTING:
            raise TransactionStateError(
                "the transaction may be committed, so it cannot be aborted",
                hint="call commit_transaction again: it gives the same answer again",
            )
        self.phase = Phase.ABORTING
        assert self.granted is not None, "open without an identity"
        return self.granted

    # --- what came of them ----------------------------------------------------------------------

    def initialised(self, granted: Granted) -> None:
        """The id is ours."""
        assert self.phase is Phase.INITIALISING, self.phase
        self.phase = Phase.READY
        self.granted = granted

    def initialise_failed(self, error: OttlaError) -> None:
        """It is not, or not known to be: it may be asked for again, unless the error is fatal."""
        self.phase = Phase.UNINITIALISED
        self._note_fatal(error)

    def ended(self, granted: Granted) -> None:
        """The transaction is decided, and this is the next one's identity."""
        assert self.phase in {Phase.COMMITTING, Phase.ABORTING}, self.phase
        if self.phase is Phase.COMMITTING:
            self.counters.committed += 1
        else:
            self.counters.aborted += 1
        self.phase = Phase.READY
        self.granted = granted
        self.has_begun = self.is_decision_sent = False
        self.failure = None

    def end_of_nothing(self) -> Granted:
        """Nothing of the transaction reached a broker, so it ends without one.

        Returns:
            The identity of the next transaction: the same.

        Raises:
            OttlaError: as `decide_commit`.
        """
        self._refuse_failed()
        assert not self.has_begun, "something may have reached a broker"
        assert self.granted is not None, "ended without an identity"
        self.ended(self.granted)
        return self.granted

    def end_failed(self, error: OttlaError) -> None:
        """The coordinator did not say that the transaction is ended.

        One that has aborted it says so of a commit; and what it says to be ended otherwise than we
        ask can only have been ended by somebody else.
        """
        if self._note_fatal(error):
            return
        if isinstance(error, InvalidTransactionStateError):
            self._lose(error)
        elif isinstance(error, TransactionAbortableError) and self.phase is Phase.COMMITTING:
            self.is_decision_sent = False
            self.phase = Phase.ABORTABLE
            self.failure = error

    def failed(self, error: OttlaError) -> None:
        """A record or offsets of this transaction failed, so it can only be aborted."""
        if self._note_fatal(error) or self.phase not in {Phase.OPEN, Phase.COMMITTING}:
            return
        assert not self.is_decision_sent, "a record of a transaction that was to be committed"
        self.phase = Phase.ABORTABLE
        self.failure = error

    def not_taken(self, error: OttlaError) -> None:
        """`send` has raised in place of taking a record, so the open transaction lacks it.

        A program that goes on all the same would commit the others of its records.
        """
        if self.phase is Phase.OPEN and not isinstance(error, NO_RECORD_ERRORS):
            self.phase = Phase.ABORTABLE
            self.failure = error

    # --------------------------------------------------------------------------------------------

    @property
    def wants_abort(self) -> bool:
        """Whether a transaction is open that certainly is not committed."""
        if self.phase is Phase.COMMITTING:
            return not self.is_decision_sent
        return self.phase in {Phase.OPEN, Phase.ABORTABLE, Phase.ABORTING}

    def _require(self, call: str, *phases: Phase) -> None:
        self._refuse_lost()
        if self.phase not in phases:
            raise TransactionStateError(
                f"{call} is not allowed now: the producer is {self.phase.value}",
                hint=_HINTS.get(self.phase, ""),
            )

    def _refuse_lost(self) -> None:
        if self.phase is Phase.FATAL:
            assert self.failure is not None, "lost without a reason"
            raise copy(self.failure) from self.failure.__cause__

    def _refuse_failed(self) -> None:
        self._refuse_lost()
        if self.phase is Phase.ABORTABLE:
            assert self.failure is not None, "failed without a reason"
            raise TransactionAbortableError(
                f"the transaction has failed and can only be aborted: {self.failure}",
                outcome=Outcome.NOT_APPLIED,
            ) from self.failure

    def _note_fatal(self, error: OttlaError) -> bool:
        if not isinstance(error, FATAL_ERRORS):
            return False
        self._lose(error)
        return True

    def _lose(self, error: OttlaError) -> None:
        if self.phase is not Phase.FATAL:
            self.phase = Phase.FATAL
            self.failure = error
            self.counters.fenced += isinstance(error, ProducerFencedError)


_HINTS = {
    Phase.UNINITIALISED: "call init_transactions() once, before the first transaction",
    Phase.INITIALISING: "call init_transactions() again: it was not answered",
    Phase.READY: "call begin_transaction() first, or use `with producer.transaction()`",
    Phase.OPEN: "commit or abort the transaction first",
    Phase.COMMITTING: "call commit_transaction() again: it was not answered",
    Phase.ABORTING: "call abort_transaction() again: it was not answered",
    Phase.ABORTABLE: "call abort_transaction(), then begin the next one",
}
