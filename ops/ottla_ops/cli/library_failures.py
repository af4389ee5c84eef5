"""Errors of the SDK and of storage as failures of a command."""

from collections.abc import Iterator
from contextlib import contextmanager

from ottla_ops.cli.exit_codes import ExitCode, exit_code_of
from ottla_ops.cli.failures import CommandError, file_failure, hint_of
from ottla_protocol.errors import OttlaError

HINTS_BY_ERROR = {
    "ClusterUnreachableError": "is the cluster running? --bootstrap or OTTLA_BOOTSTRAP names its "
    "URLs; --data-dir reads files",
    "ExportExistsError": "--overwrite replaces it",
    "DamagedSegmentError": "`ottla segment verify` tells how much is damaged",
    "QueryTooLargeError": "bounds on partition, offset or timestamp in WHERE leave records unread; "
    "--max-bytes allows more",
    "StatementFailedError": "`WHERE json_valid(value)` leaves out values that are no JSON",
}

EXIT_CODES_BY_ERROR = {
    "ClusterUnreachableError": ExitCode.UNAVAILABLE,
    "NoSegmentsError": ExitCode.NOT_FOUND,
    "SegmentBusyError": ExitCode.UNAVAILABLE,
    "InvalidStatementError": ExitCode.USAGE,
    "MissingExtraError": ExitCode.USAGE,
    "ConfigError": ExitCode.USAGE,
}
"""By class, because most of these never travel over HTTP and so have no status of their own."""


@contextmanager
def failures_told() -> Iterator[None]:
    """Raise what the block raises as a CommandError.

    Raises:
        CommandError: with the error's code, exit code and hint.
    """
    try:
        yield
    except OttlaError as error:
        raise command_error(error) from error
    except OSError as error:
        if error.filename is None:
            raise CommandError(str(error), code="IO_ERROR") from error
        raise file_failure(error.filename, "used", error) from error


def command_error(error: OttlaError) -> CommandError:
    """The failure that an error of a library is."""
    name = type(error).__name__
    exit_code = EXIT_CODES_BY_ERROR.get(name) or exit_code_of(error.status, error.code)
    hint = HINTS_BY_ERROR.get(name) or hint_of(error.code, error.members)
    return CommandError(
        error.detail,
        code=error.code,
        exit_code=exit_code,
        hint=hint or getattr(error, "hint", ""),
        retriable=error.retriable or exit_code is ExitCode.UNAVAILABLE,
    )
