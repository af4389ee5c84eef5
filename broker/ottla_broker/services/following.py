"""Followers of topics and partitions: how many there may be, and the feeds that they share."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from ottla_broker.drivers.metadata import MetadataCache
from ottla_broker.drivers.purgatory import Purgatory
from ottla_broker.services.follower import CATCH_UPS_MAX, Follower, ReadAhead
from ottla_broker.services.leader_reads import LeaderReads
from ottla_broker.services.record_feed import RecordFeed
from ottla_broker.services.stream_rendering import StreamRendering
from ottla_broker.services.topic_positions import (
    Epochs,
    Positions,
    ReadScope,
    Start,
    TopicPositions,
)
from ottla_broker.telemetry import METRICS
from ottla_protocol.cursors import Cursor
from ottla_protocol.errors import OverloadedError, UnavailableError
from ottla_protocol.models import Isolation

ROWS_BYTES = 32 << 20
ROW_BYTES_MIN = 64 << 10
ROW_BYTES_MAX = 1 << 20
"""What all feeds together keep of their newest records, and each of them at least and at most."""

RETRY_AFTER_SECONDS = 5

KINDS = ("ndjson", "sse")
"""What metrics call the two forms."""


class FollowService:
    """Serves streams that do not end.

    Args:
        positions: where followers begin.
        reads: the way to the leaders.
        metadata: who leads.
        purgatory: tells when this broker stops.
        max_followers: how many there may be at a time.
        buffer_bytes: what one follower has read and not sent, less where all have read much.
        keep_alive_ms: how long a follower hears nothing at most.
    """

    def __init__(
        self,
        *,
        positions: TopicPositions,
        reads: LeaderReads,
        metadata: MetadataCache,
        purgatory: Purgatory,
        max_followers: int,
        buffer_bytes: int,
        keep_alive_ms: int,
    ) -> None:
        self._positions = positions
        self._reads = reads
        self._metadata = metadata
        self._purgatory = purgatory
        self._max_followers = max_followers
        self._read_ahead = ReadAhead(buffer_bytes)
        self._keep_alive_ms = keep_alive_ms
        self._followers = 0
        self._feeds: dict[tuple[ReadScope, StreamRendering], RecordFeed] = {}
        self._reading = asyncio.Semaphore(CATCH_UPS_MAX)
        for kind in KINDS:
            METRICS.followers.labels(kind).set(0)

    @asynccontextmanager
    async def follow(
        self,
        topic: str,
        partition: int | None,
        start: Start,
        rendering: StreamRendering,
        *,
        isolation: Isolation = "read_uncommitted",
    ) -> AsyncIterator[Follower]:
        """A follower that has begun; leaving the context frees all that it held.

        Raises:
            OverloadedError: there are `max_followers` already.
            OttlaError: as `TopicPositions.begin` and `Follower.begin`.
        """
        with self._place(rendering):
            beginning = await self._positions.begin(topic, partition, start, isolation=isolation)
            follower = Follower(
                beginning,
                rendering,
                feed_at=lambda at, epochs: self._feed(beginning.scope, rendering, at, epochs),
                reads=self._reads,
                reading=self._reading,
                metadata=self._metadata,
                purgatory=self._purgatory,
                read_ahead=self._read_ahead,
                keep_alive_ms=self._keep_alive_ms,
            )
            try:
                await follower.begin(resumes=isinstance(start, Cursor))
                yield follower
            finally:
                follower.close()

    @contextmanager
    def _place(self, rendering: StreamRendering) -> Iterator[None]:
        if self._purgatory.is_released:
            raise UnavailableError("this broker is stopping; another one serves the request")
        if self._followers >= self._max_followers:
            METRICS.refused_followers.inc()
            raise OverloadedError(
                f"{self._max_followers} clients follow here already (max_followers)",
                retry_after_seconds=RETRY_AFTER_SECONDS,
            )
        gauge = METRICS.followers.labels(KINDS[rendering.is_events])
        self._followers += 1
        gauge.inc()
        try:
            yield
        finally:
            self._followers -= 1
            gauge.dec()

    @property
    def places(self) -> tuple[int, int]:
        """How many followers there are, and may be."""
        return self._followers, self._max_followers

    # --- feeds --------------------------------------------------------------------------------

    def _feed(
        self, scope: ReadScope, rendering: StreamRendering, positions: Positions, epochs: Epochs
    ) -> RecordFeed:
        """The feed that there is, or a new one that begins at `positions`."""
        feed = self._feeds.get((scope, rendering))
        if feed is None or feed.failure is not None:
            feed = RecordFeed(
                scope,
                positions,
                epochs,
                rendering,
                reads=self._reads,
                metadata=self._metadata,
                purgatory=self._purgatory,
                row_bytes=self._row_bytes,
                on_deserted=self._deserted,
            )
            self._feeds[scope, rendering] = feed
            feed.start()
            METRICS.record_feeds.set(len(self._feeds))
        return feed

    def _deserted(self, feed: RecordFeed) -> None:
        feed.close()
        if self._feeds.get((feed.scope, feed.rendering)) is feed:
            del self._feeds[feed.scope, feed.rendering]
            METRICS.record_feeds.set(len(self._feeds))

    def _row_bytes(self) -> int:
        share_bytes = ROWS_BYTES // max(1, len(self._feeds))
        return max(ROW_BYTES_MIN, min(ROW_BYTES_MAX, share_bytes))
