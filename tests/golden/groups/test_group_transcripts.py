"""Rebalances as conversations: what is said, in order, is kept beside this file and reviewed.

A change of the protocol shows here as a diff. OTTLA_UPDATE_GOLDEN=1 rewrites the files.
"""

import os
from pathlib import Path
from random import Random

import pytest

from ottla_cluster.groups.active_coordinator import ActiveCoordinator
from ottla_cluster.groups.cluster_view import ClusterView, TopicView
from ottla_cluster.groups.commands import (
    CommitOffsets,
    FetchOffsets,
    Heartbeat,
    Join,
    Leave,
    OffsetToCommit,
    OwnedTopic,
)
from ottla_cluster.groups.config import GroupConfig
from ottla_cluster.groups.image import GroupsImage, replay
from ottla_cluster.groups.records import (
    CurrentAssigned,
    GroupChanged,
    OffsetCommitted,
    TargetAssigned,
    decode_record,
)
from ottla_cluster.state_machine.keyed_records import decode_pairs
from ottla_protocol.errors import OttlaError

HERE = Path(__file__).parent
SESSION_MS = 10_000


class Conversation:
    """A coordinator and its members; every request, record and answer is written down."""

    def __init__(self, assignor="sticky", **topics):
        self.lines = []
        self.config = GroupConfig(default_assignor=assignor, default_session_timeout_ms=SESSION_MS)
        self.now_ms = 0
        self.view = ClusterView(1)
        self.set_topics(**topics)
        self.image = GroupsImage()
        self.log_end = 0
        self.members = {}
        self.parked = set()
        self.lead()

    def say(self, text):
        self.lines.append(text)

    def set_topics(self, **counts):
        topics = {name: TopicView(f"id-{name}", count) for name, count in counts.items()}
        self.view = ClusterView(self.view.version + 1, topics)

    def lead(self):
        self.coordinator = ActiveCoordinator(self.image, self.config, Random(1), self.now_ms)

    def submit(self, command):
        """Decides and commits; the answer, or the error."""
        before = self.coordinator.speculative_image
        try:
            submitted = self.coordinator.submit(command, self.now_ms, self.now_ms, self.view)
        except OttlaError as error:
            return error
        if submitted.response is not None:
            return submitted.response
        records = [decode_record(*pair) for pair in decode_pairs(submitted.payload)]
        for record in records:
            self.say(f"      log  {told(record)}")
        self.log_end += len(records)
        self.image = replay(self.image, records, self.log_end)
        self.coordinator.appended(submitted.request_id, self.log_end)
        for name in sorted(
            self.parked.intersection(self.coordinator.may_have_news(command, before))
        ):
            if self.coordinator.wants_heartbeat("g", name):
                self.parked.remove(name)
                self.say(f"      wakes {name}")
        return self.coordinator.committed(self.log_end)[-1].outcome

    def ask(self, name, request, command, *, reply_is_lost=False):
        self.say(f"  {name} -> {request}")
        answer = self.submit(command)
        if isinstance(answer, OttlaError):
            self.say(f"  {name} <- {answer.code}: {answer.detail}")
        elif hasattr(answer, "assignment"):
            news = "nothing new" if answer.assignment is None else shown(answer.assignment)
            lost = "  (lost)" if reply_is_lost else ""
            self.say(f"  {name} <- generation {answer.generation}: {news}{lost}")
            if not reply_is_lost:
                _, owned = self.members.get(name, (0, ()))
                if answer.assignment is not None:
                    owned = tuple(
                        (topic.topic, number)
                        for topic in answer.assignment
                        for number in topic.partitions
                    )
                self.members[name] = (answer.generation, owned)
        elif isinstance(command, FetchOffsets):
            found = ", ".join(f"{o.topic}-{o.partition}: {o.offset}" for o in answer.offsets)
            self.say(f"  {name} <- {found}")
        else:
            self.say(f"  {name} <- ok")
        return answer

    def join(self, name, instance_id=None, **options):
        static = f" as {instance_id}" if instance_id else ""
        command = Join("g", ("orders",), member_id=name, instance_id=instance_id)
        return self.ask(name, f"join{static}", command, **options)

    def beat(self, name, still=(), **options):
        """A heartbeat; `still` holds what the member has been told to give up and has not yet."""
        generation, owned = self.members[name]
        by_topic = {}
        for topic, number in sorted({*owned, *still}):
            by_topic.setdefault(topic, []).append(number)
        holds = tuple(OwnedTopic(topic, tuple(numbers)) for topic, numbers in by_topic.items())
        command = Heartbeat("g", name, generation, holds)
        return self.ask(
            name, f"heartbeat generation {generation}, holds {shown(holds)}", command, **options
        )

    def commit(self, name, partition, offset, generation=None, *, only_forward=False):
        generation = generation or self.members[name][0]
        entries = (OffsetToCommit("orders", partition, offset),)
        direction = " or beyond" if only_forward else ""
        self.ask(
            name,
            f"commit orders-{partition}: {offset}{direction}, generation {generation}",
            CommitOffsets("g", entries, name, generation, only_forward=only_forward),
        )

    def leave(self, name):
        self.ask(name, "leave", Leave("g", name))

    def park(self, name):
        """A heartbeat without news, which waits."""
        answer = self.beat(name)
        assert answer.assignment is None
        assert not self.coordinator.wants_heartbeat("g", name)
        self.say(f"  {name} waits")
        self.parked.add(name)

    def tick(self, now_ms):
        self.now_ms = now_ms
        self.say(f"  at {now_ms} ms")
        for command in self.coordinator.due(now_ms, now_ms, self.view):
            overdue = getattr(command, "members", ())
            reasons = "".join(f" {each.member_id}: {each.reason}" for each in overdue)
            self.say(f"      due  {type(command).__name__}{reasons}")
            self.submit(command)


