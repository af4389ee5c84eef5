"""What the transaction coordinator decides, command by command."""

import pytest

from ottla_cluster.transactions import handlers
from ottla_cluster.transactions.commands import (
    AbortTransaction,
    AddPartitions,
    CompleteTransaction,
    DescribeTransaction,
    EndTransaction,
    ExpireTransactionalIds,
    InitialiseProducer,
    ListTransactions,
)
from ottla_cluster.transactions.config import TransactionConfig
from ottla_cluster.transactions.context import TransactionContext
from ottla_cluster.transactions.ending import marker_identity
from ottla_cluster.transactions.handlers import handle
from ottla_cluster.transactions.image import TransactionsImage, replay
from ottla_cluster.transactions.known_ids import SUCCESSOR
from ottla_cluster.transactions.limits import (
    MAX_GRANTED_PRODUCER_EPOCH,
    MAX_PARTITIONS_PER_TRANSACTION,
    MAX_PRODUCER_EPOCH,
    MAX_REMEMBERED_TAKEOVERS,
)
from ottla_cluster.transactions.records import (
    EndedBy,
    ProducerIdentity,
    TransactionPartition,
    TransactionState,
    decode_record,
    encode_record,
)
from ottla_protocol.errors import (
    ConcurrentTransactionsError,
    CoordinatorNotAvailableError,
    IdempotencyKeyReusedError,
    InvalidRequestError,
    InvalidTransactionStateError,
    InvalidTransactionTimeoutError,
    ProducerFencedError,
    TransactionAbortableError,
    TransactionalIdNotFoundError,
)

ORDERS = tuple(TransactionPartition("orders", "id-of-orders", number) for number in range(3))


class TransactionsUnderTest:
    """Applies commands one by one, each committed at once; records go through their encoding."""

    def __init__(self):
        self.image = TransactionsImage()
        self.timestamp_ms = 1_000_000
        self.next_producer_id = 7
        self.config = TransactionConfig()

    def apply(self, command):
        context = TransactionContext(self.config, self.timestamp_ms, self.next_producer_id)
        result = handle(self.image, command, context)
        records = tuple(decode_record(*encode_record(each)) for each in result.records)
        assert records == result.records
        if records:
            self.image = replay(self.image, records, self.image.version + 1)
        return result.response

    def initialise(self, identity=None, timeout_ms=None, attempt=None):
        return self.apply(InitialiseProducer("t", timeout_ms, identity, attempt)).granted

    def add(self, identity, *partitions):
        return self.apply(AddPartitions("t", identity, partitions or ORDERS[:1]))

    def end(self, identity, *, is_commit=True):
        return self.apply(EndTransaction("t", identity, is_commit)).granted

    def complete(self):
        ended = self.found.ended
        return self.apply(CompleteTransaction("t", marker_identity(ended)))

    def time_out(self, by=EndedBy.TIMEOUT):
        return self.apply(AbortTransaction("t", self.found.granted, by)).was_open

    @property
    def found(self):
        return self.image.transactions["t"]


@pytest.fixture
def under_test():
    return TransactionsUnderTest()


def test_a_transaction_from_its_beginning_to_its_end(under_test):
    first = under_test.initialise()
    assert first == ProducerIdentity(7, 0)
    under_test.add(first, ORDERS[1])
    assert under_test.found.state is TransactionState.ONGOING
    under_test.add(first, ORDERS[0], ORDERS[1])
    assert under_test.found.partitions == ORDERS[:2]
    second = under_test.end(first)
    assert second == ProducerIdentity(7, 1)
    assert under_test.found.state is TransactionState.PREPARE_COMMIT
    assert marker_identity(under_test.found.ended) == ProducerIdentity(7, 1)
    under_test.complete()
    assert under_test.found.state is TransactionState.COMPLETE_COMMIT
    assert under_test.found.partitions == ()
    under_test.add(second)
    assert under_test.end(second, is_commit=False) == ProducerIdentity(7, 2)
    under_test.complete()
    assert under_test.found.state is TransactionState.COMPLETE_ABORT


