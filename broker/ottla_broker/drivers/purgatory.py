"""Where requests wait: long-polls for data, and acks for the high watermark.

The purgatory bounds how many requests a broker parks at a time (a parked request costs memory and a
connection, not a thread). A request that finds it full is told so at once instead of queueing. When
the broker stops it releases the clients' polls: they answer with what they have.
"""

import asyncio
import heapq
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Protocol

from ottla_broker.drivers.racing import Unless
from ottla_protocol.errors import OttlaError, OverloadedError, UnavailableError

PRUNE_AT_LEAST = 64
"""Waiters on one offset before those that gave up are looked for."""


class Purgatory:
    """Counts parked requests against `limit`."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.parked = 0
        # Those of the parked requests that wait for an acknowledgement.
        self.parked_acks = 0
        self._is_released = False
        # Made when first asked for, because a purgatory may be made before its event loop.
        self._released: asyncio.Future[None] | None = None
        self._polls = Watchers()

    @property
    def is_full(self) -> bool:
        """Whether one more request of a client would be refused."""
        return self.parked >= self.limit

    @contextmanager
    def parked_request(self, *, for_client: bool = True) -> Iterator[None]:
        """Hold a place while the request waits.

        A follower's fetch finds one whatever clients do: there is one at a time of each.

        Raises:
            OverloadedError: `limit` requests are parked already.
        """
        if for_client and self.is_full:
            raise OverloadedError(
                f"{self.limit} requests are waiting already (max_parked_requests)",
                retry_after_seconds=1,
            )
        self.parked += 1
        try:
            yield
        finally:
            self.parked -= 1

    @contextmanager
    def parked_ack(self) -> Iterator[None]:
        """Hold a place for a request that waits until its records are safe.

        Raises:
            OverloadedError: as `parked_request`.
        """
        with self.parked_request():
            self.parked_acks += 1
            try:
                yield
            finally:
                self.parked_acks -= 1

    @property
    def is_released(self) -> bool:
        """Whether clients' polls must not wait any more."""
        return self._is_released

    def release(self) -> None:
        """The broker stops: wake every poll of a client, and let none wait from here on."""
        self._is_released = True
        if self._released is not None and not self._released.done():
            self._released.set_result(None)
        self._polls.wake()

    @contextmanager
    def released_into(self, event: "Watcher") -> Iterator[None]:
        """Set `event` at the release, should it come while the context is open."""
        self._polls.add(event)
        try:
            yield
        finally:
            self._polls.remove(event)

    async def pause(self, wait_ms: int) -> None:
        """Do nothing for so long, or until the release."""
        released = asyncio.Event()
        with self.released_into(released):
            try:
                async with asyncio.timeout(wait_ms / 1000):
                    await released.wait()
            except TimeoutError:
                return

    def unless_released(self) -> Unless:
        """A context for waits for another broker on a client's behalf: the release ends them.

        Raises:
            UnavailableError: on the way out of the context, when that happened.
        """
        if self._released is None:
            self._released = asyncio.get_running_loop().create_future()
            if self._is_released:
                self._released.set_result(None)
        stopping = UnavailableError("this broker is stopping; another one serves the request")
        return Unless(self._released, stopping)


class OffsetWaiters:
    """Futures that resolve once an offset that only grows has reached theirs."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, asyncio.Future[None]]] = []
        # Breaks ties between equal offsets, because futures have no order.
        self._sequence = count()
        self._prune_at = PRUNE_AT_LEAST

    def wait_for(self, offset: int) -> asyncio.Future[None]:
        """A future that `reached(at least offset)` resolves."""
        if len(self._heap) >= self._prune_at:
            self._forget_those_who_left()
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._heap, (offset, next(self._sequence), future))
        return future

    def _forget_those_who_left(self) -> None:
        """Drop waits that timed out, so that an offset that stands still holds no garbage."""
        self._heap = [waiting for waiting in self._heap if not waiting[2].done()]
        heapq.heapify(self._heap)
        self._prune_at = max(PRUNE_AT_LEAST, 2 * len(self._heap))

    def reached(self, offset: int) -> None:
        """Resolve everything that waits for `offset` or less."""
        while self._heap and self._heap[0][0] <= offset:
            future = heapq.heappop(self._heap)[2]
            if not future.done():
                future.set_result(None)

    def fail(self, error: OttlaError, *, above: int = -1) -> None:
        """Fail everything that still waits, or what of that waits for an offset past `above`."""
        failing = [waiting for waiting in self._heap if waiting[0] > above]
        self._heap = [waiting for waiting in self._heap if waiting[0] <= above]
        heapq.heapify(self._heap)
        for _, _, future in failing:
            if not future.done():
                future.set_exception(error)

    @property
    def has_waiting(self) -> bool:
        """Whether anybody still waits."""
        return any(not future.done() for _, _, future in self._heap)

    def __len__(self) -> int:
        return len(self._heap)


class Watcher(Protocol):
    """What is told of a change: an asyncio.Event, or whatever takes note of it."""

    def set(self) -> None:
        """Something changed."""


class Watchers:
    """The long-polls that want to be woken when a partition changes."""

    def __init__(self) -> None:
        # Insertion-ordered, so that polls are woken in the order in which they came.
        self._events: dict[Watcher, None] = {}

    def add(self, event: Watcher) -> None:
        """Set `event` at every change until it is removed."""
        self._events[event] = None

    def remove(self, event: Watcher) -> None:
        """Stop watching; unknown events are ignored."""
        self._events.pop(event, None)

    def wake(self) -> None:
        """Tell every watcher."""
        for event in self._events:
            event.set()
