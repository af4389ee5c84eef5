"""Ottla's Python SDK for asyncio: the names of `ottla`, with `await`.

from ottla.aio import Admin, Producer
"""

from typing import TYPE_CHECKING, Any

import ottla

if TYPE_CHECKING:
    from ottla._aio_admin import (
        Admin,
    )
    from ottla._aio_producer import (
        Producer,
    )
    from ottla._config import (
        AdminConfig,
        ProducerConfig,
    )
    from ottla._errors import (
        BufferExhaustedError,
        ClientError,
        ClusterUnreachableError,
        ConfigError,
        DeliveryTimeoutError,
        ForkedProcessError,
        InvalidRecordError,
        ProducerClosedError,
        SerializationError,
    )
    from ottla._futures import (
        AsyncManyFuture,
        AsyncRecordFuture,
        DeliveryReport,
        RecordMetadata,
        WaitTimedOutError,
    )
    from ottla._partitioner import (
        ClusterView,
        PartitionInfo,
    )
    from ottla._record import (
        ProducerRecord,
    )
    from ottla._telemetry import (
        OpenTelemetryInterceptor,
    )
    from ottla._transport import (
        BrokerUnreachableError,
    )
    from ottla_protocol.errors import (
        ConflictError,
        InvalidConfigError,
        InvalidPartitionsError,
        InvalidProducerEpochError,
        InvalidReplicaAssignmentError,
        InvalidReplicationFactorError,
        InvalidRequestError,
        InvalidTopicError,
        MessageTooLargeError,
        NoReassignmentInProgressError,
        NotEnoughReplicasError,
        NotFoundError,
        OttlaError,
        Outcome,
        PreferredLeaderNotAvailableError,
        RequestTimedOutError,
        RoutingError,
        TopicAlreadyExistsError,
        UnavailableError,
        UnknownTopicOrPartitionError,
    )
    from ottla_protocol.models import (
        BrokerDescription,
        ClusterDescription,
        ElectedPartition,
        OffsetResponse,
        OngoingReassignment,
        PartitionDescription,
        ReassignedPartition,
        TopicConfigValue,
        TopicDescription,
    )
    from ottla_protocol.partitioning import (
        murmur2,
    )

_MODULES = {
    "Admin": "ottla._aio_admin",
    "AdminConfig": "ottla._config",
    "AsyncManyFuture": "ottla._futures",
    "AsyncRecordFuture": "ottla._futures",
    "BrokerDescription": "ottla_protocol.models",
    "BrokerUnreachableError": "ottla._transport",
    "BufferExhaustedError": "ottla._errors",
    "ClientError": "ottla._errors",
    "ClusterDescription": "ottla_protocol.models",
    "ClusterUnreachableError": "ottla._errors",
    "ClusterView": "ottla._partitioner",
    "ConfigError": "ottla._errors",
    "ConflictError": "ottla_protocol.errors",
    "DeliveryReport": "ottla._futures",
    "DeliveryTimeoutError": "ottla._errors",
    "ElectedPartition": "ottla_protocol.models",
    "ForkedProcessError": "ottla._errors",
    "InvalidConfigError": "ottla_protocol.errors",
    "InvalidPartitionsError": "ottla_protocol.errors",
    "InvalidProducerEpochError": "ottla_protocol.errors",
    "InvalidRecordError": "ottla._errors",
    "InvalidReplicaAssignmentError": "ottla_protocol.errors",
    "InvalidReplicationFactorError": "ottla_protocol.errors",
    "InvalidRequestError": "ottla_protocol.errors",
    "InvalidTopicError": "ottla_protocol.errors",
    "MessageTooLargeError": "ottla_protocol.errors",
    "NoReassignmentInProgressError": "ottla_protocol.errors",
    "NotEnoughReplicasError": "ottla_protocol.errors",
    "NotFoundError": "ottla_protocol.errors",
    "OffsetResponse": "ottla_protocol.models",
    "OngoingReassignment": "ottla_protocol.models",
    "OpenTelemetryInterceptor": "ottla._telemetry",
    "OttlaError": "ottla_protocol.errors",
    "Outcome": "ottla_protocol.errors",
    "PartitionDescription": "ottla_protocol.models",
    "PartitionInfo": "ottla._partitioner",
    "PreferredLeaderNotAvailableError": "ottla_protocol.errors",
    "Producer": "ottla._aio_producer",
    "ProducerClosedError": "ottla._errors",
    "ProducerConfig": "ottla._config",
    "ProducerRecord": "ottla._record",
    "ReassignedPartition": "ottla_protocol.models",
    "RecordMetadata": "ottla._futures",
    "RequestTimedOutError": "ottla_protocol.errors",
    "RoutingError": "ottla_protocol.errors",
    "SerializationError": "ottla._errors",
    "TopicAlreadyExistsError": "ottla_protocol.errors",
    "TopicConfigValue": "ottla_protocol.models",
    "TopicDescription": "ottla_protocol.models",
    "UnavailableError": "ottla_protocol.errors",
    "UnknownTopicOrPartitionError": "ottla_protocol.errors",
    "WaitTimedOutError": "ottla._futures",
    "murmur2": "ottla_protocol.partitioning",
}

_OWN = {"Admin", "AsyncManyFuture", "AsyncRecordFuture", "Producer"}

__all__ = [
    "Admin",
    "AdminConfig",
    "AsyncManyFuture",
    "AsyncRecordFuture",
    "BrokerDescription",
    "BrokerUnreachableError",
    "BufferExhaustedError",
    "ClientError",
    "ClusterDescription",
    "ClusterUnreachableError",
    "ClusterView",
    "ConfigError",
    "ConflictError",
    "DeliveryReport",
    "DeliveryTimeoutError",
    "ElectedPartition",
    "ForkedProcessError",
    "InvalidConfigError",
    "InvalidPartitionsError",
    "InvalidProducerEpochError",
    "InvalidRecordError",
    "InvalidReplicaAssignmentError",
    "InvalidReplicationFactorError",
    "InvalidRequestError",
    "InvalidTopicError",
    "MessageTooLargeError",
    "NoReassignmentInProgressError",
    "NotEnoughReplicasError",
    "NotFoundError",
    "OffsetResponse",
    "OngoingReassignment",
    "OpenTelemetryInterceptor",
    "OttlaError",
    "Outcome",
    "PartitionDescription",
    "PartitionInfo",
    "PreferredLeaderNotAvailableError",
    "Producer",
    "ProducerClosedError",
    "ProducerConfig",
    "ProducerRecord",
    "ReassignedPartition",
    "RecordMetadata",
    "RequestTimedOutError",
    "RoutingError",
    "SerializationError",
    "TopicAlreadyExistsError",
    "TopicConfigValue",
    "TopicDescription",
    "UnavailableError",
    "UnknownTopicOrPartitionError",
    "WaitTimedOutError",
    "murmur2",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that importing the package costs nothing."""
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(module), name)
    if value.__module__.startswith("ottla._"):
        # Tracebacks and documentation say where it is meant to be imported from.
        value.__module__ = "ottla" if name in ottla.__all__ and name not in _OWN else __name__
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
