"""What leads to what: links from an answer to the operations that go on with it.

They are for programs that explore the API, and for tests: schemathesis follows them, so that what
was made is described, used, deleted, and asked for once more.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ottla_broker.http.operations import Link, Operation
from ottla_protocol import routes


def _to(
    operation_ids: Sequence[str],
    parameters: Mapping[str, Any],
    body: Mapping[str, Any] | None = None,
) -> tuple[Link, ...]:
    return tuple(Link(each, parameters, body or {}) for each in operation_ids)


def _told(*names: str) -> dict[str, str]:
    """Members of the answer, under their own names."""
    return {name: f"$response.body#/{name}" for name in names}


def _asked(*names: str) -> dict[str, str]:
    """What was in the path, again."""
    return {name: f"$request.path.{name}" for name in names}


_FIRST_PARTITION = {"partition": 0}

_CREATED_TOPIC = {"topic": "$response.body#/name"}

_PRODUCED = _to(
    ("read",),
    _asked("topic")
    | {
        "partition": "$response.body#/results/0/partition",
        "offset": "$response.body#/results/0/base_offset",
    },
)

_GROUP = _asked("group")
_MEMBER = _GROUP | {"member": "$response.body#/member_id"}

_NEXT_TRANSACTION = (
    *_to(("describeTransaction",), _told("transactional_id")),
    *_to(
        ("commitTransactionOffsets", "commitTransaction", "abortTransaction"),
        _told("transactional_id"),
        _told("transaction"),
    ),
    *_to(
        ("produce",),
        {f"header.{routes.HEADER_TRANSACTION}": "$response.body#/transaction", "acks": "all"},
    ),
)

_INSTANCE = _GROUP | {"instance": "$response.body#/instance_id"}
_SAME_INSTANCE = _asked("group", "instance")

_CREATED_V3_TOPIC = _asked("cluster") | {"topic": "$response.body#/topic_name"}

LINKS: Mapping[str, tuple[Link, ...]] = {
    "createTopic": (
        *_to(
            (
                "describeTopic", "describeTopicConfigs", "alterTopicConfigs", "addPartitions",
                "produce", "readTopic", "deleteTopic", "proxyDescribeTopic", "proxyProduce",
            ),
            _CREATED_TOPIC,
        ),
        *_to(
            (
                "produceToPartition", "read", "offset", "listSegments", "verifySegments",
                "partitionTransactions", "proxyPartitionOffsets",
            ),
            _CREATED_TOPIC | _FIRST_PARTITION,
        ),
    ),
    "addPartitions": _to(("describeTopic", "produce", "readTopic"), _asked("topic")),
    "alterTopicConfigs": _to(("describeTopicConfigs",), _asked("topic")),
    "deleteTopic": _to(("describeTopic", "readTopic"), _asked("topic")),
    "produce": _PRODUCED,
    "produceToPartition": _PRODUCED,
    "read": _to(
        ("read",), _asked("topic", "partition") | {"offset": "$response.body#/next_offset"}
    ),
    "readTopic": _to(("readTopic",), _asked("topic") | _told("cursor")),
    "poll": (
        *_to(("poll",), _GROUP, _told("member_id", "ack")),
        *_to(("leaveGroup",), _MEMBER),
    ),
    "joinGroup": (
        *_to(("heartbeat",), _MEMBER, _told("generation")),
        *_to(("leaveGroup",), _MEMBER),
        *_to(("commitOffsets",), _GROUP, _told("member_id", "generation")),
        *_to(("describeGroup",), _GROUP),
    ),
    "leaveGroup": _to(("describeGroup", "committedOffsets", "deleteGroup"), _GROUP),
    "commitOffsets": _to(
        ("committedOffsets", "seekGroup", "describeGroup", "deleteGroup"), _GROUP
    ),
    "deleteGroup": _to(("describeGroup", "committedOffsets"), _GROUP),
    "initialiseProducer": (
        *_NEXT_TRANSACTION,
        *_to(("initialiseProducer",), {}, _told("transactional_id", "transaction")),
    ),
    "commitTransaction": _NEXT_TRANSACTION,
    "abortTransaction": _NEXT_TRANSACTION,
    "beginRestore": _to(
        ("finishRestore",), _asked("topic"), {"restore_id": "$request.body#/restore_id"}
    ),
    "finishRestore": _to(("describeTopic", "readTopic"), _asked("topic")),
    "proxyCreateConsumer": _to(
        (
            "proxySubscribe", "proxyAssign", "proxySubscription", "proxyAssignments",
            "proxyRemoveConsumer",
        ),
        _INSTANCE,
    ),
    "proxySubscribe": _to(
        (
            "proxyRecords", "proxyCommit", "proxyCommitted", "proxySubscription",
            "proxyUnsubscribe", "proxyRemoveConsumer",
        ),
        _SAME_INSTANCE,
    ),
    "proxyAssign": _to(
        (
            "proxyRecords", "proxySeek", "proxySeekToBeginning", "proxySeekToEnd", "proxyCommit",
            "proxyAssignments", "proxyRemoveConsumer",
        ),
        _SAME_INSTANCE,
    ),
    "proxyRecords": _to(("proxyRecords", "proxyCommit", "proxyRemoveConsumer"), _SAME_INSTANCE),
    "proxyRemoveConsumer": _to(("proxyRecords", "proxySubscription"), _SAME_INSTANCE),
    "restCreateTopic": (
        *_to(
            (
                "restDescribeTopic", "restListPartitions", "restListTopicConfigs",
                "restProduceBatch", "restUpdateTopic", "restDeleteTopic",
            ),
            _CREATED_V3_TOPIC,
        ),
        *_to(
            ("restDescribePartition", "restPartitionOffset"), _CREATED_V3_TOPIC | _FIRST_PARTITION
        ),
    ),
    "restDeleteTopic": _to(("restDescribeTopic",), _asked("cluster", "topic")),
}  # fmt: skip
"""By operation: what the answer of its success leads to."""


def with_links(operations: Iterable[Operation]) -> tuple[Operation, ...]:
    """The operations, each with the links of its first reply."""
    linked = []
    for operation in operations:
        first, *others = operation.replies
        links = LINKS.get(operation.operation_id, ())
        linked.append(replace(operation, replies=(replace(first, links=links), *others)))
    return tuple(linked)
