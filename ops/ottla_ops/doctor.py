"""What `ottla doctor` looks at: whether brokers would run well here, and whether they do.

Each check is a small function that looks at one thing and says what it found, whether that is well,
and what to do if it is not. None changes anything; the one that tries whether a directory can be
written removes its file again.
"""

import os
import platform
import resource
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from enum import StrEnum
from pathlib import Path
from typing import Final

import msgspec
import urllib3

from ottla_broker.descriptor_budget import DESCRIPTORS_MIN
from ottla_broker.settings import Settings
from ottla_broker.storage.policy.disk_space import resume_bytes
from ottla_broker.storage.sqlite_version import (
    FIXED_VERSIONS,
    SqliteInUse,
    sqlite_in_use,
)
from ottla_protocol import routes
from ottla_protocol.models import Readiness, VersionResponse

MEBIBYTE: Final = 1 << 20

FILE_DESCRIPTORS_WANTED: Final = 4_096
"""Room for a thousand clients beside the open segments; with fewer, a broker turns some away."""

CLOCK_SKEW_MAX_S: Final = 5.0
"""How far this clock and a broker's may differ: timestamps and retention go by them."""

OLDEST_PLAUSIBLE_YEAR: Final = 2025

BROKER_TIMEOUT_S: Final = 3.0


class Status(StrEnum):
    """What a check comes to."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found.

    Attributes:
        check: what was looked at.
        status: whether it is well.
        detail: what was found.
        hint: what to do; empty where there is nothing to do.
    """

    check: str
    status: Status
    detail: str
    hint: str = ""


def check_python() -> Finding:
    """The interpreter; that it is recent enough the package itself asks for."""
    detail = f"{platform.python_implementation()} {platform.python_version()}"
    return Finding("python", Status.OK, detail)


def check_sqlite(in_use: SqliteInUse, environment: Mapping[str, str]) -> Finding:
    """The SQLite of this Python, and whether brokers take it."""
    detail = f"{in_use.version}, by {in_use.driver}"
    if not in_use.is_affected:
        return Finding("sqlite", Status.OK, detail)
    detail += f": has the WAL-reset corruption bug (fixed in {FIXED_VERSIONS})"
    if environment.get("OTTLA_ALLOW_AFFECTED_SQLITE", "").lower() in {"1", "true", "yes", "on"}:
        return Finding(
            "sqlite",
            Status.WARNING,
            detail,
            "keep every other program away from a running broker's files",
        )
    return Finding(
        "sqlite",
        Status.FAILED,
        f"{detail}; brokers do not start with it",
        "install pysqlite3, or a Python with a newer SQLite",
    )


def check_file_descriptors(hard_limit: int) -> Finding:
    """How many descriptors a broker may take: it raises its limit to the hard one.

    Args:
        hard_limit: `resource.RLIM_INFINITY` for no limit.
    """
    check = "file descriptors"
    hint = f"raise the hard limit (ulimit -Hn, LimitNOFILE) to {FILE_DESCRIPTORS_WANTED} or more"
    if hard_limit == resource.RLIM_INFINITY:
        return Finding(check, Status.OK, "no limit")
    detail = f"at most {hard_limit}"
    if hard_limit < DESCRIPTORS_MIN:
        return Finding(check, Status.FAILED, f"{detail}; brokers do not start with them", hint)
    if hard_limit < FILE_DESCRIPTORS_WANTED:
        return Finding(check, Status.WARNING, detail, hint)
    return Finding(check, Status.OK, detail)


def check_free_space(directory: Path, free_bytes: int, reserve_bytes: int) -> Finding:
    """The room on a data directory's disk."""
    check = f"free space of {directory}"
    detail = f"{free_bytes // MEBIBYTE} MiB, of which {reserve_bytes // MEBIBYTE} are the reserve"
    if free_bytes < reserve_bytes:
        return Finding(
            check, Status.FAILED, detail, "brokers refuse writes (507) until there is more"
        )
    if free_bytes < resume_bytes(reserve_bytes):
        return Finding(check, Status.WARNING, detail, "brokers will soon refuse writes (507)")
    return Finding(check, Status.OK, detail)


def check_writable(directory: Path) -> Finding:
    """Whether a file can be written and synced in a directory, or in the one it will be made in."""
    check = f"data directory {directory}"
    existing = _nearest_existing(directory)
    try:
        with tempfile.TemporaryFile(dir=existing) as file:
            file.write(b"ottla")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return Finding(
            check,
            Status.FAILED,
            f"cannot be written: {error.strerror}",
            "give it to the user that brokers run as, or name another one (OTTLA_DATA_DIR)",
        )
    made = "" if directory.exists() else f"; it will be made in {existing}"
    return Finding(check, Status.OK, f"can be written and synced{made}")


