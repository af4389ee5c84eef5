"""The fake cluster's brokers, topics and leaders, and the calls that read and change them.

Each call takes a request's query and body and returns the answer, or raises what a broker would
answer. `_fake_cluster` holds the lock around all of them.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar
from uuid import uuid4

import msgspec

from ottla._fake_log import FakePartition
from ottla._transport import Response
from ottla_protocol import models, routes
from ottla_protocol.broken_rules import broken_rule, malformation
from ottla_protocol.counted_nouns import counted
from ottla_protocol.errors import (
    EligibleLeadersNotAvailableError,
    InvalidPartitionsError,
    InvalidReplicaAssignmentError,
    InvalidReplicationFactorError,
    InvalidRequestError,
    InvalidTopicError,
    MalformedBodyError,
    NoReassignmentInProgressError,
    NotFoundError,
    OffsetNotAvailableError,
    OffsetOutOfRangeError,
    OttlaError,
    Outcome,
    PolicyViolationError,
    PreferredLeaderNotAvailableError,
    TopicAlreadyExistsError,
    UnknownTopicOrPartitionError,
)
from ottla_protocol.missing_partitions import missing_partition
from ottla_protocol.models_trims import TrimmedPartition, TrimPartitionRequest, require_one_end

MAX_PARTITIONS: Final = 2_000
DEFAULT_PARTITIONS: Final = 3
CLEANUP_POLICY: Final = "cleanup.policy"
UNCLEAN_ELECTION: Final = "unclean.leader.election.enable"

_TOPIC_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,248}")

ModelT = TypeVar("ModelT")


@dataclass(frozen=True, slots=True)
class Unfinished(Response):
    """An answer that may become another within `wait_ms`, if the request is asked again."""

    wait_ms: int


@dataclass(slots=True)
class _Topic:
    name: str
    topic_id: str
    partitions: list[FakePartition]
    configs: dict[str, Any]


class FakeMetadata:
    """Brokers, topics and leaders.

    Args:
        urls: base URLs of the brokers by node id.
    """

    def __init__(self, urls: Mapping[int, str]) -> None:
        self.urls = dict(urls)
        self.stopped: set[int] = set()
        self.topics: dict[str, _Topic] = {}
        self._next_leader = 0
        self._throttle_bytes_per_second: int | None = None
        self.calls: dict[tuple[str, str], Callable[..., Response]] = {
            ("GET", routes.METADATA): self._metadata,
            ("GET", routes.CLUSTER): self._describe_cluster,
            ("GET", routes.BROKERS): self._list_brokers,
            ("GET", routes.TOPICS): self._list_topics,
            ("POST", routes.TOPICS): self._create_topic,
            ("GET", routes.TOPIC): self._describe_topic,
            ("PATCH", routes.TOPIC): self._add_partitions,
            ("DELETE", routes.TOPIC): self._delete_topic,
            ("GET", routes.TOPIC_CONFIGS): self._describe_configs,
            ("PATCH", routes.TOPIC_CONFIGS): self._alter_configs,
            ("GET", routes.PARTITION_OFFSETS): self._offsets,
            ("POST", routes.PARTITION_TRIM): self._trim,
            ("POST", routes.ELECTIONS): self._elect,
            ("GET", routes.REASSIGNMENTS): self._list_reassignments,
            ("POST", routes.REASSIGNMENTS): self._reassign,
        }

    def check_broker(self, node_id: int) -> None:
        """Raise NotFoundError if there is no such broker."""
        if node_id not in self.urls:
            raise NotFoundError(f"there is no broker {node_id}, they are 1 to {len(self.urls)}")

    def _metadata(self, _node_id: int, query: Mapping[str, str], _body: bytes) -> Response:
        names = [name for name in query.get("topics", "").split(",") if name]
        topics = [self.topic(name) for name in names] if names else self._sorted_topics()
        return json_answer(
            models.MetadataResponse(
                "fake", self._controller(), 1, self._brokers(), [_describe(each) for each in topics]
            )
        )

    def _describe_cluster(self, _node_id: int, _query: Mapping[str, str], _body: bytes) -> Response:
        partitions = sum(1 for _ in self.all_partitions())
        return json_answer(
            models.ClusterDescription(
                "fake", self._controller(), 1, 1, 1, self._brokers(), len(self.topics), partitions
            )
        )

    def _list_brokers(self, _node_id: int, _query: Mapping[str, str], _body: bytes) -> Response:
        return json_answer(models.BrokerList(self._brokers()))

    def _list_topics(self, _node_id: int, _query: Mapping[str, str], _body: bytes) -> Response:
        return json_answer(models.TopicList([_describe(each) for each in self._sorted_topics()]))

    def _create_topic(self, _node_id: int, _query: Mapping[str, str], body: bytes) -> Response:
        wanted = parse_json(body, models.CreateTopicRequest)
        if not _TOPIC_NAME.fullmatch(wanted.name) or wanted.name in (".", ".."):
            raise InvalidTopicError(f"{wanted.name!r} is no name for a topic", field="name")
        if wanted.name in self.topics:
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
            return json_answer(_describe(topic))
        self.topics[topic.name] = topic
        return json_answer(_describe(topic), 201)

    def _describe_topic(
        self, _node_id: int, _query: Mapping[str, str], _body: bytes, topic: str
    ) -> Response:
        return json_answer(_describe(self.topic(topic)))

    def _add_partitions(
        self, _node_id: int, _query: Mapping[str, str], body: bytes, topic: str
    ) -> Response:
        found = self.topic(topic)
        total = parse_json(body, models.AddPartitionsRequest).partitions
        if not len(found.partitions) < total <= MAX_PARTITIONS:
            raise InvalidPartitionsError(
                f"topic {topic!r} has {counted(len(found.partitions), 'partition')}, not fewer "
                f"than {total}"
            )
        self._grow(found, total, len(found.partitions[0].replicas))
        return json_answer(_describe(found))

    def _delete_topic(
        self, _node_id: int, _query: Mapping[str, str], _body: bytes, topic: str
    ) -> Response:
        del self.topics[self.topic(topic).name]
        return Response(204, routes.JSON, b"")

    def _describe_configs(
        self, _node_id: int, _query: Mapping[str, str], _body: bytes, topic: str
    ) -> Response:
        configs = self.topic(topic).configs
        told = {name: models.TopicConfigValue(value, "topic") for name, value in configs.items()}
        return json_answer(models.TopicConfigs(topic, told))

    def _alter_configs(
        self, node_id: int, query: Mapping[str, str], body: bytes, topic: str
    ) -> Response:
        configs = self.topic(topic).configs
        for name, value in parse_json(body, models.AlterTopicConfigsRequest).configs.items():
            if value is None:
                configs.pop(name, None)
            else:
                configs[name] = value
        return self._describe_configs(node_id, query, body, topic)

    def _elect(self, _node_id: int, _query: Mapping[str, str], body: bytes) -> Response:
        wanted = parse_json(body, models.ElectionRequest)
        if wanted.type == "unclean":
            return self._elect_uncleanly(wanted.partitions)
        named = wanted.partitions
        if named is None:
            found = [each for each in self.all_partitions() if each.leader != each.replicas[0]]
        else:
            found = [self.partition(each.topic, each.partition) for each in named]
        results: list[models.ElectedPartition] = []
        errors: list[OttlaError] = []
        for partition in found:
            preferred, before, problem = partition.replicas[0], partition.leader, None
            if preferred in self.stopped:
                error = PreferredLeaderNotAvailableError(
                    f"broker {preferred}, the preferred leader of {partition.name}, is stopped",
                    outcome=Outcome.NOT_APPLIED,
                )
                errors.append(error)
                problem = error.problem()
            else:
                partition.lead(preferred)
            elected = partition.leader != before
            results.append(
                models.ElectedPartition(
                    partition.topic, partition.partition, partition.leader, elected, problem
                )
            )
        raise_shared(errors, len(results))
        return json_answer(models.ElectionResponse(results), 207 if errors else 200)

    def _elect_uncleanly(self, named: list[models.PartitionName] | None) -> Response:
        """All replicas here hold the same records, so nothing is lost by it."""
        if named is None:
            found = [each for each in self.all_partitions() if each.leader is None]
        else:
            found = [self.partition(each.topic, each.partition) for each in named]
        results: list[models.ElectedPartition] = []
        errors: list[OttlaError] = []
        for partition in found:
            before, problem = partition.leader, None
            live = [node_id for node_id in partition.replicas if node_id not in self.stopped]
            configs = self.topic(partition.topic).configs
            error: OttlaError | None = None
            if before is None and configs.get(UNCLEAN_ELECTION) not in (True, "true"):
                error = PolicyViolationError(
                    f"{UNCLEAN_ELECTION} is false for the topic {partition.topic!r}",
                    outcome=Outcome.NOT_APPLIED,
                )
            elif before is None and not live:
                error = EligibleLeadersNotAvailableError(
                    f"no replica of {partition.name} is running", outcome=Outcome.NOT_APPLIED
                )
            elif before is None:
                partition.lead(live[0])
            if error is not None:
                errors.append(error)
                problem = error.problem()
            results.append(
                models.ElectedPartition(
                    partition.topic,
                    partition.partition,
                    partition.leader,
                    partition.leader != before,
                    problem,
                )
            )
        raise_shared(errors, len(results))
        return json_answer(models.ElectionResponse(results), 207 if errors else 200)

    def _list_reassignments(
        self, _node_id: int, _query: Mapping[str, str], _body: bytes
    ) -> Response:
        return json_answer(models.ReassignmentList([], self._throttle_bytes_per_second))

    def _reassign(self, _node_id: int, _query: Mapping[str, str], body: bytes) -> Response:
        """Reassignments are done at once: there is nothing to copy, so a throttle is only kept."""
        results: list[models.ReassignedPartition] = []
        errors: list[OttlaError] = []
        request = parse_json(body, models.ReassignmentRequest)
        if not isinstance(request.throttle_bytes_per_second, msgspec.UnsetType):
            self._throttle_bytes_per_second = request.throttle_bytes_per_second
        for wanted in request.reassignments:
            error = None
            try:
                self._move(wanted)
            except OttlaError as failure:
                errors.append(failure.with_outcome(Outcome.NOT_APPLIED))
                error = failure.problem()
            results.append(models.ReassignedPartition(wanted.topic, wanted.partition, error))
        raise_shared(errors, len(results))
        return json_answer(models.ReassignmentResponse(results), 207 if errors else 200)

    def _move(self, wanted: models.PartitionReassignment) -> None:
        partition = self.partition(wanted.topic, wanted.partition)
        if wanted.replicas is None:
            raise NoReassignmentInProgressError(f"{partition.name} is not being reassigned")
        nodes = set(wanted.replicas)
        if not nodes or len(nodes) < len(wanted.replicas) or not nodes <= self.urls.keys():
            raise InvalidReplicaAssignmentError(
                f"replicas of {partition.name} must be brokers, each once, not {wanted.replicas}"
            )
        partition.replicas = list(wanted.replicas)
        live = [node_id for node_id in partition.replicas if node_id not in self.stopped]
        if partition.leader not in live:
            partition.lead(live[0] if live else None)

    def _offsets(
        self, _node_id: int, query: Mapping[str, str], _body: bytes, topic: str, partition: str
    ) -> Response:
        found = self.partition(topic, int(partition) if partition.isdecimal() else -1)
        at = query.get("at", "latest")
        timestamp = None
        if at.isdecimal():
            offset, timestamp = found.first_since(int(at))
        elif at in ("latest", "earliest"):
            is_committed = query.get("isolation") == "read_committed"
            end = found.last_stable_offset if is_committed else found.end_offset
            offset = end if at == "latest" else found.start_offset
        else:
            raise InvalidRequestError(f"at must be latest, earliest or a timestamp, not {at!r}")
        return json_answer(
            models.OffsetResponse(
                found.topic, found.partition, offset, found.leader_epoch, timestamp
            )
        )

    def _trim(
        self, _node_id: int, _query: Mapping[str, str], body: bytes, topic: str, partition: str
    ) -> Response:
        wanted = parse_json(body, TrimPartitionRequest)
        found = self.partition(topic, int(partition) if partition.isdecimal() else -1)
        policy = str(self.topic(topic).configs.get(CLEANUP_POLICY, "delete"))
        if "delete" not in policy.split(","):
            raise PolicyViolationError(f"the topic {topic!r} has {CLEANUP_POLICY}={policy}")
        former = found.start_offset
        offset = _first_offset(found, wanted)
        if not wanted.dry_run:
            found.trim(offset)
        return json_answer(
            TrimmedPartition(
                topic=topic,
                partition=found.partition,
                former_log_start_offset=former,
                log_start_offset=max(former, offset),
                records=max(0, offset - former),
                segments=0,
                size_bytes=0,
                dry_run=wanted.dry_run,
            )
        )

    def _grow(self, topic: _Topic, total: int, factor: int) -> None:
        nodes = list(self.urls)
        for partition in range(len(topic.partitions), total):
            first, self._next_leader = self._next_leader, self._next_leader + 1
            replicas = [nodes[(first + each) % len(nodes)] for each in range(factor)]
            made = FakePartition(topic.name, partition, replicas)
            made.leader = next((each for each in replicas if each not in self.stopped), None)
            topic.partitions.append(made)

    def topic(self, name: str) -> _Topic:
        """The topic; UnknownTopicOrPartitionError if there is none."""
        topic = self.topics.get(name)
        if topic is None:
            raise UnknownTopicOrPartitionError(f"there is no topic {name!r}")
        return topic

    def partition(self, topic: str, partition: int) -> FakePartition:
        """The partition; UnknownTopicOrPartitionError if there is none."""
        partitions = self.topic(topic).partitions
        if not 0 <= partition < len(partitions):
            raise missing_partition(topic, partition, len(partitions))
        return partitions[partition]

    def all_partitions(self) -> list[FakePartition]:
        """Of every topic."""
        return [each for topic in self.topics.values() for each in topic.partitions]

    def _sorted_topics(self) -> list[_Topic]:
        return sorted(self.topics.values(), key=lambda topic: topic.name)

    def _controller(self) -> int | None:
        return min(self.urls.keys() - self.stopped, default=None)

    def _brokers(self) -> list[models.BrokerDescription]:
        return [
            models.BrokerDescription(
                node_id, url, "", "fenced" if node_id in self.stopped else "active", 1
            )
            for node_id, url in self.urls.items()
        ]


def _first_offset(found: FakePartition, wanted: TrimPartitionRequest) -> int:
    """Where a trim has the partition begin."""
    require_one_end(wanted)
    stable = found.last_stable_offset
    if wanted.before_timestamp is not None:
        return min(found.first_since(wanted.before_timestamp)[0], stable)
    if wanted.before_offset is None:
        return stable
    if wanted.before_offset > found.end_offset:
        raise OffsetOutOfRangeError(
            f"offset {wanted.before_offset} of {found.name} is above the high watermark, "
            f"{found.end_offset}",
            log_start_offset=found.start_offset,
            log_end_offset=found.end_offset,
            high_watermark=found.end_offset,
        )
    if wanted.before_offset > stable:
        raise OffsetNotAvailableError(f"{found.name} has a transaction that is not over")
    return wanted.before_offset


def raise_shared(errors: list[OttlaError], results: int) -> None:
    """One status speaks for a request with several parts only where all failed alike."""
    if errors and len(errors) == results and len({error.code for error in errors}) == 1:
        raise errors[0]


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


def parse_json(body: bytes, model: type[ModelT]) -> ModelT:
    """A JSON body as its model, or the error that a broker would answer."""
    try:
        return msgspec.json.decode(body, type=model)
    except msgspec.ValidationError as error:
        broken = broken_rule(error, model)
        raise InvalidRequestError(str(broken), field=broken.field) from error
    except msgspec.DecodeError as error:
        raise MalformedBodyError(malformation(body, error)) from error


def json_answer(document: object, status: int = 200) -> Response:
    """A struct as JSON."""
    return Response(status, routes.JSON, msgspec.json.encode(document))
