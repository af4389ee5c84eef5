"""Query and path parameters: typed, bounded, and none unknown."""

from collections.abc import Collection, Iterable
from typing import Literal, cast, get_args

from ottla_protocol.errors import (
    InvalidRequestError,
    InvalidRequiredAcksError,
    UnknownTopicOrPartitionError,
)
from ottla_protocol.models import (
    ACKS_ALL,
    DEFAULT_PRODUCE_TIMEOUT_MS,
    MAX_PRODUCE_TIMEOUT_MS,
    Isolation,
)

MAX_TIMESTAMP = 2**63 - 1
"""The latest time, in ms since the epoch, that a record can have."""

MAX_OFFSET = 2**63 - 1
"""The largest offset that there can be."""

ISOLATIONS: tuple[str, ...] = get_args(Isolation)
"""What `isolation` may be; the first is meant without it."""

_MAX_DIGITS = 19
"""More digits than a 64-bit integer has; longer numbers are refused unparsed."""


class Query:
    """The parameters of one request.

    Args:
        sent: names and values, decoded.
        allowed: every name that the call knows.

    Raises:
        InvalidRequestError: another name is given, or one is given twice.
    """

    def __init__(self, sent: Iterable[tuple[str, str]], allowed: Collection[str]) -> None:
        self._values: dict[str, str] = {}
        for name, value in sent:
            if name not in allowed:
                raise InvalidRequestError(
                    f"unknown query parameter '{name}'; this call takes: "
                    f"{', '.join(sorted(allowed)) or 'none'}",
                    parameter=name,
                )
            if name in self._values:
                raise InvalidRequestError(
                    f"query parameter '{name}' is given twice", parameter=name
                )
            self._values[name] = value

    def text(self, name: str) -> str | None:
        """The value as it is, or None."""
        return self._values.get(name)

    def number(self, name: str, default: int, *, minimum: int, maximum: int) -> int:
        """A whole number within bounds.

        Raises:
            InvalidRequestError: it is none, or out of bounds.
        """
        value = self._values.get(name)
        if value is None:
            return default
        number = parse_integer(value)
        if number is None or not minimum <= number <= maximum:
            raise InvalidRequestError(
                f"{name} must be a whole number from {minimum} to {maximum}, not '{value}'",
                parameter=name,
            )
        return number

    def timestamp(self, name: str) -> int | None:
        """A time in ms since the epoch, or None.

        Raises:
            InvalidRequestError: it is none.
        """
        if name not in self._values:
            return None
        return self.number(name, 0, minimum=0, maximum=MAX_TIMESTAMP)

    def choice(self, name: str, default: str, choices: Collection[str]) -> str:
        """One of some words.

        Raises:
            InvalidRequestError: it is another.
        """
        value = self._values.get(name, default)
        if value not in choices:
            raise InvalidRequestError(
                f"{name} must be one of {', '.join(choices)}, not '{value}'", parameter=name
            )
        return value

    def isolation(self) -> Isolation:
        """Whether committed records alone are wanted: `isolation`.

        Raises:
            InvalidRequestError: it is no such word.
        """
        return cast(Isolation, self.choice("isolation", ISOLATIONS[0], ISOLATIONS))

    def acks(self) -> int:
        """`acks` as the wire value.

        Raises:
            InvalidRequiredAcksError: none of 0, 1, all and -1.
        """
        value = self._values.get("acks", "all")
        known = {"0": 0, "1": 1, "all": ACKS_ALL, "-1": ACKS_ALL}
        if value not in known:
            raise InvalidRequiredAcksError(
                f"acks must be 0, 1 or all, not '{value}'", parameter="acks"
            )
        return known[value]

    def timeout_ms(self) -> int:
        """`timeout_ms` of a produce."""
        return self.number(
            "timeout_ms", DEFAULT_PRODUCE_TIMEOUT_MS, minimum=1, maximum=MAX_PRODUCE_TIMEOUT_MS
        )

    def position(self, name: str) -> "int | Literal['earliest', 'latest']":
        """An offset, `earliest`, `latest`, or -N from the latest.

        Raises:
            InvalidRequestError: none of these.
        """
        value = self._values.get(name, "earliest")
        if value == "earliest":
            return "earliest"
        if value == "latest":
            return "latest"
        number = parse_integer(value)
        if number is None or abs(number) > MAX_OFFSET:
            raise InvalidRequestError(
                f"{name} must be an offset, earliest, latest or -N, not '{value}'", parameter=name
            )
        return number


def parse_integer(value: str) -> int | None:
    """A decimal integer in ASCII digits; None for everything else."""
    digits = value.removeprefix("-")
    if not digits.isascii() or not digits.isdigit() or len(digits) > _MAX_DIGITS:
        return None
    return int(value)


def partition_number(text: str) -> int:
    """The partition that a path names.

    Raises:
        UnknownTopicOrPartitionError: it is no number, so there is none such.
    """
    number = parse_integer(text)
    if number is None or number < 0:
        raise UnknownTopicOrPartitionError(f"'{text}' is no partition number")
    return number
