"""After an unclean election no identity is granted that may have been granted before."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ottla_cluster.transactions.commands import (
    AbortTransaction,
    AddPartitions,
    CompleteTransaction,
    EndTransaction,
    InitialiseProducer,
)
from ottla_cluster.transactions.config import TransactionConfig
from ottla_cluster.transactions.context import TransactionContext
from ottla_cluster.transactions.ending import marker_identity
from ottla_cluster.transactions.handlers import handle
from ottla_cluster.transactions.image import TransactionsImage, replay
from ottla_cluster.transactions.limits import MAX_GRANTED_PRODUCER_EPOCH
from ottla_cluster.transactions.marker_work import MarkerWork
from ottla_cluster.transactions.records import (
    EndedBy,
    EndedTransaction,
    ProducerIdentity,
    TransactionalIdChanged,
    TransactionalIdRemoved,
    TransactionPartition,
    TransactionState,
)
from ottla_cluster.transactions.revocation import as_revoked
from ottla_protocol.errors import OttlaError, ProducerFencedError, TransactionAbortableError

PARTITIONS = (TransactionPartition("orders", "o" * 32, 0),)
LAST = MAX_GRANTED_PRODUCER_EPOCH

STEPS = st.lists(
    st.sampled_from(["begin", "commit", "abort", "time out", "complete", "take over", "go on"]),
    max_size=25,
)


class Log:
    """One partition's log: decisions of one transactional id, and all that was ever granted."""

    def __init__(self):
        self.records = []
        self.image = TransactionsImage()
        self.granted = []
        self.holder = None
        self.next_producer_id = 7

    @property
    def found(self):
        return self.image.transactions.get("t")

    def apply(self, command):
        context = TransactionContext(TransactionConfig(), 1_000_000, self.next_producer_id)
        result = handle(self.image, command, context)
        if result.records:
            self.image = replay(self.image, result.records, self.image.version + 1)
            self.records += result.records
            self.granted += [each.granted for each in result.records]
            # The broker's block of ids: none is given twice.
            self.next_producer_id += 1
        return result.response

    def step(self, name):
        """One command of the holder, an operator or the coordinator; refusals are part of it."""
        try:
            response = self.apply(self._command(name))
        except (OttlaError, AttributeError):
            return
        self.holder = getattr(response, "granted", None) or self.holder

    def _command(self, name):
        match name:
            case "begin":
                return AddPartitions("t", self.holder, PARTITIONS)
            case "commit" | "abort":
                return EndTransaction("t", self.holder, name == "commit")
            case "time out":
                return AbortTransaction("t", self.found.granted, EndedBy.TIMEOUT)
            case "complete":
                return CompleteTransaction("t", marker_identity(self.found.ended))
            case "take over":
                return InitialiseProducer("t", None, None)
            case _:
                return InitialiseProducer("t", None, self.holder)

    def lose_all_behind(self, count):
        """An unclean election; the next coordinator loads what is left."""
        del self.records[count:]
        left = tuple(as_revoked(record) for record in self.records)
        self.image = replay(TransactionsImage(), left, 1_000)
        self.granted = []


@given(STEPS, STEPS, st.data())
def test_no_identity_is_granted_that_the_lost_records_may_have_granted(before, after, data):
    log = Log()
    for name in ("take over", *before):
        log.step(name)
    ever_granted = set(log.granted)
    log.lose_all_behind(data.draw(st.integers(0, len(log.records))))
    for name in after:
        log.step(name)
    # What follows reaches every kind of grant, whatever the steps were.
    log.step("complete")
    for name in ("take over", "begin", "commit", "complete", "take over"):
        log.step(name)
    assert log.granted, "something was granted"
    assert not ever_granted & set(log.granted)


def changed(granted, state, **changes):
    fields = {
        "transactional_id": "t",
        "granted": granted,
        "timeout_ms": 1_000,
        "state": state,
        "partitions": (),
        "started_timestamp_ms": None,
        "updated_timestamp_ms": 5,
        "ended": None,
    }
    return TransactionalIdChanged(**fields | changes)


def loaded(record):
    log = Log()
    log.image = replay(TransactionsImage(), (as_revoked(record),), 1)
    return log


def test_what_was_open_is_aborted_and_its_producer_goes_on():
    holder = ProducerIdentity(3, 8)
    log = loaded(
        changed(holder, TransactionState.ONGOING, partitions=PARTITIONS, started_timestamp_ms=4)
    )
    assert log.found.state is TransactionState.PREPARE_ABORT
    markers = MarkerWork()
    markers.follow("t", log.found)
    (decision,) = markers.to_write()
    assert (decision.marker, decision.is_commit) == (ProducerIdentity(3, 9), False)
    assert decision.partitions == set(PARTITIONS)
    with pytest.raises(TransactionAbortableError, match="an operator did so"):
        log.apply(EndTransaction("t", holder, is_commit=True))
    assert log.apply(EndTransaction("t", holder, is_commit=False)).granted == (
        ProducerIdentity(3, LAST)
    )
    log.apply(CompleteTransaction("t", decision.marker))
    assert log.found.granted == ProducerIdentity(3, LAST)


def test_a_decision_that_is_known_stands_and_is_told_again():
    former, holder = ProducerIdentity(3, 8), ProducerIdentity(3, 9)
    log = Log()
    log.apply(InitialiseProducer("t", None, None))
    for state in (TransactionState.PREPARE_COMMIT, TransactionState.COMPLETE_COMMIT):
        record = changed(holder, state, ended=EndedTransaction(former, True, EndedBy.PRODUCER))
        read = as_revoked(record)
        assert (read.state, read.ended) == (state, record.ended)
        log = loaded(record)
        answer = log.apply(EndTransaction("t", former, is_commit=True))
        assert answer.granted == ProducerIdentity(3, LAST)


def test_whoever_holds_an_id_is_fenced_and_the_next_one_gets_a_new_producer_id():
    holder = ProducerIdentity(3, 8)
    log = loaded(changed(holder, TransactionState.EMPTY))
    with pytest.raises(ProducerFencedError):
        log.apply(AddPartitions("t", holder, PARTITIONS))
    assert log.apply(InitialiseProducer("t", None, None)).granted == ProducerIdentity(7, 0)


@pytest.mark.parametrize("state", [TransactionState.EMPTY, TransactionState.ONGOING])
def test_an_id_in_its_last_epoch_stays_for_a_new_producer_id_comes_next_anyway(state):
    record = changed(ProducerIdentity(3, LAST), state)
    assert as_revoked(record) is record


def test_a_forgotten_id_stays_forgotten():
    record = TransactionalIdRemoved("t")
    assert as_revoked(record) is record
