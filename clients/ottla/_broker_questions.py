"""Questions that any broker may answer, asked until one does; and whether one does at all."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Final, Protocol, TypeVar

import msgspec

from ottla._consumer_types import TopicPartition
from ottla._driver import monotonic_ms
from ottla._errors import ClusterUnreachableError
from ottla._fetcher import MAX_CALLS_PER_BROKER
from ottla._futures import Monitor
from ottla._metadata import Metadata
from ottla._position_lookups import MAX_LOOKUPS, decode_offset, offset_path
from ottla._transport import BrokerUnreachableError, Response, Transport, error_of
from ottla_protocol.errors import OttlaError
from ottla_protocol.models import OffsetResponse

Answer = TypeVar("Answer")

CONNECTIONS_PER_BROKER: Final = MAX_CALLS_PER_BROKER + 12
"""Fetches, and beside them heartbeats, commits, metadata and look-ups."""

LOOKUP_TIMEOUT_MS: Final = 5_000
"""How long one broker may take over offsets before another one is asked."""


class ConsumerTransport(Transport, Protocol):
    """The way to the brokers, with every method."""

    async def request(
        self, method: str, url: str, path: str, body: bytes | None, *, timeout_ms: int
    ) -> Response:
        """Send JSON, or nothing; whatever the broker answered."""
        ...


class BrokerReach:
    """Whether brokers answer.

    Attributes:
        was_reached: one has, once.
        silent_since_ms: when one has last.
        reasons: why each URL failed since then; a new dict with each change, as other threads read
            it.
    """

    def __init__(self, now_ms: int) -> None:
        self.was_reached = False
        self.silent_since_ms = now_ms
        self.reasons: dict[str, str] = {}

    def reached(self) -> None:
        """A broker has answered."""
        self.was_reached = True
        self.silent_since_ms = monotonic_ms()
        self.reasons = {}

    def missed(self, url: str, error: OttlaError) -> None:
        """A call has failed; remember it if no broker answered."""
        if isinstance(error, BrokerUnreachableError):
            reasons = dict(self.reasons)
            reasons.pop(url, None)
            # A new one each time: other threads read it.
            self.reasons = {**reasons, url: error.detail.removeprefix(f"{url}: ")}
        else:
            self.reached()


class BrokerQuestions:
    """Asks brokers on behalf of the application; on the driver's loop.

    Args:
        transport: the way to them.
        metadata: who leads what; guarded by the monitor's lock.
        monitor: see above.
        reach: is told of every answer, and of every one that did not come.
        request_timeout_ms: of one request.
        retry_backoff_ms: before the next.
        reads_committed: partitions end where readers of committed records do.
    """

    def __init__(
        self,
        transport: Transport,
        metadata: Metadata,
        monitor: Monitor,
        reach: BrokerReach,
        *,
        request_timeout_ms: int,
        retry_backoff_ms: int,
        reads_committed: bool,
    ) -> None:
        self._transport = transport
        self._metadata = metadata
        self._monitor = monitor
        self._reach = reach
        self._request_timeout_ms = request_timeout_ms
        self._retry_backoff_ms = retry_backoff_ms
        self._reads_committed = reads_committed

    async def ask(
        self,
        path: str,
        decode: Callable[[bytes], Answer],
        timeout_ms: int,
        partition: TopicPartition | None = None,
    ) -> Answer:
        """GET from the partition's leader or any broker, again and again while that may help.

        Raises:
            ClusterUnreachableError: no broker answered in time.
            OttlaError: a broker refused it.
        """
        deadline_ms = monotonic_ms() + timeout_ms
        asked: set[str] = set()
        while True:
            left_ms = deadline_ms - monotonic_ms()
            with self._monitor.lock:
                leader = None if partition is None else self._metadata.leader(*partition)
                url = (
                    self._metadata.any_url()
                    if leader is None or leader.url in asked
                    else leader.url
                )
            try:
                most_ms = min(left_ms, LOOKUP_TIMEOUT_MS, self._request_timeout_ms)
                response = await self._transport.get(url, path, timeout_ms=max(1, most_ms))
                if response.status != 200:
                    raise error_of(response, url)
                self._reach.reached()
                return decode(response.body)
            except OttlaError as error:
                left_ms = deadline_ms - monotonic_ms()
                self._reach.missed(url, error)
                is_unreachable = isinstance(error, BrokerUnreachableError)
                if is_unreachable:
                    asked.add(url)
                if not (error.retriable or is_unreachable):
                    raise
                if left_ms <= self._retry_backoff_ms:
                    if is_unreachable:
                        raise ClusterUnreachableError.after(
                            timeout_ms, self._reach.reasons
                        ) from error
                    raise
            await asyncio.sleep(self._retry_backoff_ms / 1000)

    async def offsets_at(
        self, at: Mapping[TopicPartition, str | int], timeout_ms: int
    ) -> dict[TopicPartition, OffsetResponse]:
        """Where each partition begins, ends, or has its first record of a time.

        Raises:
            OttlaError: as `ask`, for the first that fails.
        """
        gate = asyncio.Semaphore(MAX_LOOKUPS)

        async def one(name: TopicPartition, where: str | int) -> OffsetResponse:
            async with gate:
                path = offset_path(name, where, is_committed=self._reads_committed)
                return await self.ask(path, decode_offset, timeout_ms, name)

        asked = [asyncio.ensure_future(one(name, where)) for name, where in at.items()]
        try:
            return dict(zip(at, await asyncio.gather(*asked), strict=True))
        finally:
            for each in asked:
                each.cancel()


def decoded(decode: Callable[[bytes], Answer], response: Response, url: str) -> Answer:
    """The body of an answer.

    Raises:
        BrokerUnreachableError: it is none of a broker.
    """
    try:
        return decode(response.body)
    except msgspec.MsgspecError as error:
        raise BrokerUnreachableError(f"{url}: not an answer of a broker: {error}") from error
