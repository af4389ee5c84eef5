"""Did the write-ahead log lose transactions that were committed?

When SQLite opens a database it replays the log up to the first frame whose checksum fails, and
calls that the end: it cannot tell a commit that a crash cut short from damage to one that was
acknowledged long ago (one flipped bit turned 100 acknowledged rows into 49, and integrity_check
said ok). We can tell more, because with `synchronous=FULL` a transaction begins only after the one
before it has been synced:

- frames of this log's generation after a commit frame that was not replayed prove that a synced
  transaction is gone;
- a damaged header in front of frames proves the same, since the header is synced before them;
- one whole transaction at the end with a bad checksum proves nothing: its sync may never have
  ended. It is reported as suspect.

Layout (https://sqlite.org/fileformat2.html#walformat): a header of 32 bytes, then frames of a
24-byte header and a page. Both carry two salts that change whenever the log begins anew, so frames
of an earlier generation are recognised and ignored.
"""

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ottla_protocol.errors import StorageError

_HEADER = struct.Struct(">8I")
_FRAME_HEADER = struct.Struct(">6I")
_MAGIC_LITTLE_ENDIAN = 0x377F0682
_MAGIC_BIG_ENDIAN = 0x377F0683
_WORD = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class WalState:
    """What lies in the log beyond what SQLite replayed.

    `lost` says that synced transactions are gone; `suspect_tail` that one at the end may be.
    """

    frames_replayed: int = 0
    lost: bool = False
    suspect_tail: bool = False


def inspect_wal(connection: Any, path: Path) -> WalState:
    """Compare the log's frames with what was replayed. Call it before the first write.

    Args:
        connection: the driver connection, in WAL mode.
        path: the database file.
    """
    ((busy, frames_replayed, _),) = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
    if busy:
        raise StorageError(f"{path}: checkpoint found the file busy")
    wal = path.with_name(path.name + "-wal")
    if not wal.exists():
        return WalState()
    with wal.open("rb") as file:
        header = file.read(_HEADER.size)
        if len(header) < _HEADER.size:
            return WalState()
        magic, _, page_bytes, _, salt_1, salt_2, *_ = _HEADER.unpack(header)
        frame_bytes = _FRAME_HEADER.size + page_bytes
        if not _is_valid_header(header, magic):
            has_frames = wal.stat().st_size > _HEADER.size
            return WalState(frames_replayed, lost=has_frames)
        commits_missed = 0
        frames_after_commit = False
        position = _HEADER.size + frames_replayed * frame_bytes
        size_bytes = wal.stat().st_size
        while position + _FRAME_HEADER.size <= size_bytes:
            file.seek(position)
            _, pages_after_commit, frame_salt_1, frame_salt_2, *_ = _FRAME_HEADER.unpack(
                file.read(_FRAME_HEADER.size)
            )
            if (frame_salt_1, frame_salt_2) == (salt_1, salt_2):
                frames_after_commit = frames_after_commit or commits_missed > 0
                commits_missed += pages_after_commit != 0
            position += frame_bytes
    return WalState(
        max(frames_replayed, 0),
        lost=frames_after_commit,
        suspect_tail=commits_missed == 1 and not frames_after_commit,
    )


def _is_valid_header(header: bytes, magic: int) -> bool:
    if magic not in (_MAGIC_LITTLE_ENDIAN, _MAGIC_BIG_ENDIAN):
        return False
    words = struct.unpack(f"{'>' if magic == _MAGIC_BIG_ENDIAN else '<'}8I", header)
    sum_1 = sum_2 = 0
    for index in range(0, 6, 2):
        sum_1 = (sum_1 + words[index] + sum_2) & _WORD
        sum_2 = (sum_2 + words[index + 1] + sum_1) & _WORD
    stored = struct.unpack(">2I", header[24:])
    return (sum_1, sum_2) == stored
