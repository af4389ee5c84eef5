"""Threads and locks that are the operating system's own, also in a program patched by gevent.

gevent's monkey patching turns threads into greenlets of one thread. An event loop in such a
greenlet would take that thread from all others, and no second one could run beside it. So there the
sender gets a real thread, a real selector and names resolved by the real resolver; only who waits
for it waits as gevent does, so that other greenlets go on.
"""

import asyncio
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Final

GEVENT_WAIT_S: Final = 0.25
"""The longest that a greenlet waits without looking: with no timer at all, gevent gives up."""


def _original(module: str, name: str) -> Any:
    """What a module had before gevent patched it, or what it has."""
    monkey = sys.modules.get("gevent.monkey")
    if monkey is not None:
        return monkey.get_original(module, name)
    return getattr(__import__(module), name)


def is_patched() -> bool:
    """Whether gevent has replaced threads by greenlets."""
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(monkey.is_module_patched("threading"))


def new_lock() -> Any:
    """A lock between real threads. Nobody waits for anything else while holding one."""
    return _original("_thread", "allocate_lock")()


def thread_id() -> int:
    """The real thread that this code runs on."""
    return int(_original("_thread", "get_ident")())


class _PatchedLoop(asyncio.SelectorEventLoop):
    """An event loop for a real thread in a program patched by gevent."""

    def __init__(self) -> None:
        for name in ("EpollSelector", "KqueueSelector", "SelectSelector"):
            try:
                selector = _original("selectors", name)
            except AttributeError:
                continue
            if selector is not None:
                super().__init__(selector())
                return
        raise RuntimeError("no selector was found behind gevent's")

    async def getaddrinfo(self, host: Any, port: Any, **options: Any) -> Any:
        """Resolve on this very thread: an executor's threads would be greenlets that never run."""
        return _original("socket", "getaddrinfo")(host, port, **options)


def new_event_loop() -> asyncio.AbstractEventLoop:
    """An event loop to be run by `start`."""
    return _PatchedLoop() if is_patched() else asyncio.new_event_loop()


def start(run: Callable[[], None], name: str) -> threading.Event:
    """Run a function on a thread that does not keep the process alive; the event tells its end."""
    ended = threading.Event()

    def running() -> None:
        try:
            run()
        finally:
            ended.set()

    if is_patched():
        _original("_thread", "start_new_thread")(running, ())
    else:
        threading.Thread(target=running, name=name, daemon=True).start()
    return ended


def wait(event: threading.Event, timeout_s: float | None) -> bool:
    """Wait for an event that another thread sets; None waits for ever. True when it was set."""
    if timeout_s is not None:
        timeout_s = min(timeout_s, threading.TIMEOUT_MAX)
    if not is_patched():
        return event.wait(timeout_s)
    deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
    while True:
        remaining_s = GEVENT_WAIT_S if deadline_s is None else deadline_s - time.monotonic()
        if event.wait(max(0.0, min(remaining_s, GEVENT_WAIT_S))):
            return True
        if remaining_s <= 0:
            return False
