"""What a leader does with a transaction's batches before its coordinator has their partition."""

import asyncio
from collections import defaultdict
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ottla_broker.drivers.clock import monotonic_ms
from ottla_broker.drivers.partition_acks import Appended
from ottla_broker.drivers.purgatory import Purgatory
from ottla_broker.services import transaction_verification
from ottla_broker.services.produce import ProduceService
from ottla_broker.services.produce_options import ProduceOptions
from ottla_broker.storage.log_config import AppendInfo
from ottla_broker.storage.policy.producer_state import (
    Duplicate,
    ProducerAppend,
    ProducerStates,
)
from ottla_cluster.controller.features import TRANSACTIONS
from ottla_cluster.transactions.commands import AddPartitions
from ottla_cluster.transactions.records import ProducerIdentity, TransactionPartition
from ottla_protocol.errors import (
    CoordinatorNotAvailableError,
    InvalidProducerEpochError,
    InvalidRequestError,
    InvalidTopicError,
    LeaderNotAvailableError,
    NotCoordinatorError,
    OttlaError,
    Outcome,
    OverloadedError,
    ProducerFencedError,
    RequestTimedOutError,
    UnknownTopicIdError,
    UnsupportedFeatureLevelError,
)
from ottla_protocol.models import ACKS_ALL, BatchToAppend
from ottla_protocol.record_batch import NO_SEQUENCE
from ottla_protocol.record_codec import RecordData, encode_batch

TRANSFERS = "transfers"
PRODUCER_ID = 7
EPOCH = 4
LONG_MS = 60_000


class Log:
    """One partition's leader, which judges producers as a log does."""

    def __init__(self, topic_id, partition):
        self.state = SimpleNamespace(topic="orders", topic_id=topic_id, partition=partition)
        self.key = topic_id, partition
        self.log = self
        self.producers = ProducerStates(producers_max=2)
        self.appended = []
        self.next_offset = 0
        self.moved = None

    def leading(self):
        if self.moved is not None:
            raise self.moved

    def is_in_transaction(self, header):
        return self.producers.is_in_transaction(header)

    def append(self, batch, header, *, acks_all, now_ms, idempotency):
        assert acks_all
        self.leading()
        verdict = self.producers.check(header)
        if isinstance(verdict, Duplicate):
            return Appended(AppendInfo(verdict.base_offset, verdict.last_offset, 0, True), 1)
        base = self.next_offset
        self.next_offset += header.record_count
        self._take_in(header.producer_epoch, header.base_sequence, base, header.is_transactional)
        self.appended.append((header.producer_epoch, header.base_sequence))
        return Appended(AppendInfo(base, self.next_offset - 1, 0), 1)

    def append_marker(self, epoch, producer_id=PRODUCER_ID):
        """What ends a transaction: it carries one epoch more."""
        self._take_in(epoch, NO_SEQUENCE, self.next_offset, True, True, producer_id)
        self.next_offset += 1

    def _take_in(
        self, epoch, sequence, base, is_transactional, is_control=False, producer_id=PRODUCER_ID
    ):
        last = max(base, self.next_offset - 1)
        self.producers.append(
            ProducerAppend(
                producer_id, epoch, sequence, base, last, 0, is_transactional, is_control
            )
        )

    async def committed(self, appended, *, deadline_ms):
        pass


class Coordinator:
    """Answers when the test says so."""

    def __init__(self):
        self.asked = []
        self._answers = []

    async def decide(self, transactional_id, command, *, repeatable):
        assert repeatable
        assert isinstance(command, AddPartitions)
        assert command.transactional_id == transactional_id
        self.asked.append(command)
        answer = asyncio.get_running_loop().create_future()
        self._answers.append(answer)
        await answer

    @property
    def open(self):
        return [answer for answer in self._answers if not answer.done()]

    def answer(self, index=0, error=None):
        waiting = self.open[index]
        if error is None:
            waiting.set_result(None)
        else:
            waiting.set_exception(error)


