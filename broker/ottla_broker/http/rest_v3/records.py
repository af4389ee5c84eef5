"""`…/topics/{topic}/records` and `records:batch`: produce by the REST Proxy API.

A stream of records is taken as it comes: what has arrived is cut into documents, appended, and
answered, one item for each, before more is read. So a stream of any length takes the memory of what
one read brings and of one unfinished document; a client that does not read its items, or sends
faster than the disks write, is held back by TCP. gzip and zstd are undone on the way, in pieces of
bounded size. The HTTP status is 200 before anything is known of the records; each item has an
`error_code` of its own.

An item that says a document is no JSON is the last one: where the next document would begin, nobody
knows.
"""

import asyncio
from collections.abc import Sequence
from itertools import islice

import msgspec
import structlog
from aiohttp import web

from ottla_broker.drivers.clock import monotonic_ms
from ottla_broker.http.answering import defect
from ottla_broker.http.bodies import read_body
from ottla_broker.http.content_inflating import ContentInflater, content_inflater
from ottla_broker.http.context import BrokerContext, context_of
from ottla_broker.http.json_bodies import FORM
from ottla_broker.http.produce import transaction_of
from ottla_broker.http.rest_v3.errors import item_error
from ottla_broker.http.rest_v3.links import Links
from ottla_broker.http.rest_v3.requests import begun, refuse_idempotency_key, rendered
from ottla_broker.services.heavy_work import on_worker
from ottla_broker.services.produce_options import ProduceOptions
from ottla_broker.services.record_appends import Fate
from ottla_protocol import models_rest_v3 as rest
from ottla_protocol import routes
from ottla_protocol.concatenated_json import ConcatenatedJsonSplitter
from ottla_protocol.errors import (
    InvalidRequestError,
    MalformedBodyError,
    OttlaError,
    Outcome,
    RequestTimedOutError,
    UnsupportedMediaTypeError,
)
from ottla_protocol.models import ACKS_ALL, DEFAULT_PRODUCE_TIMEOUT_MS
from ottla_protocol.rest_v3_records import RecordToProduce, parse_batch, parse_record, rfc3339
from ottla_protocol.transaction_tokens import TransactionToken

MAX_STREAM_MS = 24 * 60 * 60 * 1000
"""A stream is ended after a day, with an item that says so."""

STREAM_IDLE_TIMEOUT_MS = 5 * 60 * 1000
"""So is one on which nothing came for this long."""

MAX_RECORDS_PER_APPEND = 1_000
"""More records of one read are appended in several steps."""

BYTES_PARSED_INLINE = 256 << 10
"""More than this is parsed on a thread, so that heartbeats go on meanwhile."""

TIMED_OUT = 408
OK = 200
MULTI_STATUS = 207

_encode = msgspec.json.Encoder().encode

Parsed = RecordToProduce | OttlaError

log = structlog.get_logger()


async def produce(request: web.Request) -> web.StreamResponse:
    """`POST …/topics/{topic}/records`: concatenated JSON in, an item out for each document."""
    links, _ = begun(request)
    refuse_idempotency_key(request)
    transaction = transaction_of(request.headers)
    _require_json(request)
    inflater = content_inflater(request.headers.get("Content-Encoding", "identity"))
    response = web.StreamResponse(
        status=OK, headers={"Content-Type": routes.JSON, "Cache-Control": "no-store"}
    )
    response.headers[routes.HEADER_SERVED_BY] = str(context_of(request).settings.node_id)
    await response.prepare(request)
    stream = _Stream(request, response, links, inflater, transaction)
    # The head is sent: from here on errors are items.
    try:
        await stream.run()
        await response.write_eof()
    except ConnectionError:
        # The client went away; there is nobody to tell.
        response.force_close()
    return response


