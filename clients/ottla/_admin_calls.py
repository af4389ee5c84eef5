"""What an admin client asks: each call as an HTTP request and the decoding of its answer. Pure.

Two shells share it, `_admin` over urllib3 and `_aio_admin` over aiohttp. `AdminCall` says what to
send; `CallAttempts` says to which broker, when, and when to give up:

- The brokers are asked in turn, from the one that answered last. Any broker can answer anything.
- An error that may pass is asked about again, at the next broker and then, after a pause, in
  another round. A call that changes something is only repeated when nothing was applied, or when
  doing it twice is the same as once; else the caller is told that the outcome is unknown.
- A round in which no broker could be reached ends the call: ClusterUnreachableError names them all.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from inspect import signature
from random import Random
from typing import Any, Final, Generic, Literal, ParamSpec, TypeAlias, TypeVar
from urllib.parse import quote, urlencode

import msgspec

from ottla._config import AdminConfig
from ottla._consumer_types import partition_of, partitions_of
from ottla._errors import ClusterUnreachableError
from ottla._transport import BrokerUnreachableError, Response, error_of
from ottla_protocol import models, routes
from ottla_protocol.errors import (
    EligibleLeadersNotAvailableError,
    InvalidRequestError,
    InvalidTopicError,
    OttlaError,
    Outcome,
    PreferredLeaderNotAvailableError,
    UnknownTopicIdError,
)
from ottla_protocol.models_trims import TrimmedPartition, TrimPartitionRequest

ConfigValue: TypeAlias = str | int | float | bool
At: TypeAlias = Literal["earliest", "latest"]
ElectionType: TypeAlias = Literal["preferred", "unclean"]
TopicPartition: TypeAlias = tuple[str, int]
"""A topic's name and the number of one of its partitions."""

K = TypeVar("K")
T = TypeVar("T")
P = ParamSpec("P")

OFFSETS_RULE: Final = "it takes a topic, the number of one partition, and at='earliest' or 'latest'"
"""Kafka's clients take a mapping of partitions to where to look."""

DELETE_RECORDS_RULE: Final = (
    "it takes a topic, the number of one partition, and one of before_offset=, before_timestamp= "
    "and before_end="
)
"""Kafka's clients take a mapping of partitions to offsets."""

_JITTER: Final = 0.2
"""A pause is up to this part longer, so that many clients do not come back together."""


@dataclass(frozen=True, slots=True)
class AdminCall(Generic[T]):
    """One call.

    Attributes:
        method, path: of the request; the path has its query.
        decode: the body of a good answer to the result.
        body: JSON, or None for a request without one.
        is_repeatable: doing it twice is the same as once, so it may be repeated after UNKNOWN.
        final_errors: what is a result here, although it may pass some day.
    """

    method: str
    path: str
    decode: Callable[[bytes], T]
    body: bytes | None = None
    is_repeatable: bool = True
    final_errors: tuple[type[OttlaError], ...] = ()


def create_topic(
    name: str,
    partitions: int | None,
    replication_factor: int | None,
    configs: Mapping[str, ConfigValue] | None,
    *,
    validate_only: bool,
) -> AdminCall[models.TopicDescription]:
    """`POST /v1/topics`."""
    request = models.CreateTopicRequest(
        name, partitions, replication_factor, _mapping("configs", configs or {}), validate_only
    )
    return AdminCall(
        "POST",
        routes.TOPICS,
        _decoder(models.TopicDescription),
        _json(request),
        is_repeatable=validate_only,
    )


def list_topics() -> AdminCall[list[models.TopicDescription]]:
    """`GET /v1/topics`."""
    decode = _decoder(models.TopicList)
    return AdminCall("GET", routes.TOPICS, lambda body: decode(body).topics)


def describe_topic(name: str) -> AdminCall[models.TopicDescription]:
    """`GET /v1/topics/{topic}`."""
    return AdminCall("GET", _topic_path(name), _decoder(models.TopicDescription))


def delete_topic(name: str) -> AdminCall[None]:
    """`DELETE /v1/topics/{topic}`."""
    return AdminCall(
        "DELETE",
        _topic_path(name),
        _nothing,
        is_repeatable=False,
        # Another topic has the name by now, and would be the next one to go.
        final_errors=(UnknownTopicIdError,),
    )


