"""The brokers of the fake cluster: HTTP requests to answers, in memory and in one step.

They share their partitions, so there is no replication and nothing to wait for. All else is told as
brokers tell it: leaders answer for their partitions and others say 421 with the leader, batches
succeed or fail one by one, and errors are problem documents that say what became of a write.

`Fault`s make requests fail. What stands here is behind one lock; transports call `answer`.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from threading import Lock
from typing import Any, Final, NamedTuple, TypeVar
from urllib.parse import parse_qs, unquote, urlsplit
from uuid import uuid4

import msgspec

from ottla._fake_log import FakePartition
from ottla._transport import BrokerUnreachableError, Response
from ottla_protocol import models, routes
from ottla_protocol.errors import (
    InvalidPartitionsError,
    InvalidReplicationFactorError,
    InvalidRequestError,
    InvalidTopicError,
    LeaderNotAvailableError,
    MalformedBodyError,
    NotFoundError,
    NotLeaderOrFollowerError,
    OttlaError,
    Outcome,
    TopicAlreadyExistsError,
    UnknownTopicOrPartitionError,
)

MAX_PARTITIONS: Final = 1_000
MAX_BROKERS: Final = 100
FIRST_PORT: Final = 7_101
DEFAULT_PARTITIONS: Final = 3

_TOPIC_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,248}")

ModelT = TypeVar("ModelT")


@dataclass(slots=True)
class Fault:
    """Requests that fail.

    Attributes:
        error: what they fail with. BrokerUnreachableError means that no answer comes.
        path: only requests whose path begins with it.
        node_id: only requests to this broker; None is any.
        times: how many requests fail; counts down.
        after_append: do what the request asks, and lose the answer.
    """

    error: OttlaError
    path: str
    node_id: int | None
    times: int
    after_append: bool


class Request(NamedTuple):
    """A request that a broker got, kept for tests to look at."""

    node_id: int
    method: str
    path: str
    body: bytes


@dataclass(slots=True)
class _Topic:
    name: str
    topic_id: str
    partitions: list[FakePartition]
    configs: dict[str, Any]


class FakeBrokers:
    """All brokers of one fake cluster.

    Args:
        count: how many; node ids are 1 to `count`.
    """

    def __init__(self, count: int) -> None:
        if not 1 <= count <= MAX_BROKERS:
            raise InvalidRequestError(f"brokers must be from 1 to {MAX_BROKERS}, not {count}")
        self.urls = {
            node_id: f"http://fake-broker-{node_id}:{FIRST_PORT + node_id - 1}"
            for node_id in range(1, count + 1)
        }
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self._lock = Lock()
        self._stopped: set[int] = set()
        self._topics: dict[str, _Topic] = {}
        self._next_producer_id = 1_000
        self._next_leader = 0
        self._calls: dict[tuple[str, str], Callable[..., Response]] = {
            ("GET", routes.METADATA): self._metadata,
            ("GET", routes.CLUSTER): self._describe_cluster,
            ("GET", routes.BROKERS): self._list_brokers,
            ("GET", routes.TOPICS): self._list_topics,
            ("POST", routes.TOPICS): self._create_topic,
            ("GET", routes.TOPIC): self._describe_topic,
            ("PATCH", routes.TOPIC): self._add_partitions,
            ("DELETE", routes.TOPIC): self._delete_topic,
            ("GET", routes.PARTITION_OFFSETS): self._offsets,
            ("POST", routes.PRODUCER_IDS): self._allocate_producer_id,
            ("POST", routes.PRODUCE): self._produce,
            ("POST", routes.FETCH): self._fetch,
        }

    # --- requests -------------------------------------------------------------------------------

    def answer(self, method: str, url: str, path: str, body: bytes) -> Response:
        """What the broker at `url` answers.

        Raises:
            BrokerUnreachableError: it is stopped, or a fault says so.
        """
        with self._lock:
            node_id = next((each for each, known in self.urls.items() if known == url), None)
            if node_id is None or node_id in self._stopped:
                raise BrokerUnreachableError(
                    f"{url}: connection refused", outcome=Outcome.NOT_APPLIED, refused=True
                )
            self.requests.append(Request(node_id, method, path, body))
            fault = self._fault(node_id, path)
            if fault is not None and not fault.after_append:
                return _failed(fault.error)
            try:
                response = self._answer(node_id, method, path, body)
            except OttlaError as error:
                writes = method != "GET" and not path.startswith(routes.FETCH)
                response = _failed(error.with_outcome(Outcome.NOT_APPLIED) if writes else error)
            return response if fault is None else _failed(fault.error)

    def _fault(self, node_id: int, path: str) -> Fault | None:
        for fault in self.faults:
            if path.startswith(fault.path) and fault.node_id in (None, node_id):
                fault.times -= 1
                if fault.times <= 0:
                    self.faults.remove(fault)
                return fault
        return None

    def _answer(self, node_id: int, method: str, path: str, body: bytes) -> Response:
        parts = urlsplit(path)
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        for (wanted, route), call in self._calls.items():
            # Names are decoded after they are split, so that an encoded slash stays in its name.
            pattern = re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", route)
            match = re.fullmatch(pattern, parts.path)
            if match is not None and wanted == method:
                arguments = {name: unquote(value) for name, value in match.groupdict().items()}
                return call(node_id, query, body, **arguments)
        raise NotFoundError(f"the fake cluster has no {method} {parts.path}")

    # --- what tests do to the cluster -----------------------------------------------------------

    def stop(self, node_id: int) -> None:
        """Refuse connections to this broker and let others lead what it led."""
        with self._lock:
            self._check_broker(node_id)
            self._stopped.add(node_id)
            for partition in self._all_partitions():
                if partition.leader == node_id:
                    live = [each for each in partition.replicas if each not in self._stopped]
                    partition.lead(live[0] if live else None)

    def start(self, node_id: int) -> None:
        """Answer again; lead what has no leader."""
        with self._lock:
            self._check_broker(node_id)
            self._stopped.discard(node_id)
            for partition in self._all_partitions():
                if partition.leader is None and node_id in partition.replicas:
                    partition.lead(node_id)

    def move_leader(self, topic: str, partition: int, node_id: int) -> None:
        """Let another broker lead."""
        with self._lock:
            self._check_broker(node_id)
            self._partition(topic, partition).lead(node_id)

    def partitions(self, topic: str) -> list[FakePartition]:
        """The topic's partitions, to look at."""
        with self._lock:
            return list(self._topic(topic).partitions)

    def _check_broker(self, node_id: int) -> None:
        if node_id not in self.urls:
            raise NotFoundError(f"there is no broker {node_id}, they are 1 to {len(self.urls)}")

    # --- metadata and topics --------------------------------------------------------------------

    def _metadata(self, _node_id: int, query: Mapping[str, str], _body: bytes) -> Response:
        names = [name for name in query.get("topics", "").split(",") if name]
        topics = [self._topic(name) for name in names] if names else self._sorted_topics()
        return _json(
            models.MetadataResponse(
                "fake", self._controller(), 1, self._brokers(), [_describe(each) for each in topics]
            )
        )

    def _describe_cluster(self, _node_id: int, _query: Mapping[str, str], _body: bytes) -> Response:
        partitions = sum(1 for _ in self._all_partitions())
        return _json(
            models.ClusterDescription(
                "fake", self._controller(), 1, 1, 1, self._brokers(), len(self._topics), partitions
            )
        )

    def _list_brokers(self, _node_id: int, _query: Mapping[str, str], _body: bytes) -> Response:
        return _json(models.BrokerList(self._brokers()))

    def _list_topics(self, _node_id: int, _query: Mapping[str, str], _body: bytes) -> Response:
        return _json(models.TopicList([_describe(each) for each in self._sorted_topics()]))

    def _create_topic(self, _node_id: int, _query: Mapping[str, str], body: bytes) -> Response:
        wanted = _parse(body, models.CreateTopicRequest)
        if not _TOPIC_NAME.fullmatch(wanted.name) or wanted.name in (".", ".."):
            raise InvalidTopicError(f"{wanted.name!r} is no name for a topic")
        if wanted.name in self._topics:
            raise TopicAlreadyExistsError(f"topic {wanted.name!r} already exists")
        count = DEFAULT_PARTITIONS if wanted.partitions is None else wanted.partitions
        if not 1 <= count <= MAX_PARTITIONS:
            raise InvalidPartitionsError(f"partitions must be from 1 to {MAX_PARTITIONS}")
        brokers = len(self.urls)
        factor = wanted.replication_factor
        factor = min(3, brokers) if factor is None else factor
        if not 1 <= factor <= brokers:
            raise InvalidReplicationFactorError(f"replication_factor must be from 1 to {brokers}")
        first = self._next_leader
        topic = _Topic(wanted.name, uuid4().hex, [], dict(wanted.configs))
        self._grow(topic, count, factor)
        if wanted.validate_only:
            self._next_leader = first
            return _json(_describe(topic))
        self._topics[topic.name] = topic
        return _json(_describe(topic), 201)

    def _describe_topic(
        self, _node_id: int, _query: Mapping[str, str], _body: bytes, topic: str
    ) -> Response:
        return _json(_describe(self._topic(topic)))

    def _add_partitions(
        self, _node_id: int, _query: Mapping[str, str], body: bytes, topic: str
    ) -> Response:
        found = self._topic(topic)
        total = _parse(body, _PartitionTotal).partitions
        if not len(found.partitions) < total <= MAX_PARTITIONS:
            raise InvalidPartitionsError(
                f"topic {topic!r} has {len(found.partitions)} partitions, not fewer than {total}"
            )
        self._grow(found, total, len(found.partitions[0].replicas))
        return _json(_describe(found))

    def _delete_topic(
        self, _node_id: int, _query: Mapping[str, str], _body: bytes, topic: str
    ) -> Response:
        del self._topics[self._topic(topic).name]
        return Response(204, routes.JSON, b"")

    def _offsets(
        self, _node_id: int, query: Mapping[str, str], _body: bytes, topic: str, partition: str
    ) -> Response:
        found = self._partition(topic, int(partition) if partition.isdecimal() else -1)
        at = query.get("at", "latest")
        if at not in ("latest", "earliest"):
            raise InvalidRequestError(f"at must be latest or earliest, not {at!r}")
        offset = found.end_offset if at == "latest" else 0
        return _json(
            models.OffsetResponse(found.topic, found.partition, offset, found.leader_epoch)
        )

    def _grow(self, topic: _Topic, total: int, factor: int) -> None:
        nodes = list(self.urls)
        for partition in range(len(topic.partitions), total):
            first, self._next_leader = self._next_leader, self._next_leader + 1
            replicas = [nodes[(first + each) % len(nodes)] for each in range(factor)]
            made = FakePartition(topic.name, partition, replicas)
            made.leader = next((each for each in replicas if each not in self._stopped), None)
            topic.partitions.append(made)

    def _topic(self, name: str) -> _Topic:
        topic = self._topics.get(name)
        if topic is None:
            raise UnknownTopicOrPartitionError(f"there is no topic {name!r}")
        return topic

    def _partition(self, topic: str, partition: int) -> FakePartition:
        partitions = self._topic(topic).partitions
        if not 0 <= partition < len(partitions):
            raise UnknownTopicOrPartitionError(f"topic {topic!r} has no partition {partition}")
        return partitions[partition]

    def _all_partitions(self) -> list[FakePartition]:
        return [each for topic in self._topics.values() for each in topic.partitions]

    def _sorted_topics(self) -> list[_Topic]:
        return sorted(self._topics.values(), key=lambda topic: topic.name)

    def _controller(self) -> int | None:
        return min(self.urls.keys() - self._stopped, default=None)

    def _brokers(self) -> list[models.BrokerDescription]:
        return [
            models.BrokerDescription(
                node_id, url, "", "fenced" if node_id in self._stopped else "active", 1
            )
            for node_id, url in self.urls.items()
        ]

    # --- produce and fetch ----------------------------------------------------------------------

    def _allocate_producer_id(
        self, _node_id: int, _query: Mapping[str, str], body: bytes
    ) -> Response:
        _parse(body, models.AllocateProducerIdRequest)
        self._next_producer_id += 1
        return _json(models.ProducerIdentity(self._next_producer_id, 0))

    def _produce(self, node_id: int, _query: Mapping[str, str], body: bytes) -> Response:
        wanted = _unpack(body, models.BinaryProduceRequest)
        if not wanted.batches:
            raise InvalidRequestError("batches must have at least one entry")
        results: list[models.AppendedBatch] = []
        errors: list[OttlaError] = []
        for batch in wanted.batches:
            try:
                appended = self._led(node_id, batch.topic, batch.partition).append(batch.batch)
            except OttlaError as error:
                errors.append(error.with_outcome(Outcome.NOT_APPLIED))
                appended = models.AppendedBatch(
                    batch.topic, batch.partition, -1, 0, -1, error=error.problem()
                )
            if wanted.acks == 0:
                appended = msgspec.structs.replace(appended, base_offset=-1, timestamp=-1)
            results.append(appended)
        if len(errors) == len(results) and len({error.code for error in errors}) == 1:
            raise errors[0]
        return _msgpack(models.BinaryProduceResponse(results), 207 if errors else 200)

    def _fetch(self, node_id: int, _query: Mapping[str, str], body: bytes) -> Response:
        wanted = _unpack(body, models.BinaryFetchRequest)
        results: list[models.FetchedPartition] = []
        errors: list[OttlaError] = []
        for asked in wanted.partitions:
            try:
                partition = self._led(node_id, asked.topic, asked.partition)
                batches = partition.read(asked.offset, asked.max_bytes)
                result = models.FetchedPartition(
                    asked.topic, asked.partition, batches, partition.end_offset, 0
                )
            except OttlaError as error:
                errors.append(error)
                result = models.FetchedPartition(
                    asked.topic, asked.partition, [], -1, -1, error=error.problem()
                )
            results.append(result)
        if errors and len(errors) == len(results) and len({error.code for error in errors}) == 1:
            raise errors[0]
        return _msgpack(models.BinaryFetchResponse(results), 207 if errors else 200)

    def _led(self, node_id: int, topic: str, partition: int) -> FakePartition:
        found = self._partition(topic, partition)
        if found.leader is None:
            raise LeaderNotAvailableError(f"{topic}-{partition} has no leader")
        if found.leader != node_id:
            raise NotLeaderOrFollowerError(
                f"broker {node_id} does not lead {topic}-{partition}, broker {found.leader} does",
                leader=found.leader,
                leader_epoch=found.leader_epoch,
                leader_url=self.urls[found.leader],
            )
        return found


