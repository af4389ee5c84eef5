"""Transactions, as clients of the HTTP API see them.

A client holds the token of its transaction (`ottla_protocol.transaction_tokens`), which tells the
identity that its coordinator granted. Every call may be sent again: a decision stands, and who was
succeeded is told so.
"""

import os
from collections.abc import Collection
from hashlib import blake2b
from typing import Protocol

from ottla_cluster.transactions.commands import (
    AbortTransaction,
    AbortTransactionResponse,
    ClientCommand,
    DescribeTransaction,
    DescribeTransactionResponse,
    EndTransaction,
    EndTransactionResponse,
    InitialiseProducer,
    InitialiseProducerResponse,
    ListTransactions,
    ListTransactionsResponse,
    Response,
)
from ottla_cluster.transactions.config import TransactionConfig
from ottla_cluster.transactions.limits import ATTEMPT_BYTES
from ottla_cluster.transactions.records import (
    EndedBy,
    EndedTransaction,
    ProducerIdentity,
    TransactionalIdChanged,
    TransactionState,
)
from ottla_protocol import models_transactions as models
from ottla_protocol.errors import (
    ConcurrentTransactionsError,
    InvalidRequestError,
    InvalidTransactionStateError,
)
from ottla_protocol.listing_cursors import decode_listing_cursor, encode_listing_cursor
from ottla_protocol.transaction_tokens import (
    TransactionToken,
    decode_transaction,
    encode_transaction,
)


class Coordinators(Protocol):
    """The way to the coordinator of every transactional id."""

    async def decide(
        self, transactional_id: str, command: ClientCommand, *, repeatable: bool
    ) -> Response:
        """The coordinator's answer; waits while markers are written, and through a failover."""

    async def ask_all(self, command: ListTransactions) -> list[tuple[Response, int]]:
        """The answers of all coordinators, each with its node id."""

    def coordinator_of(self, transactional_id: str) -> int | None:
        """The node id of the id's coordinator, as this broker knows it; None where it has none."""


class OffsetCommits(Protocol):
    """Group offsets that are committed with a transaction."""

    async def commit_transaction_offsets(
        self,
        transactional_id: str,
        identity: ProducerIdentity,
        request: models.CommitTransactionOffsetsRequest,
    ) -> models.TransactionOffsets:
        """Have the group's offsets wait for the transaction's decision."""


