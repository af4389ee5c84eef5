"""Moments as people write them: RFC 3339, how long ago, or milliseconds since the epoch."""

import re
import time
from datetime import UTC, date, datetime
from typing import Final

from ottla_ops.cli.failures import usage_error

WRITTEN: Final = "RFC 3339 (2013-01-01T06:00:00Z), or how long ago (2h, 7d, 1h30m)"
"""What a moment is where a bare number is something else."""

MEANING: Final = (
    "RFC 3339 (2013-01-01T06:00:00Z), how long ago (2h, 7d, 1h30m), or ms since the epoch"
)

MOMENT_MS_MAX: Final = 2**63 - 1

_UNITS_MS: Final = {
    "ms": 1,
    "s": 1_000,
    "m": 60_000,
    "h": 3_600_000,
    "d": 86_400_000,
    "w": 604_800_000,
}
_DURATION: Final = re.compile(r"(?:[0-9]{1,12}(?:ms|s|m|h|d|w))+")
_PART: Final = re.compile(r"([0-9]+)(ms|s|m|h|d|w)")


def now_ms() -> int:
    """The wall clock."""
    return time.time_ns() // 1_000_000


def is_moment(text: str) -> bool:
    """Whether the text means a moment and cannot be an offset: no bare number."""
    return bool(_DURATION.fullmatch(text)) or _datetime(text) is not None


def moment_ms(text: str, option: str, now: int, *, also: str = "") -> int:
    """The moment in ms since the epoch.

    Args:
        text: what was written.
        option: the option's name, for the error.
        now: the present time in ms since the epoch, for durations.
        also: what else the option takes, for the error.

    Raises:
        CommandError: (usage) it is none, or before 1970.
    """
    if text.isascii() and text.isdigit():
        found = int(text)
    elif _DURATION.fullmatch(text):
        found = now - _span_ms(text)
    else:
        moment = _datetime(text)
        if moment is None:
            meaning = f"{MEANING}; or {also}" if also else MEANING
            raise usage_error(f"{option} {text}: not a moment, which is {meaning}")
        if moment.tzinfo is None:
            raise usage_error(f"{option} {text}: add Z, or an offset such as +01:00")
        found = round(moment.timestamp() * 1_000)
    if not 0 <= found <= MOMENT_MS_MAX:
        raise usage_error(f"{option} {text}: before 1970, or too far ahead")
    return found


def duration_ms(text: str, option: str) -> int:
    """A span of time in ms: `90s`, `1h30m`, or a bare number of milliseconds.

    Args:
        text: what was written.
        option: the option's name, for the error.

    Raises:
        CommandError: (usage) it is none, or too long.
    """
    if re.fullmatch(r"[0-9]{1,19}", text, re.ASCII):
        found = int(text)
    elif _DURATION.fullmatch(text):
        found = _span_ms(text)
    else:
        raise usage_error(f"{option} {text}: not a span of time, as 90s, 2h or 1h30m")
    if found > MOMENT_MS_MAX:
        raise usage_error(f"{option} {text}: too long")
    return found


def _span_ms(text: str) -> int:
    return sum(int(count) * _UNITS_MS[unit] for count, unit in _PART.findall(text))


def _datetime(text: str) -> datetime | None:
    """RFC 3339's date and time; a date alone is its midnight in UTC."""
    if not re.match(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text):
        return None
    try:
        if len(text) == len("2013-01-01"):
            day = date.fromisoformat(text)
            return datetime(day.year, day.month, day.day, tzinfo=UTC)
        return datetime.fromisoformat(text)
    except ValueError:
        return None
