"""Reads request bodies within their limits.

aiohttp's own inflating is switched off (it has no cap on the output): `Content-Encoding` is undone
here, bounded. A body that ends early raises before anything is parsed.
"""

import asyncio
from collections.abc import Callable

from aiohttp import web

from ottla_broker.services.heavy_work import on_worker
from ottla_protocol.compression import inflate_content
from ottla_protocol.errors import (
    MalformedBodyError,
    MessageTooLargeError,
    RequestTimedOutError,
    UnsupportedMediaTypeError,
)

CONTENT_ENCODINGS = ("gzip", "zstd")

BODY_BYTES_INFLATED_INLINE = 4 << 10
"""Longer compressed bodies are inflated on a thread: each byte may become a thousand."""

SMALL_BODY_BYTES = 32 << 10
"""A body this small mostly arrives whole, and is read in one step."""


BODY_IDLE_TIMEOUT_MS = 15_000
"""How long a body may stand still before the request is given up."""


def _arrived(_: int) -> None:
    """Nobody counts the bytes."""


async def read_body(
    request: web.Request, limit_bytes: int, arrived: Callable[[int], None] = _arrived
) -> bytes | bytearray:
    """The whole body, inflated.

    Args:
        request: whose body it is.
        limit_bytes: most bytes, as sent and inflated.
        arrived: told the size of each part as it comes; what it raises ends the reading.

    Raises:
        RequestTimedOutError: nothing came for BODY_IDLE_TIMEOUT_MS.
        MessageTooLargeError: it is longer than `limit_bytes`, as sent or inflated.
        UnsupportedMediaTypeError: an encoding other than gzip and zstd.
        MalformedBodyError: the body was cut off, or does not inflate.
    """
    declared = request.content_length
    if declared is not None and declared > limit_bytes:
        raise _too_large(limit_bytes)
    body: bytes | bytearray
    try:
        async with asyncio.timeout(BODY_IDLE_TIMEOUT_MS / 1000) as deadline:
            if declared is not None and 0 < declared <= SMALL_BODY_BYTES:
                body = await request.content.readexactly(declared)
                arrived(declared)
            else:
                body = await _gather(request, limit_bytes, arrived, deadline)
    except TimeoutError:
        raise RequestTimedOutError(
            f"nothing more of the body came for {BODY_IDLE_TIMEOUT_MS} ms"
        ) from None
    except (web.RequestPayloadError, asyncio.IncompleteReadError) as error:
        raise MalformedBodyError(f"the body was cut off: {error}") from error
    encoding = request.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding == "identity":
        return body
    if encoding not in CONTENT_ENCODINGS:
        raise UnsupportedMediaTypeError(
            f"Content-Encoding '{encoding}' is none of: {', '.join(CONTENT_ENCODINGS)}"
        )
    if len(body) <= BODY_BYTES_INFLATED_INLINE:
        return inflate_content(encoding, body, limit_bytes)
    return await on_worker(inflate_content, encoding, body, limit_bytes)


async def _gather(
    request: web.Request,
    limit_bytes: int,
    arrived: Callable[[int], None],
    deadline: asyncio.Timeout,
) -> bytearray:
    """A body of any length in one piece of memory of its own, which its batches may stay in."""
    # Joined once: a growing bytearray would be copied again and again.
    chunks: list[bytes] = []
    size_bytes = 0
    clock = asyncio.get_running_loop().time
    async for chunk in request.content.iter_any():
        deadline.reschedule(clock() + BODY_IDLE_TIMEOUT_MS / 1000)
        arrived(len(chunk))
        chunks.append(chunk)
        size_bytes += len(chunk)
        if size_bytes > limit_bytes:
            raise _too_large(limit_bytes)
    return bytearray().join(chunks)


def _too_large(limit_bytes: int) -> MessageTooLargeError:
    return MessageTooLargeError(
        f"the body is over this call's limit of {limit_bytes} bytes", limit_bytes=limit_bytes
    )
