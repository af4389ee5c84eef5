"""How a command fails: one exception type, and the exit code that each kind of failure has.

Scripts act on exit codes, people on one line, programs on `{code, message, hint, retriable}`; a
`CommandError` carries all of it, whether the failure is ours, the network's or the broker's.
`exit_codes` has the codes.
"""

from collections.abc import Mapping
from typing import Any, Final

from ottla_ops.cli.exit_codes import ExitCode, exit_code_of

__all__ = [
    "HINTS_BY_CODE",
    "CommandError",
    "ExitCode",
    "UnreachableError",
    "error_from_answer",
    "file_failure",
    "hint_of",
    "usage_error",
]


class CommandError(Exception):
    """A command failed in a way that we can explain.

    Args:
        message: one sentence for a person.
        code: Kafka's error name from the broker, or one of our own in the same spelling.
        exit_code: what the process ends with.
        hint: what to try next, empty when we do not know.
        retriable: whether the same command may work later.
        not_applied: for writes, whether it is certain that nothing was written.
    """

    def __init__(
        self,
        message: str,
        *,
        code: str,
        exit_code: ExitCode = ExitCode.FAILURE,
        hint: str = "",
        retriable: bool = False,
        not_applied: bool = False,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.exit_code = exit_code
        self.hint = hint
        self.retriable = retriable
        self.not_applied = not_applied

    def document(self) -> dict[str, Any]:
        """The failure as `--json` prints it."""
        return {
            "code": self.code,
            "message": self.message,
            "hint": self.hint or None,
            "retriable": self.retriable,
        }


class UnreachableError(CommandError):
    """No broker of the bootstrap list could be talked to; the message names each with its reason.

    `retriable` stays False unless a broker has answered this process before: at first contact a
    wrong address is likelier than a cluster that is about to come back.
    """


def file_failure(path: object, verb: str, error: OSError) -> CommandError:
    """A file cannot be read or written.

    Args:
        path: the file.
        verb: what cannot be done with it, as in 'cannot be read'.
        error: why.
    """
    exit_code = ExitCode.FAILURE
    if isinstance(error, FileNotFoundError):
        exit_code = ExitCode.NOT_FOUND
    elif isinstance(error, PermissionError):
        exit_code = ExitCode.DENIED
    return CommandError(
        f"{path} cannot be {verb}: {error.strerror or error}", code="IO_ERROR", exit_code=exit_code
    )


def usage_error(message: str, *, hint: str = "") -> CommandError:
    """Options or arguments that make no sense together."""
    return CommandError(message, code="USAGE", exit_code=ExitCode.USAGE, hint=hint)


HINTS_BY_CODE: Final = {
    "UNKNOWN_TOPIC_OR_PARTITION": "`ottla topic list` shows the topics, "
    "`ottla topic create NAME` makes one",
    "UNKNOWN_METADATA_PATH": "`ottla metadata ls -R` shows every path",
    "TOPIC_ALREADY_EXISTS": "`ottla topic describe NAME` shows the one that exists",
    "INVALID_REPLICATION_FACTOR": "`ottla cluster info` shows how many brokers are active",
    "NOT_ENOUGH_REPLICAS": "`ottla cluster health` tells which replicas are missing, and why",
    "LEADER_NOT_AVAILABLE": "`ottla cluster health` tells which partitions are offline, and why",
    "CONTROLLER_NOT_AVAILABLE": "`ottla cluster health` tells which voters do not answer",
    "INSUFFICIENT_STORAGE": "free space under the data directory of its leader, or lower "
    "retention.ms or retention.bytes; `ottla doctor` shows what is free",
    "INVALID_REPLICA_ASSIGNMENT": "`ottla cluster info` shows which brokers are active",
    "NO_REASSIGNMENT_IN_PROGRESS": "`ottla cluster reassign` shows those under way",
    "PREFERRED_LEADER_NOT_AVAILABLE": "`ottla topic describe NAME` shows who is in sync, "
    "`ottla cluster health` why others are not",
    "ELIGIBLE_LEADERS_NOT_AVAILABLE": "`ottla cluster info` shows which brokers are missing; where "
    "none of them comes back, `ottla cluster reassign TOPIC:PARTITION=ID` gives it another replica",
    "POLICY_VIOLATION": "`ottla topic alter NAME --config KEY=VALUE` changes a topic's rule, of "
    "the brokers' own topics, too",
    "OFFSET_OUT_OF_RANGE": "`ottla topic describe NAME` shows where partitions begin and end, "
    "`--from earliest` reads from the first record that is still kept",
    "NON_EMPTY_GROUP": "`ottla group describe NAME` shows the members; stop them first",
    "MESSAGE_TOO_LARGE": "the topic's max.message.bytes bounds a record",
}


MISSING_PARTITION_HINT: Final = "`ottla topic describe NAME` shows its partitions"


def hint_of(code: str, members: Mapping[str, Any]) -> str:
    """What to try next after a broker's error; empty where we do not know.

    Args:
        code: the error's.
        members: further members of its problem document.
    """
    if code == "UNKNOWN_TOPIC_OR_PARTITION" and "partitions" in members:
        # The topic is there; see `ottla_protocol.missing_partitions`.
        return MISSING_PARTITION_HINT
    return HINTS_BY_CODE.get(code, "")


def error_from_answer(status: int, document: Any) -> CommandError:
    """The failure that a broker's answer tells.

    Args:
        status: HTTP status of the answer.
        document: its problem document (RFC 9457), or whatever else the body held.
    """
    problem: dict[str, Any] = document if isinstance(document, dict) else {}
    code = str(problem.get("code") or f"HTTP_{status}")
    return CommandError(
        str(problem.get("detail") or problem.get("title") or f"the broker answered {status}"),
        code=code,
        exit_code=exit_code_of(status, code),
        hint=hint_of(code, problem),
        retriable=bool(problem.get("retriable", status in {429, 502, 503, 504, 507})),
        not_applied=problem.get("outcome") == "not_applied",
    )