class _PartitionTotal(models.Request, frozen=True):
    partitions: int


def _describe(topic: _Topic) -> models.TopicDescription:
    return models.TopicDescription(
        topic.name,
        topic.topic_id,
        [
            models.PartitionDescription(
                each.partition, each.leader, each.leader_epoch, each.replicas, each.replicas
            )
            for each in topic.partitions
        ],
        topic.configs,
    )


def _parse(body: bytes, model: type[ModelT]) -> ModelT:
    try:
        return msgspec.json.decode(body, type=model)
    except msgspec.ValidationError as error:
        raise InvalidRequestError(str(error)) from error
    except msgspec.DecodeError as error:
        raise MalformedBodyError(str(error)) from error


def _unpack(body: bytes, model: type[ModelT]) -> ModelT:
    try:
        return msgspec.msgpack.decode(body, type=model)
    except msgspec.ValidationError as error:
        raise InvalidRequestError(str(error)) from error
    except msgspec.DecodeError as error:
        raise MalformedBodyError(str(error)) from error


def _json(document: object, status: int = 200) -> Response:
    return Response(status, routes.JSON, msgspec.json.encode(document))


def _msgpack(document: object, status: int) -> Response:
    return Response(status, routes.MSGPACK, msgspec.msgpack.encode(document))


def _failed(error: OttlaError) -> Response:
    if isinstance(error, BrokerUnreachableError):
        raise error
    document = error.problem()
    return Response(document["status"], routes.PROBLEM_JSON, msgspec.json.encode(document))
