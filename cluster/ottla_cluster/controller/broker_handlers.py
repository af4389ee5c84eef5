"""Handlers for the life of a broker: registration, heartbeats, fencing, controlled shutdown.

A broker epoch names one incarnation of one process. A restarted process never passes for its
former self, even when it was back before anyone noticed: it may have lost what it had not fsynced.
So a new incarnation first loses, as if it had been fenced, everything that its predecessor led.
"""

from ottla_cluster.controller.commands import (
    BrokerFencedResponse,
    ClusterFormedResponse,
    FenceBroker,
    FormCluster,
    Heartbeat,
    HeartbeatResponse,
    RegisterBroker,
    RegisterBrokerResponse,
)
from ottla_cluster.controller.directory_handlers import directory_told
from ottla_cluster.controller.elections import (
    broker_drains,
    broker_fenced,
    broker_fills,
    broker_unfenced,
)
from ottla_cluster.controller.features import BROKER_DIRECTORIES, is_enabled
from ottla_cluster.controller.image import BrokerRegistration, BrokerState, MetadataImage
from ottla_cluster.controller.limits import MAX_BROKERS, MAX_NAME_LENGTH, MAX_URL_LENGTH
from ottla_cluster.controller.records import (
    BrokerDirectoryTold,
    BrokerDiskChanged,
    BrokerDraining,
    BrokerFenced,
    BrokerRegistered,
    BrokerUnfenced,
    ClusterFormed,
    MetadataRecord,
    PartitionChanged,
)
from ottla_cluster.state_machine.result import Result
from ottla_protocol.errors import (
    ControllerNotAvailableError,
    InconsistentClusterIdError,
    InvalidRequestError,
    StaleBrokerEpochError,
    UnsupportedFeatureLevelError,
)


def form_cluster(
    image: MetadataImage, command: FormCluster
) -> Result[MetadataRecord, ClusterFormedResponse]:
    """Forms the cluster, once; again it only checks the id.

    Raises:
        InconsistentClusterIdError: the log belongs to another cluster.
    """
    if image.cluster_id is None:
        record = ClusterFormed(command.cluster_id, command.feature_level)
        return Result((record,), ClusterFormedResponse(record.cluster_id, record.feature_level))
    _check_cluster_id(image, command.cluster_id)
    return Result((), ClusterFormedResponse(image.cluster_id, image.feature_level))


def register_broker(
    image: MetadataImage, command: RegisterBroker
) -> Result[MetadataRecord, RegisterBrokerResponse]:
    """Gives a process its broker epoch; fenced at first.

    The same incarnation again gets the same epoch, so a lost response can be asked for again. That
    no *other* live process holds the node id is the active controller's check: it knows heartbeats.

    Raises:
        ControllerNotAvailableError: the cluster is not formed yet.
        InconsistentClusterIdError: the process belongs to another cluster.
        InvalidRequestError: a field is out of range, or the cluster is full.
        UnsupportedFeatureLevelError: the cluster has gone beyond the process's version, or the
            process does not tell what it has to at the cluster's level.
    """
    _check_cluster_id(image, command.cluster_id)
    if command.latest_feature_level < image.feature_level:
        raise UnsupportedFeatureLevelError(
            f"The cluster is at feature level {image.feature_level}; the version of broker "
            f"{command.node_id} supports levels up to {command.latest_feature_level}."
        )
    if is_enabled(image, BROKER_DIRECTORIES) and not command.directory_id:
        raise UnsupportedFeatureLevelError(
            f"The cluster is at feature level {image.feature_level}: broker {command.node_id} must "
            "tell the id of its data directory."
        )
    _check_registration_fields(command)
    former = image.brokers.get(command.node_id)
    if former is None and len(image.brokers) >= MAX_BROKERS:
        raise InvalidRequestError(f"The cluster has its maximum of {MAX_BROKERS} brokers.")
    if former is not None and (former.incarnation_id, former.url, former.rack) == (
        command.incarnation_id,
        command.url,
        command.rack,
    ):
        if former.directory_id:
            return Result((), RegisterBrokerResponse(former.broker_epoch))
        # It registered before the feature level was raised.
        told = BrokerDirectoryTold(former.node_id, former.broker_epoch, command.directory_id)
        return Result(
            tuple(directory_told(image, former, told, ())),
            RegisterBrokerResponse(former.broker_epoch),
        )
    registered = BrokerRegistered(
        node_id=command.node_id,
        broker_epoch=image.next_broker_epoch,
        incarnation_id=command.incarnation_id,
        url=command.url,
        rack=command.rack,
    )
    left = _leave_everything(image, command.node_id)
    told = BrokerDirectoryTold(registered.node_id, registered.broker_epoch, command.directory_id)
    former_directory_id = "" if former is None else former.directory_id
    is_replaced = is_enabled(image, BROKER_DIRECTORIES) and former_directory_id != told.directory_id
    return Result(
        (*left, registered, *directory_told(image, former, told, left)),
        RegisterBrokerResponse(registered.broker_epoch, former_directory_id if is_replaced else ""),
    )


