"""The newest records of what is followed, read and rendered once for all who follow it.

A feed begins when the first follower has read up to the end, and ends with the last one. It reads
at the leaders, here or elsewhere, one parked read for each leader, however many follow; what it
finds becomes a row of items that the followers take at their own pace. The row is bounded. Whoever
falls out of it reads for himself until he is back at the end; and while nobody keeps up, the feed
reads no further, so a slow client costs no more reading than it takes.

Each item moves the position of one partition. Followers that are exactly where the item begins, and
at the end that is all of them, send the same bytes, cursors included. One that came in with a part
of the records already gets the rest with cursors of its own.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence

import structlog

from ottla_broker.drivers.clock import monotonic_ms
from ottla_broker.drivers.metadata import MetadataCache
from ottla_broker.drivers.purgatory import Purgatory
from ottla_broker.request_id import outside_requests
from ottla_broker.services.leader_reads import LeaderReads, cancel_all
from ottla_broker.services.rendered_reads import RenderedPiece, render_batches, with_cursors
from ottla_broker.services.stream_rendering import StreamRendering
from ottla_broker.services.topic_positions import Epochs, Positions, ReadScope
from ottla_broker.services.truncated_reads import with_news
from ottla_cluster.controller.image import Topic
from ottla_protocol.cursors import MAX_CURSOR_PARTITIONS, CursorEncoder
from ottla_protocol.errors import (
    InternalError,
    InvalidRequestError,
    LeaderNotAvailableError,
    NotFoundError,
    OffsetNotAvailableError,
    OttlaError,
    UnknownTopicOrPartitionError,
)
from ottla_protocol.models import FetchedPartition
from ottla_protocol.record_batch import NO_LEADER_EPOCH

READ_WAIT_MS = 5_000
"""How long one read stays at a leader, before it is asked again."""

READ_BYTES = 1 << 20
"""What one leader answers a feed at a time, save that one batch is always answered."""

RETRY_INTERVAL_MS = 100
"""How long a partition that could not be read is left alone."""

UNREADABLE_MS = 10_000
"""Followers are sent away, to come back at another broker, when no partition could be read for so
long."""

LOOK_INTERVAL_MS = 1_000
"""How often that is looked at, while there is a partition that could not be read."""

METADATA_WAIT_MS = 60_000

ITEM_BYTES = 256
"""What an item takes beside its records, of which a filter may have left none."""

_Group = tuple[int, tuple[int, ...]]
"""A leader, and the indexes of its partitions."""

log = structlog.get_logger()


class FellBehindError(Exception):
    """The follower's next item has left the row: it has to read for itself."""


class FeedItem:
    """A piece of one partition, and the positions before and behind it."""

    __slots__ = ("_whole", "after", "before", "end_bytes", "epochs", "index", "piece")

    def __init__(
        self,
        piece: RenderedPiece,
        index: int,
        before: Positions,
        after: Positions,
        epochs: Epochs,
        end_bytes: int,
    ) -> None:
        self.piece = piece
        self.index = index
        self.before = before
        self.after = after
        self.epochs = epochs
        """Those of the positions behind it."""
        self.end_bytes = end_bytes
        """Of all items until this one."""
        self._whole: bytes | None = None

    def whole(self, rendering: StreamRendering, encoder: CursorEncoder) -> bytes:
        """The bytes for every follower that is at `before`; made when the first one asks."""
        if self._whole is None:
            self._whole = with_cursors(
                self.piece,
                rendering=rendering,
                encoder=encoder,
                positions=self.before,
                epochs=self.epochs,
                index=self.index,
            )
        return self._whole


class Bookmark:
    """How far one follower is in the row of items."""

    __slots__ = ("sequence", "taken_bytes")

    def __init__(self, sequence: int, taken_bytes: int) -> None:
        self.sequence = sequence
        self.taken_bytes = taken_bytes


