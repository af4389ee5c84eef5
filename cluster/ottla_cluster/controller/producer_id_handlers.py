"""The handler that hands producer ids to brokers, a block at a time.

A producer id is never given twice: the metadata log remembers only where the next block begins. A
broker that stops with half a block loses the rest, which 2**63 ids can bear.
"""

from ottla_cluster.controller.broker_handlers import current_incarnation
from ottla_cluster.controller.commands import AllocateProducerIds, AllocateProducerIdsResponse
from ottla_cluster.controller.image import MetadataImage
from ottla_cluster.controller.limits import MAX_PRODUCER_ID, PRODUCER_ID_BLOCK_SIZE
from ottla_cluster.controller.records import MetadataRecord, ProducerIdsAllocated
from ottla_cluster.state_machine.result import Result
from ottla_protocol.errors import InvalidRequestError


def allocate_producer_ids(
    image: MetadataImage, command: AllocateProducerIds
) -> Result[MetadataRecord, AllocateProducerIdsResponse]:
    """Gives a broker the next PRODUCER_ID_BLOCK_SIZE ids.

    Raises:
        StaleBrokerEpochError: the node id is not registered, or to another incarnation.
        InvalidRequestError: the cluster has used up its producer ids.
    """
    current_incarnation(image, command.node_id, command.broker_epoch)
    first = image.next_producer_id
    if first + PRODUCER_ID_BLOCK_SIZE > MAX_PRODUCER_ID:
        raise InvalidRequestError(f"No producer id up to {MAX_PRODUCER_ID} is left.")
    allocated = ProducerIdsAllocated(
        node_id=command.node_id,
        broker_epoch=command.broker_epoch,
        next_producer_id=first + PRODUCER_ID_BLOCK_SIZE,
    )
    return Result((allocated,), AllocateProducerIdsResponse(first, PRODUCER_ID_BLOCK_SIZE))
