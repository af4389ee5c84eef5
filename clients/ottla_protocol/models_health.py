"""What `GET /v1/cluster/health` answers.

Codes are for programs, details for people. A reader ignores what it does not know, codes too.
"""

from typing import Literal

from ottla_protocol.models import Response

Status = Literal["healthy", "degraded", "unavailable"]
"""How the cluster is.

- unavailable: something is not served now. There is no controller, or a partition has no leader, or
  has too few replicas in sync for acks=all.
- degraded: all is served, and some of what makes it safe is missing.
- healthy: neither. A reassignment under way is healthy.
"""

Condition = Literal["offline", "under_min_isr", "at_min_isr", "under_replicated", "reassigning"]
"""What there is to tell of a partition, the worst first.

- offline: it has no leader, so it is neither written nor read.
- under_min_isr: fewer replicas than `min_insync_replicas` are in sync: acks=all is refused.
- at_min_isr: replicas are missing, and if one more goes, acks=all is refused.
- under_replicated: fewer replicas are in sync than it is to have.
- reassigning: it is on its way to other replicas.
"""

DEFAULT_HEALTH_LIMIT = 100
MAX_HEALTH_LIMIT = 1_000
"""How many partitions one answer tells of."""


class HealthReason(Response, frozen=True):
    """Why something is as it is; `broker` is whom it is about, where it is one."""

    code: str
    detail: str
    broker: int | None = None


class PartitionHealth(Response, frozen=True):
    """A partition of which there is something to tell, the worst condition first."""

    topic: str
    partition: int
    conditions: list[Condition]
    leader: int | None
    replicas: list[int]
    isr: list[int]
    min_insync_replicas: int
    """The effective one: at most the number of replicas."""
    reasons: list[HealthReason]


class BrokerHealth(Response, frozen=True):
    """A registered broker; `state` is active, fenced or draining.

    `answers` tells whether it answered the broker that asked, and `metadata_version` how far it is.
    `drain_partitions_left` is how many partitions have to leave it yet, and None where it is not to
    be drained of its replicas. A broker that is drained and has none left may be gone: that is no
    reason against the cluster's health.
    """

    id: int
    state: str
    is_full: bool
    answers: bool
    metadata_version: int | None
    drain_partitions_left: int | None
    reasons: list[HealthReason]


class VoterHealth(Response, frozen=True):
    """A voter of the metadata quorum, and the controller and term that it knows."""

    id: int
    answers: bool
    controller: int | None
    term: int | None


class UnfitReplicaHealth(Response, frozen=True):
    """A replica that lacks records that it had acknowledged; see the code `replica_...`."""

    topic: str
    partition: int
    broker: int
    reason: HealthReason


class HealthCounts(Response, frozen=True):
    """How many there are in all, whatever part of them is listed."""

    brokers: int
    active_brokers: int
    partitions: int
    offline: int
    under_min_isr: int
    at_min_isr: int
    under_replicated: int
    reassigning: int
    unfit_replicas: int


class ClusterHealth(Response, frozen=True):
    """The cluster's health as the broker `served_by` knows it.

    Where `metadata_is_current` is false no controller has confirmed what is told here; it was
    confirmed `metadata_age_ms` ago, or never since that broker started (None).
    """

    status: Status
    cluster_id: str
    served_by: int
    controller: int | None
    controller_term: int
    metadata_version: int
    metadata_is_current: bool
    metadata_age_ms: int | None
    counts: HealthCounts
    reasons: list[HealthReason]
    """Why it is not healthy, the worst first; of each kind one."""
    brokers: list[BrokerHealth]
    voters: list[VoterHealth]
    unfit_replicas: list[UnfitReplicaHealth]
    partitions: list[PartitionHealth]
    next_cursor: str | None = None
    """Where the list of partitions goes on; None at its end."""