def test_partitions_that_are_there_are_not_written_again(under_test):
    identity = under_test.initialise()
    under_test.add(identity, *ORDERS)
    version = under_test.image.version
    under_test.add(identity, ORDERS[2])
    assert under_test.image.version == version


@pytest.mark.parametrize("is_commit", [True, False])
def test_a_decision_may_be_asked_for_again_and_never_turned_round(under_test, is_commit):
    identity = under_test.initialise()
    under_test.add(identity)
    granted = under_test.end(identity, is_commit=is_commit)
    assert under_test.end(identity, is_commit=is_commit) == granted
    under_test.complete()
    version = under_test.image.version
    assert under_test.end(identity, is_commit=is_commit) == granted
    assert under_test.image.version == version
    with pytest.raises(InvalidTransactionStateError):
        under_test.end(identity, is_commit=not is_commit)


def test_a_decision_that_comes_late_does_not_touch_the_next_transaction(under_test):
    first = under_test.initialise()
    second = under_test.end(first)  # Nothing was written; still a new identity.
    assert second != first
    under_test.add(second)
    assert under_test.end(first) == second
    assert under_test.found.state is TransactionState.ONGOING
    third = under_test.end(second, is_commit=False)
    under_test.complete()
    with pytest.raises(ProducerFencedError):
        under_test.end(first)
    under_test.add(third)
    with pytest.raises(ProducerFencedError):
        under_test.add(second)


def test_nothing_begins_while_markers_are_written(under_test):
    first = under_test.initialise()
    under_test.add(first)
    second = under_test.end(first)
    for refused in (
        lambda: under_test.add(second),
        lambda: under_test.end(second),
        lambda: under_test.initialise(),
    ):
        with pytest.raises(ConcurrentTransactionsError) as caught:
            refused()
        assert caught.value.retriable


def test_a_successor_aborts_what_is_open_and_fences(under_test):
    first = under_test.initialise()
    under_test.add(first)
    assert under_test.initialise() is None
    assert under_test.found.state is TransactionState.PREPARE_ABORT
    assert under_test.found.ended.by is EndedBy.SUCCESSOR
    for is_commit in (True, False):
        with pytest.raises(ProducerFencedError):
            under_test.end(first, is_commit=is_commit)
    under_test.complete()
    second = under_test.initialise()
    assert second.producer_epoch > first.producer_epoch + 1
    for refused in (
        lambda: under_test.add(first),
        lambda: under_test.end(first),
        lambda: under_test.initialise(first),
    ):
        with pytest.raises(ProducerFencedError):
            refused()
    under_test.add(second)


def test_a_successor_that_finds_nothing_open_fences_as_well(under_test):
    first = under_test.initialise()
    under_test.add(first)
    granted = under_test.end(first)
    under_test.complete()
    second = under_test.initialise()
    assert second == ProducerIdentity(7, granted.producer_epoch + 1)
    for old in (first, granted):
        with pytest.raises(ProducerFencedError):
            under_test.end(old)


def why_fenced(refused):
    with pytest.raises(ProducerFencedError) as caught:
        refused()
    return caught.value.detail


