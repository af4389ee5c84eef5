"""Logs and metrics of one broker process.

Logs are structlog events: `console` for a terminal, `json` for everything else; never the contents
of records, never secrets. Metrics are Prometheus', in a registry of this process's own; names and
labels are fixed here so that dashboards can rely on them. No label holds anything that a client can
make up without bound.
"""

import logging
import sys
from collections.abc import Sequence
from typing import Any

import structlog
from aiohttp.http_exceptions import HttpProcessingError
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from ottla_broker.event_loop_histogram import EventLoopHistogram
from ottla_broker.follower_gauges import FollowerGauges
from ottla_broker.group_lag_gauges import GroupLagGauges
from ottla_broker.limit_gauges import LimitGauges
from ottla_broker.partition_gauges import PartitionGauges
from ottla_broker.request_id import add_request_id

LATENCY_BUCKETS_SECONDS = (
    0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0,
)  # fmt: skip
COMMIT_BYTES_BUCKETS = tuple(float(1 << exponent) for exponent in range(8, 27, 2))
COMMIT_BATCHES_BUCKETS = tuple(float(1 << exponent) for exponent in range(0, 13, 2))
COMMIT_RECORDS_BUCKETS = tuple(float(1 << exponent) for exponent in range(0, 21, 2))

# When each series began: as many series again, which nothing here asks for.
disable_created_metrics()  # type: ignore[no-untyped-call]  # it has no annotations


