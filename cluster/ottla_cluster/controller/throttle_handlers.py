"""The handler that sets how fast reassigned partitions are copied."""

from ottla_cluster.controller.commands import (
    AlterReplicationThrottle,
    ReplicationThrottleAlteredResponse,
)
from ottla_cluster.controller.features import REPLICATION_THROTTLE, require
from ottla_cluster.controller.image import MetadataImage
from ottla_cluster.controller.limits import (
    MAX_REPLICATION_THROTTLE_BYTES_PER_SECOND,
    MIN_REPLICATION_THROTTLE_BYTES_PER_SECOND,
)
from ottla_cluster.controller.records import MetadataRecord, ReplicationThrottleChanged
from ottla_cluster.state_machine.result import Result
from ottla_protocol.errors import InvalidRequestError


def alter_replication_throttle(
    image: MetadataImage, command: AlterReplicationThrottle
) -> Result[MetadataRecord, ReplicationThrottleAlteredResponse]:
    """Sets the rate of all brokers, or takes it away.

    Raises:
        InvalidRequestError: the rate is out of range.
        UnsupportedFeatureLevelError: a process of the cluster may not know of throttles.
    """
    require(image, REPLICATION_THROTTLE)
    rate = command.bytes_per_second
    lowest = MIN_REPLICATION_THROTTLE_BYTES_PER_SECOND
    highest = MAX_REPLICATION_THROTTLE_BYTES_PER_SECOND
    if rate is not None and not lowest <= rate <= highest:
        raise InvalidRequestError(
            f"throttle_bytes_per_second must be from {lowest} to {highest}, or null for no "
            f"throttle, not {rate}.",
            field="throttle_bytes_per_second",
        )
    response = ReplicationThrottleAlteredResponse(rate)
    if rate == image.replication_throttle_bytes_per_second:
        return Result((), response)
    return Result((ReplicationThrottleChanged(rate),), response)
