"""How far a log is compacted, in a small file beside its segments.

Losing it costs a compaction of the whole log, and nothing else. So a file that is absent or does
not parse stands for a log that was never compacted. Blocking.
"""

from pathlib import Path

import msgspec

from ottla_broker.storage.atomic_file import write_atomically
from ottla_broker.storage.disk_full import is_disk_full
from ottla_broker.storage.policy.compaction import CompactionProgress
from ottla_broker.storage.sqlite import fsync_directory

PROGRESS_FILE = "compaction.json"


class _Progress(msgspec.Struct, frozen=True):
    cleaned_to: int
    last_horizon_ms: int
    cleaned_from: int = 0


def read_progress(directory: Path) -> CompactionProgress:
    """What was last written down.

    Raises:
        OSError: the file cannot be read.
    """
    try:
        found = msgspec.json.decode((directory / PROGRESS_FILE).read_bytes(), type=_Progress)
    except (FileNotFoundError, msgspec.MsgspecError):
        return CompactionProgress()
    return CompactionProgress(
        max(found.cleaned_to, 0), found.last_horizon_ms, max(found.cleaned_from, 0)
    )


def write_progress(directory: Path, progress: CompactionProgress) -> None:
    """Write it down, durably.

    Raises:
        OSError: it cannot be written.
    """
    content = msgspec.json.encode(_Progress(**progress._asdict()))
    write_atomically(directory / PROGRESS_FILE, content)


def lower_progress(directory: Path, progress: CompactionProgress) -> None:
    """Write down that less is compacted than the file says; without room for that, remove it.

    Raises:
        OSError: it cannot be changed.
    """
    try:
        write_progress(directory, progress)
    except OSError as error:
        if not is_disk_full(error):
            raise
        (directory / PROGRESS_FILE).unlink(missing_ok=True)
        fsync_directory(directory)
