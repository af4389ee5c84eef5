"""The CLI's way to the brokers: HTTP to whichever bootstrap URL answers.

Any broker takes any request and forwards it to the leader, so the CLI needs no metadata: it stays
with the first broker that answers and goes on to the next URL when that one fails. What it may
send twice is the caller's knowledge: a read always, a write only with an Idempotency-Key. A refused
connection has carried nothing, so the next URL is tried whatever the request is.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar
from urllib.parse import quote, urlencode

import msgspec
import urllib3
from urllib3.connection import HTTPConnection

from ottla_broker.reset_on_close import RESET_ON_CLOSE
from ottla_ops.cli.bootstrap import parse_bootstrap
from ottla_ops.cli.failures import (
    CommandError,
    ExitCode,
    UnreachableError,
    error_from_answer,
)

T = TypeVar("T")

CONNECT_TIMEOUT_S: Final = 2.0
READ_TIMEOUT_S: Final = 5.0
"""How long a broker may take to answer a plain read; after that the next one is asked."""

WRITE_TIMEOUT_S: Final = 15.0
"""How long a write may take: it waits for the controller, maybe for the election of one."""

CONNECTIONS_PER_BROKER_MAX: Final = 64

SOCKET_OPTIONS: Final = [*HTTPConnection.default_socket_options, RESET_ON_CLOSE]
"""So that a request that was given up does not arrive later."""

RETRY_BACKOFF_FIRST_S: Final = 0.05
RETRY_BACKOFF_MAX_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Answer:
    """A broker's answer with a status below 400."""

    status: int
    body: bytes
    is_repeated: bool = False
    """Whether another broker may have carried the request out before, and did not answer."""

    def document(self) -> dict[str, Any]:
        """The body as a JSON object.

        Raises:
            CommandError: it is none.
        """
        return self.decoded(dict[str, Any])

    def decoded(self, kind: type[T]) -> T:
        """The body as one of the protocol's models.

        Raises:
            CommandError: it is none.
        """
        try:
            return msgspec.json.decode(self.body, type=kind)
        except msgspec.DecodeError as error:
            message = f"the broker's answer is malformed: {error}"
            raise CommandError(message, code="MALFORMED_ANSWER") from error


