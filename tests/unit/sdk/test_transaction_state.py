"""What a transactional producer may do, and that no order of steps breaks its rules."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ottla._errors import TransactionStateError
from ottla._transaction_state import Granted, Phase, TransactionState
from ottla_protocol.errors import (
    CoordinatorNotAvailableError,
    InvalidTransactionStateError,
    MessageTooLargeError,
    ProducerFencedError,
    TransactionAbortableError,
    TransactionalIdNotFoundError,
)

FIRST, SECOND = Granted("7.0.t", 7, 0), Granted("7.1.t", 7, 1)
REFUSED = MessageTooLargeError("too large")
LATER = CoordinatorNotAvailableError("in a moment")
FENCED = ProducerFencedError("somebody else has it")


def ready():
    state = TransactionState("t")
    state.begin_initialise()
    state.initialised(FIRST)
    return state


def opened():
    state = ready()
    state.begin()
    return state


def committing():
    state = opened()
    state.has_begun = True
    state.begin_commit()
    return state


def test_one_transaction_after_the_other():
    state = committing()
    assert state.decide_commit() == FIRST
    state.ended(SECOND)
    assert state.phase is Phase.READY
    state.begin()
    assert (state.number, state.begin_abort()) == (2, SECOND)


@pytest.mark.parametrize(
    ("call", "arguments"),
    [
        ("begin", ()),
        ("check_taking", (0,)),
        ("begin_offsets", ()),
        ("begin_commit", ()),
        ("begin_abort", ()),
    ],
)
def test_nothing_goes_before_it_is_initialised(call, arguments):
    with pytest.raises(TransactionStateError, match="not initialised") as caught:
        getattr(TransactionState("t"), call)(*arguments)
    assert "init_transactions" in caught.value.hint


@pytest.mark.parametrize("call", ["begin_commit", "begin_abort", "begin_offsets"])
def test_outside_of_a_transaction_only_begin_goes(call):
    with pytest.raises(TransactionStateError, match="outside of a transaction"):
        getattr(ready(), call)()
    ready().begin()


def test_a_second_begin_is_an_error():
    with pytest.raises(TransactionStateError, match="in a transaction"):
        opened().begin()


def test_an_initialisation_that_was_not_answered_may_be_repeated():
    state = TransactionState("t")
    state.begin_initialise()
    state.initialise_failed(LATER)
    state.begin_initialise()
    state.begin_initialise()  # The first was cancelled.
    state.initialised(FIRST)


def test_a_record_is_taken_into_its_own_transaction_only():
    state = opened()
    state.check_taking(1)
    state.begin_abort()
    with pytest.raises(TransactionStateError, match="aborting"):
        state.check_taking(1)
    state.ended(SECOND)
    state.begin()
    with pytest.raises(TransactionStateError, match="over"):
        state.check_taking(1)
    state.check_taking(2)


def test_while_it_is_committed_nothing_is_taken():
    state = committing()
    with pytest.raises(TransactionStateError, match="committing"):
        state.check_taking(1)
    with pytest.raises(TransactionStateError, match="committing"):
        state.begin_offsets()


@pytest.mark.parametrize("make", [opened, committing])
def test_a_failed_record_leaves_only_the_abort(make):
    state = make()
    state.failed(REFUSED)
    state.failed(LATER)
    for call in (lambda: state.check_taking(1), state.begin_offsets, state.begin_commit):
        with pytest.raises(TransactionAbortableError, match="too large") as caught:
            call()
        assert caught.value.__cause__ is REFUSED
    state.begin_abort()
    state.ended(SECOND)
    state.begin()
    state.check_taking(2)


def test_a_commit_that_was_not_answered_is_asked_again_and_never_aborted():
    state = committing()
    state.decide_commit()
    state.end_failed(LATER)
    with pytest.raises(TransactionStateError, match="may be committed"):
        state.begin_abort()
    assert not state.wants_abort
    state.begin_commit()
    assert state.decide_commit() == FIRST
    state.ended(SECOND)


def test_a_commit_that_was_not_asked_for_yet_may_be_aborted():
    state = committing()
    assert state.wants_abort
    state.begin_abort()
    state.begin_abort()  # It was not answered.
    state.ended(SECOND)


def test_a_transaction_that_its_timeout_aborted_is_aborted_too():
    state = committing()
    state.decide_commit()
    state.end_failed(TransactionAbortableError("it was open for too long"))
    with pytest.raises(TransactionAbortableError, match="too long"):
        state.begin_commit()
    assert state.begin_abort() == FIRST


def test_a_transaction_of_nothing_keeps_its_identity():
    state = opened()
    state.begin_commit()
    assert state.end_of_nothing() == FIRST
    assert state.phase is Phase.READY


@pytest.mark.parametrize("error", [FENCED, TransactionalIdNotFoundError("expired")])
@pytest.mark.parametrize("make", [ready, opened, committing])
def test_a_lost_id_is_the_end(make, error):
    state = make()
    state.failed(error)
    for call in (state.begin, state.begin_commit, state.begin_abort, state.begin_offsets):
        with pytest.raises(type(error)) as caught:
            call()
        assert caught.value is not error, "raised twice, its traceback would grow"
    with pytest.raises(type(error)):
        state.check_taking(1)
    assert not state.wants_abort
    state.failed(REFUSED)
    assert state.failure is error


def test_what_was_ended_otherwise_was_ended_by_somebody_else():
    state = opened()
    state.has_begun = True
    state.begin_abort()
    state.end_failed(InvalidTransactionStateError("committed already"))
    with pytest.raises(InvalidTransactionStateError):
        state.begin()


def counted(state):
    counters = state.counters
    return counters.begun, counters.committed, counters.aborted, counters.fenced


def test_what_became_of_transactions_is_counted():
    state = TransactionState("t")
    state.begin_initialise()
    state.initialised(Granted("7.0.t", 7, 0))
    assert counted(state) == (0, 0, 0, 0)
    state.begin()
    state.begin_commit()
    state.end_of_nothing()
    state.begin()
    state.has_begun = True
    state.begin_abort()
    state.begin_abort()
    state.ended(Granted("7.1.t", 7, 1))
    assert counted(state) == (2, 1, 1, 0)
    state.begin()
    state.begin_commit()
    state.decide_commit()
    state.end_failed(ProducerFencedError("another"))
    state.failed(ProducerFencedError("still another"))
    assert counted(state) == (3, 1, 1, 1)


def test_an_id_that_nobody_knows_any_more_is_not_fenced():
    state = TransactionState("t")
    state.begin_initialise()
    state.initialise_failed(TransactionalIdNotFoundError("gone"))
    assert counted(state) == (0, 0, 0, 0)


class AnyOrder(RuleBasedStateMachine):
    """An application that calls what it likes, and a coordinator that keeps a book of its own."""

    @initialize()
    def start(self):
        self.state = TransactionState("t")
        self.granted = None
        self.epoch = 0
        self.records = {}  # Transaction number -> how many were acknowledged, taken.
        self.decided = {}  # Epoch -> committed?
        self.waits = 0
        self.has_failed = False

    def grant(self):
        self.epoch += 1
        self.granted = Granted(f"7.{self.epoch}.t", 7, self.epoch)
        return self.granted

    @rule()
    def initialise(self):
        try:
            self.state.begin_initialise()
        except TransactionStateError:
            assert self.granted is not None
            return
        self.state.initialised(self.grant())

    @rule()
    def begin(self):
        try:
            self.state.begin()
        except TransactionStateError:
            return
        self.has_failed = False
        self.waits = 0

    @rule()
    def send(self):
        try:
            self.state.check_taking(self.state.number)
        except (TransactionStateError, TransactionAbortableError):
            return
        assert not self.has_failed
        self.waits += 1
        self.state.has_begun = True

    @rule(fails=st.booleans())
    def answer(self, fails):
        if not self.waits:
            return
        if fails:
            self.state.failed(REFUSED)
            self.has_failed = True
            self.waits = 0
        else:
            self.waits -= 1

    @rule(answer=st.sampled_from(["granted", "lost", "timed out"]))
    def commit(self, answer):
        try:
            self.state.begin_commit()
            if self.waits:
                return
            if not self.state.has_begun:
                self.state.end_of_nothing()
                return
            granted = self.state.decide_commit()
        except (TransactionStateError, TransactionAbortableError):
            return
        assert not self.has_failed, "a commit of a transaction with a failed record"
        epoch = granted.producer_epoch
        if answer == "timed out" and epoch not in self.decided:
            self.decided[epoch] = False
            self.grant()
        is_committed = self.decided.setdefault(epoch, True)
        if epoch == self.epoch:
            self.grant()
        if answer == "lost":
            self.state.end_failed(LATER)
        elif is_committed:
            self.state.ended(self.granted)
        else:
            self.state.end_failed(TransactionAbortableError("open for too long"))

    @rule(is_lost=st.booleans())
    def abort(self, is_lost):
        try:
            granted = self.state.begin_abort()
        except TransactionStateError:
            return
        self.waits = 0
        if not self.state.has_begun:
            self.state.end_of_nothing()
            return
        epoch = granted.producer_epoch
        assert not self.decided.setdefault(epoch, False), "aborted what is committed"
        if epoch == self.epoch:
            self.grant()
        if is_lost:
            self.state.end_failed(LATER)
        else:
            self.state.ended(self.granted)

    @precondition(lambda self: self.state.phase is Phase.READY)
    @invariant()
    def the_next_transaction_is_the_coordinators(self):
        assert self.state.granted == self.granted
        assert self.granted.producer_epoch not in self.decided, "an identity used twice"
        assert not self.waits


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
