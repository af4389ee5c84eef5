"""Offsets of transactions: pending until the marker comes, and then committed or gone."""

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ottla_cluster.controller.features import TRANSACTIONS
from ottla_cluster.groups import offset_handlers, transaction_handlers
from ottla_cluster.groups.active_coordinator import ActiveCoordinator
from ottla_cluster.groups.census import Census
from ottla_cluster.groups.cluster_view import ClusterView
from ottla_cluster.groups.commands import (
    CommitOffsets,
    CommitTransactionOffsets,
    DeleteGroup,
    DescribeGroup,
    EndTransactionOffsets,
    ExpireOffsets,
    FetchOffsets,
    ForgetProducers,
    OffsetToCommit,
    OffsetToSeek,
    OwnedTopic,
    SeekOffsets,
)
from ottla_cluster.groups.image import GroupsImage, replay
from ottla_cluster.groups.limits import (
    ENDED_PRODUCER_MEMORY_MS,
    MAX_DECISION_BYTES,
    MAX_OFFSETS_PER_COMMIT,
    MAX_OFFSETS_PER_GROUP,
    MAX_PENDING_OFFSETS_PER_GROUP,
    MAX_PENDING_OFFSETS_PER_PRODUCER,
)
from ottla_cluster.groups.records import OffsetCommitted, encode_record, encode_records
from ottla_cluster.groups.transaction_handlers import is_in_transaction
from ottla_protocol.errors import (
    ConcurrentTransactionsError,
    CoordinatorLoadInProgressError,
    FencedMemberEpochError,
    InvalidRequestError,
    NonEmptyGroupError,
    OverloadedError,
    TransactionAbortableError,
    UnknownMemberIdError,
    UnknownTopicOrPartitionError,
    UnstableOffsetCommitError,
    UnsupportedFeatureLevelError,
)
from tests.unit.groups.groups_under_test import GroupsUnderTest

PRODUCER = 7


class Transactions(GroupsUnderTest):
    """Groups, and the calls of producers on them."""

    def pend(self, offset, *, epoch=0, group="g", partition=0, topic="orders", producer=PRODUCER,
             member_id=None, generation=None):  # fmt: skip
        entries = (OffsetToCommit(topic, partition, offset),)
        return self.apply(
            CommitTransactionOffsets(group, "t", producer, epoch, entries, member_id, generation)
        )

    def end(self, epoch=0, *, is_commit=True, producer=PRODUCER):
        """The marker of the transaction of that epoch."""
        return self.apply(
            EndTransactionOffsets(producer, epoch + 1, is_commit=is_commit, coordinator_epoch=0)
        )

    def stable(self, partition=0, topic="orders", group="g"):
        wanted = (OwnedTopic(topic, (partition,)),)
        (found,) = self.apply(FetchOffsets(group, wanted, require_stable=True)).offsets
        return found.offset

    def stable_is_refused(self):
        with pytest.raises(UnstableOffsetCommitError):
            self.stable()
        return True


def test_offsets_are_committed_with_the_transaction():
    groups = Transactions()
    groups.pend(5)
    assert groups.committed(0) is None
    groups.end()
    assert groups.committed(0) == 5
    assert groups.stable() == 5
    assert not groups.image.pending_groups


def test_a_marker_tells_whether_it_ended_anything():
    groups = Transactions()
    groups.pend(5)
    assert groups.end().has_changed
    assert not groups.end().has_changed, "it comes again"
    assert not groups.end(1).has_changed, "nothing is pending"
    groups.pend(6, epoch=2)
    assert not groups.end(1).has_changed, "it comes late"


def test_offsets_vanish_with_the_transaction_and_so_does_the_group_that_they_made():
    groups = Transactions()
    groups.pend(5)
    groups.end(is_commit=False)
    assert "g" not in groups.image.groups
    groups.commit(0, 3)
    groups.pend(5, epoch=1)
    groups.end(1, is_commit=False)
    assert groups.committed(0) == 3


def test_within_a_transaction_offsets_go_forward_and_the_others_stay():
    groups = Transactions()
    groups.pend(5)
    groups.pend(2, partition=1)
    groups.pend(9)
    groups.pend(5)  # Comes late.
    groups.end()
    assert (groups.committed(0), groups.committed(1)) == (9, 2)


