"""HTTP as a test speaks it: one call, one answer, nothing retried and nothing followed."""

import json
from dataclasses import dataclass
from typing import Any

import msgspec
import urllib3

from ottla_protocol import routes
from ottla_protocol.models import (
    BinaryFetchRequest,
    BinaryFetchResponse,
    BinaryProduceRequest,
    BinaryProduceResponse,
)

REQUEST_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Answer:
    """What a broker answered; `text` is kept because JSON numbers must survive as sent."""

    status: int
    headers: urllib3.HTTPHeaderDict
    body: bytes

    @property
    def text(self):
        return self.body.decode()

    @property
    def document(self) -> Any:
        """The body as JSON; of a problem too."""
        return json.loads(self.body)

    @property
    def code(self):
        """The error's code; None where the answer is no problem document."""
        if self.headers.get("Content-Type", "").startswith(routes.PROBLEM_JSON):
            return self.document["code"]
        return None

    def expect(self, status):
        """This answer, which must have `status`."""
        assert self.status == status, f"{self.status} instead of {status}: {self.body[:1000]!r}"
        return self


class HttpClient:
    """A pool of connections; safe to use from several threads."""

    def __init__(self):
        self._pool = urllib3.PoolManager(num_pools=64, maxsize=32, retries=False)

    def close(self):
        self._pool.clear()

    def call(
        self, method, url, document=None, *, body=None, headers=None, timeout_s=REQUEST_TIMEOUT_S,
        **query,
    ) -> Answer:  # fmt: skip
        """Send `document` as JSON, or `body` as it is.

        Raises:
            urllib3.exceptions.HTTPError: no whole answer came.
        """
        sent = dict(headers or {})
        if document is not None:
            body = json.dumps(document)
            sent.setdefault("Content-Type", routes.JSON)
        if query:
            url += "?" + "&".join(f"{name}={value}" for name, value in query.items())
        response = self._pool.request(
            method, url, body=body, headers=sent, timeout=timeout_s, redirect=False
        )
        return Answer(response.status, response.headers, response.data)

    def get(self, url, **arguments) -> Answer:
        return self.call("GET", url, **arguments)

    def post(self, url, document=None, **arguments) -> Answer:
        return self.call("POST", url, document, **arguments)

    def delete(self, url, **arguments) -> Answer:
        return self.call("DELETE", url, **arguments)

    def binary(self, url, request) -> Answer:
        """POST a struct as MessagePack."""
        return self.post(
            url, body=msgspec.msgpack.encode(request), headers={"Content-Type": routes.MSGPACK}
        )

    def binary_produce(self, base_url, batches, **options) -> Answer:
        """`POST /v1/produce`; read the results with `produced`."""
        return self.binary(base_url + routes.PRODUCE, BinaryProduceRequest(batches, **options))

    def binary_fetch(self, base_url, partitions, **options) -> Answer:
        """`POST /v1/fetch`; read the results with `fetched`."""
        return self.binary(base_url + routes.FETCH, BinaryFetchRequest(partitions, **options))


def produced(answer):
    """The results of a binary produce that was answered in MessagePack."""
    return msgspec.msgpack.decode(answer.body, type=BinaryProduceResponse).results


def fetched(answer):
    """The partitions of a binary fetch that was answered in MessagePack."""
    return msgspec.msgpack.decode(answer.body, type=BinaryFetchResponse).partitions
