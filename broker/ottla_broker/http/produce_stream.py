"""Produce of NDJSON that streams in, while its answers stream out: one line for each, in order.

    {"partition":2,"offset":17}            stored; in `POST /v1/records` with its "topic"
    {"error":{…},"index":5}                not stored, or perhaps: `outcome` there says which

The index counts records from `?first_index`. Without an Idempotency-Key a line that fails is on its
own, and the stream goes on. With one, the first error ends it (`services/stream_produce` says why):
the client mends what is wrong and sends from that line on. A client that reads no answers while it
sends is waited for, and then cut off: memory for answers is bounded as that for lines.

The status is 200 as soon as the first answer is there. What is wrong before that has a status of
its own: an unknown topic, a bomb.
"""

import asyncio
from dataclasses import dataclass

from aiohttp import web

from ottla_broker.http.content_inflating import content_inflater
from ottla_broker.http.context import BrokerContext, context_of
from ottla_broker.http.deadlines import SEND_IDLE_S
from ottla_broker.http.line_intake import LineIntake
from ottla_broker.http.produce import idempotency_key, transaction_of
from ottla_broker.http.produce_bodies import PRODUCE_PARAMETERS
from ottla_broker.http.query import Query, partition_number
from ottla_broker.http.record_lines import LONG_LINE, long_line, render_error, render_results
from ottla_broker.services.produce_options import ProduceOptions
from ottla_broker.services.stream_produce import LineResult, ProduceStream, StreamLine
from ottla_protocol import routes
from ottla_protocol.errors import OttlaError, Outcome, UnavailableError
from ottla_protocol.idempotency import MAX_LINE_NUMBER
from ottla_protocol.json_records import parse_record_line, parse_topic_record_line

BATCH_RECORDS_MAX = 5_000
BATCH_BYTES_MAX = 512 << 10
"""How much of a stream is stored at a time, at most. One line may be longer."""

LINES_PARSED_AT_ONCE = 1_000
"""So many, and then whoever else waits for the event loop has a turn."""

BATCH_HEADER_BYTES = 128
"""What a record batch has besides its records, with room to spare. A record is below its line."""

HEAD_WAIT_MS = 250
"""How long a client without a first line waits for the head of its answer: some send nothing before
they have it."""

FIRST_INDEX = "first_index"


async def produce_lines(request: web.Request) -> web.StreamResponse:
    """The three `…/records` for STREAM_MEDIA_TYPES."""
    context = context_of(request)
    query = Query(request.query.items(), (*PRODUCE_PARAMETERS, FIRST_INDEX))
    acks, timeout_ms = query.acks(), query.timeout_ms()
    first_index = query.number(FIRST_INDEX, 0, minimum=0, maximum=MAX_LINE_NUMBER)
    inflater = content_inflater(request.headers.get("Content-Encoding", "identity"))
    topic = request.match_info.get("topic")
    partition = request.match_info.get("partition")
    stream = await context.stream_produce.begin(
        ProduceOptions.of_records(acks, timeout_ms, transaction_of(request.headers)),
        topic=topic,
        partition=None if partition is None else partition_number(partition),
        key=idempotency_key(request.headers.get(routes.HEADER_IDEMPOTENCY_KEY)),
    )
    with context.inflight.hold() as held:
        intake = LineIntake(request.content, inflater, held)
        answers = _Answers(request, str(context.settings.node_id))
        conversation = _Conversation(
            context, stream, topic, acks, timeout_ms, intake, answers, first_index
        )
        receiving = asyncio.create_task(intake.receive())
        try:
            with context.purgatory.released_into(intake.changed):
                await conversation.hold()
        finally:
            receiving.cancel()
            await asyncio.wait([receiving])
        return await answers.end(is_cut=intake.is_cut)


class _Answers:
    """The response, which begins with its first answer."""

    def __init__(self, request: web.Request, served_by: str) -> None:
        self._request = request
        self._response = web.StreamResponse(
            headers={"Content-Type": routes.NDJSON, routes.HEADER_SERVED_BY: served_by}
        )
        # Said in the head: a client that sends its next request here would meet a reset.
        self._response.force_close()

    @property
    def have_begun(self) -> bool:
        return self._response.prepared

    async def begin(self) -> None:
        if not self._response.prepared:
            await self._response.prepare(self._request)

    async def write(self, lines: bytes) -> None:
        """Send answers.

        Raises:
            ConnectionError: the client is gone, or has not taken any for SEND_IDLE_S.
        """
        await self.begin()
        try:
            async with asyncio.timeout(SEND_IDLE_S):
                await self._response.write(lines)
        except TimeoutError:
            self._abort()
            raise ConnectionResetError("the client takes no answers") from None

    async def end(self, *, is_cut: bool) -> web.StreamResponse:
        """All is said. Of what the client may still send nothing is taken."""
        if is_cut:
            self._abort()
            return self._response
        await self.begin()
        return self._response

    def _abort(self) -> None:
        if self._request.transport is not None:
            self._request.transport.abort()


