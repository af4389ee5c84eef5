"""The loop that drives pure machines: poll them, do what they ask for, report back, poll again.

It lives on one event loop: that of an asyncio client's caller, or that of a synchronous client's
background thread. A defect in it must not leave anybody waiting: whatever ends the loop is told to
every call that is waiting and to every later one.
"""

import asyncio
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Coroutine
from typing import Any

from ottla_protocol.errors import InternalError, OttlaError


def monotonic_ms() -> int:
    """Milliseconds of the monotonic clock."""
    return time.monotonic_ns() // 1_000_000


class Driver(ABC):
    """One client's driver.

    Args:
        client: "producer" or "consumer", for messages.

    Attributes:
        defect: what ended the loop although it should never end; None while all is well.
    """

    def __init__(self, client: str) -> None:
        self.defect: BaseException | None = None
        self._client = client
        self._awake = asyncio.Event()
        # Strong references: the event loop keeps only weak ones to its tasks.
        self._tasks: set[asyncio.Task[None]] = set()

    @abstractmethod
    def _poll_once(self) -> int | None:
        """Ask the machines what is due and start it; returns when to ask again, None is never."""

    @abstractmethod
    def _fail_all(self, failure: OttlaError) -> None:
        """The loop has ended by a defect: fail whatever is waiting."""

    def wake(self) -> None:
        """Poll soon; on the driver's loop only."""
        self._awake.set()

    async def run(self) -> None:
        """Drive until cancelled, or until a defect."""
        loop = asyncio.get_running_loop()
        try:
            while self.defect is None:
                self._awake.clear()
                next_poll_ms = self._poll_once()
                timer = None
                if next_poll_ms is not None:
                    delay_s = max(0, next_poll_ms - monotonic_ms()) / 1000
                    timer = loop.call_later(delay_s, self._awake.set)
                await self._awake.wait()
                if timer is not None:
                    timer.cancel()
        except Exception as error:  # noqa: BLE001 - whatever it is, nobody may be left waiting
            self.defect = error
        finally:
            for task in self._tasks:
                task.cancel()
            if self.defect is not None:
                logging.getLogger(f"ottla.{self._client}").critical(
                    "%s stopped by a defect", self._client, exc_info=self.defect
                )
                self._fail_all(self.failure())

    def failure(self) -> OttlaError:
        """The error of every call after a defect."""
        failure = InternalError(f"the {self._client} stopped by a defect: {self.defect!r}")
        failure.__cause__ = self.defect
        return failure

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        """Do this beside everything else; an exception out of it is a defect."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (defect := task.exception()) is not None:
            self.defect = defect
        self._awake.set()