class LeaderUnderTest:
    """A broker that leads a topic, and producers of transactions."""

    def __init__(self, partitions=3, level=TRANSACTIONS.level):
        self.coordinator = Coordinator()
        self.logs = [Log("id", number) for number in range(partitions)]
        self.image = SimpleNamespace(
            feature_level=level,
            topic_ids={"orders": "id"},
            topics={"id": SimpleNamespace(configs={})},
        )
        self.service = ProduceService(
            node_id=1,
            metadata=SimpleNamespace(image=self.image),
            replicas=SimpleNamespace(hosted=lambda _, partition: self.logs[partition]),
            forwarder=None,
            purgatory=Purgatory(100),
            coordinator=self.coordinator,
        )
        self.next_sequence = defaultdict(int)
        self.sent = []

    def batch(self, partition, *, epoch=EPOCH, is_sequenced=True, is_transactional=True):
        sequence = NO_SEQUENCE
        if is_sequenced:
            sequence = self.next_sequence[partition, epoch]
            self.next_sequence[partition, epoch] += 1
        encoded = encode_batch(
            [RecordData(1, None, b"v")],
            producer_id=PRODUCER_ID,
            producer_epoch=epoch,
            base_sequence=sequence,
            is_transactional=is_transactional,
        )
        return BatchToAppend("orders", partition, memoryview(encoded))

    def send(self, *batches, timeout_ms=LONG_MS, transactional_id=TRANSFERS):
        options = ProduceOptions(ACKS_ALL, monotonic_ms() + timeout_ms, transactional_id)
        task = asyncio.create_task(self.service.append_here(batches, options))
        self.sent.append(task)
        return task

    def asked(self):
        return [
            (each.identity.producer_epoch, [part.partition for part in each.partitions])
            for each in self.coordinator.asked
        ]

    def sequences(self, partition):
        return [sequence for _, sequence in self.logs[partition].appended]

    async def answer_everything(self):
        while not all(task.done() for task in self.sent):
            if self.coordinator.open:
                self.coordinator.answer()
            await turn()


async def turn():
    for _ in range(8):
        await asyncio.sleep(0)


@pytest.fixture
def leader():
    return LeaderUnderTest()


async def test_all_partitions_of_a_request_are_asked_for_in_one_call(leader):
    task = leader.send(leader.batch(0), leader.batch(2), leader.batch(0))
    await turn()
    [command] = leader.coordinator.asked
    assert command.identity == ProducerIdentity(PRODUCER_ID, EPOCH)
    assert command.partitions == (
        TransactionPartition("orders", "id", 0),
        TransactionPartition("orders", "id", 2),
    )
    assert not leader.logs[0].appended
    leader.coordinator.answer()
    assert [result.base_offset for result in await task] == [0, 0, 1]


async def test_what_goes_on_with_an_open_transaction_does_not_ask(leader):
    leader.send(leader.batch(0))
    await leader.answer_everything()
    [result] = await leader.send(leader.batch(0))
    assert result.base_offset == 1
    assert leader.asked() == [(EPOCH, [0])]


async def test_later_batches_wait_behind_the_first_and_ask_only_for_other_partitions(leader):
    tasks = [leader.send(leader.batch(0)), leader.send(leader.batch(0), leader.batch(1))]
    await turn()
    assert leader.asked() == [(EPOCH, [0]), (EPOCH, [1])]
    leader.coordinator.answer(1)
    await turn()
    assert (leader.sequences(0), leader.sequences(1)) == ([], [0])
    leader.coordinator.answer()
    for task in tasks:
        assert all(result.base_offset >= 0 for result in await task)
    assert leader.sequences(0) == [0, 1]
    assert leader.service.verification_places[0] == 0


async def test_a_refusal_is_told_of_each_batch_that_it_concerns(leader):
    tasks = [leader.send(leader.batch(0)), leader.send(leader.batch(0), leader.batch(1))]
    await turn()
    leader.coordinator.answer(0, ProducerFencedError("another one holds it"))
    leader.coordinator.answer()
    [[first], [second, other]] = [await task for task in tasks]
    assert isinstance(first, ProducerFencedError)
    assert isinstance(second, ProducerFencedError)
    assert first is not second
    assert first.outcome is second.outcome is Outcome.NOT_APPLIED
    assert other.base_offset == 0


async def test_what_the_coordinator_may_have_done_is_nothing_to_the_batch(leader):
    task = leader.send(leader.batch(0))
    await turn()
    leader.coordinator.answer(0, NotCoordinatorError("moved", outcome=Outcome.UNKNOWN, leader=9))
    [result] = await task
    assert isinstance(result, CoordinatorNotAvailableError)
    assert result.outcome is Outcome.NOT_APPLIED
    assert "leader" not in result.members


