"""The background thread of a synchronous consumer, which fetches, heartbeats and commits."""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

from ottla import _threads
from ottla._aio_admin import AiohttpAdminTransport
from ottla._broker_questions import CONNECTIONS_PER_BROKER, ConsumerTransport
from ottla._consumer_config import ConsumerConfig
from ottla._consumer_core import ConsumerCore
from ottla._errors import ConsumerClosedError

Answer = TypeVar("Answer")

THREAD_STOP_S: Final = 10.0
"""How long close() waits for the background thread once there is nothing left to do."""

LOOK_INTERVAL_S: Final = 1.0
"""How often a call that waits for the background thread looks whether that has ended."""


class ConsumerThread:
    """The thread and its event loop, with the driver on it.

    It knows nothing of the Consumer, so that one that is dropped can be collected.
    """

    def __init__(self, config: ConsumerConfig, transport: ConsumerTransport | None) -> None:
        self._owns_transport = transport is None
        self.transport: ConsumerTransport = transport or AiohttpAdminTransport(
            client_id=config.client_id, connections_per_broker=CONNECTIONS_PER_BROKER
        )
        self.loop = _threads.new_event_loop()
        self.news = threading.Event()
        self.core = ConsumerCore(config, self.transport, news=self.news, wake=self.wake)
        self._driving: asyncio.Task[None] | None = None
        self.ended = _threads.start(self._run, f"{config.client_id}-fetcher")

    def _run(self) -> None:
        io = self.core.io
        io.monitor.sender_thread_id = _threads.thread_id()
        asyncio.set_event_loop(self.loop)
        self._driving = self.loop.create_task(io.run())
        try:
            self.loop.run_forever()
        finally:
            # Whatever ended the loop, nobody may be left waiting.
            self.core.is_closed = True
            io.abort_commits(ConsumerClosedError("the consumer's thread has ended"))
            self.news.set()
            self.loop.close()

    def wake(self) -> None:
        """Have the driver look again; any thread."""
        try:
            self.loop.call_soon_threadsafe(self.core.io.wake)
        except RuntimeError:
            if not self.loop.is_closed():
                raise

    def tell(self) -> None:
        """Have a poll look again; any thread, and signal handlers.

        The event is set on the loop's thread: a handler may have interrupted a thread that holds
        the lock inside the event.
        """
        try:
            self.loop.call_soon_threadsafe(self.news.set)
        except RuntimeError:
            if not self.loop.is_closed():
                raise

    def call(self, work: Callable[[], Coroutine[Any, Any, Answer]]) -> Answer:
        """Run a coroutine on the driver's loop and wait for it; not on its own thread."""
        ended = threading.Event()
        tasks: list[asyncio.Task[Answer]] = []

        def begin() -> None:
            task = self.loop.create_task(work())
            tasks.append(task)
            task.add_done_callback(lambda _: ended.set())

        try:
            self.loop.call_soon_threadsafe(begin)
        except RuntimeError:
            if self.loop.is_closed():
                raise ConsumerClosedError("the consumer is closed") from None
            raise
        try:
            while not _threads.wait(ended, LOOK_INTERVAL_S):
                if self.ended.is_set() and not ended.is_set():
                    raise ConsumerClosedError("the consumer was closed during the call")
        except KeyboardInterrupt:
            with contextlib.suppress(RuntimeError):
                self.loop.call_soon_threadsafe(lambda: [task.cancel() for task in tasks])
            raise
        return tasks[0].result()

    def stop(self) -> None:
        """End the driver and the thread; any thread but its own."""
        if not self.ended.is_set():
            with contextlib.suppress(ConsumerClosedError):
                self.call(self._finish)
            _threads.wait(self.ended, THREAD_STOP_S)

    def schedule_stop(self) -> None:
        """As `stop`, without waiting for it."""
        try:
            self.loop.call_soon_threadsafe(lambda: self.loop.create_task(self._finish()))
        except RuntimeError:
            if not self.loop.is_closed():
                raise

    async def _finish(self) -> None:
        assert self._driving is not None, "not running"
        self._driving.cancel()
        await asyncio.gather(self._driving, return_exceptions=True)
        if self._owns_transport:
            await self.transport.close()
        self.loop.call_soon(self.loop.stop)
