"""The cluster: what it is, how it is, its feature level, and the quorum of its metadata."""

from ottla_broker.http import cluster_health, features, quorum, topics
from ottla_broker.http.operation_tables.parameters import MAX_NODE_ID
from ottla_broker.http.operations import (
    THROUGH_THE_CONTROLLER,
    Content,
    Operation,
    Parameter,
    choice,
    integer,
    ok,
)
from ottla_cluster.controller.partition_conditions import CONDITIONS
from ottla_protocol import routes
from ottla_protocol.errors import (
    DuplicateVoterError,
    InvalidVoterChangeError,
    LeadershipTransferFailedError,
    NotControllerError,
    QuorumAtRiskError,
    UnsupportedFeatureLevelError,
    VoterChangeInProgressError,
    VoterNotFoundError,
)
from ottla_protocol.models import ClusterDescription
from ottla_protocol.models_features import (
    FeaturesResponse,
    FeatureUpgradeRequest,
    FeatureUpgradeResponse,
)
from ottla_protocol.models_health import (
    DEFAULT_HEALTH_LIMIT,
    MAX_HEALTH_LIMIT,
    ClusterHealth,
)
from ottla_protocol.models_quorum import AddVoterRequest, QuorumDescription, TransferRequest

QUORUM = (*THROUGH_THE_CONTROLLER, NotControllerError)

VOTER_CHANGE = (
    *QUORUM,
    InvalidVoterChangeError,
    VoterChangeInProgressError,
    UnsupportedFeatureLevelError,
)

OPERATIONS = (
    Operation(
        "GET",
        routes.CLUSTER,
        "describeCluster",
        "cluster",
        "The cluster as this broker knows it",
        ok(ClusterDescription, "Brokers, controller and versions."),
        topics.cluster,
    ),
    Operation(
        "GET",
        routes.CLUSTER_HEALTH,
        "clusterHealth",
        "cluster",
        "Whether the cluster is well, and why not",
        ok(ClusterHealth, "Whatever the health is: `status` tells it."),
        cluster_health.cluster_health,
        parameters=(
            Parameter(
                "limit",
                "query",
                "How many partitions to list at most.",
                integer(1, MAX_HEALTH_LIMIT, DEFAULT_HEALTH_LIMIT),
            ),
            Parameter(
                "cursor",
                "query",
                "The `next_cursor` of the answer before.",
                {"type": "string", "pattern": f"^({'|'.join(CONDITIONS)}):.*:[0-9]+$"},
            ),
            Parameter(
                "condition",
                "query",
                "Only partitions of this condition.",
                choice(cluster_health.ANY, *CONDITIONS, default=cluster_health.ANY),
            ),
        ),
    ),
    Operation(
        "GET",
        routes.CLUSTER_FEATURES,
        "describeFeatures",
        "cluster",
        "The feature level, and what it could be",
        ok(FeaturesResponse, "Features, and the levels that each process supports."),
        features.describe,
        problems=THROUGH_THE_CONTROLLER,
    ),
    Operation(
        "POST",
        routes.CLUSTER_FEATURES,
        "upgradeFeatures",
        "cluster",
        "Raise the feature level",
        ok(FeatureUpgradeResponse, "The level before, and the one from now on."),
        features.upgrade,
        description="It never falls: afterwards no process can go back to an older version.",
        request=(
            Content(
                FeatureUpgradeRequest,
                also={"properties": {"feature_level": {"minimum": 1}}},
                example={"validate_only": True},
            ),
        ),
        problems=(UnsupportedFeatureLevelError, *THROUGH_THE_CONTROLLER),
    ),
    Operation(
        "GET",
        routes.CLUSTER_QUORUM,
        "describeQuorum",
        "cluster",
        "The quorum that holds the metadata",
        ok(QuorumDescription, "Voters, learners and observers, and how far each is."),
        quorum.describe,
        problems=QUORUM,
    ),
    Operation(
        "POST",
        routes.CLUSTER_QUORUM_VOTERS,
        "addVoter",
        "cluster",
        "Have a node vote",
        ok(QuorumDescription, "It becomes a voter once it has caught up.", status=202),
        quorum.add_voter,
        request=(Content(AddVoterRequest, example={"node_id": 4}),),
        problems=(*VOTER_CHANGE, DuplicateVoterError),
    ),
    Operation(
        "DELETE",
        routes.CLUSTER_QUORUM_VOTER,
        "removeVoter",
        "cluster",
        "Have a node vote no more",
        ok(QuorumDescription, "The quorum without it."),
        quorum.remove_voter,
        parameters=(
            Parameter("voter", "path", "The voter's node id.", integer(1, MAX_NODE_ID), 3),
            Parameter(
                "force",
                "query",
                "`true` removes it although without it fewer voters than a majority would answer "
                "and have the log: nothing could be decided until others come back.",
                choice("true", "false", default="false"),
            ),
        ),
        problems=(*VOTER_CHANGE, VoterNotFoundError, QuorumAtRiskError),
    ),
    Operation(
        "POST",
        routes.CLUSTER_QUORUM_TRANSFER,
        "transferQuorumLeadership",
        "cluster",
        "Hand the controller's role over",
        ok(QuorumDescription, "The quorum under its new leader."),
        quorum.transfer,
        request=(Content(TransferRequest, example={"target": 2}),),
        problems=(*VOTER_CHANGE, VoterNotFoundError, LeadershipTransferFailedError),
    ),
)
