"""Seeded lives of groups keep the rules, and planted bugs are caught.

OTTLA_GROUP_SEEDS=500 runs more of them, OTTLA_SIMULATION_FIRST_SEED others.
"""

import os
from collections import Counter
from dataclasses import replace

import msgspec
import pytest

from ottla_cluster.groups import handlers, membership_handlers, offset_handlers, sessions, targets
from ottla_cluster.groups.commands import CommitOffsets, DoneResponse
from ottla_cluster.state_machine import runtime
from ottla_protocol.errors import FencedMemberEpochError
from tests.simulation.groups.groups_simulation import GroupsSimulation
from tests.simulation.groups.process import SESSION_TIMEOUT_MS

SEEDS = int(os.environ.get("OTTLA_GROUP_SEEDS", "30"))
FIRST_SEED = int(os.environ.get("OTTLA_SIMULATION_FIRST_SEED", "0"))
MUTANT_SEEDS = 40
FAULTY_MS = 15_000


def test_random_lives_keep_the_rules():
    total = Counter()
    for seed in range(FIRST_SEED, FIRST_SEED + SEEDS):
        simulation = GroupsSimulation(seed)
        try:
            simulation.run(FAULTY_MS)
        except AssertionError as failure:
            raise AssertionError(f"seed {seed}: {failure}") from failure
        total.update(simulation.counts)
    # A simulation in which nothing happens proves nothing.
    assert total["accepted"] > 100 * SEEDS
    assert total["adopted"] > 15 * SEEDS
    assert total["leaderships"] > 2 * SEEDS
    assert total["expired"] > SEEDS
    assert total["topics"] > SEEDS // 2
    assert total["FENCED"] > SEEDS // 2
    assert total["UNKNOWN_MEMBER_ID"] > SEEDS // 2
    assert total["FENCED_INSTANCE_ID"] > 0
    assert total["replaced"] > 0
    assert total["stuck"] > 0
    assert total["parked"] > SEEDS
    assert total["woken"] > SEEDS
    assert total["DeleteGroupResponse"] > SEEDS // 2


def test_a_seed_is_a_life():
    first, second = GroupsSimulation(42), GroupsSimulation(42)
    first.run(FAULTY_MS)
    second.run(FAULTY_MS)
    assert first.log == second.log
    assert first.counts == second.counts


# --- planted bugs ---------------------------------------------------------------------------


def first_failing_seed():
    for seed in range(MUTANT_SEEDS):
        try:
            GroupsSimulation(seed).run(FAULTY_MS)
        except AssertionError:
            return seed
    return None


def the_generation_of_a_commit_is_unchecked(monkeypatch):
    def held_topic_id(group, member_id, generation, entry, view):
        held = group.currents[member_id].held((entry.topic, entry.partition))
        if held is None:
            raise FencedMemberEpochError("not held")
        return held.topic_id

    monkeypatch.setattr(offset_handlers, "_held_topic_id", held_topic_id)


def the_owner_of_a_committed_partition_is_unchecked(monkeypatch):
    real = offset_handlers._held_topic_id

    def held_topic_id(group, member_id, generation, entry, view):
        try:
            return real(group, member_id, generation, entry, view)
        except FencedMemberEpochError:
            return group.topics[entry.topic].topic_id if entry.topic in group.topics else "gone"

    monkeypatch.setattr(offset_handlers, "_held_topic_id", held_topic_id)


def every_commit_goes_where_it_says(monkeypatch):
    monkeypatch.setattr(offset_handlers, "_not_before", lambda group, record: record)


def a_partition_is_given_before_it_is_given_up(monkeypatch):
    real = targets.reconcile
    monkeypatch.setattr(
        targets,
        "reconcile",
        lambda group, member_id, said: real(replace(group, holders={}), member_id, said),
    )


def what_a_late_heartbeat_says_counts(monkeypatch):
    real = handlers.heartbeat

    def heartbeat(image, command, context):
        group = image.groups.get(command.group)
        current = None if group is None else group.currents.get(command.member_id)
        if current is not None and command.generation < current.generation:
            command = msgspec.structs.replace(command, generation=current.generation)
        return real(image, command, context)

    monkeypatch.setattr(handlers, "heartbeat", heartbeat)