def shown(topics):
    text = ", ".join(f"{t.topic}-{number}" for t in topics for number in t.partitions)
    return text or "nothing"


def told(record):
    match record:
        case GroupChanged():
            return f"group: generation {record.generation}"
        case TargetAssigned():
            return f"target of {record.member_id}: {shown(record.topics)}"
        case CurrentAssigned():
            owned = ", ".join(f"{h.topic}-{h.partition}@{h.generation}" for h in record.owned)
            text = f"{record.member_id} in generation {record.generation} owns {owned or 'nothing'}"
            revoking = ", ".join(f"{h.topic}-{h.partition}" for h in record.revoking)
            return f"{text}, gives up {revoking}" if revoking else text
        case OffsetCommitted():
            return f"offset of {record.topic}-{record.partition}: {record.offset}"
    return f"{type(record).__name__} {getattr(record, 'member_id', '')}".strip()


def a_member_joins():
    script = Conversation(orders=3)
    script.say("the first member")
    script.join("a")
    script.say("a second one: it waits until a has finished with its share")
    script.join("b")
    script.beat("a")
    script.beat("b")
    script.beat("a", still=[("orders", 2)])
    script.say("a commits what it has processed, and lets go")
    script.commit("a", 2, 17)
    script.beat("a")
    script.beat("b")
    script.say("a comes too late with another commit there")
    script.commit("a", 2, 18)
    script.commit("a", 0, 5)
    return script.lines


def acks_come_late_and_twice():
    script = two_members()
    script.say("a acknowledges twice, and the first ack arrives last: nothing goes back")
    script.commit("a", 0, 20, only_forward=True)
    script.commit("a", 0, 10, only_forward=True)
    script.say("the second one is repeated")
    script.commit("a", 0, 20, only_forward=True)
    script.say("what b has is not a's to acknowledge, whichever way it goes")
    script.commit("a", 2, 5, only_forward=True)
    return script.lines


