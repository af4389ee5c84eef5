"""What goes wrong on the client's side of the wire, in the same tree as what brokers answer.

    OttlaError
    └── ClientError
        ├── ConfigError              an option is unknown, out of range or at odds with another
        ├── SerializationError       a key or value is none that its serializer takes
        ├── InvalidRecordError       a record cannot be sent as it is
        ├── ProducerClosedError      the producer was closed
        ├── BufferExhaustedError     no room in the buffer within `max_block_ms`
        ├── DeliveryTimeoutError     not acknowledged within `delivery_timeout_ms`
        ├── ClusterUnreachableError  no broker could be asked; names each URL and its reason
        └── ForkedProcessError       used in a child process of the one that made it

What a broker answers keeps its own class of `ottla_protocol.errors`. Each error of this module
carries a `hint`: what to do about it, in one sentence. Tracebacks show it below the message.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from ottla_protocol.errors import OttlaError, Outcome

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

    code = "INVALID_RECORD"
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


class DeliveryTimeoutError(ClientError):
    """No acknowledgement within `delivery_timeout_ms`; `__cause__` is the last failure, if any.

    `outcome` is NOT_APPLIED if no attempt can have appended the record, else UNKNOWN.
    """

    code = "DELIVERY_TIMED_OUT"
    title = "Delivery timed out"
    default_hint = "see the cause; delivery_timeout_ms bounds sending, waiting and all retries"


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
