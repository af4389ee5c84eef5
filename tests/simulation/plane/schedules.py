"""All named schedules of the plane."""

from tests.simulation.plane import (
    added_replica_schedules,
    cluster_schedules,
    giving_up_schedules,
    handover_schedules,
    partition_schedules,
    quorum_schedules,
    unclean_schedules,
    voter_schedules,
)

SCHEDULES = (
    partition_schedules.SCHEDULES
    | quorum_schedules.SCHEDULES
    | cluster_schedules.SCHEDULES
    | voter_schedules.SCHEDULES
    | giving_up_schedules.SCHEDULES
    | handover_schedules.SCHEDULES
    | unclean_schedules.SCHEDULES
    | added_replica_schedules.SCHEDULES
)
