"""Ottla's Python SDK.

    from ottla import Admin, Consumer, Producer

`ottla.aio` has the same names for asyncio, `ottla.testing` a cluster in memory for your own tests.
Errors are all OttlaErrors, with a `code` and whether a retry may help (`retriable`).
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ottla._admin import (
        Admin,
    )
    from ottla._config import (
        AdminConfig,
        ProducerConfig,
    )
    from ottla._consumer import (
        Consumer,
    )
    from ottla._consumer_config import (
        ConsumerConfig,
    )
    from ottla._consumer_record import (
        ConsumerRecord,
    )
    from ottla._consumer_steps import (
        RebalanceListener,
    )
    from ottla._consumer_types import (
        ConsumerGroupMetadata,
        OffsetAndMetadata,
        OffsetAndTimestamp,
        TopicPartition,
    )
    from ottla._errors import (
        BufferExhaustedError,
        ClientError,
        ClusterUnreachableError,
        CommitQueueFullError,
        ConcurrentUseError,
        ConfigError,
        ConsumerClosedError,
        DeliveryTimeoutError,
        ForkedProcessError,
        InvalidRecordError,
        NoOffsetForPartitionError,
        NotAssignedError,
        ProducerClosedError,
        RecordDeserializationError,
        SerializationError,
        SubscriptionError,
        TransactionAbortedError,
        TransactionStateError,
        WakeupError,
    )
    from ottla._futures import (
        DeliveryReport,
        ManyFuture,
        RecordFuture,
        RecordMetadata,
        WaitTimedOutError,
    )
    from ottla._offset_commits import (
        CommitFailedError,
    )
    from ottla._partitioner import (
        ClusterView,
        PartitionInfo,
    )
    from ottla._producer import (
        Producer,
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
        CorruptMessageError,
        EligibleLeadersNotAvailableError,
        FencedInstanceIdError,
        InsufficientStorageError,
        InvalidConfigError,
        InvalidPartitionsError,
        InvalidProducerEpochError,
        InvalidReplicaAssignmentError,
        InvalidReplicationFactorError,
        InvalidRequestError,
        InvalidTimestampError,
        InvalidTopicError,
        InvalidTransactionTimeoutError,
        MessageTooLargeError,
        NoReassignmentInProgressError,
        NotEnoughReplicasError,
        NotFoundError,
        OffsetNotAvailableError,
        OffsetOutOfRangeError,
        OttlaError,
        Outcome,
        PolicyViolationError,
        PreferredLeaderNotAvailableError,
        ProducerFencedError,
        RecordsLostError,
        RecordWithoutKeyError,
        RequestTimedOutError,
        RoutingError,
        TopicAlreadyExistsError,
        TransactionAbortableError,
        TransactionalIdNotFoundError,
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
    from ottla_protocol.models_trims import (
        TrimmedPartition,
    )
    from ottla_protocol.partitioning import (
        murmur2,
    )

_MODULES = {
    "Admin": "ottla._admin",
    "AdminConfig": "ottla._config",
    "BrokerDescription": "ottla_protocol.models",
    "BrokerUnreachableError": "ottla._transport",
    "BufferExhaustedError": "ottla._errors",
    "ClientError": "ottla._errors",
    "ClusterDescription": "ottla_protocol.models",
    "ClusterUnreachableError": "ottla._errors",
    "ClusterView": "ottla._partitioner",
    "CommitFailedError": "ottla._offset_commits",
    "CommitQueueFullError": "ottla._errors",
    "ConcurrentUseError": "ottla._errors",
    "ConfigError": "ottla._errors",
    "ConflictError": "ottla_protocol.errors",
    "Consumer": "ottla._consumer",
    "ConsumerClosedError": "ottla._errors",
    "ConsumerConfig": "ottla._consumer_config",
    "ConsumerGroupMetadata": "ottla._consumer_types",
    "ConsumerRecord": "ottla._consumer_record",
    "CorruptMessageError": "ottla_protocol.errors",
    "DeliveryReport": "ottla._futures",
    "DeliveryTimeoutError": "ottla._errors",
    "ElectedPartition": "ottla_protocol.models",
    "EligibleLeadersNotAvailableError": "ottla_protocol.errors",
    "FencedInstanceIdError": "ottla_protocol.errors",
    "ForkedProcessError": "ottla._errors",
    "InsufficientStorageError": "ottla_protocol.errors",
    "InvalidConfigError": "ottla_protocol.errors",
    "InvalidPartitionsError": "ottla_protocol.errors",
    "InvalidProducerEpochError": "ottla_protocol.errors",
    "InvalidRecordError": "ottla._errors",
    "InvalidReplicaAssignmentError": "ottla_protocol.errors",
    "InvalidReplicationFactorError": "ottla_protocol.errors",
    "InvalidRequestError": "ottla_protocol.errors",
    "InvalidTimestampError": "ottla_protocol.errors",
    "InvalidTopicError": "ottla_protocol.errors",
    "InvalidTransactionTimeoutError": "ottla_protocol.errors",
    "ManyFuture": "ottla._futures",
    "MessageTooLargeError": "ottla_protocol.errors",
    "NoOffsetForPartitionError": "ottla._errors",
    "NoReassignmentInProgressError": "ottla_protocol.errors",
    "NotAssignedError": "ottla._errors",
    "NotEnoughReplicasError": "ottla_protocol.errors",
    "NotFoundError": "ottla_protocol.errors",
    "OffsetAndMetadata": "ottla._consumer_types",
    "OffsetAndTimestamp": "ottla._consumer_types",
    "OffsetNotAvailableError": "ottla_protocol.errors",
    "OffsetOutOfRangeError": "ottla_protocol.errors",
    "OffsetResponse": "ottla_protocol.models",
    "OngoingReassignment": "ottla_protocol.models",
    "OpenTelemetryInterceptor": "ottla._telemetry",
    "OttlaError": "ottla_protocol.errors",
    "Outcome": "ottla_protocol.errors",
    "PartitionDescription": "ottla_protocol.models",
    "PartitionInfo": "ottla._partitioner",
    "PolicyViolationError": "ottla_protocol.errors",
    "PreferredLeaderNotAvailableError": "ottla_protocol.errors",
    "Producer": "ottla._producer",
    "ProducerClosedError": "ottla._errors",
    "ProducerConfig": "ottla._config",
    "ProducerFencedError": "ottla_protocol.errors",
    "ProducerRecord": "ottla._record",
    "ReassignedPartition": "ottla_protocol.models",
    "RebalanceListener": "ottla._consumer_steps",
    "RecordDeserializationError": "ottla._errors",
    "RecordFuture": "ottla._futures",
    "RecordMetadata": "ottla._futures",
    "RecordWithoutKeyError": "ottla_protocol.errors",
    "RecordsLostError": "ottla_protocol.errors",
    "RequestTimedOutError": "ottla_protocol.errors",
    "RoutingError": "ottla_protocol.errors",
    "SerializationError": "ottla._errors",
    "SubscriptionError": "ottla._errors",
    "TopicAlreadyExistsError": "ottla_protocol.errors",
    "TopicConfigValue": "ottla_protocol.models",
    "TopicDescription": "ottla_protocol.models",
    "TopicPartition": "ottla._consumer_types",
    "TransactionAbortableError": "ottla_protocol.errors",
    "TransactionAbortedError": "ottla._errors",
    "TransactionStateError": "ottla._errors",
    "TransactionalIdNotFoundError": "ottla_protocol.errors",
    "TrimmedPartition": "ottla_protocol.models_trims",
    "UnavailableError": "ottla_protocol.errors",
    "UnknownTopicOrPartitionError": "ottla_protocol.errors",
    "WaitTimedOutError": "ottla._futures",
    "WakeupError": "ottla._errors",
    "murmur2": "ottla_protocol.partitioning",
}

__all__ = [
    "Admin",
    "AdminConfig",
    "BrokerDescription",
    "BrokerUnreachableError",
    "BufferExhaustedError",
    "ClientError",
    "ClusterDescription",
    "ClusterUnreachableError",
    "ClusterView",
    "CommitFailedError",
    "CommitQueueFullError",
    "ConcurrentUseError",
    "ConfigError",
    "ConflictError",
    "Consumer",
    "ConsumerClosedError",
    "ConsumerConfig",
    "ConsumerGroupMetadata",
    "ConsumerRecord",
    "CorruptMessageError",
    "DeliveryReport",
    "DeliveryTimeoutError",
    "ElectedPartition",
    "EligibleLeadersNotAvailableError",
    "FencedInstanceIdError",
    "ForkedProcessError",
    "InsufficientStorageError",
    "InvalidConfigError",
    "InvalidPartitionsError",
    "InvalidProducerEpochError",
    "InvalidRecordError",
    "InvalidReplicaAssignmentError",
    "InvalidReplicationFactorError",
    "InvalidRequestError",
    "InvalidTimestampError",
    "InvalidTopicError",
    "InvalidTransactionTimeoutError",
    "ManyFuture",
    "MessageTooLargeError",
    "NoOffsetForPartitionError",
    "NoReassignmentInProgressError",
    "NotAssignedError",
    "NotEnoughReplicasError",
    "NotFoundError",
    "OffsetAndMetadata",
    "OffsetAndTimestamp",
    "OffsetNotAvailableError",
    "OffsetOutOfRangeError",
    "OffsetResponse",
    "OngoingReassignment",
    "OpenTelemetryInterceptor",
    "OttlaError",
    "Outcome",
    "PartitionDescription",
    "PartitionInfo",
    "PolicyViolationError",
    "PreferredLeaderNotAvailableError",
    "Producer",
    "ProducerClosedError",
    "ProducerConfig",
    "ProducerFencedError",
    "ProducerRecord",
    "ReassignedPartition",
    "RebalanceListener",
    "RecordDeserializationError",
    "RecordFuture",
    "RecordMetadata",
    "RecordWithoutKeyError",
    "RecordsLostError",
    "RequestTimedOutError",
    "RoutingError",
    "SerializationError",
    "SubscriptionError",
    "TopicAlreadyExistsError",
    "TopicConfigValue",
    "TopicDescription",
    "TopicPartition",
    "TransactionAbortableError",
    "TransactionAbortedError",
    "TransactionStateError",
    "TransactionalIdNotFoundError",
    "TrimmedPartition",
    "UnavailableError",
    "UnknownTopicOrPartitionError",
    "WaitTimedOutError",
    "WakeupError",
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
        value.__module__ = __name__
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
