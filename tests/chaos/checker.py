"""Says of one run whether it proves anything, and whether the cluster kept its word in it."""

from collections import Counter
from dataclasses import dataclass, field, replace

from tests.chaos import group_checks, log_checks, replica_checks
from tests.chaos.evidence import Evidence, Violation
from tests.chaos.history import COMMIT, COMMITTED, END_OFFSET, FAIL, INFO, OK, SEND

SHOWN_PER_RULE = 5

OK_MIN = 100
OK_SHARE_MIN = 0.25
"""Fewer sends that succeed would leave nothing to lose."""

LOG_CHECKS = {
    "L1": log_checks.lost_writes,
    "L2": log_checks.unseen_writes,
    "L3": log_checks.inconsistent_offsets,
    "L4": log_checks.duplicates,
    "L5": log_checks.applied_failures,
    "L6": log_checks.nonmonotonic_sends,
    "L7": log_checks.skipping_polls,
    "L8": log_checks.changed_prefixes,
    "L9": log_checks.stale_ends,
    "L10": log_checks.unexplained_log_starts,
    "L11": replica_checks.diverging_replicas,
    "L12": log_checks.plausible_failures,
}
CHECKS = LOG_CHECKS | {"C3": group_checks.misplaced_groups}


@dataclass
class Verdict:
    """What a run showed.

    Attributes:
        violations: of invariants, by rule; empty where the cluster kept its word.
        trivial: why the run proves nothing; empty where it does.
        counts: of operations and of what became of them.
    """

    violations: dict = field(default_factory=dict)
    trivial: list = field(default_factory=list)
    counts: dict = field(default_factory=dict)

    @property
    def is_clean(self):
        return not self.violations and not self.trivial

    def __str__(self):
        lines = [f"{name} {count:,}" for name, count in self.counts.items()]
        told = [", ".join(lines)]
        for rule, found in self.violations.items():
            told.append(f"{rule} is broken in {len(found)} places:")
            told += [f"  {violation}" for violation in found[:SHOWN_PER_RULE]]
        told += [f"proves nothing: {reason}" for reason in self.trivial]
        return "\n".join(told)


def check(
    evidence: Evidence,
    *,
    faults: Counter,
    wanted: tuple,
    offsets: Evidence | None = None,
    ok_min: int = OK_MIN,
    ok_share_min: float = OK_SHARE_MIN,
) -> Verdict:
    """Hold a run against everything.

    Args:
        evidence: what was done and what is stored.
        faults: how often each fault was in effect.
        wanted: the faults that had to be.
        offsets: what is stored of the topic in which groups keep their offsets, if there is one.
        ok_min: how many sends have to succeed at least.
        ok_share_min: which share of all sends has to.
    """
    verdict = Verdict()
    for rule, find in CHECKS.items():
        found: list[Violation] = list(find(evidence))
        if found:
            verdict.violations[rule] = found
    if offsets is not None:
        for violation in replica_checks.diverging_states(offsets):
            of_groups = replace(violation, detail=f"offsets of groups, {violation.detail}")
            verdict.violations.setdefault(violation.rule, []).append(of_groups)
    verdict.counts = _counts(evidence, verdict)
    verdict.trivial = list(_trivial(evidence, faults, wanted, ok_min, ok_share_min))
    verdict.trivial += _trivial_groups(evidence, offsets)
    return verdict


def _counts(evidence, verdict):
    outcomes = Counter(
        operation.outcome for operation in evidence.operations if operation.function == SEND
    )
    return {
        "operations": len(evidence.operations),
        "sent": sum(outcomes.values()),
        "acknowledged": outcomes[OK],
        "refused": outcomes[FAIL],
        "info": outcomes[INFO],
        "records polled": sum(len(poll.records) for poll in evidence.polls),
        "ends asked": len(evidence.succeeded(END_OFFSET)),
        "commits": len(evidence.succeeded(COMMIT)),
        "commits asked": len(evidence.succeeded(COMMITTED)),
        "final copies": sum(copy.is_own for copy in evidence.copies),
        "final reads through others": sum(not copy.is_own for copy in evidence.copies),
        "lost": len(verdict.violations.get("L1", [])) + len(verdict.violations.get("L2", [])),
        "duplicated": len(verdict.violations.get("L4", [])),
        "divergent": len(verdict.violations.get("L3", [])) + len(verdict.violations.get("L11", [])),
    }


def _trivial(evidence, faults, wanted, ok_min, ok_share_min):
    for name in wanted:
        if faults[name] == 0:
            yield f"{name} never fired"
    sends = [each for each in evidence.operations if each.function == SEND]
    acknowledged = len(evidence.acknowledged)
    if acknowledged < ok_min:
        yield f"only {acknowledged} sends succeeded, of {ok_min} at least"
    if sends and acknowledged < ok_share_min * len(sends):
        yield f"only {acknowledged} of {len(sends)} sends succeeded"
    if not any(poll.records for poll in evidence.polls):
        yield "no poll read anything"
    if not evidence.succeeded(END_OFFSET):
        yield "no end was ever told"
    if not evidence.copies:
        yield "nothing was read in the end"
    yield from _unread(evidence)


def _trivial_groups(evidence, offsets):
    if not any(each.function == COMMIT for each in evidence.operations):
        return
    if not evidence.succeeded(COMMIT):
        yield "no commit of a group was accepted"
    if not any(told.next_offset is not None for told in evidence.succeeded(COMMITTED)):
        yield "nobody was told what a group has committed"
    if offsets is None:
        yield "the offsets of groups were not read in the end"
        return
    for reason in _unread(offsets):
        yield f"offsets of groups: {reason}"
    if not any(copy.records for copy in offsets.copies):
        yield "no offset of a group was read in the end"


def _unread(evidence):
    """What of the log nobody looked at in the end."""
    told = {send.partition for send in evidence.acknowledged}
    for partition in sorted(told - evidence.replicas.keys()):
        yield f"nobody says who has to hold partition {partition}"
    for partition, replicas in evidence.replicas.items():
        copies = [copy for copy in evidence.copies if copy.partition == partition]
        own = {copy.broker for copy in copies if copy.is_own}
        for broker in sorted(set(replicas) - own):
            yield f"partition {partition} was not read from broker {broker}, which holds it"
        for broker in sorted(set(evidence.brokers) - {copy.broker for copy in copies}):
            yield f"partition {partition} was not read through broker {broker}"
