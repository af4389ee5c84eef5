"""Putting a compacted segment in the place of the one, or of the neighbours, that it is made of.

One segment is replaced by renaming the new file over it. Where several become one, the new file has
the first one's name, and the others have to go; a crash in between must not leave records twice. So
the new file is first renamed to a name that tells its offsets, `<base>-<end>.sqlite.swap`: from
then on it counts. The others are removed, and it takes its own name. Opening the log finishes what
a crash has left half done, and removes files that did not get as far.

Everything here blocks and runs on a thread.
"""

from collections.abc import Sequence
from pathlib import Path

from ottla_broker.storage import segment as segments
from ottla_broker.storage import sqlite

COMPACTING_SUFFIX = ".sqlite.compacting"
"""Ending of a file that a compaction is writing."""

SWAP_SUFFIX = ".sqlite.swap"
"""Ending of a whole file that takes the place of several."""


def compacting_path(segment: Path) -> Path:
    """Where a compaction writes what takes the place of `segment`, and of those behind it."""
    return segment.with_name(segment.name.removesuffix(segments.SUFFIX) + COMPACTING_SUFFIX)


def replace_segments(compacting: Path, replaced: Sequence[Path], end_offset: int) -> None:
    """Put a written, synced file in the place of closed segments, durably and all at once.

    Args:
        compacting: the new file.
        replaced: neighbours, oldest first.
        end_offset: where the last of them ends.
    """
    if len(replaced) == 1:
        segments.publish_file(compacting, replaced[0])
        return
    base_offset = segments.required_base_offset(replaced[0])
    digits = segments.BASE_OFFSET_DIGITS
    swap = compacting.with_name(f"{base_offset:0{digits}d}-{end_offset:0{digits}d}{SWAP_SUFFIX}")
    compacting.replace(swap)
    sqlite.fsync_directory(swap.parent)
    _finish(swap)


def finish_replacements(directory: Path) -> None:
    """Finish what a crash has interrupted, and remove what was not whole yet."""
    for path in sorted(directory.iterdir()):
        if path.name.endswith(SWAP_SUFFIX):
            _finish(path)
        elif path.name.endswith(COMPACTING_SUFFIX):
            path.unlink()


def _finish(swap: Path) -> None:
    base_offset, end_offset = map(int, swap.name.removesuffix(SWAP_SUFFIX).split("-"))
    for path in sorted(swap.parent.iterdir(), reverse=True):
        found = segments.base_offset_of(path)
        if found is not None and base_offset < found < end_offset:
            for sidecar in sqlite.sidecars(path):
                sidecar.unlink(missing_ok=True)
            path.unlink()
    # They must be gone for good before the new file can be taken for a segment among them.
    sqlite.fsync_directory(swap.parent)
    segments.publish_file(swap, segments.segment_path(swap.parent, base_offset))
