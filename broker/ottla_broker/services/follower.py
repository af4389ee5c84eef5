"""One client that follows a topic or a partition: what to send it next.

A follower is in one of two states:

    catching up   it reads for itself from its own position, a bounded piece at a time; when there
                  is nothing more it joins the feed
    following     it takes what the feed finds; where it is too slow for that it catches up again

It holds at most one read's worth of rendered records, and asks for no more before they are sent.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from ottla_broker.drivers.clock import monotonic_ms
from ottla_broker.drivers.metadata import MetadataCache
from ottla_broker.drivers.purgatory import Purgatory
from ottla_broker.services.leader_reads import LeaderReads
from ottla_broker.services.record_feed import (
    RETRY_INTERVAL_MS,
    Bookmark,
    FeedItem,
    FellBehindError,
    RecordFeed,
    is_lasting,
)
from ottla_broker.services.rendered_reads import PIECE_BYTES, render_batches, with_cursors
from ottla_broker.services.stream_rendering import StreamRendering
from ottla_broker.services.topic_positions import Beginning, Epochs, Positions
from ottla_broker.services.truncated_reads import going_on, refuse_truncated, with_news
from ottla_protocol.cursors import CursorEncoder
from ottla_protocol.errors import (
    LogTruncatedError,
    OffsetNotAvailableError,
    OttlaError,
    UnknownTopicOrPartitionError,
)
from ottla_protocol.models import FetchedPartition
from ottla_protocol.record_batch import NO_LEADER_EPOCH

READ_AHEAD_BYTES = 128 << 20
READ_AHEAD_BYTES_MIN = 64 << 10
"""What all followers have read and not sent; beyond that each reads no more than the least."""

CATCH_UPS_MAX = 16
"""Followers that read for themselves at a time; the others wait for their turn."""


class ReadAhead:
    """What all followers of a broker have rendered and not sent, and how much one may read more.

    Args:
        buffer_bytes: what one may read at most.
    """

    def __init__(self, buffer_bytes: int) -> None:
        self.held_bytes = 0
        self._buffer_bytes = buffer_bytes

    @property
    def allowance_bytes(self) -> int:
        """For the next read, of which there may be CATCH_UPS_MAX at a time."""
        share_bytes = (READ_AHEAD_BYTES - self.held_bytes) // CATCH_UPS_MAX
        return max(READ_AHEAD_BYTES_MIN, min(self._buffer_bytes, share_bytes))


class Follower:
    """One of those who follow; `FollowService` makes it.

    Args:
        beginning: what is followed, and from where.
        rendering: the form.
        feed_at: the feed of this scope and form, or a new one that begins at these positions, which
            were reached in these epochs.
        reads: the way to the leaders.
        reading: entered by whoever catches up, so that not too many do at a time.
        metadata: tells of partitions that the topic gets.
        purgatory: tells when this broker stops.
        read_ahead: what it may read at a time.
        keep_alive_ms: how long it sends nothing at most.
    """

    __slots__ = (
        "_bookmark",
        "_encoder",
        "_epochs",
        "_feed",
        "_feed_at",
        "_keep_alive_ms",
        "_metadata",
        "_positions",
        "_purgatory",
        "_read_ahead",
        "_reading",
        "_reads",
        "_ready",
        "_rendering",
        "_scope",
        "_sent_ms",
        "_told",
        "begun_at",
    )

    def __init__(
        self,
        beginning: Beginning,
        rendering: StreamRendering,
        *,
        feed_at: Callable[[Positions, Epochs], RecordFeed],
        reads: LeaderReads,
        reading: AbstractAsyncContextManager[None],
        metadata: MetadataCache,
        purgatory: Purgatory,
        read_ahead: ReadAhead,
        keep_alive_ms: int,
    ) -> None:
        scope = beginning.scope
        self._scope = scope
        self._positions = beginning.positions
        # In which leader epochs the leaders told so last.
        self._epochs = beginning.epochs
        self._rendering = rendering
        self._feed_at = feed_at
        self._reads = reads
        self._reading = reading
        self._metadata = metadata
        self._purgatory = purgatory
        self._read_ahead = read_ahead
        self._keep_alive_ms = keep_alive_ms
        self._encoder = CursorEncoder(scope.topic_id, scope.first_partition)
        self._ready: deque[bytes] = deque()
        self._feed: RecordFeed | None = None
        self._bookmark: Bookmark | None = None
        self._sent_ms = monotonic_ms()
        # The positions that the client has been told.
        self._told = beginning.positions
        self.begun_at = self.cursor
        """The cursor from which it reads."""

    @property
    def cursor(self) -> bytes:
        """Where it is, but for what is rendered and not taken yet."""
        return self._encoder.encode(self._positions, self._epochs)

    async def begin(self, *, resumes: bool) -> None:
        """Look once whether there is a way to read from the positions.

        Args:
            resumes: a stream that goes on begins also where no leader answers at this moment.

        Raises:
            OttlaError: there is none, and later there will be none either.
            UnavailableError: or there may be later, and nothing is resumed.
        """
        self._grow()
        positions = self._positions
        failure = await self._catch_up()
        # By now leaders have told in which epochs it begins.
        self.begun_at = self._encoder.encode(positions, self._epochs[: len(positions)])
        opening = self._rendering.opening(self.begun_at)
        if opening:
            self._ready.appendleft(opening)
            self._read_ahead.held_bytes += len(opening)
        if failure is not None and not resumes:
            raise failure

    async def next(self) -> bytes | None:
        """What to send next: records, or a sign of life; None where the broker stops.

        Raises:
            OttlaError: the stream cannot go on.
        """
        while not self._purgatory.is_released:
            piece = self._take_ready() if self._ready else await self._find()
            if piece:
                self._sent_ms = monotonic_ms()
                return piece
        return None

    def close(self) -> None:
        """The client is gone, or is to go."""
        while self._ready:
            self._take_ready()
        self._leave()

    def _put_ready(self, part: bytes) -> None:
        self._ready.append(part)
        self._read_ahead.held_bytes += len(part)

    def _take_ready(self) -> bytes:
        part = self._ready.popleft()
        self._read_ahead.held_bytes -= len(part)
        return part

    async def _find(self) -> bytes:
        """What is there now, or comes within the time to the next sign of life; perhaps nothing."""
        remaining_ms = self._sent_ms + self._keep_alive_ms - monotonic_ms()
        if remaining_ms <= 0:
            return self._keep_alive()
        if self._feed is None or self._bookmark is None:
            before = self._positions
            await self._catch_up()
            # Records that nobody wants are passed over without a feed, too.
            if self._positions == before:
                await self._join(remaining_ms)
            return b""
        try:
            piece = self._take(self._feed, self._bookmark)
        except FellBehindError:
            self._leave()
            return b""
        if not piece:
            await self._feed.wait(self._bookmark, remaining_ms)
        return piece

    def _keep_alive(self) -> bytes:
        cursor = None if self._told == self._positions else self.cursor
        self._told = self._positions
        return self._rendering.keep_alive(cursor)

    # --- following ----------------------------------------------------------------------------

    async def _join(self, remaining_ms: int) -> None:
        feed = self._feed_at(self._positions, self._epochs)
        self._bookmark = feed.join(self._positions, self._epochs)
        if self._bookmark is not None:
            self._feed = feed
            return
        # The feed has read on meanwhile: once more, but for a leader that does not answer now.
        pause_ms = min(RETRY_INTERVAL_MS, remaining_ms)
        await self._metadata.wait_for_change(timeout_ms=pause_ms)

    def _leave(self) -> None:
        if self._feed is not None and self._bookmark is not None:
            self._feed.leave(self._bookmark)
        self._feed, self._bookmark = None, None

    def _take(self, feed: RecordFeed, bookmark: Bookmark) -> bytes:
        """The next items of the feed as one piece; empty where there is none."""
        parts: list[bytes] = []
        size_bytes = 0
        while size_bytes < PIECE_BYTES:
            try:
                item = feed.take(bookmark)
            except LogTruncatedError as error:
                if parts:
                    break
                partition = error.members["partition"]
                assert isinstance(partition, int)
                raise going_on(
                    {partition: error}, self._scope, self._positions, self._epochs
                ) from error
            except OttlaError:
                if parts:
                    break
                raise
            if item is None:
                break
            part = self._part(feed, item)
            if part:
                parts.append(part)
                size_bytes += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _part(self, feed: RecordFeed, item: FeedItem) -> bytes:
        if self._positions == item.before:
            self._positions, self._epochs = item.after, item.epochs
            part = item.whole(self._rendering, feed.encoder)
        else:
            self._add_partitions(len(item.after))
            if item.after[item.index] <= self._positions[item.index]:
                return b""
            self._epochs = item.epochs + self._epochs[len(item.epochs) :]
            part = with_cursors(
                item.piece,
                rendering=self._rendering,
                encoder=self._encoder,
                positions=self._positions,
                epochs=self._epochs,
                index=item.index,
            )
            self._move(item.index, item.after[item.index])
        if part:
            self._told = self._positions
        return part

    def _add_partitions(self, count: int) -> None:
        """Have `count` partitions; the new ones are read from their beginning."""
        added = count - len(self._positions)
        self._positions += (0,) * added
        self._epochs += (NO_LEADER_EPOCH,) * added

    def _move(self, index: int, offset: int) -> None:
        positions = self._positions
        self._positions = (*positions[:index], offset, *positions[index + 1 :])

    # --- catching up --------------------------------------------------------------------------

    async def _catch_up(self) -> OttlaError | None:
        """Read what is there from the positions on into `_ready`.

        Returns:
            Why nothing can be read at this moment; None where anything can.

        Raises:
            OttlaError: a partition cannot be read, and later neither.
        """
        self._grow()
        first = self._scope.first_partition
        where = {
            (self._scope.topic, first + index): offset
            for index, offset in enumerate(self._positions)
        }
        async with self._reading:
            buffer_bytes = self._read_ahead.allowance_bytes
            results = await self._reads.read(
                where,
                max_wait_ms=0,
                max_bytes=buffer_bytes,
                topic_ids={self._scope.topic: self._scope.topic_id},
                epochs=dict(zip(where, self._epochs, strict=True)),
                isolation=self._scope.isolation,
            )
            refuse_truncated(results, self._scope, self._positions, self._epochs)
            failures = []
            for (_, partition), result in results.items():
                self._epochs = with_news(self._epochs, partition - first, result)
                if isinstance(result, OttlaError):
                    if is_lasting(result):
                        result.members.setdefault("partition", partition)
                        raise result
                    # A stream waits for a leader that does not know yet what it may show.
                    if not isinstance(result, OffsetNotAvailableError):
                        failures.append(result)
            left_bytes = buffer_bytes
            for (_, partition), result in results.items():
                if left_bytes > 0 and not isinstance(result, OttlaError):
                    left_bytes -= await self._render(partition - first, result, left_bytes)
        return failures[0] if failures and len(failures) == len(results) else None

    def _grow(self) -> None:
        """Begin with partitions that the topic has got, from their beginning.

        Raises:
            UnknownTopicOrPartitionError: the topic is gone.
        """
        topic = self._metadata.image.topics.get(self._scope.topic_id)
        if topic is None:
            raise UnknownTopicOrPartitionError(f"the topic '{self._scope.topic}' was deleted")
        if self._scope.partition is None:
            self._add_partitions(len(topic.partitions))

    async def _render(self, index: int, fetched: FetchedPartition, max_bytes: int) -> int:
        """Put the records of one partition into `_ready`; returns their bytes."""
        if not fetched.batches and (fetched.next_offset or 0) <= self._positions[index]:
            return 0
        pieces = await render_batches(
            fetched.batches,
            self._positions[index],
            partition=self._scope.first_partition + index,
            rendering=self._rendering,
            max_bytes=max_bytes,
            cursor_bytes=self._rendering.cursor_bytes(self._encoder, self._positions, self._epochs),
            end_offset=fetched.next_offset,
        )
        for piece in pieces:
            part = with_cursors(
                piece,
                rendering=self._rendering,
                encoder=self._encoder,
                positions=self._positions,
                epochs=self._epochs,
                index=index,
            )
            self._move(index, piece.next_offset)
            if part:
                self._put_ready(part)
                self._told = self._positions
            # Cursors of many records take their time.
            await asyncio.sleep(0)
        return sum(piece.size_bytes for piece in pieces)
