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
    from ottla_protocol.errors import (
        InvalidProducerEpochError,
        MessageTooLargeError,
        NotEnoughReplicasError,
        OttlaError,
        Outcome,
        RequestTimedOutError,
        TopicAlreadyExistsError,
        UnavailableError,
        UnknownTopicOrPartitionError,
    )

_MODULES = {
    "Admin": "ottla._aio_admin",
    "AsyncManyFuture": "ottla._futures",
    "AsyncRecordFuture": "ottla._futures",
    "BufferExhaustedError": "ottla._errors",
    "ClientError": "ottla._errors",
    "ClusterUnreachableError": "ottla._errors",
    "ClusterView": "ottla._partitioner",
    "ConfigError": "ottla._errors",
    "DeliveryReport": "ottla._futures",
    "DeliveryTimeoutError": "ottla._errors",
    "ForkedProcessError": "ottla._errors",
    "InvalidProducerEpochError": "ottla_protocol.errors",
    "InvalidRecordError": "ottla._errors",
    "MessageTooLargeError": "ottla_protocol.errors",
    "NotEnoughReplicasError": "ottla_protocol.errors",
    "OttlaError": "ottla_protocol.errors",
    "Outcome": "ottla_protocol.errors",
    "PartitionInfo": "ottla._partitioner",
    "Producer": "ottla._aio_producer",
    "ProducerClosedError": "ottla._errors",
    "ProducerRecord": "ottla._record",
    "RecordMetadata": "ottla._futures",
    "RequestTimedOutError": "ottla_protocol.errors",
    "SerializationError": "ottla._errors",
    "TopicAlreadyExistsError": "ottla_protocol.errors",
    "UnavailableError": "ottla_protocol.errors",
    "UnknownTopicOrPartitionError": "ottla_protocol.errors",
    "WaitTimedOutError": "ottla._futures",
}

_OWN = {"Admin", "AsyncManyFuture", "AsyncRecordFuture", "Producer"}

__all__ = [
    "Admin",
    "AsyncManyFuture",
    "AsyncRecordFuture",
    "BufferExhaustedError",
    "ClientError",
    "ClusterUnreachableError",
    "ClusterView",
    "ConfigError",
    "DeliveryReport",
    "DeliveryTimeoutError",
    "ForkedProcessError",
    "InvalidProducerEpochError",
    "InvalidRecordError",
    "MessageTooLargeError",
    "NotEnoughReplicasError",
    "OttlaError",
    "Outcome",
    "PartitionInfo",
    "Producer",
    "ProducerClosedError",
    "ProducerRecord",
    "RecordMetadata",
    "RequestTimedOutError",
    "SerializationError",
    "TopicAlreadyExistsError",
    "UnavailableError",
    "UnknownTopicOrPartitionError",
    "WaitTimedOutError",
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
