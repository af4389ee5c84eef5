"""How far a partition is trimmed, who decides, and what is asked for again."""

import asyncio
from types import SimpleNamespace

import msgspec
import pytest

from ottla_broker.drivers.peer_client import PeerUnavailableError
from ottla_broker.drivers.peer_messages import TrimCall
from ottla_broker.services import trims
from ottla_broker.services.trims import TrimService
from ottla_cluster.controller.commands import PartitionTrimmedResponse
from ottla_cluster.controller.features import TRIMS
from ottla_protocol.control_records import EndMarker
from ottla_protocol.errors import (
    ControllerNotAvailableError,
    FencedLeaderEpochError,
    InvalidRequestError,
    InvalidTopicError,
    LeaderNotAvailableError,
    NotLeaderOrFollowerError,
    OffsetNotAvailableError,
    OffsetOutOfRangeError,
    Outcome,
    PolicyViolationError,
    RequestTimedOutError,
    UnavailableError,
    UnknownTopicIdError,
    UnsupportedFeatureLevelError,
)
from ottla_protocol.models_trims import TrimmedPartition, TrimPartitionRequest
from ottla_protocol.record_batch import validate_batch
from ottla_protocol.record_codec import RecordData, encode_batch
from tests.unit.broker.test_partition import Hosted, soon
from tests.unit.broker.test_trimmed_partition import append_committed, lead

TOPIC_ID = "t" * 32
HERE, THERE = 1, 2


class Cluster:
    """Broker 1, which is asked, with a replica that it leads unless a test says otherwise."""

    def __init__(self, hosted):
        self.hosted = hosted
        self.feature_level = TRIMS.level
        self.leader = HERE
        self.name = "orders"
        self.topic_id = self.news = TOPIC_ID
        self.configs = {}
        self.commands = []
        self.calls = []
        self.refusals = []
        self.answers_of_peers = []
        self.applies = True
        self.versions_behind = 0

    @property
    def image(self):
        topic = SimpleNamespace(name=self.name, configs=self.configs, restore_id=None)
        return SimpleNamespace(
            version=7,
            feature_level=self.feature_level,
            topics={self.topic_id: topic},
            brokers={THERE: SimpleNamespace(url="http://two", broker_epoch=1)},
        )

    async def catch_up(self, *, outcome, patience_ms):
        if self.news is None:
            raise ControllerNotAvailableError("none", outcome=outcome)
        self.topic_id = self.news

    def replacement_of(self, *_):
        return asyncio.get_running_loop().create_future()

    async def wait_for_change(self, *, timeout_ms):
        await asyncio.sleep(0)
        self.versions_behind = max(0, self.versions_behind - 1)

    async def find_partition(self, topic, partition):
        return SimpleNamespace(
            topic_id=self.topic_id, topic=topic, partition=partition, leader=self.leader
        )

    def by_topic_id(self, _topic_id, _partition):
        return self.hosted.partition

    async def wait_applied(self, _version):
        if not self.applies:
            raise TimeoutError
        if self.versions_behind:
            return
        command = self.commands[-1]
        await lead(self.hosted, self.hosted.partition.state.leader_epoch, command.first_offset)

    async def change(self, command, *, repeatable):
        assert repeatable
        self.commands.append(command)
        if self.refusals:
            raise self.refusals.pop(0)
        return PartitionTrimmedResponse(command.topic_id, command.partition, command.first_offset)

    async def call(self, _url, _path, body, **_options):
        self.calls.append(msgspec.msgpack.decode(body, type=TrimCall))
        answer = self.answers_of_peers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
async def cluster(tmp_path):
    """Three batches of five records, at the times 0 to 14."""
    hosted = await Hosted().open(tmp_path)
    await lead(hosted, 0)
    await append_committed(hosted, 3)
    yield Cluster(hosted)
    await hosted.partition.close()


@pytest.fixture
def service(cluster):
    return TrimService(
        node_id=HERE,
        metadata=cluster,
        topics=cluster,
        replicas=cluster,
        commands=cluster,
        peers=cluster,
        purgatory=None,
    )


async def trim(service, **wanted):
    return await service.trim("orders", 0, TrimPartitionRequest(**wanted))


@pytest.mark.parametrize(
    ("wanted", "first_offset"),
    [
        ({"before_offset": 7}, 7),
        ({"before_offset": 15}, 15),
        ({"before_timestamp": 8}, 8),
        ({"before_timestamp": 99}, 15),
        ({"before_end": True}, 15),
    ],
)
async def test_a_partition_begins_where_it_is_asked_to(service, cluster, wanted, first_offset):
    told = await trim(service, **wanted, dry_run=True)
    assert (told.log_start_offset, told.records, told.dry_run) == (first_offset, first_offset, True)
    assert told.segments == (first_offset == 15)
    assert cluster.commands == []
    assert cluster.hosted.partition.log.log_start_offset == 0
    done = await trim(service, **wanted)
    assert (done.former_log_start_offset, done.log_start_offset) == (0, first_offset)
    assert (done.records, done.segments, done.size_bytes) == (
        told.records,
        told.segments,
        told.size_bytes,
    )
    assert cluster.hosted.partition.log.log_start_offset == first_offset


