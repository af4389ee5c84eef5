"""Which topics are whose, and which names stand too near to one another.

What a name may be made of is in `ottla_protocol.topic_names`. Beyond that, a metric system that
turns `.` into `_` cannot tell `a.b` from `a_b`.
"""

from collections.abc import Iterable
from typing import Any

from ottla_protocol.errors import InvalidTopicError
from ottla_protocol.topic_names import validate_topic_name

__all__ = [
    "INTERNAL_TOPICS",
    "collides",
    "is_internal",
    "refuse_internal",
    "validate_topic_name",
    "warnings_for",
]

INTERNAL_TOPICS = ("__consumer_offsets", "__transaction_state")
"""Topics that only the brokers create, write and remove.

Where their replicas lie is the operators' business, and so are the configs of
`topic_configs.OPERATORS_CONFIGS`: what was lost with a disk, or made while there was one broker, is
nothing that the brokers can mend by themselves.
"""


def is_internal(name: str) -> bool:
    """Whether the name is one of the brokers' own topics."""
    return name in INTERNAL_TOPICS


def refuse_internal(name: str, **named: Any) -> None:
    """Refuses a client's command on a topic of the brokers' own.

    Args:
        name: the topic.
        named: where the name stands, for the error: `field=` or `parameter=`.

    Raises:
        InvalidTopicError: the name is reserved.
    """
    if is_internal(name):
        raise InvalidTopicError(
            f"The topic {name!r} is internal: only the brokers manage it.", **named
        )
    internal = collides(name, INTERNAL_TOPICS)
    if internal is not None:
        # Another spelling of it would keep the brokers from ever creating their own.
        raise InvalidTopicError(
            f"The topic {name!r} equals the internal {internal!r} after swapping '.' and '_': only "
            "the brokers manage that.",
            **named,
        )


def collides(name: str, existing: Iterable[str]) -> str | None:
    """The existing name, other than `name` itself, that equals it after swapping `.` and `_`."""
    canonical = name.replace(".", "_")
    for other in existing:
        if other != name and other.replace(".", "_") == canonical:
            return other
    return None


def warnings_for(name: str) -> tuple[str, ...]:
    """What a person should know about a legal name, as sentences."""
    if "." in name and "_" in name:
        return (
            "Metric names cannot tell '.' from '_': "
            "prefer a topic name that uses only one of them.",
        )
    return ()
