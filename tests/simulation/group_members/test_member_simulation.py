"""Whatever gets lost, late or repeated, a member never believes to own what was given away.

The members are the SDK's, the coordinator is the brokers' own. OTTLA_GROUP_SEEDS=500 runs more,
OTTLA_SIMULATION_FIRST_SEED others.
"""

import os
from collections import Counter

import pytest

from ottla._group_calls import GroupCallKind
from ottla._group_member import GroupMember, _State
from ottla._member_assignment import MemberAssignment
from ottla._offset_commits import OffsetCommits
from tests.simulation.group_members.member_process import MemberProcess
from tests.simulation.group_members.member_simulation import MemberSimulation

SEEDS = int(os.environ.get("OTTLA_GROUP_SEEDS", "30"))
FIRST_SEED = int(os.environ.get("OTTLA_SIMULATION_FIRST_SEED", "0"))
MUTANT_SEEDS = 40
FAULTY_MS = 15_000


def test_members_keep_the_rules():
    total = Counter()
    for seed in range(FIRST_SEED, FIRST_SEED + SEEDS):
        simulation = MemberSimulation(seed)
        try:
            simulation.run(FAULTY_MS)
        except AssertionError as failure:
            raise AssertionError(f"seed {seed}: {failure}") from failure
        total.update(simulation.counts)
    # A simulation in which nothing happens proves nothing.
    assert total["adopted"] > 15 * SEEDS
    assert total["accepted"] > 100 * SEEDS
    assert total["parked"] > 100 * SEEDS
    assert total["woken"] > 10 * SEEDS
    assert total["revoked"] > 8 * SEEDS
    assert total["lost"] > 8 * SEEDS
    assert total["expired"] > 3 * SEEDS
    assert total["FENCED_INSTANCE_ID"] > 0
    assert total["UNKNOWN_MEMBER_ID"] > SEEDS // 2
    assert total["stuck"] > 0


def test_a_seed_is_a_life():
    first, second = MemberSimulation(42), MemberSimulation(42)
    first.run(FAULTY_MS)
    second.run(FAULTY_MS)
    assert first.log == second.log
    assert first.counts == second.counts


# --- planted bugs ---------------------------------------------------------------------------


class TellsWhatIsStillReadAsReleased(MemberAssignment):
    @property
    def held(self):
        return self.assigned


class KnowsNoEndOfTheSession(MemberAssignment):
    until_ms = 2**62


class TakesAnyTimeToLetGo(MemberAssignment):
    @property
    def until_ms(self):
        self._revoking = dict.fromkeys(self._revoking, 2**62)
        return super().until_ms


class TakesOlderAnswersForNew(MemberAssignment):
    def adopt(self, generation, told):
        self.generation = min(self.generation, generation - 1)
        return super().adopt(generation, told)


class HearsAnswersOfEarlierLives(GroupMember):
    def _ended(self, call, now_ms):
        self._run_out(now_ms)
        sent = self._out.pop(call, None)
        if self._state is _State.JOINED or call.kind is not GroupCallKind.HEARTBEAT:
            return sent
        return None


class TellsNobodyOfTheRelease(MemberAssignment):
    @property
    def held(self):
        self.once_revoked = getattr(self, "once_revoked", frozenset()) | self.revoking
        return self.assigned | self.once_revoked


class CommitsWhatWasLost(OffsetCommits):
    def drop(self, partitions, now_ms):
        return self.expire(now_ms)


@pytest.mark.parametrize(
    "bug",
    [
        TellsWhatIsStillReadAsReleased,
        KnowsNoEndOfTheSession,
        TakesAnyTimeToLetGo,
        TakesOlderAnswersForNew,
        HearsAnswersOfEarlierLives,
        TellsNobodyOfTheRelease,
        CommitsWhatWasLost,
    ],
    ids=lambda bug: bug.__name__,
)
def test_a_planted_bug_is_caught(bug):
    if issubclass(bug, MemberAssignment):
        bug = type("Buggy", (GroupMember,), {"assignment_type": bug})
    changed = "member_type" if issubclass(bug, GroupMember) else "commits_type"
    process_type = type("BuggyProcess", (MemberProcess,), {changed: bug})
    for seed in range(MUTANT_SEEDS):
        try:
            MemberSimulation(seed, process_type).run(FAULTY_MS)
        except AssertionError:
            return
    pytest.fail("no seed shows it")