def add_partitions(name: str, total: int) -> AdminCall[models.TopicDescription]:
    """`PATCH /v1/topics/{topic}`."""
    return AdminCall(
        "PATCH",
        _topic_path(name),
        _decoder(models.TopicDescription),
        _json(models.AddPartitionsRequest(total)),
        is_repeatable=False,
    )


def describe_configs(name: str) -> AdminCall[dict[str, models.TopicConfigValue]]:
    """`GET /v1/topics/{topic}/configs`."""
    decode = _decoder(models.TopicConfigs)
    return AdminCall("GET", _configs_path(name), lambda body: decode(body).configs)


def alter_configs(
    name: str, configs: Mapping[str, ConfigValue | None]
) -> AdminCall[dict[str, models.TopicConfigValue]]:
    """`PATCH /v1/topics/{topic}/configs`."""
    decode = _decoder(models.TopicConfigs)
    return AdminCall(
        "PATCH",
        _configs_path(name),
        lambda body: decode(body).configs,
        _json(models.AlterTopicConfigsRequest(_mapping("configs", configs))),
    )


def elect_leaders(
    partitions: Iterable[TopicPartition] | None, type_: ElectionType
) -> AdminCall[list[models.ElectedPartition]]:
    """`POST /v1/elections`."""
    decode = _decoder(models.ElectionResponse)
    named = None
    if partitions is not None:
        named = [models.PartitionName(*each) for each in partitions_of(partitions)]
    return AdminCall(
        "POST",
        routes.ELECTIONS,
        lambda body: decode(body).results,
        _json(models.ElectionRequest(type_, named)),
        final_errors=(PreferredLeaderNotAvailableError, EligibleLeadersNotAvailableError),
    )


def reassign_partitions(
    replicas: Mapping[TopicPartition, Sequence[int] | None],
) -> AdminCall[list[models.ReassignedPartition]]:
    """`POST /v1/reassignments`."""
    decode = _decoder(models.ReassignmentResponse)
    wanted = [
        models.PartitionReassignment(*partition_of(each), _node_ids(nodes))
        for each, nodes in _mapping("replicas", replicas).items()
    ]
    return AdminCall(
        "POST",
        routes.REASSIGNMENTS,
        lambda body: decode(body).results,
        _json(models.ReassignmentRequest(wanted)),
    )


def list_reassignments() -> AdminCall[list[models.OngoingReassignment]]:
    """`GET /v1/reassignments`."""
    decode = _decoder(models.ReassignmentList)
    return AdminCall("GET", routes.REASSIGNMENTS, lambda body: decode(body).reassignments)


def alter_reassignment_throttle(bytes_per_second: int | None) -> AdminCall[None]:
    """`POST /v1/reassignments` that moves nothing."""
    request = models.ReassignmentRequest(throttle_bytes_per_second=bytes_per_second)
    return AdminCall("POST", routes.REASSIGNMENTS, _nothing, _json(request))


def describe_reassignment_throttle() -> AdminCall[int | None]:
    """`GET /v1/reassignments`, of which only the throttle is told."""
    decode = _decoder(models.ReassignmentList)
    return AdminCall(
        "GET", routes.REASSIGNMENTS, lambda body: decode(body).throttle_bytes_per_second
    )


def cluster() -> AdminCall[models.ClusterDescription]:
    """`GET /v1/cluster`."""
    return AdminCall("GET", routes.CLUSTER, _decoder(models.ClusterDescription))


def brokers() -> AdminCall[list[models.BrokerDescription]]:
    """`GET /v1/brokers`."""
    decode = _decoder(models.BrokerList)
    return AdminCall("GET", routes.BROKERS, lambda body: decode(body).brokers)


def offsets(topic: str, partition: int, at: At) -> AdminCall[models.OffsetResponse]:
    """`GET /v1/topics/{topic}/partitions/{partition}/offsets`."""
    path = routes.PARTITION_OFFSETS.format(
        topic=_topic_in_path(topic), partition=_partition_in_path(partition)
    )
    return AdminCall("GET", f"{path}?{urlencode({'at': at})}", _decoder(models.OffsetResponse))


