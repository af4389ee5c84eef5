"""The cluster's health as a function of the image and of what nodes report."""

from dataclasses import replace

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ottla_cluster.controller.commands import (
    AlterReassignments,
    Reassignment,
    ReportUnfitReplicas,
    UnfitReplica,
)
from ottla_cluster.controller.health import Knowledge, Page, assess
from ottla_cluster.controller.image import MetadataImage, Partition, Topic
from ottla_cluster.controller.node_reports import (
    LaggingReplicaReport,
    NodeReport,
    SilentNode,
    UnfitReplicaReport,
)
from ottla_cluster.controller.partition_conditions import (
    CONDITIONS,
    ConditionCensus,
    conditions_of,
)
from ottla_protocol.errors import InvalidRequestError
from tests.unit.controller.metadata_under_test import MetadataUnderTest


def knowledge(image, *, silent=(), unfit=None, lagging=None, **fields):
    """What broker 1 knows when every broker but the silent ones answers."""
    reports = [
        NodeReport(
            node_id,
            term=3,
            controller=1,
            metadata_version=image.version,
            unfit=(unfit or {}).get(node_id, []),
            lagging=(lagging or {}).get(node_id, []),
        )
        for node_id in image.brokers
        if node_id not in silent
    ]
    known = Knowledge(
        node_id=1,
        image=image,
        controller=1,
        term=3,
        is_current=True,
        age_ms=0,
        voters=(1, 2, 3),
        reports=reports,
        silent=[SilentNode(node_id, "no answer") for node_id in silent],
    )
    return replace(known, **fields)


def health(metadata, **arguments):
    return assess(knowledge(metadata.image, **arguments))


def codes(reasons):
    return [reason.code for reason in reasons]


@pytest.fixture
def metadata():
    """Three brokers, and the topic `orders` with one partition on all of them."""
    metadata = MetadataUnderTest()
    metadata.create()
    return metadata


