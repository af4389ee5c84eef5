"""What one node tells another of itself when it is asked for the cluster's health.

The metadata says who is in sync, and not why somebody is not: how far a follower lags only its
leader knows, and that a log lost its end only the broker that opened it. Reports are a view of one
moment; nothing is decided by them.
"""

from typing import Literal

import msgspec

MAX_REPORTED_REPLICAS = 2_000
"""Replicas in one report, of each kind; about 100 bytes each."""


class UnfitReplicaReport(msgspec.Struct, frozen=True):
    """A replica of the reporting broker that lacks records that it had acknowledged."""

    topic_id: str
    partition: int
    state: Literal["damaged", "lost_end"]
    """damaged: some of it cannot be read; lost_end: it ends below where it ended before."""


class LaggingReplicaReport(msgspec.Struct, frozen=True):
    """A replica outside the ISR of a partition that the reporting broker leads."""

    topic_id: str
    partition: int
    broker: int
    missing_offsets: int | None
    """How far its log ends below the leader's; None before its first fetch."""
    silent_ms: int | None
    """How long ago it fetched; None before its first fetch."""
    lags_ms: int
    """For how long at least it has not had everything that the leader had."""


class NodeReport(msgspec.Struct, frozen=True):
    """One node's view."""

    node_id: int
    term: int
    controller: int | None
    metadata_version: int
    unfit: list[UnfitReplicaReport] = []
    lagging: list[LaggingReplicaReport] = []
    omitted: int = 0
    """Replicas that found no room in the report."""
    not_ready: list[str] = []
    """Why it says of itself that it cannot serve, as on `/readyz`; empty when it can."""


class SilentNode(msgspec.Struct, frozen=True):
    """A node that was asked and did not report, and why."""

    node_id: int
    reason: str
