"""Followers get every record once and in order, however fast they take it, and resume anywhere."""

import asyncio
import json
from contextlib import AsyncExitStack
from random import Random
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ottla_broker.drivers.metadata import MetadataCache
from ottla_broker.drivers.purgatory import Purgatory
from ottla_broker.services import follower as follower_module
from ottla_broker.services import record_feed
from ottla_broker.services.follower import READ_AHEAD_BYTES_MIN
from ottla_broker.services.following import FollowService
from ottla_broker.services.json_predicate import JsonPredicate
from ottla_broker.services.record_filter import RecordFilter
from ottla_broker.services.record_view import RecordView
from ottla_broker.services.rendered_reads import (
    OVERHEAD_BYTES_MAX,
    PIECE_BYTES,
    RenderedPiece,
    render_batches,
    with_cursors,
)
from ottla_broker.services.stream_rendering import StreamRendering
from ottla_broker.services.topic_positions import Beginning, ReadScope
from ottla_cluster.replication.leader_epochs import LeaderEpochs
from ottla_protocol import routes
from ottla_protocol.cursors import Cursor, CursorEncoder, decode_cursor
from ottla_protocol.errors import (
    LeaderNotAvailableError,
    LogTruncatedError,
    OffsetNotAvailableError,
    OffsetOutOfRangeError,
    OverloadedError,
    UnavailableError,
    UnknownTopicOrPartitionError,
)
from ottla_protocol.models import FetchedPartition
from ottla_protocol.record_batch import NO_LEADER_EPOCH, patch_batch, read_header
from ottla_protocol.record_codec import RecordData, encode_batch

TOPIC_ID = "0123456789abcdef0123456789abcdef"
LONG_MS = 600_000
SOON_S = 10.0


def filtered(where, fields=None):
    """A form in which only some records are told."""
    return StreamRendering(
        routes.NDJSON,
        names_partition=True,
        selection=(where, fields),
        filter=RecordFilter(where=JsonPredicate(where)),
        view=RecordView("auto", fields),
    )


LINES = StreamRendering(routes.NDJSON, names_partition=True)
EVENTS = StreamRendering(routes.EVENT_STREAM, names_partition=True)


