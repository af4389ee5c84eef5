"""What a coordinator does by itself: time-outs, markers, producer ids, failures."""

import pytest

from ottla_cluster.transactions.active_coordinator import ActiveTransactionCoordinator
from ottla_cluster.transactions.commands import (
    AbortTransaction,
    AddPartitions,
    CompleteTransaction,
    EndTransaction,
    ExpireTransactionalIds,
    InitialiseProducer,
)
from ottla_cluster.transactions.config import TransactionConfig
from ottla_cluster.transactions.image import TransactionsImage
from ottla_cluster.transactions.records import (
    EndedBy,
    ProducerIdentity,
    TransactionPartition,
    TransactionState,
)
from ottla_protocol.errors import (
    NotCoordinatorError,
    ProducerFencedError,
    TransactionAbortableError,
    UnavailableError,
)

TIMEOUT_MS = 1_000
WALL_MS = 10**12
PARTITIONS = tuple(TransactionPartition("orders", "id", number) for number in range(2))


class CoordinatorUnderTest:
    def __init__(self, image=None, now_ms=0, wall_ms=WALL_MS):
        self.active = ActiveTransactionCoordinator(
            image or TransactionsImage(), TransactionConfig(), now_ms, wall_ms
        )
        self.active.add_producer_ids((5, 6))
        self.end = self.active.committed_image.version

    def append(self, command, now_ms=0):
        submitted = self.active.submit(command, now_ms, WALL_MS)
        assert submitted.payload is not None
        self.end += 1
        self.active.appended(submitted.request_id, self.end)
        return submitted.request_id

    def decide(self, command, now_ms=0):
        self.append(command, now_ms)
        (answer,) = self.active.committed(self.end, now_ms)
        return answer.outcome

    def begin(self, now_ms=0):
        identity = self.decide(InitialiseProducer("t", TIMEOUT_MS, None)).granted
        self.decide(AddPartitions("t", identity, PARTITIONS), now_ms)
        return identity

    def due(self, now_ms, wall_ms=WALL_MS):
        return self.active.due(now_ms, wall_ms)


def test_markers_leave_once_the_decision_is_durable_and_until_all_are_written():
    under_test = CoordinatorUnderTest()
    identity = under_test.begin()
    under_test.append(EndTransaction("t", identity, True))
    assert under_test.active.markers_to_write() == ()
    under_test.active.committed(under_test.end, 0)
    (decision,) = under_test.active.markers_to_write()
    assert (decision.marker, decision.is_commit) == (ProducerIdentity(5, 1), True)
    assert decision.partitions == set(PARTITIONS)
    assert under_test.due(0) == ()
    under_test.active.marker_written("t", ProducerIdentity(5, 9), PARTITIONS[0])
    for partition in PARTITIONS:
        assert under_test.active.markers_to_write() != ()
        under_test.active.marker_written("t", decision.marker, partition)
    assert under_test.active.markers_to_write() == ()
    assert under_test.due(0) == (CompleteTransaction("t", decision.marker),)
    under_test.decide(CompleteTransaction("t", decision.marker))
    assert under_test.due(0) == ()
    found = under_test.active.committed_image.transactions["t"]
    assert found.state is TransactionState.COMPLETE_COMMIT


def test_decisions_that_become_durable_together_are_told_in_their_order():
    """In every process: a seed of the simulation would else be another life in each."""
    under_test = CoordinatorUnderTest()
    names = [f"t{number}" for number in range(20)]
    under_test.active.add_producer_ids(range(7, 7 + len(names)))
    granted = {}
    for name in names:
        granted[name] = under_test.decide(InitialiseProducer(name, TIMEOUT_MS, None)).granted
        under_test.decide(AddPartitions(name, granted[name], PARTITIONS))
    for name in names:
        under_test.append(EndTransaction(name, granted[name], True))
    under_test.active.committed(under_test.end, 0)
    told = [each.transactional_id for each in under_test.active.markers_to_write()]
    assert told == names


def test_a_new_coordinator_writes_all_markers_again():
    former = CoordinatorUnderTest()
    identity = former.begin()
    former.decide(EndTransaction("t", identity, False))
    former.active.marker_written("t", ProducerIdentity(5, 1), PARTITIONS[0])
    (decision,) = CoordinatorUnderTest(former.active.committed_image).active.markers_to_write()
    assert decision.partitions == set(PARTITIONS)
    assert not decision.is_commit


def test_a_transaction_that_is_open_for_too_long_is_aborted():
    under_test = CoordinatorUnderTest()
    identity = under_test.begin(now_ms=100)
    assert under_test.due(99 + TIMEOUT_MS) == ()
    (overdue,) = under_test.due(100 + TIMEOUT_MS)
    assert overdue == AbortTransaction("t", identity, EndedBy.TIMEOUT)
    under_test.decide(overdue)
    assert under_test.due(100 + TIMEOUT_MS) == ()


def test_a_decision_that_the_log_refuses_does_not_stop_the_clock():
    under_test = CoordinatorUnderTest()
    identity = under_test.begin()
    submitted = under_test.active.submit(EndTransaction("t", identity, True), 10, WALL_MS)
    refused = UnavailableError("no room")
    (answer,) = under_test.active.append_failed(submitted.request_id, refused, 10)
    assert answer.outcome is refused
    assert under_test.due(TIMEOUT_MS) == (AbortTransaction("t", identity, EndedBy.TIMEOUT),)