class Metrics:
    """Every metric that the broker exports."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)
        self.hosted_partitions = PartitionGauges()
        registry.register(self.hosted_partitions)
        self.follower_lags = FollowerGauges()
        registry.register(self.follower_lags)
        self.group_lags = GroupLagGauges()
        registry.register(self.group_lags)
        self.limits = LimitGauges()
        registry.register(self.limits)
        self.http_requests = Counter(
            "ottla_http_requests", "Requests by route, method and status",
            ["route", "method", "status"], registry=registry,
        )  # fmt: skip
        self.produce_seconds = _latency(
            registry, "ottla_produce_seconds", "From a parsed produce to its ack", ["acks"]
        )
        self.produced_bytes = Counter(
            "ottla_produced_bytes", "Record batch bytes appended as leader", registry=registry
        )
        self.produced_batches = Counter(
            "ottla_produced_batches", "Record batches appended as leader", registry=registry
        )
        self.produced_records = Counter(
            "ottla_produced_records", "Records appended as leader", registry=registry
        )
        self.produce_errors = Counter(
            "ottla_produce_errors", "Failed appends by error code", ["code"], registry=registry
        )
        self.commit_seconds = _latency(
            registry,
            "ottla_commit_seconds",
            "Group commits of partition logs: one transaction and its fsync, as SQLite does both",
            [],
        )
        self.commit_bytes = _histogram(
            registry, "ottla_commit_bytes", "Record batch bytes in one group commit",
            COMMIT_BYTES_BUCKETS,
        )  # fmt: skip
        self.commit_batches = _histogram(
            registry, "ottla_commit_batches", "Record batches in one group commit",
            COMMIT_BATCHES_BUCKETS,
        )  # fmt: skip
        self.commit_records = _histogram(
            registry, "ottla_commit_records", "Records in one group commit",
            COMMIT_RECORDS_BUCKETS,
        )  # fmt: skip
        self.duplicates = Counter(
            "ottla_produce_duplicates", "Retries answered with the original offsets",
            registry=registry,
        )  # fmt: skip
        self.fetch_seconds = _latency(
            registry, "ottla_fetch_seconds", "Reads by kind, long-poll wait included", ["kind"]
        )
        self.fetched_bytes = Counter(
            "ottla_fetched_bytes", "Record batch bytes served by kind", ["kind"], registry=registry
        )
        self.followers = Gauge(
            "ottla_followers", "Clients that follow topics or partitions, by kind: sse or ndjson",
            ["kind"], registry=registry,
        )  # fmt: skip
        self.record_feeds = Gauge(
            "ottla_record_feeds", "What they follow: each is read and rendered once for all",
            registry=registry,
        )  # fmt: skip
        self.followed_bytes = Counter(
            "ottla_followed_bytes", "Bytes sent to followers by kind", ["kind"], registry=registry
        )
        self.refused_followers = Counter(
            "ottla_refused_followers", "Followers refused at max_followers", registry=registry
        )
        self.ended_followers = Counter(
            "ottla_ended_followers",
            "Streams that ended by reason: gone, slow, stopping, or the code of an error",
            ["reason"], registry=registry,
        )  # fmt: skip
        self.forwarded_requests = Counter(
            "ottla_forwarded_requests", "Requests passed on to a leader by kind and outcome",
            ["kind", "outcome"], registry=registry,
        )  # fmt: skip
        self.forward_seconds = _latency(
            registry, "ottla_forward_seconds",
            "Calls to a leader or coordinator for a client, by kind: produce, read, group; parked "
            "and streamed ones, which may wait there for news",
            ["kind"],
        )  # fmt: skip
        self.transaction_verification_seconds = _histogram(
            registry, "ottla_transaction_verification_seconds",
            "From asking a transaction's coordinator to take partitions in, until it has",
            LATENCY_BUCKETS_SECONDS,
        )  # fmt: skip
        self.replicated_bytes = Counter(
            "ottla_replicated_bytes", "Bytes appended as follower", registry=registry
        )
        self.replicated_batches = Counter(
            "ottla_replicated_batches", "Record batches appended as follower", registry=registry
        )
        self.replicated_records = Counter(
            "ottla_replicated_records", "Records appended as follower", registry=registry
        )
        self.replica_fetch_seconds = _latency(
            registry, "ottla_replica_fetch_seconds",
            "A follower's fetch until its leader's answer, which may wait half a second for more",
            [],
        )  # fmt: skip
        self.reassignment_bytes = Counter(
            "ottla_reassignment_bytes", "Bytes sent as leader to replicas that are being added",
            registry=registry,
        )  # fmt: skip
        self.replication_seconds = _latency(
            registry, "ottla_replication_seconds", "From a leader's answer to its commit here", []
        )
        self.replication_errors = Counter(
            "ottla_replication_errors", "Errors of replica fetches by code", ["code"],
            registry=registry,
        )  # fmt: skip
        self.unclean_elections = Counter(
            "ottla_unclean_elections",
            "Leaders elected from outside the ISR: told by the controller, and by who leads so",
            registry=registry,
        )  # fmt: skip
        self.removed_segments = Counter(
            "ottla_removed_segments", "Segments removed by retention", registry=registry
        )
        self.removed_bytes = Counter(
            "ottla_removed_bytes", "File bytes of segments removed by retention",
            registry=registry,
        )  # fmt: skip
        self.retention_errors = Counter(
            "ottla_retention_errors", "Logs that kept what is old, because it cannot be read",
            registry=registry,
        )  # fmt: skip
        self.disk_free_bytes = Gauge(
            "ottla_disk_free_bytes", "Free bytes of the data directory's disk", registry=registry
        )
        self.disk_full = Gauge(
            "ottla_disk_full", "1 while appends are refused because the disk has no room",
            registry=registry,
        )  # fmt: skip
        self.disk_hung = Gauge(
            "ottla_disk_hung", "1 while the data directory's disk neither takes writes nor fails",
            registry=registry,
        )  # fmt: skip
        self.disk_hangs = Counter(
            "ottla_disk_hangs", "Times that the disk began to hang", registry=registry
        )
        self.disk_oldest_write_seconds = Gauge(
            "ottla_disk_oldest_write_seconds", "How long the oldest write has been under way",
            registry=registry,
        )  # fmt: skip
        self.held_commits = Counter(
            "ottla_held_commits", "Commits that found no room and are tried again",
            registry=registry,
        )  # fmt: skip
        self.compactions = Counter(
            "ottla_compactions", "Logs compacted, each time counted", registry=registry
        )
        self.compaction_errors = Counter(
            "ottla_compaction_errors", "Failed compactions by reason: damage, room or storage",
            ["reason"], registry=registry,
        )  # fmt: skip
        self.compaction_seconds = Counter(
            "ottla_compaction_seconds", "Time that compactions took, their pauses included",
            registry=registry,
        )  # fmt: skip
        self.compaction_read_bytes = Counter(
            "ottla_compaction_read_bytes", "Record batch bytes that compactions have read",
            registry=registry,
        )  # fmt: skip
        self.compaction_bytes_before = Counter(
            "ottla_compaction_bytes_before", "File bytes of segments before their compaction",
            registry=registry,
        )  # fmt: skip
        self.compaction_bytes_after = Counter(
            "ottla_compaction_bytes_after", "File bytes of what compactions left of them",
            registry=registry,
        )  # fmt: skip
        self.compacted_records = Counter(
            "ottla_compacted_records",
            "Records that compactions left out, by reason: superseded, tombstone, no_key, aborted",
            ["reason"], registry=registry,
        )  # fmt: skip
        self.damage = Counter(
            "ottla_damage_found", "Damaged places found in segments, by what found them",
            ["found_by"], registry=registry,
        )  # fmt: skip
        self.lost_tails = Counter(
            "ottla_lost_tails", "Logs that were opened and end below where they ended before",
            registry=registry,
        )  # fmt: skip
        self.unfit_replicas = Gauge(
            "ottla_unfit_replicas", "Hosted replicas that lack records, until they are refilled",
            registry=registry,
        )  # fmt: skip
        self.healed_replicas = Counter(
            "ottla_healed_replicas", "Replicas that were refilled and are in sync again",
            registry=registry,
        )  # fmt: skip
        self.witnessed_ends = Counter(
            "ottla_witnessed_ends", "Ends of logs written to the witness", registry=registry
        )
        self.scrubbed_bytes = Counter(
            "ottla_scrubbed_bytes", "Record batch bytes verified by scrubbing", registry=registry
        )
        self.scrub_passes = Counter(
            "ottla_scrub_passes", "Passes of scrubbing over all logs that have ended",
            registry=registry,
        )  # fmt: skip
        self.scrub_progress = Gauge(
            "ottla_scrub_progress_ratio", "How much of the present or last pass is done",
            registry=registry,
        )  # fmt: skip
        self.isr_changes = Counter(
            "ottla_isr_changes", "ISR proposals accepted by direction", ["direction"],
            registry=registry,
        )  # fmt: skip
        self.elections = Counter(
            "ottla_elections", "Controller terms that this node began or saw begin",
            registry=registry,
        )  # fmt: skip
        self.begun_leaderships = Counter(
            "ottla_begun_leaderships", "Leader epochs of partitions that began on this broker",
            registry=registry,
        )  # fmt: skip
        self.controller_event_seconds = _latency(
            registry, "ottla_controller_event_seconds",
            "From a command's arrival at the active controller to its committed answer, by command",
            ["event"],
        )  # fmt: skip
        self.controller_refusals = Counter(
            "ottla_controller_refusals", "Commands that the active controller refused, by code",
            ["code"], registry=registry,
        )  # fmt: skip
        self.is_controller = Gauge(
            "ottla_is_controller", "1 while this node is the active controller", registry=registry
        )
        self.metadata_version = Gauge(
            "ottla_metadata_version", "Applied version of the metadata log", registry=registry
        )
        self.metadata_snapshots = Counter(
            "ottla_metadata_snapshots",
            "Snapshots of the metadata: made here, sent to a voter, installed from the leader",
            ["event"], registry=registry,
        )  # fmt: skip
        self.metadata_snapshot_bytes = Gauge(
            "ottla_metadata_snapshot_bytes", "Size of the newest metadata snapshot here",
            registry=registry,
        )  # fmt: skip
        self.metadata_snapshot_version = Gauge(
            "ottla_metadata_snapshot_version",
            "Version of the newest metadata snapshot here: a restart replays from there",
            registry=registry,
        )  # fmt: skip
        self.partitions = Gauge(
            "ottla_partitions", "Hosted replicas by role", ["role"], registry=registry
        )
        self.under_replicated = Gauge(
            "ottla_under_replicated_partitions",
            "Partitions whose ISR is not complete, told by the active controller; 0 elsewhere",
            registry=registry,
        )  # fmt: skip
        self.under_min_isr = Gauge(
            "ottla_under_min_isr_partitions",
            "Partitions with too few in sync for acks=all, told by the active controller",
            registry=registry,
        )  # fmt: skip
        self.offline = Gauge(
            "ottla_offline_partitions",
            "Partitions without a leader, told by the active controller",
            registry=registry,
        )  # fmt: skip
        self.fetch_sessions = Gauge(
            "ottla_fetch_sessions",
            "Brokers that fetch from this one and say only what changed",
            registry=registry,
        )
        self.replica_fetches = Counter(
            "ottla_replica_fetches_total",
            "Fetches of followers: full, naming all partitions, or incremental",
            ["kind"],
            registry=registry,
        )
        self.parked_requests = Gauge(
            "ottla_parked_requests", "Requests waiting in purgatory", registry=registry
        )
        self.inflight_produce_bytes = Gauge(
            "ottla_inflight_produce_bytes", "Produce bodies not yet answered", registry=registry
        )
        self.inflight_other_bytes = Gauge(
            "ottla_inflight_other_bytes", "Other bodies of clients not yet answered",
            registry=registry,
        )  # fmt: skip
        self.unsent_answer_bytes = Gauge(
            "ottla_unsent_answer_bytes", "Large answers that clients have not taken yet",
            registry=registry,
        )  # fmt: skip
        self.groups = Gauge(
            "ottla_groups", "Consumer groups coordinated here by state", ["state"],
            registry=registry,
        )  # fmt: skip
        self.group_members = Gauge(
            "ottla_group_members", "Members of the groups coordinated here", registry=registry
        )
        self.group_pending_transactions = Gauge(
            "ottla_group_pending_transactions",
            "Open transactions with offsets of groups coordinated here",
            registry=registry,
        )
        self.group_coordinators = Gauge(
            "ottla_group_coordinators", "Led partitions of the offsets topic by state", ["state"],
            registry=registry,
        )  # fmt: skip
        self.group_load_seconds = _latency(
            registry, "ottla_group_load_seconds", "How long a coordinator took to read its state",
            [],
        )  # fmt: skip
        self.group_heartbeats = Counter(
            "ottla_group_heartbeats", "Heartbeats taken as coordinator", registry=registry
        )
        self.group_commits = Counter(
            "ottla_group_commits", "Commits of offsets accepted as coordinator", registry=registry
        )
        self.group_rebalances = Counter(
            "ottla_group_rebalances", "New targets for a group's members", registry=registry
        )
        self.group_expired_members = Counter(
            "ottla_group_expired_members", "Members that were silent or stuck", registry=registry
        )
        self.transaction_coordinators = Gauge(
            "ottla_transaction_coordinators", "Led partitions of the transaction topic by state",
            ["state"], registry=registry,
        )  # fmt: skip
        self.open_transactions = Gauge(
            "ottla_open_transactions", "Open transactions coordinated here", registry=registry
        )
        self.ended_transactions = Counter(
            "ottla_ended_transactions",
            "Transactions that were open and decided here, by end (committed, aborted) and by who "
            "decided (producer, timeout, operator, successor)",
            ["end", "by"],
            registry=registry,
        )
        self.hanging_transactions_ended = Counter(
            "ottla_hanging_transactions_ended",
            "Transactions that no coordinator was going to end, and that were ended in a log that "
            "is led here, by end (committed, aborted)",
            ["end"],
            registry=registry,
        )
        self.overdue_markers = Gauge(
            "ottla_transaction_markers_overdue",
            "Markers of decided transactions that their partitions did not take, and still lack",
            registry=registry,
        )
        self.transaction_marker_seconds = _latency(
            registry, "ottla_transaction_marker_seconds",
            "From a transaction's durable end until all its partitions have their markers", [],
        )  # fmt: skip
        self.marker_failures = Counter(
            "ottla_transaction_marker_failures",
            "Markers that a leader did not take, and that are sent again, by error code",
            ["code"],
            registry=registry,
        )
        self.transaction_load_seconds = _latency(
            registry, "ottla_transaction_load_seconds",
            "How long a transaction coordinator took to read its state", [],
        )  # fmt: skip
        self.event_loop_lag_seconds = _latency(
            registry, "ottla_event_loop_lag_seconds", "How late a timer fires", []
        )
        self.event_loop_lag_max_seconds = Gauge(
            "ottla_event_loop_lag_max_seconds", "Largest lag of the last 30 to 60 seconds",
            registry=registry,
        )  # fmt: skip
        self.event_loop_blocks = Counter(
            "ottla_event_loop_blocks", "Lags of 250 ms and more; each has a line in the log",
            registry=registry,
        )  # fmt: skip

    def render(self) -> bytes:
        """The exposition text."""
        return generate_latest(self.registry)


def _latency(
    registry: CollectorRegistry, name: str, text: str, labels: list[str]
) -> EventLoopHistogram:
    return EventLoopHistogram(
        name, text, labels, buckets=LATENCY_BUCKETS_SECONDS, registry=registry
    )


def _histogram(
    registry: CollectorRegistry, name: str, text: str, buckets: Sequence[float]
) -> EventLoopHistogram:
    return EventLoopHistogram(name, text, (), buckets=buckets, registry=registry)


METRICS = Metrics()
"""The process's metrics: one broker is one process, so one instance serves it."""


def configure_logging(log_format: str | None, level: str, **context: Any) -> None:
    """Send structlog to stdout: `console` or `json`, by terminal when None.

    Args:
        log_format: console, json or None.
        level: debug, info, warning or error.
        context: bound to every line of this process.
    """
    console = log_format == "console" or (log_format is None and sys.stdout.isatty())
    renderer: Any = (
        structlog.dev.ConsoleRenderer(colors=sys.stdout.isatty(), pad_event_to=28)
        if console
        else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            add_request_id,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[level.upper()]
        ),
        logger_factory=structlog.WriteLoggerFactory(sys.stdout),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(**context)
    logging.basicConfig(level=logging.WARNING, handlers=[_StandardLibraryHandler()])


class _StandardLibraryHandler(logging.Handler):
    """Makes what aiohttp and asyncio report lines like all others."""

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        log = structlog.get_logger()
        if isinstance(error, HttpProcessingError):
            # Its text quotes what a client sent in place of HTTP, which may be anything.
            log.info("malformed_http", error=type(error).__name__)
        else:
            log.log(record.levelno, record.getMessage(), logger=record.name, exc_info=error)
