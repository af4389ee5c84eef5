"""Why a replica is not in sync, and why a partition has no leader: in words, and as codes.

    broker_unregistered     no broker of that id is registered
    broker_not_ready        it answers, and says itself that it cannot serve: its disk hangs, ...
    broker_fenced           it is stopped, cut off, or has not caught up with the metadata
    broker_draining         it is shutting down
    disk_full               it takes no appends for want of room
    replica_lost_end        its log ended below where it had ended, and is being refilled
    replica_damaged         some of its log cannot be read
    directory_awaited       its broker came back with another data directory, without its log
    reassignment_adds       it is new, and fetches what there is
    replica_lags            it fetches, and has not got everything
    replica_silent          it has not fetched for long, or not at all under this leader
    replica_catching_up     its leader says nothing against it: it is about to be in sync
    leader_silent           its leader did not tell how far it is
    election_pending        a member of the ISR could lead, and is about to
    unclean_election_due    the topic allows one, so a replica outside the ISR is to lead
    unclean_election_by_name    the same, but only replicas are there that an operator has to name

The image tells the first, the third to the fifth, what a reassignment adds and which directory is
awaited; the rest is from reports of nodes.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from ottla_cluster.controller.image import BrokerState, MetadataImage, Partition
from ottla_cluster.controller.node_reports import (
    LaggingReplicaReport,
    NodeReport,
    UnfitReplicaReport,
)
from ottla_cluster.controller.topic_configs import (
    UNCLEAN_LEADER_ELECTION_ENABLE,
    boolean_config,
)
from ottla_cluster.controller.unclean_election_handlers import only_by_name
from ottla_protocol.counted_nouns import counted
from ottla_protocol.models_health import HealthReason

SILENT_AFTER_MS = 5_000
"""A follower that has not fetched for so long is told as silent, not as slow."""

ReplicaKey = tuple[str, int, int]
"""Topic id, partition, broker."""


@dataclass(frozen=True, slots=True)
class KnownReplicas:
    """What the nodes that reported tell of replicas."""

    nodes: Mapping[int, NodeReport]
    """The reports, by who reported."""
    unfit: Mapping[ReplicaKey, UnfitReplicaReport]
    lagging: Mapping[ReplicaKey, LaggingReplicaReport]

    @classmethod
    def of(cls, reports: Iterable[NodeReport]) -> "KnownReplicas":
        """The reports, to be looked up; there is one of each node."""
        reports = list(reports)
        return cls(
            {report.node_id: report for report in reports},
            {
                (each.topic_id, each.partition, report.node_id): each
                for report in reports
                for each in report.unfit
            },
            {
                (each.topic_id, each.partition, each.broker): each
                for report in reports
                for each in report.lagging
            },
        )


def broker_reasons(
    image: MetadataImage, node_id: int, report: NodeReport | None
) -> list[HealthReason]:
    """What keeps a broker from leading and from being in sync.

    Args:
        image: what the metadata knows.
        node_id: the broker.
        report: what it tells itself; None where it does not answer.
    """
    broker = image.brokers.get(node_id)
    if broker is None:
        return [_reason("broker_unregistered", f"broker {node_id} is not registered", node_id)]
    reasons = []
    if broker.state is BrokerState.FENCED:
        detail = f"broker {node_id} is fenced: {_why_fenced(report)}"
        reasons.append(_reason("broker_fenced", detail, node_id))
    elif broker.state is BrokerState.DRAINING:
        detail = f"broker {node_id} is shutting down"
        reasons.append(_reason("broker_draining", detail, node_id))
    if report is not None and report.not_ready and broker.state is BrokerState.ACTIVE:
        detail = f"broker {node_id} is not ready: {'; '.join(report.not_ready)}"
        reasons.append(_reason("broker_not_ready", detail, node_id))
    if broker.is_full:
        reasons.append(_reason("disk_full", f"broker {node_id}'s disk is full", node_id))
    return reasons


def _why_fenced(report: NodeReport | None) -> str:
    if report is None:
        return "it is stopped or cut off"
    if report.not_ready:
        return f"it runs, and says: {'; '.join(report.not_ready)}"
    return "it runs, and is about to be taken back"


def partition_reasons(
    image: MetadataImage, partition: Partition, known: KnownReplicas
) -> list[HealthReason]:
    """Why the partition has no leader, and why each replica outside its ISR is outside."""
    reasons: list[HealthReason] = []
    if partition.leader is None:
        reasons += _no_leader_reasons(image, partition, known)
    for node_id in partition.replicas:
        if node_id not in partition.isr:
            reasons += _missing_reasons(image, partition, node_id, known)
    return reasons


def unfit_reason(unfit: UnfitReplicaReport, node_id: int) -> HealthReason:
    """What a broker told of a replica of its own."""
    if unfit.state == "lost_end":
        detail = f"the replica on {node_id} lost the end of its log and is being refilled"
    else:
        detail = f"the replica on {node_id} has records that cannot be read"
    return _reason(f"replica_{unfit.state}", detail, node_id)


def _no_leader_reasons(
    image: MetadataImage, partition: Partition, known: KnownReplicas
) -> Iterator[HealthReason]:
    """Of each member of the ISR, why it does not lead."""
    for node_id in partition.isr:
        reasons = broker_reasons(image, node_id, known.nodes.get(node_id))
        unfit = known.unfit.get((partition.topic_id, partition.partition, node_id))
        if unfit is not None:
            reasons.append(unfit_reason(unfit, node_id))
        if partition.awaited_directory_id is not None:
            detail = (
                f"broker {node_id}, the last in-sync replica, came back without its log: that is "
                f"in the data directory with the id {partition.awaited_directory_id}"
            )
            reasons.append(_reason("directory_awaited", detail, node_id))
        if not reasons:
            detail = f"broker {node_id} is in sync and active: an election is under way"
            reasons.append(_reason("election_pending", detail, node_id))
        yield from reasons
    if not boolean_config(image.topics[partition.topic_id].configs, UNCLEAN_LEADER_ELECTION_ENABLE):
        return
    by_name = only_by_name(image, partition)
    if by_name:
        detail = (
            "the topic allows unclean elections, but of its replicas only "
            f"{', '.join(map(str, by_name))} {'is' if len(by_name) == 1 else 'are'} there, which "
            "a reassignment adds or whose log is known to be gone: nobody elects one of those but "
            "an operator, by naming the partition"
        )
        yield _reason("unclean_election_by_name", detail)
    else:
        detail = (
            "the topic allows unclean elections: another replica is to lead, and what it lacks "
            "will be lost"
        )
        yield _reason("unclean_election_due", detail)


def _missing_reasons(
    image: MetadataImage, partition: Partition, node_id: int, known: KnownReplicas
) -> list[HealthReason]:
    reasons = broker_reasons(image, node_id, known.nodes.get(node_id))
    key = (partition.topic_id, partition.partition, node_id)
    unfit, lagging = known.unfit.get(key), known.lagging.get(key)
    if unfit is not None:
        reasons.append(unfit_reason(unfit, node_id))
    if node_id in partition.adding_replicas:
        behind = _behind(lagging)
        detail = f"reassignment adds {node_id}" + (f", which {behind}" if behind else "")
        reasons.append(_reason("reassignment_adds", detail, node_id))
    if not reasons:
        reasons.append(_lag_reason(partition, node_id, lagging, known))
    return reasons


def _lag_reason(
    partition: Partition, node_id: int, lagging: LaggingReplicaReport | None, known: KnownReplicas
) -> HealthReason:
    if lagging is not None:
        is_silent = lagging.silent_ms is None or lagging.silent_ms > SILENT_AFTER_MS
        code = "replica_silent" if is_silent else "replica_lags"
        behind = _behind(lagging)
        detail = f"the replica on {node_id} {behind}; it has lagged for {lagging.lags_ms} ms"
        return _reason(code, detail, node_id)
    leader = partition.leader
    if leader is not None and leader not in known.nodes:
        detail = f"broker {leader}, the leader, did not tell how far {node_id} is"
        return _reason("leader_silent", detail, node_id)
    return _reason("replica_catching_up", f"the replica on {node_id} catches up", node_id)


def _behind(lagging: LaggingReplicaReport | None) -> str:
    if lagging is None:
        return ""
    if lagging.missing_offsets is None or lagging.silent_ms is None:
        return "has not fetched from this leader yet"
    text = f"lacks {counted(lagging.missing_offsets, 'offset')}"
    if lagging.silent_ms > SILENT_AFTER_MS:
        text += f" and has not fetched for {lagging.silent_ms} ms"
    return text


def _reason(code: str, detail: str, broker: int | None = None) -> HealthReason:
    return HealthReason(code, detail, broker)