class Topic:
    """The partitions of a topic, in memory; it stands for the leaders, and for the metadata."""

    def __init__(self, partitions):
        self.batches = [[] for _ in range(partitions)]
        self.ends = [0] * partitions
        self.leaders = [1 + number % 2 for number in range(partitions)]
        self.elections = [LeaderEpochs.of([(3, 0)]) for _ in range(partitions)]
        self.failing = {}
        self.reads = 0
        self.delays = None
        self._changed = asyncio.Event()
        self.metadata = MetadataCache(SimpleNamespace(version=0, brokers={}, topics={}))
        self.publish()

    def publish(self, *, exists=True):
        partitions = tuple(SimpleNamespace(leader=leader) for leader in self.leaders)
        topics = {TOPIC_ID: SimpleNamespace(partitions=partitions)} if exists else {}
        version = self.metadata.image.version + 1
        self.metadata.publish(SimpleNamespace(version=version, brokers={}, topics=topics))

    def add_partition(self):
        self.batches.append([])
        self.ends.append(0)
        self.leaders.append(1)
        self.elections.append(LeaderEpochs.of([(3, 0)]))
        self.publish()

    def elect(self, partition, end):
        """Another broker leads, and has records up to there."""
        self.batches[partition] = [each for each in self.batches[partition] if each[0] <= end]
        self.ends[partition] = end
        epoch = self.elections[partition].latest_epoch + 1
        self.elections[partition] = self.elections[partition].assign(epoch, end)
        self.leaders[partition] = 3 - self.leaders[partition]
        self.publish()

    def append(self, partition, *values, is_control=False, is_aborted=False):
        records = [RecordData(1, None, json.dumps(value).encode()) for value in values]
        batch = encode_batch(
            records,
            is_control=is_control,
            producer_id=7 if is_aborted else -1,
            producer_epoch=0 if is_aborted else -1,
            is_transactional=is_aborted,
        )
        patch_batch(batch, base_offset=self.ends[partition], leader_epoch=0)
        self.ends[partition] += len(values)
        self.batches[partition].append((self.ends[partition], memoryview(batch)))
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def read(self, positions, *, max_wait_ms, max_bytes, topic_ids, epochs, isolation):
        """As `LeaderReads.read`; one batch of each partition at a time."""
        assert topic_ids == {"t": TOPIC_ID}
        self.reads += 1
        await self._dawdle()
        while True:
            changed = self._changed
            found = {
                key: self._look(key[1], at, epochs[key], isolation) for key, at in positions.items()
            }
            told = {
                key: each
                for key, each in found.items()
                if isinstance(each, Exception)
                or each.batches
                or (each.next_offset or 0) > positions[key]
            }
            if told or not max_wait_ms:
                return found
            await changed.wait()
            await self._dawdle()

    async def _dawdle(self):
        await turns(1 + self.delays.randrange(30) if self.delays else 1)

    def _look(self, partition, offset, epoch, isolation):
        if partition in self.failing:
            return self.failing[partition]
        common_end = self.elections[partition].common_end_for(epoch, self.ends[partition])
        if NO_LEADER_EPOCH < epoch < self.elections[partition].latest_epoch and common_end < offset:
            return LogTruncatedError("gone", partition=partition, divergent_offset=common_end)
        if offset > self.ends[partition]:
            return OffsetOutOfRangeError("no such offset", log_end_offset=self.ends[partition])
        ends = [(end, batch) for end, batch in self.batches[partition] if end > offset][:1]
        batches = [batch for _, batch in ends]
        next_offset = None
        if isolation == "read_committed":
            next_offset = max([offset, *(end for end, _ in ends)])
            batches = [batch for batch in batches if not read_header(batch).is_transactional]
        epoch = self.elections[partition].latest_epoch
        return FetchedPartition(
            "t",
            partition,
            batches,
            self.ends[partition],
            0,
            leader_epoch=epoch,
            next_offset=next_offset,
        )

    async def begin(self, topic, partition, start, *, isolation):
        """As `TopicPositions.begin`."""
        scope = ReadScope(topic, TOPIC_ID, partition, isolation)
        if isinstance(start, Cursor):
            offsets = start.offsets if partition is None else (start.offset_of(partition),)
            added = len(self.ends) - len(offsets) if partition is None else 0
            partitions = range(len(self.ends)) if partition is None else (partition,)
            epochs = tuple(map(start.epoch_of, partitions))
            return Beginning(scope, offsets + (0,) * added, epochs)
        count = len(self.ends) if partition is None else 1
        ends = self.ends if partition is None else self.ends[partition : partition + 1]
        positions = (0,) * count if start == "earliest" else tuple(ends)
        return Beginning(scope, positions, (NO_LEADER_EPOCH,) * count)


def service(topic, *, purgatory=None, max_followers=10, keep_alive_ms=LONG_MS, row_bytes=None):
    made = FollowService(
        positions=topic,
        reads=topic,
        metadata=topic.metadata,
        purgatory=purgatory or Purgatory(100),
        max_followers=max_followers,
        buffer_bytes=1 << 20,
        keep_alive_ms=keep_alive_ms,
    )
    if row_bytes is not None:
        made._row_bytes = lambda: row_bytes
    return made


class Reader:
    """Takes what a follower is sent apart again."""

    def __init__(self, follower):
        self.follower = follower
        self.records = []

    async def take(self):
        """Take one piece; returns its records."""
        async with asyncio.timeout(SOON_S):
            piece = await self.follower.next()
        if piece is None:
            return None
        records = [json.loads(line) for line in piece.splitlines() if line]
        self.records += records
        return records

    async def take_until(self, count):
        while len(self.records) < count:
            assert await self.take() is not None
        assert len(self.records) == count


def by_partition(records):
    found = {}
    for record in records:
        found.setdefault(record["partition"], []).append((record["offset"], record["value"]))
    return found


def stored(topic):
    values = {}
    for partition, end in enumerate(topic.ends):
        if end:
            values[partition] = [(offset, [partition, offset]) for offset in range(end)]
    return values


def append_some(topic, partition, count):
    end = topic.ends[partition]
    topic.append(partition, *([partition, offset] for offset in range(end, end + count)))


