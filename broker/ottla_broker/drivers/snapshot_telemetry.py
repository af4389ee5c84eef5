"""What is told of metadata snapshots: a log line and a metric for each made, sent, installed."""

import structlog

from ottla_broker.telemetry import METRICS
from ottla_cluster.raft.messages import Compaction, InstallSnapshotRequest, Snapshot

log = structlog.get_logger()


def tell_made(compaction: Compaction, *, took_ms: int) -> None:
    """This voter took a snapshot, and its log is cut."""
    snapshot = compaction.snapshot
    METRICS.metadata_snapshots.labels("made").inc()
    _measure(snapshot)
    log.info(
        "metadata_snapshot_made",
        version=snapshot.index,
        size_bytes=len(snapshot.data),
        log_begins_at=compaction.compacted_index + 1,
        took_ms=took_ms,
    )


def tell_sent(part: InstallSnapshotRequest) -> None:
    """A part of a snapshot leaves; with the last one all of it has."""
    if part.chunk and part.offset + len(part.chunk) == part.size_bytes:
        METRICS.metadata_snapshots.labels("sent").inc()
        log.info(
            "metadata_snapshot_sent",
            voter=part.receiver,
            version=part.index,
            size_bytes=part.size_bytes,
        )


def tell_restored(snapshot: Snapshot, *, from_leader: bool) -> None:
    """The metadata are those of a snapshot: the leader's, or after a restart this voter's own."""
    if from_leader:
        METRICS.metadata_snapshots.labels("installed").inc()
    _measure(snapshot)
    log.info(
        "metadata_snapshot_installed" if from_leader else "metadata_snapshot_restored",
        version=snapshot.index,
        size_bytes=len(snapshot.data),
    )


def _measure(snapshot: Snapshot) -> None:
    METRICS.metadata_snapshot_bytes.set(len(snapshot.data))
    METRICS.metadata_snapshot_version.set(snapshot.index)