def test_who_is_fenced_is_told_why_as_far_as_that_is_known(under_test):
    first = under_test.initialise()
    under_test.add(first)
    second = under_test.end(first)
    under_test.complete()
    used_up = why_fenced(lambda: under_test.add(first))
    assert "Producer 7 epoch 0 does not hold the transactional id 't': " in used_up
    assert "its transaction is committed. Go on with the token that the commit was" in used_up
    third = under_test.end(second, is_commit=False)
    assert "is aborted. Go on with the token that the abort" in why_fenced(
        lambda: under_test.add(second)
    )
    # Whether somebody has taken over before the last two decisions is not remembered.
    for refused in (under_test.add, under_test.end, under_test.initialise):
        told = why_fenced(lambda call=refused: call(first))
        assert f"its transaction is over, or {SUCCESSOR} has taken the id over. Go on with" in told
    for made_up in (ProducerIdentity(7, 9), ProducerIdentity(99, 0)):
        told = why_fenced(lambda identity=made_up: under_test.end(identity))
        assert ("knows of no such epoch. Take the id over" in told) == (made_up.producer_id == 7)
        assert ("another producer id does; " in told) == (made_up.producer_id == 99)
    under_test.initialise()
    told = why_fenced(lambda: under_test.add(third))
    assert f"{SUCCESSOR} has taken the id over since. Stop this producer." in told


def test_who_is_being_succeeded_is_told_so(under_test):
    first = under_test.initialise()
    under_test.add(first)
    assert under_test.initialise() is None
    for refused in (under_test.add, under_test.end, under_test.initialise):
        told = why_fenced(lambda call=refused: call(first))
        assert f"{SUCCESSOR} has taken the id over, and the transaction of this one is" in told
        assert told.endswith("Stop this producer.")


@pytest.mark.parametrize("by", [EndedBy.TIMEOUT, EndedBy.OPERATOR])
def test_who_was_too_slow_is_told_and_goes_on_by_aborting(under_test, by):
    first = under_test.initialise()
    under_test.add(first)
    assert under_test.time_out(by)
    assert not under_test.time_out(by)
    with pytest.raises(TransactionAbortableError):
        under_test.end(first)
    second = under_test.end(first, is_commit=False)
    under_test.complete()
    under_test.add(second)
    assert under_test.end(second) == ProducerIdentity(7, second.producer_epoch + 1)


def test_a_producer_goes_on_after_an_error_unless_it_was_succeeded(under_test):
    first = under_test.initialise()
    under_test.add(first)
    assert under_test.initialise(first) is None
    under_test.complete()
    second = under_test.initialise(first)
    assert second.producer_epoch > first.producer_epoch
    under_test.initialise()
    with pytest.raises(ProducerFencedError):
        under_test.initialise(second)
    with pytest.raises(TransactionalIdNotFoundError):
        under_test.apply(InitialiseProducer("nobody", None, second))


def test_a_take_over_that_comes_again_is_answered_the_same(under_test):
    first = under_test.initialise(attempt=b"1")
    under_test.add(first)
    assert under_test.initialise(attempt=b"2") is None
    under_test.complete()
    second = under_test.initialise(attempt=b"2")
    version = under_test.image.version
    assert under_test.initialise(attempt=b"2") == second
    assert under_test.image.version == version
    with pytest.raises(IdempotencyKeyReusedError, match="Repeat the call as it was"):
        under_test.initialise(attempt=b"2", timeout_ms=5)
    under_test.add(second)
    assert under_test.end(second) == ProducerIdentity(7, second.producer_epoch + 1)


def test_a_take_over_that_comes_late_does_not_touch_its_own_producer(under_test):
    first = under_test.initialise(attempt=b"1")
    under_test.add(first)
    with pytest.raises(ProducerFencedError, match=r"gone on since\. Go on with its token"):
        under_test.initialise(attempt=b"1")
    second = under_test.end(first)
    under_test.complete()
    with pytest.raises(ProducerFencedError, match=r"gone on since\. Go on with its token"):
        under_test.initialise(attempt=b"1")
    third = under_test.initialise(second)
    with pytest.raises(ProducerFencedError, match=r"gone on since\. Go on with its token"):
        under_test.initialise(attempt=b"1")
    under_test.add(third)


