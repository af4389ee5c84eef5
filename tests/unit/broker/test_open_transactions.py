"""What is open in logs, and what of it hangs: no coordinator has it, or is going to end it."""

from types import SimpleNamespace

import pytest

from ottla_broker.drivers.peer_messages import (
    OpenInLog,
    OpenTransactionLookup,
    OpenTransactionsOfLog,
    PartitionName,
    TransactionMarker,
)
from ottla_broker.services.open_transactions import NO_COORDINATOR_EPOCH, OpenTransactionService
from ottla_cluster.transactions.config import TransactionConfig
from ottla_cluster.transactions.records import (
    EndedBy,
    EndedTransaction,
    ProducerIdentity,
    TransactionalIdChanged,
    TransactionPartition,
    TransactionState,
)
from ottla_protocol.errors import (
    InvalidTransactionStateError,
    LeaderNotAvailableError,
    NotLeaderOrFollowerError,
)
from ottla_protocol.models_transactions import AbortHangingRequest
from ottla_protocol.models_transactions import TransactionPartition as NamedPartition

NOW_MS = 10**9
TOPIC_ID = "a" * 32
HERE, THERE, NOWHERE = 0, 1, 2
"""Partitions: led by this broker, by another one, and by nobody."""


class Cluster:
    """Broker 1, that is asked, and broker 2; what is open in their logs, and what is known."""

    def __init__(self):
        self.open = {HERE: [], THERE: []}
        self.known = []
        self.is_late = False
        self.markers = []
        self.peer_answers = True
        partitions = [SimpleNamespace(leader=leader, topic_id=TOPIC_ID) for leader in (1, 2, None)]
        self.topic = SimpleNamespace(topic_id=TOPIC_ID, name="orders", partitions=partitions)
        image = SimpleNamespace(
            topics={TOPIC_ID: self.topic},
            brokers={2: SimpleNamespace(url="http://two", broker_epoch=1)},
        )
        self.metadata = SimpleNamespace(
            image=image, replacement_of=lambda *_: SimpleNamespace(add_done_callback=lambda _: None)
        )

    async def find(self, _name):
        return self.topic

    async def find_partition(self, _name, number):
        return self.topic.partitions[number]

    def by_topic_id(self, _topic_id, number):
        if number != HERE:
            raise NotLeaderOrFollowerError("not here")
        return SimpleNamespace(
            latest_offset=lambda: 50,
            last_stable_offset=10,
            log=SimpleNamespace(open_transactions=lambda: tuple(self.open[HERE])),
        )

    async def all_transactions(self):
        return self.known

    async def write_one(self, topic_id, partition, marker):
        self.markers.append((topic_id, partition, marker))
        return not self.is_late


class Service(OpenTransactionService):
    """Asks the other broker without a network."""

    def __init__(self, cluster):
        super().__init__(
            node_id=1,
            metadata=cluster.metadata,
            topics=cluster,
            replicas=cluster,
            peers=None,
            known=cluster,
            markers=cluster,
            config=TransactionConfig(),
        )
        self._cluster = cluster

    async def _ask(self, leader, lookup):
        if leader == 1:
            return self.look_up_here(lookup)
        if not self._cluster.peer_answers:
            return []
        found = [
            each
            for each in self._cluster.open[THERE]
            if each.last_timestamp <= lookup.last_timestamp_max
        ]
        return [OpenTransactionsOfLog(TOPIC_ID, THERE, 7, 60, found)]


def transaction(producer_id, epoch, state, *partitions, ended=None):
    return TransactionalIdChanged(
        f"of-{producer_id}",
        ProducerIdentity(producer_id, epoch),
        60_000,
        state,
        tuple(TransactionPartition("orders", TOPIC_ID, number) for number in partitions),
        NOW_MS,
        NOW_MS,
        ended,
    )


@pytest.fixture
def cluster():
    return Cluster()


@pytest.fixture
def service(cluster):
    return Service(cluster)


async def hanging(service, idle_ms=100):
    return await service.hanging(None, idle_ms=idle_ms, now_ms=NOW_MS)


def told(answer):
    return [(each.partition, each.producer_id, each.transactional_id) for each in answer]


async def test_a_partition_tells_what_is_open_at_its_leader(cluster, service):
    cluster.open[HERE] = [OpenInLog(7, 3, 10, NOW_MS - 500), OpenInLog(8, 0, 12, NOW_MS + 5)]
    found = await service.describe("orders", HERE, now_ms=NOW_MS)
    assert (found.leader, found.last_stable_offset, found.high_watermark) == (1, 10, 50)
    assert [(each.producer_id, each.first_offset, each.idle_ms) for each in found.transactions] == [
        (7, 10, 500),
        (8, 12, 0),
    ]
    assert (await service.describe("orders", THERE, now_ms=NOW_MS)).leader == 2
    with pytest.raises(LeaderNotAvailableError):
        await service.describe("orders", NOWHERE, now_ms=NOW_MS)


