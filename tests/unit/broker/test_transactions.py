"""Transactions as clients see them, over the real coordinator's decisions."""

import msgspec
import pytest

from ottla_broker.services.transactions import TransactionService
from ottla_cluster.transactions.commands import (
    AddPartitions,
    CompleteTransaction,
    InitialiseProducer,
    ListTransactionsResponse,
)
from ottla_cluster.transactions.config import TransactionConfig
from ottla_cluster.transactions.context import TransactionContext
from ottla_cluster.transactions.ending import marker_identity
from ottla_cluster.transactions.handlers import handle
from ottla_cluster.transactions.image import TransactionsImage, replay
from ottla_cluster.transactions.known_ids import DECIDED
from ottla_cluster.transactions.records import (
    ProducerIdentity,
    TransactionPartition,
    TransactionState,
)
from ottla_protocol import models_transactions as models
from ottla_protocol.errors import (
    InvalidRequestError,
    InvalidTransactionStateError,
    InvalidTransactionTimeoutError,
    ProducerFencedError,
    TransactionAbortableError,
    TransactionalIdNotFoundError,
)
from ottla_protocol.transaction_tokens import TransactionToken, decode_transaction

NOW_MS = 10**12
PARTITION = TransactionPartition("orders", "a" * 32, 0)


class Coordinators:
    """One coordinator, whose markers are written at once unless they are held back."""

    def __init__(self):
        self.image = TransactionsImage()
        self.now_ms = NOW_MS
        self.holds_markers = False
        self._next_producer_id = 7001

    def execute(self, command):
        context = TransactionContext(TransactionConfig(), self.now_ms, self._next_producer_id)
        result = handle(self.image, command, context)
        self._next_producer_id += 1
        if result.records:
            self.image = replay(self.image, result.records, self.image.version + 1)
        if not self.holds_markers:
            for name, each in self.image.transactions.items():
                if each.state in DECIDED:
                    self.execute(CompleteTransaction(name, marker_identity(each.ended)))
        return result.response

    async def decide(self, transactional_id, command, *, repeatable):
        assert transactional_id == command.transactional_id
        if isinstance(command, InitialiseProducer):
            assert repeatable
            response = self.execute(command)
            return response if response.granted is not None else self.execute(command)
        assert repeatable
        return self.execute(command)

    async def ask_all(self, command):
        return [(self.execute(command), 1), (ListTransactionsResponse(()), 2)]

    def coordinator_of(self, _transactional_id):
        return 1


class Groups:
    """Keeps what it was asked to commit."""

    def __init__(self):
        self.asked = []

    async def commit_transaction_offsets(self, transactional_id, identity, request):
        self.asked.append((transactional_id, identity, request))
        return models.TransactionOffsets(request.group, [])


@pytest.fixture
def world():
    return Coordinators()


@pytest.fixture
def groups():
    return Groups()


@pytest.fixture
def service(world, groups):
    return TransactionService(calls=world, groups=groups, config=TransactionConfig())


async def begun(service, world, transactional_id="pay/out"):
    """A token whose transaction has a partition."""
    request = models.InitialiseProducerRequest(transactional_id)
    granted = await service.initialise(request)
    write(world, granted.transaction)
    return granted.transaction


def write(world, transaction):
    token = decode_transaction(transaction)
    identity = ProducerIdentity(token.producer_id, token.producer_epoch)
    world.execute(AddPartitions(token.transactional_id, identity, (PARTITION,)))


def commit(service, token, transactional_id="pay/out"):
    return service.commit(transactional_id, models.CommitTransactionRequest(token))


def abort(service, token=None, transactional_id="pay/out"):
    return service.abort(transactional_id, models.AbortTransactionRequest(token))


