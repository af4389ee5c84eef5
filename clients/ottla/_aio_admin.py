"""The admin client for asyncio, over aiohttp."""

import asyncio
import os
from collections.abc import Iterable, Mapping, Sequence
from random import Random
from time import monotonic
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar, Unpack

from ottla import _admin_calls as calls
from ottla._admin_calls import (
    AdminCall,
    At,
    CallAttempts,
    ConfigValue,
    ElectionType,
    TopicPartition,
)
from ottla._config import AdminConfig, AdminOptions
from ottla._errors import ForkedProcessError
from ottla._transport import AiohttpTransport, BrokerUnreachableError, Response
from ottla_protocol import routes
from ottla_protocol.models import (
    BrokerDescription,
    ClusterDescription,
    ElectedPartition,
    OffsetResponse,
    OngoingReassignment,
    ReassignedPartition,
    TopicConfigValue,
    TopicDescription,
)
from ottla_protocol.models_trims import TrimmedPartition

T = TypeVar("T")

_CONNECTIONS_PER_BROKER = 8


class AsyncAdminTransport(Protocol):
    """The way to the brokers, for asyncio."""

    async def request(
        self, method: str, url: str, path: str, body: bytes | None, *, timeout_ms: int
    ) -> Response:
        """Whatever the broker answered; BrokerUnreachableError when it did not."""
        ...

    async def close(self) -> None:
        """Close every connection."""
        ...


class AiohttpAdminTransport(AiohttpTransport):
    """The producer's transport, with every method."""

    async def request(
        self, method: str, url: str, path: str, body: bytes | None, *, timeout_ms: int
    ) -> Response:
        """See `AsyncAdminTransport`."""
        if body is None:
            return await self._call(method, url, path, timeout_ms)
        headers = {"Content-Type": routes.JSON}
        return await self._call(method, url, path, timeout_ms, data=body, headers=headers)


