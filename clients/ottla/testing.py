"""A cluster in memory, for the tests of programs that use Ottla. No sockets, no processes.

    from ottla.testing import FakeCluster

    def test_a_booking_is_announced():
        cluster = FakeCluster()
        cluster.create_topic("bookings", partitions=3)
        with cluster.producer(value_serializer="json") as producer:
            announce(producer, booking)
        [record] = cluster.records("bookings")
        assert record.value == b'{"seat":"12A"}'

Producers and consumers run all of their own code against it: partitioning, batches, retries;
groups, rebalances, commits; transactions. Brokers can be stopped, leaders moved, members declared
silent, and requests made to fail, before or after they are applied.
"""

import asyncio
from collections.abc import Mapping
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple

from ottla._admin import Admin
from ottla._admin_calls import ConfigValue
from ottla._aio_admin import Admin as AsyncAdmin
from ottla._consumer_config import IsolationLevel
from ottla._consumer_types import OffsetAndMetadata, TopicPartition
from ottla._fake_cluster import FakeBrokers, Fault, Request
from ottla._fake_metadata import Unfinished
from ottla._transport import BrokerUnreachableError, Response
from ottla_protocol import routes
from ottla_protocol.errors import OttlaError, Outcome
from ottla_protocol.models import TopicDescription
from ottla_protocol.record_codec import decode_batch

if TYPE_CHECKING:
    from ottla._aio_consumer import Consumer as AsyncConsumer
    from ottla._aio_producer import Producer as AsyncProducer
    from ottla._consumer import Consumer
    from ottla._producer import Producer

__all__ = ["FakeCluster", "FakeRecord"]

LOOK_AGAIN_S = 0.1
"""How often a request that waits looks whether a member's session is over."""

MAX_INFLATED_BYTES = 256 << 20
"""Records of one batch, uncompressed, that `records` takes."""


