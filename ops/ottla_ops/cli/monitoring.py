"""What a monitoring system is told: a status, one line, and figures.

Nagios, Icinga, Sensu and others run a plugin, take its exit code for the status and its first line
for the reason; figures follow a bar (Monitoring Plugins Development Guidelines, "Plugin Output for
Nagios" and "Performance data"). The judgements here are pure: an answer of the broker in, a
`Verdict` out.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Final

from ottla_ops.cli.failures import CommandError, ExitCode
from ottla_protocol.counted_nouns import counted

if TYPE_CHECKING:
    from ottla_protocol.models import TopicDescription
    from ottla_protocol.models_groups import GroupDescription, PartitionLag
    from ottla_protocol.models_health import ClusterHealth

NAMED_MAX: Final = 5
"""How many partitions or reasons the line names; a pager shows little."""

IN_SYNC_CONFIG: Final = "min.insync.replicas"


class State(IntEnum):
    """A plugin's exit codes."""

    OK = 0
    WARNING = 1
    CRITICAL = 2
    UNKNOWN = 3


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of the performance data; above a threshold is too much."""

    name: str
    value: int
    warning: int | None = None
    critical: int | None = None

    def text(self) -> str:
        """As the guidelines have it: `name=value;warning;critical;minimum`."""
        bounds = ("" if bound is None else str(bound) for bound in (self.warning, self.critical))
        return f"{self.name}={self.value};{';'.join(bounds)};0"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a check came to.

    Attributes:
        state: the status.
        message: why, in one line.
        figures: what may be drawn over time.
    """

    state: State
    message: str
    figures: Sequence[Figure] = field(default=())

    def line(self) -> str:
        """The one line that a monitoring system reads."""
        # A bar ends the message, so it cannot be part of it.
        message = " ".join(self.message.split()).replace("|", "/")
        figures = " ".join(figure.text() for figure in self.figures)
        return f"OTTLA {self.state.name} - {message}" + (f" | {figures}" if figures else "")

    def document(self) -> dict[str, object]:
        """The same for programs."""
        return {
            "state": self.state.name,
            "exit_code": self.state.value,
            "message": self.message,
            "figures": {
                figure.name: {
                    "value": figure.value,
                    "warning": figure.warning,
                    "critical": figure.critical,
                }
                for figure in self.figures
            },
        }


def cluster_verdict(health: "ClusterHealth") -> Verdict:
    """Degraded is a warning: all is served. What is not served is critical."""
    states = {"healthy": State.OK, "degraded": State.WARNING, "unavailable": State.CRITICAL}
    counts = health.counts
    reasons = [reason.detail for reason in health.reasons]
    message = f"{health.status}, {counts.active_brokers} of {counts.brokers} brokers active"
    return Verdict(
        states.get(health.status, State.UNKNOWN),
        message + (f": {_some(reasons)}" if reasons else ""),
        (
            Figure("active_brokers", counts.active_brokers),
            Figure("partitions", counts.partitions),
            Figure("offline", counts.offline, critical=0),
            Figure("under_min_isr", counts.under_min_isr, critical=0),
            Figure("under_replicated", counts.under_replicated, warning=0),
        ),
    )


def topic_verdict(topic: "TopicDescription", min_insync_replicas: int) -> Verdict:
    """Critical where a partition is not read, or not written with acks=all; else who is missing.

    Args:
        topic: the topic.
        min_insync_replicas: its config; a partition with fewer replicas needs only those.
    """
    offline, under_min, under_replicated = [], [], []
    for each in topic.partitions:
        # What a reassignment adds is not missing while it catches up, as in the cluster's health.
        complete = len(each.replicas) - len(each.adding_replicas)
        if each.leader is None:
            offline.append(each.partition)
        elif len(each.isr) < min(min_insync_replicas, complete):
            under_min.append(each.partition)
        elif len(each.isr) < complete:
            under_replicated.append(each.partition)
    parts = [
        f"{what}: {_some([str(partition) for partition in sorted(partitions)])}"
        for what, partitions in (
            ("no leader", offline),
            (f"fewer in sync than {IN_SYNC_CONFIG}", under_min),
            ("replicas missing", under_replicated),
        )
        if partitions
    ]
    state = State.CRITICAL if offline or under_min else State.OK
    if state is State.OK and under_replicated:
        state = State.WARNING
    count = len(topic.partitions)
    said = "; ".join(parts) or f"{counted(count, 'partition')}, all replicas in sync"
    return Verdict(
        state,
        f"topic {topic.name}: {said}",
        (
            Figure("partitions", count),
            Figure("offline", len(offline), critical=0),
            Figure("under_min_isr", len(under_min), critical=0),
            Figure("under_replicated", len(under_replicated), warning=0),
        ),
    )


def group_verdict(
    group: "GroupDescription",
    *,
    warning: int | None,
    critical: int | None,
    topics: Sequence[str] = (),
    min_members: int = 0,
) -> Verdict:
    """How far a group is behind, all partitions together.

    A partition where it has committed and whose end nobody tells makes the lag unknown; only a lag
    that is critical already is told in spite of it. Where it never committed it has no lag.

    Args:
        group: the group.
        warning: a lag above it is a warning; None for none.
        critical: a lag above it is critical; None for none.
        topics: only these; all when empty.
        min_members: with fewer members it is critical, whatever the lag.
    """
    offsets = [each for each in group.offsets if not topics or each.topic in topics]
    missing = sorted(set(topics) - {each.topic for each in offsets})
    if missing:
        return Verdict(State.UNKNOWN, f"group {group.group} has no offsets of {_some(missing)}")
    lag = sum(each.lag for each in offsets if each.lag is not None)
    unknown = [each for each in offsets if each.committed is not None and each.lag is None]
    worst = sorted((each for each in offsets if each.lag), key=lambda each: -(each.lag or 0))
    figures = (
        Figure("lag", lag, warning, critical),
        Figure("members", len(group.members)),
    )
    name = f"group {group.group}"
    if len(group.members) < min_members:
        message = f"{name} has {len(group.members)} of {min_members} members, lag {lag}"
        return Verdict(State.CRITICAL, message, figures)
    most = f", most of it {_some([_lag_text(each) for each in worst])}" if worst else ""
    behind = counted(lag, "record") + most
    if critical is not None and lag > critical:
        return Verdict(State.CRITICAL, f"{name} lags by {behind}", figures)
    if unknown:
        where = _some([f"{each.topic}-{each.partition}" for each in unknown])
        return Verdict(State.UNKNOWN, f"{name}: nobody tells the end of {where}", figures)
    if warning is not None and lag > warning:
        return Verdict(State.WARNING, f"{name} lags by {behind}", figures)
    return Verdict(State.OK, f"{name} lags by {behind}", figures)


def failure_verdict(error: CommandError) -> Verdict:
    """What a failed command says of what it was to look at.

    The guidelines: wrong options are unknown; that nobody answers, or that what should be there is
    not, is a finding.
    """
    findings = {ExitCode.UNAVAILABLE, ExitCode.NOT_FOUND}
    state = State.CRITICAL if error.exit_code in findings else State.UNKNOWN
    return Verdict(state, error.message)


def _some(texts: Sequence[str]) -> str:
    named = ", ".join(texts[:NAMED_MAX])
    return named + (f" and {len(texts) - NAMED_MAX} more" if len(texts) > NAMED_MAX else "")


def _lag_text(each: "PartitionLag") -> str:
    return f"{each.topic}-{each.partition} ({each.lag})"
