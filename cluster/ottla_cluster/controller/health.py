"""The cluster's health: a pure function of the metadata image and of what nodes report.

`Knowledge` is all that the asking broker knows; `assess` says what an operator should hear of it,
the worst first. How up to date that is, is part of the answer: without a controller a broker still
tells what it knew last, and says so.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ottla_cluster.controller.drain_planning import replicas_on
from ottla_cluster.controller.elections import effective_min_isr
from ottla_cluster.controller.image import BrokerState, MetadataImage, Partition, Topic
from ottla_cluster.controller.node_reports import NodeReport, SilentNode
from ottla_cluster.controller.partition_conditions import (
    CONDITIONS,
    ConditionCensus,
    ConditionCounts,
)
from ottla_cluster.controller.replica_reasons import (
    KnownReplicas,
    broker_reasons,
    partition_reasons,
    unfit_reason,
)
from ottla_protocol.errors import InvalidRequestError
from ottla_protocol.models_health import (
    DEFAULT_HEALTH_LIMIT,
    BrokerHealth,
    ClusterHealth,
    Condition,
    HealthCounts,
    HealthReason,
    PartitionHealth,
    Status,
    UnfitReplicaHealth,
    VoterHealth,
)

MAX_LISTED_UNFIT_REPLICAS = 100

_UNSERVED: tuple[Condition, ...] = ("offline", "under_min_isr")
_WORDS = {
    "offline": "without a leader: neither written nor read",
    "under_min_isr": "with fewer replicas in sync than min.insync.replicas: acks=all is refused",
    "at_min_isr": "with just min.insync.replicas in sync: if one more goes, acks=all is refused",
    "under_replicated": "with fewer replicas in sync than they are to have",
}


@dataclass(frozen=True, slots=True)
class Knowledge:
    """What the broker that was asked knows."""

    node_id: int
    image: MetadataImage
    controller: int | None
    """The controller that it knows of."""
    term: int
    is_current: bool
    """Whether a controller has just confirmed that the image is all that is committed."""
    age_ms: int | None
    """How long ago one last did; None for never."""
    voters: Sequence[int]
    """All of them, whether or not it is known where they are."""
    reports: Sequence[NodeReport]
    """Of every node that answered, itself included; one of each."""
    silent: Sequence[SilentNode]
    """The nodes that were asked and did not answer."""


@dataclass(frozen=True, slots=True)
class Page:
    """Which part of the partitions to list.

    Attributes:
        limit: how many at most.
        condition: only those in this condition; None for all that there is to tell of.
        cursor: where the list goes on, from the answer before.
    """

    limit: int = DEFAULT_HEALTH_LIMIT
    condition: Condition | None = None
    cursor: str | None = None


_Rank = tuple[int, str, int]
"""Worst condition, topic, partition: the order of the list."""


def assess(
    known: Knowledge, page: Page | None = None, census: ConditionCensus | None = None
) -> ClusterHealth:
    """The cluster's health.

    Args:
        known: what is known.
        page: which partitions to list; the first of them without.
        census: one that has looked at an earlier image saves looking at what did not change.

    Raises:
        InvalidRequestError: the page's cursor is none of ours.
    """
    page = page or Page()
    after = None if page.cursor is None else _rank_of_cursor(page.cursor)
    census = census or ConditionCensus()
    counts = census.count(known.image)
    replicas = KnownReplicas.of(known.reports)
    unfit = list(_unfit(known))
    brokers = list(_brokers(known))
    reasons = list(_reasons(known, counts, brokers, len(unfit)))
    partitions, next_cursor = _partitions(known.image, census, replicas, page, after)
    return ClusterHealth(
        status=_status(known, counts, reasons),
        cluster_id=known.image.cluster_id or "",
        served_by=known.node_id,
        controller=known.controller,
        controller_term=known.term,
        metadata_version=known.image.version,
        metadata_is_current=known.is_current,
        metadata_age_ms=known.age_ms,
        counts=HealthCounts(
            brokers=len(known.image.brokers),
            active_brokers=len(known.image.active_brokers()),
            partitions=counts.partitions,
            offline=counts.offline,
            under_min_isr=counts.under_min_isr,
            at_min_isr=counts.at_min_isr,
            under_replicated=counts.under_replicated,
            reassigning=counts.reassigning,
            unfit_replicas=len(unfit),
        ),
        reasons=reasons,
        brokers=brokers,
        voters=list(_voters(known)),
        unfit_replicas=unfit[:MAX_LISTED_UNFIT_REPLICAS],
        partitions=partitions,
        next_cursor=next_cursor,
    )


def _status(known: Knowledge, counts: ConditionCounts, reasons: list[HealthReason]) -> Status:
    is_served = known.is_current and not counts.offline and not counts.under_min_isr
    if not is_served:
        return "unavailable"
    return "degraded" if reasons else "healthy"


def _reasons(
    known: Knowledge, counts: ConditionCounts, brokers: Sequence[BrokerHealth], unfit: int
) -> Iterator[HealthReason]:
    """Why the cluster is not healthy, the worst first."""
    if not known.is_current:
        yield _no_controller(known)
    for condition in CONDITIONS:
        count = getattr(counts, condition)
        if count and condition in _WORDS:
            yield HealthReason(condition, f"{_partition_count(count)} {_WORDS[condition]}")
    # A broker without replicas may go; of the others the reasons as brokers speak for the vote too.
    needed = {broker.id for broker in brokers if broker.drain_partitions_left != 0}
    for broker in brokers:
        if broker.id in needed:
            yield from broker.reasons
    voters = set(known.voters) - needed
    for node in known.silent:
        if node.node_id in voters:
            yield _silent_voter(node)
    for report in known.reports:
        if report.not_ready and report.node_id in voters:
            yield _voter_not_ready(report)
    if unfit:
        yield HealthReason(
            "unfit_replicas",
            f"{unfit} replica{'' if unfit == 1 else 's'} with records missing that had been there",
        )


def _no_controller(known: Knowledge) -> HealthReason:
    age = (
        "never since this broker started"
        if known.age_ms is None
        else f"{known.age_ms} ms ago for the last time"
    )
    if known.controller is None:
        detail = (
            "no controller is elected as far as this broker knows, so nothing can be changed; "
            f"what it tells was confirmed {age}"
        )
        return HealthReason("no_controller", detail)
    detail = (
        f"controller {known.controller} did not confirm what this broker knows; "
        f"it was confirmed {age}"
    )
    return HealthReason("controller_silent", detail, known.controller)


def _silent_voter(node: SilentNode) -> HealthReason:
    detail = f"voter {node.node_id} does not answer: {node.reason}"
    return HealthReason("voter_silent", detail, node.node_id)


def _voter_not_ready(report: NodeReport) -> HealthReason:
    detail = f"controller {report.node_id} is not ready: {'; '.join(report.not_ready)}"
    return HealthReason("voter_not_ready", detail, report.node_id)


def _brokers(known: Knowledge) -> Iterator[BrokerHealth]:
    reports = {report.node_id: report for report in known.reports}
    silent = {node.node_id: node for node in known.silent}
    for node_id, broker in sorted(known.image.brokers.items()):
        report = reports.get(node_id)
        reasons = broker_reasons(known.image, node_id, report)
        if node_id in silent and broker.state is not BrokerState.FENCED:
            detail = f"broker {node_id} does not answer: {silent[node_id].reason}"
            reasons.append(HealthReason("broker_silent", detail, node_id))
        yield BrokerHealth(
            id=node_id,
            state=broker.state.value,
            is_full=broker.is_full,
            answers=report is not None,
            metadata_version=None if report is None else report.metadata_version,
            drain_partitions_left=(
                replicas_on(known.image, node_id) if node_id in known.image.drains else None
            ),
            reasons=reasons,
        )


def _voters(known: Knowledge) -> Iterator[VoterHealth]:
    reports = {report.node_id: report for report in known.reports}
    for node_id in sorted(known.voters):
        report = reports.get(node_id)
        if report is None:
            yield VoterHealth(node_id, answers=False, controller=None, term=None)
        else:
            yield VoterHealth(node_id, answers=True, controller=report.controller, term=report.term)


def _unfit(known: Knowledge) -> Iterator[UnfitReplicaHealth]:
    """What is reported of partitions that there still are, by topic, partition and broker."""
    found = [
        UnfitReplicaHealth(
            known.image.topics[each.topic_id].name,
            each.partition,
            report.node_id,
            unfit_reason(each, report.node_id),
        )
        for report in known.reports
        for each in report.unfit
        if each.topic_id in known.image.topics
    ]
    yield from sorted(found, key=lambda each: (each.topic, each.partition, each.broker))


def _partitions(
    image: MetadataImage,
    census: ConditionCensus,
    replicas: KnownReplicas,
    page: Page,
    after: _Rank | None,
) -> tuple[list[PartitionHealth], str | None]:
    """One page of the list, and where it goes on."""
    told: list[tuple[_Rank, Topic, Partition, list[Condition]]] = []
    for topic, partition, conditions in census.told(image):
        if page.condition is not None and page.condition not in conditions:
            continue
        rank = (CONDITIONS.index(conditions[0]), topic.name, partition.partition)
        if after is None or rank > after:
            told.append((rank, topic, partition, conditions))
    told.sort(key=lambda each: each[0])
    listed = [
        PartitionHealth(
            topic=topic.name,
            partition=partition.partition,
            conditions=conditions,
            leader=partition.leader,
            replicas=list(partition.replicas),
            isr=list(partition.isr),
            min_insync_replicas=effective_min_isr(topic, partition),
            reasons=partition_reasons(image, partition, replicas),
        )
        for _, topic, partition, conditions in told[: page.limit]
    ]
    if len(told) <= page.limit:
        return listed, None
    return listed, _cursor(told[page.limit - 1][0])


def _cursor(rank: _Rank) -> str:
    worst, topic, partition = rank
    return f"{CONDITIONS[worst]}:{topic}:{partition}"


def _rank_of_cursor(cursor: str) -> _Rank:
    condition, _, rest = cursor.partition(":")
    topic, _, partition = rest.rpartition(":")
    if condition not in CONDITIONS or not (partition.isascii() and partition.isdigit()):
        raise InvalidRequestError(
            f"cursor must be the next_cursor of an answer, not {cursor!r}.", parameter="cursor"
        )
    return CONDITIONS.index(condition), topic, int(partition[:9])


def _partition_count(count: int) -> str:
    return f"{count} partition{'' if count == 1 else 's'}"