@pytest.mark.parametrize("is_commit", [True, False])
def test_an_offset_that_was_committed_later_stays(is_commit):
    groups = Transactions()
    groups.pend(9)
    groups.pend(2, partition=1)
    groups.commit(0, 3)
    assert groups.stable() == 3, "no transaction changes it any more"
    groups.apply(SeekOffsets("g", (OffsetToSeek("orders", 0, 4),)))
    (pending,) = groups.apply(DescribeGroup("g")).pending
    assert [each.partition for each in pending.offsets] == [1]
    groups.pend(9)  # Sent again, and late.
    assert groups.last_records == ()
    groups.end(is_commit=is_commit)
    assert groups.committed(0) == 4
    assert groups.committed(1) == (2 if is_commit else None)


def test_an_offset_of_the_transaction_that_comes_after_a_commit_counts():
    groups = Transactions()
    groups.pend(5)
    groups.commit(0, 20)
    groups.pend(6)
    assert groups.stable_is_refused()
    groups.end()
    assert groups.committed(0) == 6


def test_an_acknowledgement_that_does_not_go_forward_overtakes_nothing():
    groups = Transactions()
    groups.commit(0, 7)
    groups.pend(9)
    behind = CommitOffsets("g", (OffsetToCommit("orders", 0, 5),), only_forward=True)
    groups.apply(behind)
    assert groups.stable_is_refused()
    groups.end()
    assert groups.committed(0) == 9


def test_a_group_whose_offsets_are_all_gone_is_forgotten_with_the_transaction():
    groups = Transactions(topics={"orders": 3, "clicks": 1})
    groups.pend(5, topic="clicks")
    groups.commit(0, 6, topic="clicks")
    groups.set_topics(orders=3)
    groups.apply(ExpireOffsets("g"))
    groups.end()
    assert "g" not in groups.image.groups


def test_what_is_sent_again_changes_nothing():
    groups = Transactions()
    groups.pend(5)
    groups.pend(5)
    assert groups.last_records == ()
    groups.end()
    groups.end()
    assert groups.last_records == ()
    groups.end(is_commit=False)
    assert groups.committed(0) == 5


def test_a_transaction_ends_in_all_groups_at_once():
    groups = Transactions()
    for group in ("g", "h"):
        groups.pend(5, group=group)
    assert Census().count(groups.image).pending_transactions == 1
    groups.end()
    assert Census().count(groups.image).pending_transactions == 0
    assert {record.group for record in groups.last_records if hasattr(record, "group")} == {
        "g",
        "h",
    }
    assert groups.image.pending_groups == {}


def test_transactions_of_two_producers_do_not_touch_one_another():
    groups = Transactions()
    groups.pend(5)
    groups.pend(9, producer=8, partition=1)
    groups.end(is_commit=False)
    assert groups.group().pending.keys() == {8}
    groups.end(producer=8)
    assert (groups.committed(0), groups.committed(1)) == (None, 9)


# --- late ones ------------------------------------------------------------------------------


@pytest.mark.parametrize("is_commit", [True, False])
def test_a_late_commit_is_refused_also_where_nothing_was_pending(is_commit):
    groups = Transactions()
    groups.end(4, is_commit=is_commit)
    with pytest.raises(TransactionAbortableError, match="too late"):
        groups.pend(5, epoch=4)
    groups.pend(5, epoch=5)


def test_a_late_marker_does_not_end_the_next_transaction():
    groups = Transactions()
    groups.pend(5, epoch=0)
    groups.end(0)
    groups.pend(7, epoch=1)
    groups.end(0, is_commit=False)
    groups.apply(ForgetProducers(((PRODUCER, 1),)))
    groups.end(0, is_commit=True)
    assert groups.stable_is_refused()
    groups.end(1)
    assert groups.committed(0) == 7


def test_a_transaction_waits_for_the_end_of_the_one_before():
    groups = Transactions()
    groups.pend(5, epoch=3)
    with pytest.raises(ConcurrentTransactionsError):
        groups.pend(6, epoch=4)
    with pytest.raises(TransactionAbortableError):
        groups.pend(6, epoch=2, group="h")


