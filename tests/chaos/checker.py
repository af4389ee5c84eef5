"""Says of one run whether it proves anything, and whether the cluster kept its word in it."""

from collections import Counter
from dataclasses import dataclass, field

from tests.chaos.history import END_OFFSET, FAIL, INFO, OK, SEND
from tests.chaos.log_checks import CHECKS, Evidence, Violation

SHOWN_PER_RULE = 5

OK_MIN = 100
OK_SHARE_MIN = 0.25
"""Fewer sends that succeed would leave nothing to lose."""


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
    ok_min: int = OK_MIN,
    ok_share_min: float = OK_SHARE_MIN,
) -> Verdict:
    """Hold a run against everything.

    Args:
        evidence: what was done and what is stored.
        faults: how often each fault was in effect.
        wanted: the faults that had to be.
        ok_min: how many sends have to succeed at least.
        ok_share_min: which share of all sends has to.
    """
    verdict = Verdict()
    for rule, find in CHECKS.items():
        found: list[Violation] = list(find(evidence))
        if found:
            verdict.violations[rule] = found
    verdict.counts = _counts(evidence, verdict)
    verdict.trivial = list(_trivial(evidence, faults, wanted, ok_min, ok_share_min))
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
        "final copies": len(evidence.copies),
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