def check_clock(now_s: float) -> Finding:
    """Whether the wall clock can be right at all."""
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now_s))
    if time.gmtime(now_s).tm_year < OLDEST_PLAUSIBLE_YEAR:
        return Finding("clock", Status.FAILED, now, "set the clock: records and retention go by it")
    return Finding("clock", Status.OK, now)


def check_broker(url: str, http: urllib3.PoolManager, now_s: float | None = None) -> Finding:
    """Whether a broker answers, is ready, and has this machine's idea of the time."""
    check = f"broker {url}"
    try:
        version = http.request("GET", url + routes.VERSION, timeout=BROKER_TIMEOUT_S)
        ready = http.request("GET", url + routes.READINESS, timeout=BROKER_TIMEOUT_S)
        told = msgspec.json.decode(version.data, type=VersionResponse)
        readiness = msgspec.json.decode(ready.data, type=Readiness)
    except urllib3.exceptions.HTTPError as error:
        return Finding(
            check,
            Status.FAILED,
            f"cannot be reached: {_reason(error)}",
            "start it, or name others with --bootstrap",
        )
    except msgspec.MsgspecError:
        return Finding(check, Status.FAILED, "answers, but is no Ottla broker")
    detail = f"Ottla {told.version}, Python {told.python}, SQLite {told.sqlite}"
    problems = [*readiness.reasons, *readiness.warnings]
    skew_s = _skew_s(version.headers.get("Date"), time.time() if now_s is None else now_s)
    if abs(skew_s) > CLOCK_SKEW_MAX_S:
        problems.append(f"its clock is {abs(skew_s):.0f} s {'ahead' if skew_s > 0 else 'behind'}")
    if not readiness.ready:
        return Finding(check, Status.FAILED, f"{detail}; not ready: {'; '.join(problems)}")
    if problems:
        return Finding(check, Status.WARNING, f"{detail}; {'; '.join(problems)}")
    return Finding(check, Status.OK, f"{detail}; ready")


def examine_machine(
    directories: Sequence[Path], environment: Mapping[str, str]
) -> Iterator[Finding]:
    """Everything that brokers need of the machine.

    Args:
        directories: the brokers' data directories, there already or not.
        environment: whose `OTTLA_*` variables brokers would take.
    """
    yield check_python()
    yield check_sqlite(sqlite_in_use(), environment)
    yield check_file_descriptors(resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    yield check_clock(time.time())
    for directory in directories:
        yield check_writable(directory)
        try:
            found = os.statvfs(_nearest_existing(directory))
        except OSError as error:
            yield Finding(
                f"free space of {directory}", Status.FAILED, f"not known: {error.strerror}"
            )
        else:
            yield check_free_space(
                directory, found.f_bavail * found.f_frsize, reserve_bytes_of(environment)
            )


def examine_brokers(urls: Sequence[str]) -> Iterator[Finding]:
    """Every broker of the bootstrap list."""
    with urllib3.PoolManager(retries=False) as http:
        for url in urls:
            yield check_broker(url, http)


def reserve_bytes_of(environment: Mapping[str, str]) -> int:
    """`OTTLA_DISK_RESERVE_BYTES`, or its default; a wrong value is the broker's to refuse."""
    given = environment.get("OTTLA_DISK_RESERVE_BYTES", "")
    return (
        int(given) if given.isdigit() else int(Settings.model_fields["disk_reserve_bytes"].default)
    )


def _reason(error: urllib3.exceptions.HTTPError) -> str:
    if isinstance(error, urllib3.exceptions.NewConnectionError):
        return "nobody listens there"
    if isinstance(error, urllib3.exceptions.TimeoutError):
        return f"no answer within {BROKER_TIMEOUT_S:.0f} s"
    return type(error).__name__


def _nearest_existing(directory: Path) -> Path:
    absolute = directory.absolute()
    return next(path for path in (absolute, *absolute.parents) if path.is_dir())


def _skew_s(date: str | None, now_s: float) -> float:
    """How far a Date header is ahead of `now_s`; 0 where it says nothing."""
    if date is None:
        return 0.0
    try:
        return parsedate_to_datetime(date).timestamp() - now_s
    except ValueError:
        return 0.0
