"""The REST Proxy API v2: its paths at the root, its media types, its errors as it tells them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from ottla_broker.http.admission import at_broker
from ottla_broker.http.operation_tables.parameters import (
    GROUP,
    PARTITION,
    TOPIC,
    TRANSACTION_HEADER,
)
from ottla_broker.http.operations import Content, Operation, Parameter, Reply
from ottla_broker.http.problems import Handler
from ottla_broker.http.rest_v2 import consumer_records, consumers, produce, topics
from ottla_broker.http.rest_v2.errors import V2_JSON, proxied
from ottla_broker.http.rest_v2.media_types import BINARY, FORMATS, SCHEMA_FORMATS, media_type_of
from ottla_cluster.groups.limits import MAX_MEMBER_ID_LENGTH
from ottla_protocol import routes
from ottla_protocol.models_rest_v2 import (
    AssignedPartitions,
    BinaryRecords,
    Brokers,
    CommittedOffsets,
    ConsumedRecord,
    ConsumerCreated,
    CreateConsumer,
    ErrorBody,
    JsonRecords,
    OffsetsToCommit,
    Partition,
    PartitionOffsets,
    Partitions,
    Positions,
    Produced,
    SubscribedTopics,
    Subscription,
    Topic,
)

TAG = "REST Proxy v2"

SOONER_OR_LATER = (406, 429, 500, 503)
"""What every operation may end in: nothing that Accept takes, a limit, a defect, no controller."""

AT_A_BROKER = (403, 421)
WITH_A_BODY = (400, 408, 413, 415, 422)

ERRORS = {
    400: "The request is malformed: 400, 40002.",
    403: "It comes from a broker of another cluster.",
    404: "What it names does not exist: 40401, 40402, 40403, 40404.",
    406: "Accept takes nothing that this call answers: 406, 40601.",
    408: "The body did not come in time, or a schema would have to be looked up: 408, 40801.",
    409: "It does not fit the consumer instance's state: 40901, 40902, 40903.",
    413: "The body is too large: 413.",
    415: "The Content-Type is none that this call takes: 415.",
    421: "This process is a dedicated controller.",
    422: "The body parses and breaks a rule: 40001, 42201, 42202, 42204, 42206, 42207.",
    429: "A limit of this broker is reached: 42901.",
    500: "The broker failed: 50002.",
    501: "The cluster does not offer it: 50101.",
    503: "The cluster cannot serve this now: 50302.",
}

GROUPED_RECORDS = (
    Content(BinaryRecords, media_type_of(BINARY), example={"records": [{"value": "T3R0bGE="}]}),
    Content(BinaryRecords, V2_JSON),
    Content(BinaryRecords, routes.JSON),
    *(
        Content(JsonRecords, media_type_of(each))
        for each in (*FORMATS, *SCHEMA_FORMATS)
        if each != BINARY
    ),
)


def operation(
    method: Literal["GET", "POST", "DELETE"],
    path: str,
    operation_id: str,
    summary: str,
    handler: Handler,
    answer: Any,
    *,
    parameters: tuple[Parameter, ...] = (),
    request: tuple[Content, ...] = (),
    is_body_required: bool = True,
    description: str = "",
    errors: Sequence[int] = (),
    is_for_brokers: bool = True,
    answers_as: Sequence[str] = (V2_JSON, routes.JSON),
) -> Operation:
    """One operation of the API; what is no argument of `Operation` is told here.

    `answer` is the model of what it answers, None where that is 204 without a body, and
    `answers_as` its media types. `errors` are the statuses that it may end in besides those that go
    without saying. Dedicated controllers refuse what `is_for_brokers`.
    """
    if answer is None:
        done = Reply(204, "Done.")
    else:
        done = Reply(200, "Done.", tuple(Content(answer, each) for each in answers_as))
    statuses = {*SOONER_OR_LATER, *errors}
    statuses |= {*(AT_A_BROKER if is_for_brokers else ()), *(WITH_A_BODY if request else ())}
    return Operation(
        method,
        path,
        operation_id,
        TAG,
        summary,
        (done, *(_error(status) for status in sorted(statuses))),
        handler=proxied(at_broker(handler) if is_for_brokers else handler),
        description=description,
        parameters=parameters,
        request=request,
        is_body_required=is_body_required,
        has_common_problems=False,
    )


def _error(status: int) -> Reply:
    headers = {"Retry-After": "Seconds after which to try again."} if status in (429, 503) else {}
    return Reply(status, ERRORS[status], (Content(ErrorBody, V2_JSON),), headers)


TOPIC_OPERATIONS = (
    operation(
        "GET",
        routes.PROXY_ROOT,
        "proxyRoot",
        "Tell that there is somebody",
        topics.root,
        {"type": "object"},
        is_for_brokers=False,
    ),
    operation(
        "GET",
        routes.PROXY_BROKERS,
        "proxyListBrokers",
        "List the node ids of all brokers that are not fenced",
        topics.brokers,
        Brokers,
        is_for_brokers=False,
    ),
    operation(
        "GET",
        routes.PROXY_TOPICS,
        "proxyListTopics",
        "List the names of all topics",
        topics.list_topics,
        list[str],
        is_for_brokers=False,
    ),
    operation(
        "GET",
        routes.PROXY_TOPIC,
        "proxyDescribeTopic",
        "Describe a topic",
        topics.describe_topic,
        Topic,
        parameters=(TOPIC,),
        errors=(404,),
        is_for_brokers=False,
    ),
    operation(
        "GET",
        routes.PROXY_PARTITIONS,
        "proxyListPartitions",
        "List a topic's partitions",
        topics.list_partitions,
        list[Partition],
        parameters=(TOPIC,),
        errors=(404,),
        is_for_brokers=False,
    ),
    operation(
        "GET",
        routes.PROXY_PARTITION,
        "proxyDescribePartition",
        "Describe a partition",
        topics.describe_partition,
        Partition,
        parameters=(TOPIC, PARTITION),
        errors=(404,),
        is_for_brokers=False,
    ),
    operation(
        "GET",
        routes.PROXY_PARTITION_OFFSETS,
        "proxyPartitionOffsets",
        "Tell where a partition begins and ends",
        topics.partition_offsets,
        PartitionOffsets,
        parameters=(TOPIC, PARTITION),
        errors=(404,),
    ),
    operation(
        "POST",
        routes.PROXY_TOPIC,
        "proxyProduce",
        "Store records in a topic",
        produce.produce,
        Produced,
        parameters=(TOPIC, TRANSACTION_HEADER),
        request=GROUPED_RECORDS,
        description="200 has an entry for each record, in the order of the request, also for those "
        "that were not stored: those have an `error_code`.",
        errors=(404,),
    ),
    operation(
        "POST",
        routes.PROXY_PARTITION,
        "proxyProduceToPartition",
        "Store records in a partition",
        produce.produce,
        Produced,
        parameters=(TOPIC, PARTITION, TRANSACTION_HEADER),
        request=GROUPED_RECORDS,
        description="As for a topic; the records name no partition.",
        errors=(404,),
    ),
)

INSTANCE = Parameter(
    "instance",
    "path",
    "The consumer instance, as its creation answered it.",
    {"type": "string", "minLength": 1, "maxLength": MAX_MEMBER_ID_LENGTH},
    "reader-1",
)

CONSUMER_GROUP = replace(GROUP, example="dashboards")
"""Apart from the groups of other operations: their examples want members of their own."""

OF_AN_INSTANCE = (CONSUMER_GROUP, INSTANCE)

ONE_PARTITION = {"topic": "flights", "partition": 0}


def document(model: Any, example: Any = None) -> tuple[Content, ...]:
    """A body without records, under each media type that it may come as."""
    return (Content(model, V2_JSON, example=example), Content(model, routes.JSON, example=example))


CONSUMER_OPERATIONS = (
    operation(
        "POST",
        routes.PROXY_GROUP,
        "proxyCreateConsumer",
        "Make a consumer instance",
        consumers.create,
        ConsumerCreated,
        parameters=(CONSUMER_GROUP,),
        request=document(CreateConsumer, {"name": "reader-1", "format": "json"}),
        is_body_required=False,
        description="Any broker serves the instance from then on. It is removed when nobody asks "
        "for it for `OTTLA_REST_INSTANCE_TIMEOUT_MS`.",
        errors=(409, 501),
    ),
    operation(
        "DELETE",
        routes.PROXY_INSTANCE,
        "proxyRemoveConsumer",
        "Remove a consumer instance",
        consumers.remove,
        None,
        parameters=OF_AN_INSTANCE,
        errors=(404, 409, 422, 501),
    ),
    operation(
        "POST",
        routes.PROXY_ASSIGNMENTS,
        "proxyAssign",
        "Have an instance read partitions, without its group",
        consumers.assign,
        None,
        parameters=OF_AN_INSTANCE,
        request=document(Partitions, {"partitions": [ONE_PARTITION]}),
        errors=(404, 409, 501),
    ),
    operation(
        "GET",
        routes.PROXY_ASSIGNMENTS,
        "proxyAssignments",
        "Tell which partitions an instance reads",
        consumers.assignments,
        AssignedPartitions,
        parameters=OF_AN_INSTANCE,
        errors=(404, 422, 501),
    ),
    operation(
        "POST",
        routes.PROXY_POSITIONS,
        "proxySeek",
        "Set the next offsets that an instance reads",
        consumers.seek,
        None,
        parameters=OF_AN_INSTANCE,
        request=document(Positions, {"offsets": [{**ONE_PARTITION, "offset": 0}]}),
        errors=(404, 409, 501),
    ),
    operation(
        "POST",
        routes.PROXY_POSITIONS_BEGINNING,
        "proxySeekToBeginning",
        "Have an instance read partitions from their beginning",
        consumers.seek_to_beginning,
        None,
        parameters=OF_AN_INSTANCE,
        request=document(Partitions, {"partitions": [ONE_PARTITION]}),
        errors=(404, 409, 501),
    ),
    operation(
        "POST",
        routes.PROXY_POSITIONS_END,
        "proxySeekToEnd",
        "Have an instance read what comes to partitions from now on",
        consumers.seek_to_end,
        None,
        parameters=OF_AN_INSTANCE,
        request=document(Partitions, {"partitions": [ONE_PARTITION]}),
        errors=(404, 409, 501),
    ),
    operation(
        "GET",
        routes.PROXY_RECORDS,
        "proxyRecords",
        "Read what an instance has not read yet",
        consumer_records.read,
        list[ConsumedRecord],
        parameters=(
            *OF_AN_INSTANCE,
            Parameter(
                "timeout",
                "query",
                "How long to wait for records in ms; no longer than the instance was made to wait.",
                {"type": "integer"},
            ),
            Parameter(
                "max_bytes",
                "query",
                "The most bytes of keys and values; one record always fits.",
                {"type": "integer"},
            ),
        ),
        description="Answers as soon as there are records, with all that are there. What has left "
        "the broker counts as read; what has not is read again.",
        errors=(400, 404, 409, 413, 422, 501),
        answers_as=(*map(media_type_of, FORMATS), V2_JSON, routes.JSON),
    ),
    operation(
        "POST",
        routes.PROXY_OFFSETS,
        "proxyCommit",
        "Commit offsets that were read last, or all that was read",
        consumers.commit,
        {"type": "array", "maxItems": 0},
        parameters=OF_AN_INSTANCE,
        request=document(OffsetsToCommit, {"offsets": [{**ONE_PARTITION, "offset": 0}]}),
        is_body_required=False,
        description="What is answered is durable. The log keeps the next offset, that is one more.",
        errors=(404, 409, 501),
    ),
    operation(
        "GET",
        routes.PROXY_OFFSETS,
        "proxyCommitted",
        "Tell what the group has committed",
        consumers.committed,
        CommittedOffsets,
        parameters=OF_AN_INSTANCE,
        request=document(Partitions, {"partitions": [ONE_PARTITION]}),
        errors=(404, 501),
    ),
    operation(
        "POST",
        routes.PROXY_SUBSCRIPTION,
        "proxySubscribe",
        "Have an instance read topics as a member of its group",
        consumers.subscribe,
        None,
        parameters=OF_AN_INSTANCE,
        request=document(Subscription, {"topics": ["flights"]}),
        errors=(404, 409, 501),
    ),
    operation(
        "GET",
        routes.PROXY_SUBSCRIPTION,
        "proxySubscription",
        "Tell which topics an instance reads",
        consumers.subscription,
        SubscribedTopics,
        parameters=OF_AN_INSTANCE,
        errors=(404, 422, 501),
    ),
    operation(
        "DELETE",
        routes.PROXY_SUBSCRIPTION,
        "proxyUnsubscribe",
        "Have an instance read nothing",
        consumers.unsubscribe,
        None,
        parameters=OF_AN_INSTANCE,
        errors=(404, 409, 422, 501),
    ),
)

OPERATIONS = (*TOPIC_OPERATIONS, *CONSUMER_OPERATIONS)