def a_new_partition_comes_in_the_same_generation(monkeypatch):
    real = targets.reconcile

    def reconcile(group, member_id, said):
        step = real(group, member_id, said)
        before = group.currents[member_id]
        owned = {
            key: msgspec.structs.replace(held, generation=min(held.generation, before.generation))
            for key, held in step.current.owned.items()
        }
        current = replace(step.current, generation=before.generation, owned=owned)
        return replace(step, current=current, generation=group.generation)

    monkeypatch.setattr(targets, "reconcile", reconcile)


def answers_leave_before_the_commit(monkeypatch):
    real = runtime.SpeculativeRuntime.submit

    def submit(self, command, now_ms):
        submitted = real(self, command, now_ms)
        if not isinstance(command, CommitOffsets) or submitted.payload is None:
            return submitted
        early[submitted.request_id] = self._waiting[-1].outcome
        return submitted

    early = {}
    real_submit = GroupsSimulation._submit

    def submit_and_answer(self, command, answer):
        early.clear()
        answered = []
        real_submit(self, command, lambda outcome: answered or answer(outcome))
        for outcome in early.values():
            answer(outcome)
            answered.append(outcome)

    monkeypatch.setattr(runtime.SpeculativeRuntime, "submit", submit)
    monkeypatch.setattr(GroupsSimulation, "_submit", submit_and_answer)


def a_failover_gives_no_new_session(monkeypatch):
    real = sessions.MemberSessions.__init__
    monkeypatch.setattr(
        sessions.MemberSessions,
        "__init__",
        lambda self, image, now_ms: real(self, image, now_ms - 2 * SESSION_TIMEOUT_MS),
    )


def heartbeats_prolong_nothing(monkeypatch):
    a_session_does_not_begin_anew_with_the_answer(monkeypatch)
    monkeypatch.setattr(sessions.MemberSessions, "touched", lambda *_: None)


def a_member_that_waits_for_its_answer_is_silent(monkeypatch):
    monkeypatch.setattr(sessions.MemberSessions, "arrived", lambda *_: None)
    monkeypatch.setattr(sessions.MemberSessions, "answered", lambda *_: None)


def a_session_does_not_begin_anew_with_the_answer(monkeypatch):
    real = sessions.MemberSessions.answered

    def answered(self, group_id, member_id, now_ms):
        known = self._groups.get(group_id)
        session = None if known is None else known.sessions.get(member_id)
        touched_ms = now_ms if session is None else session.touched_ms
        real(self, group_id, member_id, touched_ms)

    monkeypatch.setattr(sessions.MemberSessions, "answered", answered)


def generations_begin_anew_after_a_deletion(monkeypatch):
    real = handlers.join
    monkeypatch.setattr(
        handlers,
        "join",
        lambda image, command, context: real(replace(image, version=0), command, context),
    )


def partitions_of_those_who_leave_stay_with_nobody(monkeypatch):
    real = membership_handlers.without_members

    def without(group, member_ids, context):
        monkeypatch.setattr(membership_handlers, "rebalance", lambda *_: None)
        try:
            return real(group, member_ids, context)
        finally:
            monkeypatch.setattr(membership_handlers, "rebalance", targets.rebalance)

    monkeypatch.setattr(membership_handlers, "without_members", without)


def new_partitions_are_not_seen(monkeypatch):
    monkeypatch.setattr(handlers, "refresh_topics", lambda *_: handlers.Result((), DoneResponse()))


def handlers_see_only_what_is_committed(monkeypatch):
    monkeypatch.setattr(
        runtime.SpeculativeRuntime,
        "speculative_state",
        property(lambda self: self._committed_state),
    )


@pytest.mark.parametrize(
    "plant",
    [
        the_generation_of_a_commit_is_unchecked,
        the_owner_of_a_committed_partition_is_unchecked,
        every_commit_goes_where_it_says,
        a_partition_is_given_before_it_is_given_up,
        what_a_late_heartbeat_says_counts,
        a_new_partition_comes_in_the_same_generation,
        answers_leave_before_the_commit,
        a_failover_gives_no_new_session,
        heartbeats_prolong_nothing,
        a_member_that_waits_for_its_answer_is_silent,
        a_session_does_not_begin_anew_with_the_answer,
        generations_begin_anew_after_a_deletion,
        partitions_of_those_who_leave_stay_with_nobody,
        new_partitions_are_not_seen,
        handlers_see_only_what_is_committed,
    ],
    ids=lambda plant: plant.__name__,
)
def test_a_planted_bug_is_caught(monkeypatch, plant):
    plant(monkeypatch)
    assert first_failing_seed() is not None