async def test_a_batch_whose_transaction_was_ended_while_it_waited_is_refused(leader):
    task = leader.send(leader.batch(0))
    await turn()
    leader.coordinator.answer()
    # The answer is on its way; the transaction is aborted, and its marker comes first.
    leader.logs[0].append_marker(EPOCH + 1)
    [result] = await task
    assert isinstance(result, InvalidProducerEpochError)
    assert result.outcome is Outcome.NOT_APPLIED


async def test_a_log_that_may_have_forgotten_the_marker_asks_again(leader):
    task = leader.send(leader.batch(0))
    await turn()
    leader.coordinator.answer()
    for producer_id in (PRODUCER_ID, PRODUCER_ID + 1, PRODUCER_ID + 2):
        leader.logs[0].append_marker(EPOCH + 1, producer_id)
    assert leader.logs[0].producers.get(PRODUCER_ID) is None
    await turn()
    assert leader.asked() == [(EPOCH, [0]), (EPOCH, [0])]
    leader.coordinator.answer(0, ProducerFencedError("it was ended"))
    [result] = await task
    assert isinstance(result, ProducerFencedError)
    assert not leader.logs[0].appended


async def test_the_next_epoch_is_asked_for_once_it_is_its_turn(leader):
    first = leader.send(leader.batch(0))
    second = leader.send(leader.batch(0, epoch=EPOCH + 1))
    await turn()
    assert leader.asked() == [(EPOCH, [0])]
    leader.coordinator.answer(0, ProducerFencedError("an older epoch"))
    [refused] = await first
    assert isinstance(refused, ProducerFencedError)
    await turn()
    assert leader.asked() == [(EPOCH, [0]), (EPOCH + 1, [0])]
    leader.coordinator.answer()
    [result] = await second
    assert result.base_offset == 0


async def test_leadership_that_moved_meanwhile_takes_no_batch(leader):
    task = leader.send(leader.batch(0))
    await turn()
    leader.logs[0].moved = LeaderNotAvailableError("moving")
    leader.coordinator.answer()
    [result] = await task
    assert isinstance(result, LeaderNotAvailableError)
    assert result.outcome is Outcome.NOT_APPLIED
    # Nor does a batch wait where it could not be appended anyway.
    [result] = await leader.send(leader.batch(0))
    assert isinstance(result, LeaderNotAvailableError)
    assert len(leader.coordinator.asked) == 1


async def test_a_topic_that_was_made_again_meanwhile_is_another_one(leader):
    task = leader.send(leader.batch(0))
    await turn()
    leader.image.topics["new"] = leader.image.topics["id"]
    leader.logs[0] = Log("new", 0)
    leader.coordinator.answer()
    [result] = await task
    assert isinstance(result, UnknownTopicIdError)
    assert not leader.logs[0].appended


async def test_who_waits_too_long_leaves_with_those_that_come_after_it(leader):
    # All come within one turn of the event loop, and its time is up in the next.
    hurried = leader.send(leader.batch(0), timeout_ms=0)
    behind = leader.send(leader.batch(0))
    not_numbered = leader.send(leader.batch(0, is_sequenced=False))
    for task in (hurried, behind):
        [result] = await task
        assert isinstance(result, RequestTimedOutError)
        assert result.outcome is Outcome.NOT_APPLIED
    await turn()
    leader.coordinator.answer()
    [result] = await not_numbered
    assert result.base_offset == 0
    assert leader.sequences(0) == [NO_SEQUENCE]


async def test_who_goes_away_is_not_appended_and_its_question_is_dropped(leader):
    task = leader.send(leader.batch(0))
    await turn()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await turn()
    assert not leader.coordinator.open
    assert leader.service.verification_places[0] == 0
    assert not leader.logs[0].appended


async def test_there_are_not_too_many_that_wait(leader, monkeypatch):
    monkeypatch.setattr(transaction_verification, "MAX_WAITING_BATCHES", 2)
    task = leader.send(leader.batch(0), leader.batch(1), leader.batch(2))
    await turn()
    leader.coordinator.answer()
    *appended, refused = await task
    assert [result.base_offset for result in appended] == [0, 0]
    assert isinstance(refused, OverloadedError)
    assert refused.outcome is Outcome.NOT_APPLIED