def test_who_has_something_pending_is_in_the_transaction():
    groups = Transactions()
    assert not is_in_transaction(groups.image, PRODUCER, 3)
    coordinator = ActiveCoordinator(groups.image, groups.config, groups.random, 0)
    command = CommitTransactionOffsets("g", "t", PRODUCER, 3, (OffsetToCommit("orders", 0, 5),))
    assert not coordinator.is_in_transaction(command, 0, groups.view)
    with pytest.raises(UnknownTopicOrPartitionError):
        coordinator.is_in_transaction(command, 0, ClusterView(9, {}, TRANSACTIONS.level))
    groups.pend(5, epoch=3, group="h")
    assert is_in_transaction(groups.image, PRODUCER, 3)
    assert not is_in_transaction(groups.image, PRODUCER, 4)
    groups.end(3)
    assert not is_in_transaction(groups.image, PRODUCER, 3)


# --- who may --------------------------------------------------------------------------------


def test_members_commit_what_they_hold_in_their_generation():
    groups = Transactions()
    groups.join("a")
    generation = groups.group().currents["a"].generation
    groups.pend(5, member_id="a", generation=generation)
    with pytest.raises(NonEmptyGroupError, match="member_id and generation are missing"):
        groups.pend(6)
    with pytest.raises(UnknownMemberIdError):
        groups.pend(6, member_id="b", generation=generation)
    with pytest.raises(FencedMemberEpochError):
        groups.pend(6, member_id="a", generation=generation - 1)
    with pytest.raises(InvalidRequestError, match="together"):
        groups.pend(6, member_id="a")
    with pytest.raises(UnknownTopicOrPartitionError):
        groups.pend(6, group="h", partition=99)
    # The member goes; what it has committed in the transaction still counts.
    groups.leave("a")
    groups.end()
    assert groups.committed(0) == 5


def test_nothing_is_pending_below_the_feature_level():
    groups = Transactions()
    groups.view = replace(groups.view, feature_level=TRANSACTIONS.level - 1)
    with pytest.raises(UnsupportedFeatureLevelError):
        groups.pend(5)


# --- what waits for the end -----------------------------------------------------------------


def test_stable_offsets_are_told_only_where_nothing_is_pending():
    groups = Transactions(topics={"orders": 3, "clicks": 1})
    groups.commit(1, 3)
    groups.pend(5)
    assert groups.stable_is_refused()
    assert groups.stable(partition=1) == 3
    assert groups.stable(topic="unknown") is None
    with pytest.raises(UnstableOffsetCommitError):
        groups.apply(FetchOffsets("g", require_stable=True))
    assert len(groups.apply(FetchOffsets("g")).offsets) == 1
    groups.end()
    assert len(groups.apply(FetchOffsets("g", require_stable=True)).offsets) == 2


def test_a_deleted_topics_pending_offsets_keep_nobody_waiting():
    groups = Transactions(topics={"orders": 3, "clicks": 1})
    groups.pend(5, topic="clicks")
    older = groups.view
    groups.set_topics(orders=3)
    assert groups.apply(FetchOffsets("g", require_stable=True)).offsets == ()
    groups.end()
    groups.apply(ExpireOffsets("g"))
    assert not groups.group().offsets
    groups.set_topics(orders=3, clicks=2)
    groups.pend(5, topic="clicks", epoch=1)
    groups.view = older
    with pytest.raises(CoordinatorLoadInProgressError):
        groups.apply(FetchOffsets("g", require_stable=True))


def test_a_group_with_pending_offsets_is_neither_deleted_nor_sought_nor_expired():
    groups = Transactions(offsets_retention_ms=1_000)
    groups.commit(1, 3)
    groups.pend(5)
    with pytest.raises(UnstableOffsetCommitError, match="in 1 transaction still open"):
        groups.apply(DeleteGroup("g"))
    with pytest.raises(UnstableOffsetCommitError):
        groups.apply(SeekOffsets("g", (OffsetToSeek("orders", 0, 1),), dry_run=True))
    groups.apply(SeekOffsets("g", (OffsetToSeek("orders", 1, 1),)))
    groups.timestamp_ms += 10_000
    groups.apply(ExpireOffsets("g", retention_is_over=True))
    assert groups.committed(1) == 1
    groups.end()
    groups.apply(ExpireOffsets("g", retention_is_over=True))
    assert groups.committed(0) == 5, "a commit is as old as its marker"
    groups.apply(DeleteGroup("g"))
    assert groups.image.groups == {}