steps = st.lists(
    st.tuples(
        st.sampled_from(["append", "append", "take", "turn"]), st.integers(0, 2), st.integers(1, 9)
    ),
    max_size=60,
)


class PacedReader(Reader):
    """Takes a piece for each time that it is allowed to, and waits in the follower for it."""

    def __init__(self, follower):
        super().__init__(follower)
        self._allowed = asyncio.Semaphore(0)
        self.task = asyncio.create_task(self._run())

    def allow(self, pieces):
        for _ in range(pieces):
            self._allowed.release()

    async def _run(self):
        while True:
            await self._allowed.acquire()
            if await self.take() is None:
                return

    async def finish(self, count):
        async with asyncio.timeout(SOON_S):
            while len(self.records) < count:
                self.allow(1)
                await asyncio.sleep(0)
                if self.task.done():
                    await self.task
        await self.stop()

    async def stop(self):
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


@pytest.mark.parametrize("row_bytes", [1, 1_500, 100_000])
@pytest.mark.parametrize("seed", range(5))
async def test_nothing_is_lost_or_repeated_and_every_cursor_resumes(seed, row_bytes):
    """Three followers take at their own pace from a row that may be too short for them."""
    random = Random(seed)
    topic = Topic(3)
    topic.delays = random
    follows = service(topic, row_bytes=row_bytes)
    async with (
        follows.follow("t", None, "earliest", LINES) as one,
        follows.follow("t", None, "earliest", LINES) as two,
        follows.follow("t", None, "earliest", LINES) as three,
    ):
        readers = [PacedReader(one), PacedReader(two), PacedReader(three)]
        readers[0].allow(10_000)
        for _ in range(300):
            match random.randrange(3):
                case 0:
                    append_some(topic, random.randrange(3), random.randint(1, 5))
                case 1:
                    readers[random.randint(1, 2)].allow(random.choice((1, 1, 9)))
                case 2:
                    await turns(random.randrange(40))
        try:
            for reader in readers:
                await reader.finish(sum(topic.ends))
                assert by_partition(reader.records) == stored(topic)
        finally:
            for reader in readers:
                await reader.stop()
    assert follows._feeds == {}
    for reader in readers:
        reached = [0, 0, 0]
        for record in reader.records:
            reached[record["partition"]] += 1
            assert decode_cursor(record["cursor"]).offsets == tuple(reached)


async def test_followers_share_what_is_read_and_rendered(monkeypatch):
    rendered = []
    render = record_feed.render_batches

    async def counting(*arguments, **options):
        rendered.append(1)
        return await render(*arguments, **options)

    monkeypatch.setattr(record_feed, "render_batches", counting)
    topic = Topic(1)
    follows = service(topic, max_followers=100)
    async with FollowersAtOnce(follows, 50) as followers:
        waiting = [asyncio.create_task(follower.next()) for follower in followers]
        await turns()
        reads = topic.reads
        topic.append(0, "for all")
        async with asyncio.timeout(SOON_S):
            pieces = await asyncio.gather(*waiting)
        assert len({id(piece) for piece in pieces}) == 1
        assert b'"for all"' in pieces[0]
        await turns()
        assert rendered == [1]
        assert topic.reads <= reads + 2
    assert follows._feeds == {}


class FollowersAtOnce:
    """Followers at the end of topic t."""

    def __init__(self, follows, count):
        self._contexts = [follows.follow("t", None, "latest", LINES) for _ in range(count)]

    async def __aenter__(self):
        return [await context.__aenter__() for context in self._contexts]

    async def __aexit__(self, *_):
        for context in self._contexts:
            await context.__aexit__(None, None, None)


async def turns(count=20):
    for _ in range(count):
        await asyncio.sleep(0)


async def test_partitions_that_the_topic_gets_begin_at_their_first_record():
    topic = Topic(1)
    topic.append(0, [0, 0])
    follows = service(topic)
    async with follows.follow("t", None, "latest", LINES) as follower:
        reader = Reader(follower)
        taking = asyncio.create_task(reader.take())
        await turns()
        topic.add_partition()
        append_some(topic, 1, 2)
        await taking
        await reader.take_until(2)
        assert [record["partition"] for record in reader.records] == [1, 1]
        assert decode_cursor(reader.records[-1]["cursor"]).offsets == (1, 2)


