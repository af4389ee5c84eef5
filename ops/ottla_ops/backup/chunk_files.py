"""Chunks of a backup on disk: whole record batches, one behind the other. Blocking.

A chunk is written once, under its name, and synced when it is full. It is read with one batch in
memory at a time; what it holds is compared with the manifest on the way.
"""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

from ottla_broker.storage.sqlite import fsync_directory
from ottla_ops.backup.manifest import Chunk, DamagedBackupError
from ottla_protocol.errors import CorruptMessageError
from ottla_protocol.record_batch import (
    HEADER_BYTES,
    LENGTH_OVERHEAD_BYTES,
    BatchHeader,
    Buffer,
    read_header,
    validate_batch,
)

CHUNK_BYTES: Final = 64 << 20
"""A chunk this large is full; what the last answer brings may go beyond."""


class ChunkWriter:
    """Writes one chunk.

    Args:
        directory: of the backup.
        file: the chunk's path within it.
        first_offset: where reading begins for it.
    """

    def __init__(self, directory: Path, file: str, first_offset: int) -> None:
        self._path = directory / file
        self._file = file
        self._first_offset = first_offset
        self._batches = 0
        self._records = 0
        self._sha256 = hashlib.sha256()
        self.size_bytes = 0
        """How large it is."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._stream: IO[bytes] = self._path.open("xb")

    def write(self, batch: Buffer, header: BatchHeader) -> None:
        """Add a batch that was validated."""
        self._stream.write(batch)
        self._sha256.update(batch)
        self._batches += 1
        self._records += header.record_count
        self.size_bytes += len(batch)

    def finish(self, next_offset: int) -> Chunk:
        """Sync and close the file; what the manifest says of it."""
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._stream.close()
        fsync_directory(self._path.parent)
        return Chunk(
            file=self._file,
            first_offset=self._first_offset,
            next_offset=next_offset,
            batches=self._batches,
            records=self._records,
            size_bytes=self.size_bytes,
            sha256=self._sha256.hexdigest(),
        )

    def discard(self) -> None:
        """Close and remove the file."""
        self._stream.close()
        self._path.unlink()


def read_chunk(directory: Path, chunk: Chunk) -> Iterator[tuple[bytes, BatchHeader]]:
    """The batches of a chunk, with its size, its SHA-256 and every batch checked.

    The sum is known at the end alone: who must not act on damage reads the chunk twice.

    Raises:
        DamagedBackupError: the file is missing, or not what was written.
        OSError: it cannot be read.
    """
    path = directory / chunk.file
    try:
        stream = path.open("rb")
    except FileNotFoundError:
        raise DamagedBackupError(f"{path}: the file is missing") from None
    with stream:
        size_bytes = os.fstat(stream.fileno()).st_size
        if size_bytes != chunk.size_bytes:
            raise DamagedBackupError(
                f"{path}: it has {size_bytes} bytes, the manifest says {chunk.size_bytes}"
            )
        yield from _batches(stream, path, chunk)


def _batches(stream: IO[bytes], path: Path, chunk: Chunk) -> Iterator[tuple[bytes, BatchHeader]]:
    sha256 = hashlib.sha256()
    position = chunk.first_offset
    batches = records = 0
    left_bytes = chunk.size_bytes
    while left_bytes > 0:
        batch, header = _next_batch(stream, path, left_bytes)
        # A trim may have ended within the first batch, which is read whole.
        begins_within = batches == 0 and header.next_offset > position
        is_above = header.base_offset >= position or begins_within
        if not is_above or header.next_offset > chunk.next_offset:
            raise DamagedBackupError(
                f"{path}: a batch of {header.base_offset} to {header.last_offset} where "
                f"{position} to {chunk.next_offset - 1} is left"
            )
        position = header.next_offset
        sha256.update(batch)
        left_bytes -= len(batch)
        batches += 1
        records += header.record_count
        yield batch, header
    if sha256.hexdigest() != chunk.sha256:
        raise DamagedBackupError(f"{path}: its SHA-256 is not that of the manifest")
    if (batches, records) != (chunk.batches, chunk.records):
        raise DamagedBackupError(
            f"{path}: it has {records} records in {batches} batches, "
            f"the manifest says {chunk.records} in {chunk.batches}"
        )


def _next_batch(stream: IO[bytes], path: Path, left_bytes: int) -> tuple[bytes, BatchHeader]:
    try:
        head = stream.read(HEADER_BYTES)
        header = read_header(head)
        body_bytes = header.batch_length + LENGTH_OVERHEAD_BYTES - HEADER_BYTES
        # A length that lies must not be read into memory.
        if not 0 <= body_bytes <= left_bytes - HEADER_BYTES:
            raise DamagedBackupError(f"{path}: a batch at {header.base_offset} is cut short")
        batch = head + stream.read(body_bytes)
        return batch, validate_batch(batch, on_append=False)
    except CorruptMessageError as error:
        raise DamagedBackupError(f"{path}: {error.detail}") from error