def test_a_description_tells_what_is_pending():
    groups = Transactions(topics={"orders": 3, "clicks": 1})
    groups.pend(5, partition=1)
    groups.pend(6, topic="clicks")
    groups.pend(1, producer=3, epoch=2)
    pending = groups.apply(DescribeGroup("g")).pending
    assert [(each.producer_id, each.producer_epoch) for each in pending] == [(3, 2), (7, 0)]
    assert [(each.topic, each.partition, each.offset) for each in pending[1].offsets] == [
        ("clicks", 0, 6),
        ("orders", 1, 5),
    ]


# --- bounds ---------------------------------------------------------------------------------


def test_a_transaction_has_bounds(monkeypatch):
    groups = Transactions(topics={"orders": MAX_OFFSETS_PER_GROUP + 1})

    def pend_many(first, count, group="g", metadata=""):
        for start in range(first, first + count, 1_000):
            numbers = range(start, min(start + 1_000, first + count))
            entries = tuple(OffsetToCommit("orders", each, 1, None, metadata) for each in numbers)
            groups.apply(CommitTransactionOffsets(group, "t", PRODUCER, 0, entries))

    pend_many(0, MAX_PENDING_OFFSETS_PER_PRODUCER)
    pend_many(0, 1_000)
    with pytest.raises(InvalidRequestError, match="partitions"):
        pend_many(0, 1, group="h")
    groups.end()
    share = 4_096
    monkeypatch.setattr(transaction_handlers, "MAX_PENDING_METADATA_LENGTH", 2 * share)
    entries = tuple(OffsetToCommit("orders", each, 1, None, "x" * share) for each in range(3))
    with pytest.raises(InvalidRequestError, match="metadata"):
        groups.apply(CommitTransactionOffsets("g", "t", PRODUCER, 1, entries))
    # An ordinary commit leaves room for what is pending.
    many = [
        OffsetCommitted("m", "orders", "id", number, 1, None, "", 0, 0)
        for number in range(MAX_OFFSETS_PER_GROUP - 1)
    ]
    groups.image = replay(groups.image, many, groups.image.version + len(many))
    groups.pend(1, epoch=1, group="m")
    with pytest.raises(InvalidRequestError, match="committed offsets"):
        groups.apply(CommitOffsets("m", (OffsetToCommit("orders", 2, 1),)))