class RecordFeed:
    """The feed of one scope in one form.

    Args:
        scope: what is read.
        positions: where it begins.
        epochs: of these positions.
        rendering: the form.
        reads: the way to the leaders.
        metadata: who leads.
        purgatory: tells when this broker stops.
        row_bytes: how much of its newest items the feed keeps.
        on_deserted: called when the last follower has left.
    """

    def __init__(
        self,
        scope: ReadScope,
        positions: Positions,
        epochs: Epochs,
        rendering: StreamRendering,
        *,
        reads: LeaderReads,
        metadata: MetadataCache,
        purgatory: Purgatory,
        row_bytes: Callable[[], int],
        on_deserted: Callable[["RecordFeed"], None],
    ) -> None:
        self.scope = scope
        self.rendering = rendering
        self.encoder = CursorEncoder(scope.topic_id, scope.first_partition)
        self.positions = positions
        """Behind the last item."""
        self.epochs = epochs
        """In which leader epochs the leaders told so last."""
        self.failure: OttlaError | None = None
        """Why there will be no further items."""
        self._reads = reads
        self._metadata = metadata
        self._purgatory = purgatory
        self._row_bytes = row_bytes
        self._on_deserted = on_deserted
        self._items: deque[FeedItem] = deque()
        # The sequence number of the first of them, and the bytes of all that there ever were.
        self._first = 0
        self._end_bytes = 0
        self._bookmarks: set[Bookmark] = set()
        self._changed = asyncio.Event()
        self._room = asyncio.Event()
        # By index: since when a partition could not be read.
        self._unreadable_since_ms: dict[int, int] = {}
        self._task: asyncio.Task[None] | None = None

    # --- for followers ------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to read."""
        self._task = asyncio.create_task(
            self._run(), name="record-feed", context=outside_requests()
        )

    def close(self) -> None:
        """Stop reading; nobody follows any more."""
        if self._task is not None:
            self._task.cancel()

    def join(self, positions: Positions, epochs: Epochs) -> Bookmark | None:
        """A bookmark for a follower at `positions`; None where the row begins behind them.

        Or where the two have read in other leader epochs: only the leaders can tell whether what
        the one has read is what the other goes on from.
        """
        if not _agree(epochs, self.epochs):
            return None
        if _is_at_least(positions, self.positions):
            found = Bookmark(self._first + len(self._items), self._end_bytes)
            self._bookmarks.add(found)
            return found
        for back, item in enumerate(reversed(self._items), start=1):
            if _is_at_least(positions, item.before):
                sequence = self._first + len(self._items) - back
                found = Bookmark(sequence, item.end_bytes - ITEM_BYTES - item.piece.size_bytes)
                self._bookmarks.add(found)
                return found
        return None

    def leave(self, bookmark: Bookmark) -> None:
        """That follower reads here no more."""
        self._bookmarks.discard(bookmark)
        self._room.set()
        if not self._bookmarks:
            self._on_deserted(self)

    def take(self, bookmark: Bookmark) -> FeedItem | None:
        """The follower's next item, which counts as taken; None where there is none yet.

        Raises:
            FellBehindError: it has left the row.
            OttlaError: there will be none.
        """
        if bookmark.sequence < self._first:
            raise FellBehindError
        index = bookmark.sequence - self._first
        if index == len(self._items):
            if self.failure is not None:
                raise self.failure
            return None
        item = self._items[index]
        bookmark.sequence += 1
        bookmark.taken_bytes = item.end_bytes
        self._room.set()
        return item

    async def wait(self, bookmark: Bookmark, timeout_ms: int) -> bool:
        """Wait until there is something to take, or this broker stops; False after `timeout_ms`."""
        if bookmark.sequence < self._first + len(self._items) or self.failure is not None:
            return True
        changed = self._changed
        try:
            async with asyncio.timeout(timeout_ms / 1000):
                await changed.wait()
        except TimeoutError:
            return False
        return True

    def set(self) -> None:
        """Part of `purgatory.Watcher`: this broker stops, and every follower is to hear of it."""
        self._wake()

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    # --- reading ------------------------------------------------------------------------------

    async def _run(self) -> None:
        readers: dict[_Group, asyncio.Task[None]] = {}
        try:
            with self._purgatory.released_into(self):
                await self._keep_reading(readers)
        except OttlaError as error:
            self._fail(error)
        except Exception:
            log.exception("record_feed_failed", topic=self.scope.topic)
            self._fail(InternalError("the broker failed; its log tells more"))
        finally:
            await cancel_all(readers.values())

    async def _keep_reading(self, readers: "dict[_Group, asyncio.Task[None]]") -> None:
        """Have a reader for each leader, whoever leads.

        Raises:
            OttlaError: the topic is gone, or cannot be read from here.
        """
        while self.failure is None:
            wanted = self._groups(self._topic())
            # Before others read the same: two readers would both move the position.
            await cancel_all([readers.pop(group) for group in readers.keys() - wanted])
            for group in wanted - readers.keys():
                readers[group] = asyncio.create_task(self._read(group[1]))
            self._check_readable()
            wait_ms = LOOK_INTERVAL_MS if self._unreadable_since_ms else METADATA_WAIT_MS
            await self._metadata.wait_for_change(timeout_ms=wait_ms)

    def _topic(self) -> Topic:
        topic = self._metadata.image.topics.get(self.scope.topic_id)
        if topic is None:
            raise UnknownTopicOrPartitionError(f"the topic '{self.scope.topic}' was deleted")
        if self.scope.partition is None and len(topic.partitions) > MAX_CURSOR_PARTITIONS:
            raise InvalidRequestError(
                f"the topic '{self.scope.topic}' has got more than {MAX_CURSOR_PARTITIONS} "
                "partitions: read them one by one",
                max_partitions=MAX_CURSOR_PARTITIONS,
            )
        return topic

    def _groups(self, topic: Topic) -> frozenset[_Group]:
        """What to read where."""
        if self.scope.partition is None:
            partitions = topic.partitions
            # Partitions that the topic has got are read from their beginning.
            added = len(partitions) - len(self.positions)
            self.positions += (0,) * added
            self.epochs += (NO_LEADER_EPOCH,) * added
        else:
            partitions = (topic.partitions[self.scope.partition],)
        by_leader: dict[int, list[int]] = {}
        for index, partition in enumerate(partitions):
            if partition.leader is None:
                self._unreadable_since_ms.setdefault(index, monotonic_ms())
            else:
                by_leader.setdefault(partition.leader, []).append(index)
        return frozenset((leader, tuple(indexes)) for leader, indexes in by_leader.items())

    async def _read(self, indexes: Sequence[int]) -> None:
        """Read these partitions, of one leader, until that changes."""
        try:
            while True:
                await self._wait_for_room()
                where = {self._key(index): self.positions[index] for index in indexes}
                results = await self._reads.read(
                    where,
                    max_wait_ms=READ_WAIT_MS,
                    max_bytes=READ_BYTES,
                    topic_ids={self.scope.topic: self.scope.topic_id},
                    epochs={self._key(index): self.epochs[index] for index in indexes},
                    isolation=self.scope.isolation,
                )
                failed = False
                for index in indexes:
                    result = results.get(self._key(index))
                    if isinstance(result, OffsetNotAvailableError):
                        # Its leader is there, and does not know yet what it may show.
                        self._unreadable_since_ms.pop(index, None)
                    elif isinstance(result, OttlaError):
                        self._could_not_read(index, result)
                        failed = True
                    elif result is not None:
                        self._unreadable_since_ms.pop(index, None)
                        await self._take_in(index, result)
                if failed:
                    await asyncio.sleep(RETRY_INTERVAL_MS / 1000)
        except OttlaError as error:
            self._fail(error)
        except Exception:
            log.exception("record_feed_failed", topic=self.scope.topic)
            self._fail(InternalError("the broker failed; its log tells more"))

    def _key(self, index: int) -> tuple[str, int]:
        return self.scope.topic, self.scope.first_partition + index

    def _could_not_read(self, index: int, error: OttlaError) -> None:
        """Go on after what passes: a topic that is gone is told by the metadata.

        Raises:
            OttlaError: what does not pass, or has not for long.
        """
        if is_lasting(error):
            error.members.setdefault("partition", self.scope.first_partition + index)
            raise error
        self._unreadable_since_ms.setdefault(index, monotonic_ms())
        self._check_readable()

    def _check_readable(self) -> None:
        if len(self._unreadable_since_ms) < len(self.positions):
            return
        if monotonic_ms() - max(self._unreadable_since_ms.values()) > UNREADABLE_MS:
            raise LeaderNotAvailableError(
                f"no partition of '{self.scope.topic}' that is followed could be read for "
                f"{UNREADABLE_MS} ms; another broker may reach the leaders"
            )

    async def _take_in(self, index: int, fetched: FetchedPartition) -> None:
        self.epochs = with_news(self.epochs, index, fetched)
        if not fetched.batches and (fetched.next_offset or 0) <= self.positions[index]:
            return
        pieces = await render_batches(
            fetched.batches,
            self.positions[index],
            partition=self.scope.first_partition + index,
            rendering=self.rendering,
            max_bytes=READ_BYTES,
            cursor_bytes=self.rendering.cursor_bytes(self.encoder, self.positions, self.epochs),
            end_offset=fetched.next_offset,
        )
        for piece in pieces:
            before = self.positions
            after = (*before[:index], piece.next_offset, *before[index + 1 :])
            self._end_bytes += ITEM_BYTES + piece.size_bytes
            item = FeedItem(piece, index, before, after, self.epochs, self._end_bytes)
            self._items.append(item)
            self.positions = after
        # What the foremost has not taken stays, or nobody would ever catch up.
        let_go_bytes = min(self._end_bytes - self._row_bytes(), self._lead_bytes)
        while self._items and self._items[0].end_bytes <= let_go_bytes:
            self._items.popleft()
            self._first += 1
        self._wake()

    @property
    def _lead_bytes(self) -> int:
        """How far the foremost follower is."""
        taken = (bookmark.taken_bytes for bookmark in self._bookmarks)
        return max(taken, default=self._end_bytes)

    async def _wait_for_room(self) -> None:
        """Wait until somebody has taken what there is, but for the length of a row."""
        while self._end_bytes - self._lead_bytes >= self._row_bytes():
            self._room.clear()
            await self._room.wait()

    def _fail(self, error: OttlaError) -> None:
        if self.failure is None:
            self.failure = error
        self._wake()


def is_lasting(error: OttlaError) -> bool:
    """Whether reading again does not help; what is not there, the metadata tells."""
    return not error.retriable and not isinstance(error, NotFoundError)


def _agree(epochs: Epochs, others: Epochs) -> bool:
    """Whether they are the same, as far as both know them."""
    return all(
        NO_LEADER_EPOCH in {ours, theirs} or ours == theirs
        for ours, theirs in zip(epochs, others, strict=False)
    )


def _is_at_least(positions: Positions, others: Positions) -> bool:
    """Whether no position is lower; what one of them does not have yet begins at 0."""
    length = max(len(positions), len(others))
    padded = positions + (0,) * (length - len(positions))
    return all(ours >= theirs for ours, theirs in zip(padded, others, strict=False))
