"""The transactions of the fake cluster: the calls below `/v1/transactions`.

What a producer can notice is as at a broker: a transactional id is taken over, each decision grants
the next identity, a transaction that is open for too long is aborted, offsets appear with the
commit. Markers are written at once. `_fake_cluster` holds the lock around all of it.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from ottla._consumer_types import TopicPartition
from ottla._fake_groups import FakeGroups
from ottla._fake_log import FakePartition
from ottla._fake_metadata import FakeMetadata, json_answer, parse_json
from ottla._transport import Response
from ottla_protocol import routes
from ottla_protocol.errors import (
    InvalidTransactionStateError,
    InvalidTransactionTimeoutError,
    ProducerFencedError,
    TransactionAbortableError,
    TransactionalIdNotFoundError,
)
from ottla_protocol.models_groups import OffsetToCommit, PartitionOffset
from ottla_protocol.models_transactions import (
    AbortTransactionRequest,
    CommitTransactionOffsetsRequest,
    CommitTransactionRequest,
    InitialiseProducerRequest,
    TransactionalProducer,
    TransactionEnd,
    TransactionOffsets,
)
from ottla_protocol.transaction_tokens import (
    TransactionToken,
    decode_transaction,
    encode_transaction,
)

DEFAULT_TIMEOUT_MS: Final = 60_000
MAX_TIMEOUT_MS: Final = 900_000
MAX_GRANTED_PRODUCER_EPOCH: Final = 2**15 - 2
"""The last epoch that is granted: the one after it is its markers'."""

MAX_REMEMBERED_TAKEOVERS: Final = 4
"""How many calls that took an id over are known when they come again."""

EndedBy = Literal["producer", "timeout", "operator", "successor"]


@dataclass(slots=True)
class _Identity:
    producer_id: int
    producer_epoch: int


@dataclass(slots=True)
class _Ended:
    identity: _Identity
    is_committed: bool
    by: EndedBy


@dataclass(slots=True)
class _Transaction:
    """One transactional id, and the transaction that it has open, if it has one."""

    transactional_id: str
    granted: _Identity
    timeout_ms: int
    started_ms: int | None = None
    partitions: list[FakePartition] = field(default_factory=list)
    offsets: dict[str, dict[TopicPartition, tuple[int, OffsetToCommit]]] = field(
        default_factory=dict
    )
    """By group and partition: what came, and when. It only goes forward."""
    ended: _Ended | None = None
    takeovers: list[str | None] = field(default_factory=list)
    """The keys of the calls that took the id over, the last one first."""
    is_new: bool = True
    """Nothing was begun or decided since."""

    def begin(self) -> None:
        self.is_new = False
        if self.started_ms is None:
            self.started_ms = _now_ms()

    def pend(self, group: str, offset: OffsetToCommit, came: int) -> None:
        """Has an offset wait for the commit, as brokers do: a lower one takes nothing back."""
        pending = self.offsets.setdefault(group, {})
        key = TopicPartition(offset.topic, offset.partition)
        known_came, known = pending.get(key, (came, None))
        if known is not None and offset.offset < known.offset:
            return
        # What is sent again is as old as it was.
        is_again = known is not None and offset.offset == known.offset
        pending[key] = (known_came if is_again else came, offset)


