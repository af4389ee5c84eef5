"""What a topic may be called.

The rules are Kafka's (`org.apache.kafka.common.internals.Topic`): a name is also a folder's name
and a metric's label, and a metric system that turns `.` into `_` cannot tell `a.b` from `a_b`.
Callers validate the name after URL-decoding.
"""

import re
from collections.abc import Iterable

from ottla_protocol.errors import InvalidTopicError

MAX_TOPIC_NAME_LENGTH = 248
"""A name has fewer than 249 characters: a folder `<topic>-<partition>` must fit a file system."""

INTERNAL_TOPICS = ("__consumer_offsets", "__transaction_state")
"""Topics that only the brokers create, write and remove."""

_LEGAL_CHARACTERS = re.compile(r"[A-Za-z0-9._-]+")


def is_internal(name: str) -> bool:
    """Whether the name is one of the brokers' own topics."""
    return name in INTERNAL_TOPICS


def validate_topic_name(name: str) -> None:
    """Refuses a name that breaks a rule.

    Internal names pass: who may use them is the command's question, see `refuse_internal`.

    Raises:
        InvalidTopicError: its detail names the rule.
    """
    if not name:
        raise InvalidTopicError("A topic name must not be empty.")
    if name in {".", ".."}:
        raise InvalidTopicError(f"A topic name must not be {name!r}.")
    if len(name) > MAX_TOPIC_NAME_LENGTH:
        raise InvalidTopicError(
            f"A topic name must have fewer than {MAX_TOPIC_NAME_LENGTH + 1} characters; "
            f"this one has {len(name)}."
        )
    if _LEGAL_CHARACTERS.fullmatch(name) is None:
        raise InvalidTopicError(
            f"The topic name {name!r} has a character outside ASCII letters, digits, "
            "'.', '_' and '-'."
        )


def refuse_internal(name: str) -> None:
    """Refuses a client's command on a topic of the brokers' own.

    Raises:
        InvalidTopicError: the name is reserved.
    """
    if is_internal(name):
        raise InvalidTopicError(f"The topic {name!r} is internal: only the brokers manage it.")


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