def test_whatever_a_commit_overtakes_its_decision_is_none_too_large():
    topic = "t" * 249
    groups = Transactions(topics={topic: MAX_PENDING_OFFSETS_PER_PRODUCER})

    def pend_all(producer):
        for first in range(0, MAX_PENDING_OFFSETS_PER_PRODUCER, MAX_OFFSETS_PER_COMMIT):
            offsets = tuple(
                OffsetToCommit(topic, number, 2**62, metadata="\U0001f600" * 52)
                for number in range(first, first + MAX_OFFSETS_PER_COMMIT)
            )
            groups.apply(CommitTransactionOffsets("g", "t", producer, 0, offsets, None, None))

    producers = range(MAX_PENDING_OFFSETS_PER_GROUP // MAX_PENDING_OFFSETS_PER_PRODUCER)
    for producer in producers:
        pend_all(producer)
    with pytest.raises(OverloadedError, match="20000 offsets"):
        groups.pend(1, topic=topic, producer=len(producers))
    groups.pend(1, topic=topic, producer=len(producers), group="another")
    groups.pend(2**62, topic=topic, producer=0)  # Sent again.

    before = groups.image
    groups.end(producer=producers[-1])
    assert len(groups.last_records) > MAX_PENDING_OFFSETS_PER_PRODUCER
    assert len(encode_records(groups.last_records)) < MAX_DECISION_BYTES
    assert all(not each.offsets[0].pended_at for each in groups.image.groups["g"].pending.values())
    assert before.groups["g"].pending[0].offsets[0].pended_at is not None


def test_producers_are_counted_and_forgotten(monkeypatch):
    monkeypatch.setattr(transaction_handlers, "MAX_TRANSACTIONAL_PRODUCERS", 2)
    groups = Transactions()
    groups.end(0, producer=1)
    groups.pend(5, producer=2)
    with pytest.raises(OverloadedError):
        groups.pend(5, producer=3)
    groups.pend(6, producer=1, epoch=1)
    groups.end(1, producer=1)
    groups.apply(ForgetProducers(((1, 1), (9, 1))))
    assert groups.last_records == (), "its marker is another one by now"
    groups.apply(ForgetProducers(((1, 2),)))
    groups.pend(5, producer=3)


def test_a_marker_is_remembered_for_an_hour_of_the_coordinator():
    groups = Transactions()
    groups.end(0)

    def forgotten(now_ms):
        due = coordinator.due(now_ms, 0, groups.view)
        return [each for each in due if isinstance(each, ForgetProducers)]

    coordinator = ActiveCoordinator(groups.image, groups.config, groups.random, 1_000)
    assert forgotten(1_000) == []
    assert forgotten(1_000 + ENDED_PRODUCER_MEMORY_MS - 1) == []
    assert forgotten(100_000 + ENDED_PRODUCER_MEMORY_MS) == [ForgetProducers(((PRODUCER, 1),))]
    # A coordinator that has just begun has seen no hour pass.
    coordinator = ActiveCoordinator(groups.image, groups.config, groups.random, 10**9)
    assert forgotten(10**9) == []


# --- any order ------------------------------------------------------------------------------

PRODUCERS, EPOCHS, GROUPS, PARTITIONS = (1, 2), (0, 1, 2), ("g", "h"), (0, 1)

STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("pend"),
            st.sampled_from(PRODUCERS),
            st.sampled_from(EPOCHS),
            st.sampled_from(GROUPS),
            st.sampled_from(PARTITIONS),
            st.booleans(),
        ),
        st.tuples(
            st.just("end"), st.sampled_from(PRODUCERS), st.sampled_from(EPOCHS), st.booleans()
        ),
        st.tuples(st.just("commit"), st.sampled_from(GROUPS), st.sampled_from(PARTITIONS)),
    ),
    max_size=40,
)


def random_steps(random):
    """Such steps without hypothesis, for planted bugs."""
    steps = []
    for _ in range(40):
        producer, epoch = random.choice(PRODUCERS), random.choice(EPOCHS)
        key = random.choice(GROUPS), random.choice(PARTITIONS)
        steps.append(
            random.choice(
                (
                    ("pend", producer, epoch, *key, random.random() < 0.3),
                    ("end", producer, epoch, random.random() < 0.7),
                    ("commit", *key),
                )
            )
        )
    return steps


class Model:
    """What is to be: (when, offset) by (group, partition), and each producer's transaction."""

    def __init__(self):
        self.committed = {}
        self.pending = {}
        self.ended = {}

    def may_pend(self, producer, epoch):
        epoch_pending, _ = self.pending.get(producer, (epoch, {}))
        return epoch >= self.ended.get(producer, 0) and epoch == epoch_pending

    def last_pended(self, producer, key):
        _, offsets = self.pending.get(producer, (0, {}))
        return offsets.get(key, (None, None))[1]

    def pend(self, producer, epoch, key, at, offset):
        offsets = self.pending.setdefault(producer, (epoch, {}))[1]
        if offsets.get(key, (None, None))[1] != offset:
            offsets[key] = at, offset

    def commit(self, key, at, offset):
        """The later commit counts."""
        self.committed[key] = max(self.committed.get(key, (-1, 0)), (at, offset))

    def end(self, producer, epoch, is_commit):
        epoch_pending, offsets = self.pending.get(producer, (epoch, {}))
        if epoch_pending > epoch or epoch < self.ended.get(producer, 0):
            return
        self.pending.pop(producer, None)
        self.ended[producer] = epoch + 1
        if is_commit:
            for key, (at, offset) in offsets.items():
                self.commit(key, at, offset)


