"""Requests under an Idempotency-Key, sent again through other brokers while partitions are added.

The services are the real ones; what is between them is not. Each broker hears of added partitions
when it likes, a batch on its way to its leader takes as long as it likes, also behind the request
that it belonged to, and what is appended is committed a while later. A client whose connection
breaks sends everything again, through any broker, until all of it is acknowledged.
"""

import asyncio
import random
from types import SimpleNamespace

import msgspec

from ottla_broker.drivers.metadata import MetadataCache
from ottla_broker.drivers.partition_acks import Appended
from ottla_broker.drivers.peer_messages import IdempotencyHit, IdempotencyLookup, encode
from ottla_broker.drivers.purgatory import Purgatory
from ottla_broker.services.idempotency import IdempotencyService
from ottla_broker.services.produce import ProduceService
from ottla_broker.services.produce_options import ProduceOptions
from ottla_broker.services.record_produce import RecordProduceService
from ottla_broker.services.stream_produce import StoredLine, StreamLine, StreamProduceService
from ottla_broker.storage.log_config import AppendInfo
from ottla_broker.storage.policy.idempotency_window import IdempotencyWindow, StoredRequest
from ottla_cluster.controller.features import LATEST_FEATURE_LEVEL
from ottla_cluster.controller.image import BrokerState
from ottla_protocol.errors import OttlaError, UnknownTopicOrPartitionError
from ottla_protocol.json_records import ParsedRecord
from ottla_protocol.models import ACKS_ALL
from ottla_protocol.record_codec import decode_batch

TOPIC_ID = "t" * 32
BROKERS = (1, 2, 3)
COUNTS = (2, 3, 5)
"""How many partitions there are, one after the other."""

LEADS_NOTHING = BROKERS[COUNTS[0]]
"""A broker that leads none of the first partitions."""

LINES = 6
BATCH_LINES = 3
TIMEOUT_MS = 20_000
"""Far more than a run takes."""

TURNS_MAX = 12
"""Turns of the event loop that anything takes at most."""

SENDINGS_MAX = 200


class Log:
    """A partition's log, as far as an append with a key has to do with it."""

    def __init__(self, number, world):
        self.name = f"orders-{number}"
        self.number = number
        self.state = SimpleNamespace(topic_id=TOPIC_ID)
        self.high_watermark = 0
        self.values = []
        self._world = world
        self._window = IdempotencyWindow()

    @property
    def log(self):
        return self

    def leading(self):
        """It never moves."""

    def check_idempotency(self, key_digest, body_digest):
        found = self._window.find(key_digest, body_digest)
        if found is None:
            return None
        return AppendInfo(found.base_offset, found.last_offset, found.timestamp, duplicate=True)

    def append(self, batch, header, *, idempotency, **_):
        info = self.check_idempotency(idempotency.key_digest, idempotency.body_digest)
        if info is None:
            base = len(self.values)
            self.values += [
                record.value for record in decode_batch(batch, max_inflated_bytes=1 << 20)
            ]
            info = AppendInfo(base, len(self.values) - 1, header.max_timestamp)
            self._window.remember(
                idempotency.key_digest,
                StoredRequest(idempotency.body_digest, base, info.last_offset, 1, 1),
                now_ms=0,
            )
            self._world.later(self._commit, info.next_offset)
        return Appended(info, leader_epoch=1)

    def _commit(self, end):
        self.high_watermark = max(self.high_watermark, end)

    async def committed(self, appended, **_):
        while self.high_watermark < appended.info.next_offset:  # noqa: ASYNC110  turns are time here
            await asyncio.sleep(0)


class Broker:
    """The services of one broker, over what the world shows it."""

    def __init__(self, node_id, world):
        self.metadata = MetadataCache(image(0))

        def hosted(_, number):
            self.metadata.image.partition_by_id(TOPIC_ID, number)
            return world.log(number)

        replicas = SimpleNamespace(disk_is_full=False, hosted=hosted, by_topic_id=hosted)
        self.idempotency = IdempotencyService(
            node_id=node_id, metadata=self.metadata, replicas=replicas, peers=world
        )
        self.produce = ProduceService(
            node_id=node_id,
            metadata=self.metadata,
            replicas=replicas,
            forwarder=world,
            purgatory=Purgatory(limit=1_000),
            coordinator=None,
        )
        topics = SimpleNamespace(find=self._find)
        self.records = RecordProduceService(
            topics=topics, produce=self.produce, idempotency=self.idempotency
        )
        self.streams = StreamProduceService(
            metadata=self.metadata,
            topics=topics,
            record_produce=self.records,
            idempotency=self.idempotency,
        )

    async def _find(self, _):
        return self.metadata.image.topics[TOPIC_ID]


def image(step):
    """The metadata after so many additions."""
    partitions = [
        SimpleNamespace(leader=BROKERS[number % len(BROKERS)], isr=BROKERS)
        for number in range(COUNTS[step])
    ]

    def partition_by_id(_, number):
        if number >= len(partitions):
            raise UnknownTopicOrPartitionError(f"there are {len(partitions)} partitions")
        return partitions[number]

    topic = SimpleNamespace(
        name="orders",
        topic_id=TOPIC_ID,
        configs={},
        partitions=partitions,
        former_partition_counts=COUNTS[:step],
    )
    broker = SimpleNamespace(broker_epoch=1, state=BrokerState.ACTIVE)
    return SimpleNamespace(
        version=step,
        feature_level=LATEST_FEATURE_LEVEL,
        topics={TOPIC_ID: topic},
        topic_ids={"orders": TOPIC_ID},
        brokers={node_id: SimpleNamespace(url=str(node_id), **vars(broker)) for node_id in BROKERS},
        partition_by_id=partition_by_id,
    )


