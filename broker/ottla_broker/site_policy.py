"""Under which names a broker answers, and which web pages may call it. Pure.

A browser runs strangers' programs next to everything that its machine can reach. Two of its rules
are of no help to a broker without authentication, so the broker looks for itself:

- A page may be read from a name of its author's whose address is then changed to the broker's (DNS
  rebinding); to the browser both are one site. Only the Host field tells. So a broker answers under
  names that a stranger cannot own: addresses, names without a dot, names below domains that public
  DNS does not have, and those that it was told.
- A page may post to any site a form, or a text, without asking first; only the answer is kept from
  it. Browsers say with such a request where it comes from, and the broker refuses the rest (the
  rules of Go's `http.CrossOriginProtection`). What is no browser sends neither field and passes.

A page of another origin reads answers only if the broker names its origin in them (CORS, the WHATWG
Fetch standard section 3.3); by default it names none.
"""

import ipaddress
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Self

from ottla_protocol import routes
from ottla_protocol.errors import (
    HostNotAllowedError,
    MalformedRequestError,
    OriginNotAllowedError,
)

ANY: Final = "*"
"""In either list: whatever comes."""

UNOWNED_DOMAINS: Final = (".localhost", ".local", ".internal", ".home.arpa", ".test", ".svc")
"""Domains that nobody can buy a name in: RFC 6761, RFC 6762, RFC 8375, ICANN's .internal, and what
Kubernetes calls services within a cluster."""

SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
"""Change nothing; what a page does not get to read of their answers is the browser's to see to."""

_EXPOSED = (
    routes.HEADER_REQUEST_ID,
    routes.HEADER_SERVED_BY,
    routes.HEADER_LEADER,
    routes.HEADER_CURSOR,
    routes.HEADER_NEXT_OFFSET,
    routes.HEADER_HIGH_WATERMARK,
    routes.HEADER_LOG_START_OFFSET,
    routes.HEADER_LAST_STABLE_OFFSET,
    routes.HEADER_OFFSET,
    routes.HEADER_TIMESTAMP,
    routes.HEADER_KEY,
    routes.HEADER_TOMBSTONE,
    "Retry-After",
    "Allow",
    "ETag",
    "Location",
)
EXPOSED_HEADERS: Final = ", ".join(_EXPOSED)
"""Fields of answers that pages may read besides those that every page may."""

ALLOWED_METHODS: Final = "GET, HEAD, POST, PUT, PATCH, DELETE"
PREFLIGHT_MAX_AGE_S: Final = 600
REQUESTED_HEADERS_MAX: Final = 2_048
"""Characters of field names that a preflight may ask for."""

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?")
_LISTED_HOST = re.compile(r"\*|\.?[a-z0-9_-]+(\.[a-z0-9_-]+)*")
_ORIGIN = re.compile(r"\*|null|[a-z][a-z0-9+.-]*://(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:[0-9]{1,5})?")
_FIELD_NAMES = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~, -]*")