class HttpConnection:
    """Requests to a cluster, over whichever of its URLs works. Safe for several threads.

    Args:
        bootstrap: base URLs of brokers, comma-separated; `host:port` stands for http.

    Raises:
        CommandError: (usage) a URL of the list is none.
    """

    def __init__(self, bootstrap: str) -> None:
        self.urls = parse_bootstrap(bootstrap)
        self._preferred = 0
        self._has_answered = False
        self._pool = urllib3.PoolManager(
            maxsize=CONNECTIONS_PER_BROKER_MAX, retries=False, socket_options=SOCKET_OPTIONS
        )

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, object] | None = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        answer_timeout_s: float | None = None,
        repeatable: bool | None = None,
    ) -> Answer:
        """Send a request to the preferred broker, then to the others in turn.

        Args:
            method: HTTP method.
            path: path, its variable parts quoted (`path_of`).
            query: query parameters; those that are None are left out.
            body: request body, JSON unless `headers` say otherwise.
            headers: further headers.
            answer_timeout_s: how long each broker may take to answer; by default as long as a plain
                read or write may.
            repeatable: whether sending it twice does no harm; by default true of GET.

        Raises:
            UnreachableError: no URL could be connected to.
            CommandError: the broker refused, or broke off a request that may not be repeated.
        """
        target = path + (f"?{_encode(query)}" if query else "")
        sent_headers = {"User-Agent": "ottla-cli", **(headers or {})}
        if body is not None:
            sent_headers.setdefault("Content-Type", "application/json")
        if answer_timeout_s is None:
            answer_timeout_s = READ_TIMEOUT_S if method == "GET" else WRITE_TIMEOUT_S
        may_repeat = method == "GET" if repeatable is None else repeatable
        reasons: dict[str, str] = {}
        was_sent = False
        first = self._preferred
        for step in range(len(self.urls)):
            index = (first + step) % len(self.urls)
            url = self.urls[index]
            try:
                response = self._pool.request(
                    method,
                    url + target,
                    body=body,
                    headers=sent_headers,
                    timeout=urllib3.Timeout(connect=CONNECT_TIMEOUT_S, read=answer_timeout_s),
                    redirect=False,
                )
            except urllib3.exceptions.HTTPError as error:
                reasons[url] = _reason(error, answer_timeout_s)
                # No connection, nothing sent: refusals and unknown names are of this class too.
                if not isinstance(error, urllib3.exceptions.ConnectTimeoutError):
                    was_sent = True
                    if not may_repeat:
                        break
                continue
            self._preferred = index
            self._has_answered = True
            if response.status >= 400:
                raise error_from_answer(response.status, _document_or_none(response.data))
            return Answer(response.status, response.data, is_repeated=was_sent)
        if not was_sent:
            raise self._unreachable(reasons)
        raise _unanswered(reasons, may_repeat=may_repeat)

    def retry(self, attempt: Callable[[], T], *, timeout_s: float) -> T:
        """Repeat `attempt` while its failure is retriable, with back-off, within `timeout_s`.

        Raises:
            CommandError: the last failure.
        """
        deadline_s = time.monotonic() + timeout_s
        backoff_s = RETRY_BACKOFF_FIRST_S
        while True:
            try:
                return attempt()
            except CommandError as error:
                if not error.retriable or time.monotonic() + backoff_s > deadline_s:
                    raise
            # Another broker may know better: this one may be leaving or cut off.
            self._preferred = (self._preferred + 1) % len(self.urls)
            time.sleep(backoff_s)
            backoff_s = min(2 * backoff_s, RETRY_BACKOFF_MAX_S)

    def close(self) -> None:
        """Close the idle connections."""
        self._pool.clear()

    def _unreachable(self, reasons: Mapping[str, str]) -> UnreachableError:
        return UnreachableError(
            f"no broker can be reached ({_tried(reasons)})",
            code="BROKER_NOT_AVAILABLE",
            exit_code=ExitCode.UNAVAILABLE,
            hint="is the cluster running? --bootstrap, OTTLA_BOOTSTRAP or a context names its URLs",
            retriable=self._has_answered,
            not_applied=True,
        )


def path_of(template: str, **parts: object) -> str:
    """A route with its variable parts filled in and quoted."""
    return template.format(**{name: quote(str(part), safe="") for name, part in parts.items()})


def _unanswered(reasons: Mapping[str, str], *, may_repeat: bool) -> CommandError:
    doubt = "" if may_repeat else "; the request may have been carried out"
    return CommandError(
        f"no answer ({_tried(reasons)}){doubt}",
        code="REQUEST_TIMED_OUT",
        exit_code=ExitCode.UNAVAILABLE,
        retriable=True,
    )


def _tried(reasons: Mapping[str, str]) -> str:
    return "; ".join(f"{url}: {reason}" for url, reason in reasons.items())


def _encode(query: Mapping[str, object]) -> str:
    return urlencode({name: value for name, value in query.items() if value is not None})


def _document_or_none(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except msgspec.DecodeError:
        # Not a broker's answer, or not whole: the status alone has to do.
        return None


def _reason(error: urllib3.exceptions.HTTPError, answer_timeout_s: float) -> str:
    """A few words for a person in place of a chain of exceptions."""
    if isinstance(error, urllib3.exceptions.NameResolutionError):
        return "the name is unknown"
    if isinstance(error, urllib3.exceptions.NewConnectionError):
        refused = isinstance(error.__cause__, ConnectionRefusedError)
        return "connection refused" if refused else str(error).rpartition("] ")[2]
    if isinstance(error, urllib3.exceptions.ConnectTimeoutError):
        return f"no connection within {CONNECT_TIMEOUT_S:g} s"
    if isinstance(error, urllib3.exceptions.ReadTimeoutError):
        return f"no answer within {answer_timeout_s:g} s"
    return "the connection broke"