class TestStatus:
    def test_a_cluster_with_everything_in_sync_is_healthy(self, metadata):
        told = health(metadata)
        assert (told.status, told.reasons, told.partitions) == ("healthy", [], [])
        assert (told.counts.partitions, told.counts.active_brokers) == (1, 3)
        assert told.metadata_is_current

    def test_a_cluster_without_topics_is_healthy(self):
        assert health(MetadataUnderTest()).status == "healthy"

    def test_one_fenced_broker_of_three_degrades(self, metadata):
        metadata.fence(2)
        told = health(metadata, silent=[2])
        assert told.status == "degraded"
        assert codes(told.reasons) == ["at_min_isr", "under_replicated", "broker_fenced"]
        assert told.reasons[-1].broker == 2

    def test_too_few_in_sync_for_acks_all_is_unavailable(self, metadata):
        metadata.set_isr([metadata.partition().leader])
        told = health(metadata)
        assert told.status == "unavailable"
        assert told.partitions[0].conditions == ["under_min_isr", "under_replicated"]
        assert (told.counts.under_min_isr, told.counts.at_min_isr) == (1, 0)

    def test_a_partition_without_a_leader_is_unavailable(self):
        metadata = MetadataUnderTest()
        leader = metadata.create(replication_factor=1).partitions[0].leader
        metadata.fence(leader)
        told = health(metadata, silent=[leader])
        assert told.status == "unavailable"
        (partition,) = told.partitions
        assert partition.conditions == ["offline"]
        assert partition.leader is None
        assert codes(partition.reasons) == ["broker_fenced"]
        assert "stopped or cut off" in partition.reasons[0].detail

    def test_a_broker_that_does_not_answer_degrades_before_it_is_fenced(self, metadata):
        told = health(metadata, silent=[3])
        assert told.status == "degraded"
        assert codes(told.reasons) == ["broker_silent"]
        assert "no answer" in told.reasons[0].detail
        assert [broker.answers for broker in told.brokers] == [True, True, False]

    def test_a_voter_that_is_no_broker_and_does_not_answer_degrades(self, metadata):
        silent = [SilentNode(9, "connection refused")]
        told = assess(replace(knowledge(metadata.image), voters=(1, 2, 9), silent=silent))
        assert codes(told.reasons) == ["voter_silent"]
        assert [(voter.id, voter.answers) for voter in told.voters] == [
            (1, True), (2, True), (9, False),
        ]  # fmt: skip

    def test_a_reassignment_alone_is_healthy_and_told(self):
        metadata = MetadataUnderTest(broker_count=4)
        metadata.create(replication_factor=2)
        replicas = metadata.partition().replicas
        added = next(node for node in (1, 2, 3, 4) if node not in replicas)
        metadata.apply(AlterReassignments((Reassignment("orders", 0, (replicas[0], added)),)))
        report = LaggingReplicaReport(metadata.partition().topic_id, 0, added, 700, 10, 900)
        told = health(metadata, lagging={metadata.partition().leader: [report]})
        assert told.status == "healthy"
        (partition,) = told.partitions
        assert partition.conditions == ["reassigning"]
        (reason,) = partition.reasons
        assert (reason.code, reason.broker) == ("reassignment_adds", added)
        assert reason.detail == f"reassignment adds {added}, which lacks 700 offsets"

    def test_a_drained_broker_may_be_gone(self):
        metadata = MetadataUnderTest(broker_count=4)
        metadata.create()
        spare = next(n for n in (1, 2, 3, 4) if n not in metadata.partition().replicas)
        metadata.fence(spare)
        assert health(metadata, silent=[spare]).status == "degraded"
        drained = replace(metadata.image, drains={spare: 5})
        others = tuple(n for n in (1, 2, 3, 4) if n != spare)
        told = assess(knowledge(drained, silent=[spare], voters=others))
        assert (told.status, told.reasons) == ("healthy", [])
        assert told.brokers[spare - 1].drain_partitions_left == 0
        assert codes(told.brokers[spare - 1].reasons) == ["broker_fenced"]
        member = metadata.partition().replicas[0]
        told = assess(knowledge(replace(metadata.image, drains={member: 5}), silent=[member]))
        assert told.brokers[member - 1].drain_partitions_left == 1
        assert "broker_silent" in codes(told.reasons)

    def test_a_drained_broker_that_votes_is_missed_all_the_same(self):
        metadata = MetadataUnderTest(broker_count=4)
        metadata.create()
        spare = next(n for n in (1, 2, 3, 4) if n not in metadata.partition().replicas)
        metadata.fence(spare)
        known = knowledge(replace(metadata.image, drains={spare: 5}), voters=(1, 2, 3, 4))
        # It runs on as a controller alone, and it answers.
        assert assess(known).status == "healthy"
        silent = [SilentNode(spare, "connection refused")]
        reports = [each for each in known.reports if each.node_id != spare]
        told = assess(replace(known, silent=silent, reports=reports))
        assert (told.status, codes(told.reasons)) == ("degraded", ["voter_silent"])
        assert told.reasons[0].broker == spare
        hung = NodeReport(spare, 3, 1, 1, not_ready=["the disk hangs"])
        told = assess(replace(known, reports=[*reports, hung]))
        assert (told.status, codes(told.reasons)) == ("degraded", ["voter_not_ready"])

    def test_one_replica_and_two_replicas_with_min_isr_two_are_healthy_when_complete(self):
        metadata = MetadataUnderTest()
        metadata.create("one", replication_factor=1)
        metadata.create("two", replication_factor=2)
        assert health(metadata).status == "healthy"