async def test_a_leader_that_moves_is_followed():
    topic = Topic(2)
    follows = service(topic)
    async with follows.follow("t", None, "latest", LINES) as follower:
        reader = Reader(follower)
        append_some(topic, 0, 1)
        await reader.take_until(1)
        topic.leaders = [2, None]
        topic.failing[0] = LeaderNotAvailableError("on its way")
        topic.publish()
        taking = asyncio.create_task(reader.take())
        await turns()
        del topic.failing[0]
        topic.leaders = [2, 1]
        topic.publish()
        append_some(topic, 0, 1)
        append_some(topic, 1, 1)
        await taking
        await reader.take_until(3)
        assert by_partition(reader.records) == stored(topic)


async def test_what_cannot_be_read_for_long_sends_followers_away(monkeypatch):
    monkeypatch.setattr(record_feed, "UNREADABLE_MS", 1)
    monkeypatch.setattr(record_feed, "LOOK_INTERVAL_MS", 1)
    topic = Topic(1)
    follows = service(topic)
    async with follows.follow("t", None, "latest", LINES) as follower:
        waiting = asyncio.create_task(follower.next())
        await turns()
        topic.leaders = [None]
        topic.publish()
        with pytest.raises(LeaderNotAvailableError):
            async with asyncio.timeout(SOON_S):
                await waiting


async def test_a_deleted_topic_ends_its_streams():
    topic = Topic(1)
    follows = service(topic)
    async with follows.follow("t", None, "latest", LINES) as follower:
        waiting = asyncio.create_task(follower.next())
        await turns()
        topic.publish(exists=False)
        with pytest.raises(UnknownTopicOrPartitionError):
            async with asyncio.timeout(SOON_S):
                await waiting


async def test_a_cursor_behind_the_end_is_refused_before_the_stream_begins():
    follows = service(Topic(1))
    with pytest.raises(OffsetOutOfRangeError) as refused:
        async with follows.follow("t", None, Cursor(TOPIC_ID, 0, (5,)), LINES):
            pass
    assert refused.value.members["partition"] == 0


async def test_a_stream_is_resumed_though_no_leader_answers_yet():
    topic = Topic(1)
    topic.append(0, "x")
    topic.failing[0] = LeaderNotAvailableError("on its way")
    follows = service(topic)
    with pytest.raises(LeaderNotAvailableError):
        async with follows.follow("t", None, "earliest", LINES):
            pass
    async with follows.follow("t", None, Cursor(TOPIC_ID, 0, (0,)), LINES) as follower:
        taking = asyncio.create_task(Reader(follower).take())
        await turns()
        topic.failing.clear()
        assert [record["value"] for record in await taking] == ["x"]


async def test_a_stream_waits_for_a_leader_that_does_not_know_yet_what_it_may_show(monkeypatch):
    monkeypatch.setattr(record_feed, "UNREADABLE_MS", 0)
    monkeypatch.setattr(record_feed, "LOOK_INTERVAL_MS", 1)
    topic = Topic(1)
    topic.failing[0] = OffsetNotAvailableError("not known yet")
    follows = service(topic, keep_alive_ms=20)
    async with (
        follows.follow("t", None, "latest", LINES) as follower,
        asyncio.timeout(SOON_S),
    ):
        for _ in range(2):
            assert await follower.next() == b"\n"
        topic.failing.clear()
        topic.append(0, "x")
        reader = Reader(follower)
        await reader.take_until(1)
        assert reader.records[0]["value"] == "x"


async def test_signs_of_life_come_where_nothing_happens_and_tell_what_was_passed_over():
    topic = Topic(1)
    follows = service(topic, keep_alive_ms=20)
    async with (
        follows.follow("t", None, "latest", EVENTS) as follower,
        asyncio.timeout(SOON_S),
    ):
        start = follower.begun_at
        assert await follower.next() == b"retry: 1000\nid: %b\n\n" % start
        assert await follower.next() == b": keep-alive\n\n"
        topic.append(0, "a mark", is_control=True)
        told = b""
        while b"id:" not in told:
            told = await follower.next()
            assert told.startswith(b": keep-alive\n")
        cursor = told.split(b"id: ")[1].strip().decode()
        assert decode_cursor(cursor).offsets == (1,)
        assert await follower.next() == b": keep-alive\n\n"


