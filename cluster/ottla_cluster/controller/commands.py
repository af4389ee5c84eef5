"""The controller's commands and their responses, as they cross the wire between brokers.

How they are encoded is in `ottla_cluster.state_machine.messages`.
"""

from typing import Any

import msgspec

from ottla_cluster.controller.features import LATEST_FEATURE_LEVEL, OLDEST_FEATURE_LEVEL
from ottla_cluster.controller.topic_configs import ConfigValue
from ottla_cluster.state_machine.messages import CommandMessage, MessageDecoder, ResponseMessage


class FormCluster(CommandMessage, frozen=True, tag="form_cluster"):
    """Makes the log belong to a cluster; the first leader of a new cluster submits it to itself."""

    cluster_id: str
    feature_level: int = LATEST_FEATURE_LEVEL


class UpgradeFeatureLevel(CommandMessage, frozen=True, tag="upgrade_feature_level"):
    """Raises the feature level, once all processes are known to support it."""

    feature_level: int


class RegisterBroker(CommandMessage, frozen=True, omit_defaults=True, tag="register_broker"):
    """A process takes its node id. Sent at its start, and again after StaleBrokerEpochError."""

    node_id: int
    incarnation_id: str
    """New for every start of the process; the same when it repeats a registration."""
    url: str
    rack: str
    cluster_id: str
    latest_feature_level: int = OLDEST_FEATURE_LEVEL
    """The highest that the process supports. It says so when it is refused without: a controller of
    the first level refuses what it does not know, and needs no more than that."""
    directory_id: str = ""
    """Of the data directory that the replicas' logs are in; told from `BROKER_DIRECTORIES` on."""


class Heartbeat(CommandMessage, frozen=True, tag="heartbeat"):
    """A registered broker is alive."""

    node_id: int
    broker_epoch: int
    applied_version: int
    """The version of the image that the broker acts on."""
    draining: bool
    """The broker wants to shut down."""
    is_full: bool = False
    """The broker's disk has no room: it takes no appends until it says otherwise."""


class FenceBroker(CommandMessage, frozen=True, tag="fence_broker"):
    """The controller holds this incarnation for dead.

    Its session expired, or it refused a connection of the controller itself.
    """

    node_id: int
    broker_epoch: int
    reason: str