class TestNoController:
    def test_it_says_so_and_how_old_its_knowledge_is(self, metadata):
        told = health(metadata, controller=None, is_current=False, age_ms=4_200)
        assert told.status == "unavailable"
        assert codes(told.reasons) == ["no_controller"]
        assert "4200 ms ago" in told.reasons[0].detail
        assert (told.metadata_is_current, told.metadata_age_ms) == (False, 4_200)

    def test_a_broker_that_never_heard_of_one_says_that(self, metadata):
        told = health(metadata, controller=None, is_current=False, age_ms=None)
        assert "never" in told.reasons[0].detail

    def test_a_controller_that_does_not_confirm_is_named(self, metadata):
        told = health(metadata, controller=2, is_current=False, age_ms=10)
        assert codes(told.reasons) == ["controller_silent"]
        assert told.reasons[0].broker == 2


class TestReasons:
    def reasons(self, metadata, **arguments):
        (partition,) = health(metadata, **arguments).partitions
        return partition.reasons

    def follower(self, metadata):
        partition = metadata.partition()
        return next(node for node in partition.replicas if node != partition.leader)

    def without(self, metadata, node_id):
        metadata.set_isr([node for node in metadata.partition().isr if node != node_id])

    def test_a_fenced_broker_that_answers_is_told_from_one_that_is_gone(self, metadata):
        follower = self.follower(metadata)
        metadata.fence(follower)
        (gone,) = self.reasons(metadata, silent=[follower])
        (runs,) = self.reasons(metadata)
        assert gone.code == runs.code == "broker_fenced"
        assert "stopped" in gone.detail
        assert "it runs" in runs.detail

    def test_a_broker_that_says_that_it_cannot_serve(self, metadata):
        known = knowledge(metadata.image)
        hung = msgspec.structs.replace(known.reports[1], not_ready=["the disk hangs"])
        told = assess(replace(known, reports=[known.reports[0], hung, known.reports[2]]))
        assert (told.status, codes(told.reasons)) == ("degraded", ["broker_not_ready"])
        assert told.reasons[0].detail == "broker 2 is not ready: the disk hangs"
        metadata.fence(2)
        told = assess(replace(known, image=metadata.image, reports=[hung]))
        (reason,) = told.partitions[0].reasons
        assert reason.detail == "broker 2 is fenced: it runs, and says: the disk hangs"

    def test_a_controller_of_its_own_that_cannot_serve(self, metadata):
        report = NodeReport(9, 3, None, 1, not_ready=["no controller is elected"])
        told = assess(replace(knowledge(metadata.image), voters=(9,), reports=[report], silent=[]))
        assert codes(told.reasons) == ["voter_not_ready"]
        assert told.voters[0].answers

    def test_an_unclean_election_that_is_allowed_is_announced(self):
        metadata = MetadataUnderTest()
        leader = (
            metadata.create(replication_factor=1, unclean_leader_election_enable=True)
            .partitions[0]
            .leader
        )
        metadata.fence(leader)
        assert codes(self.reasons(metadata)) == ["broker_fenced", "unclean_election_due"]

    def test_a_replica_that_only_an_operator_elects_is_told(self):
        metadata = MetadataUnderTest(4)
        leader = (
            metadata.create(replication_factor=1, unclean_leader_election_enable=True)
            .partitions[0]
            .leader
        )
        added = next(n for n in (1, 2, 3, 4) if n != leader)
        metadata.apply(AlterReassignments((Reassignment("orders", 0, (added,)),)))
        metadata.fence(leader)
        reasons = self.reasons(metadata)
        assert codes(reasons) == [
            "broker_fenced",
            "unclean_election_by_name",
            "reassignment_adds",
        ]
        assert f"only {added} is there" in reasons[1].detail

    def test_a_full_disk(self, metadata):
        follower = self.follower(metadata)
        metadata.heartbeat(follower, is_full=True)
        assert follower not in metadata.partition().isr
        (reason,) = self.reasons(metadata)
        assert (reason.code, reason.detail) == ("disk_full", f"broker {follower}'s disk is full")

    def test_a_broker_that_shuts_down(self, metadata):
        follower = self.follower(metadata)
        metadata.heartbeat(follower, draining=True)
        (reason,) = self.reasons(metadata)
        assert reason.detail == f"broker {follower} is shutting down"

    @pytest.mark.parametrize(
        ("state", "words"), [("lost_end", "lost the end of its log"), ("damaged", "cannot be read")]
    )
    def test_a_replica_that_lost_records(self, metadata, state, words):
        follower = self.follower(metadata)
        self.without(metadata, follower)
        unfit = UnfitReplicaReport(metadata.partition().topic_id, 0, state)
        told = health(metadata, unfit={follower: [unfit]})
        (reason,) = told.partitions[0].reasons
        assert reason.code == f"replica_{state}"
        assert words in reason.detail
        assert told.counts.unfit_replicas == 1
        assert (told.unfit_replicas[0].topic, told.unfit_replicas[0].broker) == ("orders", follower)
        assert "unfit_replicas" in codes(told.reasons)

    def test_the_last_in_sync_that_lost_its_end_is_why_nobody_leads(self, metadata):
        leader = metadata.partition().leader
        metadata.set_isr([leader])
        topic_id = metadata.partition().topic_id
        metadata.apply(
            ReportUnfitReplicas(
                leader, metadata.epoch(leader), (UnfitReplica(topic_id, 0, lost_tail=True),)
            )
        )
        assert metadata.partition().leader is None
        unfit = {leader: [UnfitReplicaReport(topic_id, 0, "lost_end")]}
        reasons = self.reasons(metadata, unfit=unfit)
        assert (reasons[0].code, reasons[0].broker) == ("replica_lost_end", leader)

    def test_a_slow_follower_and_a_silent_one(self, metadata):
        follower = self.follower(metadata)
        self.without(metadata, follower)
        partition = metadata.partition()

        def told(*lag):
            report = LaggingReplicaReport(partition.topic_id, 0, follower, *lag)
            (reason,) = self.reasons(metadata, lagging={partition.leader: [report]})
            return reason

        assert told(12, 5, 31_000).code == "replica_lags"
        assert "lacks 12 offsets" in told(12, 5, 31_000).detail
        assert "31000 ms" in told(12, 5, 31_000).detail
        assert told(12, 40_000, 41_000).code == "replica_silent"
        assert "has not fetched for 40000 ms" in told(12, 40_000, 41_000).detail
        assert told(None, None, 1_000).code == "replica_silent"
        assert "has not fetched from this leader yet" in told(None, None, 1_000).detail

    def test_a_leader_that_does_not_tell_is_named(self, metadata):
        follower = self.follower(metadata)
        self.without(metadata, follower)
        leader = metadata.partition().leader
        (reason,) = self.reasons(metadata, silent=[leader])
        assert reason.code == "leader_silent"
        assert f"broker {leader}" in reason.detail
        (reason,) = self.reasons(metadata)
        assert reason.code == "replica_catching_up"

    def test_reports_of_topics_that_are_gone_are_left_out(self, metadata):
        told = health(metadata, unfit={2: [UnfitReplicaReport("gone", 0, "damaged")]})
        assert (told.unfit_replicas, told.status) == ([], "healthy")