async def test_committed_and_other_readers_share_no_feed_and_both_go_on_behind_what_was_aborted():
    topic = Topic(1)
    follows = service(topic)
    committed = follows.follow("t", None, "earliest", LINES, isolation="read_committed")
    async with committed as first, follows.follow("t", None, "earliest", LINES) as second:
        readers = [Reader(first), Reader(second)]
        topic.append(0, "a")
        for reader in readers:
            await reader.take_until(1)
        waiting = [asyncio.create_task(reader.take()) for reader in readers]
        await turns(100)
        assert len(follows._feeds) == 2
        topic.append(0, "never", is_aborted=True)
        await waiting[1]
        topic.append(0, "b")
        await waiting[0]
        await readers[0].take_until(2)
        await readers[1].take_until(3)
    assert [each["value"] for each in readers[0].records] == ["a", "b"]
    assert [each["value"] for each in readers[1].records] == ["a", "never", "b"]
    cursor = decode_cursor(readers[0].records[-1]["cursor"])
    assert cursor.offsets == (3,)


async def test_whoever_catches_up_passes_over_what_was_aborted():
    topic = Topic(2)
    topic.append(0, "never", is_aborted=True)
    topic.append(0, "nor this", is_aborted=True)
    topic.append(1, "a")
    follows = service(topic)
    committed = follows.follow("t", None, "earliest", LINES, isolation="read_committed")
    async with committed as follower:
        reader = Reader(follower)
        await reader.take_until(1)
        topic.append(0, "b")
        await reader.take_until(2)
    assert [each["value"] for each in reader.records] == ["a", "b"]


async def test_no_more_follow_than_may_and_whoever_goes_makes_room():
    follows = service(Topic(1), max_followers=1)
    async with follows.follow("t", None, "latest", LINES):
        with pytest.raises(OverloadedError) as refused:
            async with follows.follow("t", None, "latest", LINES):
                pass
        assert refused.value.members["retry_after_seconds"] > 0
    async with follows.follow("t", None, "latest", LINES):
        pass


async def test_a_broker_that_stops_ends_its_streams_and_begins_none():
    purgatory = Purgatory(10)
    follows = service(Topic(1), purgatory=purgatory)
    async with follows.follow("t", None, "latest", LINES) as follower:
        waiting = asyncio.create_task(follower.next())
        await turns()
        purgatory.release()
        async with asyncio.timeout(SOON_S):
            assert await waiting is None
    with pytest.raises(UnavailableError):
        async with follows.follow("t", None, "latest", LINES):
            pass


async def test_a_feed_reads_no_further_than_a_row_while_nobody_takes():
    topic = Topic(1)
    follows = service(topic, row_bytes=2_000)
    async with follows.follow("t", None, "latest", LINES) as follower:
        taking = asyncio.create_task(follower.next())
        await turns()
        append_some(topic, 0, 1)
        await taking
        reads = topic.reads
        for _ in range(200):
            append_some(topic, 0, 10)
        await turns(500)
        assert topic.reads - reads < 20
        reader = Reader(follower)
        await reader.take_until(2_000)


@given(st.randoms(use_true_random=False))
async def test_a_follower_of_one_partition_gets_its_records_alone(random: Random):
    topic = Topic(2)
    for _ in range(5):
        append_some(topic, random.randrange(2), random.randint(1, 9))
    rendering = StreamRendering(routes.NDJSON, names_partition=False)
    follows = service(topic)
    async with follows.follow("t", 1, "earliest", rendering) as follower:
        reader = Reader(follower)
        append_some(topic, 1, 1)
        await reader.take_until(topic.ends[1])
    assert [record["value"] for record in reader.records] == [
        value for _, value in stored(topic)[1]
    ]


