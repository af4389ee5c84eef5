"""The REST Proxy API v3: its paths below `/v3/`, its resources, its errors as it tells them."""

from dataclasses import replace
from typing import Any, Literal

from ottla_broker.http.operation_tables.parameters import (
    BROKER,
    GROUP,
    MEMBER,
    PARTITION,
    TOPIC,
    TRANSACTION_HEADER,
)
from ottla_broker.http.operations import Content, Operation, Parameter, Reply, choice
from ottla_broker.http.problems import Handler
from ottla_broker.http.rest_v3 import clusters, groups, partitions, records, topics
from ottla_broker.http.rest_v3.errors import says_outcome
from ottla_broker.http.rest_v3.partitions import BOTH, OFFSET_TYPES
from ottla_protocol import models_rest_v3 as rest
from ottla_protocol import routes
from ottla_protocol.rest_v3_records import SentBatch

TAG = "REST Proxy v3"

ANYWHERE = (400, 404, 422, 500, 503, 504)
"""What every operation may end in: another cluster than this, a query that it does not know."""

AT_A_BROKER = (403, 421)
WITH_A_BODY = (413, 415)

ERRORS = {
    400: "It is malformed, or the cluster does not take it: 400, 40002.",
    403: "It comes from a broker of another cluster.",
    404: "What it names does not exist: 404, 40403, 40405.",
    409: "It lost against a newer state.",
    413: "The body is too large.",
    415: "The Content-Type or Content-Encoding is none that this call takes.",
    421: "This process is a dedicated controller.",
    422: "It parses and breaks a rule.",
    429: "A limit of this broker is reached.",
    500: "The broker failed: 50002.",
    503: "The cluster cannot serve this now: 50003.",
    504: "The deadline passed first: 50003.",
}

CLUSTER = Parameter("cluster", "path", "The cluster's id.", {"type": "string"}, example="local")
CONFIG = Parameter(
    "config", "path", "The name of a topic config.", {"type": "string"}, example="retention.ms"
)
CONSUMER = replace(MEMBER, name="consumer")
OFFSET_TYPE = Parameter(
    "offset_type", "query", "Which end to tell.", choice(*OFFSET_TYPES, default=BOTH)
)

STREAM = {
    "description": "Records as in `entries` of a batch, without ids. Any body is answered with 200."
}
ITEM = {
    "description": "What became of each record, one JSON object behind the other, each ended by a "
    "line feed: as `ProducedEntry` without an id, or an error.",
    "type": "object",
    "properties": {"error_code": {"type": "integer"}, "message": {"type": "string"}},
    "required": ["error_code"],
}


def operation(
    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"],
    path: str,
    operation_id: str,
    summary: str,
    handler: Handler,
    answer: Any,
    *parameters: Parameter,
    status: int = 200,
    request: tuple[Content, ...] = (),
    description: str = "",
    also: tuple[Reply, ...] = (),
    is_for_brokers: bool = False,
) -> Operation:
    """One operation of the API; what is no argument of `Operation` is told here.

    `answer` is the model of what it answers with `status`, None where that is 204 without a body;
    `also` are replies besides. Dedicated controllers refuse what `is_for_brokers`.
    """
    done = Reply(204, "Done.") if answer is None else Reply(status, "Done.", (Content(answer),))
    statuses = {*ANYWHERE, *(AT_A_BROKER if is_for_brokers else ())}
    statuses |= {*(WITH_A_BODY if request else ()), *(() if method == "GET" else (409, 429))}
    return Operation(
        method,
        path,
        operation_id,
        TAG,
        summary,
        (done, *also, *(_error(each) for each in sorted(statuses))),
        handler=handler if method == "GET" else says_outcome(handler),
        description=description,
        parameters=() if path == routes.V3_CLUSTERS else (CLUSTER, *parameters),
        request=request,
        broker_only=is_for_brokers,
        has_common_problems=False,
    )


def _error(status: int) -> Reply:
    headers = {"Retry-After": "Seconds after which to try again."} if status == 503 else {}
    return Reply(status, ERRORS[status], (Content(rest.RestError),), headers)