# --- properties ---------------------------------------------------------------------------------

NODES = (1, 2, 3, 4)


@st.composite
def images(draw):
    """Any image that keeps the invariants of `Partition`, with brokers in any state."""
    metadata = MetadataUnderTest(broker_count=4)
    for node_id in NODES:
        if draw(st.booleans()):
            metadata.heartbeat(node_id, is_full=draw(st.booleans()))
        if draw(st.booleans()):
            metadata.fence(node_id)
    topics = {}
    for number in range(draw(st.integers(0, 3))):
        partitions = []
        for index in range(draw(st.integers(1, 4))):
            replicas = tuple(draw(st.permutations(NODES)))[: draw(st.integers(1, 4))]
            isr = tuple(node for node in replicas if draw(st.booleans())) or replicas[:1]
            leader = draw(st.sampled_from((None, *isr)))
            partitions.append(
                Partition(f"id-{number}", f"t{number}", index, replicas, isr, leader, 1, 1)
            )
        least = draw(st.integers(1, 4))
        topics[f"id-{number}"] = Topic(
            f"id-{number}", f"t{number}", {"min.insync.replicas": least}, tuple(partitions)
        )
    return replace(
        metadata.image,
        topics=topics,
        topic_ids={topic.name: topic.topic_id for topic in topics.values()},
    )