def test_a_take_over_that_comes_late_does_not_touch_a_successor(under_test):
    attempts = [bytes([number]) for number in range(MAX_REMEMBERED_TAKEOVERS)]
    for attempt in attempts:
        holder = under_test.initialise(attempt=attempt)
    for attempt in attempts[:-1]:
        with pytest.raises(
            ProducerFencedError, match="or a later start of the same one, has taken it"
        ):
            under_test.initialise(attempt=attempt)
    assert under_test.initialise(attempt=attempts[-1]) == holder
    assert len(under_test.found.takeovers) == MAX_REMEMBERED_TAKEOVERS
    under_test.initialise(attempt=b"more")
    assert len(under_test.found.takeovers) == MAX_REMEMBERED_TAKEOVERS


def test_take_overs_that_nobody_can_tell_apart_grant_anew(under_test):
    first = under_test.initialise(attempt=b"1")
    second = under_test.initialise()
    assert under_test.initialise() != second != first
    with pytest.raises(ProducerFencedError):
        under_test.initialise(attempt=b"1")


def test_going_on_that_comes_again_is_answered_the_same(under_test):
    first = under_test.initialise()
    under_test.add(first)
    assert under_test.initialise(first) is None
    with pytest.raises(ConcurrentTransactionsError):
        under_test.initialise(first)
    under_test.complete()
    second = under_test.initialise(first)
    version = under_test.image.version
    assert under_test.initialise(first) == second == under_test.found.granted
    assert under_test.image.version == version
    # Nothing was open this time: batches that are under way are fenced all the same.
    third = under_test.initialise(second, timeout_ms=5_000)
    assert third == ProducerIdentity(7, second.producer_epoch + 1)
    assert under_test.found.timeout_ms == 5_000
    assert under_test.initialise(second, timeout_ms=6_000) == third
    assert under_test.found.timeout_ms == 6_000
    with pytest.raises(ProducerFencedError):
        under_test.initialise(first)
    under_test.add(third)
    assert under_test.end(third) == ProducerIdentity(7, third.producer_epoch + 1)


@pytest.mark.parametrize("by", [EndedBy.TIMEOUT, EndedBy.OPERATOR])
def test_who_was_too_slow_goes_on_too(under_test, by):
    first = under_test.initialise()
    under_test.add(first)
    under_test.time_out(by)
    under_test.complete()
    second = under_test.initialise(first)
    assert under_test.initialise(first) == second
    under_test.add(second)


def test_a_new_producer_id_where_epochs_run_out(under_test):
    identity = under_test.initialise()
    under_test.next_producer_id = 8
    for _ in range(MAX_GRANTED_PRODUCER_EPOCH):
        identity = under_test.end(identity)
    assert identity == ProducerIdentity(7, MAX_GRANTED_PRODUCER_EPOCH)
    under_test.add(identity)
    assert under_test.end(identity) == ProducerIdentity(8, 0)
    assert marker_identity(under_test.found.ended) == ProducerIdentity(7, MAX_PRODUCER_EPOCH)
    assert under_test.end(identity) == ProducerIdentity(8, 0)


def test_going_on_that_comes_late_does_not_abort_the_next_transaction(under_test):
    first = under_test.initialise()
    under_test.add(first)
    second = under_test.end(first, is_commit=False)
    under_test.complete()
    under_test.add(second)
    with pytest.raises(ProducerFencedError):
        under_test.initialise(first)
    assert under_test.found.state is TransactionState.ONGOING
    under_test.end(second)


def test_without_producer_ids_new_transactional_ids_wait(under_test):
    under_test.next_producer_id = None
    with pytest.raises(CoordinatorNotAvailableError):
        under_test.initialise()


@pytest.mark.parametrize("timeout_ms", [0, -1, 900_001])
def test_a_timeout_out_of_range_is_refused(under_test, timeout_ms):
    with pytest.raises(
        InvalidTransactionTimeoutError, match="timeout_ms must be 1 to 900000"
    ) as told:
        under_test.initialise(timeout_ms=timeout_ms)
    assert told.value.members["field"] == "timeout_ms"