@dataclass(slots=True)
class _Conversation:
    """One stream from its first line to its last answer.

    Attributes:
        topic: of the path; None where each line names its own.
        number: of the next line.
    """

    context: BrokerContext
    stream: ProduceStream
    topic: str | None
    acks: int
    timeout_ms: int
    intake: LineIntake
    answers: _Answers
    number: int

    async def hold(self) -> None:
        """Store and answer lines until there are no more, or may be no more.

        Raises:
            OttlaError: before the first answer: nothing was applied.
        """
        try:
            while await self._more():
                if not await self._store_some():
                    return
            if not self.intake.is_cut:
                await self._tell_the_end()
        except ConnectionError:
            # Nobody is there to be told. What is acknowledged is stored, and so may be the last
            # batch, which was not: that is what an Idempotency-Key is for.
            self.intake.is_cut = True

    async def _more(self) -> bool:
        """Wait for a line; False when none will come, or this broker stops."""
        intake = self.intake
        while not intake.lines and not intake.is_over and not self._is_stopping:
            intake.changed.clear()
            if self.answers.have_begun:
                await intake.changed.wait()
                continue
            try:
                async with asyncio.timeout(HEAD_WAIT_MS / 1000):
                    await intake.changed.wait()
            except TimeoutError:
                await self.answers.begin()
        return bool(intake.lines) and not intake.is_cut and not self._is_stopping

    @property
    def _is_stopping(self) -> bool:
        return self.context.purgatory.is_released

    async def _tell_the_end(self) -> None:
        """Why no more is taken, if that is not the end of the body."""
        failure = self.intake.failure
        if failure is None and self._is_stopping and not self.intake.is_over:
            failure = UnavailableError("this broker is stopping; another one takes the rest")
        if failure is None:
            return
        failure.with_outcome(Outcome.NOT_APPLIED)
        if not self.answers.have_begun:
            raise failure
        await self.answers.write(render_error(failure, self.number))

    async def _store_some(self) -> bool:
        """Store and answer what has gathered; False where the stream ends at an error."""
        lines, size_bytes, refused = await self._gather()
        try:
            results: list[LineResult] = []
            if lines:
                options = ProduceOptions.of_records(
                    self.acks, self.timeout_ms, self.stream.transaction
                )
                results = await self.context.stream_produce.append(self.stream, lines, options)
            answer = render_results(lines, results, with_topics=self.topic is None)
            failed = any(isinstance(result, OttlaError) for result in results)
            ends = failed and self.stream.ends_at_an_error
            if refused is not None and not ends:
                answer += render_error(refused, self.number - 1)
                ends = self.stream.ends_at_an_error
            await self.answers.write(answer)
        finally:
            self.intake.give_back(size_bytes)
        return not ends

    async def _gather(self) -> tuple[list[StreamLine], int, OttlaError | None]:
        """The next batch, what it and a refused line hold, and why the line behind is refused."""
        waiting = self.intake.lines
        lines: list[StreamLine] = []
        refused: OttlaError | None = None
        batch_bytes = refused_bytes = 0
        limit_bytes = BATCH_BYTES_MAX
        limited: set[str] = set()
        while waiting and len(lines) < BATCH_RECORDS_MAX:
            line = waiting[0]
            if lines and batch_bytes + len(line) > limit_bytes:
                break
            try:
                parsed = self._parse(line)
            except OttlaError as error:
                refused = error.with_outcome(Outcome.NOT_APPLIED)
                refused_bytes = len(line)
            else:
                if parsed.topic not in limited:
                    limited.add(parsed.topic)
                    limit_bytes = min(limit_bytes, self._limit_bytes(parsed.topic))
                    if lines and batch_bytes + len(line) > limit_bytes:
                        break
                batch_bytes += len(line)
                lines.append(parsed)
            waiting.popleft()
            self.number += 1
            if len(lines) % LINES_PARSED_AT_ONCE == 0:
                await asyncio.sleep(0)
            if refused is not None:
                break
        self.intake.taken(batch_bytes + refused_bytes)
        return lines, batch_bytes + refused_bytes, refused

    def _limit_bytes(self, topic: str) -> int:
        """How much of a batch the topic takes; one that is not known yet begins with a line."""
        of_topic = self.context.stream_produce.batch_bytes_max(self.stream, topic)
        return (of_topic or 0) - BATCH_HEADER_BYTES

    def _parse(self, line: bytes) -> StreamLine:
        if line is LONG_LINE:
            raise long_line(self.number)
        if self.topic is not None:
            return StreamLine(self.number, self.topic, parse_record_line(line, self.number))
        topic, record = parse_topic_record_line(line, self.number)
        return StreamLine(self.number, topic, record)
