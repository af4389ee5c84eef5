"""Reads request bodies within their limits.

aiohttp's own inflating is switched off (it has no cap on the output): `Content-Encoding` is undone
here, bounded. A body that ends early raises before anything is parsed.
"""

import asyncio
from collections.abc import Callable

from aiohttp import web

from ottla_broker.http.context import context_of
from ottla_broker.http.deadlines import (
    BODY_BYTES_PER_S_MIN,
    BODY_GRACE_S,
    RECEIVE_IDLE_S,
    body_deadline_s,
)
from ottla_broker.services.heavy_work import on_worker
from ottla_protocol.compression import inflate_content
from ottla_protocol.errors import (
    MalformedBodyError,
    MessageTooLargeError,
    RequestNotReceivedError,
    UnsupportedMediaTypeError,
)

CONTENT_ENCODINGS = ("gzip", "zstd")

BODY_BYTES_INFLATED_INLINE = 4 << 10
"""Longer compressed bodies are inflated on a thread: each byte may become a thousand."""

SMALL_BODY_BYTES = 32 << 10
"""A body this small mostly arrives whole, and is read in one step."""


def uncounted(_: int) -> None:
    """For `arrived` of `read_body`: a member of the cluster sends it, nobody counts the bytes."""


async def read_body(
    request: web.Request, limit_bytes: int, arrived: Callable[[int], None] | None = None
) -> bytes | bytearray:
    """The whole body, inflated.

    Args:
        request: whose body it is.
        limit_bytes: most bytes, as sent and inflated.
        arrived: told the size of each part as it comes, and what inflating has added; what it
            raises ends the reading. If None, bytes count as those of `other_bodies` until all of
            them are there.

    Raises:
        RequestNotReceivedError: nothing came for RECEIVE_IDLE_S, or too little for too long.
        OverloadedError: too much is being received already.
        MessageTooLargeError: it is longer than `limit_bytes`, as sent or inflated.
        UnsupportedMediaTypeError: an encoding other than gzip and zstd.
        MalformedBodyError: the body was cut off, or does not inflate.
    """
    if arrived is None:
        with context_of(request).other_bodies.hold() as held:
            return await _read(request, limit_bytes, held.grow)
    return await _read(request, limit_bytes, arrived)


async def _read(
    request: web.Request, limit_bytes: int, arrived: Callable[[int], None]
) -> bytes | bytearray:
    declared = request.content_length
    if declared is not None and declared > limit_bytes:
        raise _too_large(limit_bytes)
    body: bytes | bytearray
    try:
        async with asyncio.timeout(RECEIVE_IDLE_S) as deadline:
            if declared is not None and 0 < declared <= SMALL_BODY_BYTES:
                body = await request.content.readexactly(declared)
                arrived(declared)
            else:
                body = await _gather(request, limit_bytes, arrived, deadline)
    except TimeoutError:
        raise slow_body() from None
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
        inflated = inflate_content(encoding, body, limit_bytes)
    else:
        inflated = await on_worker(inflate_content, encoding, body, limit_bytes)
    arrived(max(0, len(inflated) - len(body)))
    return inflated


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
    began_s = clock()
    async for chunk in request.content.iter_any():
        arrived(len(chunk))
        chunks.append(chunk)
        size_bytes += len(chunk)
        if size_bytes > limit_bytes:
            raise _too_large(limit_bytes)
        deadline.reschedule(min(clock() + RECEIVE_IDLE_S, body_deadline_s(began_s, size_bytes)))
    return bytearray().join(chunks)


def slow_body() -> RequestNotReceivedError:
    """Why a body is given up."""
    return RequestNotReceivedError(
        f"nothing more of the body came for {RECEIVE_IDLE_S:.0f} s, or less than "
        f"{BODY_BYTES_PER_S_MIN} bytes/s for longer than {BODY_GRACE_S:.0f} s"
    )


def _too_large(limit_bytes: int) -> MessageTooLargeError:
    return MessageTooLargeError(
        f"the body is over this call's limit of {limit_bytes} bytes", limit_bytes=limit_bytes
    )