@settings(deadline=None, max_examples=100)
@given(STEPS)
def test_any_order_of_commits_and_markers(steps):
    apply_steps(steps)


def apply_steps(steps):
    groups, model, log = Transactions(), Model(), []
    for at, (kind, *rest) in enumerate(steps):
        match kind:
            case "pend":
                producer, epoch, group, partition, is_again = rest
                offset = model.last_pended(producer, (group, partition)) if is_again else None
                offset = at if offset is None else offset
                try:
                    groups.pend(
                        offset, epoch=epoch, group=group, partition=partition, producer=producer
                    )
                except (TransactionAbortableError, ConcurrentTransactionsError):
                    assert not model.may_pend(producer, epoch)
                    continue
                assert model.may_pend(producer, epoch)
                model.pend(producer, epoch, (group, partition), at, offset)
            case "end":
                producer, epoch, is_commit = rest
                groups.end(epoch, is_commit=is_commit, producer=producer)
                model.end(producer, epoch, is_commit)
            case "commit":
                group, partition = rest
                # Below what is pending, mostly: not the higher offset counts but the later one.
                groups.apply(CommitOffsets(group, (OffsetToCommit("orders", partition, at // 2),)))
                model.commit((group, partition), at, at // 2)
        log.extend(groups.last_records)
        check(groups, model)
    compacted = {}
    for record in log:
        key, value = encode_record(record)
        compacted.pop(key, None)
        compacted[key] = None if value is None else record
    kept = [record for record in compacted.values() if record is not None]
    if kept:
        assert replay(GroupsImage(), kept, groups.image.version) == groups.image


def a_commit_overtakes_nothing(monkeypatch):
    monkeypatch.setattr(offset_handlers, "overtaken", lambda *_, **__: ())


def a_transaction_overtakes_nothing(monkeypatch):
    monkeypatch.setattr(transaction_handlers, "overtaken", lambda *_, **__: ())


def what_is_sent_again_counts_as_new(monkeypatch):
    real = transaction_handlers.replace

    def replace(struct, **changed):
        changed.pop("pended_at", None)
        return real(struct, **changed)

    monkeypatch.setattr(transaction_handlers, "replace", replace)


def a_transaction_overtakes_what_came_after_it(monkeypatch):
    real = transaction_handlers.overtaken
    monkeypatch.setattr(
        transaction_handlers,
        "overtaken",
        lambda group, at, by: real(group, dict.fromkeys(at, 2**62), by=by),
    )


@pytest.mark.parametrize(
    "plant",
    [
        a_commit_overtakes_nothing,
        a_transaction_overtakes_nothing,
        what_is_sent_again_counts_as_new,
        a_transaction_overtakes_what_came_after_it,
    ],
    ids=lambda plant: plant.__name__,
)
def test_a_planted_bug_is_caught(monkeypatch, plant):
    plant(monkeypatch)
    for seed in range(300):
        try:
            apply_steps(random_steps(Random(seed)))
        except AssertionError:
            return
    pytest.fail("not caught")


def check(groups, model):
    committed = {
        (name, partition): each.offset
        for name, group in groups.image.groups.items()
        for (_, partition), each in group.offsets.items()
    }
    assert committed == {key: offset for key, (_, offset) in model.committed.items()}
    pending = {}
    for name, group in groups.image.groups.items():
        for producer, each in group.pending.items():
            assert name in groups.image.pending_groups[producer]
            epoch, offsets = pending.setdefault(producer, (each.producer_epoch, {}))
            assert epoch == each.producer_epoch
            offsets.update(
                {(name, o.partition): o.offset for o in each.offsets if o.pended_at is not None}
            )
    assert pending == {
        producer: (
            epoch,
            {
                key: offset
                for key, (at, offset) in offsets.items()
                if at > model.committed.get(key, (-1, 0))[0]
            },
        )
        for producer, (epoch, offsets) in model.pending.items()
    }
    assert groups.image.pending_groups.keys() == pending.keys()
    ended = {producer: each.producer_epoch for producer, each in groups.image.ended.items()}
    assert ended == model.ended
