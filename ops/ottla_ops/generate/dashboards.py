"""What the Grafana dashboards show; `grafana` makes JSON of it.

Every query is about the cluster (`$job`) and the brokers (`$instance`) that are chosen on the page.
`SELECTED` stands for both, so that no query forgets one.
"""

from dataclasses import dataclass
from typing import Final, Literal

SELECTED: Final = 'job="$job", instance=~"$instance"'

Unit = Literal["short", "percentunit", "bytes", "Bps", "s", "ops", "reqps"]


@dataclass(frozen=True, slots=True)
class Query:
    """One PromQL expression and how its series are called (`{{label}}` is the label's value)."""

    expression: str
    legend: str


@dataclass(frozen=True, slots=True)
class Panel:
    """One graph, or one number where `is_number`."""

    title: str
    unit: Unit
    queries: tuple[Query, ...]
    is_number: bool = False


@dataclass(frozen=True, slots=True)
class Dashboard:
    """One page. `uid` is its lasting name in URLs."""

    uid: str
    title: str
    panels: tuple[Panel, ...]


def _rate(counter: str, by: str = "instance", labels: str = "") -> str:
    selected = f"{SELECTED}, {labels}" if labels else SELECTED
    return f"sum by ({by}) (rate({counter}{{{selected}}}[$__rate_interval]))"


def _graph(title: str, unit: Unit, expression: str, legend: str = "{{instance}}") -> Panel:
    return Panel(title, unit, (Query(expression, legend),))


def _rates(title: str, unit: Unit, counter: str, by: str = "instance") -> Panel:
    return _graph(title, unit, _rate(counter, by), f"{{{{{by}}}}}")


def _gauges(title: str, unit: Unit, gauge: str) -> Panel:
    return _graph(title, unit, f"{gauge}{{{SELECTED}}}")


def _by_follower(title: str, unit: Unit, gauge: str, function: Literal["sum", "max"]) -> Panel:
    return _graph(title, unit, f"{function} by (follower) ({gauge}{{{SELECTED}}})", "{{follower}}")


def _number(title: str, gauge: str) -> Panel:
    """What the active controller alone tells, or what is added up over the brokers."""
    return Panel(title, "short", (Query(f'sum({gauge}{{job="$job"}})', ""),), is_number=True)


def _latencies(title: str, histogram: str, by: str = "") -> Panel:
    grouping = f"{by}, le" if by else "le"
    label = f"{{{{{by}}}}} " if by else ""
    buckets = _rate(f"{histogram}_bucket", grouping)
    return Panel(
        title,
        "s",
        tuple(
            Query(f"histogram_quantile({quantile}, {buckets})", f"{label}{name}")
            for quantile, name in (("0.5", "p50"), ("0.99", "p99"))
        ),
    )


def _means(title: str, unit: Unit, histogram: str) -> Panel:
    return _graph(title, unit, f"{_rate(f'{histogram}_sum')} / {_rate(f'{histogram}_count')}")


OVERVIEW: Final = Dashboard(
    "ottla-overview",
    "Ottla / Overview",
    (
        Panel("Brokers up", "short", (Query('sum(up{job="$job"})', ""),), is_number=True),
        _number("Controllers", "ottla_is_controller"),
        _number("Offline partitions", "ottla_offline_partitions"),
        _number("Partitions below min ISR", "ottla_under_min_isr_partitions"),
        _number("Under-replicated partitions", "ottla_under_replicated_partitions"),
        _number("Unfit replicas", "ottla_unfit_replicas"),
        _rates("Requests by status", "reqps", "ottla_http_requests_total", "status"),
        _latencies("Produce latency by acks", "ottla_produce_seconds", "acks"),
        _rates("Produced bytes", "Bps", "ottla_produced_bytes_total"),
        _rates("Fetched bytes by kind", "Bps", "ottla_fetched_bytes_total", "kind"),
        _gauges("Free disk", "bytes", "ottla_disk_free_bytes"),
        _gauges("Oldest write under way", "s", "ottla_disk_oldest_write_seconds"),
        _gauges("Memory", "bytes", "process_resident_memory_bytes"),
        _rates("Processor time", "percentunit", "process_cpu_seconds_total"),
        _latencies("Event-loop lag", "ottla_event_loop_lag_seconds"),
        _gauges("Largest event-loop lag", "s", "ottla_event_loop_lag_max_seconds"),
        _graph(
            "Open descriptors of those allowed",
            "percentunit",
            f"process_open_fds{{{SELECTED}}} / process_max_fds{{{SELECTED}}}",
        ),
        _graph(
            "How much of each limit is taken",
            "percentunit",
            f"max by (limit) (ottla_limit_used{{{SELECTED}}} / ottla_limit_max{{{SELECTED}}})",
            "{{limit}}",
        ),
        _rates("Controller's events", "ops", "ottla_controller_event_seconds_count", "event"),
        _latencies("Time of controller's events", "ottla_controller_event_seconds"),
        _rates(
            "What controllers refuse, by code", "ops", "ottla_controller_refusals_total", "code"
        ),
        _rates("Elections of controllers", "ops", "ottla_elections_total"),
    ),
)

