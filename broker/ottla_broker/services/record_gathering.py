"""Small requests of plain records that come at the same moment share a record batch.

A record batch costs each replica about the same whether it holds one record or ten: it is checked,
numbered, sent, checked again and stored in a row of its own. Requests of single records come in
crowds under load, and what goes to one partition at a time becomes one batch. As forwards do
(`forwarder`), it gathers only while others are on their way to the same leader; else it is what one
turn of the event loop brings, so a client that is alone waits for nobody.

Nobody can tell from an answer. A batch is appended whole or not at all, and so is each request in
it; its records have consecutive offsets, in its order, one timestamp and one fate. What may concern
one request alone keeps it out: an Idempotency-Key, whose digests stand beside a batch; a
transaction; timestamps of its own, of which a batch tells the largest; many or large records. And
where a shared batch is refused for what is in it, nothing of it is stored, and each request goes
again alone. So does any whose stamp the leader refuses, which is this broker's: the ordinary way
takes the leader's time then.
"""

import asyncio
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from copy import copy
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import msgspec

from ottla_broker.drivers.clock import monotonic_ms, wall_clock_ms
from ottla_broker.drivers.purgatory import Purgatory
from ottla_broker.request_id import REQUEST_ID, joined
from ottla_broker.services.forwarder import ProduceForwarder
from ottla_broker.services.produce import NO_OFFSET, ProduceService, measure_produce
from ottla_broker.services.produce_options import ProduceOptions
from ottla_cluster.controller.image import Topic
from ottla_cluster.controller.topic_configs import MAX_MESSAGE_BYTES, integer_config
from ottla_protocol.errors import InvalidTimestampError, OttlaError, Outcome
from ottla_protocol.json_records import ParsedRecord
from ottla_protocol.models import AppendedBatch, BatchToAppend
from ottla_protocol.record_codec import RecordData, encode_batch

GATHER_MS = 1
"""How long requests wait for company on their way to this broker's own log, while others are under
way. Behind the append they wait with all others for followers, and there is company of its own."""

REQUEST_RECORDS_MAX = 10
REQUEST_BYTES_MAX = 4 << 10
"""A request with more is worth a batch of its own."""

BATCH_RECORDS_MAX = 500
BATCH_BYTES_MAX = 64 << 10
"""What a shared batch may grow to, and no further than to half of `max.message.bytes`."""

DEADLINE_SPREAD_MS = 20
"""How much earlier than its own deadline a request may have to give up for its company's."""


class _Route(NamedTuple):
    """What waits together: the leader as of now, None without one."""

    leader: int | None
    acks: int


class _Key(NamedTuple):
    """Whose records may share a batch."""

    topic_id: str
    partition: int
    acks: int


