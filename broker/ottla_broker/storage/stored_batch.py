"""One record batch as the log stores it, and its row in a segment.

The row repeats the blob's header in columns, so that look-ups, retention, producer state and SQL
queries need not touch the blob, and so that a flipped bit in either is seen: whoever reads a row
from disk checks the batch's own CRC and that columns and header agree.
"""

from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeAlias

from ottla_protocol.errors import CorruptMessageError, StorageError
from ottla_protocol.idempotency import IDEMPOTENCY_BYTES
from ottla_protocol.record_batch import BatchHeader, Buffer, validate_batch

Row: TypeAlias = tuple[Any, ...]
"""The values of one row in the order of COLUMNS."""

COLUMNS = (
    "base_offset",
    "last_offset",
    "leader_epoch",
    "max_timestamp",
    "record_count",
    "producer_id",
    "producer_epoch",
    "base_sequence",
    "attributes",
    "idempotency",
    "size",
    "data",
)
"""Columns of `batches`. The blob is last: SQLite finds the others without reading it."""

RECORD_COUNT = COLUMNS.index("record_count")
_IDEMPOTENCY = COLUMNS.index("idempotency")
_SIZE = COLUMNS.index("size")
_DATA = COLUMNS.index("data")


class DamagedSegmentError(StorageError):
    """A segment's content is not what was written; `offset` is a member where it is known.

    Attributes:
        path: the file, where whoever raised it knew.
    """

    def __init__(self, detail: str, *, path: Path | None = None, **members: Any) -> None:
        super().__init__(detail, **members)
        self.path = path


class StoredBatch(NamedTuple):
    """A record batch with its final offsets; whoever gets one must not change `data`.

    `idempotency` is the 32 bytes of the request that produced it, None without an
    Idempotency-Key.
    """

    base_offset: int
    last_offset: int
    leader_epoch: int
    data: Buffer
    idempotency: bytes | None = None


class FetchedBatch(Protocol):
    """A batch as a leader sent it, with the idempotency column beside it."""

    @property
    def data(self) -> Buffer:
        """The whole batch."""

    @property
    def idempotency(self) -> bytes | None:
        """32 bytes, or None."""


def row_of(header: BatchHeader, batch: StoredBatch) -> Row:
    """The row of a batch. Offsets and epoch come from `batch`: the header may be older."""
    return (
        batch.base_offset,
        batch.last_offset,
        batch.leader_epoch,
        header.max_timestamp,
        header.record_count,
        header.producer_id,
        header.producer_epoch,
        header.base_sequence,
        header.attributes,
        batch.idempotency,
        header.size_bytes,
        batch.data,
    )


def verified_batch(path: Path, row: Row) -> tuple[StoredBatch, BatchHeader]:
    """The batch of a row that came from disk, after checking CRC, header and columns.

    Raises:
        DamagedSegmentError: naming file and offset.
    """
    data = row[_DATA]
    if not isinstance(data, bytes):
        raise damaged(path, row[0], "the batch is no blob")
    try:
        header = validate_batch(data, on_append=False)
    except CorruptMessageError as error:
        raise damaged(path, row[0], error.detail) from error
    idempotency = row[_IDEMPOTENCY]
    if idempotency is not None and (
        not isinstance(idempotency, bytes) or len(idempotency) != IDEMPOTENCY_BYTES
    ):
        raise damaged(path, row[0], "the idempotency column is malformed")
    batch = StoredBatch(
        header.base_offset, header.last_offset, header.leader_epoch, data, idempotency
    )
    if row_of(header, batch) != tuple(row):
        raise damaged(path, row[0], "the columns differ from the batch's header")
    return batch, header


def damaged(path: Path, offset: object, reason: str) -> "DamagedSegmentError":
    """The error for a row that must not be served."""
    return DamagedSegmentError(
        f"{path}: damaged at offset {offset}: {reason}", path=path, offset=offset
    )
