"""The alarms: when each fires, how bad that is, and which runbook tells what to do.

A Prometheus scrape job is one cluster. Gauges that only the active controller tells are summed over
the job, so it does not matter who is the controller. Counters that begin with a label's first event
have no earlier sample to increase from, so `_happened` asks for the new series as well.
"""

from dataclasses import dataclass
from typing import Final, Literal

JOB_LABEL: Final = "job"
RUNBOOK_DIRECTORY: Final = "ops/runbooks"

Severity = Literal["critical", "warning"]


@dataclass(frozen=True, slots=True)
class Alert:
    """One alarm.

    Attributes:
        name: in CamelCase, begins with Ottla.
        expression: PromQL; the alarm is raised for every series that it gives.
        for_duration: how long that must hold, as Prometheus writes durations.
        severity: critical where clients cannot work or records are in danger, else warning.
        summary: one line; may use the series' labels.
        runbook: the runbook's name, without directory and suffix.
    """

    name: str
    expression: str
    for_duration: str
    severity: Severity
    summary: str
    runbook: str


@dataclass(frozen=True, slots=True)
class AlertGroup:
    """Alarms that are evaluated together."""

    name: str
    alerts: tuple[Alert, ...]


def _happened(counter: str, window: str) -> str:
    """Whether a counter that has labels rose within the window, its first event included."""
    return f"increase({counter}[{window}]) > 0 or ({counter} unless {counter} offset {window}) > 0"


AVAILABILITY: Final = AlertGroup(
    "ottla-availability",
    (
        Alert(
            "OttlaBrokerDown",
            'up{job=~"ottla.*"} == 0',
            "1m",
            "critical",
            "{{ $labels.instance }} does not answer Prometheus",
            "broker-down",
        ),
        Alert(
            "OttlaNoController",
            "sum by (job) (ottla_is_controller) < 1",
            "30s",
            "critical",
            "no node of {{ $labels.job }} is the controller: nothing can be elected or changed",
            "no-controller",
        ),
        Alert(
            "OttlaControllerUnstable",
            "max by (job) (increase(ottla_elections_total[15m])) > 5",
            "0m",
            "warning",
            "the controller of {{ $labels.job }} changed {{ $value }} times in 15 minutes",
            "no-controller",
        ),
        Alert(
            "OttlaOfflinePartitions",
            "sum by (job) (ottla_offline_partitions) > 0",
            "30s",
            "critical",
            "{{ $value }} partitions of {{ $labels.job }} have no leader",
            "offline-partitions",
        ),
        Alert(
            "OttlaRequestsFail",
            'sum by (job) (rate(ottla_http_requests_total{status=~"5.."}[5m]))'
            " / sum by (job) (rate(ottla_http_requests_total[5m])) > 0.01",
            "10m",
            "critical",
            "{{ $value | humanizePercentage }} of the requests to {{ $labels.job }} end in 5xx",
            "requests-fail",
        ),
    ),
)

REPLICATION: Final = AlertGroup(
    "ottla-replication",
    (
        Alert(
            "OttlaUnderMinIsrPartitions",
            "sum by (job) (ottla_under_min_isr_partitions) > 0",
            "1m",
            "critical",
            "{{ $value }} partitions of {{ $labels.job }} refuse acks=all: too few replicas",
            "under-min-isr",
        ),
        Alert(
            "OttlaUnderReplicatedPartitions",
            "sum by (job) (ottla_under_replicated_partitions) > 0",
            "10m",
            "warning",
            "{{ $value }} partitions of {{ $labels.job }} lack replicas in sync",
            "under-replicated",
        ),
        Alert(
            "OttlaFollowerLags",
            "max by (job, follower) (ottla_follower_lag_seconds) > 60",
            "5m",
            "warning",
            "broker {{ $labels.follower }} of {{ $labels.job }} has been behind a leader for "
            "{{ $value }} seconds",
            "under-replicated",
        ),
        Alert(
            "OttlaUncleanElection",
            "increase(ottla_unclean_elections_total[1h]) > 0",
            "0m",
            "critical",
            "a replica that was not in sync leads in {{ $labels.job }}: acknowledged records may "
            "be lost",
            "unclean-election",
        ),
        Alert(
            "OttlaReplicaUnfit",
            "ottla_unfit_replicas > 0",
            "30m",
            "warning",
            "{{ $value }} replicas on {{ $labels.instance }} lack records and do not heal",
            "damaged-replicas",
        ),
        Alert(
            "OttlaDamageFound",
            _happened("ottla_damage_found_total", "1h"),
            "0m",
            "warning",
            "damaged records on {{ $labels.instance }}, found by {{ $labels.found_by }}",
            "damaged-replicas",
        ),
    ),
)

