"""MessagePack calls to the leader of one partition, followed wherever it moves."""

import time
from typing import Any, Final, TypeVar

import msgspec
import urllib3

from ottla_ops.cli.failures import CommandError, ExitCode
from ottla_ops.cli.http_connection import CONNECT_TIMEOUT_S, SOCKET_OPTIONS, HttpConnection
from ottla_protocol import routes
from ottla_protocol.errors import (
    LeaderNotAvailableError,
    MalformedBodyError,
    OttlaError,
    error_from_problem,
)
from ottla_protocol.models import MetadataResponse

ANSWER_TIMEOUT_S: Final = 30.0
"""How long a leader may take over one call."""

RETRY_AFTER_S: Final = 0.1

T = TypeVar("T")


class LeaderCalls:
    """Calls that only a partition's leader answers, each tried again until it does.

    Args:
        connection: tells who leads.
        timeout_s: how long a call may go without an answer that helps.
    """

    def __init__(self, connection: HttpConnection, *, timeout_s: float) -> None:
        self._connection = connection
        self._timeout_s = timeout_s
        self._leaders: dict[tuple[str, int], str] = {}
        self._pool = urllib3.PoolManager(retries=False, socket_options=SOCKET_OPTIONS)

    def call(self, topic: str, partition: int, path: str, body: Any, kind: type[T]) -> T:
        """Send `body` to the partition's leader; sending it twice must do no harm.

        Args:
            topic: its name.
            partition: whose leader is meant.
            path: of the call.
            body: a model, sent as MessagePack.
            kind: the answer's model.

        Raises:
            OttlaError: what the leader answered, if another attempt cannot help, or when the time
                is up.
            CommandError: no broker can be reached, or there is no such topic.
        """
        encoded = msgspec.msgpack.encode(body)
        deadline_s = time.monotonic() + self._timeout_s
        while True:
            try:
                return self._once(topic, partition, path, encoded, kind)
            except OttlaError as error:
                if not error.retriable or time.monotonic() > deadline_s:
                    raise
                self._leaders.pop((topic, partition), None)
                leader_url = error.members.get("leader_url")
                if isinstance(leader_url, str):
                    self._leaders[topic, partition] = leader_url
            time.sleep(RETRY_AFTER_S)

    def close(self) -> None:
        """Close the idle connections."""
        self._pool.clear()

    def _once(self, topic: str, partition: int, path: str, body: bytes, kind: type[T]) -> T:
        url = self._leaders.get((topic, partition)) or self._look_up(topic, partition)
        try:
            response = self._pool.request(
                "POST",
                url + path,
                body=body,
                headers={"User-Agent": "ottla-cli", "Content-Type": routes.MSGPACK},
                timeout=urllib3.Timeout(connect=CONNECT_TIMEOUT_S, read=ANSWER_TIMEOUT_S),
                redirect=False,
            )
        except urllib3.exceptions.HTTPError as error:
            raise LeaderNotAvailableError(f"{url} does not answer: {error}") from error
        if response.status >= 400:
            raise _error_of(response.data, response.status)
        try:
            return msgspec.msgpack.decode(response.data, type=kind)
        except msgspec.DecodeError as error:
            raise MalformedBodyError(f"the answer of {url} is malformed: {error}") from error

    def _look_up(self, topic: str, partition: int) -> str:
        metadata = self._connection.retry(
            lambda: self._connection.request("GET", routes.METADATA, query={"topics": topic}),
            timeout_s=self._timeout_s,
        ).decoded(MetadataResponse)
        partitions = metadata.topics[0].partitions
        if partition >= len(partitions):
            raise CommandError(
                f"there is no partition {partition} of {topic}",
                code="UNKNOWN_TOPIC_OR_PARTITION",
                exit_code=ExitCode.NOT_FOUND,
            )
        leader = partitions[partition].leader
        urls = {broker.id: broker.url for broker in metadata.brokers}
        if leader is None or leader not in urls:
            raise LeaderNotAvailableError(f"{topic}-{partition} has no leader at this moment")
        self._leaders[topic, partition] = urls[leader]
        return urls[leader]


def _error_of(body: bytes, status: int) -> OttlaError:
    try:
        return error_from_problem(msgspec.json.decode(body, type=dict[str, Any]))
    except (msgspec.DecodeError, KeyError, TypeError):
        return LeaderNotAvailableError(f"a broker answered {status}")