def pages(known, limit, condition=None):
    """Every page of the list, one after the other."""
    cursor = None
    while True:
        told = assess(known, Page(limit, condition, cursor))
        yield told
        cursor = told.next_cursor
        if cursor is None:
            return


@settings(max_examples=40, deadline=None)
@given(images(), st.integers(1, 5))
def test_pages_list_every_partition_with_a_condition_once_and_the_worst_first(image, limit):
    listed = [each for told in pages(knowledge(image), limit) for each in told.partitions]
    expected = {
        (topic.name, partition.partition)
        for topic, partition in image.all_partitions()
        if conditions_of(topic, partition)
    }
    named = [(each.topic, each.partition) for each in listed]
    assert len(named) == len(set(named))
    assert set(named) == expected
    worst = [CONDITIONS.index(each.conditions[0]) for each in listed]
    assert worst == sorted(worst)
    assert all(len(told.partitions) <= limit for told in pages(knowledge(image), limit))


@settings(max_examples=40, deadline=None)
@given(images())
def test_counts_lists_and_status_agree(image):
    told = assess(knowledge(image), Page(limit=1_000))
    for condition in CONDITIONS:
        count = getattr(told.counts, condition)
        assert count == sum(condition in each.conditions for each in told.partitions)
        only = assess(knowledge(image), Page(1_000, condition)).partitions
        assert len(only) == count
    refuses = told.counts.offline or told.counts.under_min_isr
    assert (told.status == "unavailable") == bool(refuses)
    assert (told.status == "healthy") == (not told.reasons)


@settings(max_examples=40, deadline=None)
@given(images())
def test_every_missing_replica_and_every_absent_leader_has_a_reason(image):
    for each in assess(knowledge(image), Page(limit=1_000)).partitions:
        about = {reason.broker for reason in each.reasons}
        assert set(each.replicas) - set(each.isr) <= about
        if each.leader is None:
            assert set(each.isr) <= about
        assert all(reason.code and reason.detail for reason in each.reasons)


@settings(max_examples=40, deadline=None)
@given(images(), images())
def test_a_census_of_one_image_after_another_counts_as_a_fresh_one(first, second):
    census = ConditionCensus()
    census.count(first)
    mixed = replace(second, topics={**first.topics, **second.topics})
    assert census.count(mixed) == ConditionCensus().count(mixed)
    assert census.count(second) == ConditionCensus().count(second)
    assert list(census.told(first)) == list(ConditionCensus().told(first))
    known = knowledge(second)
    assert assess(known, census=census) == assess(known)
    assert census.count(MetadataImage()).partitions == 0


def test_a_census_looks_only_at_topics_that_changed(monkeypatch, metadata):
    census = ConditionCensus()
    metadata.create("other", partitions=5)
    census.count(metadata.image)
    seen = []
    monkeypatch.setattr(
        "ottla_cluster.controller.partition_conditions.conditions_of",
        lambda topic, partition: seen.append((topic.name, partition.partition)) or [],
    )
    metadata.set_isr([metadata.partition().leader])
    census.count(metadata.image)
    assert seen == [("orders", 0)]


@pytest.mark.parametrize(
    "cursor", ["", "x", "offline", "offline:t", "offline:t:", "offline:t:-1", "worse:t:1", "::"]
)
def test_a_cursor_that_is_none_is_refused(metadata, cursor):
    with pytest.raises(InvalidRequestError, match="next_cursor"):
        assess(knowledge(metadata.image), Page(cursor=cursor))