def a_member_leaves():
    script = two_members()
    script.say("b leaves: a need not wait for anything")
    script.leave("b")
    script.beat("a")
    script.say("the leave is repeated")
    script.leave("b")
    return script.lines


def members_wait_for_news():
    script = two_members()
    script.say("both wait; c joins, so one of them must give something up, and only that one hears")
    script.park("a")
    script.park("b")
    script.join("c")
    script.say("a is told while it still reads the partition, and c waits for it")
    script.beat("a")
    script.park("c")
    script.say("a gives it up: c is woken, b is not")
    script.beat("a")
    script.beat("c")
    script.say("c goes: whoever is to have its partition is woken")
    script.park("a")
    script.ask("c", "leave", Leave("g", "c"))
    return script.lines


def a_member_crashes():
    script = two_members()
    script.say("b falls silent, a does not")
    for now_ms in (5_000, 9_999):
        script.now_ms = now_ms
        script.beat("a")
    script.tick(10_000)
    script.beat("a")
    script.say("b was only paused: it works on, and is refused")
    script.commit("b", 2, 40)
    script.beat("b")
    return script.lines


def a_static_member_restarts():
    script = Conversation(orders=3)
    script.join("a1", instance_id="a")
    script.join("b")
    script.beat("a1")
    script.beat("a1")
    script.beat("b")
    script.lines.clear()
    script.say("a's next process takes its place: b notices nothing")
    script.join("a2", instance_id="a")
    script.beat("b")
    script.say("the former process still lives")
    script.commit("a1", 0, 9)
    script.beat("a1")
    return script.lines


def the_coordinator_fails_over_while_a_partition_is_given_up():
    script = Conversation(orders=3)
    script.join("a")
    script.join("b")
    script.beat("a")
    script.lines.clear()
    script.say("a new coordinator replays the log, long after everybody's last heartbeat")
    script.now_ms = 60_000
    script.lead()
    script.tick(60_000)
    script.beat("b")
    script.beat("a", still=[("orders", 2)])
    script.beat("a")
    script.beat("b")
    return script.lines


def replies_get_lost_and_requests_repeat():
    script = Conversation("range", orders=2)
    script.join("a", reply_is_lost=True)
    script.join("a")
    script.join("b")
    script.say("a is told to give up, and does not hear it")
    script.beat("a", reply_is_lost=True)
    script.beat("a", still=[("orders", 1)])
    old = script.members["b"]
    script.beat("a")
    script.say("b is given a partition, and does not hear it")
    script.beat("b", reply_is_lost=True)
    script.beat("b")
    script.say("then a third member joins, and b is to give it up")
    script.join("0")
    script.say("b's heartbeat from before arrives once more: that it holds nothing is old news")
    new, script.members["b"] = script.members["b"], old
    script.beat("b", reply_is_lost=True)
    script.members["b"] = new
    script.beat("b", still=[("orders", 1)])
    script.beat("a")
    script.beat("b")
    script.beat("a")
    return script.lines


def a_topic_grows():
    script = two_members()
    script.say("orders has five partitions now")
    script.set_topics(orders=5)
    script.tick(100)
    script.beat("a")
    script.beat("b")
    return script.lines


def two_members():
    script = Conversation(orders=3)
    script.join("a")
    script.join("b")
    script.beat("a")
    script.beat("a")
    script.beat("b")
    script.lines.clear()
    return script


@pytest.mark.parametrize(
    "transcript",
    [
        a_member_joins,
        acks_come_late_and_twice,
        a_member_leaves,
        a_member_crashes,
        members_wait_for_news,
        a_static_member_restarts,
        the_coordinator_fails_over_while_a_partition_is_given_up,
        replies_get_lost_and_requests_repeat,
        a_topic_grows,
    ],
)
def test_transcript(transcript):
    path = HERE / f"{transcript.__name__}.txt"
    found = "\n".join(transcript()) + "\n"
    if os.environ.get("OTTLA_UPDATE_GOLDEN"):
        path.write_text(found)
    assert found == path.read_text()