async def test_a_producer_is_told_its_token_and_its_timeout(service):
    granted = await service.initialise(models.InitialiseProducerRequest("pay/out"))
    assert granted.transaction == f"{granted.producer_id}.0.pay%2Fout"
    assert granted.timeout_ms == TransactionConfig().default_timeout_ms
    granted = await service.initialise(models.InitialiseProducerRequest("pay/out", 5_000))
    assert (granted.producer_epoch, granted.timeout_ms) == (1, 5_000)
    with pytest.raises(InvalidTransactionTimeoutError):
        await service.initialise(models.InitialiseProducerRequest("pay/out", 0))


async def test_a_take_over_with_a_key_may_be_sent_again(service):
    request = models.InitialiseProducerRequest("pay/out", idempotency_key="started at 9")
    first = await service.initialise(request)
    assert await service.initialise(request) == first
    other = await service.initialise(
        models.InitialiseProducerRequest("pay/out", idempotency_key="started at 10")
    )
    assert other.producer_epoch == first.producer_epoch + 1
    with pytest.raises(ProducerFencedError):
        await service.initialise(request)
    without = models.InitialiseProducerRequest("pay/out")
    assert await service.initialise(without) != await service.initialise(without)


async def test_a_key_that_is_not_unicode_is_refused(service):
    request = models.InitialiseProducerRequest("pay/out", idempotency_key="\ud800")
    with pytest.raises(InvalidRequestError, match="idempotency_key"):
        await service.initialise(request)


async def test_who_was_succeeded_is_fenced_and_what_it_left_is_aborted(service, world):
    former = await begun(service, world)
    latter = await begun(service, world)
    for late in (commit(service, former), abort(service, former)):
        with pytest.raises(ProducerFencedError):
            await late
    assert (await commit(service, latter)).state == "committed"


async def test_a_producer_goes_on_after_an_error(service, world):
    token = await begun(service, world)
    again = models.InitialiseProducerRequest("pay/out", None, token)
    granted = await service.initialise(again)
    assert decode_transaction(granted.transaction).producer_epoch > (
        decode_transaction(token).producer_epoch
    )
    await begun(service, world)
    with pytest.raises(ProducerFencedError):
        await service.initialise(
            models.InitialiseProducerRequest("pay/out", None, granted.transaction)
        )


async def test_going_on_may_be_sent_again(service, world):
    again = models.InitialiseProducerRequest("pay/out", None, await begun(service, world))
    granted = await service.initialise(again)
    assert await service.initialise(again) == granted
    write(world, granted.transaction)
    assert (await commit(service, granted.transaction)).state == "committed"


@pytest.mark.parametrize("end", [commit, abort])
async def test_an_end_may_be_repeated_and_gives_the_next_token(service, world, end):
    token = await begun(service, world)
    first = await end(service, token)
    assert await end(service, token) == first
    assert decode_transaction(first.transaction) == TransactionToken(
        "pay/out", first.producer_id, first.producer_epoch
    )
    assert first.transaction != token
    with pytest.raises(InvalidTransactionStateError):
        await {commit: abort, abort: commit}[end](service, token)
    write(world, first.transaction)
    assert (await end(service, first.transaction)).transaction != first.transaction


async def test_a_token_of_another_id_is_refused(service, world):
    token = await begun(service, world)
    await begun(service, world, "other")
    with pytest.raises(InvalidRequestError, match="'pay/out'"):
        await commit(service, token, "other")
    with pytest.raises(InvalidRequestError):
        await abort(service, token, "other")
    with pytest.raises(InvalidRequestError):
        await service.initialise(models.InitialiseProducerRequest("other", None, token))


async def test_an_operator_aborts_what_is_open_and_the_producer_goes_on(service, world):
    token = await begun(service, world)
    aborted = await abort(service)
    assert aborted.state == "aborted"
    assert await abort(service) == aborted
    with pytest.raises(TransactionAbortableError):
        await commit(service, token)
    assert await abort(service, token) == aborted
    described = await service.describe("pay/out", now_ms=NOW_MS)
    assert described.ended.by == "operator"


