"""What a topic may be called.

The rules are Kafka's (`org.apache.kafka.common.internals.Topic`): a name is also a folder's name
and a metric's label. Callers validate the name after URL-decoding.
"""

import re
from typing import Any

from ottla_protocol.errors import InvalidTopicError

MAX_TOPIC_NAME_LENGTH = 248
"""A name has fewer than 249 characters: a folder `<topic>-<partition>` must fit a file system."""

_LEGAL_CHARACTERS = re.compile(r"[A-Za-z0-9._-]+")


def validate_topic_name(name: str, **named: Any) -> None:
    """Refuse a name that breaks a rule.

    Internal names pass: who may use them is another question.

    Args:
        name: what is to be a name.
        named: where it stands, for the error: `field=` or `parameter=`.

    Raises:
        InvalidTopicError: its detail names the rule.
    """
    # Callers without a type checker hand in all sorts of things.
    if not isinstance(name, str):
        raise InvalidTopicError(
            f"A topic name must be text, not {type(name).__qualname__}.", **named
        )
    if not name:
        raise InvalidTopicError("A topic name must not be empty.", **named)
    if name in {".", ".."}:
        raise InvalidTopicError(f"A topic name must not be {name!r}.", **named)
    if len(name) > MAX_TOPIC_NAME_LENGTH:
        raise InvalidTopicError(
            f"A topic name must have fewer than {MAX_TOPIC_NAME_LENGTH + 1} characters; "
            f"this one has {len(name)}.",
            **named,
        )
    if _LEGAL_CHARACTERS.fullmatch(name) is None:
        raise InvalidTopicError(
            f"The topic name {name!r} has a character outside ASCII letters, digits, "
            "'.', '_' and '-'.",
            **named,
        )
