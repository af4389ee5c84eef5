"""Transactions that hang in a log that is led here are ended as they were decided."""

from types import SimpleNamespace

import pytest
from structlog.testing import capture_logs

from ottla_broker.services.hanging_transactions import HangingTransactions
from ottla_broker.services.open_transactions import NO_COORDINATOR_EPOCH
from ottla_broker.telemetry import METRICS
from ottla_cluster.transactions.hanging import by_producer_id, missing_end
from ottla_cluster.transactions.records import (
    EndedBy,
    EndedTransaction,
    ProducerIdentity,
    TransactionalIdChanged,
    TransactionState,
)
from ottla_protocol.errors import LeaderNotAvailableError

TOPIC_ID = "a" * 32
OFFSETS_ID = "b" * 32
LIMIT_MS = 1_000
HANGING = ProducerIdentity(7, 3)


def known(granted, state=TransactionState.COMPLETE_COMMIT, ended=None):
    return TransactionalIdChanged("t", granted, 1_000, state, (), None, 1, ended)


def ended(identity, *, is_committed):
    return EndedTransaction(identity, is_committed, EndedBy.PRODUCER)


class World:
    """One log that this broker leads, one that it follows, and the coordinators."""

    def __init__(self):
        self.open = [SimpleNamespace(producer_id=7, producer_epoch=3, first_offset=10)]
        self.pending = []
        self.known = []
        self.asked = 0
        self.fails = False
        self.is_late = False
        self.markers = []
        self.looker = HangingTransactions(
            replicas=self, groups=self, known=self, markers=self, hanging_after_ms=LIMIT_MS
        )

    def pending_transactions(self):
        state = SimpleNamespace(topic_id=OFFSETS_ID, partition=5)
        for identity in self.pending:
            yield SimpleNamespace(state=state), identity

    def leaders(self):
        state = SimpleNamespace(topic_id=TOPIC_ID, partition=2)
        log = SimpleNamespace(open_transactions=lambda: tuple(self.open))
        yield SimpleNamespace(state=state, log=log)

    async def all_transactions(self):
        self.asked += 1
        if self.fails:
            raise LeaderNotAvailableError("not now")
        return self.known

    async def write_one(self, topic_id, partition, marker):
        if self.fails:
            raise LeaderNotAvailableError("not now")
        assert (topic_id, partition) in {(TOPIC_ID, 2), (OFFSETS_ID, 5)}
        assert marker.coordinator_epoch == NO_COORDINATOR_EPOCH
        self.markers.append((marker.producer_id, marker.producer_epoch, marker.is_commit))
        (self.open if topic_id == TOPIC_ID else self.pending).clear()
        return not self.is_late


@pytest.fixture
def world():
    return World()


async def test_what_nobody_will_end_is_aborted(world):
    await world.looker.look(0)
    await world.looker.look(LIMIT_MS - 1)
    assert (world.asked, world.markers) == (0, [])
    before = METRICS.hanging_transactions_ended.labels("aborted")._value.get()
    await world.looker.look(LIMIT_MS)
    assert world.markers == [(7, 4, False)]
    assert METRICS.hanging_transactions_ended.labels("aborted")._value.get() == before + 1
    await world.looker.look(2 * LIMIT_MS)
    assert len(world.markers) == 1


async def test_what_another_marker_has_ended_meanwhile_is_not_counted(world):
    world.is_late = True
    before = METRICS.hanging_transactions_ended.labels("aborted")._value.get()
    await world.looker.look(0)
    with capture_logs() as logged:
        await world.looker.look(LIMIT_MS)
    assert world.markers == [(7, 4, False)]
    assert METRICS.hanging_transactions_ended.labels("aborted")._value.get() == before
    assert [each["outcome"] for each in logged] == ["ended_already"]


async def test_a_decision_that_is_known_is_carried_out(world):
    granted = ProducerIdentity(7, 4)
    world.known = [known(granted, ended=ended(HANGING, is_committed=True))]
    await world.looker.look(0)
    await world.looker.look(LIMIT_MS)
    assert world.markers == [(7, 4, True)]


@pytest.mark.parametrize("is_committed", [True, False])
async def test_offsets_that_wait_for_a_marker_that_was_lost_are_ended_too(world, is_committed):
    world.open.clear()
    world.pending.append(HANGING)
    world.known = [known(ProducerIdentity(7, 4), ended=ended(HANGING, is_committed=is_committed))]
    await world.looker.look(0)
    await world.looker.look(LIMIT_MS - 1)
    assert world.markers == []
    await world.looker.look(LIMIT_MS)
    assert world.markers == [(7, 4, is_committed)]


async def test_offsets_of_a_transaction_that_may_go_on_are_left_alone(world):
    world.open.clear()
    world.pending.append(HANGING)
    world.known = [known(HANGING, TransactionState.ONGOING)]
    for now_ms in (0, LIMIT_MS, 2 * LIMIT_MS):
        await world.looker.look(now_ms)
    assert world.markers == []


async def test_another_transaction_has_a_time_of_its_own(world):
    await world.looker.look(0)
    world.open[0].producer_epoch = 4
    await world.looker.look(LIMIT_MS)
    assert world.asked == 0
    await world.looker.look(2 * LIMIT_MS)
    assert world.markers == [(7, 5, False)]


@pytest.mark.parametrize("fails_at", ["all_transactions", "write_one"])
async def test_what_fails_is_tried_again(world, fails_at, monkeypatch):
    await world.looker.look(0)
    world.fails = True
    if fails_at == "write_one":

        async def nothing():
            return []

        monkeypatch.setattr(world, "all_transactions", nothing)
    await world.looker.look(LIMIT_MS)
    assert world.markers == []
    world.fails = False
    await world.looker.look(LIMIT_MS + 1)
    assert world.markers == [(7, 4, False)]


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (None, False),
        # It may go on, in whatever state: nothing is between this look and the marker.
        (known(HANGING, TransactionState.ONGOING), None),
        (known(HANGING, TransactionState.EMPTY), None),
        # Its markers are being written.
        (
            known(
                ProducerIdentity(7, 4),
                TransactionState.PREPARE_COMMIT,
                ended(HANGING, is_committed=True),
            ),
            None,
        ),
        (known(ProducerIdentity(7, 4), ended=ended(HANGING, is_committed=False)), False),
        (known(ProducerIdentity(9, 0), ended=ended(HANGING, is_committed=True)), True),
        # Others have come since, and nobody knows how it ended.
        (
            known(ProducerIdentity(7, 9), ended=ended(ProducerIdentity(7, 8), is_committed=True)),
            False,
        ),
        (known(ProducerIdentity(7, 5), TransactionState.EMPTY), False),
    ],
)
def test_how_it_is_ended(found, expected):
    assert missing_end(HANGING, found) is expected


def test_who_has_another_producer_id_by_now_is_known_by_the_last_one_too():
    changed = known(ProducerIdentity(9, 0), ended=ended(HANGING, is_committed=True))
    other = known(ProducerIdentity(8, 0))
    assert by_producer_id([changed, other]) == {9: changed, 7: changed, 8: other}
