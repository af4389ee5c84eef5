"""What `make start` says once the cluster works, and the process that says it.

honcho stops everything when one process exits, so after the banner this process sleeps until it is
told to stop.
"""

from __future__ import annotations

import http.client
import signal
import time
from typing import TYPE_CHECKING, Final, NoReturn
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

POLL_INTERVAL_S: Final = 0.1
POLL_TIMEOUT_S: Final = 1.0
GRACE_S: Final = 3.0
"""How long the rest may take once a majority is ready."""

PATIENCE_S: Final = 10.0
"""How often to say that we are still waiting."""


class _StopRequestedError(Exception):
    """Raised in the main thread by SIGTERM or SIGINT."""


def show_banner(urls: Sequence[str]) -> None:
    """Wait for a majority of the brokers, print the banner, and sleep until SIGTERM or SIGINT."""
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, _stop)
    try:
        ready = wait_for_majority(urls)
        print(banner_text(urls, ready), flush=True)
        while True:
            signal.pause()
    except _StopRequestedError:
        return


def wait_for_majority(urls: Sequence[str]) -> list[str]:
    """Wait for most brokers, and a little longer for the rest; return those that are ready."""
    majority = len(urls) // 2 + 1
    majority_since_s: float | None = None
    said_s = time.monotonic()
    while True:
        ready = [url for url in urls if is_ready(url)]
        now_s = time.monotonic()
        if len(ready) == len(urls):
            return ready
        if len(ready) < majority:
            majority_since_s = None
        elif majority_since_s is None:
            majority_since_s = now_s
        elif now_s - majority_since_s >= GRACE_S:
            return ready
        if now_s - said_s >= PATIENCE_S:
            said_s = now_s
            missing = ", ".join(url for url in urls if url not in ready)
            print(f"still waiting for {missing}", flush=True)
        time.sleep(POLL_INTERVAL_S)


def is_ready(url: str) -> bool:
    """Whether `GET /readyz` answers 200."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=POLL_TIMEOUT_S)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        # Not up yet, or not whole yet: asked again soon.
        return False
    finally:
        connection.close()


def banner_text(urls: Sequence[str], ready: Sequence[str]) -> str:
    """The banner: what runs, and three lines to paste that create, write and read."""
    first = ready[0]
    json_type = "-H 'Content-Type: application/json'"
    return "\n".join(
        (
            "",
            f"Ottla is ready: {len(ready)} of {len(urls)} brokers.",
            *(f"  {url}" for url in urls),
            "Create a topic, write a record, read it back:",
            f'  curl {first}/v1/topics {json_type} -d \'{{"name":"hello","partitions":1}}\'',
            f"  curl {first}/v1/topics/hello/records {json_type} "
            '-d \'{"records":[{"key":"a","value":{"n":1}}]}\'',
            f"  curl '{first}/v1/topics/hello/partitions/0/records?offset=earliest'",
            f"All calls, with an example each: {first}/docs",
            "Ctrl-C stops everything; the data stays in ./data.",
            "",
        )
    )


def _stop(_signum: int, _frame: FrameType | None) -> NoReturn:
    raise _StopRequestedError
