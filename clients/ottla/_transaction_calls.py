"""The control calls of a transactional producer, as HTTP requests, and what their answers say.

Pure. Bodies are JSON both ways. Any broker takes these calls and forwards them to the transactional
id's coordinator, so a call names no broker; each may be sent again until it is answered.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import quote

import msgspec

from ottla._consumer_types import ConsumerGroupMetadata, OffsetAndMetadata, TopicPartition
from ottla._group_calls import MAX_OFFSETS_PER_COMMIT, decoded_body, offsets_to_commit
from ottla._transaction_state import Granted
from ottla_protocol import routes
from ottla_protocol.models_transactions import (
    AbortTransactionRequest,
    CommitTransactionOffsetsRequest,
    CommitTransactionRequest,
    InitialiseProducerRequest,
    TransactionalProducer,
    TransactionEnd,
    TransactionOffsets,
)

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class TransactionCall:
    """One `POST`; the body is JSON."""

    path: str
    body: bytes


def initialise_call(
    transactional_id: str, timeout_ms: int, idempotency_key: str
) -> TransactionCall:
    """Take the transactional id over; each transaction may be open for `timeout_ms`."""
    return TransactionCall(
        routes.TRANSACTIONS,
        _encode(
            InitialiseProducerRequest(
                transactional_id=transactional_id,
                timeout_ms=timeout_ms,
                idempotency_key=idempotency_key,
            )
        ),
    )


def commit_call(transactional_id: str, token: str) -> TransactionCall:
    """Commit the transaction of that token."""
    return TransactionCall(
        _path(routes.TRANSACTION_COMMIT, transactional_id), _encode(CommitTransactionRequest(token))
    )


def abort_call(transactional_id: str, token: str) -> TransactionCall:
    """Abort the transaction of that token."""
    return TransactionCall(
        _path(routes.TRANSACTION_ABORT, transactional_id), _encode(AbortTransactionRequest(token))
    )


def offsets_calls(
    transactional_id: str,
    token: str,
    offsets: Mapping[TopicPartition, OffsetAndMetadata],
    group: ConsumerGroupMetadata,
) -> Iterator[TransactionCall]:
    """Have the group's offsets committed with the transaction; as few calls as brokers take."""
    path = _path(routes.TRANSACTION_OFFSETS, transactional_id)
    items = list(offsets.items())
    for start in range(0, len(items), MAX_OFFSETS_PER_COMMIT):
        request = CommitTransactionOffsetsRequest(
            transaction=token,
            group=group.group_id,
            offsets=offsets_to_commit(items[start : start + MAX_OFFSETS_PER_COMMIT]),
            member_id=group.member_id,
            generation=group.generation,
        )
        yield TransactionCall(path, _encode(request))


def granted_in(body: bytes) -> Granted:
    """The answer to `initialise_call`.

    Raises:
        BrokerUnreachableError: it is none.
    """
    answer = decoded_body(body, TransactionalProducer)
    return Granted(answer.transaction, answer.producer_id, answer.producer_epoch)


def next_granted_in(body: bytes) -> Granted:
    """The answer to `commit_call` or `abort_call`: the identity of the next transaction.

    Raises:
        BrokerUnreachableError: it is none.
    """
    answer = decoded_body(body, TransactionEnd)
    return Granted(answer.transaction, answer.producer_id, answer.producer_epoch)


def check_offsets(body: bytes) -> None:
    """Look whether an answer is one to `offsets_calls`.

    Raises:
        BrokerUnreachableError: it is not.
    """
    decoded_body(body, TransactionOffsets)


def _path(route: str, transactional_id: str) -> str:
    return route.format(transactional_id=quote(transactional_id, safe=""))