class World:
    """Three brokers, the logs, the ways between them, and one client with one key."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self._logs = {}
        self._tasks = set()
        self.lets_forwards_arrive = asyncio.Event()
        self.lets_forwards_arrive.set()
        self.brokers = {node_id: Broker(node_id, self) for node_id in BROKERS}
        keys = [b"%d" % self.random.randrange(8) for _ in range(LINES)]
        self.records = [
            ParsedRecord(key, b"%d" % number, (), 1, None) for number, key in enumerate(keys)
        ]

    @property
    def stored(self):
        """Every value that is in some log, in order of the number that it is."""
        return sorted(int(value) for log in self._logs.values() for value in log.values)

    def log(self, number):
        return self._logs.setdefault(number, Log(number, self))

    def later(self, work, *args, turns_max=TURNS_MAX):
        """Do it after a while."""

        async def wait():
            await self._dawdle(turns_max)
            work(*args)

        self._begin(wait())

    def _begin(self, work):
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _dawdle(self, turns_max=TURNS_MAX):
        for _ in range(self.random.randrange(turns_max)):
            await asyncio.sleep(0)

    # --- the ways between brokers ---------------------------------------------------------------

    async def forward(self, leader, batches, options):
        """A forwarded produce goes on when nobody waits for it any more."""

        async def arrive():
            await self.lets_forwards_arrive.wait()
            await self._dawdle(self.random.choice((1, 4, 32)) * TURNS_MAX)
            return await self.brokers[leader].produce.append_here(batches, options)

        return await asyncio.shield(self._begin(arrive()))

    async def call(self, url, _path, body, **_):
        """A look-up of a key."""
        await self._dawdle()
        lookup = msgspec.msgpack.decode(body, type=IdempotencyLookup)
        answer = encode(await self.brokers[int(url)].idempotency.answer(lookup))
        await self._dawdle()
        return msgspec.msgpack.decode(answer, type=list[IdempotencyHit])

    # --- the run --------------------------------------------------------------------------------

    async def run(self, send):
        """Send until all is acknowledged, while partitions are added; then wait for stragglers."""
        self._begin(self._add_partitions())
        for _ in range(SENDINGS_MAX):
            broker = self.brokers[self.random.choice(BROKERS)]
            sending = self._begin(send(self, broker))
            if self.random.random() < 0.5:
                # The connection breaks.
                await self._dawdle(2 * TURNS_MAX)
                sending.cancel()
            try:
                if await sending:
                    break
            except (OttlaError, asyncio.CancelledError):
                await self._dawdle()
        else:
            raise AssertionError("nothing is ever acknowledged")
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def _add_partitions(self):
        for step in range(1, len(COUNTS)):
            await self._dawdle(4 * TURNS_MAX)
            for broker in self.brokers.values():
                self.later(self.tell, broker, step, turns_max=8 * TURNS_MAX)

    async def play_a_late_first_attempt(self, send, *, all_know, asked_id, begins_at):
        """The first attempt arrives when the next one has looked for it and found nothing.

        Args:
            send: sends it all.
            all_know: whether all brokers have heard of the added partition by then, or only the one
                that the client talks to.
            asked_id: whom the client talks to; what it leads itself is stored at once.
            begins_at: how often partitions were added before, and everybody has heard.
        """
        asked = self.brokers[asked_id]
        for broker in self.brokers.values():
            self.tell(broker, begins_at)
        self.lets_forwards_arrive.clear()
        first = self._begin(send(self, asked))
        await self._turns()
        first.cancel()
        for broker in self.brokers.values() if all_know else (asked,):
            self.tell(broker, begins_at + 1)
        second = self._begin(send(self, asked))
        await self._turns()
        self.lets_forwards_arrive.set()
        await self._turns()
        for broker in self.brokers.values():
            self.tell(broker, begins_at + 1)
        try:
            is_stored = await second
        except OttlaError:
            is_stored = False
        while not is_stored:
            is_stored = await send(self, asked)
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def _turns(self):
        """More than anything takes that waits for nothing."""
        for _ in range(100 * TURNS_MAX):
            await asyncio.sleep(0)

    def tell(self, broker, step):
        """Let a broker hear of added partitions."""
        if broker.metadata.image.version < step:
            broker.metadata.publish(image(step))


def options():
    return ProduceOptions.checked(ACKS_ALL, TIMEOUT_MS)


async def send_request(world, broker):
    """All records as one request; whether all of them are stored."""
    answer = await broker.records.produce(
        "orders", world.records, options(), idempotency_key="key", body=b"the body"
    )
    return all(record.error is None for record in answer.records)


async def send_stream(world, broker):
    """The records as a stream, from its first line; whether all of them are stored."""
    stream = await broker.streams.begin(options(), topic="orders", partition=None, key="key")
    for first in range(0, LINES, BATCH_LINES):
        lines = [
            StreamLine(number, "orders", world.records[number])
            for number in range(first, first + BATCH_LINES)
        ]
        results = await broker.streams.append(stream, lines, options())
        if len(results) < len(lines) or not all(isinstance(each, StoredLine) for each in results):
            return False
    return True
