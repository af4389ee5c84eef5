"""The admin client for threads, over urllib3."""

import os
from collections.abc import Iterable, Mapping, Sequence
from random import Random
from threading import Lock
from time import monotonic, sleep
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar, Unpack, cast

from ottla import _admin_calls as calls
from ottla._admin_calls import (
    AdminCall,
    At,
    CallAttempts,
    ConfigValue,
    ElectionType,
    TopicPartition,
)
from ottla._config import AdminConfig, AdminOptions
from ottla._errors import ForkedProcessError
from ottla._sockets import RESET_ON_CLOSE
from ottla._transport import MAX_RESPONSE_BYTES, BrokerUnreachableError, Response
from ottla_protocol import routes
from ottla_protocol.errors import Outcome
from ottla_protocol.models import (
    BrokerDescription,
    ClusterDescription,
    ElectedPartition,
    OffsetResponse,
    OngoingReassignment,
    ReassignedPartition,
    TopicConfigValue,
    TopicDescription,
)
from ottla_protocol.models_trims import TrimmedPartition

if TYPE_CHECKING:
    import urllib3

T = TypeVar("T")

_CONNECTIONS_PER_BROKER = 8
_CHUNK_BYTES = 64 * 1024


class AdminTransport(Protocol):
    """The way to the brokers, for threads. Several may call at once."""

    def request(
        self, method: str, url: str, path: str, body: bytes | None, *, timeout_ms: int
    ) -> Response:
        """Whatever the broker answered; BrokerUnreachableError when it did not."""
        ...

    def close(self) -> None:
        """Close every connection."""
        ...


class Urllib3Transport:
    """HTTP over urllib3.

    Args:
        client_id: sent as the first word of User-Agent.
    """

    def __init__(self, *, client_id: str) -> None:
        import urllib3
        from urllib3.connection import HTTPConnection

        # A cast, because pyright takes the class's variable for its annotation.
        defaults = cast(list[tuple[int, int, int | bytes]], HTTPConnection.default_socket_options)
        self._pool: urllib3.PoolManager = urllib3.PoolManager(
            maxsize=_CONNECTIONS_PER_BROKER,
            retries=False,
            socket_options=[*defaults, RESET_ON_CLOSE],
            headers={"User-Agent": f"{client_id} ottla-python"},
        )

    def request(
        self, method: str, url: str, path: str, body: bytes | None, *, timeout_ms: int
    ) -> Response:
        """See `AdminTransport`."""
        import urllib3

        deadline = monotonic() + timeout_ms / 1000
        headers = None
        if body is not None:
            headers = {**self._pool.headers, "Content-Type": routes.JSON}
        try:
            answer = self._pool.request(
                method,
                url + path,
                body=body,
                headers=headers,
                timeout=urllib3.Timeout(total=timeout_ms / 1000),
                redirect=False,
                preload_content=False,
            )
            try:
                content = self._read(answer, url, deadline, timeout_ms)
            except BaseException:
                answer.close()
                raise
            answer.release_conn()
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise _unreachable(url, error, timeout_ms) from error
        content_type = answer.headers.get("Content-Type", "").partition(";")[0].strip()
        return Response(answer.status, content_type, content)

    def close(self) -> None:
        """See `AdminTransport`."""
        self._pool.clear()

    def _read(
        self, answer: "urllib3.BaseHTTPResponse", url: str, deadline: float, timeout_ms: int
    ) -> bytes:
        """The body; the timeout of sockets bounds each read, so the whole is bounded here."""
        content = bytearray()
        for chunk in answer.stream(_CHUNK_BYTES):
            content += chunk
            if len(content) > MAX_RESPONSE_BYTES:
                raise BrokerUnreachableError(
                    f"{url}: the answer is over the limit of {MAX_RESPONSE_BYTES} bytes"
                )
            if monotonic() > deadline:
                raise BrokerUnreachableError(f"{url}: no whole answer within {timeout_ms} ms")
        return bytes(content)


def _unreachable(url: str, error: Exception, timeout_ms: int) -> BrokerUnreachableError:
    """What a call without an answer proves."""
    import urllib3.exceptions as failures

    if isinstance(error, failures.NewConnectionError | failures.ConnectTimeoutError):
        cause = error.__cause__
        refused = isinstance(cause, ConnectionRefusedError)
        reason = "connection refused" if refused else str(cause or error)
        return BrokerUnreachableError(
            f"{url}: {reason}", outcome=Outcome.NOT_APPLIED, refused=refused
        )
    if isinstance(error, failures.LocationValueError):
        return BrokerUnreachableError(f"{url}: {error}", outcome=Outcome.NOT_APPLIED)
    if isinstance(error, failures.TimeoutError | TimeoutError):
        return BrokerUnreachableError(f"{url}: no answer within {timeout_ms} ms")
    return BrokerUnreachableError(f"{url}: {str(error) or type(error).__name__}")