async def test_there_may_be_nothing_for_an_operator_to_abort(service, world):
    with pytest.raises(TransactionalIdNotFoundError):
        await abort(service)
    token = await begun(service, world)
    await commit(service, token)
    with pytest.raises(InvalidTransactionStateError, match="CompleteCommit"):
        await abort(service)


async def test_offsets_go_with_the_transaction_s_identity(service, world, groups):
    token = await begun(service, world)
    request = models.CommitTransactionOffsetsRequest(token, "billing", [])
    await service.commit_offsets("pay/out", request)
    read = decode_transaction(token)
    identity = ProducerIdentity(read.producer_id, read.producer_epoch)
    assert groups.asked == [("pay/out", identity, request)]
    with pytest.raises(InvalidRequestError):
        await service.commit_offsets("other", request)


async def test_a_description_tells_what_is_open_and_for_how_long(service, world):
    token = decode_transaction(await begun(service, world))
    described = await service.describe("pay/out", now_ms=NOW_MS + 700)
    assert described == models.TransactionDescription(
        transactional_id="pay/out",
        coordinator=1,
        state="Ongoing",
        producer_id=token.producer_id,
        producer_epoch=0,
        timeout_ms=TransactionConfig().default_timeout_ms,
        partitions=[models.TransactionPartition("orders", 0)],
        started_timestamp=NOW_MS,
        age_ms=700,
        updated_timestamp=NOW_MS,
        ended=None,
    )


async def test_a_list_has_those_that_are_asked_for(service, world):
    await begun(service, world, "b")
    token = await begun(service, world, "a")
    world.now_ms += 1_000
    await begun(service, world, "c")

    async def listed(states=None, older_than_ms=None):
        found = await service.list_transactions(
            states, older_than_ms=older_than_ms, now_ms=NOW_MS + 1_000, limit=10
        )
        assert found.next_cursor is None
        return [each.transactional_id for each in found.transactions]

    assert await listed() == ["a", "b", "c"]
    assert await listed(older_than_ms=999) == ["a", "b"]
    assert await listed(older_than_ms=1_000) == []
    await commit(service, token, "a")
    assert await listed([TransactionState.ONGOING]) == ["b", "c"]
    assert await listed([TransactionState.COMPLETE_COMMIT]) == ["a"]
    assert await listed(older_than_ms=0) == ["b"]


class Sharded(Coordinators):
    """Ids that are spread over two coordinators, which tell two at once."""

    async def ask_all(self, command):
        command = msgspec.structs.replace(command, limit=min(2, command.limit))
        whole = self.image.transactions
        answers = []
        for share in (sorted(whole)[:5], sorted(whole)[5:]):
            image = TransactionsImage(transactions={name: whole[name] for name in share})
            context = TransactionContext(TransactionConfig(), self.now_ms, 0)
            answers.append((handle(image, command, context).response, 1))
        return answers


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 8, 100])
async def test_a_long_list_comes_in_pages_that_miss_and_repeat_nothing(groups, limit):
    world = Sharded()
    names = [f"id-{number}" for number in (3, 1, 4, 0, 5, 9, 2, 6)]
    for name in names:
        world.execute(InitialiseProducer(name, None, None))
    service = TransactionService(calls=world, groups=groups, config=TransactionConfig())
    seen, cursor = [], None
    for _ in range(len(names) + 1):
        page = await service.list_transactions(
            None, older_than_ms=None, now_ms=NOW_MS, limit=limit, cursor=cursor
        )
        assert 1 <= len(page.transactions) <= limit
        seen += [each.transactional_id for each in page.transactions]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert seen == sorted(names)
    assert [each.transactional_id for each in await service.all_transactions()] == sorted(names)


async def test_a_cursor_that_no_answer_had_is_refused(service):
    with pytest.raises(InvalidRequestError, match="next_cursor"):
        await service.list_transactions(
            None, older_than_ms=None, now_ms=NOW_MS, limit=10, cursor="zzz"
        )