@given(steps, st.sampled_from([1, 2_000, 100_000]))
@settings(max_examples=30, deadline=None)
async def test_a_filter_leaves_out_nothing_else(steps, row_bytes):
    """Of records that are wanted none is lost, whether they are read or come from a feed."""
    topic = Topic(3)
    follows = service(topic, row_bytes=row_bytes)
    rendering = filtered("$[1] == 0 || $[1] == 7 || $[1] == 20", "offset,value")
    async with (
        follows.follow("t", None, "earliest", rendering) as one,
        follows.follow("t", None, "earliest", rendering) as two,
    ):
        readers = [PacedReader(one), PacedReader(two)]
        readers[0].allow(1_000)
        for step, number, count in steps:
            if step == "append":
                append_some(topic, number, count)
            else:
                readers[number % 2].allow(count)
                await turns(count)
        wanted = {
            partition: [record for record in records if record[0] in {0, 7, 20}]
            for partition, records in stored(topic).items()
        }
        for reader in readers:
            await reader.finish(sum(map(len, wanted.values())))
            assert by_partition(reader.records) == wanted
            assert all(
                set(each) == {"partition", "offset", "value", "cursor"} for each in reader.records
            )


async def test_a_filter_that_lets_nothing_through_keeps_a_feed_going():
    topic = Topic(1)
    follows = service(topic, row_bytes=1_000)
    async with follows.follow("t", None, "latest", filtered("$[1] == 999")) as follower:
        reader = Reader(follower)
        taking = asyncio.create_task(reader.take())
        await turns()
        longest = 0
        for _ in range(1_000):
            append_some(topic, 0, 1)
            await turns(5)
            longest = max([longest, *(len(feed._items) for feed in follows._feeds.values())])
        assert [record["offset"] for record in await taking] == [999]
        assert 0 < longest < 20


async def joined(reader):
    """The reader's next piece, which it waits for in a feed by now."""
    taking = asyncio.create_task(reader.take())
    await turns(50)
    assert reader.follower._feed is not None
    return taking


async def test_whoever_falls_out_of_the_row_reads_for_himself():
    topic = Topic(1)
    follows = service(topic, row_bytes=1)
    async with (
        follows.follow("t", None, "latest", LINES) as one,
        follows.follow("t", None, "latest", LINES) as two,
    ):
        fast, slow = Reader(one), Reader(two)
        taking = [await joined(fast), await joined(slow)]
        append_some(topic, 0, 1)
        await asyncio.gather(*taking)
        for _ in range(10):
            taken = await joined(fast)
            append_some(topic, 0, 1)
            await taken
        assert two._bookmark.sequence < two._feed._first
        await slow.take_until(11)
        assert by_partition(fast.records) == by_partition(slow.records) == stored(topic)


async def test_followers_that_take_nothing_hold_a_bounded_share_together(monkeypatch):
    """The later ones read less ahead, and all of them everything in the end."""
    monkeypatch.setattr(follower_module, "READ_AHEAD_BYTES", 400_000)
    topic = Topic(1)
    topic.append(0, *("x" * 1_000 for _ in range(500)))
    following = service(topic, max_followers=20)
    async with AsyncExitStack() as stack:
        readers = [
            Reader(await stack.enter_async_context(following.follow("t", None, "earliest", LINES)))
            for _ in range(4)
        ]
        held_bytes = following._read_ahead.held_bytes
        assert 4 * 30_000 < held_bytes < 4 * 2 * READ_AHEAD_BYTES_MIN
        for reader in readers:
            await reader.take_until(500)
            assert [record["offset"] for record in reader.records] == [*range(500)]
    assert following._read_ahead.held_bytes == 0


async def test_cursors_of_many_partitions_count_in_what_is_rendered_at_a_time():
    """A hundred thousand of the longest would take 700 MB."""
    batch = encode_batch([RecordData(1, None, None) for _ in range(5_000)])
    patch_batch(batch, base_offset=0, leader_epoch=0)
    pieces = await render_batches(
        [batch], 0, partition=0, rendering=EVENTS, max_bytes=1 << 20, cursor_bytes=7_300
    )
    assert max(len(piece.offsets) for piece in pieces) * 7_300 < 2 * PIECE_BYTES
    assert 0 < pieces[-1].next_offset * 7_300 <= OVERHEAD_BYTES_MAX
    assert sum(len(piece.offsets) for piece in pieces) == pieces[-1].next_offset


