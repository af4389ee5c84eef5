"""Handlers that take a broker out of the cluster: drain it, call that off, forget it.

A drain is a fact of the metadata: the node id gets no new replicas, whichever process holds it and
whoever is the controller. The controller moves what it has by reassignments, a bounded number at a
time, and partitions that come to need it later (one whose reassignment an operator calls off) are
moved like the first. When nothing is left the broker may be stopped and unregistered.
"""

from itertools import islice
from typing import TYPE_CHECKING

from ottla_cluster.controller.commands import (
    AdvanceDrains,
    BrokerUnregisteredResponse,
    CancelDrain,
    DrainBroker,
    DrainChangedResponse,
    DrainsAdvancedResponse,
    UnregisterBroker,
)
from ottla_cluster.controller.drain_planning import (
    begins_at_once,
    is_moving,
    misplaced,
    plan_moves,
    replicas_on,
    wanted_replicas,
)
from ottla_cluster.controller.features import BROKER_DRAINS, require
from ottla_cluster.controller.image import BrokerRegistration, BrokerState, MetadataImage
from ottla_cluster.controller.limits import MAX_DRAIN_MOVES, MAX_REASSIGNMENTS
from ottla_cluster.controller.reassignment_handlers import (
    begin_reassignment,
    call_off_reassignment,
)
from ottla_cluster.controller.records import (
    BrokerDrainBegun,
    BrokerDrainCancelled,
    BrokerUnregistered,
    MetadataRecord,
)
from ottla_cluster.state_machine.result import Result
from ottla_protocol.counted_nouns import counted
from ottla_protocol.errors import (
    ConflictError,
    InvalidReplicaAssignmentError,
    InvalidReplicationFactorError,
    NotFoundError,
)

if TYPE_CHECKING:
    from random import Random


def drain_broker(
    image: MetadataImage, command: DrainBroker
) -> Result[MetadataRecord, DrainChangedResponse]:
    """Begins a drain; again it changes nothing.

    Raises:
        NotFoundError: no broker of that id is registered.
        InvalidReplicationFactorError: too few brokers would remain for one of its partitions.
        UnsupportedFeatureLevelError: the cluster's feature level is below that of drains.
    """
    require(image, BROKER_DRAINS)
    broker = _registered(image, command.node_id)
    replicas = replicas_on(image, broker.node_id)
    response = DrainChangedResponse(broker.node_id, replicas)
    if broker.node_id in image.drains:
        return Result((), response)
    _check_room_elsewhere(image, broker.node_id)
    return Result((BrokerDrainBegun(broker.node_id, replicas),), response)


def cancel_drain(
    image: MetadataImage, command: CancelDrain
) -> Result[MetadataRecord, DrainChangedResponse]:
    """Calls a drain off, and the moves away from the broker that are under way; none is an answer.

    What has moved stays where it is.

    Raises:
        NotFoundError: no broker of that id is registered.
    """
    broker = _registered(image, command.node_id)
    response = DrainChangedResponse(broker.node_id, replicas_on(image, broker.node_id))
    if broker.node_id not in image.drains:
        return Result((), response)
    records: list[MetadataRecord] = [BrokerDrainCancelled(broker.node_id)]
    for _, partition in image.all_partitions():
        if broker.node_id in partition.removing_replicas:
            try:
                records.append(call_off_reassignment(image, partition))
            except InvalidReplicaAssignmentError:
                # Only what was added is in sync, or leads already: it goes on.
                continue
    return Result(tuple(records), response)


def advance_drains(
    image: MetadataImage,
    command: AdvanceDrains,  # noqa: ARG001  it says nothing but that it is time
    random: "Random",
) -> Result[MetadataRecord, DrainsAdvancedResponse]:
    """Begins the next moves while fewer than MAX_DRAIN_MOVES partitions are moving.

    One on its way to a broker that is drained as well gets another target.
    """
    records: list[MetadataRecord] = []
    for move in islice(plan_moves(image, random, room=room_for_moves(image)), MAX_REASSIGNMENTS):
        try:
            records.append(begin_reassignment(image, move.partition, move.target))
        except InvalidReplicaAssignmentError:
            # What its present reassignment has added leads already; that ends first.
            continue
    return Result(tuple(records), DrainsAdvancedResponse(len(records)))


def moves_are_due(image: MetadataImage) -> bool:
    """Whether `advance_drains` may find something to do."""
    if not image.drains:
        return False
    room = room_for_moves(image)
    return any(
        begins_at_once(image, partition, room=room)
        for _, partition in misplaced(image, image.drains)
    )


def room_for_moves(image: MetadataImage) -> int:
    """How many more partitions may begin to move."""
    moving = sum(is_moving(image, partition) for _, partition in image.all_partitions())
    return max(0, MAX_DRAIN_MOVES - moving)


def unregister_broker(
    image: MetadataImage, command: UnregisterBroker
) -> Result[MetadataRecord, BrokerUnregisteredResponse]:
    """Forgets a broker that is gone and has no replicas.

    Raises:
        NotFoundError: no broker of that id is registered.
        ConflictError: it has replicas, or is not fenced.
        UnsupportedFeatureLevelError: the cluster's feature level is below that of drains.
    """
    require(image, BROKER_DRAINS)
    broker = _registered(image, command.node_id)
    replicas = replicas_on(image, broker.node_id)
    if replicas:
        raise ConflictError(
            f"Broker {broker.node_id} has replicas of {counted(replicas, 'partition')}: it must be "
            "drained before it is unregistered."
        )
    if broker.state is not BrokerState.FENCED:
        raise ConflictError(
            f"Broker {broker.node_id} is {broker.state.value}: it must be stopped before it is "
            "unregistered."
        )
    return Result(
        (BrokerUnregistered(broker.node_id, broker.broker_epoch),),
        BrokerUnregisteredResponse(broker.node_id),
    )


def _registered(image: MetadataImage, node_id: int) -> BrokerRegistration:
    broker = image.brokers.get(node_id)
    if broker is None:
        raise NotFoundError(f"Broker {node_id} is not registered.")
    return broker


def _check_room_elsewhere(image: MetadataImage, node_id: int) -> None:
    remaining = [
        broker.node_id for broker in image.brokers_for_replicas() if broker.node_id != node_id
    ]
    for topic, partition in misplaced(image, (node_id,)):
        wanted = wanted_replicas(partition)
        # A replica on a broker that is down for a moment stays where it is.
        staying = {n for n in wanted if n != node_id and n not in image.drains}
        if len(staying.union(remaining)) < len(wanted):
            raise InvalidReplicationFactorError(
                f"Broker {node_id} cannot be drained: {topic.name}-{partition.partition} needs "
                f"{len(wanted)} replicas, and only the brokers {sorted(staying.union(remaining))} "
                "would remain for them. Add a broker, or give the topic fewer replicas."
            )