class TransactionService:
    """Serves `/v1/transactions`.

    Args:
        calls: the way to the coordinators.
        groups: takes the offsets of a transaction.
        config: the coordinators'.
    """

    def __init__(
        self, *, calls: Coordinators, groups: OffsetCommits, config: TransactionConfig
    ) -> None:
        self._calls = calls
        self._groups = groups
        self._config = config

    # --- what a producer does ---------------------------------------------------------------

    async def initialise(
        self, request: models.InitialiseProducerRequest
    ) -> models.TransactionalProducer:
        """Grant the transactional id to whoever asks; what was open is aborted first.

        Brokers repeat the call through a failover, and it counts once. That it does, too, when its
        client sends it again takes an `idempotency_key`, or the token of who goes on.

        Raises:
            InvalidRequestError: the id breaks a rule, or the token is another id's.
            InvalidTransactionTimeoutError: the time-out is out of bounds.
            IdempotencyKeyReusedError: the key was used with another time-out.
            TransactionalIdNotFoundError: a token is given and the id is not known.
            ProducerFencedError: the token's producer does not hold the id any more.
            UnavailableError: no coordinator decided in time.
        """
        identity = None
        if request.transaction is not None:
            identity = _identity(request.transactional_id, request.transaction)
        timeout_ms = request.timeout_ms
        if timeout_ms is None:
            timeout_ms = self._config.default_timeout_ms
        response = await self._calls.decide(
            request.transactional_id,
            InitialiseProducer(
                request.transactional_id, timeout_ms, identity, _attempt(request.idempotency_key)
            ),
            repeatable=True,
        )
        assert isinstance(response, InitialiseProducerResponse)
        if response.granted is None:
            raise ConcurrentTransactionsError(
                f"The last transaction of {request.transactional_id!r} is being aborted; try again "
                "in a moment."
            )
        return models.TransactionalProducer(
            transactional_id=request.transactional_id,
            transaction=_token(request.transactional_id, response.granted),
            producer_id=response.granted.producer_id,
            producer_epoch=response.granted.producer_epoch,
            timeout_ms=timeout_ms,
        )

    async def commit_offsets(
        self, transactional_id: str, request: models.CommitTransactionOffsetsRequest
    ) -> models.TransactionOffsets:
        """Have offsets of a group be committed if the transaction is.

        Raises:
            InvalidRequestError: the token is another id's, or none.
            ProducerFencedError: its producer does not hold the id any more.
            TransactionAbortableError: the transaction was ended meanwhile.
            UnknownMemberIdError, FencedMemberEpochError: as a commit without a transaction.
            UnavailableError: no coordinator decided in time.
        """
        identity = _identity(transactional_id, request.transaction)
        return await self._groups.commit_transaction_offsets(transactional_id, identity, request)

    async def commit(
        self, transactional_id: str, request: models.CommitTransactionRequest
    ) -> models.TransactionEnd:
        """Commit the transaction; durable when this returns.

        Raises:
            InvalidRequestError: the token is another id's, or none.
            TransactionalIdNotFoundError: the id is not known.
            ProducerFencedError: the producer does not hold the id any more.
            InvalidTransactionStateError: its producer has aborted it.
            TransactionAbortableError: a time-out or an operator has.
            UnavailableError: no coordinator decided in time.
        """
        identity = _identity(transactional_id, request.transaction)
        return await self._end(transactional_id, identity, is_commit=True)

    async def abort(
        self, transactional_id: str, request: models.AbortTransactionRequest
    ) -> models.TransactionEnd:
        """Abort the transaction; without a token, whichever is open, as an operator does.

        Raises:
            InvalidRequestError: the token is another id's, or none.
            TransactionalIdNotFoundError: the id is not known.
            ProducerFencedError: the producer does not hold the id any more.
            InvalidTransactionStateError: its producer has committed it; or none was open, and the
                last one was not aborted.
            UnavailableError: no coordinator decided in time.
        """
        if request.transaction is None:
            return await self._abort_open(transactional_id)
        identity = _identity(transactional_id, request.transaction)
        return await self._end(transactional_id, identity, is_commit=False)

    async def _end(
        self, transactional_id: str, identity: ProducerIdentity, *, is_commit: bool
    ) -> models.TransactionEnd:
        response = await self._calls.decide(
            transactional_id,
            EndTransaction(transactional_id, identity, is_commit),
            repeatable=True,
        )
        assert isinstance(response, EndTransactionResponse)
        return _end(transactional_id, response.granted, is_committed=is_commit)

    # --- what an operator does --------------------------------------------------------------

    async def _abort_open(self, transactional_id: str) -> models.TransactionEnd:
        found = await self._find(transactional_id)
        if found.state is TransactionState.ONGOING:
            response = await self._calls.decide(
                transactional_id,
                AbortTransaction(transactional_id, found.granted, EndedBy.OPERATOR),
                repeatable=True,
            )
            assert isinstance(response, AbortTransactionResponse)
            found = await self._find(transactional_id)
        # Its producer may have been faster; what counts is how the last transaction ended.
        if found.ended is None or found.ended.is_committed:
            raise InvalidTransactionStateError(
                f"{transactional_id!r} has no open transaction: its state is {found.state}."
            )
        return _end(transactional_id, found.granted, is_committed=False)

    async def list_transactions(
        self,
        states: Collection[TransactionState] | None,
        *,
        older_than_ms: int | None,
        now_ms: int,
        limit: int,
        cursor: str | None = None,
    ) -> models.TransactionList:
        """Some transactional ids of all coordinators, by id.

        Args:
            states: only those; None for all.
            older_than_ms: only those whose transaction has been open, or ending, for longer.
            now_ms: the wall clock.
            limit: how many at most.
            cursor: the `next_cursor` of the answer before; None for the first page.

        Raises:
            InvalidRequestError: no answer had this cursor.
            UnavailableError: a coordinator did not answer in time.
        """
        command = ListTransactions(
            states=None if states is None else frozenset(states),
            started_before_ms=None if older_than_ms is None else now_ms - older_than_ms,
            behind=None if cursor is None else decode_listing_cursor(cursor),
            limit=limit,
        )
        known, has_more = await self._list(command)
        found = known[:limit]
        has_more = has_more or len(known) > limit
        return models.TransactionList(
            [
                models.TransactionListing(
                    transactional_id=each.transactional_id,
                    state=each.state.value,
                    producer_id=each.granted.producer_id,
                    producer_epoch=each.granted.producer_epoch,
                    timeout_ms=each.timeout_ms,
                    partitions=len(each.partitions),
                    age_ms=_age_ms(each, now_ms),
                )
                for each in found
            ],
            next_cursor=encode_listing_cursor(found[-1].transactional_id) if has_more else None,
        )

    async def all_transactions(self) -> list[TransactionalIdChanged]:
        """What all coordinators know, by id.

        Not of one moment: each id is told as it is at some time after the call.

        Raises:
            UnavailableError: a coordinator did not answer in time.
        """
        found, has_more = await self._list(ListTransactions())
        while has_more:
            part, has_more = await self._list(ListTransactions(behind=found[-1].transactional_id))
            found += part
        return found

    async def _list(self, command: ListTransactions) -> tuple[list[TransactionalIdChanged], bool]:
        """The next ids of all coordinators together, by id, and whether others come behind them.

        At least one, if there is any. Each coordinator tells only so many, so all of them together
        are complete up to the first place where one of them has stopped.
        """
        found: list[TransactionalIdChanged] = []
        complete_to: list[str] = []
        for response, _ in await self._calls.ask_all(command):
            assert isinstance(response, ListTransactionsResponse)
            found.extend(response.transactions)
            if response.has_more:
                complete_to.append(response.transactions[-1].transactional_id)
        found.sort(key=lambda each: each.transactional_id)
        if not complete_to:
            return found, False
        end = min(complete_to)
        return [each for each in found if each.transactional_id <= end], True

    async def describe(
        self, transactional_id: str, *, now_ms: int
    ) -> models.TransactionDescription:
        """All about one transactional id; `now_ms` is the wall clock.

        Raises:
            TransactionalIdNotFoundError: it is not known.
            UnavailableError: its coordinator did not answer in time.
        """
        found = await self._find(transactional_id)
        return models.TransactionDescription(
            transactional_id=transactional_id,
            coordinator=self._calls.coordinator_of(transactional_id),
            state=found.state.value,
            producer_id=found.granted.producer_id,
            producer_epoch=found.granted.producer_epoch,
            timeout_ms=found.timeout_ms,
            partitions=[
                models.TransactionPartition(each.topic, each.partition) for each in found.partitions
            ],
            started_timestamp=found.started_timestamp_ms,
            age_ms=_age_ms(found, now_ms),
            updated_timestamp=found.updated_timestamp_ms,
            ended=None if found.ended is None else _ended(found.ended),
        )

    async def _find(self, transactional_id: str) -> TransactionalIdChanged:
        response = await self._calls.decide(
            transactional_id, DescribeTransaction(transactional_id), repeatable=True
        )
        assert isinstance(response, DescribeTransactionResponse)
        return response.transaction


