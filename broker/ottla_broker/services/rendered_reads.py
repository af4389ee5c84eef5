"""From record batches to rendered records, in pieces that can be sent one by one."""

from collections.abc import Sequence
from dataclasses import dataclass

from ottla_broker.services.batch_decoding import decode_records
from ottla_broker.services.heavy_work import on_worker
from ottla_broker.services.stream_rendering import StreamRendering
from ottla_protocol.cursors import CursorEncoder
from ottla_protocol.record_batch import Buffer
from ottla_protocol.record_codec import Record

PIECE_BYTES = 128 << 10
"""A piece ends with the record that reaches this."""

RECORDS_PER_READ = 100_000
"""Records that are decoded at a time."""

RECORD_BYTES = 80
"""What a rendered record takes beside its key, value, headers and cursor."""

OVERHEAD_BYTES_MAX = 16 << 20
"""What that and the cursors, which are long where partitions are many, may take in one read."""

RECORDS_RENDERED_INLINE = 100
BYTES_RENDERED_INLINE = 64 << 10
"""More records or bytes are rendered on a thread, so that heartbeats go on meanwhile."""


@dataclass(frozen=True, slots=True)
class RenderedPiece:
    """Records of one partition, rendered without cursors; the offsets are those of the records.

    `size_bytes` counts the cursors that they will get.
    """

    offsets: Sequence[int]
    bodies: Sequence[bytes]
    next_offset: int
    size_bytes: int


async def render_batches(
    batches: Sequence[Buffer],
    offset: int,
    *,
    partition: int,
    rendering: StreamRendering,
    max_bytes: int,
    cursor_bytes: int,
    end_offset: int | None = None,
) -> list[RenderedPiece]:
    """Pieces with the records from `offset` on, at least one if the batches have any.

    They end before the record with which keys, values and headers are more than `max_bytes`,
    whether they are wanted or not: the last piece's `next_offset` is where to read on. Where
    records are passed over without any to render, the one piece has none and tells how far that is.
    `cursor_bytes` is what each record's cursor will add, 0 where it gets none; `end_offset` is as
    `decode_records` takes it.

    Raises:
        CorruptMessageError, MessageTooLargeError: a batch cannot be decoded.
        InvalidRequestError: a record cannot be rendered in this form.
    """
    decoded = await decode_records(
        batches, offset, max_records=RECORDS_PER_READ, end_offset=end_offset
    )
    records, next_offset = decoded.records, decoded.next_offset
    most = max(1, OVERHEAD_BYTES_MAX // (RECORD_BYTES + cursor_bytes))
    kept, size_bytes = _fitting(records[:most], max_bytes)
    if kept < len(records):
        next_offset = records[kept].offset
        records = records[:kept]
    if kept > RECORDS_RENDERED_INLINE or size_bytes > BYTES_RENDERED_INLINE:
        return await on_worker(_pieces, records, next_offset, partition, rendering, cursor_bytes)
    return _pieces(records, next_offset, partition, rendering, cursor_bytes)


def _fitting(records: Sequence[Record], max_bytes: int) -> tuple[int, int]:
    """How many records fit, the first in any case, and their bytes."""
    size_bytes = 0
    for index, record in enumerate(records):
        size = len(record.value or b"") + len(record.key or b"")
        if record.headers:
            size += sum(len(name) + len(value or b"") for name, value in record.headers)
        if index and size_bytes + size > max_bytes:
            return index, size_bytes
        size_bytes += size
    return len(records), size_bytes


def _pieces(
    records: Sequence[Record],
    next_offset: int,
    partition: int,
    rendering: StreamRendering,
    cursor_bytes: int,
) -> list[RenderedPiece]:
    records = rendering.select(records)
    bodies = rendering.bodies(records, partition)
    pieces: list[RenderedPiece] = []
    start, size_bytes = 0, 0
    for index, body in enumerate(bodies):
        size_bytes += len(body) + cursor_bytes
        is_last = index == len(bodies) - 1
        if size_bytes < PIECE_BYTES and not is_last:
            continue
        end = index + 1
        pieces.append(
            RenderedPiece(
                [record.offset for record in records[start:end]],
                bodies[start:end],
                next_offset if is_last else records[end].offset,
                size_bytes,
            )
        )
        start, size_bytes = end, 0
    return pieces or [RenderedPiece((), (), next_offset, 0)]


def with_cursors(
    piece: RenderedPiece,
    *,
    rendering: StreamRendering,
    encoder: CursorEncoder,
    positions: Sequence[int],
    epochs: Sequence[int],
    index: int,
) -> bytes:
    """The piece as it is sent to a reader that is at `positions`, of which it moves one.

    Args:
        piece: of the partition at `index` of the positions; what the reader has is left out.
        rendering: that of the piece.
        encoder: of the cursors of what is read.
        positions: before the piece.
        epochs: the leader epochs of the positions behind it.
        index: see above.
    """
    skipped = 0
    if piece.offsets and piece.offsets[0] < positions[index]:
        skipped = sum(offset < positions[index] for offset in piece.offsets)
    bodies = piece.bodies[skipped:] if skipped else piece.bodies
    if not rendering.has_cursors or not bodies:
        return b"".join(bodies)
    next_offsets = [offset + 1 for offset in piece.offsets[skipped:]]
    cursors = encoder.encode_each(positions, index, next_offsets, epochs)
    return b"".join(map(rendering.with_cursor, bodies, cursors))
