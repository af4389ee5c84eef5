"""Offsets of a transaction become pending once their partition is in the transaction."""

import asyncio
from types import SimpleNamespace

import pytest

from ottla_broker.drivers.clock import monotonic_ms
from ottla_broker.drivers.group_coordinators import OFFSETS_TOPIC
from ottla_broker.services.transaction_offsets import TransactionOffsets
from ottla_cluster.groups.messages import OffsetToCommit
from ottla_cluster.groups.transaction_commands import CommitTransactionOffsets
from ottla_cluster.transactions.commands import AddPartitions, AddPartitionsResponse
from ottla_cluster.transactions.records import ProducerIdentity, TransactionPartition
from ottla_protocol.errors import (
    CoordinatorNotAvailableError,
    NotCoordinatorError,
    Outcome,
    ProducerFencedError,
    RequestTimedOutError,
    TransactionAbortableError,
)

COMMAND = CommitTransactionOffsets("g", "billing", 7, 3, (OffsetToCommit("orders", 0, 5),))
NEVER = object()


class World:
    """The coordinators around one, which note what is asked of them."""

    def __init__(self, *, is_in_transaction=False, answer=None):
        self.answer = AddPartitionsResponse() if answer is None else answer
        self.known = is_in_transaction
        self.asked = []
        self.image = SimpleNamespace(topic=lambda name: SimpleNamespace(topic_id=f"id of {name}"))
        self.offsets = TransactionOffsets(metadata=self, coordinators=self, transactions=self)

    def is_in_transaction(self, partition, command):
        assert (partition, command) == (4, COMMAND)
        if isinstance(self.known, Exception):
            raise self.known
        return self.known

    async def decide(self, transactional_id, command, *, repeatable):
        assert transactional_id == "billing"
        assert repeatable
        self.asked.append(command)
        if self.answer is NEVER:
            await asyncio.Event().wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    async def have_added(self, timeout_ms=10_000):
        await self.offsets.have_added(4, COMMAND, deadline_ms=monotonic_ms() + timeout_ms)


async def test_the_transactions_coordinator_adds_the_partition_of_the_group():
    world = World()
    await world.have_added()
    partition = TransactionPartition(OFFSETS_TOPIC, f"id of {OFFSETS_TOPIC}", 4)
    assert world.asked == [AddPartitions("billing", ProducerIdentity(7, 3), (partition,))]


async def test_nobody_is_asked_for_what_is_in_the_transaction_or_refused():
    world = World(is_in_transaction=True)
    await world.have_added()
    assert world.asked == []
    world = World(is_in_transaction=TransactionAbortableError("too late"))
    with pytest.raises(TransactionAbortableError):
        await world.have_added()
    assert world.asked == []


@pytest.mark.parametrize(
    ("answer", "refusal"),
    [
        (ProducerFencedError("another one"), ProducerFencedError),
        (CoordinatorNotAvailableError("gone", outcome=Outcome.UNKNOWN), None),
        (NotCoordinatorError("elsewhere", outcome=Outcome.UNKNOWN), CoordinatorNotAvailableError),
        (NEVER, RequestTimedOutError),
    ],
    ids=["fenced", "in doubt", "misdirected", "no answer"],
)
async def test_whatever_becomes_of_that_the_offsets_are_not_pending(answer, refusal):
    world = World(answer=answer)
    with pytest.raises(refusal or CoordinatorNotAvailableError) as refused:
        await world.have_added(timeout_ms=20)
    assert refused.value.outcome is Outcome.NOT_APPLIED
