"""The check of a group's offsets against planted histories, and what a member writes down."""

from collections import Counter
from types import SimpleNamespace

import pytest

from ottla import TopicPartition
from ottla_protocol.errors import NotCoordinatorError
from tests.chaos import group_reader
from tests.chaos.checker import check
from tests.chaos.evidence import Evidence
from tests.chaos.final_reads import FinalRead
from tests.chaos.group_checks import TRIED_ONCE_NS, misplaced_groups
from tests.chaos.history import (
    COMMIT,
    COMMITTED,
    FAIL,
    INFO,
    OK,
    START,
    HistoryWriter,
    Operation,
    read_history,
)
from tests.chaos.planted_history import BROKERS, Planted

RECORDS = 40
STEP_NS = 100


class Group:
    """A group of one partition of forty records that commits 10, 20 and 30, one after the other."""

    def __init__(self):
        self.now_ns = 0
        self.operations = []
        for offset in (10, 20, 30):
            self.commit(offset)

    def did(self, function, outcome=OK, takes_ns=10, **fields):
        self.now_ns += STEP_NS
        completed_ns = None if takes_ns is None else self.now_ns + takes_ns
        self.operations.append(
            Operation("a", function, outcome, self.now_ns, completed_ns, 0, **fields)
        )

    def commit(self, offset, outcome=OK, takes_ns=10):
        self.did(COMMIT, outcome, takes_ns, next_offset=offset)

    def ask(self, offset, **fields):
        self.did(COMMITTED, next_offset=offset, **fields)

    def start(self, offset, **fields):
        self.did(START, offset=offset, **fields)

    def broken(self):
        records = tuple((offset, f"v{offset}", 0) for offset in range(RECORDS))
        copies = [FinalRead(1, 0, 0, RECORDS, records)]
        return [
            violation.detail for violation in misplaced_groups(Evidence(self.operations, copies))
        ]


@pytest.mark.parametrize("look", [Group.ask, Group.start])
def test_a_group_goes_on_where_it_committed_last(look):
    group = Group()
    look(group, 30)
    group.commit(35)
    look(group, 35)
    assert group.broken() == []


@pytest.mark.parametrize("look", [Group.ask, Group.start])
@pytest.mark.parametrize("offset", [0, 10, 20, 29, 31, 40])
def test_a_group_that_goes_back_or_ahead_is_found(look, offset):
    group = Group()
    look(group, offset)
    assert len(group.broken()) == 1
    assert "30 was committed before" in group.broken()[0]


def test_a_group_that_forgot_everything_is_found():
    group = Group()
    group.ask(None)
    group.start(0)
    assert len(group.broken()) == 2


def test_a_commit_that_somebody_else_knew_nothing_of_is_found():
    group = Group()
    group.operations = []
    group.ask(30)
    group.start(30)
    assert len(group.broken()) == 2


def test_nothing_is_committed_in_the_beginning():
    group = Group()
    group.operations = []
    group.ask(None)
    group.start(0)
    assert group.broken() == []


@pytest.mark.parametrize("outcome", [INFO, FAIL])
def test_a_commit_that_nobody_knew_the_end_of_may_be_taken_or_not(outcome):
    group = Group()
    group.commit(35, outcome, takes_ns=None)
    group.ask(30)
    group.ask(35)
    group.commit(38)
    group.ask(35)
    assert group.broken() == []


def test_a_commit_under_way_may_be_taken_or_not():
    group = Group()
    group.commit(35, takes_ns=5 * STEP_NS)
    group.ask(30)
    group.ask(35)
    assert group.broken() == []
    group.now_ns += 5 * STEP_NS
    group.ask(30)
    assert len(group.broken()) == 1


def test_a_question_under_way_may_be_answered_of_before_or_after():
    group = Group()
    group.ask(30, takes_ns=5 * STEP_NS)
    group.ask(35, takes_ns=5 * STEP_NS)
    group.commit(35)
    assert group.broken() == []


def test_a_commit_that_was_perhaps_sent_twice_may_come_late():
    group = Group()
    group.commit(35, takes_ns=TRIED_ONCE_NS + 1)
    group.now_ns += 2 * TRIED_ONCE_NS
    group.commit(38)
    group.ask(35)
    group.start(35)
    assert group.broken() == []
    group.ask(30)
    assert len(group.broken()) == 1


def test_a_reading_begins_with_the_first_record_behind_the_commit():
    """Offsets of markers are no records."""
    group = Group()
    group.commit(RECORDS + 2)
    group.did(START, offset=RECORDS + 5)
    records = ((RECORDS, "v", 0), (RECORDS + 5, "v", 0))
    evidence = Evidence(group.operations, [FinalRead(1, 0, 0, RECORDS + 6, records)])
    assert list(misplaced_groups(evidence)) == []
    group.did(START, offset=RECORDS)
    assert len(list(misplaced_groups(evidence))) == 1


