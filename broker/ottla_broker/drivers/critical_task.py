"""Tasks that the broker cannot live without.

A loop that died of a defect must not leave a process behind that answers but no longer replicates:
the process stops instead, and the supervisor starts a sound one. A cancellation that its owner did
not ask for is such a defect too.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

import structlog

from ottla_broker.request_id import outside_requests
from ottla_broker.storage.disk_full import is_disk_failure, is_out_of_descriptors
from ottla_protocol.errors import InternalError, OttlaError, StorageError

log = structlog.get_logger()


class CriticalTask:
    """Work that runs for as long as the broker lives, or until its owner ends it.

    Args:
        work: ends only by cancellation.
        name: for the log.
        on_failure: told the error that ended it; must stop the process.
    """

    def __init__(
        self,
        work: Coroutine[Any, Any, None],
        *,
        name: str,
        on_failure: Callable[[OttlaError], None],
    ) -> None:
        self._work = work
        self._name = name
        self._on_failure = on_failure
        self._is_unwanted = False
        self._task = asyncio.create_task(self._guarded(), name=name, context=outside_requests())
        self._task.add_done_callback(self._ended)

    def cancel(self) -> None:
        """End the work, without waiting for that."""
        self._is_unwanted = True
        self._task.cancel()

    async def stop(self) -> None:
        """End the work, and wait until it has ended."""
        self.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _guarded(self) -> None:
        try:
            await self._work
        except OttlaError as error:
            self._on_failure(error)
        except Exception as error:
            log.exception("task_failed", task=self._name)
            if is_disk_failure(error) or is_out_of_descriptors(error):
                self._on_failure(StorageError(f"{self._name} failed: {error}"))
            else:
                self._fail(f"{type(error).__name__}: {error}")

    def _ended(self, task: "asyncio.Task[None]") -> None:
        # A task that is cancelled before its first step leaves its work behind unawaited.
        self._work.close()
        if task.cancelled() and not self._is_unwanted:
            log.critical("task_cancelled", task=self._name)
            self._fail("it was cancelled")

    def _fail(self, reason: str) -> None:
        self._on_failure(InternalError(f"{self._name} failed: {reason}"))


async def stop_all(tasks: Iterable[CriticalTask]) -> None:
    """End them at the same time, and wait until they have ended."""
    await asyncio.gather(*(task.stop() for task in tasks))