def delete_records(
    topic: str,
    partition: int,
    *,
    before_offset: int | None,
    before_timestamp: int | None,
    before_end: bool,
    dry_run: bool,
) -> AdminCall[TrimmedPartition]:
    """`POST /v1/topics/{topic}/partitions/{partition}/trim`."""
    path = routes.PARTITION_TRIM.format(
        topic=_topic_in_path(topic), partition=_partition_in_path(partition)
    )
    request = TrimPartitionRequest(before_offset, before_timestamp, before_end, dry_run)
    # The end, or a time, is another offset when it is asked for again: what was written since, and
    # acknowledged, would go as well.
    return AdminCall(
        "POST",
        path,
        _decoder(TrimmedPartition),
        _json(request),
        is_repeatable=dry_run or before_offset is not None,
        final_errors=(UnknownTopicIdError,),
    )


def arguments_told(rule: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Has a method that is called as another library's of its name tell what it takes.

    Args:
        rule: what it takes.

    Returns:
        A decorator. What it decorates raises InvalidRequestError where arguments are missing, or
        are none of its own.
    """

    def decorate(method: Callable[P, T]) -> Callable[P, T]:
        taken = signature(method)

        @wraps(method)
        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            try:
                taken.bind(*args, **kwargs)
            except TypeError as error:
                raise InvalidRequestError(f"{method.__name__}: {error}; {rule}") from error
            return method(*args, **kwargs)

        return call

    return decorate


class CallAttempts(Generic[T]):
    """Where to send one call next, what an answer means for it, and when to give up. Pure.

    The shell repeats: `next_attempt`, wait, send, then `answered` or `failed`.

    Args:
        call: what is asked.
        config: the client's options.
        first: index of the broker to begin with.
        now_ms: monotonic time.
        random: for the jitter of pauses.
    """

    def __init__(
        self, call: AdminCall[T], config: AdminConfig, *, first: int, now_ms: float, random: Random
    ) -> None:
        self._call = call
        self._config = config
        self._random = random
        self._began_ms = now_ms
        self._deadline_ms = now_ms + config.default_api_timeout_ms
        self._next = first % len(config.bootstrap_servers)
        self._asked_in_round = 0
        self._answers_in_round = 0
        self._rounds = 0
        self._reasons: dict[str, str] = {}
        self._last_error: OttlaError | None = None
        self._may_be_applied = False

    def next_attempt(self, now_ms: float) -> "Attempt":
        """The next broker to ask, and the pause before.

        Raises:
            ClusterUnreachableError: no broker of the last round could be reached.
            OttlaError: the last error that a broker answered, when time or retries are used up.
        """
        servers = self._config.bootstrap_servers
        pause_ms = 0.0
        if self._asked_in_round == len(servers):
            if not self._answers_in_round:
                raise self._unreachable(now_ms)
            if self._rounds >= self._config.retries:
                raise self._final_error(now_ms)
            pause_ms = self._pause_ms()
            self._rounds += 1
            self._asked_in_round = self._answers_in_round = 0
        left_ms = int(self._deadline_ms - now_ms - pause_ms)
        if left_ms <= 0:
            raise self._final_error(now_ms)
        index = self._next
        self._next = (index + 1) % len(servers)
        self._asked_in_round += 1
        return Attempt(
            index, servers[index], pause_ms, min(self._config.request_timeout_ms, left_ms)
        )

    def answered(self, attempt: "Attempt", response: Response) -> "Answer[T] | None":
        """The result of a good answer; None where the call should be attempted again.

        Raises:
            OttlaError: the broker's error, if asking again cannot help or might do harm.
        """
        if 200 <= response.status < 300:
            return Answer(self._call.decode(response.body))
        error = error_of(response, attempt.url)
        self._answers_in_round += 1
        self._last_error = error
        self._reasons[attempt.url] = error.detail
        self._note(error)
        is_final = not error.retriable or isinstance(error, self._call.final_errors)
        if is_final or not self._may_repeat(error):
            raise self._with_outcome(error)
        return None

    def failed(self, attempt: "Attempt", error: BrokerUnreachableError) -> None:
        """No answer came.

        Raises:
            BrokerUnreachableError: the same error, if the call may have been applied.
        """
        self._reasons[attempt.url] = error.detail.removeprefix(f"{attempt.url}: ")
        self._note(error)
        if not self._may_repeat(error):
            raise error

    def _may_repeat(self, error: OttlaError) -> bool:
        return self._call.is_repeatable or error.outcome is Outcome.NOT_APPLIED

    def _note(self, error: OttlaError) -> None:
        if error.outcome is Outcome.UNKNOWN:
            self._may_be_applied = True

    def _with_outcome(self, error: OttlaError) -> OttlaError:
        """The error of the last attempt, which cannot vouch for those before it."""
        if self._may_be_applied and self._call.method != "GET":
            error.outcome = Outcome.UNKNOWN
        return error

    def _pause_ms(self) -> float:
        doubled = self._config.retry_backoff_ms * 2.0 ** min(self._rounds, 32)
        least = min(doubled, max(self._config.retry_backoff_max_ms, self._config.retry_backoff_ms))
        return least * (1 + _JITTER * self._random.random())

    def _final_error(self, now_ms: float) -> OttlaError:
        if self._last_error is None:
            return self._unreachable(now_ms)
        return self._with_outcome(self._last_error)

    def _unreachable(self, now_ms: float) -> ClusterUnreachableError:
        outcome = None
        if self._call.method != "GET":
            outcome = Outcome.UNKNOWN if self._may_be_applied else Outcome.NOT_APPLIED
        return ClusterUnreachableError.after(
            now_ms - self._began_ms, self._reasons, outcome=outcome
        )


@dataclass(frozen=True, slots=True)
class Attempt:
    """Wait `pause_ms`, then ask `url`, which is the broker at `index`, for `timeout_ms` at most."""

    index: int
    url: str
    pause_ms: float
    timeout_ms: int


@dataclass(frozen=True, slots=True)
class Answer(Generic[T]):
    """A call's result, which may itself be None."""

    result: T


def _decoder(model: type[T]) -> Callable[[bytes], T]:
    decode = msgspec.json.Decoder(model).decode

    def checked(body: bytes) -> T:
        try:
            return decode(body)
        except msgspec.DecodeError as error:
            raise BrokerUnreachableError(f"the answer is no {model.__name__}: {error}") from error

    return checked


def _nothing(body: bytes) -> None:
    """The decoding of an answer that has nothing to say."""


def _json(document: Any) -> bytes:
    try:
        return msgspec.json.encode(document)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidRequestError(f"an argument has no JSON: {error}") from error


def _mapping(name: str, given: Mapping[K, T]) -> dict[K, T]:
    """An argument that is a mapping; others would fail in words of their own."""
    if not isinstance(given, Mapping):
        raise InvalidRequestError(f"{name} must be a mapping, not {given!r}", field=name)
    return dict(given)


def _node_ids(replicas: object) -> list[int] | None:
    if replicas is None:
        return None
    if isinstance(replicas, str) or not isinstance(replicas, Iterable):
        raise InvalidRequestError(
            f"the replicas of a partition must be node ids in a sequence, not {replicas!r}",
            field="replicas",
        )
    return list(replicas)


def _topic_path(name: str) -> str:
    return routes.TOPIC.format(topic=_topic_in_path(name))


def _configs_path(name: str) -> str:
    return routes.TOPIC_CONFIGS.format(topic=_topic_in_path(name))


def _topic_in_path(name: object) -> str:
    """The name, quoted; names that would change the path are refused before they are sent."""
    if not isinstance(name, str) or name in ("", ".", ".."):
        raise InvalidTopicError(f"topic name must be text, and none of '', '.', '..', not {name!r}")
    return quote(name, safe="")


def _partition_in_path(number: object) -> int:
    """The number; anything else would be sent as whatever its text is."""
    if not isinstance(number, int) or isinstance(number, bool) or number < 0:
        raise InvalidRequestError(
            f"partition must be a whole number from 0 on, not {number!r}", field="partition"
        )
    return number