class IsrMember(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A proposed member of an ISR, as the incarnation that the leader knows in sync."""

    node_id: int
    broker_epoch: int


class AlterPartition(CommandMessage, frozen=True, tag="alter_partition"):
    """A leader proposes a new ISR: compare-and-set on the epochs that it knows."""

    node_id: int
    broker_epoch: int
    topic_id: str
    partition: int
    leader_epoch: int
    partition_epoch: int
    new_isr: tuple[IsrMember, ...]


class IsrChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A new ISR for one partition, as in `AlterPartition`."""

    topic_id: str
    partition: int
    leader_epoch: int
    partition_epoch: int
    new_isr: tuple[IsrMember, ...]


class AlterPartitions(CommandMessage, frozen=True, tag="alter_partitions"):
    """A broker's leaders propose new ISRs, each on its own; from `ISR_BATCHES` on."""

    node_id: int
    broker_epoch: int
    changes: tuple[IsrChange, ...]


class CreateTopic(CommandMessage, frozen=True, tag="create_topic"):
    """Creates a topic; None takes the cluster's default."""

    name: str
    partitions: int | None = None
    replication_factor: int | None = None
    configs: dict[str, ConfigValue] = msgspec.field(default_factory=dict)
    validate_only: bool = False
    internal: bool = False
    """Set by brokers that create a topic of their own, never for a client."""


class AlterTopicConfigs(CommandMessage, frozen=True, tag="alter_topic_configs"):
    """Sets some configs of a topic; None returns one to its default."""

    name: str
    configs: dict[str, ConfigValue | None]


class AddPartitions(CommandMessage, frozen=True, tag="add_partitions"):
    """Gives a topic more partitions."""

    name: str
    partitions: int
    """How many there are to be in all."""


class BeginRestore(CommandMessage, frozen=True, tag="begin_restore"):
    """Creates a topic that is then filled from a backup; from `RESTORES` on.

    Beginning the same restore of a topic again changes nothing.
    """

    name: str
    restore_id: str
    first_offsets: tuple[int, ...]
    """Where each partition begins: as many as there are to be."""
    replication_factor: int | None = None
    configs: dict[str, ConfigValue] = msgspec.field(default_factory=dict)


class FinishRestore(CommandMessage, frozen=True, tag="finish_restore"):
    """Gives a topic that was restored to everybody."""

    name: str
    restore_id: str


class TrimPartition(CommandMessage, frozen=True, tag="trim_partition"):
    """A leader lets nobody read below an offset any more; from `TRIMS` on.

    All below is committed and of transactions that are over, which the leader of `leader_epoch` has
    made sure of. An offset that is not above the present one changes nothing.
    """

    topic_id: str
    partition: int
    leader_epoch: int
    first_offset: int


class DeleteTopic(CommandMessage, frozen=True, omit_defaults=True, tag="delete_topic"):
    """Removes a topic with all its records."""

    name: str
    topic_id: str = ""
    """Of the topic that is meant, so that a command that comes late spares its namesake; told from
    `NAMED_DELETIONS` on. Empty for whichever has the name."""


class TopicPartition(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One partition by its topic's name."""

    topic: str
    partition: int


class ElectPreferred(CommandMessage, frozen=True, tag="elect_preferred"):
    """Gives leadership back to preferred leaders that are active and in sync."""

    partitions: tuple[TopicPartition, ...] | None = None
    """None for every partition."""


class ReplicaEnd(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a replica's log ends, as its broker says."""

    node_id: int
    broker_epoch: int
    last_epoch: int
    """The leader epoch of its last record; -1 without any."""
    log_end_offset: int


class UncleanElection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One partition by its topic's name, and what is known of its replicas' logs."""

    topic: str
    partition: int
    log_ends: tuple[ReplicaEnd, ...] = ()


class ElectUnclean(CommandMessage, frozen=True, omit_defaults=True, tag="elect_unclean"):
    """Lets replicas from outside the ISR lead partitions that nobody in it can lead."""

    partitions: tuple[UncleanElection, ...]
    by_controller: bool = False
    """Nobody asked for it: no replica leads whose log is being copied or known to be gone. The
    controller alone says so, to itself: older versions refuse the field."""


class Reassignment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The replicas that a partition is to have; None calls its reassignment off."""

    topic: str
    partition: int
    replicas: tuple[int, ...] | None


class AlterReassignments(CommandMessage, frozen=True, tag="alter_reassignments"):
    """Begins, replaces or calls off reassignments, each on its own."""

    reassignments: tuple[Reassignment, ...]


class AlterReplicationThrottle(CommandMessage, frozen=True, tag="alter_replication_throttle"):
    """Limits what each broker sends to replicas that are being added; None for no limit."""

    bytes_per_second: int | None


class DrainBroker(CommandMessage, frozen=True, tag="drain_broker"):
    """All replicas of a broker are to move to others, and it gets no new ones."""

    node_id: int


class CancelDrain(CommandMessage, frozen=True, tag="cancel_drain"):
    """A broker may have replicas again; moves away from it that are under way are called off."""

    node_id: int


class HandedOverPartition(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A partition that is being reassigned, as it was when its leader was known to everybody."""

    topic_id: str
    partition: int
    partition_epoch: int


class FinishReassignments(CommandMessage, frozen=True, tag="finish_reassignments"):
    """The controller's own: end these reassignments, for who leaves the ISR knows who leads.

    Where a leader that is to go leads yet, it hands over.
    """

    partitions: tuple[HandedOverPartition, ...]


class AdvanceDrains(CommandMessage, frozen=True, tag="advance_drains"):
    """The controller's own: begin the next moves away from brokers that are being drained."""


class UnregisterBroker(CommandMessage, frozen=True, tag="unregister_broker"):
    """A broker that is gone, and has no replicas, is forgotten."""

    node_id: int


class AllocateProducerIds(CommandMessage, frozen=True, tag="allocate_producer_ids"):
    """A broker takes its next block of producer ids; sent twice, it takes two."""

    node_id: int
    broker_epoch: int


class UnfitReplica(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A replica of the sender that lacks records that it has acknowledged."""

    topic_id: str
    partition: int
    lost_tail: bool
    """Its log ends below where it ended: as leader it would make others cut theirs. False where
    records within the log cannot be read, and its end is whole."""


class ReportUnfitReplicas(CommandMessage, frozen=True, tag="report_unfit_replicas"):
    """A broker found damage: these replicas must not count as in sync before they are refilled."""

    node_id: int
    broker_epoch: int
    replicas: tuple[UnfitReplica, ...]


Command = (
    FormCluster
    | RegisterBroker
    | Heartbeat
    | FenceBroker
    | AlterPartition
    | CreateTopic
    | AlterTopicConfigs
    | DeleteTopic
    | ElectPreferred
    | AllocateProducerIds
    | AddPartitions
    | AlterReassignments
    | FinishReassignments
    | ReportUnfitReplicas
    | UpgradeFeatureLevel
    | ElectUnclean
    | AlterReplicationThrottle
    | DrainBroker
    | CancelDrain
    | AdvanceDrains
    | UnregisterBroker
    | AlterPartitions
    | BeginRestore
    | FinishRestore
    | TrimPartition
)
"""Any command of the controller."""


class PartitionState(msgspec.Struct, frozen=True):
    """A partition as the controller has it."""

    partition: int
    replicas: tuple[int, ...]
    isr: tuple[int, ...]
    leader: int | None
    leader_epoch: int
    partition_epoch: int


class ClusterFormedResponse(ResponseMessage, frozen=True, tag="cluster_formed"):
    """The log belongs to this cluster."""

    cluster_id: str
    feature_level: int


class FeatureLevelUpgradedResponse(ResponseMessage, frozen=True, tag="feature_level_upgraded"):
    """The level before, and from now on; the same where nothing was to do."""

    former_level: int
    feature_level: int


class RegisterBrokerResponse(ResponseMessage, frozen=True, tag="broker_registered"):
    """The incarnation's epoch; it is fenced until a heartbeat says that it has caught up."""

    broker_epoch: int
    former_directory_id: str = ""
    """The data directory that the node id had before this, where that was another one."""


class HeartbeatResponse(ResponseMessage, frozen=True, tag="heartbeat_taken"):
    """What the controller thinks of the broker."""

    fenced: bool
    version: int
    """The metadata version with what this heartbeat changed.

    A broker that confirms its lease by an earlier one would act as the leader of partitions that
    the same heartbeat had given to others.
    """
    may_shut_down: bool
    """Whether a draining broker has nothing left that another broker could still take over."""


class BrokerFencedResponse(ResponseMessage, frozen=True, tag="broker_fenced"):
    """The incarnation is fenced."""

    was_fenced_before: bool


class AlterPartitionResponse(ResponseMessage, frozen=True, tag="partition_altered"):
    """The partition as it is now, for its leader to adopt."""

    topic_id: str
    state: PartitionState


class IsrChangeResult(msgspec.Struct, frozen=True):
    """What became of one change: either the partition as it is now, or why it was refused."""

    topic_id: str
    partition: int
    state: PartitionState | None = None
    error: dict[str, Any] | None = None
    """A problem document."""


class AlterPartitionsResponse(ResponseMessage, frozen=True, tag="partitions_altered"):
    """A result for each change, in their order."""

    results: tuple[IsrChangeResult, ...]


class CreateTopicResponse(ResponseMessage, frozen=True, tag="topic_created"):
    """The topic as created, or as it would be if only validated (then it has no id)."""

    name: str
    topic_id: str | None
    partitions: tuple[PartitionState, ...]
    configs: dict[str, ConfigValue]
    """All configs with their effective values."""
    warnings: tuple[str, ...]


class AlterTopicConfigsResponse(ResponseMessage, frozen=True, tag="topic_configs_altered"):
    """All configs with their effective values."""

    name: str
    topic_id: str
    configs: dict[str, ConfigValue]


class DeleteTopicResponse(ResponseMessage, frozen=True, tag="topic_deleted"):
    """The topic is removed."""

    name: str
    topic_id: str


class RestoreFinishedResponse(ResponseMessage, frozen=True, tag="restore_finished"):
    """The topic is one like any other."""

    name: str
    topic_id: str


class PartitionTrimmedResponse(ResponseMessage, frozen=True, tag="partition_trimmed"):
    """Nobody reads below `first_offset`, which a trim before may have set further up."""

    topic_id: str
    partition: int
    first_offset: int


class AddPartitionsResponse(ResponseMessage, frozen=True, tag="partitions_added"):
    """The topic as it is now, with all its partitions."""

    name: str
    topic_id: str
    partitions: tuple[PartitionState, ...]
    configs: dict[str, ConfigValue]


class ElectionResult(msgspec.Struct, frozen=True):
    """What became of one partition's election.

    `elected` is false, without an error, where the preferred replica leads already.
    """

    topic: str
    partition: int
    leader: int | None
    elected: bool
    error: dict[str, Any] | None = None
    """A problem document."""


class ElectPreferredResponse(ResponseMessage, frozen=True, tag="preferred_elected"):
    """How many leaderships returned.

    `results` has every partition that was named; where none was, those that their preferred replica
    did not lead.
    """

    moved: int
    results: tuple[ElectionResult, ...] = ()


class ElectUncleanResponse(ResponseMessage, frozen=True, tag="unclean_elected"):
    """What became of each named partition; `elected` is false where it has a leader."""

    results: tuple[ElectionResult, ...]


class ReassignmentResult(msgspec.Struct, frozen=True):
    """What became of one reassignment: begun, replaced or called off where there is no error."""

    topic: str
    partition: int
    error: dict[str, Any] | None = None
    """A problem document."""


class AlterReassignmentsResponse(ResponseMessage, frozen=True, tag="reassignments_altered"):
    """Results in the order of the command."""

    results: tuple[ReassignmentResult, ...]


class ReplicationThrottleAlteredResponse(
    ResponseMessage, frozen=True, tag="replication_throttle_altered"
):
    """The throttle from now on."""

    bytes_per_second: int | None


class DrainChangedResponse(ResponseMessage, frozen=True, tag="drain_changed"):
    """The drain has begun, or is called off; or was so before."""

    node_id: int
    replicas: int
    """How many replicas the broker has."""


class ReassignmentsFinishedResponse(ResponseMessage, frozen=True, tag="reassignments_finished"):
    """How many have ended."""

    finished: int


class DrainsAdvancedResponse(ResponseMessage, frozen=True, tag="drains_advanced"):
    """How many moves have begun."""

    moves: int


class BrokerUnregisteredResponse(ResponseMessage, frozen=True, tag="broker_unregistered"):
    """The broker is forgotten."""

    node_id: int


class AllocateProducerIdsResponse(ResponseMessage, frozen=True, tag="producer_ids_allocated"):
    """The block: `count` ids from `first_producer_id` on."""

    first_producer_id: int
    count: int


class UnfitReplicaResult(msgspec.Struct, frozen=True):
    """What became of one replica."""

    topic_id: str
    partition: int
    in_isr: bool
    """Still: it is the last member, or nobody else can lead now, or it led and has to follow first,
    so that it can be cut."""
    partition_epoch: int
    """Whoever lets it into the ISR from here on does so at a later one."""


class ReportUnfitReplicasResponse(ResponseMessage, frozen=True, tag="unfit_replicas_reported"):
    """What became of each replica that is one of the sender's and not the only one."""

    results: tuple[UnfitReplicaResult, ...]


Response = (
    ClusterFormedResponse
    | AlterPartitionsResponse
    | RegisterBrokerResponse
    | HeartbeatResponse
    | BrokerFencedResponse
    | AlterPartitionResponse
    | CreateTopicResponse
    | AlterTopicConfigsResponse
    | DeleteTopicResponse
    | ElectPreferredResponse
    | AllocateProducerIdsResponse
    | AddPartitionsResponse
    | AlterReassignmentsResponse
    | ReassignmentsFinishedResponse
    | ReportUnfitReplicasResponse
    | FeatureLevelUpgradedResponse
    | ElectUncleanResponse
    | ReplicationThrottleAlteredResponse
    | DrainChangedResponse
    | DrainsAdvancedResponse
    | BrokerUnregisteredResponse
    | RestoreFinishedResponse
    | PartitionTrimmedResponse
)
"""Any response of the controller."""

decode_command = MessageDecoder[Command](Command, "controller command").decode
"""The command that a broker sent."""

decode_response = MessageDecoder[Response](Response, "controller response").decode
"""The response that a controller sent."""
