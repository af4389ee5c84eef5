"""What a read of one partition found, as the answer that the client asked for.

Next-Offset, High-Watermark and Log-Start-Offset are header fields of every answer: lines and bytes
have no other place for them. So is Last-Stable-Offset where committed records alone are read.
"""

from typing import Final, NamedTuple

import msgspec
from aiohttp import web
from multidict import CIMultiDict

from ottla_broker.http.entity_tags import NO_STORE, cache_control, entity_tag, is_not_modified
from ottla_broker.http.query import Query
from ottla_broker.http.record_headers import record_fields
from ottla_broker.http.selections import Selection, selection_of
from ottla_broker.services.record_read import RecordsRead
from ottla_protocol import routes
from ottla_protocol.errors import InvalidRequestError

READ_MEDIA_TYPES: Final = (routes.JSON, routes.NDJSON, routes.OCTET_STREAM)
"""What a bounded read of a partition answers, best first."""

BYTES_RENDERED_INLINE: Final = 256 << 10
"""Larger answers are rendered on a thread, so that heartbeats go on meanwhile."""

_LABELS: Final = {routes.JSON: "json", routes.NDJSON: "ndjson", routes.OCTET_STREAM: "raw"}


class WantedAnswer(NamedTuple):
    """The media type that was negotiated, and which records are wanted."""

    media_type: str
    selection: Selection

    @property
    def label(self) -> str:
        """The media type in metrics."""
        return _LABELS[self.media_type]


class ReadSource(NamedTuple):
    """What was read, as far as it decides how an answer may be kept; see `entity_tags`."""

    topic: str
    partition: int
    unclean_leader_epoch: int | None
    is_compacted: bool
    is_local: bool
    is_at_an_offset: bool


def wanted_answer(query: Query, media_type: str) -> WantedAnswer:
    """What the request asks for.

    Raises:
        InvalidRequestError: a parameter breaks its rule, or has no meaning for the media type.
    """
    if media_type == routes.OCTET_STREAM:
        for name in ("format", "fields"):
            if query.text(name) is not None:
                raise InvalidRequestError(
                    f"{name} is for JSON; as {media_type} a record is told as it is",
                    parameter=name,
                )
    return WantedAnswer(media_type, selection_of(query))


def answer(
    found: RecordsRead, source: ReadSource, wanted: WantedAnswer, if_none_match: str | None
) -> web.Response:
    """The answer: 200, 204 where no bytes can be told, or 304.

    Raises:
        InvalidRequestError: a value is not JSON, and the format is.
        NotAcceptableError: a record's key and headers do not fit into header fields.
    """
    headers: CIMultiDict[str] = CIMultiDict()
    headers[routes.HEADER_NEXT_OFFSET] = str(found.next_offset)
    headers[routes.HEADER_HIGH_WATERMARK] = str(found.high_watermark)
    headers[routes.HEADER_LOG_START_OFFSET] = str(found.log_start_offset)
    if found.last_stable_offset is not None:
        headers[routes.HEADER_LAST_STABLE_OFFSET] = str(found.last_stable_offset)
    headers["Vary"] = "Accept"
    headers["Cache-Control"] = caching = cache_control(
        is_full=found.is_full,
        is_local=source.is_local,
        is_at_an_offset=source.is_at_an_offset,
        is_compacted=source.is_compacted,
    )
    if caching != NO_STORE:
        view = wanted.selection.view
        headers["ETag"] = tag = entity_tag(
            found,
            wanted.media_type,
            partition=source.partition,
            record_format=view.record_format,
            fields=view.fields,
            unclean_leader_epoch=source.unclean_leader_epoch,
        )
        if is_not_modified(if_none_match, tag):
            return web.Response(status=304, headers=headers)
    if wanted.media_type == routes.OCTET_STREAM:
        return _one_record(found, headers)
    body = _document(found, source, wanted)
    return web.Response(body=body, content_type=wanted.media_type, headers=headers)


def _document(found: RecordsRead, source: ReadSource, wanted: WantedAnswer) -> bytes:
    view = wanted.selection.view
    if wanted.media_type == routes.NDJSON:
        return view.lines(found.records)
    stable = b""
    if found.last_stable_offset is not None:
        stable = b',"last_stable_offset":%d' % found.last_stable_offset
    return b'{"topic":%b,"partition":%d,"records":%b,"next_offset":%d,' % (
        msgspec.json.encode(source.topic),
        source.partition,
        view.array(found.records),
        found.next_offset,
    ) + b'"high_watermark":%d,"log_start_offset":%d%b}' % (
        found.high_watermark,
        found.log_start_offset,
        stable,
    )


def _one_record(found: RecordsRead, headers: CIMultiDict[str]) -> web.Response:
    """The first record's value; 204 where there is no record, which no body could tell."""
    if not found.records:
        return web.Response(status=204, headers=headers)
    (record,) = found.records
    # Bytes that somebody wrote are never to be taken for a page or a script of this origin.
    headers["X-Content-Type-Options"] = "nosniff"
    for name, value in record_fields(record):
        headers.add(name, value)
    return web.Response(body=record.value or b"", content_type=routes.OCTET_STREAM, headers=headers)