# --- whether a run proves anything of groups ------------------------------------------------------


def offsets_evidence(brokers=BROKERS):
    record = (0, (b"k", b"v"), 1)
    copies = [FinalRead(broker, 0, 0, 1, (record,)) for broker in brokers]
    return Evidence([], copies, [], brokers=BROKERS, replicas={0: BROKERS})


def verdict_of(planted, offsets):
    return check(planted.evidence(), faults=Counter(), wanted=(), offsets=offsets, ok_min=5)


def test_replicas_of_the_groups_offsets_that_differ_are_found():
    planted = Planted()
    planted.did(COMMIT, next_offset=3)
    planted.did(COMMITTED, next_offset=3)
    verdict = verdict_of(planted, offsets_evidence())
    assert verdict.trivial == []
    assert "offsets of groups, partition 0: broker 1 and the files of 1" in str(verdict)


def test_offsets_of_groups_that_were_not_read_prove_nothing():
    planted = Planted()
    planted.did(COMMIT, next_offset=3)
    planted.did(COMMITTED, next_offset=3)
    assert verdict_of(planted, None).trivial == ["the offsets of groups were not read in the end"]
    assert verdict_of(planted, offsets_evidence((1, 2))).trivial == [
        "offsets of groups: partition 0 was not read from broker 3, which holds it",
        "offsets of groups: partition 0 was not read through broker 3",
    ]


def test_offsets_of_groups_without_a_record_prove_nothing():
    planted = Planted()
    planted.did(COMMIT, next_offset=3)
    planted.did(COMMITTED, next_offset=3)
    copies = [FinalRead(broker, 0, 0, 0, ()) for broker in BROKERS]
    empty = Evidence([], copies, [], brokers=BROKERS, replicas={0: BROKERS})
    assert verdict_of(planted, empty).trivial == ["no offset of a group was read in the end"]


def test_a_group_that_committed_nothing_proves_nothing():
    planted = Planted()
    planted.did(COMMIT, INFO, next_offset=3)
    assert verdict_of(planted, None).trivial[:2] == [
        "no commit of a group was accepted",
        "nobody was told what a group has committed",
    ]


# --- what a member writes down --------------------------------------------------------------------


def records(*offsets):
    return [SimpleNamespace(offset=offset, value=f"v{offset}") for offset in offsets]


class Member:
    """A consumer that gets three polls of two partitions; one is taken from it before the last."""

    polls = (
        {0: records(5, 6), 1: records(0)},
        {0: records(7)},
        {0: records(8)},
    )

    def __init__(self, **_options):
        self.committed = []
        self.left = list(self.polls)

    def __enter__(self):
        return self

    def __exit__(self, *_exception):
        pass

    def subscribe(self, _topics, listener):
        self.listener = listener

    def poll(self, _timeout_s):
        if len(self.left) == len(self.polls):
            self.listener.on_partitions_assigned({TopicPartition("t", 1), TopicPartition("t", 0)})
        if len(self.left) == 1:
            self.listener.on_partitions_lost({TopicPartition("t", 0), TopicPartition("t", 1)})
            self.listener.on_partitions_assigned({TopicPartition("t", 0)})
        polled = self.left.pop(0)
        return {TopicPartition("t", number): found for number, found in polled.items()}

    def commit(self, offsets):
        self.committed.append({name.partition: offset for name, offset in offsets.items()})
        if len(self.committed) == 2:
            raise NotCoordinatorError("another one")


def test_a_member_writes_down_where_it_begins_and_what_it_commits(tmp_path, monkeypatch):
    member = Member()
    monkeypatch.setattr(group_reader, "Consumer", lambda **_: member)
    writer = HistoryWriter(tmp_path / "a.jsonl", "a")
    client = SimpleNamespace(
        history=lambda _part: writer,
        urls=[],
        group="g",
        topic="t",
        pause_s=0,
        ended=SimpleNamespace(wait=lambda _pause_s: not member.left),
    )
    group_reader.read_in_group(client)
    assert member.committed == [{0: 7, 1: 1}, {0: 8, 1: 1}, {0: 9}]
    operations = read_history([tmp_path / "a.jsonl"])
    assert [
        (each.partition, each.session, each.offset) for each in operations if each.function == START
    ] == [(0, 1, 5), (1, 1, 0), (0, 2, 8)]
    assert [
        (each.partition, each.next_offset, each.outcome)
        for each in operations
        if each.function == COMMIT
    ] == [(0, 7, OK), (1, 1, OK), (0, 8, INFO), (1, 1, INFO), (0, 9, OK)]