async def test_what_is_done_already_asks_nobody(service, cluster):
    await trim(service, before_offset=7)
    again = await trim(service, before_offset=7)
    assert (again.former_log_start_offset, again.log_start_offset, again.records) == (7, 7, 0)
    assert (await trim(service, before_offset=2)).log_start_offset == 7
    assert len(cluster.commands) == 1


async def test_what_retention_let_go_is_written_down_when_somebody_trims_it(service, cluster):
    cluster.hosted.partition.log.cleanup.advance_log_start(10)
    done = await trim(service, before_offset=7)
    assert (done.former_log_start_offset, done.log_start_offset, done.records) == (10, 10, 0)
    assert [command.first_offset for command in cluster.commands] == [7]


async def test_metadata_that_comes_after_the_decision_is_waited_for(service, cluster):
    cluster.versions_behind = 3
    await trim(service, before_offset=7)
    assert cluster.hosted.partition.log.log_start_offset == 7


async def test_nothing_goes_above_the_high_watermark(service):
    with pytest.raises(OffsetOutOfRangeError) as refused:
        await trim(service, before_offset=16)
    assert refused.value.members["high_watermark"] == 15
    assert refused.value.outcome is Outcome.NOT_APPLIED


async def test_a_transaction_that_is_not_over_stays_whole(service, cluster):
    producer = {"producer_id": 4, "producer_epoch": 0, "base_sequence": 0}
    batch = encode_batch([RecordData(50, None, b"v")], **producer, is_transactional=True)
    partition = cluster.hosted.partition
    appended = partition.append(
        batch, validate_batch(batch, on_append=True), acks_all=True, now_ms=1, idempotency=None
    )
    await partition.log.wait_durable(16)
    cluster.hosted.follower_has(16)
    await partition.committed(appended, deadline_ms=soon())
    assert (await trim(service, before_end=True, dry_run=True)).log_start_offset == 15
    assert (await trim(service, before_timestamp=99, dry_run=True)).log_start_offset == 15
    with pytest.raises(OffsetNotAvailableError) as refused:
        await trim(service, before_offset=16)
    assert refused.value.retriable
    marker = partition.append_marker(
        EndMarker(is_commit=False, coordinator_epoch=0), producer_id=4, producer_epoch=1, now_ms=1
    )
    await partition.log.wait_durable(17)
    cluster.hosted.follower_has(17)
    await partition.committed(marker, deadline_ms=soon())
    assert (await trim(service, before_offset=16)).log_start_offset == 16


@pytest.mark.parametrize(
    ("wanted", "field"),
    [
        ({}, "before_offset"),
        ({"before_offset": 1, "before_end": True}, "before_end"),
        ({"before_offset": 1, "before_timestamp": 1}, "before_timestamp"),
    ],
)
async def test_one_end_is_named(service, wanted, field):
    with pytest.raises(InvalidRequestError, match="before_offset, before_timestamp") as caught:
        await trim(service, **wanted)
    assert caught.value.outcome is Outcome.NOT_APPLIED
    assert caught.value.members["field"] == field
    for name in wanted:
        assert name in caught.value.detail.partition("; this names ")[2]


async def test_topics_that_are_not_trimmed_are_refused_before_anybody_is_asked(service, cluster):
    cluster.configs = {"cleanup.policy": "compact"}
    with pytest.raises(PolicyViolationError):
        await trim(service, before_end=True)
    cluster.configs, cluster.name = {}, "__consumer_offsets"
    with pytest.raises(InvalidTopicError):
        await trim(service, before_end=True)
    cluster.name, cluster.feature_level = "orders", TRIMS.level - 1
    with pytest.raises(UnsupportedFeatureLevelError):
        await trim(service, before_end=True)
    assert cluster.commands == []


async def test_another_leader_epoch_is_looked_at_again(service, cluster):
    cluster.refusals = [FencedLeaderEpochError("it is in leader epoch 1")]
    assert (await trim(service, before_offset=7)).log_start_offset == 7
    assert len(cluster.commands) == 2


async def test_a_leader_elsewhere_is_asked_until_it_answers(service, cluster):
    cluster.leader = THERE
    answer = TrimmedPartition("orders", 0, 0, 7, 7, 0, 0, dry_run=False)
    cluster.answers_of_peers = [
        PeerUnavailableError("gone", refused=True, outcome=Outcome.NOT_APPLIED),
        NotLeaderOrFollowerError("not yet"),
        answer,
    ]
    assert await trim(service, before_offset=7) == answer