class _Stream:
    """One request's records on their way."""

    def __init__(
        self,
        request: web.Request,
        response: web.StreamResponse,
        links: Links,
        inflater: ContentInflater,
        transaction: TransactionToken | None,
    ) -> None:
        self._context = context_of(request)
        self._request = request
        self._response = response
        self._cluster_id = links.cluster_id
        self._topic = request.match_info["topic"]
        self._inflater = inflater
        self._transaction = transaction
        self._splitter = ConcatenatedJsonSplitter(
            limit_bytes=self._context.settings.max_json_body_bytes
        )
        self._ends_at_ms = monotonic_ms() + MAX_STREAM_MS
        self._items = 0

    async def run(self) -> None:
        """Take records, and answer each, until the body ends or cannot be read any further.

        Raises:
            ConnectionError: the client went away, or does not read its items.
        """
        try:
            await self._take_all()
        except ConnectionError:
            raise
        except RequestTimedOutError as error:
            await self._end(rest.RestError(TIMED_OUT, error.detail))
        except OttlaError as error:
            # What was appended has its item already.
            await self._end(item_error(error.with_outcome(Outcome.NOT_APPLIED)))
        except Exception:
            log.exception("request_failed", method="POST", path=self._request.path)
            await self._end(item_error(defect("POST")))

    async def _take_all(self) -> None:
        splitter = self._splitter
        while chunk := await self._read():
            for piece in self._inflater.feed(chunk):
                with self._context.inflight.hold() as held:
                    held.grow(len(piece) + splitter.pending_bytes)
                    await self._take(splitter.feed(piece))
                if splitter.error is not None:
                    raise splitter.error
        self._inflater.finish()
        splitter.finish()
        if splitter.error is not None:
            raise splitter.error
        if not self._items:
            raise InvalidRequestError("the body is empty; a record is needed")

    async def _read(self) -> bytes:
        """What has arrived; nothing at the end of the body."""
        remaining_ms = self._ends_at_ms - monotonic_ms()
        try:
            async with asyncio.timeout(min(STREAM_IDLE_TIMEOUT_MS, remaining_ms) / 1000):
                with self._context.purgatory.unless_released():
                    return await self._request.content.readany()
        except TimeoutError:
            raise RequestTimedOutError(
                "the stream has been open for a day"
                if monotonic_ms() >= self._ends_at_ms
                else f"nothing came for {STREAM_IDLE_TIMEOUT_MS} ms"
            ) from None
        except web.RequestPayloadError as error:
            raise MalformedBodyError(f"the body was cut off: {error}") from error

    async def _take(self, documents: list[bytes]) -> None:
        """Append the records of these documents, and answer each.

        Raises:
            MalformedBodyError: one is no JSON; those before it are answered.
        """
        waiting = iter(documents)
        while some := list(islice(waiting, MAX_RECORDS_PER_APPEND)):
            is_much = sum(map(len, some)) > BYTES_PARSED_INLINE
            parsed = await on_worker(_parse_all, some) if is_much else _parse_all(some)
            last = parsed[-1]
            whole = parsed[:-1] if isinstance(last, MalformedBodyError) else parsed
            fates = await _append(self._context, self._topic, whole, self._transaction)
            await self._write(
                [self._item(record, fate) for record, fate in zip(whole, fates, strict=True)]
            )
            if isinstance(last, MalformedBodyError):
                raise last

    def _item(self, record: Parsed, fate: Fate) -> rest.ProducedRecord | rest.RestError:
        if isinstance(fate, OttlaError):
            return item_error(fate)
        assert isinstance(record, RecordToProduce)
        return rest.ProducedRecord(
            error_code=OK,
            cluster_id=self._cluster_id,
            topic_name=self._topic,
            partition_id=fate.partition,
            offset=fate.offset,
            timestamp=rfc3339(fate.timestamp),
            key=record.key,
            value=record.value,
        )

    async def _write(self, items: Sequence[rest.ProducedRecord | rest.RestError]) -> None:
        self._items += len(items)
        try:
            async with asyncio.timeout(STREAM_IDLE_TIMEOUT_MS / 1000):
                await self._response.write(b"".join(_encode(item) + b"\n" for item in items))
        except TimeoutError:
            if self._request.transport is not None:
                self._request.transport.abort()
            raise ConnectionAbortedError("the client does not read its items") from None

    async def _end(self, item: rest.RestError) -> None:
        """Write the last item of a stream whose rest, if there is any, is not read.

        The head has not told the client that the connection ends. So it goes on, if the rest comes
        soon (see `AiohttpConnection`).
        """
        await self._write([item])


async def produce_batch(request: web.Request) -> web.Response:
    """`POST …/topics/{topic}/records:batch`: 207, each entry with its own fate."""
    links, _ = begun(request)
    refuse_idempotency_key(request)
    transaction = transaction_of(request.headers)
    context = context_of(request)
    topic = request.match_info["topic"]
    with context.inflight.hold() as held:
        body = await read_body(request, context.settings.max_json_body_bytes, held.grow)
        is_much = len(body) > BYTES_PARSED_INLINE
        sent = bytes(body)
        entries = await on_worker(parse_batch, sent) if is_much else parse_batch(sent)
        fates = await _append(context, topic, [entry.record for entry in entries], transaction)
    successes: list[rest.ProducedEntry] = []
    failures: list[rest.RefusedEntry] = []
    for (entry_id, record), fate in zip(entries, fates, strict=True):
        if isinstance(fate, OttlaError):
            error = item_error(fate)
            failures.append(rest.RefusedEntry(entry_id, error.error_code, error.message))
            continue
        assert isinstance(record, RecordToProduce)
        successes.append(
            rest.ProducedEntry(
                id=entry_id,
                cluster_id=links.cluster_id,
                topic_name=topic,
                partition_id=fate.partition,
                offset=fate.offset,
                timestamp=rfc3339(fate.timestamp),
                key=record.key,
                value=record.value,
            )
        )
    return rendered(rest.ProducedBatch(successes, failures), status=MULTI_STATUS)


def _require_json(request: web.Request) -> None:
    """Refuse what is not said to be JSON.

    Raises:
        UnsupportedMediaTypeError: another type.
    """
    media_type = request.content_type.lower()
    if media_type not in (routes.JSON, routes.OCTET_STREAM, FORM):
        raise UnsupportedMediaTypeError(
            f"Content-Type '{media_type}' is not {routes.JSON}", accepted=[routes.JSON]
        )


def _parse_all(documents: Sequence[bytes]) -> list[Parsed]:
    """Each document as a record, or why it is none; what is no JSON is the last one."""
    parsed: list[Parsed] = []
    for document in documents:
        try:
            parsed.append(parse_record(document))
        except MalformedBodyError as error:
            parsed.append(error)
            break
        except OttlaError as error:
            parsed.append(error)
    return parsed


async def _append(
    context: BrokerContext,
    topic: str,
    parsed: Sequence[Parsed],
    transaction: TransactionToken | None,
) -> list[Fate]:
    """The fate of each record; of what is none, its error."""
    records = [each.record for each in parsed if isinstance(each, RecordToProduce)]
    options = ProduceOptions.of_records(ACKS_ALL, DEFAULT_PRODUCE_TIMEOUT_MS, transaction)
    fates = iter(await context.record_appends.append(topic, records, options) if records else ())
    return [
        next(fates) if isinstance(each, RecordToProduce) else each.with_outcome(Outcome.NOT_APPLIED)
        for each in parsed
    ]