class FakeTransactions:
    """Every transactional id of one fake cluster.

    Args:
        metadata: the topics.
        groups: whose offsets are committed.
        new_producer_id: allocates one.
    """

    def __init__(
        self, metadata: FakeMetadata, groups: FakeGroups, *, new_producer_id: Callable[[], int]
    ) -> None:
        self._metadata = metadata
        self._groups = groups
        self._new_producer_id = new_producer_id
        self._transactions: dict[str, _Transaction] = {}
        self.calls: dict[tuple[str, str], Callable[..., Response]] = {
            ("POST", routes.TRANSACTIONS): self._initialise,
            ("POST", routes.TRANSACTION_OFFSETS): self._offsets,
            ("POST", routes.TRANSACTION_COMMIT): self._commit,
            ("POST", routes.TRANSACTION_ABORT): self._abort,
        }

    def add(
        self,
        transactional_id: str,
        producer_id: int,
        producer_epoch: int,
        partition: FakePartition,
    ) -> None:
        """Have the partition in the producer's transaction, before a batch of it is appended.

        Raises:
            ProducerFencedError: another producer holds the id.
            TransactionAbortableError: the transaction was aborted by its time-out or an operator.
        """
        found = self._held(transactional_id, _Identity(producer_id, producer_epoch))
        found.begin()
        if partition not in found.partitions:
            found.partitions.append(partition)

    def end_overdue(self) -> None:
        """Abort what is open for longer than it may be."""
        now_ms = _now_ms()
        for each in self._transactions.values():
            if each.started_ms is not None and now_ms - each.started_ms >= each.timeout_ms:
                self._end(each, is_commit=False, by="timeout")

    def abort(self, transactional_id: str, by: EndedBy) -> None:
        """Abort what is open, as the coordinator or an operator does.

        Raises:
            TransactionalIdNotFoundError: nobody has taken the id.
            InvalidTransactionStateError: nothing is open.
        """
        found = self._known(transactional_id)
        if found.started_ms is None:
            raise InvalidTransactionStateError(f"{transactional_id!r} has no transaction open")
        self._end(found, is_commit=False, by=by)

    # --- calls ----------------------------------------------------------------------------------

    def _initialise(self, _node_id: int, _query: Mapping[str, str], body: bytes) -> Response:
        request = parse_json(body, InitialiseProducerRequest)
        timeout_ms = DEFAULT_TIMEOUT_MS if request.timeout_ms is None else request.timeout_ms
        if not 0 < timeout_ms <= MAX_TIMEOUT_MS:
            raise InvalidTransactionTimeoutError(
                f"timeout_ms must be 1 to {MAX_TIMEOUT_MS}, it is {timeout_ms}",
                field="timeout_ms",
            )
        name = request.transactional_id
        if request.transaction is not None:
            found = self._go_on(name, _identity_in(request.transaction))
        else:
            found = self._take_over(name, request.idempotency_key)
        found.timeout_ms = timeout_ms
        return json_answer(
            TransactionalProducer(
                name,
                _token(found),
                found.granted.producer_id,
                found.granted.producer_epoch,
                timeout_ms,
            )
        )

    def _offsets(
        self, _node_id: int, _query: Mapping[str, str], body: bytes, transactional_id: str
    ) -> Response:
        request = parse_json(body, CommitTransactionOffsetsRequest)
        found = self._held(transactional_id, _identity_in(request.transaction))
        self._groups.check_commit(
            request.group, request.member_id, request.generation, request.offsets
        )
        found.begin()
        came = self._groups.next_commit()
        for each in request.offsets:
            found.pend(request.group, each, came)
        self._groups.pending.add((request.group, found.granted.producer_id))
        return json_answer(
            TransactionOffsets(
                request.group,
                [
                    PartitionOffset(each.topic, each.partition, each.offset)
                    for each in request.offsets
                ],
            )
        )

    def _commit(
        self, _node_id: int, _query: Mapping[str, str], body: bytes, transactional_id: str
    ) -> Response:
        request = parse_json(body, CommitTransactionRequest)
        return self._decide(transactional_id, request.transaction, is_commit=True)

    def _abort(
        self, _node_id: int, _query: Mapping[str, str], body: bytes, transactional_id: str
    ) -> Response:
        request = parse_json(body, AbortTransactionRequest)
        if request.transaction is not None:
            return self._decide(transactional_id, request.transaction, is_commit=False)
        self.abort(transactional_id, "operator")
        return _ended(self._known(transactional_id), is_committed=False)

    # --- rules ----------------------------------------------------------------------------------

    def _take_over(self, name: str, key: str | None) -> _Transaction:
        """Grant the id anew, or again where this very call took it over before."""
        found = self._transactions.get(name)
        if found is None:
            granted = _Identity(self._new_producer_id(), 0)
            found = self._transactions[name] = _Transaction(name, granted, DEFAULT_TIMEOUT_MS)
        elif key is not None and key in found.takeovers:
            if key != found.takeovers[0] or not found.is_new:
                raise _fenced(found)
            return found
        else:
            if found.started_ms is not None:
                self._end(found, is_commit=False, by="successor")
            found.granted = self._next(found.granted)
            found.ended = None
            found.is_new = True
        found.takeovers = [key, *found.takeovers][:MAX_REMEMBERED_TAKEOVERS]
        return found

    def _go_on(self, name: str, identity: _Identity) -> _Transaction:
        """End what the identity has open; what that grants is what it goes on with."""
        found, ended = self._known(name), self._known(name).ended
        if identity == found.granted:
            self._end(found, is_commit=False, by="producer")
        elif (
            ended is None
            or ended.identity != identity
            or ended.by == "successor"
            or found.started_ms is not None
        ):
            raise _fenced(found)
        return found

    def _decide(self, transactional_id: str, token: str, *, is_commit: bool) -> Response:
        """End the transaction of that token, or give the answer again (see `ending` of brokers)."""
        found = self._known(transactional_id)
        identity = _identity_in(token)
        if identity == found.granted:
            self._end(found, is_commit=is_commit, by="producer")
            return _ended(found, is_committed=is_commit)
        ended = found.ended
        if ended is None or ended.identity != identity or ended.by == "successor":
            raise _fenced(found)
        if ended.is_committed == is_commit:
            return _ended(found, is_committed=is_commit)
        if ended.by == "producer":
            raise InvalidTransactionStateError(f"{transactional_id!r} was decided the other way")
        raise _aborted(found)

    def _end(self, transaction: _Transaction, *, is_commit: bool, by: EndedBy) -> None:
        identity = transaction.granted
        for partition in transaction.partitions:
            partition.end_transaction(
                identity.producer_id,
                identity.producer_epoch + 1,
                is_commit=is_commit,
                coordinator_epoch=0,
            )
        for group, pending in transaction.offsets.items():
            self._groups.pending.discard((group, identity.producer_id))
            if is_commit:
                for came, offset in pending.values():
                    self._groups.commit(group, [offset], came)
        transaction.is_new = False
        transaction.ended = _Ended(identity, is_commit, by)
        transaction.granted = self._next(identity)
        transaction.started_ms = None
        transaction.partitions = []
        transaction.offsets = {}

    def _next(self, identity: _Identity) -> _Identity:
        if identity.producer_epoch < MAX_GRANTED_PRODUCER_EPOCH:
            return _Identity(identity.producer_id, identity.producer_epoch + 1)
        return _Identity(self._new_producer_id(), 0)

    def _known(self, transactional_id: str) -> _Transaction:
        found = self._transactions.get(transactional_id)
        if found is None:
            raise TransactionalIdNotFoundError(f"nobody has taken {transactional_id!r}")
        return found

    def _held(self, transactional_id: str, identity: _Identity) -> _Transaction:
        """The id, if that identity holds it now."""
        found = self._known(transactional_id)
        if identity == found.granted:
            return found
        ended = found.ended
        if ended is not None and ended.identity == identity and ended.by in {"timeout", "operator"}:
            raise _aborted(found)
        raise _fenced(found)


def _identity_in(token: str) -> _Identity:
    decoded = decode_transaction(token)
    return _Identity(decoded.producer_id, decoded.producer_epoch)


def _token(transaction: _Transaction) -> str:
    granted = transaction.granted
    return encode_transaction(
        TransactionToken(transaction.transactional_id, granted.producer_id, granted.producer_epoch)
    )


def _ended(transaction: _Transaction, *, is_committed: bool) -> Response:
    return json_answer(
        TransactionEnd(
            transaction.transactional_id,
            _token(transaction),
            transaction.granted.producer_id,
            transaction.granted.producer_epoch,
            "committed" if is_committed else "aborted",
        )
    )


def _fenced(transaction: _Transaction) -> ProducerFencedError:
    return ProducerFencedError(
        f"the producer does not hold {transaction.transactional_id!r} (any more)"
    )


def _aborted(transaction: _Transaction) -> TransactionAbortableError:
    return TransactionAbortableError(
        f"the transaction of {transaction.transactional_id!r} was aborted; abort it, too"
    )


def _now_ms() -> int:
    return time.monotonic_ns() // 1_000_000
