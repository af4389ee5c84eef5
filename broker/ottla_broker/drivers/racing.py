"""Waits for an answer only for as long as it can still matter.

A process that stands still keeps its connections: whoever asked it waits for the whole time-out,
although the cluster has long replaced it. So calls race against the news that make them pointless.
The news are a future that many calls share: racing one costs a call no task of its own.
"""

import asyncio
from types import TracebackType


class Unless:
    """`with Unless(news, error): await call`: the call is cancelled when `news` is done first.

    Raises:
        Exception: `error`, when that happened, or when `news` was done before the call began.
    """

    def __init__(self, news: "asyncio.Future[None]", error: Exception) -> None:
        self._news = news
        self._error = error
        self._interrupted = False
        # A future that is done calls back in the next turn of the event loop, which may be after
        # the block was left, and the task is busy with something else then.
        self._left = False

    def __enter__(self) -> None:
        if self._news.done():
            raise self._error
        task = asyncio.current_task()
        assert task is not None, "only within a task"
        self._task = task
        self._cancellations = task.cancelling()
        self._news.add_done_callback(self._interrupt)

    def _interrupt(self, _: "asyncio.Future[None]") -> None:
        if not self._left:
            self._interrupted = True
            self._task.cancel()

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._left = True
        self._news.remove_done_callback(self._interrupt)
        if not self._interrupted:
            return
        # As asyncio.timeout does it: somebody else's cancellation of the task must go on.
        others_cancel_too = self._task.uncancel() > self._cancellations
        if exception_type is asyncio.CancelledError and not others_cancel_too:
            raise self._error from exception
