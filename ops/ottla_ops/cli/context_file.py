"""Reads and writes the file of contexts: `ottla/contexts.json` in the XDG configuration directory.

Only its owner may read it (mode 0600): URLs tell where clusters are. A writer replaces the file
whole, so a reader sees the old one or the new one, and writers take turns.
"""

import fcntl
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from ottla_ops.cli.contexts import Contexts, decode, encode
from ottla_ops.cli.failures import CommandError, file_failure

FILE_BYTES_MAX: Final = 1 << 20


def contexts_path(environment: Mapping[str, str]) -> Path | None:
    """Where the file is; None for a user who has no home.

    The XDG Base Directory Specification 0.8 has relative paths ignored.
    """
    configured = Path(environment.get("XDG_CONFIG_HOME", ""))
    if configured.is_absolute():
        return configured / "ottla" / "contexts.json"
    home = Path(environment.get("HOME", ""))
    return home / ".config" / "ottla" / "contexts.json" if home.is_absolute() else None


def read_contexts(path: Path | None) -> Contexts:
    """The contexts; none where there is no file.

    Raises:
        CommandError: the file cannot be read, or is no file of contexts.
    """
    if path is None:
        return Contexts()
    try:
        with path.open("rb") as file:
            content = file.read(FILE_BYTES_MAX + 1)
    except (FileNotFoundError, NotADirectoryError):
        return Contexts()
    except OSError as error:
        raise file_failure(path, "read", error) from error
    if len(content) > FILE_BYTES_MAX:
        raise CommandError(
            f"{path} has more than {FILE_BYTES_MAX} bytes", code="MALFORMED_CONTEXTS"
        )
    return decode(content, str(path))


def change_contexts(path: Path | None, change: Callable[[Contexts], Contexts]) -> Contexts:
    """Read, change and write the contexts, one process at a time.

    Raises:
        CommandError: there is no home to write to, it cannot be written, or `change` refuses.
    """
    if path is None:
        raise CommandError(
            "there is no directory for contexts: neither XDG_CONFIG_HOME nor HOME is a path",
            code="IO_ERROR",
        )
    # Who keeps the file elsewhere by a link keeps the link.
    target = Path(os.path.realpath(path))
    try:
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        directory = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise file_failure(path, "written", error) from error
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        changed = change(read_contexts(target))
        _replace(target, encode(changed))
        os.fsync(directory)
    except OSError as error:
        raise file_failure(path, "written", error) from error
    finally:
        os.close(directory)
    return changed


def _replace(target: Path, content: bytes) -> None:
    # Its mode is 0600 from the beginning.
    descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=".contexts-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        Path(name).replace(target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
