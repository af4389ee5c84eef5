"""Where the replicas' logs end, and begin, written down outside of them.

A log can lose its end and look sound: SQLite ends its replay at the first bad byte of the
write-ahead log, and says nothing; an old copy of a directory, or a missing log file, is a shorter
log without any fault (PAR, FAST'18: without more metadata a damaged log looks like a crash). So
one file of the broker tells, for every replica, up to where its log was durable, and which leader
epoch wrote the last record. A log that ends below has lost something.

The order is what makes it safe: an end is written here only after the log itself was synced up to
it. So the witness is never ahead of a log, whatever loses its power, and of all brokers that lose
it at once none calls its own log too short. For the same reason a log that is to be truncated is
entered here before it is. What is lost of the last moments is not noticed, as far as the witness
lags behind (`WITNESS_INTERVAL_MS` of the driver).

Where a log begins is told by the names of its files, so one whose first files were lost looks like
one that retention has shortened; as leader it would have the others give up what they still have.
So files go only after the start that they lie below was entered here.

A log with `durability=os` survives its process, not a loss of power: its end comes with the boot id
of the system, and must still be there while that is the same.

The file consists of slots of a fixed size that are overwritten in place, so that a sync writes no
metadata of the file system. Each slot has two copies, in pages of their own, which are written in
turn: a torn write spoils one of them, and the other tells the end of one interval before. Each copy
has a checksum; one that fails counts for nothing.

    page 2k     copy 0 of the slots 32k .. 32k+31
    page 2k+1   copy 1 of them

All methods block, save `record`, `forget` and `ends`; one thread at a time calls `flush`.
"""

import os
import struct
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import google_crc32c

from ottla_broker.storage.disk_full import DiskFullError
from ottla_broker.storage.sqlite import FILE_MODE, fsync_directory, storage_error

WITNESS_FILE: Final = "log-ends.bin"

PAGE_BYTES: Final = 4096
COPY_BYTES: Final = 128
SLOTS_PER_PAGE: Final = PAGE_BYTES // COPY_BYTES
TOPIC_ID_BYTES_MAX: Final = 64

BOOT_ID_FILE: Final = Path("/proc/sys/kernel/random/boot_id")
"""Linux gives each start of the system an id."""

_COPY: Final = struct.Struct(">4sH64sIqqQ?16sq")
_MAGIC: Final = b"OEN2"
_NO_BOOT_ID: Final = bytes(16)

UNKNOWN_START: Final = 2**63 - 1
"""The start of a log that nothing is known of: no log begins above it."""
_CRC: Final = struct.Struct(">I")

ReplicaKey = tuple[str, int]
"""Topic id and partition."""


@dataclass(frozen=True, slots=True)
class WitnessedEnd:
    """All below `end_offset` was durable; `leader_epoch` wrote the record before it, -1 if none.

    `is_short` says that the log has lost some of that, and has not been refilled yet. With a
    `boot_id`, of 16 bytes, it was durable for as long as the system is not started again. No file
    was removed that has records at or above `start_offset`.
    """

    leader_epoch: int
    end_offset: int
    is_short: bool = False
    boot_id: bytes | None = None
    start_offset: int = UNKNOWN_START


def read_boot_id() -> bytes | None:
    """The id of the system's present start, 16 bytes; None where the system has none."""
    try:
        return uuid.UUID(BOOT_ID_FILE.read_text().strip()).bytes
    except (OSError, ValueError):
        return None


