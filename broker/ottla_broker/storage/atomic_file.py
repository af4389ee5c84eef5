"""Small files that are whole after any crash: written aside, synced, renamed. Blocking."""

import os
from pathlib import Path

from ottla_broker.storage.sqlite import FILE_MODE, fsync_directory


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file's content durably: after a crash it is the old or the new, never a mix."""
    temporary = path.with_name(path.name + ".tmp")
    descriptor = os.open(temporary, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, FILE_MODE)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    fsync_directory(path.parent)