def test_a_beginning_that_the_log_refuses_leaves_no_clock_behind():
    under_test = CoordinatorUnderTest()
    identity = under_test.decide(InitialiseProducer("t", TIMEOUT_MS, None)).granted
    submitted = under_test.active.submit(AddPartitions("t", identity, PARTITIONS), 0, WALL_MS)
    under_test.active.append_failed(submitted.request_id, UnavailableError("no room"), 0)
    assert under_test.due(2 * TIMEOUT_MS) == ()


def test_a_failover_shortens_the_wait_by_the_wall_clock_and_never_lengthens_it():
    former = CoordinatorUnderTest()
    identity = former.begin()
    image = former.active.committed_image
    overdue = (AbortTransaction("t", identity, EndedBy.TIMEOUT),)
    for wall_ms, left_ms in ((WALL_MS + 400, 600), (WALL_MS + 10**9, 0), (WALL_MS - 10**9, 1_000)):
        under_test = CoordinatorUnderTest(image, now_ms=50_000, wall_ms=wall_ms)
        assert under_test.due(50_000 + left_ms) == overdue
        if left_ms:
            assert under_test.due(49_999 + left_ms) == ()


def test_each_fresh_producer_id_is_given_once():
    under_test = CoordinatorUnderTest()
    granted = [
        under_test.decide(InitialiseProducer(name, None, None)).granted.producer_id
        for name in ("a", "b")
    ]
    assert granted == [5, 6]
    assert under_test.active.producer_ids_left == 0
    again = under_test.decide(InitialiseProducer("a", None, None)).granted
    assert again == ProducerIdentity(5, 1)


def test_ids_go_that_look_unused_for_a_while():
    under_test = CoordinatorUnderTest()
    under_test.decide(InitialiseProducer("t", None, None))
    config = TransactionConfig()
    first_ms = config.expiry_interval_ms
    unused_ms = WALL_MS + config.transactional_id_expiration_ms
    assert under_test.due(first_ms - 1, unused_ms) == ()
    end_ms = first_ms + config.expiry_delay_ms
    for now_ms in range(first_ms, end_ms, config.expiry_interval_ms):
        assert under_test.due(now_ms, unused_ms) == ()
    assert under_test.due(end_ms, unused_ms) == (ExpireTransactionalIds(("t",)),)


def test_a_wall_clock_that_jumps_and_is_put_right_has_no_id_forgotten():
    under_test = CoordinatorUnderTest()
    under_test.decide(InitialiseProducer("t", None, None))
    config = TransactionConfig()
    month_ahead_ms = WALL_MS + 30 * 24 * 3_600_000
    jumped_ms = config.expiry_interval_ms
    put_right_ms = jumped_ms + config.expiry_interval_ms
    assert under_test.due(jumped_ms, month_ahead_ms) == ()
    assert under_test.due(put_right_ms, WALL_MS + put_right_ms) == ()
    # Another jump counts from when it comes.
    again_ms = jumped_ms + config.expiry_delay_ms
    assert under_test.due(again_ms, month_ahead_ms) == ()


def test_lost_leadership_leaves_the_outcome_unknown():
    under_test = CoordinatorUnderTest()
    identity = under_test.begin()
    request_id = under_test.append(EndTransaction("t", identity, True))
    (answer,) = under_test.active.lost_leadership()
    assert answer.request_id == request_id
    assert isinstance(answer.outcome, NotCoordinatorError)
    assert answer.outcome.outcome == "unknown"


def test_what_is_decided_and_not_committed_is_not_due_again():
    """A log that commits nothing for long must not fill up with the same decision."""
    under_test = CoordinatorUnderTest()
    under_test.begin()
    late_ms = 2 * TIMEOUT_MS
    (abort,) = under_test.due(late_ms)
    under_test.append(abort, late_ms)
    assert under_test.due(late_ms) == ()
    under_test.active.committed(under_test.end, late_ms)
    (decision,) = under_test.active.take_new_markers()
    assert under_test.active.take_new_markers() == ()
    told = [
        under_test.active.marker_written("t", decision.marker, each)
        for each in (*PARTITIONS, PARTITIONS[0])
    ]
    assert told == [False, True, False]
    complete = CompleteTransaction("t", decision.marker)
    assert under_test.due(late_ms) == (complete,)
    submitted = under_test.active.submit(complete, late_ms, WALL_MS)
    assert under_test.due(late_ms) == ()
    refused = UnavailableError("no room")
    under_test.active.append_failed(submitted.request_id, refused, late_ms)
    assert under_test.due(late_ms) == (complete,)


def test_who_was_only_slow_is_told_to_abort_and_not_that_it_is_fenced():
    under_test = CoordinatorUnderTest()
    identity = under_test.begin()
    for by in (EndedBy.TIMEOUT, EndedBy.OPERATOR):
        under_test.decide(AbortTransaction("t", identity, by))
        with pytest.raises(TransactionAbortableError):
            under_test.active.submit(AddPartitions("t", identity, PARTITIONS), 0, WALL_MS)
        (decision,) = under_test.active.markers_to_write()
        under_test.decide(CompleteTransaction("t", decision.marker))
        identity = decision.marker
        under_test.decide(AddPartitions("t", identity, PARTITIONS))
    under_test.decide(InitialiseProducer("t", TIMEOUT_MS, None))
    with pytest.raises(ProducerFencedError):
        under_test.active.submit(AddPartitions("t", identity, PARTITIONS), 0, WALL_MS)