async def test_what_no_coordinator_has_hangs(cluster, service):
    cluster.open[HERE] = [OpenInLog(7, 3, 10, NOW_MS - 500), OpenInLog(8, 3, 10, NOW_MS - 500)]
    cluster.open[THERE] = [OpenInLog(7, 3, 10, NOW_MS - 500)]
    cluster.known = [transaction(7, 3, TransactionState.ONGOING, HERE)]
    answer = await hanging(service)
    assert told(answer.transactions) == [(HERE, 8, None), (THERE, 7, "of-7")]
    assert answer.unavailable == [NamedPartition("orders", NOWHERE)]


async def test_markers_that_are_on_their_way_are_waited_for(cluster, service):
    cluster.open[HERE] = [OpenInLog(7, 3, 10, NOW_MS - 500)]
    ended = EndedTransaction(ProducerIdentity(7, 3), True, EndedBy.PRODUCER)
    cluster.known = [transaction(7, 4, TransactionState.PREPARE_COMMIT, HERE, ended=ended)]
    assert told((await hanging(service)).transactions) == []
    # Complete, and the log has no marker: nobody will write one any more.
    cluster.known = [transaction(7, 4, TransactionState.COMPLETE_COMMIT, ended=ended)]
    assert told((await hanging(service)).transactions) == [(HERE, 7, "of-7")]


async def test_the_transaction_of_another_epoch_does_not_count(cluster, service):
    cluster.open[HERE] = [OpenInLog(7, 3, 10, NOW_MS - 500)]
    cluster.known = [transaction(7, 4, TransactionState.ONGOING, HERE)]
    assert told((await hanging(service)).transactions) == [(HERE, 7, "of-7")]


async def test_whoever_has_just_written_is_left_alone(cluster, service):
    cluster.open[HERE] = [OpenInLog(7, 3, 10, NOW_MS - 99), OpenInLog(8, 3, 10, NOW_MS - 100)]
    assert told((await hanging(service)).transactions) == [(HERE, 8, None)]


async def test_a_leader_that_does_not_tell_is_named(cluster, service):
    cluster.peer_answers = False
    answer = await hanging(service)
    assert answer.unavailable == [
        NamedPartition("orders", THERE),
        NamedPartition("orders", NOWHERE),
    ]


async def test_by_default_nothing_hangs_that_may_still_be_open(service):
    assert service.hanging_after_ms > TransactionConfig().max_timeout_ms


async def abort(service, epoch=3):
    return await service.abort("orders", HERE, 7, AbortHangingRequest(epoch))


async def test_a_marker_carries_one_epoch_more_than_the_records(cluster, service):
    cluster.open[HERE] = [OpenInLog(7, 3, 10, NOW_MS)]
    assert (await abort(service)).aborted
    assert cluster.markers == [
        (TOPIC_ID, HERE, TransactionMarker(7, 4, False, NO_COORDINATOR_EPOCH))
    ]


async def test_nothing_is_written_where_nothing_of_that_epoch_is_open(cluster, service):
    cluster.open[HERE] = [OpenInLog(7, 3, 10, NOW_MS), OpenInLog(8, 2, 10, NOW_MS)]
    assert not (await abort(service, epoch=2)).aborted
    assert cluster.markers == []


async def test_what_another_marker_ended_meanwhile_is_not_called_aborted(cluster, service):
    cluster.open[HERE] = [OpenInLog(7, 3, 10, NOW_MS)]
    cluster.is_late = True
    assert not (await abort(service)).aborted
    assert len(cluster.markers) == 1


async def test_what_a_coordinator_has_is_its_own_to_end(cluster, service):
    cluster.open[HERE] = [OpenInLog(7, 3, 10, NOW_MS)]
    cluster.known = [transaction(7, 3, TransactionState.ONGOING, HERE)]
    with pytest.raises(InvalidTransactionStateError, match="transactional id"):
        await abort(service)
    assert cluster.markers == []


def test_partitions_that_are_led_elsewhere_are_left_out(service):
    names = [PartitionName(TOPIC_ID, number) for number in (HERE, THERE)]
    answer = service.look_up_here(OpenTransactionLookup(names, NOW_MS))
    assert [each.partition for each in answer] == [HERE]
