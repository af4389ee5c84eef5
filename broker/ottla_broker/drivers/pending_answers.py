"""Answers of a machine that wait for their commit, and who waits for them."""

import asyncio
from collections.abc import Sequence
from typing import Generic, TypeVar

from ottla_cluster.state_machine.runtime import Completed
from ottla_protocol.errors import OttlaError

ResponseT = TypeVar("ResponseT")


class PendingAnswers(Generic[ResponseT]):
    """One future for each request that waits, by its id; bounded by the runtime's limit."""

    def __init__(self) -> None:
        self._waiting: dict[int, asyncio.Future[ResponseT]] = {}

    def expect(self, request_id: int) -> "asyncio.Future[ResponseT]":
        """Where the request's answer will come."""
        waiting: asyncio.Future[ResponseT] = asyncio.get_running_loop().create_future()
        self._waiting[request_id] = waiting
        return waiting

    def forget(self, request_id: int) -> None:
        """Nobody waits for the answer any more."""
        self._waiting.pop(request_id, None)

    def give(self, completed: Sequence[Completed[ResponseT]]) -> None:
        """Hand out answers; those for which nobody waits are dropped."""
        for answer in completed:
            waiting = self._waiting.pop(answer.request_id, None)
            if waiting is None or waiting.done():
                continue
            if isinstance(answer.outcome, OttlaError):
                waiting.set_exception(answer.outcome)
            else:
                waiting.set_result(answer.outcome)