CLUSTER_OPERATIONS = (
    operation(
        "GET", routes.V3_CLUSTERS, "restListClusters", "List the one cluster that there is",
        clusters.list_clusters, rest.ResourceList[rest.KafkaCluster],
    ),
    operation(
        "GET", routes.V3_CLUSTER, "restDescribeCluster", "Describe the cluster",
        clusters.describe_cluster, rest.KafkaCluster,
    ),
    operation(
        "GET", routes.V3_BROKERS, "restListBrokers", "List the brokers",
        clusters.list_brokers, rest.ResourceList[rest.KafkaBroker],
    ),
    operation(
        "GET", routes.V3_BROKER, "restDescribeBroker", "Describe a broker",
        clusters.describe_broker, rest.KafkaBroker, BROKER,
    ),
    operation(
        "GET", routes.V3_BROKER_REPLICAS, "restListBrokerReplicas", "List a broker's replicas",
        clusters.list_broker_replicas, rest.ResourceList[rest.KafkaReplica], BROKER,
    ),
    operation(
        "GET", routes.V3_BROKER_CONFIGS, "restListBrokerConfigs",
        "List a broker's dynamic configs: none",
        clusters.list_broker_configs, rest.ResourceList[rest.KafkaBrokerConfig], BROKER,
    ),
    operation(
        "GET", routes.V3_CLUSTER_CONFIGS, "restListClusterConfigs",
        "List the dynamic configs of all brokers: none",
        clusters.list_cluster_configs, rest.ResourceList[rest.KafkaClusterConfig],
    ),
    operation(
        "GET", routes.V3_ACLS, "restListAcls", "List the ACLs: none",
        clusters.list_acls, rest.ResourceList[rest.KafkaAcl],
    ),
)  # fmt: skip

TOPIC_OPERATIONS = (
    operation(
        "GET", routes.V3_TOPICS, "restListTopics", "List the topics",
        topics.list_topics, rest.ResourceList[rest.KafkaTopic],
    ),
    operation(
        "POST", routes.V3_TOPICS, "restCreateTopic", "Create a topic",
        topics.create_topic, rest.KafkaTopic,
        status=201,
        request=(
            Content(
                rest.CreateKafkaTopic,
                example={"topic_name": "landings", "partitions_count": 6},
            ),
        ),
        also=(
            Reply(200, "With `validate_only`: it would be.", (Content(rest.KafkaTopic),)),
        ),
    ),
    operation(
        "GET", routes.V3_REASSIGNMENTS, "restListReassignments", "List all reassignments",
        partitions.list_reassignments, rest.ResourceList[rest.KafkaReassignment],
    ),
    operation(
        "GET", routes.V3_TOPIC, "restDescribeTopic", "Describe a topic",
        topics.describe_topic, rest.KafkaTopic, TOPIC,
    ),
    operation(
        "PATCH", routes.V3_TOPIC, "restUpdateTopic", "Give a topic more partitions",
        topics.add_partitions, rest.KafkaTopic, TOPIC,
        request=(Content(rest.UpdatePartitionsCount, example={"partitions_count": 18}),),
    ),
    operation(
        "DELETE", routes.V3_TOPIC, "restDeleteTopic", "Delete a topic with all its records",
        topics.delete_topic, None, TOPIC,
    ),
    operation(
        "GET", routes.V3_TOPIC_CONFIGS, "restListTopicConfigs", "List a topic's configs",
        topics.list_configs, rest.ResourceList[rest.KafkaTopicConfig], TOPIC,
    ),
    operation(
        "POST", routes.V3_TOPIC_CONFIGS_ALTER, "restAlterTopicConfigs",
        "Set and reset configs of a topic: all, or none",
        topics.alter_configs, None, TOPIC,
        request=(
            Content(
                rest.AlterConfigs,
                example={"data": [{"name": "retention.ms", "value": "3600000"}]},
            ),
        ),
    ),
    operation(
        "GET", routes.V3_TOPIC_CONFIG, "restDescribeTopicConfig", "Describe a config of a topic",
        topics.describe_config, rest.KafkaTopicConfig, TOPIC, CONFIG,
    ),
    operation(
        "PUT", routes.V3_TOPIC_CONFIG, "restUpdateTopicConfig", "Set a config of a topic",
        topics.update_config, None, TOPIC, CONFIG,
        request=(Content(rest.UpdateConfig, example={"value": "3600000"}),),
    ),
    operation(
        "DELETE", routes.V3_TOPIC_CONFIG, "restResetTopicConfig",
        "Give a config of a topic its default again",
        topics.reset_config, None, TOPIC, CONFIG,
    ),
)  # fmt: skip

RECORD_OPERATIONS = (
    operation(
        "POST", routes.V3_RECORDS, "restProduceRecords", "Produce a stream of records",
        records.produce, ITEM, TOPIC, TRANSACTION_HEADER,
        request=(Content(STREAM, example={"value": {"type": "JSON", "data": {"delay": 11}}}),),
        description=(
            "One record, or any number of them one after the other (concatenated JSON), chunked "
            "for as long as the client likes. For each comes one item, in order, while the request "
            "goes on: its place, or an error. The status is 200 whatever becomes of the records; "
            "`error_code` in each item tells. An item with 400 or 408 is the last one."
        ),
        is_for_brokers=True,
    ),
    operation(
        "POST", routes.V3_RECORDS_BATCH, "restProduceBatch", "Produce a few records",
        records.produce_batch, rest.ProducedBatch, TOPIC, TRANSACTION_HEADER,
        status=207,
        request=(
            Content(
                SentBatch,
                example={"entries": [{"id": "1", "value": {"type": "STRING", "data": "late"}}]},
            ),
        ),
        is_for_brokers=True,
    ),
)  # fmt: skip