def heartbeat(
    image: MetadataImage, command: Heartbeat
) -> Result[MetadataRecord, HeartbeatResponse]:
    """Unfences a broker that has caught up; drains one that wants to shut down or has no room.

    The answer names the version that it was decided on. Where it has to wait for a commit,
    `ActiveController.committed` names the one that has what this heartbeat changed.

    Raises:
        StaleBrokerEpochError: the node id is not registered, or to another incarnation.
    """
    broker = current_incarnation(image, command.node_id, command.broker_epoch)
    if broker.state is BrokerState.FENCED:
        if command.draining or command.applied_version < broker.fenced_version:
            return Result(
                (),
                HeartbeatResponse(
                    fenced=True, version=image.version, may_shut_down=command.draining
                ),
            )
        return Result(
            (
                BrokerUnfenced(broker.node_id, broker.broker_epoch),
                *_disk_changed(broker, command.is_full),
                *_returns(image, broker.node_id),
            ),
            HeartbeatResponse(fenced=False, version=image.version, may_shut_down=False),
        )
    if not command.draining:
        return Result(
            _disk_told(image, broker, is_full=command.is_full),
            HeartbeatResponse(fenced=False, version=image.version, may_shut_down=False),
        )
    return _drain(image, broker)


def fence_broker(
    image: MetadataImage, command: FenceBroker
) -> Result[MetadataRecord, BrokerFencedResponse]:
    """Takes from a broker everything that another can have.

    Raises:
        StaleBrokerEpochError: the node id is not registered, or to another incarnation.
    """
    broker = current_incarnation(image, command.node_id, command.broker_epoch)
    if broker.state is BrokerState.FENCED:
        return Result((), BrokerFencedResponse(was_fenced_before=True))
    return Result(
        (
            *_leave_everything(image, broker.node_id),
            BrokerFenced(broker.node_id, broker.broker_epoch),
        ),
        BrokerFencedResponse(was_fenced_before=False),
    )


def current_incarnation(
    image: MetadataImage, node_id: int, broker_epoch: int
) -> BrokerRegistration:
    """The registration of exactly this incarnation.

    Raises:
        StaleBrokerEpochError: the node id is not registered, or to another incarnation.
    """
    broker = image.brokers.get(node_id)
    if broker is None:
        raise StaleBrokerEpochError(f"Broker {node_id} is not registered.")
    if broker.broker_epoch != broker_epoch:
        raise StaleBrokerEpochError(
            f"Broker {node_id} has the epoch {broker.broker_epoch}, not {broker_epoch}."
        )
    return broker


def _drain(
    image: MetadataImage, broker: BrokerRegistration
) -> Result[MetadataRecord, HeartbeatResponse]:
    """Hands over what another active in-sync replica can lead now.

    The broker may stop once every partition that it still leads has no other active replica: one
    that is active but not in sync may yet catch up, so it is worth the driver's short wait.
    """
    records: list[MetadataRecord] = []
    if broker.state is BrokerState.ACTIVE:
        records.append(BrokerDraining(broker.node_id, broker.broker_epoch))
    may_shut_down = True
    for topic, partition in image.all_partitions():
        change = broker_drains(image, topic, partition, broker.node_id)
        records.extend(change)
        leader = change[0].leader if change else partition.leader
        if leader == broker.node_id and any(
            image.is_active(other) for other in partition.replicas if other != broker.node_id
        ):
            may_shut_down = False
    return Result(
        tuple(records),
        HeartbeatResponse(fenced=False, version=image.version, may_shut_down=may_shut_down),
    )


def _disk_told(
    image: MetadataImage, broker: BrokerRegistration, *, is_full: bool
) -> tuple[MetadataRecord, ...]:
    """What follows from what an active broker says of its disk.

    While it is full each heartbeat looks again: others may have got room, or come into the ISR.
    What it gave away comes back by the election of preferred leaders, which waits for its own
    time, so that a disk at its limit does not move leaderships back and forth.
    """
    changed = _disk_changed(broker, is_full)
    if not is_full:
        return changed
    return (
        *changed,
        *(
            change
            for topic, partition in image.all_partitions()
            for change in broker_fills(image, topic, partition, broker.node_id)
        ),
    )


def _disk_changed(broker: BrokerRegistration, is_full: bool) -> tuple[BrokerDiskChanged, ...]:  # noqa: FBT001  what the broker says
    if is_full == broker.is_full:
        return ()
    return (BrokerDiskChanged(broker.node_id, broker.broker_epoch, is_full),)


def _leave_everything(image: MetadataImage, node_id: int) -> tuple[PartitionChanged, ...]:
    return tuple(
        change
        for _, partition in image.all_partitions()
        for change in broker_fenced(image, partition, node_id)
    )


def _returns(image: MetadataImage, node_id: int) -> tuple[PartitionChanged, ...]:
    return tuple(
        change
        for _, partition in image.all_partitions()
        for change in broker_unfenced(partition, node_id)
    )


def _check_cluster_id(image: MetadataImage, cluster_id: str) -> None:
    if image.cluster_id is None:
        raise ControllerNotAvailableError("The cluster is not formed yet.")
    if image.cluster_id != cluster_id:
        raise InconsistentClusterIdError(
            f"This is the cluster {image.cluster_id!r}, the caller belongs to {cluster_id!r}."
        )


def _check_registration_fields(command: RegisterBroker) -> None:
    if command.node_id < 1:
        raise InvalidRequestError(f"node_id must be positive, not {command.node_id}.")
    if not 0 < len(command.url) <= MAX_URL_LENGTH:
        raise InvalidRequestError(f"url must have 1..{MAX_URL_LENGTH} characters.")
    if not 0 < len(command.incarnation_id) <= MAX_NAME_LENGTH:
        raise InvalidRequestError(f"incarnation_id must have 1..{MAX_NAME_LENGTH} characters.")
    if len(command.directory_id) > MAX_NAME_LENGTH:
        raise InvalidRequestError(f"directory_id must have at most {MAX_NAME_LENGTH} characters.")
    if len(command.rack) > MAX_NAME_LENGTH:
        raise InvalidRequestError(f"rack must have at most {MAX_NAME_LENGTH} characters.")