class FakeRecord(NamedTuple):
    """One record as it stands in the fake cluster's log."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]


class FakeTransport:
    """The way of a producer to the fake brokers; see `FakeCluster.transport`."""

    def __init__(self, cluster: "FakeCluster") -> None:
        self._cluster = cluster

    async def post(
        self,
        url: str,
        path: str,
        body: bytes,
        *,
        timeout_ms: int,
        content_type: str = routes.MSGPACK,  # noqa: ARG002  the port's
    ) -> Response:
        """POST `body`."""
        return await self.request("POST", url, path, body, timeout_ms=timeout_ms)

    async def get(self, url: str, path: str, *, timeout_ms: int) -> Response:
        """GET."""
        return await self.request("GET", url, path, None, timeout_ms=timeout_ms)

    async def request(
        self, method: str, url: str, path: str, body: bytes | None, *, timeout_ms: int
    ) -> Response:
        """Any method."""
        deadline = monotonic() + timeout_ms / 1000
        await asyncio.sleep(min(self._cluster.delay_ms, timeout_ms) / 1000)
        response = await self._cluster.finished_answer(method, url, path, body or b"")
        if monotonic() > deadline:
            raise BrokerUnreachableError(f"{url}: no answer within {timeout_ms} ms")
        return response

    async def close(self) -> None:
        """Nothing is open."""


class FakeAdminTransport:
    """The way of an admin client of threads to the fake brokers."""

    def __init__(self, cluster: "FakeCluster") -> None:
        self._cluster = cluster

    def request(
        self,
        method: str,
        url: str,
        path: str,
        body: bytes | None,
        *,
        timeout_ms: int,  # noqa: ARG002  the port's
    ) -> Response:
        """Any method."""
        return self._cluster.answer(method, url, path, body or b"")

    def close(self) -> None:
        """Nothing is open."""


class FakeCluster:
    """Brokers, topics and records in memory. Threads may share it.

    Args:
        brokers: how many; their node ids are 1 to `brokers`.

    Attributes:
        delay_ms: how long asynchronous requests take before a broker sees them.
    """

    def __init__(self, *, brokers: int = 3) -> None:
        self._brokers = FakeBrokers(brokers)
        self.delay_ms = 0

    # --- clients --------------------------------------------------------------------------------

    @property
    def bootstrap_servers(self) -> tuple[str, ...]:
        """What clients are given, together with a transport."""
        return tuple(self._brokers.urls.values())

    def transport(self) -> FakeTransport:
        """For `Producer(cluster.bootstrap_servers, transport=cluster.transport())`."""
        return FakeTransport(self)

    def producer(self, **options: Any) -> "Producer":
        """A producer of this cluster; options as those of `ottla.Producer`."""
        from ottla._producer import Producer

        return Producer(self.bootstrap_servers, transport=self.transport(), **options)

    def async_producer(self, **options: Any) -> "AsyncProducer":
        """A producer of this cluster; options as those of `ottla.aio.Producer`."""
        from ottla._aio_producer import Producer

        return Producer(self.bootstrap_servers, transport=self.transport(), **options)

    def consumer(self, *topics: str, **options: Any) -> "Consumer":
        """A consumer of this cluster; topics and options as those of `ottla.Consumer`."""
        from ottla._consumer import Consumer

        return Consumer(
            *topics,
            bootstrap_servers=self.bootstrap_servers,
            transport=self.transport(),
            **options,
        )

    def async_consumer(self, *topics: str, **options: Any) -> "AsyncConsumer":
        """A consumer of this cluster; topics and options as those of `ottla.aio.Consumer`."""
        from ottla._aio_consumer import Consumer

        return Consumer(
            *topics,
            bootstrap_servers=self.bootstrap_servers,
            transport=self.transport(),
            **options,
        )

    def admin(self, **options: Any) -> Admin:
        """An admin client of this cluster."""
        return Admin(self.bootstrap_servers, transport=FakeAdminTransport(self), **options)

    def async_admin(self, **options: Any) -> AsyncAdmin:
        """An admin client of this cluster, for asyncio."""
        return AsyncAdmin(self.bootstrap_servers, transport=FakeTransport(self), **options)

    def answer(self, method: str, url: str, path: str, body: bytes) -> Response:
        """What the broker at `url` answers; for transports of your own.

        Raises:
            BrokerUnreachableError: it is stopped, or was told to fail so.
        """
        return self._brokers.answer(method, url, path, body)

    async def finished_answer(self, method: str, url: str, path: str, body: bytes) -> Response:
        """As `answer`, but requests that may wait do: fetches for records, heartbeats for news.

        Raises:
            BrokerUnreachableError: as `answer`.
        """
        version = self._brokers.version
        response = self._brokers.answer(method, url, path, body)
        deadline = monotonic()
        if isinstance(response, Unfinished):
            deadline += response.wait_ms / 1000
        while isinstance(response, Unfinished) and (remaining := deadline - monotonic()) > 0:
            # Sessions end without a request, so look again now and then.
            await self._brokers.wait_for_change(version, min(remaining, LOOK_AGAIN_S))
            version = self._brokers.version
            response = self._brokers.answer(method, url, path, body, is_repeated=True)
        return response

    # --- topics and records ---------------------------------------------------------------------

    def create_topic(
        self,
        name: str,
        partitions: int | None = None,
        replication_factor: int | None = None,
        configs: Mapping[str, ConfigValue] | None = None,
    ) -> TopicDescription:
        """Create a topic; see `ottla.Admin.create_topic`."""
        with self.admin() as admin:
            return admin.create_topic(name, partitions, replication_factor, configs)

    def records(
        self,
        topic: str,
        partition: int | None = None,
        *,
        isolation_level: IsolationLevel = "read_uncommitted",
    ) -> list[FakeRecord]:
        """Every record of a topic or of one partition, by partition and offset.

        With `read_committed` only what is of no transaction, or of a committed one.

        Raises:
            UnknownTopicOrPartitionError: there is no such topic.
        """
        return [
            FakeRecord(topic, each.partition, *(getattr(record, name) for name in _RECORD_FIELDS))
            for each in self._brokers.partitions(topic)
            if partition is None or each.partition == partition
            for batch in each.readable(is_committed=isolation_level == "read_committed")
            for record in decode_batch(batch, max_inflated_bytes=MAX_INFLATED_BYTES)
            if record.offset >= each.start_offset
        ]

    def abort_transaction(self, transactional_id: str) -> None:
        """Abort what a producer has open, as its time-out or an operator does.

        Raises:
            TransactionalIdNotFoundError: no producer has taken the id.
            InvalidTransactionStateError: nothing is open.
        """
        self._brokers.abort_transaction(transactional_id)

    # --- consumer groups ------------------------------------------------------------------------

    def committed(self, group: str) -> dict[TopicPartition, OffsetAndMetadata]:
        """What a group has committed; nothing for a group that never did."""
        return {
            partition: OffsetAndMetadata(each.offset, each.metadata, each.leader_epoch)
            for partition, each in self._brokers.committed(group).items()
        }

    def assignment(self, group: str) -> dict[str, frozenset[TopicPartition]]:
        """What each member of a group may read, by member id."""
        return self._brokers.assignment(group)

    def expire_member(self, group: str, member_id: str) -> None:
        """End a membership as if the member had fallen silent; `assignment` has the ids.

        Raises:
            UnknownMemberIdError: there is no such member.
        """
        self._brokers.expire_member(group, member_id)

    # --- what goes wrong ------------------------------------------------------------------------

    @property
    def requests(self) -> list[Request]:
        """Every request so far: (node id, method, path, body)."""
        return list(self._brokers.requests)

    def fail(
        self,
        error: OttlaError | None = None,
        *,
        path: str = routes.PRODUCE,
        node_id: int | None = None,
        times: int = 1,
        after_append: bool = False,
    ) -> None:
        """Let the next requests fail.

        Args:
            error: what a broker answers; None cuts the connection, so that the outcome is unknown.
            path: only requests to this path, or below it; "" is all.
            node_id: only requests to this broker.
            times: how many.
            after_append: apply the request first, and lose only the answer.
        """
        if error is None:
            error = BrokerUnreachableError("connection reset by the test", outcome=Outcome.UNKNOWN)
        error.with_outcome(Outcome.UNKNOWN if after_append else Outcome.NOT_APPLIED)
        self._brokers.faults.append(Fault(error, path, node_id, times, after_append))

    def stop_broker(self, node_id: int) -> None:
        """Refuse connections to this broker; other replicas lead what it led."""
        self._brokers.stop(node_id)

    def start_broker(self, node_id: int) -> None:
        """Start a broker that was stopped."""
        self._brokers.start(node_id)

    def move_leader(self, topic: str, partition: int, node_id: int) -> None:
        """Let another broker lead the partition; producers learn it from a 421."""
        self._brokers.move_leader(topic, partition, node_id)


_RECORD_FIELDS = ("offset", "timestamp", "key", "value", "headers")