@pytest.mark.parametrize(
    ("wanted", "question"),
    [
        ({"before_end": True}, TrimCall(TOPIC_ID, 0, None, None, dry_run=True)),
        ({"before_timestamp": 99}, TrimCall(TOPIC_ID, 0, None, 99, dry_run=True)),
    ],
)
async def test_what_moves_on_is_an_offset_before_anything_is_trimmed(
    service, cluster, wanted, question
):
    cluster.leader = THERE
    silent = PeerUnavailableError("no answer", refused=False, outcome=Outcome.UNKNOWN)
    answer = TrimmedPartition("orders", 0, 0, 7, 7, 0, 0, dry_run=False)
    cluster.answers_of_peers = [
        silent,
        TrimmedPartition("orders", 0, 0, 7, 7, 0, 0, dry_run=True),
        silent,
        answer,
    ]
    assert await trim(service, **wanted) == answer
    trimming = TrimCall(TOPIC_ID, 0, 7, None, dry_run=False)
    assert cluster.calls == [question, question, trimming, trimming]


async def test_here_too_all_attempts_name_one_offset(service, cluster):
    async def refuse_once_more_has_come(command, *, repeatable):
        cluster.commands.append(command)
        if len(cluster.commands) == 1:
            await append_committed(cluster.hosted, 1)
            raise FencedLeaderEpochError("it moved", outcome=Outcome.UNKNOWN)
        return PartitionTrimmedResponse(command.topic_id, command.partition, command.first_offset)

    cluster.change = refuse_once_more_has_come
    assert (await trim(service, before_end=True)).log_start_offset == 15
    assert [command.first_offset for command in cluster.commands] == [15, 15]


async def test_what_has_the_name_when_it_is_asked_for_is_meant(service, cluster):
    cluster.topic_id = "o" * 32
    await trim(service, before_offset=7)
    assert [command.topic_id for command in cluster.commands] == [TOPIC_ID]
    cluster.news = None
    with pytest.raises(ControllerNotAvailableError) as refused:
        await trim(service, before_offset=8)
    assert refused.value.outcome is Outcome.NOT_APPLIED
    assert (await trim(service, before_offset=8, dry_run=True)).log_start_offset == 8
    assert len(cluster.commands) == 1


@pytest.mark.parametrize("wanted", [{"before_end": True}, {"before_offset": 7}])
@pytest.mark.parametrize("outcome", [Outcome.NOT_APPLIED, Outcome.UNKNOWN])
async def test_another_topic_that_has_got_the_name_stays_whole(service, cluster, wanted, outcome):
    cluster.leader = THERE
    if "before_end" in wanted:
        cluster.answers_of_peers = [TrimmedPartition("orders", 0, 0, 7, 7, 0, 0, dry_run=True)]

    async def replaced(*_, **__):
        cluster.topic_id, cluster.leader = "n" * 32, HERE

    cluster.answers_of_peers.append(PeerUnavailableError("gone", refused=False, outcome=outcome))
    cluster.wait_for_change = replaced
    with pytest.raises(UnknownTopicIdError) as refused:
        await trim(service, **wanted)
    assert refused.value.outcome is outcome
    assert cluster.commands == []


@pytest.mark.parametrize(
    "error",
    [
        PeerUnavailableError("no answer", refused=False, outcome=Outcome.UNKNOWN),
        RequestTimedOutError("too late", outcome=Outcome.UNKNOWN),
    ],
)
async def test_a_question_without_an_answer_trimmed_nothing(service, cluster, monkeypatch, error):
    monkeypatch.setattr(trims, "LEADER_WAIT_MS", 0)
    cluster.leader = THERE
    cluster.answers_of_peers = [error]
    with pytest.raises(UnavailableError) as refused:
        await trim(service, before_end=True)
    assert refused.value.outcome is Outcome.NOT_APPLIED


async def test_without_a_leader_in_time_it_says_whether_it_may_be_done(
    service, cluster, monkeypatch
):
    monkeypatch.setattr(trims, "LEADER_WAIT_MS", 0)
    cluster.leader = None
    with pytest.raises(LeaderNotAvailableError) as refused:
        await trim(service, before_offset=7)
    assert refused.value.outcome is Outcome.NOT_APPLIED
    cluster.leader = THERE
    silent = PeerUnavailableError("no answer", refused=False, outcome=Outcome.UNKNOWN)
    cluster.answers_of_peers = [silent]
    with pytest.raises(LeaderNotAvailableError) as refused:
        await trim(service, before_offset=7)
    assert refused.value.outcome is Outcome.UNKNOWN
    monkeypatch.setattr(trims, "LEADER_WAIT_MS", 5_000)
    cluster.answers_of_peers = [silent, OffsetOutOfRangeError("it is above the end")]
    with pytest.raises(OffsetOutOfRangeError) as refused:
        await trim(service, before_offset=7)
    assert refused.value.outcome is Outcome.UNKNOWN


async def test_a_leader_that_does_not_keep_to_it_yet_does_not_say_done(service, cluster):
    cluster.applies = False
    with pytest.raises(RequestTimedOutError) as refused:
        await service.trim_here(TrimCall(TOPIC_ID, 0, 7, None, dry_run=False))
    assert refused.value.outcome is Outcome.UNKNOWN