@dataclass(slots=True)
class _Gathered:
    """A batch that is open for more, until it is sent."""

    topic: Topic
    options: ProduceOptions
    """Those of the request that came first, whose deadline is the earliest."""
    records: list[ParsedRecord] = field(default_factory=list)
    size_bytes: int = 0
    request_ids: list[str | None] = field(default_factory=list)
    sending: "asyncio.Task[AppendedBatch | OttlaError | None] | None" = None
    """None comes of it where nothing was sent."""

    def takes(self, records: Sequence[ParsedRecord], size_bytes: int, deadline_ms: int) -> bool:
        """Whether such a request may join."""
        max_bytes = min(BATCH_BYTES_MAX, integer_config(self.topic.configs, MAX_MESSAGE_BYTES) // 2)
        return (
            len(self.records) + len(records) <= BATCH_RECORDS_MAX
            and self.size_bytes + size_bytes <= max_bytes
            and 0 <= deadline_ms - self.options.deadline_ms <= DEADLINE_SPREAD_MS
        )


class RecordGathering:
    """Gathers requests by partition and `acks`.

    Args:
        node_id: this broker.
        produce: delivers what was gathered.
        forwarder: says how long to gather for other brokers.
        purgatory: where requests to this broker's own partitions wait.
    """

    def __init__(
        self,
        *,
        node_id: int,
        produce: ProduceService,
        forwarder: ProduceForwarder,
        purgatory: Purgatory,
    ) -> None:
        self._node_id = node_id
        self._produce = produce
        self._forwarder = forwarder
        self._purgatory = purgatory
        # No longer here than they are open.
        self._gathering: dict[_Key, _Gathered] = {}
        # Batches that are not answered yet; no route without any.
        self._under_way: Counter[_Route] = Counter()
        # Set when what waits for a route is to leave.
        self._departures: dict[_Route, asyncio.Event] = {}

    async def deliver(
        self, topic: Topic, partition: int, records: Sequence[ParsedRecord], options: ProduceOptions
    ) -> AppendedBatch | OttlaError | None:
        """Deliver the records of one request to one partition, with others.

        Returns:
            What became of them; None where nothing was done: they are to be delivered alone.
        """
        size_bytes = _size_bytes(records)
        route = _Route(topic.partitions[partition].leader, options.acks)
        is_led_here = route.leader == self._node_id
        # Where no more may wait, whoever goes alone tries again until its deadline.
        has_place = not (is_led_here and self._purgatory.is_full)
        if not (has_place and _may_share(records, size_bytes, options)):
            return None
        started_ms = monotonic_ms()
        with self._purgatory.parked_ack() if is_led_here else nullcontext():
            gathered, start = self._join(topic, partition, records, size_bytes, options, route)
            assert gathered.sending is not None
            # Whoever gives up leaves the others alone.
            result = await asyncio.shield(gathered.sending)
        if result is None or _goes_alone(result, gathered):
            return None
        if is_led_here:
            # Not before: whoever goes alone is measured there.
            measure_produce(options.acks, started_ms)
        if isinstance(result, AppendedBatch):
            return _part(result, start, len(records))
        # Its own, because whoever renders or retries an error may add to it.
        return copy(result)

    def _join(
        self,
        topic: Topic,
        partition: int,
        records: Sequence[ParsedRecord],
        size_bytes: int,
        options: ProduceOptions,
        route: _Route,
    ) -> tuple[_Gathered, int]:
        """The batch that the records are in, and where they begin in it."""
        key = _Key(topic.topic_id, partition, options.acks)
        gathered = self._gathering.get(key)
        if gathered is None or not gathered.takes(records, size_bytes, options.deadline_ms):
            gathered = self._gathering[key] = _Gathered(topic, options)
            gathered.sending = asyncio.create_task(self._send(key, route, gathered))
        start = len(gathered.records)
        gathered.records += records
        gathered.size_bytes += size_bytes
        gathered.request_ids.append(REQUEST_ID.get())
        return gathered, start

    async def _send(
        self, key: _Key, route: _Route, gathered: _Gathered
    ) -> AppendedBatch | OttlaError | None:
        # A task begins behind all that the turn of the event loop has brought.
        await self._departure(route)
        if self._gathering.get(key) is gathered:
            del self._gathering[key]
        # This task is no request's own: it began with whichever came first.
        REQUEST_ID.set(joined(gathered.request_ids))
        try:
            batch = _encode(gathered.records)
        except Exception:  # noqa: BLE001
            # Nobody fails for what another sent: each finds out alone whose record it was.
            return None
        self._under_way[route] += 1
        try:
            [result] = await self._produce.deliver(
                [
                    BatchToAppend(
                        gathered.topic.name,
                        key.partition,
                        memoryview(batch),
                        topic_id=key.topic_id,
                    )
                ],
                replace(gathered.options, is_gathered=True),
            )
        finally:
            self._returned(route)
        return result

    async def _departure(self, route: _Route) -> None:
        """Wait for company, if others are under way; all for one leader leave at once."""
        gather_ms = self._gather_ms(route)
        if gather_ms == 0:
            return
        departure = self._departures.get(route)
        if departure is None:
            departure = self._departures[route] = asyncio.Event()
            asyncio.get_running_loop().call_later(gather_ms / 1000, self._depart, route, departure)
        await departure.wait()

    def _gather_ms(self, route: _Route) -> int:
        if route.leader is None or route.leader == self._node_id:
            return GATHER_MS if self._under_way[route] else 0
        return self._forwarder.gather_ms_towards(route.leader, route.acks)

    def _depart(self, route: _Route, departure: asyncio.Event) -> None:
        if self._departures.get(route) is departure:
            del self._departures[route]
            departure.set()

    def _returned(self, route: _Route) -> None:
        self._under_way[route] -= 1
        if not self._under_way[route]:
            del self._under_way[route]
            departure = self._departures.get(route)
            if departure is not None:
                # Nobody else is on the way, so there is nothing to wait for.
                self._depart(route, departure)


def _encode(records: Sequence[ParsedRecord]) -> bytearray:
    now_ms = wall_clock_ms()
    return encode_batch(
        [RecordData(now_ms, each.key, each.value, each.headers) for each in records]
    )


def _size_bytes(records: Sequence[ParsedRecord]) -> int:
    size_bytes = 0
    for record in records:
        size_bytes += len(record.key or b"") + len(record.value or b"")
        for name, value in record.headers:
            size_bytes += len(name) + len(value or b"")
    return size_bytes


def _may_share(records: Sequence[ParsedRecord], size_bytes: int, options: ProduceOptions) -> bool:
    return (
        len(records) <= REQUEST_RECORDS_MAX
        and size_bytes <= REQUEST_BYTES_MAX
        and options.transaction is None
        and all(record.timestamp is None for record in records)
    )


def _goes_alone(result: AppendedBatch | OttlaError, gathered: _Gathered) -> bool:
    """Whether each request of a batch is to be delivered again by itself."""
    if isinstance(result, AppendedBatch):
        return False
    is_shared = len(gathered.request_ids) > 1
    # Another request may be to blame, or this broker's clock.
    may_go_alone = is_shared or isinstance(result, InvalidTimestampError)
    return may_go_alone and result.outcome is Outcome.NOT_APPLIED and not result.retriable


def _part(appended: AppendedBatch, start: int, count: int) -> AppendedBatch:
    """What became of `count` records from `start` on in a batch."""
    # With acks=0 no offset is told.
    base_offset = NO_OFFSET if appended.base_offset == NO_OFFSET else appended.base_offset + start
    return msgspec.structs.replace(appended, base_offset=base_offset, count=count)