TOPICS: Final = Dashboard(
    "ottla-topics",
    "Ottla / Topics",
    (
        _rates("Records produced", "ops", "ottla_produced_records_total"),
        _rates("Batches produced", "ops", "ottla_produced_batches_total"),
        _rates("Bytes produced", "Bps", "ottla_produced_bytes_total"),
        _rates("Failed appends by code", "ops", "ottla_produce_errors_total", "code"),
        _rates("Retries answered from memory", "ops", "ottla_produce_duplicates_total"),
        _latencies("Produce latency by acks", "ottla_produce_seconds", "acks"),
        _latencies("Group commits, fsync included", "ottla_commit_seconds"),
        _means("Bytes in a group commit", "bytes", "ottla_commit_bytes"),
        _means("Records in a group commit", "short", "ottla_commit_records"),
        _means("Batches in a group commit", "short", "ottla_commit_batches"),
        _latencies("Read latency by kind, waiting included", "ottla_fetch_seconds", "kind"),
        _rates("Bytes read by kind", "Bps", "ottla_fetched_bytes_total", "kind"),
        _graph(
            "Requests passed on, by kind and outcome",
            "reqps",
            _rate("ottla_forwarded_requests_total", "kind, outcome"),
            "{{kind}} {{outcome}}",
        ),
        _latencies("Passing on by kind", "ottla_forward_seconds", "kind"),
        _latencies("Asking coordinators of transactions", "ottla_transaction_verification_seconds"),
        _graph(
            "Clients that follow",
            "short",
            f"sum by (kind) (ottla_followers{{{SELECTED}}})",
            "{{kind}}",
        ),
        _rates("Streams that ended, by reason", "ops", "ottla_ended_followers_total", "reason"),
        _rates("Bytes sent to followers", "Bps", "ottla_followed_bytes_total", "kind"),
        _gauges("Parked requests", "short", "ottla_parked_requests"),
        _gauges("Produce bodies in flight", "bytes", "ottla_inflight_produce_bytes"),
        _gauges("Answers not taken yet", "bytes", "ottla_unsent_answer_bytes"),
        _graph(
            "Log size by topic",
            "bytes",
            f"sum by (topic) (ottla_partition_size_bytes{{{SELECTED}}})",
            "{{topic}}",
        ),
        _graph(
            "Records below the high watermark by topic",
            "short",
            "sum by (topic) (max by (topic, partition)"
            f" (ottla_partition_high_watermark{{{SELECTED}}})"
            " - max by (topic, partition)"
            f" (ottla_partition_log_start_offset{{{SELECTED}}}))",
            "{{topic}}",
        ),
        _graph(
            "Records that wait for transactions, by topic",
            "short",
            "sum by (topic) (max by (topic, partition)"
            f" (ottla_partition_high_watermark{{{SELECTED}}}"
            f" - ottla_partition_last_stable_offset{{{SELECTED}}}))",
            "{{topic}}",
        ),
        _rates("Segments removed by retention", "ops", "ottla_removed_segments_total"),
        _rates("Records left out by compaction", "ops", "ottla_compacted_records_total", "reason"),
        _rates("Failed compactions by reason", "ops", "ottla_compaction_errors_total", "reason"),
    ),
)

GROUPS: Final = Dashboard(
    "ottla-groups",
    "Ottla / Consumer groups",
    (
        _graph(
            "Groups by state", "short", f"sum by (state) (ottla_groups{{{SELECTED}}})", "{{state}}"
        ),
        _gauges("Members by coordinator", "short", "ottla_group_members"),
        _graph(
            "Lag by group",
            "short",
            f"max by (group) (ottla_group_lag_records{{{SELECTED}}})",
            "{{group}}",
        ),
        _graph(
            "Lag in the worst partition by group",
            "short",
            f"max by (group) (ottla_group_lag_largest_records{{{SELECTED}}})",
            "{{group}}",
        ),
        _gauges("Groups without a lag", "short", "ottla_groups_unmeasured"),
        _rates("Heartbeats", "ops", "ottla_group_heartbeats_total"),
        _rates("Commits of offsets", "ops", "ottla_group_commits_total"),
        _rates("Rebalances", "ops", "ottla_group_rebalances_total"),
        _rates("Members that fell silent", "ops", "ottla_group_expired_members_total"),
        _graph(
            "Coordinators by state",
            "short",
            f"sum by (state) (ottla_group_coordinators{{{SELECTED}}})",
            "{{state}}",
        ),
        _latencies("Loading of coordinators", "ottla_group_load_seconds"),
    ),
)

