"""`GET /v1/openapi.json` and `GET /docs`: the API's description, for programs and for people.

Both are made from the tables of operations when somebody asks for the first time, on a thread, and
kept: a broker's API does not change while it runs.
"""

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version as installed_version

import msgspec
from aiohttp import web

from ottla_broker.http.docs_page import CONTENT_SECURITY_POLICY, docs_page
from ottla_broker.http.openapi import openapi_document
from ottla_broker.http.operations import Operation
from ottla_broker.http.query import Query
from ottla_broker.services.heavy_work import on_worker
from ottla_protocol import routes

CACHE_CONTROL = "no-cache"
"""Kept by whoever likes to, and asked for again each time: 304 costs next to nothing."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """One text with its entity tag."""

    body: bytes
    etag: str


class Description:
    """The description of one broker's API, made when it is first asked for.

    Args:
        operations: everything that is described.
        url: of this broker, for examples.
    """

    def __init__(self, operations: Sequence[Operation], url: str) -> None:
        self._operations = operations
        self._url = url
        self._making: asyncio.Task[tuple[Rendered, Rendered]] | None = None

    async def document(self) -> Rendered:
        """The OpenAPI document as JSON."""
        document, _ = await self._made()
        return document

    async def page(self) -> Rendered:
        """The same as a page of HTML."""
        _, page = await self._made()
        return page

    async def _made(self) -> tuple[Rendered, Rendered]:
        # Whoever asks while it is made waits for the same; who goes away does not end it.
        if self._making is None:
            self._making = asyncio.create_task(self._make(), name="describe-the-api")
        return await asyncio.shield(self._making)

    async def _make(self) -> tuple[Rendered, Rendered]:
        return await on_worker(_render, self._operations, self._url)


DESCRIPTION = web.AppKey("description", Description)


async def openapi(request: web.Request) -> web.Response:
    """`GET /v1/openapi.json`."""
    Query(request.query.items(), ())
    return _answer(request, await request.app[DESCRIPTION].document(), routes.JSON)


async def docs(request: web.Request) -> web.Response:
    """`GET /docs`."""
    Query(request.query.items(), ())
    response = _answer(
        request, await request.app[DESCRIPTION].page(), f"{routes.HTML}; charset=utf-8"
    )
    response.headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
    return response


def _render(operations: Sequence[Operation], url: str) -> tuple[Rendered, Rendered]:
    document = openapi_document(operations, version=installed_version("ottla"))
    return (
        _rendered(msgspec.json.encode(document)),
        _rendered(docs_page(document, url).encode()),
    )


def _rendered(body: bytes) -> Rendered:
    return Rendered(body, f'"{hashlib.sha256(body).hexdigest()[:32]}"')


def _answer(request: web.Request, rendered: Rendered, content_type: str) -> web.Response:
    headers = {"ETag": rendered.etag, "Cache-Control": CACHE_CONTROL}
    if is_known(request.headers.get("If-None-Match"), rendered.etag):
        return web.Response(status=304, headers=headers)
    return web.Response(body=rendered.body, headers=headers | {"Content-Type": content_type})


def is_known(if_none_match: str | None, etag: str) -> bool:
    """Whether the client has what `etag` names (RFC 9110 section 13.1.2; weak comparison)."""
    if if_none_match is None:
        return False
    tags = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
    return "*" in tags or etag in tags
