"""Tasks that the broker cannot live without.

A loop that died of a defect must not leave a process behind that answers but no longer replicates:
the process stops instead, and the supervisor starts a sound one.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from ottla_protocol.errors import InternalError, OttlaError

log = structlog.get_logger()


def start_critical_task(
    work: Coroutine[Any, Any, None], *, name: str, on_failure: Callable[[OttlaError], None]
) -> "asyncio.Task[None]":
    """Run `work` for as long as the broker lives.

    Args:
        work: ends only by cancellation.
        name: for the log.
        on_failure: told the error that ended it; must stop the process.
    """

    async def guarded() -> None:
        try:
            await work
        except OttlaError as error:
            on_failure(error)
        except Exception as error:
            log.exception("task_failed", task=name)
            on_failure(InternalError(f"{name} failed: {type(error).__name__}: {error}"))

    task = asyncio.create_task(guarded(), name=name)
    # A task that is cancelled before its first step leaves its work behind unawaited.
    task.add_done_callback(lambda _: work.close())
    return task