async def test_headers_count_in_what_is_rendered_at_a_time():
    headers = (("h", b"x" * 1_000),)
    batch = encode_batch([RecordData(1, None, None, headers) for _ in range(100)])
    patch_batch(batch, base_offset=0, leader_epoch=0)
    [piece] = await render_batches(
        [batch], 0, partition=0, rendering=EVENTS, max_bytes=10_500, cursor_bytes=0
    )
    assert piece.next_offset == 10


async def test_whoever_has_read_what_is_lost_is_told_and_where_to_go_on():
    """However it hears of it: in its feed, or when it comes back, with or without a record."""
    topic = Topic(2)
    append_some(topic, 0, 1)
    append_some(topic, 0, 2)
    follows = service(topic)
    async with follows.follow("t", None, "latest", LINES) as follower:
        begun_at = decode_cursor(follower.begun_at.decode())
        assert (begun_at.offsets, begun_at.epochs) == ((3, 0), (3, 3))
        reader = Reader(follower)
        taking = await joined(reader)
        append_some(topic, 1, 1)
        [record] = await taking
        taking = await joined(reader)
        topic.elect(0, 1)
        append_some(topic, 0, 9)
        with pytest.raises(LogTruncatedError) as told:
            await taking
        assert decode_cursor(told.value.members["cursor"]).offsets == (1, 1)
    for cursor, offsets in ((decode_cursor(record["cursor"]), (1, 1)), (begun_at, (1, 0))):
        with pytest.raises(LogTruncatedError) as told:
            async with follows.follow("t", None, cursor, LINES):
                pass
        assert told.value.members["partition"] == 0
        assert decode_cursor(told.value.members["cursor"]).offsets == offsets
    goes_on = decode_cursor(told.value.members["cursor"])
    async with follows.follow("t", None, goes_on, LINES) as follower:
        reader = Reader(follower)
        await reader.take_until(10)
        assert [offset for offset, _ in by_partition(reader.records)[0]] == [*range(1, 10)]


async def test_an_election_that_loses_nothing_is_not_told():
    topic = Topic(1)
    append_some(topic, 0, 3)
    follows = service(topic)
    async with follows.follow("t", None, "earliest", LINES) as follower:
        reader = Reader(follower)
        await reader.take_until(3)
        taking = await joined(reader)
        topic.elect(0, 3)
        append_some(topic, 0, 1)
        [record] = await taking
    assert decode_cursor(record["cursor"]).epochs == (4,)
    async with follows.follow("t", None, decode_cursor(record["cursor"]), LINES):
        pass


async def test_a_feed_is_joined_where_its_row_goes_on():
    topic = Topic(2)
    follows = service(topic)
    async with follows.follow("t", None, "latest", LINES) as follower:
        reader = Reader(follower)
        for partition in (0, 1, 0, 1):
            taking = await joined(reader)
            append_some(topic, partition, 2)
            await taking
        [feed] = follows._feeds.values()
        for at, before in (((2, 1), (2, 0)), ((2, 2), (2, 2)), ((3, 2), (2, 2)), ((4, 2), (4, 2))):
            assert feed.take(feed.join(at, feed.epochs)).before == before
        assert feed.take(feed.join((4, 4), feed.epochs)) is None
        assert feed.join((4, 4), (3, NO_LEADER_EPOCH)) is not None
        assert feed.join((4, 4), (3, 4)) is None


def test_what_a_reader_has_is_left_out():
    piece = RenderedPiece([5, 6, 9], [b'{"a":5', b'{"a":6', b'{"a":9'], 10, 18)
    encoder = CursorEncoder(TOPIC_ID, 0)
    text = with_cursors(
        piece, rendering=LINES, encoder=encoder, positions=(1, 6), epochs=(), index=1
    )
    found = [json.loads(line) for line in text.splitlines()]
    assert [record["a"] for record in found] == [6, 9]
    assert [decode_cursor(record["cursor"]).offsets for record in found] == [(1, 7), (1, 10)]