class Admin:
    """Topics, partitions and brokers of a cluster, for threads: several may share one.

    Every call ends within `default_api_timeout_ms`. It raises the broker's error as its own class,
    or ClusterUnreachableError naming every broker that was tried.

    Args:
        bootstrap_servers: brokers' addresses, `host:port` or URLs, as a list or with commas.
        transport: takes the place of the network, for tests; it is not closed.
        options: see `AdminConfig`.

    Raises:
        ConfigError: an option is unknown or out of range.
    """

    def __init__(
        self,
        bootstrap_servers: str | Iterable[str] | None = None,
        *,
        transport: AdminTransport | None = None,
        **options: Unpack[AdminOptions],
    ) -> None:
        given: dict[str, Any] = dict(options)
        if bootstrap_servers is not None:
            given["bootstrap_servers"] = bootstrap_servers
        self._config = AdminConfig.from_options(given)
        self._owns_transport = transport is None
        self._transport = transport or Urllib3Transport(client_id=self._config.client_id)
        self._random = Random()
        self._process_id = os.getpid()
        self._lock = Lock()
        self._first = 0

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], *, transport: AdminTransport | None = None
    ) -> Self:
        """An admin client of options in Kafka's spelling: `{"bootstrap.servers": ...}`."""
        return cls(transport=transport, **config)

    def create_topic(
        self,
        name: str,
        partitions: int | None = None,
        replication_factor: int | None = None,
        configs: Mapping[str, ConfigValue] | None = None,
        validate_only: bool = False,  # noqa: FBT001, FBT002  as in Kafka
    ) -> TopicDescription:
        """Create a topic, or with `validate_only` check whether it could be.

        What is left out takes the cluster's default. `warnings` of the result tells what is legal
        but unwise.

        Raises:
            TopicAlreadyExistsError: the name is taken.
            InvalidRequestError: the name, a number or a config breaks a rule.
        """
        return self._call(
            calls.create_topic(
                name, partitions, replication_factor, configs, validate_only=validate_only
            )
        )

    def list_topics(self) -> list[TopicDescription]:
        """Every topic, by name."""
        return self._call(calls.list_topics())

    def describe_topic(self, name: str) -> TopicDescription:
        """One topic: its partitions, leaders, replicas and configs.

        Raises:
            UnknownTopicOrPartitionError: there is none of that name.
        """
        return self._call(calls.describe_topic(name))

    def delete_topic(self, name: str) -> None:
        """Delete a topic with all its records.

        Raises:
            UnknownTopicOrPartitionError: there is none of that name.
            UnknownTopicIdError: it was deleted meanwhile, and another one has its name.
        """
        self._call(calls.delete_topic(name))

    def add_partitions(self, name: str, total: int) -> TopicDescription:
        """Give a topic more partitions, `total` of them in the end.

        Keys go to other partitions from then on; records that are there stay where they are.

        Raises:
            InvalidPartitionsError: the topic has that many already, or `total` is over the limit.
        """
        return self._call(calls.add_partitions(name, total))

    def describe_configs(self, name: str) -> dict[str, TopicConfigValue]:
        """Every config of a topic by name, with whether the topic or the default sets it.

        Raises:
            UnknownTopicOrPartitionError: there is no topic of that name.
        """
        return self._call(calls.describe_configs(name))

    def alter_configs(
        self, name: str, configs: Mapping[str, ConfigValue | None]
    ) -> dict[str, TopicConfigValue]:
        """Set some configs of a topic, or with None return them to their defaults.

        Returns:
            All configs, as they are from now on.

        Raises:
            InvalidConfigError: one is unknown or out of range; then none is changed.
            UnknownTopicOrPartitionError: there is no topic of that name.
        """
        return self._call(calls.alter_configs(name, configs))

    def elect_leaders(
        self,
        partitions: Iterable[TopicPartition] | None = None,
        type: ElectionType = "preferred",  # noqa: A002  as in Kafka
    ) -> list[ElectedPartition]:
        """Give leadership back to the preferred leader, the first replica, where it is in sync.

        Or, with `type="unclean"`, let any replica lead a partition that has no leader: what it
        lacks of the acknowledged records is lost. The topic must allow that by its
        `unclean.leader.election.enable`.

        Args:
            partitions: (topic, partition) each; None is all that their first replica does not lead,
                or for "unclean" all without a leader whose topics allow it.
            type: "preferred" or "unclean".

        Returns:
            What became of each. Where some fail, each has its `error`; where all fail alike, that
            error is raised.
        """
        return self._call(calls.elect_leaders(partitions, type))

    def reassign_partitions(
        self, replicas: Mapping[TopicPartition, Sequence[int] | None]
    ) -> list[ReassignedPartition]:
        """Move partitions to other brokers; they copy the records while all goes on.

        Args:
            replicas: by (topic, partition): the node ids that it is to have, preferred leader
                first; None calls a reassignment off.

        Returns:
            What became of each. Where some fail, each has its `error`; where all fail alike, that
            error is raised.
        """
        return self._call(calls.reassign_partitions(replicas))

    def list_reassignments(self) -> list[OngoingReassignment]:
        """The reassignments under way."""
        return self._call(calls.list_reassignments())

    def alter_reassignment_throttle(self, bytes_per_second: int | None) -> None:
        """Bound what replicas that are being added copy, over all reassignments, from now on.

        Replicas in sync are never held back. The throttle stays until it is taken away: a
        reassignment that is to be slow from its beginning is begun after it was set.

        Args:
            bytes_per_second: what each broker sends them at most; None takes the throttle away.

        Raises:
            InvalidRequestError: the rate is out of bounds.
        """
        self._call(calls.alter_reassignment_throttle(bytes_per_second))

    def describe_reassignment_throttle(self) -> int | None:
        """The throttle in bytes per second from each broker; None where there is none."""
        return self._call(calls.describe_reassignment_throttle())

    def cluster(self) -> ClusterDescription:
        """The cluster: its id, controller and brokers."""
        return self._call(calls.cluster())

    def brokers(self) -> list[BrokerDescription]:
        """The registered brokers, by id."""
        return self._call(calls.brokers())

    @calls.arguments_told(calls.OFFSETS_RULE)
    def offsets(self, topic: str, partition: int, at: At = "latest") -> OffsetResponse:
        """The first offset of a partition ("earliest"), or the next to be readable ("latest").

        Raises:
            UnknownTopicOrPartitionError: there is no such partition.
            InvalidRequestError: an argument is missing, or is none that there is.
        """
        return self._call(calls.offsets(topic, partition, at))

    @calls.arguments_told(calls.DELETE_RECORDS_RULE)
    def delete_records(
        self,
        topic: str,
        partition: int,
        *,
        before_offset: int | None = None,
        before_timestamp: int | None = None,
        before_end: bool = False,
        dry_run: bool = False,
    ) -> TrimmedPartition:
        """Have a partition begin further up: what is before goes for good, for every reader.

        One of the three ends is named. Files go whole, so some of what went may still take room.
        Asked for again with the same offset, nothing changes. A time and the end move on: where it
        is not known whether that was done (`outcome`), it is not asked for again by itself.

        Args:
            topic: whose.
            partition: its number.
            before_offset: the first offset that stays; at most the high watermark.
            before_timestamp: the first record at or after it stays, in ms since the epoch.
            before_end: everything goes that is committed, and of transactions that are over.
            dry_run: only tell what would go.

        Raises:
            OffsetOutOfRangeError: the offset is above the high watermark.
            OffsetNotAvailableError: a transaction below the offset is not over.
            PolicyViolationError: the topic's `cleanup.policy` lacks `delete`.
            InvalidRequestError: not one of the three ends is named, or an argument is missing or
                is none that there is.
            UnknownTopicOrPartitionError: there is no such partition.
            UnknownTopicIdError: it was deleted meanwhile, and another topic has its name.
        """
        return self._call(
            calls.delete_records(
                topic,
                partition,
                before_offset=before_offset,
                before_timestamp=before_timestamp,
                before_end=before_end,
                dry_run=dry_run,
            )
        )

    def close(self) -> None:
        """Close the connections. Calls under way end first."""
        if self._owns_transport:
            self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _call(self, call: AdminCall[T]) -> T:
        if os.getpid() != self._process_id:
            raise ForkedProcessError("this Admin was made before the process forked")
        with self._lock:
            first = self._first
        attempts = CallAttempts(
            call, self._config, first=first, now_ms=monotonic() * 1000, random=self._random
        )
        while True:
            attempt = attempts.next_attempt(monotonic() * 1000)
            if attempt.pause_ms:
                sleep(attempt.pause_ms / 1000)
            try:
                response = self._transport.request(
                    call.method, attempt.url, call.path, call.body, timeout_ms=attempt.timeout_ms
                )
            except BrokerUnreachableError as error:
                attempts.failed(attempt, error)
                continue
            answer = attempts.answered(attempt, response)
            with self._lock:
                self._first = attempt.index
            if answer is not None:
                return answer.result
