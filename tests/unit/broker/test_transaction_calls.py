"""How calls reach the coordinator of a transactional id, and what is said before there is any."""

from types import SimpleNamespace

import msgspec
import pytest

from ottla_broker.drivers.peer_messages import CoordinatorCall
from ottla_broker.drivers.transaction_coordinators import TRANSACTION_STATE_TOPIC
from ottla_broker.services import transaction_calls
from ottla_broker.services.transaction_calls import TransactionCalls
from ottla_cluster.controller.features import TRANSACTIONS
from ottla_cluster.controller.image import BrokerState
from ottla_cluster.controller.topic_configs import MAX_MESSAGE_BYTES
from ottla_cluster.state_machine.messages import encode_message
from ottla_cluster.transactions.commands import (
    EndTransaction,
    EndTransactionResponse,
    InitialiseProducer,
    InitialiseProducerResponse,
    ListTransactions,
    ListTransactionsResponse,
    decode_command,
)
from ottla_cluster.transactions.limits import MAX_DECISION_BYTES
from ottla_cluster.transactions.records import ProducerIdentity
from ottla_protocol.errors import (
    ConcurrentTransactionsError,
    CoordinatorNotAvailableError,
    InvalidRequestError,
    NotCoordinatorError,
    Outcome,
    TransactionalIdNotFoundError,
    UnsupportedFeatureLevelError,
)
from ottla_protocol.partitioning import partition_for_key
from tests.unit.broker.test_coordinator_calls import HERE, THERE, World

PARTITIONS = 8
IDENTITY = ProducerIdentity(5, 0)
TAKE = InitialiseProducer("t", None, None)
COMMIT = EndTransaction("t", IDENTITY, True)
GRANTED = InitialiseProducerResponse(IDENTITY)
ENDED = EndTransactionResponse(ProducerIdentity(5, 1))


class Transacting(World):
    """A broker's surroundings, with a transaction topic or without one yet."""

    def __init__(self, leader=HERE, *, has_topic=True, feature_level=TRANSACTIONS.level):
        super().__init__(leader)
        self.image.topic_ids = {TRANSACTION_STATE_TOPIC: "x"} if has_topic else {}
        self.image.feature_level = feature_level
        self.created = []
        self.calls = TransactionCalls(
            node_id=HERE,
            partitions=PARTITIONS,
            metadata=self,
            controller=self,
            commands=self,
            coordinators=self,
            peers=self,
        )

    async def change(self, command, *, repeatable):
        self.created.append(command)
        self.image.topic_ids[command.name] = "x"

    async def post(self, url, path, body, *, timeout_ms, purpose):
        call = msgspec.msgpack.decode(body, type=CoordinatorCall)
        self.asked.append((call.partition, decode_command(bytes(call.command))))
        return encode_message(self.answers.pop(0))

    async def execute(self, partition, command, *, deadline_ms):
        self.asked.append((partition, command))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.mark.parametrize("leader", [HERE, THERE])
async def test_an_id_has_one_coordinator_wherever_it_is(leader):
    world = Transacting(leader)
    world.answers = [ENDED]
    assert await world.calls.decide("t", COMMIT, repeatable=True) == ENDED
    assert world.asked == [(partition_for_key(b"t", PARTITIONS), COMMIT)]


async def test_the_topic_is_made_for_the_first_producer_and_for_nobody_else():
    world = Transacting(has_topic=False)
    with pytest.raises(TransactionalIdNotFoundError) as caught:
        await world.calls.decide("t", COMMIT, repeatable=True)
    assert caught.value.outcome is Outcome.NOT_APPLIED
    with pytest.raises(TransactionalIdNotFoundError):
        await world.calls.decide("t", InitialiseProducer("t", None, IDENTITY), repeatable=True)
    assert await world.calls.ask_all(ListTransactions()) == []
    assert not world.created
    world.answers = [GRANTED]
    assert await world.calls.decide("t", TAKE, repeatable=True) == GRANTED
    (made,) = world.created
    assert (made.name, made.partitions, made.internal) == (
        TRANSACTION_STATE_TOPIC, PARTITIONS, True,
    )  # fmt: skip
    assert made.configs == {MAX_MESSAGE_BYTES: MAX_DECISION_BYTES}


async def test_nothing_is_asked_below_the_feature_level_or_with_an_id_that_breaks_a_rule():
    world = Transacting(has_topic=False, feature_level=TRANSACTIONS.level - 1)
    with pytest.raises(UnsupportedFeatureLevelError):
        await world.calls.decide("t", TAKE, repeatable=True)
    world = Transacting()
    for name in ("", "..", "\ud800", "x" * 250):
        with pytest.raises(InvalidRequestError):
            await world.calls.decide(name, InitialiseProducer(name, None, None), repeatable=True)
    assert not world.asked
    assert not world.created


async def test_a_failover_and_late_markers_are_waited_for():
    world = Transacting()
    world.answers = [
        NotCoordinatorError("moved", outcome=Outcome.NOT_APPLIED),
        CoordinatorNotAvailableError("lost", outcome=Outcome.UNKNOWN),
        ConcurrentTransactionsError("markers", outcome=Outcome.NOT_APPLIED),
        ENDED,
    ]
    assert await world.calls.decide("t", COMMIT, repeatable=True) == ENDED


async def test_a_lost_answer_is_not_asked_for_again_where_that_would_do_harm():
    world = Transacting()
    world.answers = [CoordinatorNotAvailableError("lost", outcome=Outcome.UNKNOWN), ENDED]
    with pytest.raises(CoordinatorNotAvailableError) as caught:
        await world.calls.decide("t", COMMIT, repeatable=False)
    assert caught.value.outcome is Outcome.UNKNOWN


async def test_waiting_for_a_coordinator_ends(monkeypatch):
    monkeypatch.setattr(transaction_calls, "CALL_TIMEOUT_MS", 150)
    world = Transacting(leader=None)
    with pytest.raises(CoordinatorNotAvailableError) as caught:
        await world.calls.decide("t", COMMIT, repeatable=True)
    assert caught.value.outcome is Outcome.NOT_APPLIED


async def test_a_question_to_all_is_answered_by_every_partition():
    world = Transacting()
    world.answers = [ListTransactionsResponse(())] * PARTITIONS
    answers = await world.calls.ask_all(ListTransactions())
    assert answers == [(ListTransactionsResponse(()), HERE)] * PARTITIONS
    assert [partition for partition, _ in world.asked] == list(range(PARTITIONS))


async def test_a_fenced_broker_is_not_called():
    world = Transacting(THERE)
    world.image.brokers[THERE] = SimpleNamespace(node_id=THERE, state=BrokerState.FENCED)
    with pytest.raises(CoordinatorNotAvailableError, match="not there"):
        await world.calls._routes.call(
            "x", 0, lambda leader: world.calls._routes.other_broker(leader), deadline_ms=0,
            repeatable=True,
        )  # fmt: skip


async def test_a_call_for_another_partition_than_the_ids_is_refused():
    world = Transacting()
    own = partition_for_key(b"t", PARTITIONS)
    command = msgspec.Raw(encode_message(COMMIT))
    for partition in ((own + 1) % PARTITIONS, -1, PARTITIONS):
        with pytest.raises(NotCoordinatorError) as caught:
            await world.calls.decide_here(CoordinatorCall(partition, 1_000, command))
        assert caught.value.outcome is Outcome.NOT_APPLIED
    world.answers = [ENDED]
    assert await world.calls.decide_here(CoordinatorCall(own, 1_000, command)) == ENDED