class EndWitness:
    """The file, and what it tells.

    Args:
        path: made if it is absent.
        boot_id: of the system's present start; None where nobody knows.

    Raises:
        StorageError: it cannot be opened or read.
    """

    def __init__(self, path: Path, *, boot_id: bytes | None = None) -> None:
        self.boot_id = boot_id
        self._path = path
        self._ends: dict[ReplicaKey, WitnessedEnd] = {}
        self._slots: dict[ReplicaKey, int] = {}
        self._free: list[int] = []
        self._slot_count = 0
        self._sequence = 0
        # What the file does not tell yet; None for a slot that is given up.
        self._dirty: dict[ReplicaKey, WitnessedEnd | None] = {}
        self.damaged_slots = 0
        """Slots that tell nothing, because both of their copies fail their checksums."""
        try:
            is_new = not path.exists()
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
            if is_new:
                fsync_directory(path.parent)
            self._load(os.pread(self._file, os.fstat(self._file).st_size, 0))
        except OSError as error:
            raise storage_error(path, "open", error) from error

    @property
    def ends(self) -> Mapping[ReplicaKey, WitnessedEnd]:
        """What is known of each replica, with what is not written down yet."""
        return self._ends

    @property
    def is_dirty(self) -> bool:
        """Whether `flush` has something to write."""
        return self._dirty != {}

    def record(self, key: ReplicaKey, end: WitnessedEnd) -> None:
        """Remember an end, for the next `flush`. The log is durable up to it."""
        assert len(key[0].encode()) <= TOPIC_ID_BYTES_MAX, key
        if self._ends.get(key) != end:
            self._ends[key] = end
            self._dirty[key] = end

    def forget(self, key: ReplicaKey) -> None:
        """The replica is gone; its slot is given up with the next `flush`."""
        if self._ends.pop(key, None) is not None:
            self._dirty[key] = None

    def flush(self) -> int:
        """Write and sync what has changed; returns how many slots.

        Raises:
            DiskFullError: there is no room for it; the next `flush` writes all of it again.
            StorageError: what the file holds now is unknown.
        """
        # Replaced first: what is recorded meanwhile is for the next time.
        dirty, self._dirty = self._dirty, {}
        if not dirty:
            return 0
        try:
            for key, end in dirty.items():
                self._write(key, end)
            os.fdatasync(self._file)
        except OSError as error:
            failure = storage_error(self._path, "write", error)
            if isinstance(failure, DiskFullError):
                self._dirty = dirty | self._dirty
            raise failure from error
        return len(dirty)

    def close(self) -> None:
        """Give up the file; call `flush` first."""
        os.close(self._file)

    def _write(self, key: ReplicaKey, end: WitnessedEnd | None) -> None:
        self._sequence += 1
        if end is None:
            slot = self._slots.pop(key, None)
            if slot is not None:
                for copy in (0, 1):
                    os.pwrite(self._file, bytes(COPY_BYTES), _position(slot, copy))
                self._free.append(slot)
            return
        slot = self._slots.get(key)
        if slot is None:
            if not self._free:
                self._grow()
            slot = self._slots[key] = self._free.pop()
            # Both, so that neither tells of the replica that had the slot before.
            os.pwrite(self._file, bytes(COPY_BYTES), _position(slot, (self._sequence + 1) % 2))
        content = _encode(key, end, self._sequence)
        os.pwrite(self._file, content, _position(slot, self._sequence % 2))

    def _grow(self) -> None:
        """Add room for more slots: real zeros, so that later syncs need no metadata."""
        first = self._slot_count
        os.pwrite(self._file, bytes(2 * PAGE_BYTES), _position(first, 0))
        os.fsync(self._file)
        self._slot_count += SLOTS_PER_PAGE
        self._free.extend(reversed(range(first, self._slot_count)))

    def _load(self, content: bytes) -> None:
        self._slot_count = len(content) // (2 * PAGE_BYTES) * SLOTS_PER_PAGE
        newest: dict[ReplicaKey, int] = {}
        for slot in range(self._slot_count):
            copies = [
                content[position : position + COPY_BYTES]
                for position in (_position(slot, 0), _position(slot, 1))
            ]
            found = max(filter(None, map(_decode, copies)), default=None, key=lambda each: each[2])
            if found is None:
                self.damaged_slots += any(map(any, copies))
                self._free.append(slot)
                continue
            key, end, sequence = found
            self._sequence = max(self._sequence, sequence)
            if newest.get(key, -1) > sequence:
                self._free.append(slot)
                continue
            if key in self._slots:
                self._free.append(self._slots[key])
            newest[key] = sequence
            self._slots[key], self._ends[key] = slot, end
        self._free.reverse()


def _position(slot: int, copy: int) -> int:
    page, index = divmod(slot, SLOTS_PER_PAGE)
    return (2 * page + copy) * PAGE_BYTES + index * COPY_BYTES


def _encode(key: ReplicaKey, end: WitnessedEnd, sequence: int) -> bytes:
    topic_id, partition = key
    encoded = topic_id.encode()
    content = _COPY.pack(
        _MAGIC,
        len(encoded),
        encoded,
        partition,
        end.leader_epoch,
        end.end_offset,
        sequence,
        end.is_short,
        end.boot_id or _NO_BOOT_ID,
        end.start_offset,
    )
    content += _CRC.pack(google_crc32c.value(content))
    return content.ljust(COPY_BYTES, b"\0")


def _decode(content: bytes) -> tuple[ReplicaKey, WitnessedEnd, int] | None:
    body, checksum = content[: _COPY.size], content[_COPY.size : _COPY.size + _CRC.size]
    (
        magic,
        length,
        topic_id,
        partition,
        leader_epoch,
        end_offset,
        sequence,
        is_short,
        boot_id,
        start,
    ) = _COPY.unpack(body)
    if magic != _MAGIC or checksum != _CRC.pack(google_crc32c.value(body)):
        return None
    key = topic_id[:length].decode(), partition
    end = WitnessedEnd(
        leader_epoch, end_offset, is_short, None if boot_id == _NO_BOOT_ID else boot_id, start
    )
    return key, end, sequence