@pytest.mark.parametrize("name", ["", ".", "..", "a\n", "x" * 250])
def test_a_transactional_id_that_breaks_a_rule_is_refused(under_test, name):
    with pytest.raises(InvalidRequestError, match="transactional_id must"):
        under_test.apply(InitialiseProducer(name, None, None))


def test_partitions_have_a_limit(under_test):
    identity = under_test.initialise()
    with pytest.raises(InvalidRequestError, match="one partition at least"):
        under_test.apply(AddPartitions("t", identity, ()))
    many = tuple(
        TransactionPartition("orders", "id", number)
        for number in range(MAX_PARTITIONS_PER_TRANSACTION + 1)
    )
    with pytest.raises(InvalidRequestError, match="at most"):
        under_test.add(identity, *many)


def test_only_ids_at_rest_and_old_expire(under_test):
    identity = under_test.initialise()
    under_test.apply(InitialiseProducer("young", None, None))
    under_test.add(identity)
    old_ms = under_test.config.transactional_id_expiration_ms
    under_test.timestamp_ms += old_ms
    under_test.apply(InitialiseProducer("young", None, None))
    expire = ExpireTransactionalIds(("t", "young", "gone"))
    assert under_test.apply(expire).removed == 0
    under_test.end(identity)
    under_test.complete()
    under_test.timestamp_ms += old_ms
    under_test.apply(InitialiseProducer("young", None, None))
    assert under_test.apply(expire).removed == 1
    with pytest.raises(TransactionalIdNotFoundError):
        under_test.apply(DescribeTransaction("t"))


def test_transactions_are_listed_and_described(under_test):
    identity = under_test.initialise()
    under_test.apply(InitialiseProducer("a", None, None))
    under_test.add(identity)
    listed = under_test.apply(ListTransactions()).transactions
    assert [each.transactional_id for each in listed] == ["a", "t"]
    ongoing = ListTransactions(frozenset({TransactionState.ONGOING}))
    assert under_test.apply(ongoing).transactions == (under_test.found,)
    assert under_test.apply(DescribeTransaction("t")).transaction == under_test.found


def test_a_list_ends_at_its_bounds_and_says_so(under_test, monkeypatch):
    for name in "cabd":
        under_test.apply(InitialiseProducer(name, None, None))

    def listed(**asked):
        answer = under_test.apply(ListTransactions(**asked))
        return "".join(each.transactional_id for each in answer.transactions), answer.has_more

    assert listed() == ("abcd", False)
    assert listed(limit=2) == ("ab", True)
    assert listed(limit=2, behind="b") == ("cd", False)
    assert listed(behind="b0") == ("cd", False)
    assert listed(behind="d") == ("", False)
    assert listed(limit=0) == ("a", True)
    monkeypatch.setattr(handlers, "MAX_LISTED_IDS", 3)
    assert listed(limit=4) == ("abc", True)


def test_a_list_ends_before_it_has_too_many_partitions_and_has_one_id_at_least(
    under_test, monkeypatch
):
    for name in "abc":
        granted = under_test.apply(InitialiseProducer(name, None, None)).granted
        if name != "b":
            under_test.apply(AddPartitions(name, granted, ORDERS))
    answers = []
    for most in (2, 3, 5, 6):
        monkeypatch.setattr(handlers, "MAX_LISTED_PARTITIONS", most)
        answer = under_test.apply(ListTransactions())
        answers.append(
            ("".join(each.transactional_id for each in answer.transactions), answer.has_more)
        )
    assert answers == [("a", True), ("ab", True), ("ab", True), ("abc", False)]


def test_a_list_may_be_of_what_began_before_a_time(under_test):
    identity = under_test.initialise()
    under_test.apply(InitialiseProducer("idle", None, None))
    under_test.add(identity)
    began_ms = under_test.found.started_timestamp_ms
    for before_ms, expected in ((began_ms, ()), (began_ms + 1, ("t",))):
        found = under_test.apply(ListTransactions(started_before_ms=before_ms)).transactions
        assert tuple(each.transactional_id for each in found) == expected