class Admin:
    """Topics, partitions and brokers of a cluster, for asyncio; as `ottla.Admin`.

    Use it on one event loop. Every call ends within `default_api_timeout_ms`. It raises the
    broker's error as its own class, or ClusterUnreachableError naming every broker that was tried.

    Args:
        bootstrap_servers: brokers' addresses, `host:port` or URLs, as a list or with commas.
        transport: takes the place of the network, for tests; it is not closed.
        options: see `AdminConfig`.

    Raises:
        ConfigError: an option is unknown or out of range.
    """

    def __init__(
        self,
        bootstrap_servers: str | Iterable[str] | None = None,
        *,
        transport: AsyncAdminTransport | None = None,
        **options: Unpack[AdminOptions],
    ) -> None:
        given: dict[str, Any] = dict(options)
        if bootstrap_servers is not None:
            given["bootstrap_servers"] = bootstrap_servers
        self._config = AdminConfig.from_options(given)
        self._owns_transport = transport is None
        self._transport: AsyncAdminTransport = transport or AiohttpAdminTransport(
            client_id=self._config.client_id, connections_per_broker=_CONNECTIONS_PER_BROKER
        )
        self._random = Random()
        self._process_id = os.getpid()
        self._first = 0

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], *, transport: AsyncAdminTransport | None = None
    ) -> Self:
        """An admin client of options in Kafka's spelling: `{"bootstrap.servers": ...}`."""
        return cls(transport=transport, **config)

    async def create_topic(
        self,
        name: str,
        partitions: int | None = None,
        replication_factor: int | None = None,
        configs: Mapping[str, ConfigValue] | None = None,
        validate_only: bool = False,  # noqa: FBT001, FBT002  as in Kafka
    ) -> TopicDescription:
        """See `ottla.Admin.create_topic`."""
        return await self._call(
            calls.create_topic(
                name, partitions, replication_factor, configs, validate_only=validate_only
            )
        )

    async def list_topics(self) -> list[TopicDescription]:
        """See `ottla.Admin.list_topics`."""
        return await self._call(calls.list_topics())

    async def describe_topic(self, name: str) -> TopicDescription:
        """See `ottla.Admin.describe_topic`."""
        return await self._call(calls.describe_topic(name))

    async def delete_topic(self, name: str) -> None:
        """See `ottla.Admin.delete_topic`."""
        await self._call(calls.delete_topic(name))

    async def add_partitions(self, name: str, total: int) -> TopicDescription:
        """See `ottla.Admin.add_partitions`."""
        return await self._call(calls.add_partitions(name, total))

    async def describe_configs(self, name: str) -> dict[str, TopicConfigValue]:
        """See `ottla.Admin.describe_configs`."""
        return await self._call(calls.describe_configs(name))

    async def alter_configs(
        self, name: str, configs: Mapping[str, ConfigValue | None]
    ) -> dict[str, TopicConfigValue]:
        """See `ottla.Admin.alter_configs`."""
        return await self._call(calls.alter_configs(name, configs))

    async def elect_leaders(
        self,
        partitions: Iterable[TopicPartition] | None = None,
        type: ElectionType = "preferred",  # noqa: A002  as in Kafka
    ) -> list[ElectedPartition]:
        """See `ottla.Admin.elect_leaders`."""
        return await self._call(calls.elect_leaders(partitions, type))

    async def reassign_partitions(
        self, replicas: Mapping[TopicPartition, Sequence[int] | None]
    ) -> list[ReassignedPartition]:
        """See `ottla.Admin.reassign_partitions`."""
        return await self._call(calls.reassign_partitions(replicas))

    async def list_reassignments(self) -> list[OngoingReassignment]:
        """See `ottla.Admin.list_reassignments`."""
        return await self._call(calls.list_reassignments())

    async def alter_reassignment_throttle(self, bytes_per_second: int | None) -> None:
        """See `ottla.Admin.alter_reassignment_throttle`."""
        await self._call(calls.alter_reassignment_throttle(bytes_per_second))

    async def describe_reassignment_throttle(self) -> int | None:
        """See `ottla.Admin.describe_reassignment_throttle`."""
        return await self._call(calls.describe_reassignment_throttle())

    async def cluster(self) -> ClusterDescription:
        """See `ottla.Admin.cluster`."""
        return await self._call(calls.cluster())

    async def brokers(self) -> list[BrokerDescription]:
        """See `ottla.Admin.brokers`."""
        return await self._call(calls.brokers())

    @calls.arguments_told(calls.OFFSETS_RULE)
    async def offsets(self, topic: str, partition: int, at: At = "latest") -> OffsetResponse:
        """See `ottla.Admin.offsets`."""
        return await self._call(calls.offsets(topic, partition, at))

    @calls.arguments_told(calls.DELETE_RECORDS_RULE)
    async def delete_records(
        self,
        topic: str,
        partition: int,
        *,
        before_offset: int | None = None,
        before_timestamp: int | None = None,
        before_end: bool = False,
        dry_run: bool = False,
    ) -> TrimmedPartition:
        """See `ottla.Admin.delete_records`."""
        return await self._call(
            calls.delete_records(
                topic,
                partition,
                before_offset=before_offset,
                before_timestamp=before_timestamp,
                before_end=before_end,
                dry_run=dry_run,
            )
        )

    async def close(self) -> None:
        """Close the connections."""
        if self._owns_transport:
            await self._transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def _call(self, call: AdminCall[T]) -> T:
        if os.getpid() != self._process_id:
            raise ForkedProcessError("this Admin was made before the process forked")
        attempts = CallAttempts(
            call, self._config, first=self._first, now_ms=monotonic() * 1000, random=self._random
        )
        while True:
            attempt = attempts.next_attempt(monotonic() * 1000)
            if attempt.pause_ms:
                await asyncio.sleep(attempt.pause_ms / 1000)
            try:
                response = await self._transport.request(
                    call.method, attempt.url, call.path, call.body, timeout_ms=attempt.timeout_ms
                )
            except BrokerUnreachableError as error:
                attempts.failed(attempt, error)
                continue
            answer = attempts.answered(attempt, response)
            self._first = attempt.index
            if answer is not None:
                return answer.result
