"""One entry to all handlers: (image, command, time, randomness) in, records and a response out.

Handlers are pure. They read the speculative image, so they see what earlier commands did even
before it is committed; the runtime holds back each response until what its handler saw is.
"""

from typing import TYPE_CHECKING, assert_never

from ottla_cluster.controller.broker_handlers import (
    fence_broker,
    form_cluster,
    heartbeat,
    register_broker,
)
from ottla_cluster.controller.commands import (
    AddPartitions,
    AdvanceDrains,
    AllocateProducerIds,
    AlterPartition,
    AlterPartitions,
    AlterReassignments,
    AlterReplicationThrottle,
    AlterTopicConfigs,
    BeginRestore,
    CancelDrain,
    Command,
    CreateTopic,
    DeleteTopic,
    DrainBroker,
    ElectPreferred,
    ElectUnclean,
    FenceBroker,
    FinishReassignments,
    FinishRestore,
    FormCluster,
    Heartbeat,
    RegisterBroker,
    ReportUnfitReplicas,
    Response,
    TrimPartition,
    UnregisterBroker,
    UpgradeFeatureLevel,
)
from ottla_cluster.controller.drain_handlers import (
    advance_drains,
    cancel_drain,
    drain_broker,
    unregister_broker,
)
from ottla_cluster.controller.feature_handlers import upgrade_feature_level
from ottla_cluster.controller.image import MetadataImage
from ottla_cluster.controller.isr_batch_handlers import alter_partitions
from ottla_cluster.controller.partition_handlers import alter_partition, elect_preferred
from ottla_cluster.controller.producer_id_handlers import allocate_producer_ids
from ottla_cluster.controller.reassignment_handlers import (
    alter_reassignments,
    finish_handed_over,
    finish_reassignments,
)
from ottla_cluster.controller.records import MetadataRecord
from ottla_cluster.controller.restore_handlers import begin_restore, finish_restore
from ottla_cluster.controller.throttle_handlers import alter_replication_throttle
from ottla_cluster.controller.topic_handlers import (
    add_partitions,
    alter_topic_configs,
    create_topic,
    delete_topic,
)
from ottla_cluster.controller.trim_handlers import trim_partition
from ottla_cluster.controller.unclean_election_handlers import elect_unclean
from ottla_cluster.controller.unfit_replica_handlers import report_unfit_replicas
from ottla_cluster.state_machine.result import Result

if TYPE_CHECKING:
    from random import Random

    from ottla_cluster.controller.config import ControllerConfig


def handle(
    image: MetadataImage,
    command: Command,
    now_ms: int,  # noqa: ARG001  part of every coordinator's signature; no metadata depends on time
    random: "Random",
    config: "ControllerConfig",
) -> Result[MetadataRecord, Response]:
    """Decides one command.

    Args:
        image: what has been appended so far, committed or not.
        command: what is asked.
        now_ms: the time of the decision.
        random: for topic ids and ties in placement.
        config: defaults.

    Raises:
        OttlaError: the command is refused; nothing changes. Each handler names its own.
    """
    # Whatever changes an ISR or a leader may be what a reassignment has waited for.
    return finish_reassignments(image, _decide(image, command, random, config))


def _decide(  # noqa: C901  one case for each command
    image: MetadataImage, command: Command, random: "Random", config: "ControllerConfig"
) -> Result[MetadataRecord, Response]:
    match command:
        case Heartbeat():
            return heartbeat(image, command)
        case AlterPartition():
            return alter_partition(image, command)
        case AlterPartitions():
            return alter_partitions(image, command)
        case RegisterBroker():
            return register_broker(image, command)
        case FenceBroker():
            return fence_broker(image, command)
        case CreateTopic():
            return create_topic(image, command, config, random)
        case AlterTopicConfigs():
            return alter_topic_configs(image, command, config)
        case AddPartitions():
            return add_partitions(image, command, config, random)
        case DeleteTopic():
            return delete_topic(image, command)
        case BeginRestore():
            return begin_restore(image, command, config, random)
        case FinishRestore():
            return finish_restore(image, command)
        case TrimPartition():
            return trim_partition(image, command)
        case ElectPreferred():
            return elect_preferred(image, command.partitions)
        case DrainBroker():
            return drain_broker(image, command)
        case CancelDrain():
            return cancel_drain(image, command)
        case AdvanceDrains():
            return advance_drains(image, command, random)
        case UnregisterBroker():
            return unregister_broker(image, command)
        case ElectUnclean():
            return elect_unclean(image, command)
        case AlterReassignments():
            return alter_reassignments(image, command)
        case FinishReassignments():
            return finish_handed_over(image, command)
        case AlterReplicationThrottle():
            return alter_replication_throttle(image, command)
        case AllocateProducerIds():
            return allocate_producer_ids(image, command)
        case ReportUnfitReplicas():
            return report_unfit_replicas(image, command)
        case FormCluster():
            return form_cluster(image, command)
        case UpgradeFeatureLevel():
            return upgrade_feature_level(image, command)
        case _:
            assert_never(command)
