"""The exit codes of `ottla`: what each means, and which failure ends with which.

Everything that tells of exit codes (`--help`, the documentation) is made from here. The commands of
`ottla check` have a monitoring plugin's codes instead (`monitoring.State`); `cluster health` and
`doctor` tell in their help what 1 and 5 mean there.
"""

from enum import IntEnum
from typing import Final


class ExitCode(IntEnum):
    """Exit codes of the `ottla` command."""

    OK = 0
    FAILURE = 1
    USAGE = 2
    NOT_FOUND = 3
    CONFLICT = 4
    UNAVAILABLE = 5
    DENIED = 6
    INTERRUPTED = 130


NAMES: Final = {
    ExitCode.OK: "ok",
    ExitCode.FAILURE: "failure",
    ExitCode.USAGE: "usage",
    ExitCode.NOT_FOUND: "not found",
    ExitCode.CONFLICT: "conflict",
    ExitCode.UNAVAILABLE: "unavailable or timeout",
    ExitCode.DENIED: "denied",
    ExitCode.INTERRUPTED: "interrupted",
}

MEANINGS: Final = {
    ExitCode.OK: "What was asked is done; also when the reader of the output has seen enough "
    "(`| head`).",
    ExitCode.FAILURE: "It failed for a reason that has no code of its own, such as a record that a "
    "topic refuses, or damaged data.",
    ExitCode.USAGE: "The command line is wrong, by itself or in the broker's eyes: an unknown "
    "option, a malformed expression, a config or a number that is not allowed.",
    ExitCode.NOT_FOUND: "There is no such topic, partition, group, context or file.",
    ExitCode.CONFLICT: "It does not go together with what there is: the name is taken, the group "
    "has members.",
    ExitCode.UNAVAILABLE: "No broker can be reached, or none that can serve it now, or no answer "
    "came in time; the same command may work later.",
    ExitCode.DENIED: "It is not allowed.",
    ExitCode.INTERRUPTED: "Ctrl-C, or a question that was answered with no.",
}

CODES_BY_STATUS: Final = {
    401: ExitCode.DENIED,
    403: ExitCode.DENIED,
    404: ExitCode.NOT_FOUND,
    408: ExitCode.UNAVAILABLE,
    409: ExitCode.CONFLICT,
    410: ExitCode.NOT_FOUND,
    412: ExitCode.CONFLICT,
    421: ExitCode.UNAVAILABLE,
    429: ExitCode.UNAVAILABLE,
    502: ExitCode.UNAVAILABLE,
    503: ExitCode.UNAVAILABLE,
    504: ExitCode.UNAVAILABLE,
    507: ExitCode.UNAVAILABLE,
}
"""By the HTTP status of a broker's answer; all others are a failure."""

USAGE_CODES: Final = frozenset(
    {
        "INVALID_CONFIG",
        "INVALID_GROUP_ID",
        "INVALID_PARTITIONS",
        "INVALID_REGULAR_EXPRESSION",
        "INVALID_REPLICATION_FACTOR",
        "INVALID_REPLICA_ASSIGNMENT",
        "INVALID_REQUEST",
        "INVALID_REQUIRED_ACKS",
        "INVALID_TOPIC_EXCEPTION",
        "INVALID_VOTER_CHANGE",
        "MALFORMED_REQUEST",
    }
)
"""Codes with which brokers refuse the words of a command; those of records are no usage errors."""


def exit_code_of(status: int, code: str) -> ExitCode:
    """The exit code of what a broker refused.

    Args:
        status: HTTP status of its answer.
        code: its error's name.
    """
    if code in USAGE_CODES:
        return ExitCode.USAGE
    return CODES_BY_STATUS.get(status, ExitCode.FAILURE)


def summary() -> str:
    """All codes with their names, as one line."""
    return ", ".join(f"{code.value} {name}" for code, name in NAMES.items())
