"""How records look in a stream: as events of `text/event-stream`, or as lines of NDJSON. Pure.

A record is rendered once for all who follow the same partitions in the same form; what is each
follower's own is the cursor, which is put to the rendered record without looking into it.

An event is

    id: <cursor>
    data: <the record as one line of JSON>

with the cursor behind this record, so that `Last-Event-ID` is where to go on (WHATWG HTML, section
9.2). Lines of a whole topic carry the cursor as their last member, `cursor`. Those of one partition
carry none: their offset tells as much.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from ottla_broker.services.record_filter import RecordFilter
from ottla_broker.services.record_view import RecordView
from ottla_protocol import routes
from ottla_protocol.cursors import CursorEncoder
from ottla_protocol.errors import OttlaError
from ottla_protocol.record_codec import Record

StreamMediaType = Literal["application/x-ndjson", "text/event-stream"]

RECONNECT_MS = 1_000
"""How long an EventSource waits before it comes back, here or elsewhere: the `retry` field."""

KEEP_ALIVE_EVENT = b": keep-alive\n\n"
KEEP_ALIVE_LINE = b"\n"
"""Whoever reads NDJSON passes over empty lines."""

_encoder = msgspec.json.Encoder()


@dataclass(frozen=True, slots=True)
class StreamRendering:
    """The form of one stream; equal ones render alike, so their followers share records.

    Attributes:
        media_type: events or lines.
        names_partition: whether each record says its partition, which a topic's do.
        selection: what the client asked for, by which alone filter and view are compared.
        filter: which records are wanted; None for all.
        view: how they are told.
    """

    media_type: StreamMediaType
    names_partition: bool
    selection: tuple[str | None, ...] = ()
    filter: RecordFilter | None = field(default=None, compare=False)
    view: RecordView = field(default_factory=RecordView, compare=False)

    @property
    def is_events(self) -> bool:
        """Whether this is `text/event-stream`."""
        return self.media_type == routes.EVENT_STREAM

    @property
    def has_cursors(self) -> bool:
        """Whether each record carries the cursor behind it."""
        return self.is_events or self.names_partition

    def cursor_bytes(
        self, encoder: CursorEncoder, positions: Sequence[int], epochs: Sequence[int]
    ) -> int:
        """What the cursor of each record takes at these positions, about."""
        return len(encoder.encode(positions, epochs)) if self.has_cursors else 0

    def select(self, records: Sequence[Record]) -> Sequence[Record]:
        """Those that are wanted."""
        return records if self.filter is None else self.filter.select(records)

    def bodies(self, records: Sequence[Record], partition: int) -> list[bytes]:
        """Each record without its cursor.

        Raises:
            InvalidRequestError: the format is `json` and a value is not; member `offset`.
        """
        number = partition if self.names_partition else None
        lines = self.view.texts(records, partition=number)
        if self.is_events:
            return [b"data: %b\n\n" % line for line in lines]
        if self.has_cursors:
            # The cursor comes in front of the closing brace.
            return [line[:-1] for line in lines]
        return [line + b"\n" for line in lines]

    def with_cursor(self, body: bytes, cursor: bytes) -> bytes:
        """The record as it is sent, where records carry cursors."""
        if self.is_events:
            return b"id: %b\n%b" % (cursor, body)
        return b'%b,"cursor":"%b"}\n' % (body, cursor)

    def opening(self, cursor: bytes) -> bytes:
        """What a stream begins with, from the cursor at which it begins.

        An id without data is no event, but it is where an EventSource that loses its connection
        before the first record comes back to.
        """
        if self.is_events:
            return b"retry: %d\nid: %b\n\n" % (RECONNECT_MS, cursor)
        return b""

    def keep_alive(self, cursor: bytes | None) -> bytes:
        """What is sent while there is nothing to tell.

        Args:
            cursor: where the reader is now, if no record has told: what was passed over, such as
                the marks of transactions, need not be read again.
        """
        if not self.is_events:
            return KEEP_ALIVE_LINE
        return KEEP_ALIVE_EVENT if cursor is None else b": keep-alive\nid: %b\n\n" % cursor

    def error(self, error: OttlaError) -> bytes:
        """The last of a stream that cannot go on: a problem document, as an event or a line.

        Where it tells a cursor to go on from, that is the event's id: an EventSource has been told,
        and comes back with it.
        """
        document = _encoder.encode(error.problem())
        if self.is_events:
            cursor = error.members.get("cursor")
            identified = b"id: %b\n" % cursor.encode("ascii") if isinstance(cursor, str) else b""
            return b"event: error\n%bdata: %b\n\n" % (identified, document)
        return b'{"error":%b}\n' % document
