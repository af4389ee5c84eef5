"""Followers get every record once and in order, however fast they take it, and resume anywhere."""

import asyncio
import json
from random import Random
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ottla_broker.drivers.metadata import MetadataCache
from ottla_broker.drivers.purgatory import Purgatory
from ottla_broker.services import record_feed
from ottla_broker.services.following import FollowService
from ottla_broker.services.stream_rendering import StreamRendering
from ottla_broker.services.topic_positions import ReadScope
from ottla_protocol import routes
from ottla_protocol.cursors import Cursor, decode_cursor
from ottla_protocol.errors import (
    LeaderNotAvailableError,
    OffsetOutOfRangeError,
    OverloadedError,
    UnavailableError,
    UnknownTopicOrPartitionError,
)
from ottla_protocol.models import FetchedPartition
from ottla_protocol.record_batch import patch_batch
from ottla_protocol.record_codec import RecordData, encode_batch

TOPIC_ID = "0123456789abcdef0123456789abcdef"
LONG_MS = 600_000
SOON_S = 10.0

LINES = StreamRendering(routes.NDJSON, "auto", names_partition=True)
EVENTS = StreamRendering(routes.EVENT_STREAM, "auto", names_partition=True)


class Topic:
    """The partitions of a topic, in memory; it stands for the leaders, and for the metadata."""

    def __init__(self, partitions):
        self.batches = [[] for _ in range(partitions)]
        self.ends = [0] * partitions
        self.leaders = [1 + number % 2 for number in range(partitions)]
        self.failing = {}
        self.reads = 0
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
        self.publish()

    def append(self, partition, *values, is_control=False):
        records = [RecordData(1, None, json.dumps(value).encode()) for value in values]
        batch = encode_batch(records, is_control=is_control)
        patch_batch(batch, base_offset=self.ends[partition], leader_epoch=0)
        self.ends[partition] += len(values)
        self.batches[partition].append((self.ends[partition], memoryview(batch)))
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def read(self, positions, *, max_wait_ms, max_bytes):
        """As `LeaderReads.read`; one batch of each partition at a time."""
        self.reads += 1
        await asyncio.sleep(0)
        while True:
            changed = self._changed
            found = {key: self._look(key[1], at) for key, at in positions.items()}
            told = {
                key: each
                for key, each in found.items()
                if isinstance(each, Exception) or each.batches
            }
            if told or not max_wait_ms:
                return found
            await changed.wait()

    def _look(self, partition, offset):
        if partition in self.failing:
            return self.failing[partition]
        if offset > self.ends[partition]:
            return OffsetOutOfRangeError("no such offset", log_end_offset=self.ends[partition])
        batches = [batch for end, batch in self.batches[partition] if end > offset][:1]
        return FetchedPartition("t", partition, batches, self.ends[partition], 0)

    async def begin(self, topic, partition, start):
        """As `TopicPositions.begin`."""
        scope = ReadScope(topic, TOPIC_ID, partition)
        if isinstance(start, Cursor):
            offsets = start.offsets if partition is None else (start.offset_of(partition),)
            added = len(self.ends) - len(offsets) if partition is None else 0
            return scope, offsets + (0,) * added
        count = len(self.ends) if partition is None else 1
        ends = self.ends if partition is None else self.ends[partition : partition + 1]
        return scope, (0,) * count if start == "earliest" else tuple(ends)


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
    st.tuples(st.sampled_from(["append", "take", "turn"]), st.integers(0, 2), st.integers(1, 30)),
    max_size=40,
)


@settings(max_examples=60, deadline=None)
@given(steps, st.sampled_from([1, 200, 100_000]))
async def test_nothing_is_lost_or_repeated_and_every_cursor_resumes(steps, row_bytes):
    """Three followers take at their own pace from a row that may be too short for them."""
    topic = Topic(3)
    follows = service(topic, row_bytes=row_bytes)
    async with (
        follows.follow("t", None, "earliest", LINES) as one,
        follows.follow("t", None, "earliest", LINES) as two,
        follows.follow("t", None, "earliest", LINES) as three,
    ):
        readers = [Reader(one), Reader(two), Reader(three)]
        for step, number, count in steps:
            if step == "append":
                append_some(topic, number, count)
            elif step == "turn":
                await asyncio.sleep(0)
            elif len(readers[number].records) < sum(topic.ends):
                await readers[number].take()
        for reader in readers:
            await reader.take_until(sum(topic.ends))
            assert by_partition(reader.records) == stored(topic)
    assert follows._feeds == {}
    records = readers[0].records
    for place in range(0, len(records), max(1, len(records) // 5)):
        cursor = decode_cursor(records[place]["cursor"])
        async with follows.follow("t", None, cursor, LINES) as follower:
            rest = Reader(follower)
            await rest.take_until(len(records) - place - 1)
        whole = by_partition(records[: place + 1] + rest.records)
        assert {key: sorted(each) for key, each in whole.items()} == stored(topic)


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
    rendering = StreamRendering(routes.NDJSON, "auto", names_partition=False)
    follows = service(topic)
    async with follows.follow("t", 1, "earliest", rendering) as follower:
        reader = Reader(follower)
        append_some(topic, 1, 1)
        await reader.take_until(topic.ends[1])
    assert [record["value"] for record in reader.records] == [
        value for _, value in stored(topic)[1]
    ]