RESOURCES: Final = AlertGroup(
    "ottla-resources",
    (
        Alert(
            "OttlaDiskFull",
            "ottla_disk_full == 1",
            "0m",
            "critical",
            "the disk of {{ $labels.instance }} has no room: it takes no appends",
            "disk-full",
        ),
        Alert(
            "OttlaDiskFillsUp",
            "predict_linear(ottla_disk_free_bytes[6h], 86400) < 0",
            "30m",
            "warning",
            "the disk of {{ $labels.instance }} is full within a day if it goes on like this",
            "disk-full",
        ),
        Alert(
            "OttlaDiskHangs",
            "ottla_disk_hung == 1 or increase(ottla_disk_hangs_total[10m]) > 0",
            "0m",
            "critical",
            "the disk of {{ $labels.instance }} takes no writes and does not fail",
            "disk-hangs",
        ),
        Alert(
            "OttlaEventLoopBlocked",
            "increase(ottla_event_loop_blocks_total[10m]) > 5",
            "0m",
            "warning",
            "{{ $labels.instance }} was kept from working {{ $value }} times for 250 ms or more",
            "slow-broker",
        ),
        Alert(
            "OttlaProduceSlow",
            "histogram_quantile(0.99, sum by (job, le)"
            ' (rate(ottla_produce_seconds_bucket{acks="all"}[5m]))) > 1',
            "10m",
            "warning",
            "one in a hundred produces with acks=all in {{ $labels.job }} takes over a second",
            "slow-broker",
        ),
        Alert(
            "OttlaCommitsSlow",
            "histogram_quantile(0.99, sum by (job, instance, le)"
            " (rate(ottla_commit_seconds_bucket[5m]))) > 0.5",
            "10m",
            "warning",
            "one in a hundred commits on {{ $labels.instance }} takes over half a second: its disk "
            "is slow",
            "slow-broker",
        ),
        Alert(
            "OttlaLimitNear",
            'ottla_limit_used{limit!="open_segments"} / ottla_limit_max > 0.8',
            "10m",
            "warning",
            "{{ $value | humanizePercentage }} of {{ $labels.limit }} on {{ $labels.instance }} is "
            "taken; beyond the limit requests are refused",
            "limits-reached",
        ),
        Alert(
            "OttlaDescriptorsRunOut",
            "process_open_fds / process_max_fds > 0.9"
            " and on (job, instance) ottla_metadata_version",
            "10m",
            "warning",
            "{{ $labels.instance }} has {{ $value | humanizePercentage }} of its descriptors open",
            "descriptors-run-out",
        ),
    ),
)

WORK: Final = AlertGroup(
    "ottla-work",
    (
        Alert(
            "OttlaGroupsRebalance",
            "sum by (job) (increase(ottla_group_expired_members_total[15m])) > 10",
            "5m",
            "warning",
            "{{ $value }} group members of {{ $labels.job }} fell silent in 15 minutes",
            "groups-rebalance",
        ),
        Alert(
            "OttlaGroupLags",
            "max by (job, group) (deriv(ottla_group_lag_records[30m])) > 0"
            " and max by (job, group) (min_over_time(ottla_group_lag_records[30m])) > 1000",
            "15m",
            "warning",
            "group {{ $labels.group }} of {{ $labels.job }} falls behind by {{ $value }} records "
            "a second and has not caught up for half an hour",
            "groups-lag",
        ),
        Alert(
            "OttlaMarkersOverdue",
            "min_over_time(ottla_transaction_markers_overdue[5m]) > 0",
            "5m",
            "warning",
            "{{ $value }} markers of {{ $labels.instance }}, which end transactions, are not taken",
            "markers-overdue",
        ),
        Alert(
            "OttlaCompactionFails",
            _happened("ottla_compaction_errors_total", "1h"),
            "0m",
            "warning",
            "compaction on {{ $labels.instance }} fails: {{ $labels.reason }}",
            "old-records-stay",
        ),
        Alert(
            "OttlaRetentionFails",
            "increase(ottla_retention_errors_total[1h]) > 0",
            "0m",
            "warning",
            "{{ $labels.instance }} keeps what is old, because it cannot be read",
            "old-records-stay",
        ),
    ),
)

ALERT_GROUPS: Final = (AVAILABILITY, REPLICATION, RESOURCES, WORK)

ALERTS: Final = tuple(alert for group in ALERT_GROUPS for alert in group.alerts)
