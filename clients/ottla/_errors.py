"""What goes wrong on the client's side of the wire, in the same tree as what brokers answer.

    OttlaError
    └── ClientError
        ├── ConfigError              an option is unknown, out of range or at odds with another
        ├── SerializationError       a key or value is none that its serializer takes
        ├── InvalidRecordError       a record cannot be sent as it is
        ├── ProducerClosedError      the producer was closed
        ├── BufferExhaustedError     no room in the buffer within `max_block_ms`
        ├── CommitQueueFullError     too many asynchronous commits wait
        ├── DeliveryTimeoutError     not acknowledged within `delivery_timeout_ms`
        ├── TransactionStateError    a call that does not fit the producer's transaction
        ├── TransactionAbortedError  a record's transaction was given up
        ├── ClusterUnreachableError  no broker could be asked; names each URL and its reason
        ├── ForkedProcessError       used in a child process of the one that made it
        ├── ConsumerClosedError      the consumer was closed
        ├── ConcurrentUseError       two threads used one consumer at the same time
        ├── NotAssignedError         the consumer does not read that partition
        ├── SubscriptionError        subscribe and assign exclude one another, or lack a group
        ├── NoOffsetForPartitionError  nowhere to begin, and auto_offset_reset is none
        ├── RecordDeserializationError  a deserializer does not take a record
        └── WakeupError              wakeup() ended a poll

What a broker answers keeps its own class of `ottla_protocol.errors`. Each error of this module
carries a `hint`: what to do about it, in one sentence. Tracebacks show it below the message.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from ottla_protocol.errors import OttlaError, Outcome

if TYPE_CHECKING:
    from ottla._consumer_record import ConsumerRecord

TOLD_WAIT_MS = 100.0
"""From how long on an error tells how long was waited."""


class ClientError(OttlaError):
    """Base of the errors that the SDK itself finds; none of them travels over HTTP.

    Args:
        detail: one sentence for a person.
        hint: what to do about it; None takes the class's own.
        outcome: for writes, what became of it.
        members: further facts, as in OttlaError.
    """

    code = "CLIENT_ERROR"
    status = 0
    title = "Client error"
    default_hint: ClassVar[str] = ""
    default_outcome: ClassVar[Outcome | None] = None
    """Of errors that come before anything is sent."""

    def __init__(
        self,
        detail: str,
        *,
        hint: str | None = None,
        outcome: Outcome | None = None,
        **members: Any,
    ) -> None:
        super().__init__(detail, outcome=outcome or self.default_outcome, **members)
        self.hint = self.default_hint if hint is None else hint
        if self.hint:
            self.add_note(f"hint: {self.hint}")


class ConfigError(ClientError, ValueError):
    """An option is unknown, has a value out of its range, or is at odds with another.

    Attributes:
        option: the option as the caller spelled it.
    """

    code = "INVALID_CLIENT_CONFIG"
    title = "Invalid client config"

    def __init__(
        self, detail: str, *, option: str = "", hint: str | None = None, **members: Any
    ) -> None:
        super().__init__(detail, hint=hint, **members)
        self.option = option


class SerializationError(ClientError, TypeError):
    """A key or value is none that its serializer takes, or the serializer failed.

    The detail names the type and the topic. Nothing was sent.
    """

    code = "SERIALIZATION_FAILED"
    title = "Serialization failed"
    default_outcome = Outcome.NOT_APPLIED


class InvalidRecordError(ClientError, ValueError):
    """A record cannot be sent as it is: no partition can be chosen for it, or a part breaks a rule.

    Partitioners of your own raise it for records that they have no partition for. Nothing was sent.
    """

    code = "INVALID_CLIENT_RECORD"
    title = "Invalid record"
    default_outcome = Outcome.NOT_APPLIED


class ProducerClosedError(ClientError):
    """The producer was closed before the call, or before the record was acknowledged."""

    code = "PRODUCER_CLOSED"
    title = "Producer closed"
    default_hint = "send before close(); a with block closes when it ends"


class BufferExhaustedError(ClientError):
    """No room in `buffer_memory` within `max_block_ms`; the record was not taken."""

    code = "BUFFER_EXHAUSTED"
    title = "Buffer exhausted"
    default_outcome = Outcome.NOT_APPLIED
    retriable = True
    default_hint = (
        "records come faster than the cluster acknowledges them: "
        "send fewer, raise buffer_memory, or wait longer with max_block_ms"
    )


class CommitQueueFullError(ClientError):
    """Too many asynchronous commits are not settled and told yet; this one was not taken."""

    code = "COMMIT_QUEUE_FULL"
    title = "Commit queue full"
    default_outcome = Outcome.NOT_APPLIED
    retriable = True
    default_hint = (
        "commit once for many records, poll so that callbacks can run, or use commit(), which waits"
    )


class DeliveryTimeoutError(ClientError):
    """No acknowledgement within `delivery_timeout_ms`; `__cause__` is the last failure, if any.

    `outcome` is NOT_APPLIED if no attempt can have appended the record, else UNKNOWN.
    """

    code = "DELIVERY_TIMED_OUT"
    title = "Delivery timed out"
    default_hint = "see the cause; delivery_timeout_ms bounds sending, waiting and all retries"


class TransactionStateError(ClientError, RuntimeError):
    """The call does not fit what the producer's transaction is at now; nothing was done.

    A record outside of a transaction, a second begin, a transaction of a producer without
    `transactional_id`.
    """

    code = "TRANSACTION_STATE"
    title = "Transaction state"
    default_outcome = Outcome.NOT_APPLIED


class TransactionAbortedError(ClientError):
    """The record's transaction was given up before the record was acknowledged.

    It was aborted, or another of its records failed, which is the `__cause__` then. `outcome` is
    UNKNOWN where the record may be in the log; readers of committed records never see it.
    """

    code = "TRANSACTION_ABORTED"
    title = "Transaction aborted"


class ClusterUnreachableError(ClientError):
    """No broker of the list could be asked in time.

    Attributes:
        reasons: every URL that was tried, with why it failed.
    """

    code = "CLUSTER_UNREACHABLE"
    title = "Cluster unreachable"
    retriable = True
    default_hint = "is a broker running at one of these addresses? bootstrap_servers names them"

    def __init__(
        self,
        detail: str,
        *,
        reasons: Mapping[str, str] | None = None,
        hint: str | None = None,
        outcome: Outcome | None = None,
        **members: Any,
    ) -> None:
        super().__init__(detail, hint=hint, outcome=outcome, **members)
        self.reasons = dict(reasons or {})

    @classmethod
    def after(
        cls, waited_ms: float, reasons: Mapping[str, str], *, outcome: Outcome | None = None
    ) -> "ClusterUnreachableError":
        """The error for URLs that were all tried, in this order, over `waited_ms`."""
        tried = "; ".join(f"{url}: {reason}" for url, reason in reasons.items())
        # A refused connection takes no time, and must not read like a short time-out.
        waited = f" within {waited_ms:.0f} ms" if waited_ms >= TOLD_WAIT_MS else ""
        return cls(
            f"no broker answered{waited} ({tried or 'none was tried'})",
            reasons=reasons,
            outcome=outcome,
        )


class ForkedProcessError(ClientError):
    """The object was made in a parent process; its threads and connections did not come along."""

    code = "FORKED_PROCESS"
    title = "Forked process"
    default_hint = "make a new one in the child, after the fork"


class ConsumerClosedError(ClientError):
    """The consumer was closed before the call, or during it."""

    code = "CONSUMER_CLOSED"
    title = "Consumer closed"
    default_hint = "poll before close(); a with block closes when it ends"


class ConcurrentUseError(ClientError, RuntimeError):
    """A second thread or task used a consumer while a call of the first one was under way."""

    code = "CONCURRENT_USE"
    title = "Concurrent use"
    default_hint = "one consumer for each thread or task; only wakeup() is for others"


class NotAssignedError(ClientError, ValueError):
    """The partition is none that this consumer reads."""

    code = "PARTITION_NOT_ASSIGNED"
    title = "Partition not assigned"
    default_hint = "assign() names partitions; subscribe() gets them from the group during poll()"


class SubscriptionError(ClientError, ValueError):
    """What the consumer is to read is not said, said in two ways, or needs a group."""

    code = "INVALID_SUBSCRIPTION"
    title = "Invalid subscription"


class NoOffsetForPartitionError(ClientError):
    """There is no committed offset to begin from, and `auto_offset_reset` is none.

    `topic` and `partition` are members.
    """

    code = "NO_OFFSET_FOR_PARTITION"
    title = "No offset for partition"
    default_hint = "seek() to where to begin, or set auto_offset_reset to earliest or latest"


class RecordDeserializationError(ClientError):
    """A deserializer does not take a record; `__cause__` is what it raised.

    The records before it were handed out. Poll raises this again until the consumer is moved on,
    with `seek(TopicPartition(error.topic, error.partition), error.offset + 1)`.

    Attributes:
        topic, partition, offset: the record.
        key, value: its bytes.
    """

    code = "RECORD_DESERIALIZATION_FAILED"
    title = "Record deserialization failed"
    default_hint = "seek(TopicPartition(topic, partition), offset + 1) skips the record"
    topic: str = ""
    partition: int = -1
    offset: int = -1
    key: bytes | None = None
    value: bytes | None = None

    @classmethod
    def of(
        cls, record: "ConsumerRecord", *, is_key: bool, cause: Exception
    ) -> "RecordDeserializationError":
        """The error for a record whose key or value failed."""
        part = "key" if is_key else "value"
        error = cls(
            f"the {part} of {record.topic}-{record.partition} at offset {record.offset} does not "
            f"deserialize: {type(cause).__name__}: {cause}"
        )
        error.topic, error.partition, error.offset = record.topic, record.partition, record.offset
        error.key, error.value = record.key, record.value
        return error


class WakeupError(ClientError):
    """`wakeup()` ended a call that was waiting, or the next one that would have."""

    code = "WAKEUP"
    title = "Woken up"
    retriable = True