TRANSACTIONS: Final = Dashboard(
    "ottla-transactions",
    "Ottla / Transactions",
    (
        _gauges("Open transactions by coordinator", "short", "ottla_open_transactions"),
        _gauges(
            "Open transactions with offsets, by the groups' coordinator",
            "short",
            "ottla_group_pending_transactions",
        ),
        _gauges("Markers that were not taken", "short", "ottla_transaction_markers_overdue"),
        _rates("Transactions ended, by how", "ops", "ottla_ended_transactions_total", "end"),
        _rates("Transactions ended, by whom", "ops", "ottla_ended_transactions_total", "by"),
        _rates(
            "Hanging transactions ended, by how",
            "ops",
            "ottla_hanging_transactions_ended_total",
            "end",
        ),
        _latencies("From a decision to its last marker", "ottla_transaction_marker_seconds"),
        _latencies(
            "Until a partition is in its transaction", "ottla_transaction_verification_seconds"
        ),
        _rates(
            "Markers that were not taken, by code",
            "ops",
            "ottla_transaction_marker_failures_total",
            "code",
        ),
        _graph(
            "Coordinators by state",
            "short",
            f"sum by (state) (ottla_transaction_coordinators{{{SELECTED}}})",
            "{{state}}",
        ),
        _latencies("Loading of coordinators", "ottla_transaction_load_seconds"),
    ),
)

REPLICATION: Final = Dashboard(
    "ottla-replication",
    "Ottla / Replication",
    (
        _number("Under-replicated partitions", "ottla_under_replicated_partitions"),
        _number("Partitions below min ISR", "ottla_under_min_isr_partitions"),
        _number("Offline partitions", "ottla_offline_partitions"),
        _graph(
            "Replicas by role",
            "short",
            f"sum by (instance, role) (ottla_partitions{{{SELECTED}}})",
            "{{instance}} {{role}}",
        ),
        _rates("Leaderships that begin", "ops", "ottla_begun_leaderships_total"),
        _rates("ISR changes", "ops", "ottla_isr_changes_total", "direction"),
        _rates("Bytes replicated", "Bps", "ottla_replicated_bytes_total"),
        _graph(
            "Records that wait for replicas, by topic",
            "short",
            f"sum by (topic) (ottla_partition_log_end_offset{{{SELECTED}}}"
            f" - ottla_partition_high_watermark{{{SELECTED}}})",
            "{{topic}}",
        ),
        _rates("Records replicated", "ops", "ottla_replicated_records_total"),
        _latencies("From a leader's answer to the commit", "ottla_replication_seconds"),
        _latencies("Fetches of followers, waiting included", "ottla_replica_fetch_seconds"),
        _by_follower("Records that followers lack", "short", "ottla_follower_lag_records", "sum"),
        _by_follower("How long followers are behind", "s", "ottla_follower_lag_seconds", "max"),
        _by_follower("Partitions behind", "short", "ottla_follower_partitions_behind", "sum"),
        _rates("Replication errors by code", "ops", "ottla_replication_errors_total", "code"),
        _rates("Fetches of followers by kind", "ops", "ottla_replica_fetches_total", "kind"),
        _gauges("Fetch sessions", "short", "ottla_fetch_sessions"),
        _rates("Bytes sent to replicas being added", "Bps", "ottla_reassignment_bytes_total"),
        _gauges("Unfit replicas", "short", "ottla_unfit_replicas"),
        _rates("Replicas healed", "ops", "ottla_healed_replicas_total"),
        _rates("Damage found, by what found it", "ops", "ottla_damage_found_total", "found_by"),
        _gauges("Pass of scrubbing", "percentunit", "ottla_scrub_progress_ratio"),
        _gauges("Metadata version", "short", "ottla_metadata_version"),
        _rates("Metadata snapshots by event", "ops", "ottla_metadata_snapshots_total", "event"),
        _rates("Unclean elections", "ops", "ottla_unclean_elections_total"),
    ),
)

DASHBOARDS: Final = (OVERVIEW, TOPICS, GROUPS, TRANSACTIONS, REPLICATION)
