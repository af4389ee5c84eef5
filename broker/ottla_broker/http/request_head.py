"""The head of a plain POST, parsed strictly; whatever is unusual about it is left to aiohttp.

Two servers that read one request differently are a way to smuggle another one past the first. So
this one takes only heads that leave no room for that: HTTP/1.1, one Content-Length, no
Transfer-Encoding, no Content-Encoding, no Expect, no Upgrade, one Host, and no page of a browser's
behind it. llhttp parses them in both servers.
"""

from dataclasses import dataclass

import httptools

from ottla_protocol import routes

_LEFT_TO_AIOHTTP = frozenset(
    {
        "transfer-encoding",
        "content-encoding",
        "expect",
        "upgrade",
        # What browsers send with a page's request: whether it may is judged in `site_guard`.
        "origin",
        "sec-fetch-site",
    }
)

_REPEATED_LEFT_TO_AIOHTTP = (routes.HEADER_RECORD_PREFIX.lower(), "ce-", "host")
"""Fields that mean something each time, or must not: a mapping keeps only the first."""


@dataclass(frozen=True, slots=True)
class RequestHead:
    """A POST whose body of `content_length` bytes follows.

    `headers` has lower-case names; of a field that is repeated it has the first.
    """

    target: str
    headers: dict[str, str]
    content_length: int
    keep_alive: bool


class _Collector:
    """httptools' callbacks for one head."""

    def __init__(self) -> None:
        self.target = b""
        self.headers: dict[str, str] = {}
        self.is_plain = True

    def on_url(self, target: bytes) -> None:
        self.target += target

    def on_header(self, name: bytes, value: bytes) -> None:
        lowered = name.decode("latin-1").lower()
        if lowered in _LEFT_TO_AIOHTTP or (
            lowered in self.headers and lowered.startswith(_REPEATED_LEFT_TO_AIOHTTP)
        ):
            self.is_plain = False
        # As aiohttp decodes it, so that a value means the same on both ways.
        self.headers.setdefault(lowered, value.decode("utf-8", "surrogateescape"))


def parse_head(head: bytes) -> RequestHead | None:
    """Parse a head with its empty line; None where it is not such a POST."""
    collector = _Collector()
    parser = httptools.HttpRequestParser(collector)
    try:
        parser.feed_data(head)
    except (httptools.HttpParserError, httptools.HttpParserUpgrade):
        return None
    length = collector.headers.get("content-length", "")
    if (
        not collector.is_plain
        or parser.get_method() != b"POST"
        or parser.get_http_version() != "1.1"
        or not (length.isascii() and length.isdigit())
        or not collector.target.isascii()
    ):
        return None
    return RequestHead(
        collector.target.decode("ascii"),
        collector.headers,
        int(length),
        parser.should_keep_alive(),
    )