async def test_a_defect_is_told_to_whoever_asked(leader):
    task = leader.send(leader.batch(0))
    await turn()
    leader.coordinator.answer(0, ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        await task
    assert leader.service.verification_places[0] == 0


async def test_a_transactional_batch_needs_its_transactional_id(leader):
    [result] = await leader.send(leader.batch(0), transactional_id=None)
    assert isinstance(result, InvalidRequestError)
    assert "transactional_id" in result.detail
    assert result.members["field"] == "transactional_id"
    assert result.outcome is Outcome.NOT_APPLIED


async def test_what_is_in_no_transaction_does_not_wait(leader):
    batch = leader.batch(0, is_transactional=False)
    [result] = await leader.send(batch)
    assert result.base_offset == 0
    assert not leader.coordinator.asked


async def test_internal_topics_are_refused(leader):
    batch = leader.batch(0)
    internal = BatchToAppend("__transaction_state", 0, batch.batch)
    [result] = await leader.send(internal)
    assert isinstance(result, InvalidTopicError)
    assert result.members["field"] == "topic"
    assert not leader.coordinator.asked


async def test_below_the_level_of_transactions_there_are_none():
    leader = LeaderUnderTest(level=TRANSACTIONS.level - 1)
    with pytest.raises(UnsupportedFeatureLevelError):
        await leader.send(leader.batch(0))
    options = ProduceOptions(ACKS_ALL, monotonic_ms() + LONG_MS, TRANSFERS)
    with pytest.raises(UnsupportedFeatureLevelError):
        await leader.service.deliver([leader.batch(0)], options)


# One transactional id is wrong, which a coordinator would say; order is kept all the same.
SENDS = st.tuples(
    st.just("send"),
    st.lists(st.integers(0, 1), min_size=1, max_size=3),
    st.sampled_from([TRANSFERS, "others"]),
)
TURNS = st.tuples(st.just("turn"))
ANSWERS = st.tuples(st.just("answer"), st.integers(0, 3))


@given(st.lists(st.one_of(SENDS, TURNS, ANSWERS), max_size=30))
def test_in_any_interleaving_a_producers_requests_in_flight_keep_their_order(steps):
    async def run():
        leader = LeaderUnderTest(partitions=2)
        for step in steps:
            if step[0] == "send":
                batches = [leader.batch(partition) for partition in step[1]]
                leader.send(*batches, transactional_id=step[2])
                # A request is read before the next one, but not answered.
                await asyncio.sleep(0)
            elif step[0] == "turn":
                await turn()
            elif step[1] < len(leader.coordinator.open):
                leader.coordinator.answer(step[1])
        await leader.answer_everything()
        results = [result for task in leader.sent for result in task.result()]
        assert not [result for result in results if isinstance(result, OttlaError)]
        for partition in range(2):
            count = leader.next_sequence[partition, EPOCH]
            assert leader.sequences(partition) == list(range(count))

    asyncio.run(run())


FAILING = st.tuples(st.just("answer"), st.integers(0, 3), st.booleans())
LEAVING = st.tuples(st.just("cancel"), st.integers(0, 9))


@given(st.lists(st.one_of(SENDS, TURNS, FAILING, LEAVING), max_size=30))
def test_in_any_interleaving_what_is_told_is_what_is_stored(steps):
    async def run():
        leader = LeaderUnderTest(partitions=2)
        refusal = CoordinatorNotAvailableError("moving")
        for step in steps:
            if step[0] == "send":
                batches = [leader.batch(partition) for partition in step[1]]
                leader.send(*batches, transactional_id=step[2])
                await asyncio.sleep(0)
            elif step[0] == "turn":
                await turn()
            elif step[0] == "cancel" and step[1] < len(leader.sent):
                leader.sent[step[1]].cancel()
            elif step[0] == "answer" and step[1] < len(leader.coordinator.open):
                leader.coordinator.answer(step[1], refusal if step[2] else None)
        await leader.answer_everything()
        results = [
            result for task in leader.sent if not task.cancelled() for result in task.result()
        ]
        errors = [result for result in results if isinstance(result, OttlaError)]
        assert all(error.outcome is Outcome.NOT_APPLIED for error in errors)
        stored = sum(len(log.appended) for log in leader.logs)
        told = len(results) - len(errors)
        of_the_cancelled = sum(task.cancelled() for task in leader.sent) * 3
        assert told <= stored <= told + of_the_cancelled
        for partition in range(2):
            assert leader.sequences(partition) == sorted(leader.sequences(partition))
        assert leader.service.verification_places[0] == 0
        assert not leader.coordinator.open

    asyncio.run(run())