PARTITION_OPERATIONS = (
    operation(
        "GET", routes.V3_PARTITIONS, "restListPartitions", "List a topic's partitions",
        partitions.list_partitions, rest.ResourceList[rest.KafkaPartition], TOPIC,
    ),
    operation(
        "GET", routes.V3_TOPIC_REASSIGNMENTS, "restListTopicReassignments",
        "List the reassignments of a topic",
        partitions.list_topic_reassignments, rest.ResourceList[rest.KafkaReassignment], TOPIC,
    ),
    operation(
        "GET", routes.V3_PARTITION, "restDescribePartition", "Describe a partition",
        partitions.describe_partition, rest.KafkaPartition, TOPIC, PARTITION,
    ),
    operation(
        "GET", routes.V3_PARTITION_OFFSET, "restPartitionOffset",
        "Tell where a partition begins and ends",
        partitions.partition_offset, rest.KafkaPartitionWithOffsets, TOPIC, PARTITION, OFFSET_TYPE,
        is_for_brokers=True,
    ),
    operation(
        "GET", routes.V3_PARTITION_REASSIGNMENT, "restDescribeReassignment",
        "Describe the reassignment of a partition",
        partitions.describe_reassignment, rest.KafkaReassignment, TOPIC, PARTITION,
    ),
    operation(
        "GET", routes.V3_REPLICAS, "restListReplicas", "List the replicas of a partition",
        partitions.list_replicas, rest.ResourceList[rest.KafkaReplica], TOPIC, PARTITION,
    ),
    operation(
        "GET", routes.V3_REPLICA, "restDescribeReplica", "Describe a replica",
        partitions.describe_replica, rest.KafkaReplica, TOPIC, PARTITION, BROKER,
    ),
)  # fmt: skip

GROUP_OPERATIONS = tuple(
    operation("GET", path, operation_id, summary, handler, answer, *wanted, is_for_brokers=True)
    for path, operation_id, summary, handler, answer, wanted in (
        (
            routes.V3_GROUPS, "restListGroups", "List the consumer groups",
            groups.list_groups, rest.ResourceList[rest.KafkaConsumerGroup], (),
        ),
        (
            routes.V3_GROUP, "restDescribeGroup", "Describe a consumer group",
            groups.describe_group, rest.KafkaConsumerGroup, (GROUP,),
        ),
        (
            routes.V3_CONSUMERS, "restListConsumers", "List a group's members",
            groups.list_consumers, rest.ResourceList[rest.KafkaConsumer], (GROUP,),
        ),
        (
            routes.V3_CONSUMER, "restDescribeConsumer", "Describe a member",
            groups.describe_consumer, rest.KafkaConsumer, (GROUP, CONSUMER),
        ),
        (
            routes.V3_ASSIGNMENTS, "restListAssignments", "List what a member may read",
            groups.list_assignments, rest.ResourceList[rest.KafkaConsumerAssignment],
            (GROUP, CONSUMER),
        ),
        (
            routes.V3_ASSIGNMENT, "restDescribeAssignment", "Describe what a member may read",
            groups.describe_assignment, rest.KafkaConsumerAssignment,
            (GROUP, CONSUMER, TOPIC, PARTITION),
        ),
        (
            routes.V3_LAGS, "restListLags", "List how far a group is",
            groups.list_lags, rest.ResourceList[rest.KafkaConsumerLag], (GROUP,),
        ),
        (
            routes.V3_LAG, "restDescribeLag", "Tell how far a group is on a partition",
            groups.describe_lag, rest.KafkaConsumerLag, (GROUP, TOPIC, PARTITION),
        ),
        (
            routes.V3_LAG_SUMMARY, "restDescribeLagSummary", "Tell a group's largest lag",
            groups.describe_lag_summary, rest.KafkaConsumerGroupLagSummary, (GROUP,),
        ),
    )
)  # fmt: skip

OPERATIONS = (
    *CLUSTER_OPERATIONS,
    *TOPIC_OPERATIONS,
    *RECORD_OPERATIONS,
    *PARTITION_OPERATIONS,
    *GROUP_OPERATIONS,
)