def _attempt(idempotency_key: str | None) -> bytes:
    """What tells a call from all others, and not from its own repetitions."""
    if idempotency_key is None:
        return os.urandom(ATTEMPT_BYTES)
    try:
        encoded = idempotency_key.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequestError(
            "idempotency_key is not valid Unicode", field="idempotency_key"
        ) from error
    return blake2b(encoded, digest_size=ATTEMPT_BYTES).digest()


def _identity(transactional_id: str, transaction: str) -> ProducerIdentity:
    """What a token tells.

    Raises:
        InvalidRequestError: it is none, or one of another transactional id.
    """
    token = decode_transaction(transaction)
    if token.transactional_id != transactional_id:
        raise InvalidRequestError(
            f"transaction is one of {token.transactional_id!r}, the request is about "
            f"{transactional_id!r}",
            field="transaction",
        )
    return ProducerIdentity(token.producer_id, token.producer_epoch)


def _token(transactional_id: str, granted: ProducerIdentity) -> str:
    return encode_transaction(
        TransactionToken(transactional_id, granted.producer_id, granted.producer_epoch)
    )


def _end(
    transactional_id: str, granted: ProducerIdentity, *, is_committed: bool
) -> models.TransactionEnd:
    return models.TransactionEnd(
        transactional_id=transactional_id,
        transaction=_token(transactional_id, granted),
        producer_id=granted.producer_id,
        producer_epoch=granted.producer_epoch,
        state=_decision(is_committed=is_committed),
    )


def _ended(ended: EndedTransaction) -> models.EndedTransaction:
    return models.EndedTransaction(
        producer_id=ended.identity.producer_id,
        producer_epoch=ended.identity.producer_epoch,
        state=_decision(is_committed=ended.is_committed),
        by=ended.by.value,
    )


def _decision(*, is_committed: bool) -> models.Decision:
    return "committed" if is_committed else "aborted"


def _age_ms(transaction: TransactionalIdChanged, now_ms: int) -> int | None:
    """How long it has been open, or on its way to its end; never negative."""
    started_ms = transaction.started_timestamp_ms
    return None if started_ms is None else max(0, now_ms - started_ms)