@dataclass(frozen=True, slots=True)
class SitePolicy:
    """What a broker was told.

    Attributes:
        hosts: names that it answers under, in lower case; `.example.com` stands for all names
            below example.com, and `*` for every name.
        origins: origins whose pages may call it, as `https://console.example.com`; `*` for all.
    """

    hosts: frozenset[str] = frozenset()
    origins: frozenset[str] = frozenset()

    @classmethod
    def of(
        cls, *, allowed_hosts: Iterable[str], own_urls: Iterable[str], cors_origins: Iterable[str]
    ) -> Self:
        """The policy by the settings and by the URLs under which the cluster's nodes are known."""
        own = {name for url in own_urls if (name := host_name(url.partition("://")[2])) is not None}
        return cls(frozenset(own.union(allowed_hosts)), frozenset(cors_origins))

    def allows_host(self, host: str | None) -> bool:
        """Whether a broker answers under this Host field; it must be there."""
        name = host_name(host) if host is not None else None
        return name is not None and self._allows_name(name)

    def _allows_name(self, name: str) -> bool:
        if name in self.hosts or ANY in self.hosts or is_address(name):
            return True
        if name.rpartition(".")[2].isdigit():
            # Browsers read such a name as an address, and others do not.
            return False
        if "." not in name or name.endswith(UNOWNED_DOMAINS):
            return True
        parents = [name[at:] for at, letter in enumerate(name) if letter == "."]
        return not self.hosts.isdisjoint(parents)

    def check_host(self, host: str | None) -> None:
        """Refuse a request for a host that a stranger may own.

        Raises:
            MalformedRequestError: there is no Host, or none of its form (RFC 9112 section 3.2).
            HostNotAllowedError: the name is not this broker's.
        """
        name = host_name(host) if host is not None else None
        if name is None:
            raise MalformedRequestError("Host must be one name or address, with or without a port")
        if not self._allows_name(name):
            raise HostNotAllowedError(
                f"this broker does not answer as '{name}'; where that is its name, add it to "
                "OTTLA_ALLOWED_HOSTS (--allowed-hosts)"
            )

    def allows_origin(self, origin: str) -> bool:
        """Whether pages of this origin may call the broker."""
        return origin.lower() in self.origins or ANY in self.origins

    def check_origin(self, method: str, headers: Mapping[str, str]) -> None:
        """Refuse what a page of another site has a browser send; `headers` finds lower-case names.

        Raises:
            OriginNotAllowedError: it may change something, and that page is not trusted.
        """
        if method in SAFE_METHODS:
            return
        origin = headers.get("origin")
        if origin is None:
            if headers.get("sec-fetch-site", "none") in ("none", "same-origin"):
                return
            origin = "of another site"
        elif self.allows_origin(origin) or is_same_origin(origin, headers.get("host", "")):
            return
        raise self._refused(origin)

    def preflight(self, headers: Mapping[str, str]) -> dict[str, str]:
        """The fields that answer a browser's question whether a page may send a request.

        Args:
            headers: of an OPTIONS with Origin and Access-Control-Request-Method.

        Raises:
            OriginNotAllowedError: it may not.
        """
        origin = headers.get("origin", "")
        if not self.allows_origin(origin):
            raise self._refused(origin)
        fields = self.cors_headers(origin)
        fields["Access-Control-Allow-Methods"] = ALLOWED_METHODS
        fields["Access-Control-Max-Age"] = str(PREFLIGHT_MAX_AGE_S)
        asked = headers.get("access-control-request-headers", "")
        if asked and len(asked) <= REQUESTED_HEADERS_MAX and _FIELD_NAMES.fullmatch(asked):
            fields["Access-Control-Allow-Headers"] = asked
        if headers.get("access-control-request-private-network") == "true":
            fields["Access-Control-Allow-Private-Network"] = "true"
        return fields

    def cors_headers(self, origin: str | None) -> dict[str, str]:
        """What an answer tells the browser of a page of this origin; nothing where it is refused.

        Never with credentials: a broker has no use for cookies.
        """
        if origin is None or not self.allows_origin(origin):
            return {}
        return {
            "Access-Control-Allow-Origin": ANY if ANY in self.origins else origin,
            "Access-Control-Expose-Headers": EXPOSED_HEADERS,
        }

    @staticmethod
    def _refused(origin: str) -> OriginNotAllowedError:
        return OriginNotAllowedError(
            f"a page {origin if origin.startswith('of ') else f'of {origin!r}'} may not call this "
            "broker; add its origin to OTTLA_CORS_ORIGINS (--cors-origins) where it may"
        )


def host_name(host: str) -> str | None:
    """The name or address in `host:port`, in lower case and without brackets; None if malformed."""
    match = _HOST.fullmatch(host)
    return match.group(1).strip("[]").rstrip(".").lower() or None if match is not None else None


def is_address(name: str) -> bool:
    """Whether this is an IP address, in the one way of writing it."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def is_same_origin(origin: str, host: str) -> bool:
    """Whether a page came from the very host that it calls; a proxy may have taken TLS off."""
    scheme, separator, origin_host = origin.lower().partition("://")
    is_web = scheme in ("http", "https") and bool(separator)
    return is_web and bool(origin_host) and origin_host == host.lower()


def parse_allowed_host(text: str) -> str:
    """One entry of `allowed_hosts`.

    Raises:
        ValueError: it is none; the message says what one looks like.
    """
    entry = text.strip().lower()
    if not _LISTED_HOST.fullmatch(entry):
        raise ValueError(f"'{text}' is no host name without port, no .domain and not *")
    return entry


def parse_origin(text: str) -> str:
    """One entry of `cors_origins`.

    Raises:
        ValueError: it is none; the message says what one looks like.
    """
    entry = text.strip().lower()
    if not _ORIGIN.fullmatch(entry):
        raise ValueError(f"'{text}' is no origin (https://host or https://host:port) and not *")
    return entry
