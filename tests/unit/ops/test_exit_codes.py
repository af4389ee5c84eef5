"""Which failure ends with which exit code, and that `--help` tells of all of them."""

import errno

import pytest

from ottla_ops.cli.exit_codes import MEANINGS, NAMES, USAGE_CODES, ExitCode, exit_code_of
from ottla_ops.cli.failures import error_from_answer, file_failure
from ottla_protocol import errors


def error_classes():
    below = [errors.OttlaError]
    while below:
        kind = below.pop()
        below.extend(each for each in kind.__subclasses__() if each.__module__ == errors.__name__)
        yield kind


CLASSES = {kind.code: kind for kind in error_classes()}


def test_every_exit_code_has_a_name_and_a_meaning_and_help_tells_of_it(cli):
    assert set(NAMES) == set(MEANINGS) == set(ExitCode)
    _, out, _ = cli("--help")
    for code, name in NAMES.items():
        assert f"{code.value} {name}" in " ".join(out.split())


def test_usage_codes_are_errors_of_brokers():
    assert set(CLASSES) >= USAGE_CODES
    assert all(CLASSES[code].status < 500 for code in USAGE_CODES)


@pytest.mark.parametrize(
    ("status", "code", "exit_code"),
    [
        (422, "INVALID_REQUEST", ExitCode.USAGE),
        (400, "MALFORMED_REQUEST", ExitCode.USAGE),
        (422, "INVALID_CONFIG", ExitCode.USAGE),
        (422, "INVALID_RECORD", ExitCode.FAILURE),
        (413, "MESSAGE_TOO_LARGE", ExitCode.FAILURE),
        (500, "UNKNOWN_SERVER_ERROR", ExitCode.FAILURE),
        (404, "GROUP_ID_NOT_FOUND", ExitCode.NOT_FOUND),
        (410, "CURSOR_OF_DELETED_TOPIC", ExitCode.NOT_FOUND),
        (409, "NON_EMPTY_GROUP", ExitCode.CONFLICT),
        (503, "LEADER_NOT_AVAILABLE", ExitCode.UNAVAILABLE),
        (408, "REQUEST_NOT_RECEIVED", ExitCode.UNAVAILABLE),
        (403, "CLUSTER_AUTHORIZATION_FAILED", ExitCode.DENIED),
    ],
)
def test_what_a_broker_refuses(status, code, exit_code):
    assert exit_code_of(status, code) is exit_code
    assert error_from_answer(status, {"code": code}).exit_code is exit_code


@pytest.mark.parametrize("kind", CLASSES.values(), ids=lambda kind: kind.code)
def test_retriable_errors_of_brokers_are_unavailable(kind):
    """Scripts repeat a command after 5, so nothing else may have it, and no usage error."""
    is_unavailable = exit_code_of(kind.status, kind.code) is ExitCode.UNAVAILABLE
    assert is_unavailable == (kind.status in {408, 421, 429} or kind.status > 500)


@pytest.mark.parametrize(
    ("number", "exit_code"),
    [
        (errno.ENOENT, ExitCode.NOT_FOUND),
        (errno.EACCES, ExitCode.DENIED),
        (errno.EISDIR, ExitCode.FAILURE),
    ],
)
def test_files(number, exit_code):
    failure = file_failure("a.csv", "read", OSError(number, "why"))
    assert (failure.exit_code, failure.message) == (exit_code, "a.csv cannot be read: why")
